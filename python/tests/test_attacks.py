"""Somebody who writes to the broker, or signs without being trusted to: what comes out of a sealed transport all the same.

Each test puts good messages beside the bad ones. These come through, and nothing is raised for the others.
"""

import base64
import datetime
import json
import os
import socket
import time
import zlib

import kombu
import pytest
from conftest import DAY, identity, usage
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.envelopes import repacked
from support.servers import wait_for
from support.transports import (
    BODY,
    HEADERS,
    changed,
    client,
    connect,
    consume,
    only_the_good_one,
    publish,
    sealing_of,
    tasks,
)

import taskseal
import taskseal.celery
from taskseal.celery import transport

transport.register()


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


#: What a header outside would change if anybody looked at it.
OUTER_HEADERS = {
    "task": {"task": "tasks.other"},
    "id": {"id": "another", "root_id": "another", "parent_id": "another"},
    "expiry": {"expires": None},
    "eta": {"eta": None},
    "retries": {"retries": 5},
    "time limits": {"timelimit": [0.3, 0.3]},
    "ignored result": {"ignore_result": True},
    "what logs show": {"shadow": "another", "argsrepr": "()", "kwargsrepr": "{}", "origin": "another@host"},
    "compression": {"compression": "zlib"},
}


@pytest.mark.parametrize("what", OUTER_HEADERS)
def test_headers_outside_count_for_nothing(stored, what):
    broker, connection, sealing = stored
    broker.take()
    headers = {**HEADERS, "expires": "2099-01-01T00:00:00", "eta": "2020-01-01T00:00:00", "retries": 1,
               "timelimit": [60, 60], "ignore_result": False, "shadow": None, "argsrepr": "('x',)"}  # fmt: skip
    publish(broker.connection, headers=headers)
    raw = broker.take()
    raw["headers"] = OUTER_HEADERS[what]
    raw["properties"].update(correlation_id="another", reply_to="nobody", priority="x", delivery_mode=[])
    raw["content-encoding"] = "rot13"
    raw["properties"]["delivery_info"] = {"exchange": "evil", "routing_key": "evil"}
    broker.put(raw)
    (message,) = consume(connection, timeout=0.3)
    assert message.headers == headers and message.payload == BODY
    assert message.properties["correlation_id"] == "an-id" and message.properties["reply_to"] == "somebody"
    assert message.delivery_info["exchange"] == "the-exchange" and message.delivery_info["routing_key"] == "task.key"
    assert not sealing.refusals


def test_the_type_of_what_was_signed_is_not_to_be_chosen(stored):
    """Neither the type that the signed envelope names nor its encoding can be another one."""
    broker, connection, sealing = stored
    raw = broker.take()
    signed = raw["body"]
    assert repacked(signed) == signed
    bad = [repacked(signed, content_type=name) for name in (
        "application/json", "application/x-yaml", "application/x-python-serialize", "application/data", "text/plain", "a/b")]
    bad += [repacked(signed, content_encoding=name) for name in ("utf-8", "utf-16", "rot13", "nonsense")]
    bad += [repacked(signed, signer="nobody 7"), repacked(signed, signature=b"\x00" * 256)]
    only_the_good_one(broker, connection, sealing, [changed(raw, body=body) for body in bad], None)
    broker.put(raw)
    assert len(consume(connection, timeout=0.3)) == 1


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
    with connect(broker.url, sealing) as connection:
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
    with connect(broker.url, sealing_of(one, [])) as theirs:
        broker.take()
        publish(theirs)
        raw = broker.take()
    if who != "stranger":
        sealing = sealing_of(alice, [alice, one])
    with connect(broker.url, sealing) as ours:
        # One from the future waits until the next one shows whose clock is wrong.
        only_the_good_one(broker, ours, sealing, [raw], reason, timeout=3 if who == "future" else 0.3)


def test_certificates_from_clocks_that_are_a_little_apart(stored, alice):
    """The skew that messages are given reaches the certificate: one made by a clock that is ahead, one that ended just now."""
    broker, _, _ = stored
    broker.take()
    second = datetime.timedelta(seconds=1)
    for name, start, end in (("ahead", 40 * second, DAY), ("ended", -DAY, -10 * second)):
        one = identity(name, nth="alice", start=start, end=end)
        with connect(broker.url, sealing_of(one, [])) as theirs:
            publish(theirs)
        with connect(broker.url, sealing_of(alice, [alice, one])) as ours:
            assert len(consume(ours, timeout=0.3)) == 1, name


def test_a_certificate_that_expires_while_a_consumer_runs(stored, alice):
    broker, _, _ = stored
    broker.take()
    short = identity("alice2", nth="alice", end=datetime.timedelta(seconds=3))
    sealing = sealing_of(alice, [alice, short], clock_skew=0.0)
    with connect(broker.url, sealing_of(short, [])) as theirs, connect(broker.url, sealing) as connection:
        publish(theirs, ["in time"])
        publish(theirs, ["too late"])
        queue = tasks()(connection.default_channel)
        queue.declare()
        message = wait_for(lambda: queue.get(accept=["json"]), 10)
        assert message.payload == ["in time"]
        message.ack()
        time.sleep(max(0, short.native.not_after - time.time()) + 0.1)
        publish(broker.connection, ["good"])
        assert [message.payload for message in consume(connection, timeout=0.3)] == [["good"]]
    assert sealing.refusals == {"expired": 1}


def test_certificates_that_come_and_go(stored, alice, bob, tmp_path):
    broker, _, _ = stored
    raw = broker.take()
    (tmp_path / "bob.pem").write_text(bob.pem)
    sealing = sealing_of(bob, [], store=taskseal.CertStore.open(tmp_path, reload_interval=0))
    with connect(broker.url, sealing) as connection:
        broker.put(raw)
        assert consume(connection, timeout=0.3) == []
        (tmp_path / "alice.pem").write_text(alice.pem)
        broker.put(raw)
        assert len(consume(connection, timeout=0.3)) == 1
        (tmp_path / "alice.pem").unlink()
        publish(broker.connection)
        publish(connection, ["good"])
        seen = []
        wait_for(lambda: seen.extend(consume(connection, timeout=0.3)) or sealing.refusals["unknown-signer"] == 2, 20)
        # What she sent is refused when her certificate can no longer be about to be written again, and stops nobody.
        assert [message.payload for message in seen] == [["good"]]
        assert sealing.refusals == {"unknown-signer": 2}


@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ([(x509.BasicConstraints(ca=True, path_length=None), True), (usage(key_cert_sign=True), True)], "key-usage"),
        ([(usage(key_encipherment=True), False)], "key-usage"),
        ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), True)], "key-usage"),
        ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)], None),
        ([(usage(digital_signature=True), True)], None),
        ([(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), True)], "critical-extension"),
        ([(x509.PrecertPoison(), True)], "critical-extension"),
        ([(x509.SubjectKeyIdentifier(b"key"), True), (x509.InhibitAnyPolicy(0), True)], None),
    ],
)
def test_certificates_that_are_not_for_signatures(stored, alice, extensions, reason):
    broker, _, _ = stored
    broker.take()
    one = identity("alice2", nth="alice", extensions=extensions)
    sealing = sealing_of(alice, [alice, one])
    with connect(broker.url, sealing_of(one, [])) as theirs, connect(broker.url, sealing) as connection:
        publish(theirs, ["theirs"])
        publish(broker.connection, ["good"])
        got = sorted(message.payload for message in consume(connection, timeout=0.3))
    assert got == ([["good"]] if reason else [["good"], ["theirs"]])
    assert sealing.refusals == ({reason: 1} if reason else {})


def test_old_messages_are_refused(stored, alice):
    broker, _, _ = stored
    raw = broker.take()
    time.sleep(1.2)
    broker.put(raw)
    sealing = sealing_of(alice, [alice], max_age=1.0, clock_skew=0.0)
    with connect(broker.url, sealing) as connection:
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
    with connect(broker.url, encrypting) as theirs:
        assert consume(theirs, timeout=0.3) == []
        assert encrypting.refusals == {"token": 1}
        publish(theirs)
        assert consume(connection, timeout=0.3) == []
        assert sum(sealing.refusals.values()) == 1


@pytest.mark.parametrize("stored", ["memory", "redis"], indirect=True)
def test_frames_that_are_none_are_refused(stored):
    broker, connection, sealing = stored
    raw = broker.take()
    properties = raw["properties"]
    bad = [without(raw, name) for name in ("body", "content-type", "properties")] + [{}, {"properties": {}}]
    bad += [changed(raw, properties=value) for value in (None, [], "x", 7)]
    bad += [changed(raw, properties={**properties, "body_encoding": "base64"})]
    bad += [changed(raw, body=body) for body in (None, 7, [], {}, raw["body"] + "Å", "\ud800")]
    only_the_good_one(broker, connection, sealing, bad, None)


def without(whole, name):
    return {key: value for key, value in whole.items() if key != name}


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
        stolen = wait_for(lambda: channel.basic_get("tasks", no_ack=True), 10)
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
        # From two connections they come in any order.
        assert sorted([message.payload for message in consume(connection)], key=str) == [["good"], BODY]
        assert sum(sealing.refusals.values()) == 3 * len(bodies) + 2 and sealing.refusals["replayed"] == 2
        # Nothing is left that would be delivered again.
        assert channel.basic_get("tasks") is None
        plain.close()


def test_nothing_is_decompressed_before_it_is_verified(stored, monkeypatch):
    broker, connection, sealing = stored
    raw = broker.take()
    used = []
    monkeypatch.setattr("kombu.message.decompress", lambda body, method: used.append(method))
    monkeypatch.setattr("taskseal.celery.sealing.decompress", lambda body, method, max_len: used.append(method))
    compressed = base64.b64encode(zlib.compress(b"[]")).decode()
    bad = [changed(raw, body=body, content_type=content_type, headers={**HEADERS, "compression": "zlib"})
           for body in (compressed, compressed[:-4], raw["body"][:-8])
           for content_type in ("application/json", raw["content-type"])]  # fmt: skip
    only_the_good_one(broker, connection, sealing, bad, None)
    assert used == []


@pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma"])
def test_what_a_trusted_signer_compressed_has_a_limit(stored, alice, method):
    broker, _, _ = stored
    broker.take()
    sealing = sealing_of(alice, [alice], max_body_len=100_000)
    with connect(broker.url, sealing) as connection:
        for length in (99_996, 99_997, 30_000_000):  # and four more in JSON
            publish(broker.connection, ["x" * length], compression=method)
        publish(broker.connection, ["good"])
        got = [message.payload for message in consume(connection, timeout=0.3)]
    assert got == [["x" * 99_996], ["good"]] and sealing.refusals == {"too-large": 2}


@pytest.mark.parametrize(
    ("method", "body"),
    [("gzip", b"garbage"), ("gzip", zlib.compress(b"[1]")[:-1]), ("gzip", zlib.compress(b"[1]") + b"x"), ("gzip", "text"),
     ("application/x-bz2", b"x"), ("application/x-lzma", b"\xfd7zXZ\x00" + b"\xff" * 50), ("none-of-kombu's", b"x"), (7, b"x"),
     (["gzip"], b"x")],
)  # fmt: skip
def test_what_a_trusted_signer_did_not_compress_well_is_no_message(stored, alice, method, body):
    broker, connection, sealing = stored
    broker.take()
    headers = {**HEADERS, "compression": method}
    # kombu compresses, or not, by its own argument alone: here the header is wrong.
    broker.connection.Producer().publish(
        body, exchange="the-exchange", routing_key="task.key", headers=headers, content_type="application/json",
        content_encoding="utf-8",
    )  # fmt: skip
    publish(broker.connection, ["good"])
    assert [message.payload for message in consume(connection, timeout=0.3)] == [["good"]]
    assert sealing.refusals == {"not-a-message": 1}


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


def test_what_is_no_message_at_all_can_be_kept_too(redis, alice):
    client(redis).flushall()
    sealing = sealing_of(alice, [alice], refused="dead-letter", dead_letter_queue="refused")
    garbage = [b"\xff\xfe", b"{", b"7", b'"x"', b"[1, 2]", b"not JSON", "Å".encode()]
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        publish(connection, ["declares"])
        for item in garbage:
            client(redis).lpush("tasks", item)
        consume(connection, timeout=0.3)
        client(redis).hset("unacked", "a-tag", b"no entry")
        client(redis).zadd("unacked_index", {"a-tag": 1})
        connection.default_channel.qos.restore_visible(interval=1)
    # A plain kombu can look at them.
    with kombu.Connection(f"redis://{redis}/0") as plain:
        kept = []
        while True:
            message = plain.default_channel.basic_get("refused", no_ack=True)
            if message is None:
                break
            kept.append((message.content_type, bytes(message.body)))
    assert sorted(kept) == sorted(("application/octet-stream", item) for item in [*garbage, b"no entry"])
    assert sealing.refusals == {"malformed": len(kept)}
