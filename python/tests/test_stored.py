"""What is stored around a sealed message is somebody else's: no part of it is used, kept or given back as it came."""

import json
import uuid

import kombu
import pytest
from support.transports import BODY, changed, client, connect, consume, publish, sealing_of, tasks

from taskseal.celery import transport
from taskseal.celery.transport.stored import Frame, garbage
from taskseal.errors import OpenError

transport.register()

#: Members that no encoder of anybody's takes, or that would be somebody's names for something.
ODD = {
    "surrogate": "\ud800",
    "nested": "DEEP",
    "long number": 10**4000,
    "not a number": float("nan"),
    "type of kombu's": {"__type__": "datetime", "__value__": 7},
    "list": [1, {"x": []}],
    "text": "x" * 10_000,
    "nothing": None,
}


@pytest.fixture(params=["ack", "dead-letter"])
def kept(request, redis, alice):
    """A Redis with one genuine message as it is stored, and a consumer's connection."""
    client(redis).flushall()
    sealing = sealing_of(alice, [alice], refused=request.param, dead_letter_queue="refused")
    with connect((f"sealed-redis://{redis}/0", {"visibility_timeout": 1}), sealing) as connection:
        publish(connection)
        yield client(redis), json.loads(client(redis).rpop("tasks\x06\x163")), connection, sealing


def deep(number):
    """JSON that is nested as deep as the parser just bears, or nearly."""
    return '{"a":' * number + "1" + "}" * number


def texts(raw):
    """The genuine message with odd parts in every place of its frame."""
    for value in ODD.values():
        for place in ("", "headers", "properties", "delivery_info"):
            for name in ("delivery_tag", "priority", "redelivered", "exchange", "routing_key", "content-encoding", "extra"):
                bent = json.loads(json.dumps(raw))
                whole = {"": bent, "headers": bent["headers"], "properties": bent["properties"],
                         "delivery_info": bent["properties"]["delivery_info"]}[place]  # fmt: skip
                whole[name] = value
                text = json.dumps(bent)
                for depth in (300, 900, 960, 990) if value == "DEEP" else (0,):
                    yield text.replace('"DEEP"', deep(depth)) if depth else text


def test_odd_frames_around_a_genuine_message(kept):
    """It runs once, and nothing of the frame gets anywhere: not to the unacknowledged, nor to the dead letters."""
    store, raw, connection, sealing = kept
    sent = list(texts(raw))
    for text in sent:
        store.lpush("tasks", text)
    publish(connection, ["good"], priority=0)
    got = consume(connection, timeout=0.3, ack=False)
    # Which one is handled is the first that can be read.
    assert sorted((message.payload for message in got), key=str) == [["good"], BODY]
    for entry in store.hvals("unacked"):
        assert json.loads(entry)[0] == clean(json.loads(entry)[0])
    for message in got:
        message.ack()
    assert store.hlen("unacked") == store.zcard("unacked_index") == 0
    for entry in store.lrange("refused", 0, -1):
        assert json.loads(entry) == clean(json.loads(entry))
    assert (store.llen("refused") > 0) == (sealing.refused == "dead-letter")
    # All others are its copies, or no message.
    assert sum(sealing.refusals.values()) == len(sent) - 1


def clean(frame):
    """A frame with nothing in it that a sealed transport does not write."""
    properties = frame["properties"]
    uuid.UUID(properties["delivery_tag"])
    assert type(properties["priority"]) is int and properties["body_encoding"] in ("utf-8", "base64")
    info = {name: properties["delivery_info"][name] for name in ("exchange", "routing_key")}
    assert info["exchange"] == "" and info["routing_key"] in ("tasks", "refused")
    redelivered = properties["delivery_info"].get("redelivered", False)
    assert redelivered in (True, False)
    if redelivered:
        info["redelivered"] = True
    return {"body": frame["body"], "content-type": frame["content-type"], "content-encoding": frame["content-encoding"],
            "headers": {}, "properties": {"delivery_tag": properties["delivery_tag"], "delivery_info": info,
                                          "body_encoding": properties["body_encoding"],
                                          "priority": properties["priority"]}}  # fmt: skip


def test_odd_frames_come_back_clean(kept):
    """The same through everything that gives a message back: rejecting it, and the visibility timeout."""
    store, raw, connection, sealing = kept
    raw["properties"].update(delivery_tag="\ud800", priority=6, extra="\ud800")
    store.lpush("tasks\x06\x166", json.dumps(raw).replace('"headers": {}', '"headers": {"a": ' + deep(900) + "}"))
    queue = tasks()(connection.default_channel)
    queue.get(accept=["json"]).reject(requeue=True)
    stored = json.loads(store.lindex("tasks\x06\x166", 0))
    assert stored == clean(stored) and stored["properties"]["priority"] == 6
    message = queue.get(accept=["json"])
    assert message.headers["redelivered"] is True
    with connect((f"sealed-redis://{connection.hostname}:{connection.port}/0", {"visibility_timeout": -1}), sealing) as other:
        other.default_channel.qos.restore_visible(interval=1)
    stored = json.loads(store.lindex("tasks\x06\x166", 0))
    assert stored == clean(stored) and store.hlen("unacked") == 0
    # It is still being handled here: what the broker gives out again stays this delivery, under its own tag.
    assert queue.get() is None
    assert [tag.decode() for tag in store.hkeys("unacked")] == [message.delivery_tag]
    message.ack()
    assert store.hlen("unacked") == 0 and store.llen("tasks\x06\x166") == 0
    assert not sealing.refusals


def test_two_deliveries_with_one_tag_are_remembered_both(redis, alice):
    """The tag is not the sender's to name: neither of two messages under one is forgotten when it was handled."""
    client(redis).flushall()
    sealing = sealing_of(alice, [alice])
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        raws = []
        for number in range(2):
            publish(connection, [number])
            raw = json.loads(client(redis).rpop("tasks\x06\x163"))
            raw["properties"]["delivery_tag"] = "one tag"
            raws.append(json.dumps(raw))
        for round in range(3):
            client(redis).lpush("tasks", *raws)
            got = consume(connection, timeout=0.3)
            assert sorted(message.payload for message in got) == ([[0], [1]] if round == 0 else [])
    assert sealing.refusals == {"replayed": 4}


def test_a_tag_of_somebody_elses_delivery_ends_nothing(redis, alice):
    """A copy under the tag of a message that is being handled: the first is handled on, and remembered."""
    client(redis).flushall()
    sealing = sealing_of(alice, [alice])
    with connect((f"sealed-redis://{redis}/0", {}), sealing) as connection:
        publish(connection, ["second"])
        second = json.loads(client(redis).rpop("tasks\x06\x163"))
        publish(connection, ["first"])
        (first,) = consume(connection, timeout=0.3, ack=False)
        kept = json.loads(client(redis).hget("unacked", first.delivery_tag))[0]
        second["properties"]["delivery_tag"] = first.delivery_tag
        client(redis).lpush("tasks", json.dumps(second))
        (second,) = consume(connection, timeout=0.3, ack=False)
        assert second.payload == ["second"] and second.delivery_tag != first.delivery_tag
        first.ack()
        second.ack()
        client(redis).lpush("tasks", json.dumps(kept))
        assert consume(connection, timeout=0.3, ack=False) == []
    assert sealing.refusals == {"replayed": 1}


@pytest.mark.parametrize(
    "item",
    [b"\xff", "\ud800", "text", b"", {"a": "\ud800"}, {"a": {1, 2}}, object(), None, [[]], deep(3000), 7],
    ids=lambda item: type(item).__name__,
)
def test_anything_can_be_kept(item):
    made = garbage(item, "refused")
    assert json.loads(kombu.utils.json.dumps(made)) == made
    with pytest.raises(OpenError):
        Frame.read(item)


def test_a_frame_that_is_too_long_is_not_read():
    with pytest.raises(OpenError, match="longer than 10 bytes") as raised:
        Frame.read(b"[" * 11, 10)
    assert raised.value.reason == "too-large"


def test_changed_priorities_are_numbers_or_none(kept):
    _, raw, _, _ = kept
    for value, priority in ((6, 6), (0, 0), (True, 0), ("6", 0), (-1, 0), (10**9, 0), (6.0, 0), (None, 0), ([], 0)):
        assert Frame.read(changed(raw, properties={**raw["properties"], "priority": value})).priority == priority
