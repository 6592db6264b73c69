"""Nothing is lost that was only not handled yet: while keys, memories and stores are away, and when it is given back."""

import os
import time

import pytest
import redis as redis_py
from support.servers import free_port, wait_for
from support.transports import client, connect, consume, place_of, publish, sealing_of, tasks
from support.workers import Worker, place, worker
from support.workers import client as run_client

import taskseal
from taskseal.celery import transport
from taskseal.celery.replay import ProcessMemory

transport.register()


class Away(ProcessMemory):
    """A memory that does not answer, and keeps the process busy for a while before it says so."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.away = True
        self.seconds = seconds
        self.during = []

    def contains(self, key):
        for look in self.during:
            look()
        if self.away:
            time.sleep(self.seconds)
            raise ConnectionError("away")
        return super().contains(key)


@pytest.mark.parametrize("kind", ["redis", "filesystem", "memory"])
def test_other_queues_go_on_while_one_waits(kind, request, tmp_path, alice):
    """A queue with a message that cannot be told waits; the consumer, its heartbeat and its other queues do not."""
    where = place_of(kind, request, tmp_path)
    trusted = taskseal.CertStore([alice.native])
    memory = Away()
    sealing = sealing_of(alice, [], store=trusted, replay=memory)
    allowed = []
    contains = memory.contains
    memory.contains = lambda key: False if key.endswith(b"other") else contains(key)
    with connect(where, sealing) as connection:
        publish(connection, ["waits"], priority=6)
        for number in range(5):
            publish(connection, [number], queue=tasks("other", "other.key"))
        started = time.monotonic()
        with connection.Consumer([tasks(), tasks("other", "other.key")], on_message=lambda m: (allowed.append(m), m.ack())):
            wait_for(lambda: drained(connection) and len(allowed) == 5, 20)
            # No call takes as long as the queue waits.
            assert max(took for took in timed(connection, 3)) < 0.9
        assert time.monotonic() - started < 20
        memory.away = False
        assert [message.payload for message in consume(connection, timeout=1.5)] == [["waits"]]
    assert sorted(message.payload[0] for message in allowed) == list(range(5)) and not sealing.refusals


def drained(connection, seconds=0.1):
    try:
        connection.drain_events(timeout=seconds)
    except OSError:
        pass
    return True


def timed(connection, times):
    for _ in range(times):
        started = time.monotonic()
        drained(connection)
        yield time.monotonic() - started


@pytest.mark.parametrize("kind", ["redis", "filesystem"])
def test_a_message_is_somewhere_while_it_is_opened(kind, request, tmp_path, alice):
    """In its queue or among the unacknowledged, with its priority, also while keys or memories let it wait."""
    where = place_of(kind, request, tmp_path)
    memory = Away()
    sealing = sealing_of(alice, [alice], replay=memory)
    seen = []
    if kind == "redis":
        store = client(where[0].removeprefix("sealed-redis://").removesuffix("/0"))
        memory.during.append(lambda: seen.append((store.hlen("unacked"), store.zcard("unacked_index"))))
    else:
        memory.during.append(lambda: seen.append(len(list((tmp_path / "queue").iterdir()))))
    with connect(where, sealing) as connection:
        publish(connection, priority=6)
        for _ in range(3):
            assert tasks()(connection.default_channel).get() is None
        if kind == "redis":
            assert seen == [(1, 1)] * 3
            assert store.llen("tasks\x06\x166") == 1 and store.hlen("unacked") == store.zcard("unacked_index") == 0
        else:
            assert seen == [1] * 3
        memory.away = False
        message = tasks()(connection.default_channel).get(accept=["json"])
        assert "redelivered" not in message.delivery_info
        message.ack()
    assert not sealing.refusals


@pytest.mark.parametrize("kind", ["redis", "filesystem", "memory"])
def test_what_cannot_be_told_does_not_stand_before_what_can(kind, request, tmp_path, alice, monkeypatch):
    monkeypatch.setattr("taskseal.celery.transport.virtual.RETRY", 0.05)
    where = place_of(kind, request, tmp_path)
    memory = Away()
    sealing = sealing_of(alice, [alice], replay=memory)
    first = []
    contains = memory.contains

    def of_the_first(key):
        first[:] = first or [key]
        return contains(key) if key == first[0] else False

    memory.contains = of_the_first
    with connect(where, sealing) as connection:
        for number in range(3):
            publish(connection, [number])
        got = []
        with connection.Consumer([tasks()], on_message=lambda message: (got.append(message.payload[0]), message.ack())):
            wait_for(lambda: drained(connection) and len(got) == 2, 20)
            memory.away = False
            wait_for(lambda: drained(connection) and len(got) == 3, 20)
    assert got == [1, 2, 0] and not sealing.refusals


def test_a_worker_that_is_killed_while_its_memory_is_away_loses_nothing(tmp_path, token, redis, alice):
    """Five times with `kill -9`, at any moment: the message is in its queue or among the unacknowledged, and runs once."""
    store = redis_py.Redis.from_url(f"redis://{redis}/0")
    store.flushall()
    where = place(tmp_path, alice, f"sealed-redis://{redis}/0", f"sealed-redis://{redis}/1", TEST_VISIBILITY="1")
    run_client(where, "send.py", "run", "kept")
    away = f"redis://127.0.0.1:{free_port()}/0"
    for number in range(5):
        where.environment["TEST_REPLAY"] = away
        bad = Worker(where, "-P", "solo", name=f"bad{number}").ready()
        try:
            wait_for(lambda: "the message stays in the queue" in bad.log, 30)
            time.sleep(0.2 * number)
        finally:
            bad.kill()
            bad.stop()
        assert store.llen("celery\x06\x163") + store.hlen("unacked") == 1
    del where.environment["TEST_REPLAY"]
    time.sleep(1.1)
    with worker(where, "-P", "solo", name="good"):
        wait_for(lambda: where.witness, 30)
        assert store.llen("celery\x06\x163") == 0
    assert where.witness == ["kept"] and os.path.exists(where.environment["TEST_WITNESS"])


@pytest.mark.parametrize("kind", ["redis", "filesystem", "memory"])
def test_what_is_recovered_comes_again(kind, request, tmp_path, alice):
    """`recover(requeue=True)` loses nothing: each message that was not acknowledged is handled again, once."""
    where = place_of(kind, request, tmp_path)
    sealing = sealing_of(alice, [alice])
    with connect(where, sealing) as connection:
        for number in range(4):
            publish(connection, [number], priority=number * 3)
        got = []
        with connection.Consumer([tasks()], on_message=got.append) as consumer:
            wait_for(lambda: drained(connection) and len(got) == 4, 20)
            next(message for message in got if message.payload == [0]).ack()
            old, got[:] = list(got), []
            consumer.recover(requeue=True)
            wait_for(lambda: drained(connection) and len(got) == 3, 20)
            drained(connection)
            assert sorted(message.payload[0] for message in got) == [1, 2, 3]
            assert all(message.delivery_info["redelivered"] for message in got)
            # An acknowledgement for a delivery that was given back counts for nothing.
            for message in old[1:]:
                connection.default_channel.basic_ack(message.delivery_tag)
            assert len(sealing.replay) == 1
            for message in got:
                message.ack()
    with connect(where, sealing) as connection:
        assert consume(connection, timeout=0.3) == []
    assert not sealing.refusals


def test_what_cannot_be_given_back_is_still_here(request, tmp_path, alice):
    """A folder that is away: recovering says so, loses nothing, and works when the folder is back."""
    sealing = sealing_of(alice, [alice])
    with connect(place_of("filesystem", request, tmp_path), sealing) as connection:
        for number in range(3):
            publish(connection, [number])
        got = []
        with connection.Consumer([tasks()], on_message=got.append) as consumer:
            wait_for(lambda: drained(connection) and len(got) == 3, 20)
            (tmp_path / "queue").rename(tmp_path / "elsewhere")
            with pytest.raises(connection.channel_errors):
                consumer.recover(requeue=True)
            (tmp_path / "elsewhere").rename(tmp_path / "queue")
            got.pop(0).ack()
            assert len(sealing.replay) == 1
            consumer.recover(requeue=True)
            got.clear()
            wait_for(lambda: drained(connection) and len(got) == 2, 20)
            assert sorted(message.payload[0] for message in got) == [1, 2]
    assert not sealing.refusals


def test_what_is_given_back_goes_to_its_own_queue_alone(redis, alice):
    """Also of an exchange that leads to several queues, each of which has a copy, and with a table that is gone."""
    import kombu

    client(redis).flushall()
    sealing = sealing_of(alice, [alice])
    exchange = kombu.Exchange("events", type="topic")
    queues = [kombu.Queue(name, exchange, routing_key="a.#") for name in ("one", "two")]
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        for queue in queues:
            queue(connection.default_channel).declare()
        connection.Producer().publish(["x"], exchange=exchange, routing_key="a.b")
        client(redis).delete("_kombu.binding.events")
        queues[0](connection.default_channel).get(accept=["json"]).reject(requeue=True)
        assert client(redis).llen("one") == client(redis).llen("two") == 1
        for queue in queues:
            queue(connection.default_channel).get(accept=["json"]).ack()
    assert not sealing.refusals


def test_redis_that_takes_nothing_back(redis, alice, monkeypatch):
    """A full memory: what was taken out is put back as soon as Redis takes it, and nothing else is taken out before."""
    store = client(redis)
    store.flushall()
    sealing = sealing_of(alice, [alice])
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        publish(connection, ["first"], priority=6)
        publish(connection, ["second"], priority=6)
        got = []
        channel = connection.default_channel
        put, hold, full = channel._put, channel.qos.hold, [True]

        def refuse(works):
            def call(*args, **kwargs):
                if full:
                    raise redis_py.ResponseError("WRONGTYPE or OOM command not allowed")
                return works(*args, **kwargs)

            return call

        channel._put, channel.qos.hold = refuse(put), refuse(hold)
        with connection.Consumer([tasks()], on_message=lambda message: (got.append(message.payload), message.ack())):
            for _ in range(8):
                drained(connection, 0.5)
            assert not got and store.llen("tasks\x06\x166") == 1
            full.clear()
            wait_for(lambda: drained(connection) and len(got) == 2, 20)
    assert sorted(got) == [["first"], ["second"]] and not sealing.refusals


@pytest.mark.parametrize("options", [{"global_keyprefix": "shop."}, {"ack_emulation": False}, {"body_encoding": "base64"}])
def test_with_options_of_the_transport(redis, alice, options):
    """Giving back, recovering and closing lose nothing under a prefix of keys, without the unacknowledged, and in base64."""
    store = client(redis)
    store.flushall()
    memory = Away()
    sealing = sealing_of(alice, [alice], replay=memory)
    url = f"sealed-redis://{redis}/0", {**options, "visibility_timeout": -1}
    key = options.get("global_keyprefix", "") + "tasks\x06\x166"
    with connect(url, sealing) as connection:
        publish(connection, priority=6)
        queue = tasks()(connection.default_channel)
        assert queue.get() is None and store.llen(key) == 1
        memory.away = False
        queue.get(accept=["json"]).reject(requeue=True)
        assert store.llen(key) == 1
        assert queue.get(accept=["json"]) is not None and store.llen(key) == 0
        connection.default_channel.basic_recover(requeue=True)
        assert store.llen(key) == 1
        assert queue.get(accept=["json"]) is not None
        connection.default_channel.qos.restore_visible(interval=1)
        assert store.llen(key) == options.get("ack_emulation", True)
    with connect(url, sealing) as connection:
        assert len(consume(connection, timeout=0.5)) == 1
        odd = options.get("global_keyprefix", "") + "tasks"
        store.set(odd, "x")
        assert consume(connection, timeout=0.5) == []
        assert store.type(odd) == b"string"
    assert not sealing.refusals
