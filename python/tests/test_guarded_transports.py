"""kombu's own transports, guarded, beside kombu's own: a message is the same from and to either."""

import datetime

import kombu
import pytest
from support.servers import wait_for
from support.transports import plain_amqp

from taskseal.celery.connection import guarded
from taskseal.celery.transport.plain import Unsealed

MESSAGES = [
    ({"list": [1, None, "Ålice"]}, {}),
    ({"n": 1}, {"headers": {"task": "run", "when": datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc)}, "priority": 6}),
    (b"\x00\xff\xfe", {"content_type": "application/x-some", "content_encoding": "binary"}),
    ("text", {"content_type": "text/plain", "content_encoding": "utf-8", "correlation_id": "x", "reply_to": "y"}),
    ({"n": 2}, {"compression": "zlib"}),
]


@pytest.fixture(params=["redis", "amqp", "memory", "filesystem"])
def place(request, tmp_path):
    """The URL of a broker with no queue `tasks`, and options."""
    if request.param == "redis":
        url = f"redis://{request.getfixturevalue('redis')}/0"
        with kombu.Connection(url) as connection:
            connection.default_channel.client.flushall()
        return url, {}
    if request.param == "amqp":
        address = request.getfixturevalue("rabbitmq")
        with plain_amqp(address) as plain:
            plain.channel().queue_delete("tasks")
        return f"amqp://{address}//", {}
    if request.param == "memory":
        kombu.transport.memory.Channel.queues.clear()
        return "memory://", {}
    (tmp_path / "control").mkdir()
    folder = str(tmp_path)
    return "filesystem://", {"data_folder_in": folder, "data_folder_out": folder, "control_folder": f"{folder}/control"}


def queue(connection):
    exchange = kombu.Exchange("the-exchange", type="direct")
    # AMQP's brokers know priorities only where a queue has them.
    return kombu.Queue("tasks", exchange, routing_key="a.key", max_priority=9)(connection.default_channel)


def publish(connection, body, options):
    headers = options.get("headers", {})
    if connection.transport.driver_type == "amqp":
        # AMQP's tables have times of their own.
        options = {**options, "headers": {**headers, "when": "2030"}}
    connection.Producer().publish(body, exchange="the-exchange", routing_key="a.key", **options)


def seen(connection, message):
    info = {name: message.delivery_info.get(name) for name in ("exchange", "routing_key")}
    properties = {name: message.properties.get(name) for name in ("correlation_id", "reply_to", "priority", "delivery_mode")}
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    return body, message.content_type, message.content_encoding, message.headers, info, properties


def test_messages_are_the_same(place):
    url, options = place
    refusals = Unsealed()
    ours, theirs = (kind(url, transport_options=options) for kind in (guarded(refusals), kombu.Connection))
    with ours, theirs:
        queue(ours).declare()
        queue(theirs).declare()
        for body, more in MESSAGES:
            found = []
            for sender in (ours, theirs):
                for reader in (ours, theirs):
                    publish(sender, body, more)
                    message = wait_for(lambda reader=reader: queue(reader).get(accept=["json"]), 20)
                    found.append(seen(reader, message))
                    message.ack()
            assert found.count(found[0]) == 4, found
        # What is given back comes again.
        publish(theirs, {"again": 1}, {})
        message = wait_for(lambda: queue(ours).get(accept=["json"]), 20)
        message.requeue()
        message = wait_for(lambda: queue(ours).get(accept=["json"]), 20)
        assert message.payload == {"again": 1}
        message.ack()
        assert queue(ours).get() is None and not refusals.refusals
