"""Repeated messages: what is refused, what is the broker's own redelivery, and what becomes of a message while nobody knows."""

import contextlib
import copy
import socket
import subprocess
import time

import kombu
import pytest
from conftest import command
from support.servers import wait_for
from support.transports import BODY, changed, client, connect, consume, place_of, plain_amqp, publish, sealing_of, tasks

import taskseal
import taskseal.celery
from taskseal.celery import transport
from taskseal.celery.replay import ProcessMemory, RedisMemory
from taskseal.errors import OpenError

transport.register()


def test_repeated_messages_are_refused(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    bent = changed(raw, properties={**raw["properties"], "delivery_tag": "another tag"})
    for copy_of in (raw, raw, bent):
        broker.put(copy.deepcopy(copy_of))
    assert len(consume(connection, timeout=0.3)) == 1
    assert sealing.refusals["replayed"] == 2
    broker.put(bent)
    assert consume(connection, timeout=0.3) == []


@pytest.mark.parametrize("stored", ["memory", "redis"], indirect=True)
def test_repetitions_are_refused_while_the_first_is_being_handled(stored):
    """Whatever their delivery tags are: these are somebody else's to name."""
    broker, connection, sealing = stored
    raw = broker.take()
    for tag in ("a", "b", "a"):
        broker.put(changed(raw, properties={**raw["properties"], "delivery_tag": tag}))
    (message,) = consume(connection, timeout=0.3, ack=False)
    assert sealing.refusals == {"replayed": 2} and message.delivery_tag not in ("a", "b")
    # One that was delivered before is the broker's own, which gives it out again when it takes long: it is still this one.
    info = {**raw["properties"]["delivery_info"], "redelivered": True}
    broker.put(changed(raw, properties={**raw["properties"], "delivery_info": info}))
    assert consume(connection, timeout=0.3, ack=False) == [] and sealing.refusals == {"replayed": 2}
    message.ack()
    broker.put(raw)
    assert consume(connection, timeout=0.3, ack=False) == [] and sealing.refusals == {"replayed": 3}


def test_broadcasts_from_before_are_refused(redis, alice):
    sealing = sealing_of(alice, [alice])
    url = f"sealed-redis://{redis}/0", {"fanout_prefix": True}
    queue = kombu.Queue("listener", kombu.Exchange("news", type="fanout"), auto_delete=True)
    got = []
    with connect(url, sealing) as connection, connect(url, sealing) as sender:
        recorded = []
        with connection.Consumer([queue], on_message=got.append, no_ack=True):
            # It subscribes while it waits.
            for _ in range(3):
                with contextlib.suppress(socket.timeout):
                    connection.drain_events(timeout=0.2)
            deliver = connection.transport._callbacks["listener"]
            connection.transport._callbacks["listener"] = lambda raw: (recorded.append(raw), deliver(raw))
            sender.Producer().publish("stop", exchange=queue.exchange, declare=[queue.exchange])
            connection.drain_events(timeout=5)
            assert len(got) == 1
            deliver(recorded[0])
            assert len(got) == 1 and sealing.refusals == {"replayed": 1}
    # Another process knows nothing of it, but it was sent before this one listened.
    other = sealing_of(alice, [alice])
    time.sleep(0.01)
    with connect(url, other) as connection, connection.Consumer([queue], on_message=got.append, no_ack=True):
        connection.transport._callbacks["listener"](recorded[0])
    assert len(got) == 1 and other.refusals == {"too-old": 1}


def test_a_shared_memory_knows_a_broadcast_after_the_restart_of_its_listener(redis, alice):
    """Also when its sender's clock is ahead, so that it looks younger than the listener: here it may be older by a minute."""
    client(redis).flushall()
    url = f"sealed-redis://{redis}/0", {"fanout_prefix": True}
    queue = kombu.Queue("listener", kombu.Exchange("news", type="fanout"), auto_delete=True)
    got, counts, recorded = [], [], []
    with connect(url, sealing_of(alice, [alice])) as sender:
        for start in range(2):
            sealing = sealing_of(alice, [alice], broadcast_skew=60, replay=RedisMemory(f"redis://{redis}/5"))
            with connect(url, sealing) as connection, connection.Consumer([queue], on_message=got.append, no_ack=True):
                for _ in range(3):
                    with contextlib.suppress(socket.timeout):
                        connection.drain_events(timeout=0.2)
                deliver = connection.transport._callbacks["listener"]
                if start == 0:
                    connection.transport._callbacks["listener"] = lambda raw: (recorded.append(raw), deliver(raw))
                    sender.Producer().publish("stop", exchange=queue.exchange, declare=[queue.exchange])
                    wait_for(lambda: drained(connection) and got, 10)
                else:
                    deliver(recorded[0])
            counts.append((len(got), dict(sealing.refusals)))
    assert counts == [(1, {}), (1, {"replayed": 1})]


def test_broadcasts_from_before_are_refused_over_amqp(rabbitmq, alice):
    url = f"sealed-amqp://{rabbitmq}//", {}
    queue = kombu.Queue("listener", kombu.Exchange("news", type="fanout"), auto_delete=True)
    sealing, got = sealing_of(alice, [alice]), []
    with connect(url, sealing) as sender, plain_amqp(rabbitmq) as plain:
        queue.exchange(sender.default_channel).declare()
        channel = plain.channel()
        channel.queue_declare("recorder", exclusive=True)
        channel.queue_bind("recorder", "news")
        sender.Producer().publish("stop", exchange=queue.exchange)
        recorded = wait_for(lambda: channel.basic_get("recorder", no_ack=True), 10)
        time.sleep(0.01)
        with connect(url, sealing) as connection, connection.Consumer([queue], on_message=got.append, no_ack=True):
            channel.basic_publish(recorded, "news")
            wait_for(lambda: drained(connection) and sealing.refusals, 10)
            sender.Producer().publish("go on", exchange=queue.exchange)
            wait_for(lambda: drained(connection) and got, 10)
    assert [message.payload for message in got] == ["go on"] and sealing.refusals == {"too-old": 1}


def drained(connection):
    with contextlib.suppress(socket.timeout):
        connection.drain_events(timeout=0.2)
    return True


def test_replay_memory_in_redis_is_shared(redis, alice):
    client(redis).flushall()
    url = f"sealed-redis://{redis}/0", {}
    place = f"redis://{redis}/5"
    first, second = (sealing_of(alice, [alice], replay=RedisMemory(place)) for _ in range(2))
    with connect(url, first) as connection:
        publish(connection)
        raw = super(type(connection.default_channel), connection.default_channel)._get("tasks")
        connection.default_channel._put("tasks", raw)
        assert len(consume(connection, timeout=0.3)) == 1
    with connect(url, second) as connection:
        connection.default_channel._put("tasks", raw)
        assert consume(connection, timeout=0.3) == []
    assert second.refusals == {"replayed": 1}
    import redis as redis_py

    (name,) = redis_py.Redis.from_url(place).keys("taskseal-replay:*")
    # Age, and twice the skew: another worker's clock may be behind this one's by it.
    assert 24 * 3600 + 60 < redis_py.Redis.from_url(place).ttl(name) <= 24 * 3600 + 121


def test_a_message_is_kept_while_the_replay_memory_is_away(redis, alice, caplog, monkeypatch):
    client(redis).flushall()
    monkeypatch.setattr("taskseal.celery.transport.virtual.RETRY", 0.05)
    away = [True]

    class Memory(ProcessMemory):
        def contains(self, key):
            if away[0]:
                raise ConnectionError("away")
            return super().contains(key)

    sealing = sealing_of(alice, [alice], replay=Memory())
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        publish(connection)
        got = []
        with connection.clone() as waiting, waiting.Consumer([tasks()], on_message=got.append):
            for _ in range(5):
                waiting.drain_events(timeout=5)
        assert not got and client(redis).llen("tasks\x06\x163") == 1
        away[0] = False
        assert len(consume(connection, timeout=0.5)) == 1
    assert "does not answer" in caplog.text and not sealing.refusals


@pytest.mark.parametrize("kind", ["memory", "redis", "amqp"])
def test_a_message_is_kept_while_keys_on_a_token_are_away(kind, request, tmp_path, alice, token, caplog, monkeypatch):
    """Keys that cannot be used say nothing about a message. It is neither refused nor lost, and the worker goes on."""
    where = place_of(kind, request, tmp_path)
    for module in ("virtual", "returns"):
        monkeypatch.setattr(f"taskseal.celery.transport.{module}.RETRY", 0.05)
    uri = token.uri.replace("object=worker", f"object=away-{kind}")
    subprocess.run([command(), "fernet", "key", "generate", "--key", uri], check=True, capture_output=True)
    module = tmp_path / "module.so"
    sealing = sealing_of(alice, [alice], fernets=[taskseal.Fernet.from_uri(uri.replace(token.module, str(module)))])
    with connect(where, sealing_of(alice, [alice], fernets=[taskseal.Fernet.from_uri(uri)])) as sender:
        publish(sender)
        with connect(where, sealing) as connection:
            assert consume(connection, timeout=0.5, enough=1, seconds=2) == []
            assert "cannot be used" in caplog.text and not sealing.refusals
            assert tasks()(connection.default_channel).get() is None
            module.symlink_to(token.module)
            assert [message.payload for message in consume(connection)] == [BODY]
            # The same when the keys fail later.
            opener = sealing.opener
            sealing.opener = Failing()
            publish(sender)
            assert consume(connection, timeout=0.5, enough=1, seconds=2) == []
            sealing.opener = opener
            assert [message.payload for message in consume(connection)] == [BODY]
    assert not sealing.refusals


@pytest.mark.parametrize("kind", ["memory", "redis", "amqp"])
def test_a_message_is_kept_while_the_certificate_store_is_away(kind, request, tmp_path, alice, caplog, monkeypatch):
    where = place_of(kind, request, tmp_path)
    for module in ("virtual", "returns"):
        monkeypatch.setattr(f"taskseal.celery.transport.{module}.RETRY", 0.05)
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "alice.pem").write_text(alice.pem)
    sealing = sealing_of(alice, [], store=taskseal.CertStore.open(trusted, reload_interval=0))
    with connect(where, sealing) as connection:
        publish(connection)
        trusted.rename(tmp_path / "elsewhere")
        assert consume(connection, timeout=0.5, enough=1, seconds=2) == []
        assert f"the certificate store {trusted} does not exist" in caplog.text and not sealing.refusals
        (tmp_path / "elsewhere").rename(trusted)
        assert [message.payload for message in consume(connection)] == [BODY]
    assert not sealing.refusals


@pytest.mark.parametrize("kind", ["memory", "redis", "amqp"])
def test_a_message_is_kept_while_its_signers_file_cannot_be_read(kind, request, tmp_path, alice, bob, caplog, monkeypatch):
    """Others are not held up for ever: a signer that is known is heard, and a stranger is one again once the store is whole."""
    where = place_of(kind, request, tmp_path)
    for module in ("virtual", "returns"):
        monkeypatch.setattr(f"taskseal.celery.transport.{module}.RETRY", 0.05)
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "alice.pem").write_text(alice.pem)
    (trusted / "bob.pem").write_text(bob.pem)
    sealing = sealing_of(alice, [], store=taskseal.CertStore.open(trusted, reload_interval=0, grace=0))
    with connect(where, sealing) as connection, connect(where, sealing_of(bob, [])) as theirs:
        (trusted / "bob.pem").write_text(bob.pem[:700])
        publish(theirs, ["from bob"])
        publish(connection, ["from alice"])
        seen = consume(connection, timeout=5, enough=1, seconds=20)
        assert [message.payload for message in seen] == [["from alice"]]
        assert "bob.pem, line 1: the PEM text is damaged" in caplog.text and not sealing.refusals
        (trusted / "bob.pem").write_text(bob.pem)
        assert [message.payload for message in consume(connection)] == [["from bob"]]
        assert not sealing.refusals
        # As `install`, `rm` and `cp` write it: a message comes between the two.
        (trusted / "bob.pem").unlink()
        publish(theirs, ["from bob again"])
        publish(connection, ["from alice"])
        seen = consume(connection, timeout=5, enough=1, seconds=20)
        assert [message.payload for message in seen] == [["from alice"]]
        (trusted / "bob.pem").write_text(bob.pem)
        assert [message.payload for message in consume(connection)] == [["from bob again"]]
        assert not sealing.refusals
        (trusted / "bob.pem").unlink()
        publish(theirs, ["from a stranger"])
        until = time.monotonic() + 20
        while not sealing.refusals and time.monotonic() < until:
            assert consume(connection, timeout=0.5) == []
        assert sealing.refusals == {"unknown-signer": 1}


class Failing:
    """An opener whose keys do not answer."""

    def open(self, wire):
        raise OpenError("the keys cannot be used: device error", "transient", "keys")


def test_the_memory_of_a_process_holds_no_more_than_it_has_room_for_and_lets_nothing_in_again():
    memory = ProcessMemory(capacity=3)
    now = time.time()
    a, b, *others = (b"a signer, and " + name for name in (b"a", b"b", *(b"%d" % number for number in range(10))))
    assert memory.remember(a, now + 10, now) and not memory.remember(a, now + 10, now)
    assert memory.contains(a) and not memory.contains(b) and not memory.forgot(a, now + 5)
    assert memory.remember(b, now - 1, now - 2) and not memory.contains(b)
    for number, key in enumerate(others):
        assert memory.remember(key, now + 20 + number, now)
        assert memory.contains(key) and len(memory) <= 3
    # What it does not remember any more counts as handled.
    for key, until in ((a, now + 10), (others[1], now + 21)):
        assert memory.contains(key) or memory.forgot(key, until)
    assert not memory.forgot(a, now + 30) and not memory.forgot(b"another signer", now + 10)


def test_a_signer_that_fills_the_memory_is_refused_alone(redis, alice, bob):
    """With tasks that are due in years, and handled now because they have expired: he gains nothing but his own silence."""
    client(redis).flushall()
    sealing = sealing_of(alice, [alice, bob], replay_capacity=8)
    url = f"sealed-redis://{redis}/0", {}
    with connect(url, sealing) as connection, connect(url, sealing_of(bob, [alice, bob])) as theirs:
        for number in range(20):
            theirs.Producer().publish([number], routing_key="tasks", headers={"eta": f"{2900 + number}-01-01T00:00:00+00:00"})
        taken = len(consume(connection, timeout=0.3))
        assert sealing.refusals == ({"forgotten": 20 - taken} if taken < 20 else {})
        publish(connection, ["of another one"])
        assert [message.payload for message in consume(connection, timeout=0.3)] == [["of another one"]]


def test_a_message_that_a_full_memory_cannot_tell_from_a_repetition_is_kept(redis, alice):
    """Neither is it run, as it may have been, nor lost, as it may not; and newer ones go on."""
    client(redis).flushall()
    sealing = sealing_of(alice, [alice], replay_capacity=1)
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        publish(connection, ["waits"])
        waits = super(type(connection.default_channel), connection.default_channel)._get("tasks")
        time.sleep(0.01)
        for number in range(5):
            publish(connection, [number])
            time.sleep(0.01)
        assert len(consume(connection, timeout=0.3)) == 5
        connection.default_channel._put("tasks", waits)
        publish(connection, ["new"])
        assert [message.payload for message in consume(connection, timeout=0.3)] == [["new"]]
    assert sealing.refusals == {"forgotten": 1} and client(redis).llen("taskseal.refused") == 1
