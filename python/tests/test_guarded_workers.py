"""Workers against messages that are well written and make no sense: they live, and nothing is stored for such messages."""

import base64
import json
import struct

import kombu
import pytest
import redis as redis_py
from amqp.exceptions import FrameSyntaxError
from support.log import refusals_in
from support.odd import COMMANDS, ELECTIONS, EVENTS, HEADERS, TASK_BODIES, UNSIGNED, frames
from support.servers import wait_for
from support.transports import sealing_of
from support.workers import Worker, client, place, worker

import taskseal
from taskseal.errors import SealError


def victims(address):
    """The results that a worker stored for ids that nobody used who may."""
    store = redis_py.Redis.from_url(f"redis://{address}/1")
    return [key for key in store.keys() if b"victim" in key]


@pytest.fixture(params=["redis", "amqp"])
def broker(request, redis):
    """A broker in which nothing is, by its plain URL."""
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    url = f"redis://{redis}/0" if request.param == "redis" else f"amqp://{request.getfixturevalue('rabbitmq')}//"
    with kombu.Connection(url) as connection:
        connection.default_channel.queue_declare("celery", durable=True, auto_delete=False)
        connection.default_channel.queue_purge("celery")
    return url


@pytest.fixture
def where(broker, tmp_path, alice, redis):
    """An application that signs bodies, over kombu's own transports."""
    return place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                 TEST_EVENTS="auth")  # fmt: skip


class Outsider:
    """Somebody who writes to the broker without a key."""

    def __init__(self, broker):
        self.connection = kombu.Connection(broker)
        self.channel = self.connection.default_channel
        self.exchanges = {
            name: kombu.Exchange(name, type=type, durable=durable)(self.channel)
            for name, type, durable in (
                ("celery.pidbox", "fanout", False),
                # As Celery has it.
                ("celeryev", "fanout" if broker.startswith("redis") else "topic", True),
            )
        }

    def genuine(self, where, *arguments):
        """The body and the headers of a message that a trusted signer sent."""
        client(where, "send.py", *arguments)
        message = wait_for(lambda: self.channel.basic_get("celery", no_ack=True), 20)
        return message.body if isinstance(message.body, str) else message.body.decode(), dict(message.headers)

    def send(self, body, headers, content_type="application/data", content_encoding="utf-8", exchange="", routing_key="celery"):
        message = self.channel.prepare_message(
            body.encode(), 0, content_type, content_encoding, headers, {"delivery_mode": 2, "correlation_id": "x"}
        )
        if exchange:
            self.exchanges[exchange].declare()
        self.channel.basic_publish(message, exchange=exchange, routing_key=routing_key)


def every_odd_message():
    """Text, headers, exchange and routing key of each."""
    task = {"task": "run", "lang": "py"}
    for number, (text, odd) in enumerate(TASK_BODIES):
        headers = {**task, "id": f"victim-{number}", **odd}
        yield text, {key: value for key, value in headers.items() if value is not None}, "", "celery"
    for number, odd in enumerate(HEADERS):
        yield '[["x"], {}, {}]', {**task, "id": f"victim-h{number}", **odd}, "", "celery"
    for text, headers in COMMANDS:
        yield text, headers, "celery.pidbox", ""
    for text in EVENTS:
        yield text, {"hostname": "other@host"}, "celeryev", "worker.heartbeat"
    for text in ELECTIONS:
        for event in ("worker.elect", "worker.elect.ack"):
            yield text, {"hostname": "other@host"}, "celeryev", event


class Signer(Outsider):
    """A trusted signer of bodies that sends what it likes."""

    def __init__(self, broker, identity):
        super().__init__(broker)
        self.sealer = taskseal.Sealer(identity.signer())

    def attempt(self, odd):
        """Whether it can be sent at all: not everything can be written in the headers of every broker."""
        if any(value != value for value in odd[1].values()):
            return False  # RabbitMQ ends the connection
        try:
            self.sign(*odd)
        except (SealError, FrameSyntaxError, struct.error):
            return False
        return True

    def sign(self, text, headers, exchange, routing_key):
        self.send(self.sealer.seal_bytes(text), headers, exchange=exchange, routing_key=routing_key)


class Sealer(Signer):
    """The same for whole messages."""

    def __init__(self, broker, identity):
        super().__init__(broker, identity)
        self.sealing = sealing_of(identity, [identity])

    def sign(self, text, headers, exchange, routing_key):
        message = {"body": text, "content-type": "application/json", "content-encoding": "utf-8", "headers": headers,
                   "properties": {"correlation_id": "x", "delivery_mode": 2}}  # fmt: skip
        sealed = self.sealing.sealer.seal(json.dumps(message), exchange=exchange, routing_key=routing_key)
        self.send(sealed, {}, "application/x-taskseal", exchange=exchange, routing_key=routing_key)


def test_nothing_is_done_for_a_message_that_nobody_signed(where, broker, redis):
    """Nor for a signed body under headers that Celery never writes."""
    outsider = Outsider(broker)
    body, headers = outsider.genuine(where, "run", "stolen")
    with worker(where, "-P", "prefork", "-c", "1", "-E", app="signed_app") as running:
        client(where, "send.py", "run", "good 0")
        for number, (text, odd, types) in enumerate(UNSIGNED):
            outsider.send(text, {**headers, "id": f"victim-{number}", **odd}, **types)
            # The mailbox and the events are read as well.
            outsider.send(text, {"clock": 1}, exchange="celery.pidbox", routing_key="", **types)
            for event in ("worker.heartbeat", "worker.elect", "worker.elect.ack"):
                outsider.send(text, {"hostname": "other@host"}, exchange="celeryev", routing_key=event, **types)
        for odd in HEADERS:
            outsider.send(body, {**headers, **odd})
        client(where, "send.py", "run", "good 1")
        wait_for(lambda: {"good 0", "good 1"} <= set(where.witness), 60)
        wait_for(lambda: refusals_in(running.log) >= 5 * len(UNSIGNED) + len(HEADERS), 30)
        assert set(where.witness) == {"good 0", "good 1"} and running.process.poll() is None
        assert victims(redis) == [] and running.log.count("Traceback") == 0, running.log[-5000:]


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_what_is_no_message_of_kombus_ends_no_worker(tmp_path, alice, redis, pool):
    """Under kombu's own URL of Redis, in queues, broadcasts and what is unacknowledged."""
    store = redis_py.Redis.from_url(f"redis://{redis}/0")
    store.flushall()
    where = place(tmp_path, alice, f"redis://{redis}/0", f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_EVENTS="auth")  # fmt: skip
    client(where, "send.py", "run", "stolen")
    genuine = json.loads(store.lpop("celery"))
    with worker(where, "-P", pool, "-c", "1", "-E", app="signed_app") as running:
        items = frames(genuine)
        for number, item in enumerate(items):
            store.lpush("celery", item)
            store.publish("/0.celery.pidbox", item)
            store.publish("/0.celeryev/worker.heartbeat", item)
            store.hset("unacked", f"tag {number}", item)
            store.zadd("unacked_index", {f"tag {number}": 0})
            if number % 10 == 0:
                client(where, "send.py", "run", f"good {number}")
        good = {f"good {number}" for number in range(0, len(items), 10)}
        wait_for(lambda: good <= set(where.witness) and store.llen("celery") == 0, 60)
        client(where, "send.py", "two-results")
        assert running.process.poll() is None and "Connection to broker lost" not in running.log
        assert set(where.witness) <= {*good, "stolen"} and "Traceback" not in running.log, running.log[-5000:]


@pytest.mark.parametrize(("kind", "pool"), [("signed", "prefork"), ("sealed", "solo")])
def test_a_trusted_signer_with_odd_messages_stops_no_worker(broker, tmp_path, alice, redis, kind, pool):
    """Tasks, remote control and events that are signed, and that no Celery writes. Each is refused by itself."""
    prefix, app = ("", "signed_app") if kind == "signed" else ("sealed-", "sealed_app")
    where = place(tmp_path, alice, prefix + broker, f"{prefix}redis://{redis}/1", TEST_APP=app, TEST_SECURITY="ours",
                  TEST_EVENTS="auth")  # fmt: skip
    sender = (Signer if kind == "signed" else Sealer)(broker, alice)
    with worker(where, "-P", pool, "-c", "1", "-E", app=app) as running:
        client(where, "send.py", "run", "good 0")
        sent = sum(map(sender.attempt, every_odd_message()))
        client(where, "send.py", "run", "good 1")
        wait_for(lambda: {"good 0", "good 1"} <= set(where.witness), 60)
        wait_for(lambda: refusals_in(running.log) >= sent, 30)
        # It is well: tasks run, it answers, and what it sends can be read.
        client(where, "send.py", "two-results")
        assert set(where.witness) == {"good 0", "good 1"} and running.process.poll() is None
        assert refusals_in(running.log) == sent and sent > 250 and victims(redis) == []
        assert running.log.count("Traceback") == 0, running.log[-5000:]


def test_what_others_answer_when_a_worker_starts(tmp_path, alice, redis):
    """The mailbox for answers is anybody's. What nobody signed is left out of them; odd ones keep no worker from starting."""
    store = redis_py.Redis.from_url(f"redis://{redis}/0")
    store.flushall()
    broker = f"redis://{redis}/0"
    where = place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_EVENTS="auth")  # fmt: skip
    sign = taskseal.Sealer(alice.signer()).seal_bytes
    unsigned = ["", "null", "7", '{"a": {"clock": 7}}', sign('{"a": {}}').replace("A", "B")]
    odd = [sign(text) for text in ("7", '{"a": 7}', '{"a": {"clock": "x", "revoked": 7}}', '{"a": {"clock": 1, "revoked": [[1]]}}')]
    with worker(where, "-P", "solo", app="signed_app", name="other"):
        asks_with(where, store, broker, unsigned, name="first")
        log = (tmp_path / "first.log").read_text()
        assert "mingle: sync with 1 nodes" in log and refusals_in(log) == len(unsigned)
        for number, answer in enumerate(odd[:2]):
            asks_with(where, store, broker, [answer, *odd], name=f"odd{number}")


def asks_with(where, store, broker, answers, name):
    """Starts a worker that gets these answers to its question who else is there."""
    with store.pubsub() as listener:
        listener.psubscribe("/0.celery.pidbox*")
        started = Worker(where, "-P", "solo", app="signed_app", name=name)
        try:
            asked = wait_for(lambda: question(listener), 60)
            for text in answers:
                publish_answer(broker, asked, text)
            started.ready()
            client(where, "send.py", "two-results")
        finally:
            started.stop()


def question(listener):
    """Where the answers go to, of a command that wants some."""
    message = listener.get_message(timeout=0.1)
    if message and message["type"] == "pmessage":
        frame = json.loads(message["data"])
        body = json.loads(taskseal.inspect_unverified(base64.b64decode(frame["body"]))["body"])
        return body.get("reply_to") and body
    return None


def publish_answer(broker, asked, text):
    with kombu.Connection(broker) as connection:
        channel = connection.default_channel
        reply = asked["reply_to"]
        message = channel.prepare_message(text.encode(), 0, "application/data", "utf-8",
                                          {"ticket": asked["ticket"], "clock": 1}, {})  # fmt: skip
        exchange = kombu.Exchange(reply["exchange"], type="direct", durable=False)(channel)
        exchange.declare()
        channel.basic_publish(message, exchange=exchange.name, routing_key=reply["routing_key"])
