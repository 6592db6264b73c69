"""A broker that goes away in the middle of traffic: producer and worker go on with the next one of their list, still sealed."""

import contextlib
import json
import subprocess
import sys
import threading

import redis as redis_py
from support.servers import redis_server, wait_for
from support.workers import WORKER, place, worker

import taskseal


def test_both_ends_go_on_with_the_next_server(tmp_path, token, redis):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with contextlib.ExitStack() as stop_first, redis_server(tmp_path / "second") as second:
        first = stop_first.enter_context(redis_server(tmp_path / "first"))
        where = place(
            tmp_path, token.identity, f"sealed-redis://{first}/0;sealed-redis://{second}/0", f"sealed-redis://{redis}/1",
            key=token.uri, encryption_keys=[taskseal.Fernet.generate_key().decode()], SOFTHSM2_CONF=token.configuration,
        )  # fmt: skip
        seen = watched(second)
        with worker(where, "-P", "prefork", "-c", "1") as running, producer(where) as sent:
            wait_for(lambda: len(where.witness) >= 5, 60)
            assert f"@{first}/0" in running.log
            stop_first.close()
            before = max(sent())
            wait_for(lambda: len([number for number in sent() if number > before]) >= 10, 90)
            # What was sent to the second server is run, all of it; what lay on the first went with it.
            wanted = {f"secret line {number}" for number in sorted(sent())[-5:]}
            wait_for(lambda: wanted <= set(where.witness), 90)
            assert "refused:" not in running.log and f"Connected to sealed-redis://:**@{second}/0" in running.log
            assert len(where.witness) == len(set(where.witness))
        pushes = [arguments for arguments in seen if arguments[0] == b"LPUSH" and arguments[1].startswith(b"celery")]
        pushed = [json.loads(arguments[2]) for arguments in pushes]
        assert len(pushed) >= 5
        assert {message["content-type"] for message in pushed} == {"application/x-taskseal"}
        told = [part for arguments in seen for part in arguments if b"secret line" in part or b"sealed_app" in part]
        assert told == []


@contextlib.contextmanager
def producer(where):
    """Sends all the time. Yields what says the numbers that were sent."""
    path = where.directory / "sent"
    with open(where.directory / "producer.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(WORKER / "produce.py"), str(path)],
            env=where.environment, cwd=where.directory, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield lambda: [int(line) for line in path.read_text().split("\n")[:-1]]
    finally:
        process.terminate()
        process.wait(20)


def watched(address):
    """A list that grows with the commands that a Redis gets, until it ends."""
    seen = []
    connection = redis_py.Redis.from_url(f"redis://{address}/0", socket_timeout=None).connection_pool.get_connection()
    connection.send_command("MONITOR")
    assert connection.read_response() == b"OK"

    def read():
        with contextlib.suppress(redis_py.ConnectionError, OSError):
            while True:
                seen.append(parts(connection.read_response()))

    threading.Thread(target=read, daemon=True).start()
    return seen


def parts(line):
    """The arguments of a command, as MONITOR writes them: quoted, with escapes."""
    quoted = line.partition(b"] ")[2][1:-1].split(b'" "')
    return [argument.decode("unicode_escape").encode("latin-1") for argument in quoted]
