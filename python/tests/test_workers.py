"""Real workers over real brokers, with keys on a token, in every pool: what Celery offers works sealed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import redis as redis_py
from celery import Celery
from conftest import command, tls_files
from support.log import refusals_in
from support.servers import rabbitmq_server, redis_server, wait_for
from support.workers import Worker, client, place, worker

import taskseal

POOLS = {
    "prefork": ["-P", "prefork", "-c", "2"],
    "threads": ["-P", "threads", "-c", "4"],
    "solo": ["-P", "solo"],
}


@pytest.fixture
def flushed(redis):
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    return redis


def sealed(tmp_path, token, broker, redis, **options):
    """A place whose key is on the token, with encryption."""
    key = taskseal.Fernet.generate_key().decode()
    return place(
        tmp_path, token.identity, broker, f"sealed-redis://{redis}/1", key=token.uri,
        encryption_keys=[key], SOFTHSM2_CONF=token.configuration, **options,
    )  # fmt: skip


@pytest.fixture(params=["redis", "amqp"])
def broker(request, redis):
    if request.param == "redis":
        request.getfixturevalue("flushed")
        return f"sealed-redis://{redis}/0"
    return f"sealed-amqp://{request.getfixturevalue('rabbitmq')}//"


@pytest.mark.parametrize("pool", POOLS)
def test_everything_that_celery_offers(tmp_path, token, broker, redis, pool):
    where = sealed(tmp_path, token, broker, redis)
    with worker(where, *POOLS[pool], "-Q", "celery,second", "-E") as running:
        try:
            print(client(where, "features.py", seconds=170))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{running.log[-4000:]}") from None
    assert "refused:" not in running.log


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_task_survives_a_worker_that_is_killed(tmp_path, token, broker, redis, pool):
    """acks_late: the broker gives the unacknowledged message out again, and it is no repetition."""
    visibility = {} if broker.startswith("sealed-amqp") else {"TEST_VISIBILITY": "1"}
    where = sealed(tmp_path, token, broker, redis, **visibility)
    first = Worker(where, *POOLS[pool], name="first").ready()
    try:
        client(where, "send.py", "slow", "late", "3")
        wait_for(lambda: "late None" in where.witness or "late False" in where.witness, 20)
    finally:
        first.kill()
        first.stop()
    # Over Redis, a worker that starts takes up what has been unacknowledged for longer than the visibility timeout.
    time.sleep(1.5)
    with worker(where, *POOLS[pool], name="second") as second:
        wait_for(lambda: "late done" in where.witness, 40)
        assert "refused:" not in second.log
    assert "late True" in where.witness


def test_a_warm_shutdown_loses_nothing(tmp_path, token, broker, redis):
    where = sealed(tmp_path, token, broker, redis)
    first = Worker(where, *POOLS["prefork"], name="first").ready()
    client(where, "send.py", "slow", "busy", "2")
    client(where, "send.py", "slow", "busy", "2")
    for number in range(2):
        client(where, "send.py", "run", f"prefetched {number}")
    first.stop(signal.SIGTERM)
    assert where.witness.count("busy done") == 2
    with worker(where, *POOLS["prefork"], name="second") as second:
        wait_for(lambda: {"prefetched 0", "prefetched 1"} <= set(where.witness), 30)
        assert "refused:" not in second.log
    assert where.witness.count("prefetched 0") == 1


def test_children_that_are_replaced(tmp_path, token, flushed, redis):
    """Each child opens the token for itself: replaced children and those of autoscale too."""
    where = sealed(tmp_path, token, f"sealed-redis://{redis}/0", redis)
    for arguments in (["-c", "2", "--max-tasks-per-child", "2"], ["--autoscale", "3,1"]):
        with worker(where, "-P", "prefork", *arguments, "-E", name=f"worker{len(arguments)}") as running:
            seen = client(where, "send.py", "pids", "16").split()
            assert len(seen) == 16
            if "--max-tasks-per-child" in arguments:
                assert len(set(seen)) >= 8
            assert "refused:" not in running.log and "Traceback" not in running.log


def test_beat_and_detached_workers(tmp_path, token, flushed, redis):
    where = sealed(tmp_path, token, f"sealed-redis://{redis}/0", redis)
    with worker(where, "-P", "prefork", "-c", "1", "--beat", "-s", str(tmp_path / "schedule"), app="beat_app"):
        wait_for(lambda: where.witness.count("beat") >= 2, 30)
    pidfile = tmp_path / "detached.pid"
    subprocess.run(
        [sys.executable, "-m", "celery", "-A", "sealed_app", "worker", "-D", "-c", "1", "-n", "detached@localhost",
         "--pidfile", str(pidfile), "--logfile", str(tmp_path / "detached.log")],
        env=where.environment, cwd=where.directory, check=True, timeout=60,
    )  # fmt: skip
    try:
        assert client(where, "send.py", "pids", "2").split()
    finally:
        pid = int(wait_for(lambda: pidfile.read_text(), 10))
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not pidfile.exists(), 30)


def test_hostile_messages_do_not_stop_a_worker(tmp_path, token, flushed, redis, bob):
    """Everything at once, with good messages in between: these run, and the worker goes on."""
    where = sealed(tmp_path, token, f"sealed-redis://{redis}/0", redis)
    store = redis_py.Redis.from_url(f"redis://{redis}/0")
    results = redis_py.Redis.from_url(f"redis://{redis}/1")
    client(where, "send.py", "run", "stolen")
    stolen = store.lindex("celery\x06\x163", 0)
    garbage = [b"\xff", b"{", b"[" * 100_000, b"7", b"null", b"{}", b'{"body": 1}', stolen.replace(b"gAAA", b"hAAA", 1),
               stolen[:-20], b'{"__type__": "datetime", "__value__": 7}',
               b'{"body": "W10=", "content-type": "application/json", "content-encoding": "utf-8", "headers": {"task": "run",'
               b' "id": "x", "compression": "zlib"}, "properties": {"delivery_tag": "x", "delivery_info": {}}}',
               b'{"body": [["x"], {}, {}], "content-type": "application/data", "headers": {"task": "run", "id": "x"},'
               b' "properties": {"delivery_tag": "x", "delivery_info": {"exchange": "", "routing_key": "celery"}}}']  # fmt: skip
    with worker(where, "-P", "prefork", "-c", "1", "-E") as running:
        for number, value in enumerate(garbage):
            store.lpush("celery", value, stolen)
            store.publish("/0.celery.pidbox", value)
            store.publish("/0.celeryev/worker.heartbeat", value)
            if number % 4 == 0:
                client(where, "send.py", "run", f"good {number}")
        wait_for(lambda: {"good 0", "good 4", "good 8"} <= set(where.witness), 30)
        wait_for(lambda: store.llen("celery") == 0, 20)
        assert where.witness.count("stolen") == 1 and "x" not in where.witness
        assert running.process.poll() is None
        # Few of them have a line of their own; the others are counted, and said soon.
        wait_for(lambda: refusals_in(running.log) >= 2 * len(garbage), 30)
        for reason in ("malformed", "replayed", "not-sealed", "token"):
            assert f"reason={reason}" in running.log
        # A result under the key of another task, and things that are no results: the client does not take them.
        out = client(where, "send.py", "two-results").split()
        swapped = results.get(f"celery-task-meta-{out[0]}")
        for value in (swapped, b"garbage", b'{"status": "SUCCESS", "result": 7, "task_id": "' + out[1].encode() + b'"}'):
            results.set(f"celery-task-meta-{out[1]}", value)
            assert client(where, "send.py", "state", out[1]).strip() == "PENDING"
        assert client(where, "send.py", "state", out[0]).strip() == "SUCCESS"
        assert client(where, "send.py", "pids", "2").split()


def test_a_worker_takes_nothing_that_is_not_sealed(tmp_path, token, broker, redis):
    """Tasks, remote control, and the results that Celery stores for tasks it does not know."""
    where = sealed(tmp_path, token, broker, redis)
    results = redis_py.Redis.from_url(f"redis://{redis}/1")
    # Debugging shows each of the refusals.
    with worker(where, "-P", "prefork", "-c", "1", "-E", "-l", "debug") as running:
        plain = Celery("plain", broker=broker.removeprefix("sealed-"), set_as_current=False)
        for number in range(3):
            plain.send_task("run", ["unsealed"], task_id="known-task")
            plain.send_task("no.such.task", task_id="unknown-task")
            plain.control.shutdown()
            client(where, "send.py", "run", f"good {number}")
        wait_for(lambda: {"good 0", "good 1", "good 2"} <= set(where.witness), 30)
        wait_for(lambda: refusals_in(running.log, "not-sealed") == 9, 30)
        assert len(where.witness) == 3 and running.process.poll() is None
        assert not results.exists("celery-task-meta-known-task", "celery-task-meta-unknown-task")


def test_encryption_with_keys_on_a_token(tmp_path, token, flushed, redis):
    """Signing and encryption on the token, in a worker that forks and replaces its children."""
    uri = token.uri.replace("object=worker", "object=worker-fernet")
    made = subprocess.run([command(), "fernet", "key", "generate", "--key", uri], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    where = sealed(tmp_path, token, f"sealed-redis://{redis}/0", redis, TEST_ENCRYPTION_KEYS=uri)
    with worker(where, "-P", "prefork", "-c", "2", "--max-tasks-per-child", "3", "-Q", "celery,second", "-E") as running:
        client(where, "features.py", "simple", "grouped", "chorded", "subtask", "exception_as_result", "inspect_ping", "events")
    assert "refused:" not in running.log


def test_results_through_the_broker(tmp_path, token, broker, redis):
    where = sealed(tmp_path, token, broker, redis)
    where.environment["TEST_BACKEND"] = "rpc://"
    with worker(where, *POOLS["prefork"], "-Q", "celery,second", "-E") as running:
        client(where, "features.py", "simple", "chained", "grouped", "exception_as_result", "large_argument")
    assert "refused:" not in running.log


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_over_tls(tmp_path, token, redis, kind):
    """Broker and results over TLS, with certificates that are compared: one run of what Celery offers."""
    tls = tls_files(tmp_path / "tls", "127.0.0.1", "localhost")
    (tmp_path / "redis").mkdir()
    (tmp_path / "rabbitmq").mkdir()
    with contextlib.ExitStack() as servers:
        store = servers.enter_context(redis_server(tmp_path / "redis", tls=tls))
        query = f"ssl_cert_reqs=required&ssl_ca_certs={tls}/ca.pem"
        broker = f"sealed-rediss://{store}/0?{query}"
        if kind == "amqp":
            broker = f"sealed-amqps://{servers.enter_context(rabbitmq_server(tmp_path / 'rabbitmq', tls=tls))}//"
        where = sealed(tmp_path, token, broker, redis, TEST_CA=f"{tls}/ca.pem")
        where.environment["TEST_BACKEND"] = f"sealed-rediss://{store}/1?{query}"
        with worker(where, *POOLS["prefork"], "-Q", "celery,second", "-E") as running:
            client(where, "features.py", "simple", "chained", "chorded", "exception_as_result", "inspect_ping", "events")
        assert "refused:" not in running.log


def test_a_signer_that_is_taken_away_while_the_worker_runs(tmp_path, token, flushed, redis, bob):
    where = sealed(tmp_path, token, f"sealed-redis://{redis}/0", redis, trusted=[bob])
    (tmp_path / "bob").mkdir()
    theirs = {**where.environment, "TEST_KEY": str(tmp_path / "bob" / "key.pem"),
              "TEST_CERTIFICATE": str(tmp_path / "bob" / "cert.pem")}  # fmt: skip
    (tmp_path / "bob" / "key.pem").write_text(bob.key_pem)
    (tmp_path / "bob" / "cert.pem").write_text(bob.pem)
    bobs = replace(where, environment=theirs)
    with worker(where, "-P", "solo") as running:
        client(bobs, "send.py", "run", "trusted")
        wait_for(lambda: "trusted" in where.witness, 20)
        (tmp_path / "trusted" / "bob.pem").unlink()
        time.sleep(0.6)
        (tmp_path / "store2").mkdir()
        shutil.copy(tmp_path / "certificate.pem", tmp_path / "store2")
        (tmp_path / "store2" / "bob.pem").write_text(bob.pem)
        theirs["TEST_STORE"] = str(tmp_path / "store2")
        client(bobs, "send.py", "run", "not any more")
        wait_for(lambda: "reason=unknown-signer" in running.log, 20)
        client(where, "send.py", "run", "still here")
        wait_for(lambda: "still here" in where.witness, 20)
    assert "not any more" not in where.witness


def test_an_application_with_a_plain_url_is_refused(tmp_path, alice):
    for broker, backend in (
        ("redis://127.0.0.1/0", "sealed-redis://127.0.0.1/0"),
        ("sealed-redis://127.0.0.1/0;redis://127.0.0.1/0", "sealed-redis://127.0.0.1/0"),
        ("sealed-redis://127.0.0.1/0", "redis://127.0.0.1/0"),
    ):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        with pytest.raises(AssertionError, match="ImproperlyConfigured.*sealed"):
            client(place(directory, alice, broker, backend), "send.py", "run", "x")
