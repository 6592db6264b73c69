"""Tables of bindings at a broker are data that anybody may have written: they lead messages nowhere else, and cost little."""

import json
import logging
import time

import kombu
import pytest
from support.transports import client, connect, place_of, publish, sealing_of, tasks

from taskseal.celery import transport
from taskseal.celery.transport.routing import MAX_QUEUES, queues_of, rows_of
from taskseal.celery.transport.waiting import Pauses, Seldom

transport.register()

#: A pattern that takes Python's regular expressions longer than anybody waits.
EVIL = "^(([a-z])+.)+[A-Z]([a-z])+$"
KEY = "a" * 60


@pytest.mark.parametrize("kind", ["redis", "filesystem"])
def test_patterns_in_a_table_are_not_run(kind, request, tmp_path, alice, redis):
    where = place_of(kind, request, tmp_path)
    exchange = kombu.Exchange("events", type="topic")
    queue = kombu.Queue("tasks", exchange, routing_key="#")
    with connect(where, sealing_of(alice, [alice])) as connection:
        queue(connection.default_channel).declare()
        rows = [("#", EVIL, "tasks"), ("a.*", "[", "tasks"), ("b", ".*", "other"), ("#.#.#.#.#." * 30 + "x", ".*", "third")]
        if kind == "redis":
            for row in rows:
                client(redis).sadd("_kombu.binding.events", "\x06\x16".join(row))
        else:
            (tmp_path / "control" / "events.exchange").write_text(json.dumps(rows))
        started = time.monotonic()
        connection.Producer().publish("x", exchange=exchange, routing_key=KEY)
        assert time.monotonic() - started < 5
        # By the routing keys of the rows, not by their patterns.
        assert [connection.default_channel._size(name) for name in ("tasks", "other", "third")] == [1, 0, 0]


@pytest.mark.parametrize(
    ("kind", "type"),
    # Broadcasts over Redis need no table.
    [("redis", "direct"), ("redis", "topic"), ("filesystem", "direct"), ("filesystem", "topic"), ("filesystem", "fanout")],
)
def test_rows_that_are_none_are_left_out(kind, type, request, tmp_path, alice, redis, caplog):
    where = place_of(kind, request, tmp_path)
    exchange = kombu.Exchange("events", type=type)
    with connect(where, sealing_of(alice, [alice])) as connection:
        kombu.Queue("tasks", exchange, routing_key="key")(connection.default_channel).declare()
        if kind == "redis":
            sep = "\x06\x16"
            bad = ["", "x", sep, sep * 2, "key" + sep + "key", "key" + sep * 5 + "tasks", b"\xff\xfe", "x" * 100_000,
                   "key" + sep + sep + "q" * 5000]  # fmt: skip
            client(redis).sadd("_kombu.binding.events", *bad)
        else:
            bad = [None, 7, [], {}, "key", ["key"], ["key", "", None], ["key", "", ["tasks"]], [1, 2, 3], ["key", "", ""],
                   ["key", "", "../outside"], ["key", "", "a/b"], ["key", "", "a\0b"], ["key", "", "\ud800"],
                   ["key", "", "tasks", "more"], ["key", "", "q" * 5000]]  # fmt: skip
            good = json.loads((tmp_path / "control" / "events.exchange").read_text())
            (tmp_path / "control" / "events.exchange").write_text(json.dumps([*bad, *good]))
        connection.Producer().publish("x", exchange=exchange, routing_key="key")
        channel = connection.default_channel
        assert channel._size("tasks") == 1
        assert [tuple(row)[2] for row in channel.get_table("events")] == ["tasks"]
        # What goes through a table goes on.
        channel.queue_unbind("tasks", "events", "key")
        channel.exchange_delete("events")
    assert sorted(path.name for path in tmp_path.glob("*")) == (["control", "queue"] if kind == "filesystem" else [])
    # Once for a table, however many rows and messages there are.
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_a_row_does_not_multiply_messages(caplog):
    table = rows_of([("key", "", f"q{number}") for number in range(MAX_QUEUES + 500)] * 2, Seldom(), "events")
    assert len(queues_of(table, "direct", "events", "key", Seldom())) == MAX_QUEUES
    assert "leads to 1500 queues" in caplog.text


def test_a_table_that_was_emptied_loses_no_message(redis, alice):
    """A publisher that declared its queue knows where it leads."""
    client(redis).flushall()
    with connect((f"sealed-redis://{redis}/0", {}), sealing_of(alice, [alice])) as connection:
        publish(connection)
        client(redis).delete("_kombu.binding.the-exchange")
        publish(connection)
        assert client(redis).llen("tasks\x06\x163") == 2
        # One that deleted it does not.
        tasks()(connection.default_channel).delete()
        connection.Producer().publish("x", exchange="the-exchange", routing_key="task.key")
        assert client(redis).llen("tasks") == 0


def test_what_is_said_and_paused_has_limits():
    seldom, pauses = Seldom(seconds=0.2, capacity=10), Pauses()
    assert seldom.due("a") and not seldom.due("a")
    for number in range(100):
        seldom.due(number)
        assert len(seldom._said) <= 10
    time.sleep(0.21)
    assert seldom.due("a")
    assert not pauses.on("queue")
    pauses.begin("queue", 0.05)
    assert pauses.on("queue") and not pauses.on("other")
    time.sleep(0.06)
    assert not pauses.on("queue") and not pauses._until
