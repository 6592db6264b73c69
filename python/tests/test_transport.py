"""Sealed transports at the level of kombu: what goes in comes out, what the broker sees, and what is refused."""

import base64
import contextlib
import copy
import json
import os
import queue as queues
import socket
import time

import kombu
import pytest
from conftest import DAY, identity
from kombu.exceptions import OperationalError
from kombu.transport import filesystem, memory
from support.servers import rabbitmq_server, redis_server

import taskseal
import taskseal.celery
from taskseal.celery import sealing as sealings
from taskseal.celery import transport
from taskseal.celery.replay import ProcessMemory, RedisMemory
from taskseal.celery.sealing import Bindings, Sealing, topic_matches

transport.register()

BODY = [["Ålice", "secret-argument"], {"kw": 1}, {}]
HEADERS = {"task": "tasks.secret-name", "id": "an-id", "lang": "py"}


def sealing_of(signer, trusted, **options):
    store = options.pop("store", None) or taskseal.CertStore([one.native for one in trusted])
    return Sealing(signer.signer(), store, **options)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory):
    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as address:
        yield address


@pytest.fixture(params=["memory", "filesystem", "redis", "amqp"])
def url(request, tmp_path):
    """URL and options of each transport, with nothing in it."""
    if request.param == "redis":
        address = request.getfixturevalue("redis")
        client(address).flushall()
        return f"sealed-redis://{address}/0", {}
    if request.param == "amqp":
        return f"sealed-amqp://{request.getfixturevalue('rabbitmq')}//", {}
    if request.param == "filesystem":
        (tmp_path / "queue").mkdir()
        (tmp_path / "control").mkdir()
        filesystem.Transport.global_state.clear()
        return "sealed-filesystem://", {"data_folder_in": str(tmp_path / "queue"),
                                        "data_folder_out": str(tmp_path / "queue"),
                                        "control_folder": str(tmp_path / "control")}  # fmt: skip
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()
    return "sealed-memory://", {}


@pytest.fixture(params=["signed", "encrypted"])
def keys(request):
    return [taskseal.Fernet(taskseal.Fernet.generate_key())] if request.param == "encrypted" else []


def client(address):
    import redis

    return redis.Redis.from_url(f"redis://{address}/0")


def connect(url, sealing):
    address, options = url
    return kombu.Connection(address, transport_options={**options, "sealing": sealing})


def tasks(name="tasks", key="task.key"):
    return kombu.Queue(name, kombu.Exchange("the-exchange", type="direct"), routing_key=key)


def publish(connection, body=BODY, queue=None, **options):
    queue = queue or tasks()
    producer = connection.Producer()
    options = {"headers": dict(HEADERS), "correlation_id": "an-id", "reply_to": "somebody", "priority": 3, **options}
    producer.publish(body, exchange=queue.exchange, routing_key=queue.routing_key, declare=[queue], **options)


def consume(connection, queue=None, *, no_ack=False, timeout=1.0, ack=True, enough=100):
    """Everything that comes within the time: until nothing comes any more."""
    got = []

    def on_message(message):
        got.append(message)
        if ack and not no_ack:
            message.ack()

    # A consumer that does not keep its messages has a connection of its own: a former one may still wait for queues that
    # nobody consumes any more.
    own = connection.clone() if ack else connection
    with own.Consumer([queue or tasks()], on_message=on_message, no_ack=no_ack, accept=["json"]):
        while len(got) < enough:
            try:
                own.drain_events(timeout=timeout)
            except socket.timeout:
                break
    if ack:
        for message in got:
            message.channel = None
        own.release()
    return got


def test_a_message_goes_in_and_comes_out(url, alice, bob, keys):
    with connect(url, sealing_of(alice, [alice], fernets=keys)) as connection:
        publish(connection)
        publish(connection, ["x" * 1_000_000], compression="zlib")
        publish(connection, {"text": "Å"}, serializer="yaml")
        first, second, third = consume(connection, enough=3)
    assert first.payload == BODY and first.headers == HEADERS
    assert first.content_type == "application/json" and first.properties["correlation_id"] == "an-id"
    assert first.properties["reply_to"] == "somebody"
    assert first.delivery_info["exchange"] == "the-exchange" and first.delivery_info["routing_key"] == "task.key"
    assert second.payload == ["x" * 1_000_000]
    assert third.content_type == "application/x-yaml"


def test_get_and_reject_and_requeue(url, alice):
    with connect(url, sealing_of(alice, [alice])) as connection:
        publish(connection)
        queue = tasks()(connection.default_channel)
        message = queue.get(accept=["json"])
        assert message.payload == BODY
        message.reject(requeue=True)
        (message,) = consume(connection, ack=False)
        message.reject()
        assert queue.get() is None


@pytest.mark.parametrize("url", ["filesystem", "redis", "amqp"], indirect=True)  # Memory restores nothing.
def test_what_was_not_acknowledged_comes_again(url, alice):
    sealing = sealing_of(alice, [alice])
    with connect(url, sealing) as connection:
        publish(connection)
        assert len(consume(connection, ack=False)) == 1
    with connect(url, sealing) as connection:
        (again,) = consume(connection)
        assert again.payload == BODY
        assert consume(connection, timeout=0.2) == []
    assert not sealing.refusals


def test_the_broker_sees_little(redis, alice):
    url = f"sealed-redis://{redis}/0", {}
    client(redis).flushall()
    key = taskseal.Fernet(taskseal.Fernet.generate_key())
    with connect(url, sealing_of(alice, [alice], fernets=[key])) as connection:
        publish(connection)
        stored = client(redis).rpop("tasks\x06\x163")
        publish(connection)
        consume(connection, ack=False, enough=1)
        (unacked,) = client(redis).hvals("unacked")
    for value in (stored, unacked):
        seen = str(nested(json.loads(value)))
        for secret in ("secret", "an-id", "somebody", "tasks.", "alice"):
            assert secret not in seen
        assert "task.key" in seen
    assert set(json.loads(stored)) == {"body", "content-encoding", "content-type", "headers", "properties"}
    assert json.loads(stored)["headers"] == {}


def nested(value):
    """A value with everything in it that reads as base64 or JSON beside it."""
    if isinstance(value, dict):
        return [nested(part) for part in value.items()]
    if isinstance(value, (list, tuple)):
        return [nested(part) for part in value]
    if not isinstance(value, str) or len(value) < 8:
        return value
    views = [value]
    for decode in (base64.b64decode, base64.urlsafe_b64decode):
        try:
            views.append(decode(value).decode("latin-1"))
        except ValueError:
            pass
    return views


# --- Hostile input -----------------------------------------------------------------------------------------------------


class Broker:
    """Somebody who reads and writes a queue of a Redis or of the memory transport without any key."""

    def __init__(self, url, sealing):
        self.url = url[0]
        self.connection = connect(url, sealing)
        self.channel = self.connection.default_channel

    def take(self):
        return super(type(self.channel), self.channel)._get("tasks")

    def put(self, raw, queue="tasks"):
        self.channel._put(queue, raw)


@pytest.fixture(params=["memory", "redis"])
def stored(request, tmp_path, alice, bob):
    """A broker in which one message of Alice's is stored, and a consumer's connection."""
    if request.param == "redis":
        address = request.getfixturevalue("redis")
        client(address).flushall()
        where = f"sealed-redis://{address}/0", {}
    else:
        memory.Channel.queues.clear()
        memory.Transport.global_state.clear()
        where = "sealed-memory://", {}
    sealing = sealing_of(alice, [alice])
    broker = Broker(where, sealing)
    publish(broker.connection)
    for queue in (tasks("other", "other.key"),):
        queue(broker.channel).declare()
    with connect(where, sealing) as connection:
        yield broker, connection, sealing
    broker.connection.release()


def changed(raw, **parts):
    raw = copy.deepcopy(raw)
    raw.update({name.replace("_", "-"): value for name, value in parts.items()})
    return raw


def only_the_good_one(broker, connection, sealing, bad, reason, **options):
    """Puts bad messages before and after a good one: it alone comes through, and the refusals are counted."""
    before = sum(sealing.refusals.values())
    for raw in bad:
        broker.put(raw)
    publish(broker.connection, ["good"])
    for raw in bad:
        broker.put(raw)
    got = [message.payload for message in consume(connection, timeout=0.3, **options)]
    assert got == [["good"]]
    assert sum(sealing.refusals.values()) - before == 2 * len(bad)
    assert reason is None or sealing.refusals[reason] == 2 * len(bad), sealing.refusals


def test_unsigned_messages_are_refused(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    plain = json.dumps(BODY)
    bad = [
        changed(raw, body=body, content_type=content_type, headers=HEADERS)
        for body in (plain, base64.b64encode(plain.encode()).decode(), BODY, {"args": []}, "", None, 7)
        for content_type in ("application/json", "application/data", "application/text", "text/plain", None, "", 7)
    ]
    only_the_good_one(broker, connection, sealing, bad, "not-sealed")


def test_changed_messages_are_refused(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    body = raw["body"]
    bad = [
        changed(raw, body=body[:-4] + "AAAA"),
        changed(raw, body=body[:100] + ("A" if body[100] != "A" else "B") + body[101:]),
        changed(raw, body=body[: len(body) // 8 * 4]),
        changed(raw, body=body + "\n"),
        changed(raw, body=""),
        changed(raw, body="x" * 5_000_000),
    ]
    only_the_good_one(broker, connection, sealing, bad, None)
    assert sealing.refusals["bad-signature"] >= 2 and sealing.refusals["malformed"] >= 2


def test_headers_outside_count_for_nothing(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    raw["headers"] = {"task": "tasks.other", "id": "another", "compression": "zlib", "expires": None}
    raw["properties"].update(correlation_id="another", reply_to="nobody", priority="x", delivery_mode=[])
    raw["content-encoding"] = "rot13"
    raw["properties"]["delivery_info"] = {"exchange": "evil", "routing_key": "evil"}
    broker.put(raw)
    (message,) = consume(connection, timeout=0.3)
    assert message.headers == HEADERS and message.payload == BODY
    assert message.properties["correlation_id"] == "an-id" and message.properties["reply_to"] == "somebody"
    assert message.delivery_info["exchange"] == "the-exchange"


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


def test_repetitions_are_refused_while_the_first_is_being_handled(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    for tag in ("a", "b", "a"):
        broker.put(changed(raw, properties={**raw["properties"], "delivery_tag": tag}))
    (message,) = consume(connection, timeout=0.3, ack=False)
    # One with the same tag is taken for the broker's own redelivery: the message stays the one that is being handled.
    assert sealing.refusals["replayed"] == 1
    message.ack()
    assert connection.default_channel.qos._delivered.get("b") is None


def test_misdirected_messages_are_refused(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    broker.put(raw, "other")
    assert consume(connection, tasks("other", "other.key"), timeout=0.3) == []
    assert sealing.refusals["destination"] == 1
    broker.put(raw)
    assert len(consume(connection, timeout=0.3)) == 1


def test_bindings_can_be_named_for_queues_that_somebody_else_declares(stored, alice):
    broker, _, _ = stored
    raw = broker.take()
    broker.put(raw, "other")
    sealing = sealing_of(alice, [alice], bindings={"other": [["the-exchange", "task.key"]]})
    with connect((broker.url, {}), sealing) as connection:
        assert len(consume(connection, tasks("other", "other.key"), timeout=0.3)) == 1


@pytest.mark.parametrize(
    ("who", "reason"), [("expired", "expired"), ("future", "not-yet-valid"), ("stranger", "unknown-signer")]
)
def test_signers_that_do_not_count(stored, alice, who, reason):
    broker, connection, sealing = stored
    one = {
        "expired": identity("alice2", nth="alice", start=-2 * DAY, end=-DAY),
        "future": identity("alice2", nth="alice", start=DAY, end=2 * DAY),
        "stranger": identity("stranger"),
    }[who]
    with connect((broker.url, {}), sealing_of(one, [])) as theirs:
        broker.take()
        publish(theirs)
        raw = broker.take()
    if who != "stranger":
        sealing = sealing_of(alice, [alice, one])
    with connect((broker.url, {}), sealing) as ours:
        only_the_good_one(broker, ours, sealing, [raw], reason)


def test_a_certificate_that_is_taken_away(stored, alice, bob, tmp_path):
    broker, _, _ = stored
    raw = broker.take()
    for one in (alice, bob):
        (tmp_path / f"{one.native.issuer}.pem").write_text(one.pem)
    sealing = sealing_of(bob, [], store=taskseal.CertStore.open(tmp_path, reload_interval=0))
    with connect((broker.url, {}), sealing) as connection:
        broker.put(raw)
        assert len(consume(connection, timeout=0.3)) == 1
        (tmp_path / "alice.pem").unlink()
        publish(broker.connection)
        assert consume(connection, timeout=0.3) == []
        assert sealing.refusals == {"unknown-signer": 1}


def test_old_messages_are_refused(stored, alice):
    broker, _, _ = stored
    raw = broker.take()
    time.sleep(1.2)
    broker.put(raw)
    sealing = sealing_of(alice, [alice], max_age=1.0, clock_skew=0.0)
    with connect((broker.url, {}), sealing) as connection:
        publish(broker.connection, ["good"])
        assert [message.payload for message in consume(connection, timeout=0.3)] == [["good"]]
    assert sealing.refusals == {"too-old": 1}


def test_what_is_signed_for_something_else_is_no_message(stored, alice):
    broker, connection, sealing = stored
    raw = broker.take()
    payload = sealing.sealer.seal_payload("celery-result", "tasks", json.dumps(raw))
    body = taskseal.Sealer(alice.signer()).seal(BODY)
    only_the_good_one(broker, connection, sealing, [changed(raw, body=text) for text in (payload, body)], None)


def test_the_form_is_not_chosen_by_the_message(stored, alice):
    """Where messages are to be encrypted, one that is only signed is refused, and the other way round."""
    broker, connection, sealing = stored
    key = taskseal.Fernet(taskseal.Fernet.generate_key())
    encrypting = sealing_of(alice, [alice], fernets=[key])
    with connect((broker.url, {}), encrypting) as theirs:
        assert consume(theirs, timeout=0.3) == []
        assert encrypting.refusals == {"token": 1}
        publish(theirs)
        assert consume(connection, timeout=0.3) == []
        assert sum(sealing.refusals.values()) == 1


def test_garbage_is_refused(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    without = [{name: value for name, value in raw.items() if name != missing} for missing in raw if missing != "headers"]
    without += [
        changed(raw, properties={name: value for name, value in raw["properties"].items() if name != missing})
        for missing in ("delivery_tag",)
    ]
    odd = [changed(raw, properties=value) for value in (None, [], "x", 7)]
    odd += [changed(raw, properties={**raw["properties"], "delivery_tag": value}) for value in (None, 7, [], {})]
    odd += [changed(raw, properties={**raw["properties"], "body_encoding": value}) for value in ("base64", "hex", 7)]
    if "memory" in broker.url:
        odd += [{}, {"body": []}, {"properties": {}}]
    odd = [one for one in odd if "properties" not in one or one["properties"] != raw["properties"]]
    good = [one for one in odd if one.get("properties", {}) and isinstance(one.get("properties"), dict)
            and one["properties"].get("body_encoding") in ("hex", 7)]  # fmt: skip
    # What the body's encoding is said to be does not matter as long as it is text.
    bad = [one for one in without[:-1] + odd if one not in good and one.get("content-encoding", 1) != 1 or "body" not in one]
    for one in bad:
        broker.put(one)
    publish(broker.connection, ["good"])
    assert [message.payload for message in consume(connection, timeout=0.3)] == [["good"]]
    assert sum(sealing.refusals.values()) == len(bad) > 8


def test_bytes_that_are_no_message_in_redis(redis, alice):
    client(redis).flushall()
    sealing = sealing_of(alice, [alice])
    garbage = [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"null", b"7", b"[]", b'"x"', b"{}", b'{"body": 1}', os.urandom(64),
               b'{"__type__": "datetime", "__value__": 7}', b'{"__type__": "uuid", "__value__": {}}',
               b'{"__type__": [], "__value__": {}}', b'{"a": 1e999999}',
               b'{"__type__": "decimal", "__value__": "x"}']  # fmt: skip
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        for value in garbage:
            client(redis).lpush("tasks", value)
        publish(connection, ["good"], priority=0)
        for value in garbage:
            client(redis).lpush("tasks", value)
        got = []
        with connection.Consumer([tasks()], on_message=lambda message: (got.append(message.payload), message.ack())):
            until = time.monotonic() + 20
            while client(redis).llen("tasks") and time.monotonic() < until:
                try:
                    connection.drain_events(timeout=0.2)
                except socket.timeout:
                    pass
        assert got == [["good"]]
        # An empty value is none for Redis' reply, as kombu reads it.
        assert sum(sealing.refusals.values()) >= 2 * (len(garbage) - 1)
        # The same through basic_get.
        for value in garbage:
            client(redis).lpush("tasks", value)
        publish(connection, ["good"], priority=0)
        assert tasks()(connection.default_channel).get(accept=["json"]).payload == ["good"]


def test_garbage_among_the_unacknowledged_of_redis(redis, alice):
    client(redis).flushall()
    sealing = sealing_of(alice, [alice])
    options = {"visibility_timeout": 1}
    with connect((f"sealed-redis://{redis}/0", options), sealing) as connection:
        publish(connection)
        for number, value in enumerate([b"\xff", b"{", b"[]", b"[1, 2, 3]", b"[" * 100_000]):
            client(redis).hset("unacked", f"garbage-{number}", value)
            client(redis).zadd("unacked_index", {f"garbage-{number}": 1})
        assert len(consume(connection, timeout=0.3, ack=False)) == 1
        connection.default_channel.qos.restore_visible(interval=1)
        assert client(redis).zcard("unacked_index") <= 1
    with connect((f"sealed-redis://{redis}/0", options), sealing) as connection:
        assert len(consume(connection, timeout=0.3)) == 1


def test_hostile_messages_over_amqp(rabbitmq, alice):
    import amqp

    sealing = sealing_of(alice, [alice])
    with connect((f"sealed-amqp://{rabbitmq}//", {}), sealing) as connection:
        publish(connection, ["warm up"])
        consume(connection, enough=1)
        plain = amqp.Connection(rabbitmq.split("@")[1], userid="guest", password="guest")
        plain.connect()
        channel = plain.channel()
        publish(connection)
        stolen = channel.basic_get("tasks", no_ack=True)
        properties = stolen.properties
        send = lambda body, **changes: channel.basic_publish(  # noqa: E731
            amqp.Message(body, **{**properties, **changes}), "the-exchange", "task.key"
        )
        bodies = [b"", b"\xff", b"x", b"[" * 100_000, stolen.body[:-8].encode(), json.dumps(BODY).encode()]
        for body in bodies:
            send(body)
            send(body, content_type="application/json", application_headers={"compression": "zlib", "task": "x"})
            send(body, content_type="application/data", content_encoding="nonsense")
        for _ in range(3):
            send(stolen.body)
        publish(connection, ["good"])
        assert [message.payload for message in consume(connection, enough=2)] == [BODY, ["good"]]
        assert sum(sealing.refusals.values()) == 3 * len(bodies) + 2 and sealing.refusals["replayed"] == 2
        # Nothing is left that would be delivered again.
        assert channel.basic_get("tasks") is None
        plain.close()


def test_refused_messages_can_be_kept(redis, rabbitmq, alice):
    client(redis).flushall()
    sealing = sealing_of(alice, [alice], refused="dead-letter", dead_letter_queue="refused")
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        publish(connection)
        raw = super(type(connection.default_channel), connection.default_channel)._get("tasks")
        connection.default_channel._put("tasks", changed(raw, body="x"))
        assert consume(connection, timeout=0.3) == []
        assert json.loads(client(redis).rpop("refused"))["body"] == "x"
    with connect((f"sealed-amqp://{rabbitmq}//", {}), sealing) as connection:
        queue = kombu.Queue("dlq-tasks", kombu.Exchange("dlx"), "k", queue_arguments={
            "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "refused"})  # fmt: skip
        kombu.Queue("refused")(connection.default_channel).declare()
        plain = kombu.Connection(f"amqp://{rabbitmq}//")
        plain.Producer().publish({"x": 1}, exchange=queue.exchange, routing_key="k", declare=[queue])
        assert consume(connection, queue, timeout=0.5) == []
        assert plain.default_channel.basic_get("refused").body
        plain.release()


def test_broadcasts_from_before_are_refused(redis, alice):
    sealing = sealing_of(alice, [alice], broadcast_skew=0.1)
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
    other = sealing_of(alice, [alice], broadcast_skew=0.1)
    time.sleep(0.3)
    with connect(url, other) as connection, connection.Consumer([queue], on_message=got.append, no_ack=True):
        connection.transport._callbacks["listener"](recorded[0])
    assert len(got) == 1 and other.refusals == {"too-old": 1}


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
    assert 0 < redis_py.Redis.from_url(place).ttl(name) <= 24 * 3600 + 61


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


def test_nothing_is_sent_without_keys(monkeypatch):
    monkeypatch.setattr(sealings, "_current", None)
    for url in ("sealed-memory://", "sealed-redis://127.0.0.1:1/0", "sealed-amqp://127.0.0.1:1//"):
        with pytest.raises(OperationalError, match="setup_sealing"):
            kombu.Connection(url).channel()


def test_failover_stays_sealed(redis, alice):
    sealing = sealing_of(alice, [alice])
    urls = f"sealed-redis://127.0.0.1:1/0;sealed-redis://{redis}/0"
    with kombu.Connection(urls, transport_options={"sealing": sealing}) as connection:
        connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0)
        assert type(connection.transport).__module__ == "taskseal.celery.transport.redis"


def test_tls_is_never_left_out(tmp_path, alice):
    """`sealed-rediss` verifies the server's certificate unless the options say otherwise, and never connects in the clear."""
    sealing = sealing_of(alice, [alice])
    server = identity("localhost")
    (tmp_path / "key.pem").write_text(server.key_pem)
    (tmp_path / "cert.pem").write_text(server.pem)
    with redis_server(tmp_path, tls=tmp_path) as address:
        port = address.split(":")[1]
        urls = {
            f"sealed-rediss://localhost:{port}/0": False,
            f"sealed-redis://localhost:{port}/0": False,
            f"sealed-rediss://localhost:{port}/0?ssl_cert_reqs=none": True,
        }
        for url, works in urls.items():
            with connect((url, {}), sealing) as connection:
                if works:
                    publish(connection)
                    assert len(consume(connection, enough=1)) == 1
                else:
                    with pytest.raises(OperationalError):
                        connection.ensure_connection(max_retries=1, interval_start=0)
    with connect(("sealed-amqps://127.0.0.1:1//", {}), sealing) as connection:
        assert connection.transport and connection.ssl is True


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.b", "a.b", True), ("a.b", "a", False), ("a.*", "a.b", True), ("a.*", "a.b.c", False), ("#", "", True),
        ("#", "a.b.c", True), ("a.#", "a", True), ("a.#.d", "a.b.c.d", True), ("a.#.d", "a.b.c", False),
        ("*.*", "a.b", True), ("*", "", True), ("#.#.#.x", "a." * 200 + "y", False), ("worker.*", "worker.online", True),
    ],
)  # fmt: skip
def test_topics(pattern, key, matches):
    bindings = Bindings()
    bindings.declare("events", "topic")
    bindings.bind("queue", "events", pattern)
    assert bindings.allows("queue", "events", key) is matches
    assert topic_matches(pattern.split("."), key.split(".")) is matches
    assert not bindings.allows("queue", "other", key) and not bindings.allows("other", "events", key)


def test_the_memory_of_a_process_forgets_what_is_too_old_and_no_more_than_it_holds():
    memory = ProcessMemory(capacity=3)
    now = time.time()
    assert memory.remember(b"a", now + 10, now) and not memory.remember(b"a", now + 10, now)
    assert memory.contains(b"a") and not memory.contains(b"b")
    assert memory.remember(b"b", now - 1, now - 2) and not memory.contains(b"b")
    for key in (b"c", b"d", b"e"):
        memory.remember(key, now + 20, now)
    assert len(memory._until) == 3 and memory.contains(b"e")
    with pytest.raises(queues.Empty):
        queues.Queue().get(block=False)
