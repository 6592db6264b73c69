"""`sealed-filesystem`: things that are no files in the place of messages and tables. None is waited for, followed or taken."""

import fcntl
import os
import socket
import time

import kombu
import pytest
from support.transports import connect, place_of, publish, sealing_of, tasks

from taskseal.celery import transport

transport.register()


def odd_things(folder, name, outside):
    """Puts something that is no file under names that sort before those of messages; `name` has a place for a number."""

    def path(number):
        return folder / name.format(number)

    path(0).mkdir()
    (path(1)).mkdir()
    (path(1) / "inside").write_text("x")
    os.mkfifo(path(2))
    path(3).symlink_to("/dev/zero")
    path(4).symlink_to(outside)
    path(5).symlink_to(folder / "nothing")
    path(6).symlink_to(path(6))
    with socket.socket(socket.AF_UNIX) as listener:
        # Names of sockets have at most 108 characters.
        here = os.getcwd()
        os.chdir(folder)
        listener.bind("s")
        os.chdir(here)
        (folder / "s").rename(path(7))
    path(8).write_text("x")
    path(8).chmod(0)
    return 9


@pytest.fixture
def where(request, tmp_path):
    return place_of("filesystem", request, tmp_path)


def test_things_that_are_no_messages(where, tmp_path, alice, caplog):
    """All good messages run, each call comes back, and what is no file is where it was, which is said once."""
    outside = tmp_path / "outside"
    outside.write_text("somebody else's")
    odd_things(tmp_path / "queue", "0_{0}.tasks.msg", outside)
    (tmp_path / "queue" / "0_a.tasks.msg").write_bytes(b"\xff\xfe")
    (tmp_path / "queue" / "0_b.tasks.msg").write_text("[" * 50_000)
    (tmp_path / "queue" / "0_c.tasks.msg").touch()
    sealing = sealing_of(alice, [alice], max_len=10_000)
    with open(tmp_path / "queue" / "0_d.tasks.msg", "wb") as huge:
        huge.truncate(1 << 40)
    os.link(outside, tmp_path / "queue" / "0_e.tasks.msg")
    got = []
    with connect(where, sealing) as connection:
        for number in range(3):
            publish(connection, [number])
        started = time.monotonic()
        with connection.Consumer([tasks()], on_message=lambda message: (got.append(message.payload[0]), message.ack())):
            for _ in range(15):
                try:
                    connection.drain_events(timeout=0.1)
                except socket.timeout:
                    pass
        assert time.monotonic() - started < 20
        assert tasks()(connection.default_channel).get() is None
        assert tasks()(connection.default_channel).purge() >= 0
    assert got == [0, 1, 2]
    # A link to a file is that file: only its name here is gone.
    assert outside.read_text() == "somebody else's"
    assert sealing.refusals == {"malformed": 3 + 1 + (os.geteuid() == 0), "too-large": 1}
    assert caplog.text.count("0_2.tasks.msg") == 1


def test_things_that_are_no_tables(where, tmp_path, alice, caplog):
    """Declaring and publishing comes back, and what this connection declared leads to its queue."""
    outside = tmp_path / "outside"
    outside.write_text("somebody else's")
    count = odd_things(tmp_path / "control", "e{0}.exchange", outside)
    texts = ["", "x", "{}", "7", "[" * 100_000, "[[[]]]", '[["key", "", "tasks"], 7]', "x" * 5_000_000]
    for number, text in enumerate(texts):
        (tmp_path / "control" / f"e{count + number}.exchange").write_text(text)
    with connect(where, sealing_of(alice, [alice])) as connection:
        started = time.monotonic()
        for number in range(count + len(texts)):
            for kind in ("direct", "topic", "fanout"):
                exchange = kombu.Exchange(f"e{number}", type=kind)
                queue = kombu.Queue(f"q{number}-{kind}", exchange, routing_key="key")
                connection.transport.state.exchanges.pop(f"e{number}", None)
                publish(connection, queue=queue)
                assert connection.default_channel._size(queue.name) == 1
                connection.default_channel.queue_delete(queue.name)
        assert time.monotonic() - started < 30
    assert outside.read_text() == "somebody else's" and (tmp_path / "control" / "e0.exchange").is_dir()


def test_a_table_that_somebody_keeps_locked(where, tmp_path, alice, monkeypatch):
    monkeypatch.setattr("taskseal.celery.transport.filesystem.LOCK_TIMEOUT", 0.2)
    path = tmp_path / "control" / "the-exchange.exchange"
    path.touch()
    with open(path) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with connect(where, sealing_of(alice, [alice])) as connection:
            publish(connection)
            assert connection.default_channel._size("tasks") == 1


def test_two_consumers_take_each_message_once(where, tmp_path, alice):
    sealing = sealing_of(alice, [alice])
    with connect(where, sealing) as one, connect(where, sealing) as two:
        publish(one)
        first = one.default_channel._get("tasks")
        # It is locked while the first opens it, and gone when that is done.
        assert tasks()(two.default_channel).get() is None
        assert one.default_channel._open(first, "tasks", True) is not None
        assert tasks()(two.default_channel).get() is None
    assert not list((tmp_path / "queue").iterdir())


def test_a_folder_that_is_away(where, tmp_path, alice, caplog):
    with connect(where, sealing_of(alice, [alice])) as connection:
        publish(connection)
        (tmp_path / "queue").rename(tmp_path / "elsewhere")
        assert tasks()(connection.default_channel).get() is None
        assert "cannot be read" in caplog.text
        with pytest.raises(connection.channel_errors):
            publish(connection)
        (tmp_path / "elsewhere").rename(tmp_path / "queue")
        assert tasks()(connection.default_channel).get(accept=["json"]) is not None


@pytest.mark.parametrize("name", ["a/b", "../outside", "a\0b"])
def test_names_of_queues_stay_in_the_folder(where, tmp_path, alice, name):
    with connect(where, sealing_of(alice, [alice])) as connection:
        with pytest.raises(connection.channel_errors):
            connection.Producer().publish("x", routing_key=name)
    assert not list((tmp_path / "queue").iterdir())
