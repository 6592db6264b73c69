"""Messages through sealed transports, and somebody who writes to the broker without any key."""

import copy
import json
import socket
import time

import amqp
import kombu
import redis as redis_py
from kombu.transport import filesystem, memory

import taskseal
from support.servers import wait_for
from taskseal.celery.sealing import Sealing

BODY = [["Ålice", "secret-argument"], {"kw": 1}, {}]
HEADERS = {"task": "tasks.secret-name", "id": "an-id", "lang": "py"}


def sealing_of(signer, trusted, **options):
    store = options.pop("store", None) or taskseal.CertStore([one.native for one in trusted])
    return Sealing(signer.signer(), store, **options)


def client(address):
    return redis_py.Redis.from_url(f"redis://{address}/0")


def place_of(kind, request, tmp_path):
    """URL and options of a transport, with nothing in it."""
    if kind == "redis":
        address = request.getfixturevalue("redis")
        client(address).flushall()
        return f"sealed-redis://{address}/0", {}
    if kind == "amqp":
        address = request.getfixturevalue("rabbitmq")
        with plain_amqp(address) as connection:
            for queue in ("tasks", "other"):
                connection.channel().queue_delete(queue)
        return f"sealed-amqp://{address}//", {}
    if kind == "filesystem":
        (tmp_path / "queue").mkdir()
        (tmp_path / "control").mkdir()
        filesystem.Transport.global_state.clear()
        return "sealed-filesystem://", {"data_folder_in": str(tmp_path / "queue"),
                                        "data_folder_out": str(tmp_path / "queue"),
                                        "control_folder": str(tmp_path / "control")}  # fmt: skip
    memory.Channel.queues.clear()
    memory.Transport.global_state.clear()
    return "sealed-memory://", {}


def plain_amqp(address):
    connection = amqp.Connection(address.split("@")[1], userid="guest", password="guest")
    connection.connect()
    return connection


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


def consume(connection, queue=None, *, no_ack=False, timeout=1.0, ack=True, enough=100, seconds=60, **options):
    """Everything that comes: until nothing comes any more for a time, or `seconds` are over."""
    got = []
    end = time.monotonic() + seconds

    def on_message(message):
        got.append(message)
        if ack and not no_ack:
            message.ack()

    # A consumer that does not keep its messages has a connection of its own: a former one may still wait for queues that
    # nobody consumes any more.
    own = connection.clone() if ack else connection
    if own.transport.driver_type == "amqp":
        # What another connection sent may be on its way.
        timeout = max(timeout, 0.7)
    with own.Consumer([queue or tasks()], on_message=on_message, no_ack=no_ack, accept=["json"], **options):
        while len(got) < enough and time.monotonic() < end:
            try:
                own.drain_events(timeout=timeout)
            except socket.timeout:
                break
    if ack:
        for message in got:
            message.channel = None
        own.release()
    return got


class Broker:
    """Somebody who reads and writes the queues of a broker of kombu's virtual transports without any key."""

    def __init__(self, url, sealing):
        self.url = url
        self.connection = connect(url, sealing)
        self.channel = self.connection.default_channel

    def take(self):
        """The oldest message, as it is stored."""
        return super(type(self.channel), self.channel)._get("tasks")

    def put(self, raw, queue="tasks"):
        self.channel._put(queue, raw)

    def close(self):
        self.connection.release()


class AmqpBroker:
    """The same for AMQP. Messages have the form of those of the virtual transports."""

    def __init__(self, url, sealing):
        self.url = url
        self.connection = connect(url, sealing)
        self.channel = self.connection.default_channel
        self.plain = plain_amqp(url[0].removeprefix("sealed-amqp://").removesuffix("//"))
        self.plain_channel = self.plain.channel()

    def take(self):
        message = wait_for(lambda: self.plain_channel.basic_get("tasks", no_ack=True), 10)
        properties = dict(message.properties)
        return {
            "body": message.body,
            "content-type": properties.pop("content_type"),
            "content-encoding": properties.pop("content_encoding"),
            "headers": properties.pop("application_headers", {}),
            "properties": properties,
        }

    def put(self, raw, queue="tasks"):
        body = raw["body"] if isinstance(raw["body"], (str, bytes)) else json.dumps(raw["body"])
        body = body if isinstance(body, bytes) else body.encode()
        properties = {name: raw["properties"][name] for name in ("correlation_id", "reply_to") if name in raw["properties"]}
        for name in ("content-type", "content-encoding"):
            if raw[name] is not None:
                properties[name.replace("-", "_")] = str(raw[name])
        self.plain_channel.basic_publish(
            amqp.Message(body, application_headers=raw["headers"] or {}, **properties), "", queue
        )

    def close(self):
        self.plain.close()
        self.connection.release()


def changed(raw, **parts):
    raw = copy.deepcopy(raw)
    raw.update({name.replace("_", "-"): value for name, value in parts.items()})
    return raw


def only_the_good_one(broker, connection, sealing, bad, reason, timeout=0.3, **options):
    """Puts bad messages before and after a good one: it alone comes through, and the refusals are counted."""
    before = sum(sealing.refusals.values())
    for raw in bad:
        broker.put(raw)
    publish(broker.connection, ["good"])
    for raw in bad:
        broker.put(raw)
    got = [message.payload for message in consume(connection, timeout=timeout, **options)]
    assert got == [["good"]]
    assert sum(sealing.refusals.values()) - before == 2 * len(bad)
    assert reason is None or sealing.refusals[reason] == 2 * len(bad), sealing.refusals
