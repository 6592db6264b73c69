"""Somebody writes something of another type under a key of Redis that a worker uses: that alone waits, and the log says why."""

import logging
import socket

import kombu
import pytest
from support.servers import wait_for
from support.transports import client, connect, publish, sealing_of, tasks

from taskseal.celery import transport

transport.register()

#: How to write each type under a key.
WRITE = {
    "string": lambda store, key: store.set(key, "x"),
    "list": lambda store, key: store.lpush(key, "x"),
    "hash": lambda store, key: store.hset(key, "x", "x"),
    "set": lambda store, key: store.sadd(key, "x"),
    "zset": lambda store, key: store.zadd(key, {"x": 1}),
    "stream": lambda store, key: store.xadd(key, {"x": "x"}),
}

#: The keys that a consumer uses, and the type that each has.
KEYS = {
    "tasks": "list", "tasks\x06\x163": "list", "tasks\x06\x169": "list", "unacked": "hash", "unacked_index": "zset",
    "unacked_mutex": "string", "_kombu.binding.the-exchange": "set", "_kombu.binding_permanent.the-exchange": "set",
    "_kombu.binding_deadlines": "zset",
}  # fmt: skip


@pytest.fixture
def store(redis):
    made = client(redis)
    made.flushall()
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Keys are looked at again in less than the five seconds of operation."""
    monkeypatch.setattr("taskseal.celery.transport.redis.ODD", 0.2)
    monkeypatch.setattr("taskseal.celery.transport.virtual.RETRY", 0.2)


def drain(connection, seconds=1.0):
    try:
        connection.drain_events(timeout=seconds)
    except socket.timeout:
        pass


@pytest.mark.parametrize(("key", "kind"), [(key, kind) for key in KEYS for kind in WRITE if kind != KEYS[key]])
def test_a_consumer_waits_for_a_key_of_another_type(store, redis, alice, caplog, key, kind):
    """Nothing is raised, neither at the start nor later. What does not need the key goes on, and all else when it is gone."""
    caplog.set_level(logging.ERROR)
    sealing = sealing_of(alice, [alice])
    url = f"sealed-redis://{redis}/0", {"visibility_timeout": 3600}
    got = []
    with connect(url, sealing) as sender:
        # Sent before, as a publisher must say that it could not.
        publish(sender, ["other"], queue=tasks("other", "other.key"))
        publish(sender, ["before"], priority=6)
        store.delete(key)
        WRITE[kind](store, key)
        with connect(url, sealing) as connection:
            queues = [tasks("other", "other.key"), tasks()]
            with connection.Consumer(queues, on_message=lambda message: (got.append(message), message.ack())):
                connection.default_channel.qos.restore_visible(interval=1)
                for _ in range(5):
                    drain(connection, 0.2)
                if key not in ("unacked", "unacked_index"):
                    assert sorted(message.payload[0] for message in got) == ["before", "other"]
                if key in KEYS and not key.startswith(("_kombu.binding_d", "_kombu.binding_p", "unacked_mutex")):
                    assert f"the key {key!r} in Redis is a {kind} and must be a {KEYS[key]}" in caplog.text
                if key == "unacked_mutex":
                    assert "'unacked_mutex' in Redis has no end" in caplog.text
                assert len([record for record in caplog.records if repr(key) in record.getMessage()]) <= 1
                store.delete(key)
                publish(sender, ["after"], priority=0)
                wait_for(lambda: drain(connection, 0.2) or len(got) == 3, 20)
                tasks()(connection.default_channel).purge()
    assert sorted(message.payload[0] for message in got) == ["after", "before", "other"]
    assert store.hlen("unacked") == 0 and not sealing.refusals


@pytest.mark.parametrize("key", [key for key in KEYS if "binding" not in key and key != "unacked_mutex"])
def test_a_key_that_changes_its_type_while_messages_are_handled(store, redis, alice, key):
    """Acknowledging, rejecting, giving back and closing raise nothing. What the key does not hold is not lost."""
    sealing = sealing_of(alice, [alice])
    url = f"sealed-redis://{redis}/0", {}
    got = []
    with connect(url, sealing) as connection:
        for number in range(4):
            publish(connection, [number])
        with connection.Consumer([tasks()], on_message=got.append) as consumer:
            wait_for(lambda: drain(connection, 0.2) or len(got) == 4, 20)
            store.delete(key)
            WRITE["stream"](store, key)
            got[0].ack()
            got[1].reject()
            got[2].reject(requeue=True)
            consumer.purge()
            tasks()(connection.default_channel).queue_declare(passive=False)
            store.delete(key)
        # Number 3 was not acknowledged when the connection was closed.
    if key == "unacked":
        # With its key all that was kept there was deleted. The one that was given back is known here.
        assert store.llen("tasks\x06\x163") <= 1
        return
    got.clear()
    with connect(url, sealing) as connection:
        connection.default_channel.qos.visibility_timeout = -1
        connection.default_channel.qos.restore_visible(interval=1)
        with connection.Consumer([tasks()], on_message=got.append):
            wait_for(lambda: drain(connection, 0.2) or {message.payload[0] for message in got} >= {3}, 20)


def test_a_publisher_is_told(store, redis, alice):
    """A message that cannot be put into its queue is not silently gone."""
    with connect((f"sealed-redis://{redis}/0", {}), sealing_of(alice, [alice])) as connection:
        store.set("tasks\x06\x163", "x")
        with pytest.raises(Exception, match="WRONGTYPE"):
            publish(connection)
        # What this connection declared leads to its queue, whatever somebody made of the table.
        store.set("_kombu.binding.the-exchange", "x")
        publish(connection, priority=0)
        assert store.llen("tasks") == 1
    exchange = kombu.Exchange("the-exchange")
    with connect((f"sealed-redis://{redis}/0", {}), sealing_of(alice, [alice])) as connection:
        with pytest.raises(Exception, match="WRONGTYPE"):
            connection.Producer().publish("x", exchange=exchange, routing_key="task.key", declare=[exchange])


def test_a_reply_that_cannot_be_read_costs_the_connection(store, redis, alice):
    """An unknown error of Redis is one of the connection, which Celery makes anew."""
    sealing = sealing_of(alice, [alice])
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        channel = connection.default_channel
        for error in (ValueError("x"), KeyError("x"), MemoryError(), RuntimeError("x")):
            with connection.Consumer([tasks()], on_message=print):
                drain(connection, 0.1)
                channel.client.parse_response = raising(error)
                store.lpush("tasks", "x")
                with pytest.raises(connection.connection_errors):
                    wait_for(lambda: drain(connection, 0.2), 10)
                del channel.client.parse_response
                store.delete("tasks")


def raising(error):
    def raises(*args, **kwargs):
        raise error

    return raises
