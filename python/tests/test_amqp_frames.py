"""What a publisher over AMQP chooses byte by byte: it ends no consumer, and no worker."""

import contextlib
import random
import time
from struct import pack

import amqp
import kombu
import pytest
from amqp import spec
from amqp.exceptions import FrameSyntaxError
from support.raw_amqp import HARD_PROPERTIES, SEALED, Publisher, hard_properties, properties
from support.servers import wait_for
from support.transports import BODY, connect, consume, place_of, plain_amqp, publish, sealing_of, tasks
from support.workers import client, worker
from support.workers import place as worker_place

from taskseal.celery import transport
from taskseal.celery.sealing import CONTENT_TYPE
from taskseal.celery.transport import frames

transport.register()

#: Routing keys that are no text.
NO_TEXT = [b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\x80" * 255]


@pytest.fixture
def place(request, rabbitmq, tmp_path):
    return place_of("amqp", request, tmp_path)


@contextlib.contextmanager
def publisher(address):
    one = Publisher(address)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("no_ack", [False, True])
def test_properties_that_cannot_be_read_are_refused_with_their_message(place, rabbitmq, alice, no_ack):
    sealing = sealing_of(alice, [alice])
    with connect(place, sealing) as connection, publisher(rabbitmq) as raw:
        publish(connection, ["declares"])
        for name, each in HARD_PROPERTIES.items():
            assert raw.publish(b"garbage", each, routing_key=b"tasks"), name
        publish(connection, ["good"])
        got = [message.payload for message in consume(connection, no_ack=no_ack)]
        assert sorted(got) == [["declares"], ["good"]]
        assert sum(sealing.refusals.values()) == len(HARD_PROPERTIES)
        assert consume(connection, timeout=0.2) == []


def test_properties_outside_that_cannot_be_read_count_for_nothing(place, rabbitmq, alice):
    """A genuine message comes out whatever somebody put beside it, by a consumer and when it is asked for."""
    with connect(place, sealing_of(alice, [alice])) as connection, publisher(rabbitmq) as raw, plain_amqp(rabbitmq) as plain:
        queue = tasks()(connection.default_channel)
        for name, each in HARD_PROPERTIES.items():
            if each == properties() or name.startswith("a content type"):
                continue
            for get in (lambda: consume(connection, enough=1)[0], lambda: wait_for(queue.get, 10)):
                publish(connection)
                stolen = wait_for(lambda: plain.channel(1).basic_get("tasks", no_ack=True), 10)
                assert raw.publish(stolen.body.encode(), each, routing_key=b"tasks"), name
                message = get()
                assert message.payload == BODY and message.properties["correlation_id"] == "an-id", name
                assert message.delivery_info["routing_key"] == "task.key"


def test_routing_keys_that_are_no_text(place, rabbitmq, alice):
    """A fanout exchange hands on whatever routing key somebody chose. (No exchange can have such a name.)"""
    sealing = sealing_of(alice, [alice])
    queue = kombu.Queue("hears-frames", kombu.Exchange("frames", type="fanout"), routing_key="n")
    with connect(place, sealing) as connection, publisher(rabbitmq) as raw:
        queue(connection.default_channel).declare()
        for key in NO_TEXT:
            assert raw.publish(b"garbage", exchange=b"frames", routing_key=key)
        publish(connection, ["good"], queue=queue)
        assert [message.payload for message in consume(connection, queue)] == [["good"]]
        for key in NO_TEXT:
            assert raw.publish(b"garbage", exchange=b"frames", routing_key=key)
        publish(connection, ["better"], queue=queue)
        assert wait_for(queue(connection.default_channel).get, 10).payload == ["better"]
        queue(connection.default_channel).delete()
        assert sealing.refusals == {"malformed": 2 * len(NO_TEXT)}


def test_a_body_that_is_too_long_is_not_gathered(place, rabbitmq, alice):
    sealing = sealing_of(alice, [alice], max_len=200_000)
    seen = []
    with connect(place, sealing) as connection, publisher(rabbitmq) as raw:
        publish(connection, ["x" * 120_000])
        for length in (200_001, 5_000_000):
            assert raw.publish(b"x" * length, routing_key=b"tasks")
        publish(connection, ["good"])
        opener = sealing.opener

        class Watched:
            def open(self, wire):
                seen.append(len(wire))
                return opener.open(wire)

        sealing.opener = Watched()
        got = [message.payload for message in consume(connection)]
        assert sorted(got) == [["good"], ["x" * 120_000]]
        assert sealing.refusals == {"too-large": 2} and len(seen) == 2
        # The same when they are asked for.
        queue = tasks()(connection.default_channel)
        raw.publish(b"x" * 5_000_000, routing_key=b"tasks")
        publish(connection, ["better"])
        assert wait_for(queue.get, 10).payload == ["better"]


def test_many_properties_by_chance(place, rabbitmq, alice):
    sealing = sealing_of(alice, [alice])
    source = random.Random(7)
    sent = 0
    with connect(place, sealing) as connection, publisher(rabbitmq) as raw:
        publish(connection, ["declares"])
        for _ in range(300):
            sent += raw.publish(source.randbytes(source.randrange(50)), hard_properties(source), routing_key=b"tasks")
        publish(connection, ["good"])
        assert sorted(message.payload for message in consume(connection)) == [["declares"], ["good"]]
    assert sent > 250 and sum(sealing.refusals.values()) == sent


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_lives_through_all_of_it(tmp_path, rabbitmq, alice, pool):
    """In the queue of its tasks, among its remote control and its events: what is behind runs, by the same process."""
    where = worker_place(tmp_path, alice, f"sealed-amqp://{rabbitmq}//", "rpc://")
    with plain_amqp(rabbitmq) as plain:
        plain.channel(1).queue_delete("celery")
    # Debugging shows each of the refusals.
    with worker(where, "-P", pool, "-c", "1", "-E", "-l", "debug") as running, publisher(rabbitmq) as raw:
        sent = 0
        for name, each in HARD_PROPERTIES.items():
            for exchange, key in ((b"", b"celery"), (b"celery.pidbox", b""), (b"celeryev", b"worker.heartbeat")):
                assert raw.publish(b"garbage", each, exchange, key), name
                sent += 1
        for key in NO_TEXT:
            assert raw.publish(b"garbage", exchange=b"celery.pidbox", routing_key=key)
            assert raw.publish(b"garbage", exchange=b"celeryev", routing_key=b"worker." + key[:200])
            sent += 2
        client(where, "send.py", "run", "good")
        wait_for(lambda: "good" in where.witness, 30)
        wait_for(lambda: running.log.count("refused:") >= sent, 30)
        assert running.process.poll() is None and "Connection to broker lost" not in running.log
        assert client(where, "send.py", "pids", "1").strip()
    assert "Traceback" not in running.log


def test_a_worker_lives_when_somebody_deletes_what_it_uses(tmp_path, rabbitmq, alice):
    """Queues and exchanges: it makes its connection again, and they are there again."""
    where = worker_place(tmp_path, alice, f"sealed-amqp://{rabbitmq}//", "rpc://")
    with worker(where, "-P", "solo", "-E") as running, plain_amqp(rabbitmq) as plain:
        time.sleep(1)  # Celery does not look at what comes in the first moment.
        channel = plain.channel()
        for kind, name in (("queue", "celery"), ("exchange", "celeryev"), ("exchange", "celery")):
            before = running.log.count("Connected to")
            getattr(channel, f"{kind}_delete")(name)
            if name != "celery" or kind == "queue":
                wait_for(lambda: running.log.count("Connected to") > before or running.process.poll() is not None, 60)
            client(where, "send.py", "run", f"{kind} {name}")
            wait_for(lambda: f"{kind} {name}" in where.witness or running.process.poll() is not None, 60)
            assert running.process.poll() is None, running.log[-3000:]
        assert client(where, "send.py", "pids", "1").strip()


# --- Frames that only a broker can send ---

DELIVERY = pack(">HH", *spec.Basic.Deliver) + b"\x01t" + pack(">QB", 7, 1)


def test_what_is_left_of_a_delivery():
    assert frames.method(DELIVERY + b"\x02\xff\xfe\x01\xff") == DELIVERY + b"\x00\x00"
    got = pack(">HH", *spec.Basic.GetOk) + pack(">QB", 7, 1)
    assert frames.method(got + b"\x02\xff\xfe\x01\xff" + pack(">I", 3)) == got + b"\x00\x00" + pack(">I", 3)


def test_what_is_left_of_a_header():
    begin = pack(">HHQ", 60, 0, 5)
    sealed = properties(content_type=SEALED)
    for name, each in HARD_PROPERTIES.items():
        left, length = frames.header(begin + each, 100)
        assert length == 5
        if name.startswith("a content type") or each == properties():
            assert read(left).properties.get("content_type") != CONTENT_TYPE
        else:
            assert left == begin + sealed, name
    # What the broker looks at stays, for a message that is put into a queue again.
    outside = {"content_type": SEALED, "delivery_mode": 2, "priority": 7, "expiration": b"60000"}
    whole = begin + properties(**outside, headers=b"\xff" * 50, correlation_id=b"\xff", reply_to=b"\xff", message_id=b"\xff")
    assert frames.header(whole, 100)[0] == begin + properties(**outside)
    # Cut anywhere.
    for end in range(14, len(whole)):
        assert read(frames.header(whole[:end], 100)[0]).properties.items() <= read(begin + properties(**outside)).properties.items()


def read(header):
    message = amqp.Message()
    message.inbound_header(header)
    return message


def test_a_body_that_claims_to_be_huge():
    left, length = frames.header(pack(">HHQ", 60, 0, 2**63) + properties(content_type=SEALED), 100)
    message = read(left)
    assert length == 2**63 and message.ready and message.properties["type"] == frames.TOO_LARGE


@pytest.mark.parametrize(
    "frame",
    [
        (1, b""), (1, b"\x00"), (1, DELIVERY[:-1]), (1, DELIVERY[:5]), (1, pack(">HH", *spec.Basic.GetOk) + b"\x00" * 12),
        (1, pack(">HH", *spec.Queue.DeclareOk) + b"\x05abc"), (1, pack(">HH", *spec.Connection.Start) + b"\x00\x09\xff"),
        (1, pack(">HH", *spec.Connection.Close) + b"\x00"), (2, b""), (2, b"\x00" * 13), (2, b"\x00\x3d" + b"\x00" * 12),
        (2, pack(">HHQH", 60, 0, 1, 0)), (3, b"x"), (9, b"x"),
    ],
)  # fmt: skip
def test_a_broker_that_does_not_speak_amqp_is_left(frame):
    """As a lost connection, which a worker makes again: not as an error of its own, which ends it."""

    class Connection:
        bytes_recv = 0

    on_frame = frames.reader(100)(Connection(), lambda *_: None)
    with pytest.raises(amqp.Connection.connection_errors):
        on_frame((frame[0], 1, frame[1]))


def test_a_sentence_of_the_broker_that_it_cut_can_be_read():
    """It writes names into its sentences, and cuts these after 255 bytes."""
    text = ("NOT_FOUND - no queue " + "😀" * 60).encode()[:253] + b"..."
    for end in (252, 253, 254):
        cut = text[:end]
        frame = pack(">HHH", *spec.Channel.Close, 404) + pack(">B", len(cut)) + cut + pack(">HH", *spec.Queue.Declare)
        values, _ = amqp.serialization.loads("BsBB", frames.method(frame), 4)
        assert values[0] == 404 and values[1].startswith("NOT_FOUND - no queue 😀") and tuple(values[2:]) == spec.Queue.Declare


def test_a_queue_with_a_long_name_that_is_not_there(place, alice):
    with connect(place, sealing_of(alice, [alice])) as connection:
        with pytest.raises(amqp.NotFound):
            connection.default_channel.queue_declare("x" + "😀" * 63, passive=True)
        publish(connection)
        assert len(consume(connection)) == 1
