"""Celery's native delayed delivery: with quorum queues, RabbitMQ itself holds back what has a countdown."""

import re
import time

import kombu
import pytest
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
    level_name,
)
from support.raw_amqp import Publisher
from support.servers import wait_for
from support.transports import connect, consume, plain_amqp, publish, sealing_of
from support.workers import client, place, worker

from taskseal.celery import transport
from taskseal.celery.delayed import undelayed
from taskseal.celery.sealing import Bindings

transport.register()

TOPIC = kombu.Exchange("tasks-by-topic", type="topic")


def delayed(key, seconds=1):
    return level_name(27), calculate_routing_key(seconds, key)


@pytest.fixture
def where(tmp_path, rabbitmq, redis, alice):
    """An application with quorum queues, which are empty."""
    with plain_amqp(rabbitmq) as plain:
        for queue in ("celery", "second", "third"):
            plain.channel(1).queue_delete(queue)
    yield place(tmp_path, alice, f"sealed-amqp://{rabbitmq}//", f"sealed-redis://{redis}/1", TEST_QUORUM="1")
    with plain_amqp(rabbitmq) as plain:
        for queue in ("celery", "second", "third"):
            plain.channel(1).queue_delete(queue)


def test_tasks_with_a_countdown_and_their_retries(where):
    with worker(where, "-P", "prefork", "-c", "2", "-E") as running:
        # (Celery itself cannot delay by less than a second, as its feature `retry` does.)
        client(where, "features.py", "simple", "countdown", "expires", "chained", "chorded", "second_queue", "revoke", "batch")
        # Delayed, and tried again twice. Celery hears where the task would have gone without a delay.
        assert client(where, "send.py", "later", "tried", "1.2").split() == [TOPIC.name, "third"]
        assert [line for line in where.witness if line.startswith("tried")] == ["tried 0", "tried 1", "tried 2"]
        # It was the broker who waited.
        assert "Task later" in running.log
        received = re.findall(r"(\d\d:\d\d:\d\d),\d+: INFO/MainProcess\] Task later\[", running.log)
        assert len(received) == 3 and len(set(received)) == 3
    assert "refused:" not in running.log


def test_a_delayed_task_outlives_its_workers(where):
    with worker(where, "-P", "solo", name="first"):
        start = time.monotonic()
        client(where, "send.py", "delayed", "after a restart", "6")
    assert where.witness == []
    with worker(where, "-P", "solo", name="second") as second:
        wait_for(lambda: "after a restart" in where.witness, 60)
        assert time.monotonic() - start >= 5
        assert "refused:" not in second.log


@pytest.fixture
def connection(rabbitmq, alice):
    sealing = sealing_of(alice, [alice])
    with connect((f"sealed-amqp://{rabbitmq}//", {}), sealing) as connection:
        connection.sealing = sealing
        yield connection


def quorum(name, key, exchange=TOPIC):
    return kombu.Queue(f"delayed-{name}", exchange, routing_key=key, queue_arguments={"x-queue-type": "quorum"})


@pytest.fixture
def queues(connection):
    """Three quorum queues to which the broker delays messages."""
    made = [quorum("orders", "orders.#"), quorum("mail", "mail"), quorum("fan", "mail", kombu.Exchange("fan", type="fanout"))]
    with connection.clone() as other:
        declare_native_delayed_delivery_exchanges_and_queues(other, "quorum")
        for queue in made:
            queue(other.default_channel).declare()
            bind_queue_to_native_delayed_delivery_exchange(other, queue)
    yield made
    for queue in made:
        queue(connection.default_channel).delete()


def send(connection, body, key, seconds=1):
    exchange, key = delayed(key, seconds)
    connection.Producer().publish([body], exchange=kombu.Exchange(exchange, type="topic"), routing_key=key)


def test_the_broker_delivers_where_the_rest_of_the_key_leads_to(connection, queues):
    orders, mail, fan = queues
    send(connection, "an order", "orders.created.today")
    send(connection, "a letter", "mail")
    send(connection, "nothing", "other")
    got = lambda queue: [(message.payload[0], message.delivery_info["exchange"], message.delivery_info["routing_key"])  # noqa: E731
                         for message in consume(connection, queue, timeout=3, enough=1)]  # fmt: skip
    assert got(orders) == [("an order", TOPIC.name, "orders.created.today")]
    assert got(mail) == [("a letter", TOPIC.name, "mail")]
    assert got(fan) == [("a letter", "fan", "mail")]
    assert not connection.sealing.refusals


def test_a_delayed_message_is_not_redirected(connection, queues, rabbitmq):
    """Whoever writes to the broker chooses when it comes, not where."""
    orders, mail, _ = queues
    raw, direct = Publisher(rabbitmq), kombu.Queue("direct", kombu.Exchange("direct-tasks"), routing_key="orders.created")
    direct(connection.default_channel).declare()
    with plain_amqp(rabbitmq) as plain:
        send(connection, "an order", "orders.created", seconds=1000)
        channel = plain.channel()
        stolen = wait_for(lambda: taken(channel), 10)
        bits = b"0." * 28
        for exchange, key in ((b"", mail.name.encode()), (b"", direct.name.encode()), (TOPIC.name.encode(), b"mail"),
                              (b"celery_delayed_delivery", bits + b"mail"), (b"celery_delayed_27", bits + b"mail")):  # fmt: skip
            assert raw.publish(stolen.body.encode(), exchange=exchange, routing_key=key)
        assert consume(connection, mail, timeout=2) == [] and connection.sealing.refusals == {"destination": 4}
        assert consume(connection, direct, timeout=1) == [] and connection.sealing.refusals == {"destination": 5}
        # Early, but where it belongs to. Celery looks at the time in it.
        raw.publish(stolen.body.encode(), exchange=b"celery_delayed_delivery", routing_key=bits + b"orders.created")
        assert [message.payload for message in consume(connection, orders, enough=1, timeout=5)] == [["an order"]]
    raw.close()
    direct(connection.default_channel).delete()


def taken(channel):
    for level in range(28):
        message = channel.basic_get(level_name(level), no_ack=True)
        if message:
            return message
    return None


def test_a_queue_that_somebody_else_declares_can_be_named(rabbitmq, alice, queues):
    orders, _, _ = queues
    sealing = sealing_of(alice, [alice], bindings={orders.name: [("shop", "orders.created")]})
    with connect((f"sealed-amqp://{rabbitmq}//", {}), sealing) as connection:
        send(connection, "an order", "orders.created")
        undeclared = kombu.Queue(orders.name, no_declare=True)
        (message,) = consume(connection, undeclared, enough=1, timeout=5)
        assert message.payload == ["an order"] and message.delivery_info["exchange"] == "shop"
        send(connection, "another", "orders.changed")
        assert consume(connection, undeclared, timeout=3) == [] and sealing.refusals == {"destination": 1}


@pytest.mark.parametrize(
    ("exchange", "key", "meant"),
    [
        (*delayed("queue"), "queue"), (*delayed("a.b.c", 2**28 - 1), "a.b.c"), ("prod_celery_delayed_27", delayed("q")[1], "q"),
        (*delayed("0.1.queue"), "0.1.queue"), (*delayed("a\nb"), "a\nb"), ("celery_delayed_27", "queue", None),
        ("celery_delayed_27", "0." * 28, None), ("celery_delayed_27", "0." * 27 + "queue", None),
        ("celery_delayed_27", "2." + "0." * 27 + "queue", None), ("celery_delayed_26", delayed("queue")[1], None),
        ("_celery_delayed_27", delayed("queue")[1], None), ("celery_delayed_27x", delayed("queue")[1], None),
        ("celery_delayed_27\n", delayed("queue")[1], None), ("", delayed("queue")[1], None),
        ("tasks", delayed("queue")[1], None),
    ],
)  # fmt: skip
def test_the_key_behind_a_delay(exchange, key, meant):
    assert undelayed(exchange, key) == meant


def test_a_delay_leads_where_a_queue_is_bound():
    bindings = Bindings()
    for exchange, type in (("topic", "topic"), ("fan", "fanout"), ("direct", "direct"), ("headers", "headers")):
        bindings.declare(exchange, type)
    for queue, exchange, key in (("orders", "topic", "orders.*"), ("fanned", "fan", "one"), ("fanned too", "fan", "two"),
                                 ("direct", "direct", "key"), ("headers", "headers", "key"), ("unknown", "other", "key")):  # fmt: skip
        bindings.bind(queue, exchange, key)
    assert bindings.delayed("orders", "orders.created") == ("topic", "orders.created")
    assert bindings.delayed("fanned", "one") == bindings.delayed("fanned too", "one") == ("fan", "one")
    for queue, key in (("orders", "orders"), ("orders", "x.orders.created"), ("fanned", "three"), ("direct", "key"),
                       ("headers", "key"), ("unknown", "key"), ("nobody", "key")):  # fmt: skip
        assert bindings.delayed(queue, key) is None


def test_publishing_without_a_delay_stays_as_it_is(connection, queues):
    orders, _, _ = queues
    publish(connection, ["at once"], queue=kombu.Queue(orders.name, TOPIC, "orders.now", queue_arguments=orders.queue_arguments))
    (message,) = consume(connection, orders, enough=1)
    assert message.payload == ["at once"] and message.delivery_info["routing_key"] == "orders.now"
