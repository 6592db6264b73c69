"""Sealed transports at the level of kombu: what goes in comes out, what the broker sees, and where it goes."""

import base64
import json
import ssl

import kombu
import pytest
from conftest import tls_files
from kombu.exceptions import OperationalError
from support.servers import rabbitmq_server, redis_server
from support.transports import BODY, HEADERS, client, connect, consume, place_of, publish, sealing_of, tasks

import taskseal
import taskseal.celery
from taskseal.celery import sealing as sealings
from taskseal.celery import transport
from taskseal.celery.sealing import Bindings, topic_matches

transport.register()


@pytest.fixture(params=["memory", "filesystem", "redis", "amqp"])
def url(request, tmp_path):
    """URL and options of each transport, with nothing in it."""
    return place_of(request.param, request, tmp_path)


@pytest.fixture(params=["signed", "encrypted"])
def keys(request):
    return [taskseal.Fernet(taskseal.Fernet.generate_key())] if request.param == "encrypted" else []


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
    assert first.delivery_info["signer"] == alice.native.id
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
        # Where it was sent to, or of one that was taken out the queue alone.
        assert "task" in seen
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
    with redis_server(tmp_path, tls=tls_files(tmp_path / "tls", "localhost")) as address:
        port = address.split(":")[1]
        urls = {
            f"sealed-rediss://localhost:{port}/0": False,
            f"sealed-redis://localhost:{port}/0": False,
            f"sealed-rediss://localhost:{port}/0?ssl_ca_certs={tmp_path}/tls/ca.pem": True,
            f"sealed-rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}/tls/ca.pem": False,
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


def test_amqps_compares_the_name_of_the_server(tmp_path, alice):
    sealing = sealing_of(alice, [alice])
    ca = {"ca_certs": f"{tmp_path}/tls/ca.pem"}
    with rabbitmq_server(tmp_path, tls=tls_files(tmp_path / "tls", "another.example")) as address:
        for url, options, works in (
            (f"sealed-amqps://{address}//", True, False),
            (f"sealed-amqps://{address}//", {}, False),
            (f"sealed-amqps://{address}//", ca, False),
            (f"sealed-amqp://{address}//", False, False),
            (f"sealed-amqps://{address}//", {**ca, "server_hostname": "another.example"}, True),
            (f"sealed-amqps://{address}//", {"cert_reqs": ssl.CERT_NONE}, True),
        ):
            with kombu.Connection(url, ssl=options, transport_options={"sealing": sealing}, connect_timeout=3) as connection:
                if works:
                    publish(connection)
                    assert len(consume(connection, enough=1)) == 1
                else:
                    with pytest.raises(OperationalError):
                        connection.ensure_connection(max_retries=1, interval_start=0)


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
