"""Messages that go back to an AMQP broker: what nothing can be told of now, and what a consumer asks to be given again."""

import contextlib
import signal
import socket
import time

import amqp
import kombu
import pytest
from support.servers import wait_for
from support.transports import BODY, connect, consume, place_of, plain_amqp, publish, sealing_of, tasks
from support.workers import Worker, client, worker
from support.workers import place as worker_place

from taskseal.celery import transport
from taskseal.celery.transport import returns
from taskseal.celery.transport.waiting import Rounds
from taskseal.errors import OpenError

transport.register()


@pytest.fixture
def place(request, rabbitmq, tmp_path):
    return place_of("amqp", request, tmp_path)


class Away:
    """An opener whose keys do not answer."""

    def __init__(self, error=None):
        self.error = error or OpenError("the keys cannot be used: device error", "transient", "keys")
        self.asked = 0

    def open(self, wire):
        self.asked += 1
        raise self.error

    open_untimed = open


class Memory:
    """A replay memory that shows what it was told."""

    def __init__(self):
        self.known = []

    def contains(self, key, *_):
        return key in self.known

    def remember(self, key, *_):
        self.known.append(key)
        return True


class Ended(BaseException):
    """The process ends while it waits."""


@pytest.mark.parametrize(
    ("way", "no_ack", "error"),
    [("consume", False, None), ("consume", True, None), ("get", False, None), ("get", True, None),
     ("consume", False, MemoryError()), ("get", False, OSError(24, "too many open files"))],
)  # fmt: skip
def test_a_message_is_back_before_anybody_waits(place, rabbitmq, alice, monkeypatch, way, no_ack, error):
    """Whether its consumer acknowledges or not: another worker can take it, and nothing is lost with this one."""
    sealing = sealing_of(alice, [alice])

    def sleep(seconds):
        raise Ended

    with connect(place, sealing) as connection, plain_amqp(rabbitmq) as plain:
        publish(connection)
        opener, sealing.opener = sealing.opener, Away(error)
        monkeypatch.setattr(returns.time, "sleep", sleep)
        with connect(place, sealing) as ended, pytest.raises(Ended):
            if way == "consume":
                ended.default_channel.basic_qos(0, 1, False)
                consume(ended, no_ack=no_ack, ack=False)
            else:
                ended.default_channel.basic_get("tasks", no_ack=no_ack)
        monkeypatch.undo()
        assert wait_for(lambda: plain.channel(1).queue_declare("tasks", passive=True).message_count == 1, 10)
        sealing.opener = opener
        assert [message.payload for message in consume(connection, no_ack=no_ack)] == [BODY]
        assert plain.channel(1).queue_declare("tasks", passive=True).message_count == 0
    assert not sealing.refusals


def test_messages_without_acknowledgement_are_gone_when_they_were_handed_out(place, rabbitmq, alice):
    got = []
    with connect(place, sealing_of(alice, [alice])) as connection, plain_amqp(rabbitmq) as plain:
        for _ in range(3):
            publish(connection)
        on_message = lambda message: (got.append(message), message.ack())  # noqa: E731
        with connection.Consumer([tasks()], on_message=on_message, no_ack=True, accept=["json"]):
            wait_for(lambda: drained(connection) and len(got) == 3, 20)
            assert drained(connection) and len(got) == 3
        publish(connection)
        assert wait_for(lambda: connection.default_channel.basic_get("tasks", no_ack=True), 10)
        connection.release()
        assert plain.channel(1).queue_declare("tasks", passive=True).message_count == 0


def test_many_messages_are_waited_for_once(place, alice, monkeypatch, caplog):
    """Not once for each: fifty that were sent ahead are back after one wait, and all come when the keys do."""
    slept = []
    monkeypatch.setattr(returns, "RETRY", 0.2)
    sealing = sealing_of(alice, [alice])
    with connect(place, sealing) as connection:
        for number in range(50):
            publish(connection, [number])
        opener, sealing.opener = sealing.opener, Away()
        monkeypatch.setattr(returns.time, "sleep", lambda seconds: (slept.append(seconds), time_sleep(seconds)))
        assert consume(connection, timeout=0.3, seconds=3) == []
        monkeypatch.undo()
        # Every round is over all of them.
        assert 2 <= len(slept) <= 20 and sealing.opener.asked > 25 * (len(slept) - 1)
        assert 1 <= caplog.text.count("stays in the queue") <= 20  # Once per 0.2 s.
        sealing.opener = opener
        assert sorted(message.payload[0] for message in consume(connection)) == list(range(50))
    assert not sealing.refusals


time_sleep = time.sleep


def test_a_queue_that_counts_what_goes_back_loses_nothing(place, rabbitmq, alice, monkeypatch):
    """Quorum queues drop what went back too often: RabbitMQ 4 after 20 times, unless somebody says otherwise."""
    monkeypatch.setattr(returns, "RETRY", 0.05)
    sealing = sealing_of(alice, [alice])
    queue = kombu.Queue("counted", kombu.Exchange("the-exchange", type="direct"), "counted", queue_arguments={
        "x-queue-type": "quorum", "x-delivery-limit": 3})  # fmt: skip
    with connect(place, sealing) as connection:
        for number in range(10):
            publish(connection, [number], queue=queue, priority=None)
        opener, sealing.opener = sealing.opener, Away()
        assert consume(connection, queue, timeout=0.5, seconds=3) == []
        assert sealing.opener.asked > 60
        sealing.opener = opener
        assert sorted(message.payload[0] for message in consume(connection, queue)) == list(range(10))
        queue(connection.default_channel).delete()
    assert not sealing.refusals


def test_what_waits_keeps_nothing_waiting(place, rabbitmq, alice, monkeypatch):
    """Messages that cannot be told of are behind the others then, without a priority that would bring them to the head again."""
    monkeypatch.setattr(returns, "RETRY", 0.05)
    sealing = sealing_of(alice, [alice])
    got = []
    with connect(place, sealing) as connection, plain_amqp(rabbitmq) as plain:
        for number in range(5):
            publish(connection, ["waits", number], priority=4, expiration=3600)
        known = AllBut(sealing.opener, 5)
        sealing.opener = known
        with connection.Consumer([tasks()], on_message=lambda message: (got.append(message.payload), message.ack()),
                                 accept=["json"], prefetch_count=2):  # fmt: skip
            wait_for(lambda: drained(connection, 10) and len(known.away) == 5, 20)
            for number in range(5):
                publish(connection, ["good", number])
            wait_for(lambda: drained(connection, 10) and len(got) == 5, 20)
        assert sorted(got) == [["good", number] for number in range(5)]
        connection.release()
        message = wait_for(lambda: plain.channel(1).basic_get("tasks"), 10)
        outside = {name: message.properties.get(name) for name in ("priority", "expiration", "delivery_mode")}
        assert outside == {"priority": None, "expiration": "3600000", "delivery_mode": 2}
    assert not sealing.refusals


class AllBut:
    """An opener that can tell nothing of the first messages that it sees."""

    def __init__(self, opener, number):
        self.opener, self.number, self.away = opener, number, set()

    def __getattr__(self, name):
        method = getattr(self.opener, name)

        def opening(wire, *args):
            if wire in self.away or len(self.away) < self.number:
                self.away.add(wire)
                raise OpenError("the keys cannot be used: device error", "transient", "keys")
            return method(wire, *args)

        return opening


def test_without_the_right_to_publish_a_message_goes_back_all_the_same(place, alice, monkeypatch):
    monkeypatch.setattr(returns, "RETRY", 0.05)
    sealing, tried = sealing_of(alice, [alice]), []

    def put(self, msg, queue):
        tried.append(queue)
        raise amqp.AccessRefused("no write access")

    monkeypatch.setattr(returns.Aside, "put", put)
    with connect(place, sealing) as connection:
        publish(connection)
        opener, sealing.opener = sealing.opener, Away()
        assert consume(connection, timeout=0.3, seconds=1) == []
        sealing.opener = opener
        # It is not asked for each message.
        assert tried == ["tasks"]
        assert [message.payload for message in consume(connection)] == [BODY]
    assert not sealing.refusals


def test_a_round_is_over_when_all_that_waited_were_given_back():
    rounds, sizes = Rounds(), []

    def over(size):
        return rounds.over("tasks", lambda: sizes.append(size) or size)

    assert [over(3) for _ in range(6)] == [False, False, True, False, False, True]
    # It is asked for once a round.
    assert sizes == [3, 3]
    # One that is alone, or in a queue of nobody knows what, is waited for each time.
    assert [over(1), over(0)] == [True, True] and rounds.over("tasks", lambda: 1 / 0)
    # A queue without an end is waited for as well, and another one has rounds of its own.
    assert sum(over(10**9) for _ in range(10_000)) == 10
    assert not over(2) and not rounds.over("others", lambda: 2) and over(2)


@pytest.fixture
def waiting(tmp_path, rabbitmq, alice):
    """A worker whose certificates are away."""
    where = worker_place(tmp_path, alice, f"sealed-amqp://{rabbitmq}//", "rpc://")
    with plain_amqp(rabbitmq) as plain:
        plain.channel(1).queue_delete("celery")
    one = Worker(where, "-P", "solo").ready()
    (tmp_path / "trusted").rename(tmp_path / "elsewhere")
    time.sleep(1)  # The worker looks at its certificates twice per second.
    yield where, one
    one.kill()
    one.stop()


def test_a_worker_that_is_killed_while_it_waits_loses_nothing(waiting, tmp_path, rabbitmq, alice):
    where, one = waiting
    (tmp_path / "trusted-by-the-client").mkdir()
    (tmp_path / "trusted-by-the-client" / "alice.pem").write_text(alice.pem)
    theirs = worker_place_with(where, TEST_STORE=str(tmp_path / "trusted-by-the-client"))
    client(theirs, "send.py", "run", "kept")
    wait_for(lambda: "stays in the queue 'celery'" in one.log, 30)
    one.stop(signal.SIGKILL)
    with plain_amqp(rabbitmq) as plain:
        assert wait_for(lambda: plain.channel(1).queue_declare("celery", passive=True).message_count == 1, 10)
    (tmp_path / "elsewhere").rename(tmp_path / "trusted")
    with worker(where, "-P", "solo", name="second"):
        wait_for(lambda: "kept" in where.witness, 30)


def test_a_command_waits_as_well(waiting, tmp_path, rabbitmq, alice):
    """Although nobody acknowledges a broadcast."""
    _, one = waiting
    with connect((f"sealed-amqp://{rabbitmq}//", {}), sealing_of(alice, [alice])) as connection:
        command = {"method": "shutdown", "arguments": {}}
        send = lambda: connection.Producer().publish(command, exchange="celery.pidbox", routing_key="")  # noqa: E731
        send()
        wait_for(lambda: f"stays in the queue '{one.name}.celery.pidbox'" in one.log, 30)
    assert one.process.poll() is None
    (tmp_path / "elsewhere").rename(tmp_path / "trusted")
    wait_for(lambda: one.process.poll() is not None, 30)


def worker_place_with(where, **environment):
    return type(where)({**where.environment, **environment}, where.directory)


# --- Asked back ---


@pytest.mark.parametrize("method", ["basic_recover", "basic_recover_async"])
def test_what_is_asked_back_comes_again(place, alice, method):
    sealing = sealing_of(alice, [alice], replay=Memory())
    got = []
    with connect(place, sealing) as connection:
        for number in range(5):
            publish(connection, [number])
        with connection.Consumer([tasks()], on_message=got.append, accept=["json"]) as consumer:
            wait_for(lambda: drained(connection) and len(got) == 5, 20)
            getattr(consumer.channel, method)(requeue=True)
            wait_for(lambda: drained(connection) and len(got) == 10, 20)
            for message in got[5:]:
                message.ack()
            drained(connection)
        assert sorted(message.payload[0] for message in got[5:]) == list(range(5))
        assert consume(connection, timeout=0.3) == []
        # These are remembered from then on.
        assert len(set(sealing.replay.known)) == len(sealing.replay.known) == 5
    assert not sealing.refusals


def test_what_is_on_its_way_when_all_is_asked_back_comes_once(place, alice):
    """What the broker had sent before is not handed out beside what it sends again, and can be acknowledged."""
    sealing = sealing_of(alice, [alice])
    handled = []
    with connect(place, sealing) as connection:
        for number in range(200):
            publish(connection, [number])

        def on_message(message):
            handled.append(message.payload[0])
            if len(handled) == 3:
                consumer.recover(requeue=True)
            elif len(handled) > 3:
                message.ack()

        with connection.Consumer([tasks()], on_message=on_message, accept=["json"]) as consumer:
            wait_for(lambda: drained(connection) and len(set(handled[3:])) == 200, 30)
            drained(connection)
        assert sorted(handled[3:]) == list(range(200))
        assert consume(connection, timeout=0.3) == []
    assert not sealing.refusals


def test_a_channel_that_the_broker_closed_gets_its_messages_again(place, alice):
    sealing = sealing_of(alice, [alice])
    with connect(place, sealing) as connection:
        publish(connection)
        channel = connection.default_channel
        queue = tasks()(channel)
        assert wait_for(queue.get, 10).payload == BODY
        channel.basic_ack(77)
        with pytest.raises(amqp.PreconditionFailed):
            connection.drain_events(timeout=10)
        again = wait_for(queue.get, 10)
        assert again.payload == BODY
        again.ack()
        assert queue.get() is None
    assert not sealing.refusals


def test_all_can_be_acknowledged_at_once(place, alice):
    sealing = sealing_of(alice, [alice], replay=Memory())
    with connect(place, sealing) as connection:
        for number in range(3):
            publish(connection, [number])
        queue = tasks()(connection.default_channel)
        for _ in range(3):
            wait_for(queue.get, 10)
        connection.default_channel.basic_ack(0, multiple=True)
        assert len(sealing.replay.known) == 3


def drained(connection, most=500):
    """Handles what is there, and what comes within a moment."""
    with contextlib.suppress(socket.timeout):
        for _ in range(most):
            connection.drain_events(timeout=0.2)
    return True
