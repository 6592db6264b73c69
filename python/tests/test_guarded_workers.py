"""Workers against messages that are well written and make no sense: they live, and nothing is stored for such messages."""

import json
import time

import kombu
import pytest
import redis as redis_py
from celery import Celery
from support.odd import COMMANDS, EVENTS, HEADERS, TASK_BODIES, UNSIGNED
from support.servers import wait_for
from support.workers import client, place, worker


def victims(address):
    """The results that a worker stored for ids that nobody used who may."""
    store = redis_py.Redis.from_url(f"redis://{address}/1")
    return [key for key in store.keys() if b"victim" in key]


@pytest.fixture(params=["redis", "amqp"])
def where(request, tmp_path, alice, redis):
    """An application that signs bodies, over kombu's own transports."""
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    broker = f"redis://{redis}/0" if request.param == "redis" else f"amqp://{request.getfixturevalue('rabbitmq')}//"
    with kombu.Connection(broker) as connection:
        connection.default_channel.queue_declare("celery", durable=True, auto_delete=False)
        connection.default_channel.queue_purge("celery")
    return place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours")


class Outsider:
    """Somebody who writes to the broker without a key."""

    def __init__(self, where):
        self.connection = kombu.Connection(where.environment["TEST_BROKER"])
        self.channel = self.connection.default_channel

    def genuine(self, where, *arguments):
        """The body and the headers of a message that a trusted signer sent."""
        client(where, "send.py", *arguments)
        message = wait_for(lambda: self.channel.basic_get("celery", no_ack=True), 20)
        return message.body if isinstance(message.body, str) else message.body.decode(), dict(message.headers)

    def send(self, body, headers, content_type="application/data", content_encoding="utf-8", **properties):
        message = self.channel.prepare_message(
            body.encode(), 0, content_type, content_encoding, headers, {"delivery_mode": 2, **properties}
        )
        self.channel.basic_publish(message, exchange="", routing_key="celery")


def test_nothing_is_done_for_a_message_that_nobody_signed(where, redis):
    """Nor for a signed body in a form that it was not signed in, nor under headers that Celery never writes."""
    outsider = Outsider(where)
    body, headers = outsider.genuine(where, "run", "stolen")
    with worker(where, "-P", "prefork", "-c", "1", "-E", app="signed_app") as running:
        client(where, "send.py", "run", "good 0")
        sent = 0
        for number, (text, odd, types) in enumerate(UNSIGNED):
            outsider.send(text, {**headers, "id": f"victim-{number}", **odd}, **types)
            sent += 1
        for odd in HEADERS:
            outsider.send(body, {**headers, **odd})
            sent += 1
        client(where, "send.py", "run", "good 1")
        wait_for(lambda: {"good 0", "good 1"} <= set(where.witness), 60)
        wait_for(lambda: running.log.count("refused:") >= sent, 30)
        assert set(where.witness) == {"good 0", "good 1"} and running.process.poll() is None
        assert victims(redis) == [] and running.log.count("Traceback") == 0, running.log[-5000:]
