"""Clocks that are wrong, ages, and places: what time alone speaks against is not lost, and what is for elsewhere is refused."""

import copy
import datetime
import time

import pytest
import redis as redis_py
from conftest import DAY, identity
from support.clocks import clock_of, wrong_clock
from support.servers import wait_for
from support.transports import (
    BODY,
    AmqpBroker,
    Broker,
    client,
    connect,
    consume,
    place_of,
    plain_amqp,
    publish,
    sealing_of,
    tasks,
)
from support.workers import Worker, place, worker
from support.workers import client as run_client

from taskseal.celery import transport
from taskseal.errors import OpenError

transport.register()

DAYS = 24 * 3600.0
REFUSED = "taskseal.refused"


@pytest.fixture(params=["memory", "redis", "filesystem", "amqp"])
def where(request, tmp_path):
    made = place_of(request.param, request, tmp_path)
    if request.param == "amqp":
        with plain_amqp(request.getfixturevalue("rabbitmq")) as connection:
            connection.channel().queue_delete(REFUSED)
    return made


def put_back(where, sealing):
    """What an operator does: everything from the dead letters to where it came from. How much it was."""
    count = 0
    if where[0].startswith("sealed-amqp"):
        with plain_amqp(where[0].removeprefix("sealed-amqp://").removesuffix("//")) as connection:
            channel = connection.channel()
            while message := channel.basic_get(REFUSED, no_ack=True):
                channel.basic_publish(message, "", "tasks")
                count += 1
        return count
    with connect(where, sealing) as connection:
        channel = connection.default_channel
        while channel._size(REFUSED):
            channel._put("tasks", super(type(channel), channel)._get(REFUSED))
            count += 1
    return count


def payloads(got):
    return [message.payload for message in got]


# --- Whose clock is wrong ---


def test_a_message_that_is_a_little_early_waits_and_then_runs(where, alice):
    sealing = sealing_of(alice, [alice])
    with connect(where, sealing) as connection:
        publish(connection)
        with clock_of(sealing, -61.5):
            assert payloads(consume(connection, timeout=2, enough=1, seconds=60)) == [BODY]
    assert not sealing.refusals


def test_a_worker_whose_clock_is_behind_takes_nothing_says_so_and_goes_on_when_it_is_set(where, alice, caplog):
    sealing = sealing_of(alice, [alice])
    with connect(where, sealing) as connection:
        for number in range(3):
            publish(connection, [number])
        with clock_of(sealing, -DAYS / 2):
            assert consume(connection, timeout=1, enough=1, seconds=3) == []
        assert "clock is behind: 1 of 1 signers" in caplog.text and not sealing.refusals
        got = payloads(consume(connection, timeout=2, enough=3, seconds=60))
        assert sorted(got) == [[0], [1], [2]]
    assert not sealing.refusals


def test_a_worker_whose_clock_is_ahead_loses_nothing_and_says_so(where, alice, caplog):
    sealing = sealing_of(alice, [alice])
    with connect(where, sealing) as connection:
        for number in range(3):
            publish(connection, [number])
        with clock_of(sealing, 2.0 * DAYS):
            assert consume(connection, timeout=0.5) == []
        assert "clock is ahead" in caplog.text
        assert sum(sealing.refusals.values()) == 3
        assert put_back(where, sealing) == 3
        assert sorted(payloads(consume(connection, timeout=0.5))) == [[0], [1], [2]]


def test_the_last_dead_letters_are_kept(where, alice):
    sealing = sealing_of(alice, [alice], dead_letter_max=2)
    with connect(where, sealing) as connection:
        for number in range(5):
            publish(connection, [number])
        with clock_of(sealing, 2.0 * DAYS):
            assert consume(connection, timeout=0.5) == []
        assert put_back(where, sealing) == 2
        assert sorted(payloads(consume(connection, timeout=0.5))) == [[3], [4]]


@pytest.mark.parametrize("where", ["redis", "amqp"], indirect=True)
def test_among_many_old_messages_one_in_time_is_found_and_all_others_are_put_aside(where, alice):
    """Without one in time they look like those of a worker whose clock is ahead: it does not empty the queue for others."""
    sealing = sealing_of(alice, [alice])

    def age(payload):
        return 0 if b"in-time" in payload else 2.0 * DAYS

    # What a process sealed itself does not count.
    with connect(where, sealing_of(alice, [])) as sender, connect(where, sealing) as connection, clock_of(sealing, age):
        for number in range(130):
            publish(sender, [number])
        assert consume(connection, timeout=1, enough=1, seconds=3) == []
        assert 0 < sum(sealing.refusals.values()) <= 99, "the rest goes round"
        publish(sender, [1], headers={"task": "in-time", "id": "x"})
        assert payloads(consume(connection, timeout=2, seconds=60)) == [[1]]
        assert sum(sealing.refusals.values()) == 130
    assert put_back(where, sealing) == 130


def test_a_copy_of_an_old_message_stops_nobody(where, alice):
    kind = AmqpBroker if where[0].startswith("sealed-amqp") else Broker
    sealing = sealing_of(alice, [alice], max_age=1.0, clock_skew=0.0)
    broker = kind(where, sealing)
    publish(broker.connection, ["old"])
    raw = broker.take()
    time.sleep(1.1)
    for _ in range(200):
        broker.put(copy.deepcopy(raw))
    publish(broker.connection, ["good"])
    with connect(where, sealing) as connection:
        assert payloads(consume(connection, timeout=2, enough=1, seconds=80)) == [["good"]]
    broker.close()


@pytest.mark.parametrize("offset", [-DAYS, -90.0, 2.0 * DAYS], ids=["from-the-future", "a-little-early", "old"])
def test_neither_many_messages_out_of_time_nor_copies_of_one_hold_up_those_behind_them(where, alice, bob, offset):
    """A pause after each of them would be minutes here, and days with 100,000."""
    kind = AmqpBroker if where[0].startswith("sealed-amqp") else Broker
    sealing = sealing_of(alice, [alice, bob])
    broker = kind(where, sealing_of(bob, []))
    for number in range(150):
        publish(broker.connection, ["bad", number])
    raw = broker.take()
    for _ in range(150):
        broker.put(copy.deepcopy(raw))
    broker.close()
    with connect(where, sealing_of(alice, [])) as sender:
        publish(sender, ["good"])
    with (
        connect(where, sealing) as connection,
        clock_of(sealing, lambda payload: offset if b"bad" in payload else 0),
    ):
        started = time.monotonic()
        got = payloads(consume(connection, timeout=2, enough=1, seconds=60))
        assert got == [["good"]], f"after {time.monotonic() - started:.0f} s"


@pytest.mark.parametrize("where", ["redis", "amqp"], indirect=True)
@pytest.mark.parametrize("offset", [-DAYS, 2.0 * DAYS], ids=["from-the-future", "old"])
def test_messages_out_of_time_hide_none_of_a_lower_priority(where, alice, bob, offset):
    """A broker gives out the highest priority first. What goes round there would be all that ever comes."""
    over_amqp = where[0].startswith("sealed-amqp")
    first, last = (9, 0) if over_amqp else (0, 9)
    queue = tasks()
    queue.queue_arguments = {"x-max-priority": 9} if over_amqp else None
    sealing = sealing_of(alice, [alice, bob])
    with connect(where, sealing_of(bob, [])) as sender:
        for number in range(120):
            publish(sender, ["bad", number], queue, priority=first)
    with connect(where, sealing_of(alice, [])) as sender:
        publish(sender, ["good"], queue, priority=last)
    with (
        connect(where, sealing) as connection,
        clock_of(sealing, lambda payload: offset if b"bad" in payload else 0),
    ):
        got = consume(connection, queue, timeout=2, enough=1, seconds=30, prefetch_count=8)
        assert payloads(got) == [["good"]]


@pytest.mark.parametrize("where", ["redis"], indirect=True)
def test_a_message_that_goes_back_keeps_its_priority(where, alice):
    sealing = sealing_of(alice, [alice])
    with connect(where, sealing) as connection:
        publish(connection, ["first"], priority=0)
        publish(connection, ["last"], priority=9)
        with clock_of(sealing, -DAYS / 2):
            assert consume(connection, timeout=1, enough=1, seconds=3) == []
        time.sleep(1.1)
        assert payloads(consume(connection, timeout=2, enough=2, seconds=60)) == [["first"], ["last"]]


def test_a_message_of_a_certificate_that_has_expired_is_put_aside(where, alice):
    old = identity("alice2", nth="alice", start=-2 * DAY, end=-DAY)
    sealing = sealing_of(alice, [alice, old])
    with connect(where, sealing_of(old, [])) as theirs, connect(where, sealing) as connection:
        publish(connection, ["good"])
        publish(theirs, ["put aside"])
        assert payloads(consume(connection, timeout=0.5)) == [["good"]]
        assert sealing.refusals == {"expired": 1} and put_back(where, sealing) == 1


def test_what_time_alone_speaks_against_is_recognised_last(where, alice):
    """A message for elsewhere is no good one at another time."""
    kind = AmqpBroker if where[0].startswith("sealed-amqp") else Broker
    sealing = sealing_of(alice, [alice])
    broker = kind(where, sealing)
    publish(broker.connection)
    tasks("other", "other.key")(broker.channel).declare()
    broker.put(broker.take(), "other")
    with connect(where, sealing) as connection, clock_of(sealing, 2.0 * DAYS):
        assert consume(connection, tasks("other", "other.key"), timeout=0.5) == []
    assert sealing.refusals == {"destination": 1}
    broker.close()


def test_a_result_from_the_future_is_not_there_yet_and_stays(redis, alice):
    from celery import Celery

    client(redis).flushall()
    transport.register()
    app = Celery("clocks", set_as_current=False)
    sealing = sealing_of(alice, [alice])
    from taskseal.celery.backends import SealedRedisBackend

    app.conf.result_backend_transport_options = {"sealing": sealing}
    backend = SealedRedisBackend(app=app, url=f"redis://{redis}/1")
    backend.store_result("task-1", 7, "SUCCESS")
    right, results = sealing.results, sealing.results

    class Behind:
        def open_payload(self, wire, *args):
            raise OpenError("sealed in the future", reason="from-the-future")

    sealing.results = Behind()
    assert backend.get_state("task-1") == "PENDING"
    sealing.results = results
    assert right.open_payload(redis_py.Redis.from_url(f"redis://{redis}/1").get("celery-task-meta-task-1"),
                              "celery-result", "task-1").payload  # fmt: skip
    assert backend.get_state("task-1") == "SUCCESS"


# --- Ages ---


def eta(seconds):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).isoformat()


def test_a_task_that_waits_for_its_eta_is_not_too_old_and_is_remembered_as_long(where, alice):
    kind = AmqpBroker if where[0].startswith("sealed-amqp") else Broker
    sealing = sealing_of(alice, [alice], max_age=3600.0)
    broker = kind(where, sealing)
    publish(broker.connection, ["later"], headers={"task": "t", "id": "x", "eta": eta(10 * 3600)})
    raw = broker.take()
    broker.put(copy.deepcopy(raw))
    with connect(where, sealing) as connection, clock_of(sealing, 9 * 3600):
        assert payloads(consume(connection, timeout=0.5)) == [["later"]]
    opened = sealing.opener.open(raw["body"])
    assert abs(opened.remember_until - (time.time() + 11 * 3600 + 120)) < 600
    with connect(where, sealing) as connection, clock_of(sealing, 10.9 * 3600):
        broker.put(copy.deepcopy(raw))
        assert consume(connection, timeout=0.5) == []
    assert sealing.refusals == {"replayed": 1}
    broker.close()


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_a_countdown_longer_than_the_maximum_age_survives_a_warm_restart(tmp_path, alice, redis, kind, request):
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    broker = f"sealed-redis://{redis}/0" if kind == "redis" else f"sealed-amqp://{request.getfixturevalue('rabbitmq')}//"
    where = place(tmp_path, alice, broker, f"sealed-redis://{redis}/1", TEST_MAX_AGE="2", TEST_CLOCK_SKEW="1")
    with worker(where, "-P", "solo", name="first") as first:
        run_client(where, "send.py", "delayed", "later", "25")
        wait_for(lambda: "received" in first.log, 20)
        time.sleep(4)
    assert where.witness == []
    with worker(where, "-P", "solo", name="second") as second:
        wait_for(lambda: where.witness == ["later"], 90)
        assert "refused:" not in second.log


# --- Workers whose clock is wrong ---


@pytest.mark.parametrize("kind", ["redis", "amqp"])
@pytest.mark.parametrize("offset", [-600, -3 * 24 * 3600])
def test_a_whole_worker_whose_clock_is_behind(tmp_path, alice, redis, kind, offset, request):
    """By minutes its messages are from the future, by days its signers' certificates are not valid yet."""
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    broker = f"sealed-redis://{redis}/0" if kind == "redis" else f"sealed-amqp://{request.getfixturevalue('rabbitmq')}//"
    where = place(tmp_path, alice, broker, f"sealed-redis://{redis}/1")
    for number in range(3):
        run_client(where, "send.py", "run", f"task {number}")
    right = dict(where.environment)
    where.environment.update(wrong_clock(tmp_path, offset))
    behind = Worker(where, "-P", "solo", name="behind")
    try:
        behind.ready()
        wait_for(lambda: "clock is behind: 1 of 1 signers" in behind.log, 30)
        time.sleep(3)
        assert where.witness == [] and behind.process.poll() is None
        assert "message from the queue 'celery': reason" not in behind.log
    finally:
        behind.stop()
    where.environment.clear()
    where.environment.update(right)
    with worker(where, "-P", "solo", name="right"):
        wait_for(lambda: sorted(where.witness) == ["task 0", "task 1", "task 2"], 60)


def test_a_whole_worker_whose_clock_is_ahead_over_redis(tmp_path, alice, redis):
    store = redis_py.Redis.from_url(f"redis://{redis}/0")
    store.flushall()

    def put_back():
        # As the documentation says it.
        while store.lmove(REFUSED, "celery", "RIGHT", "LEFT"):
            pass

    ahead_then_right(tmp_path, alice, f"sealed-redis://{redis}/0", redis, lambda: store.llen(REFUSED), put_back)


def test_a_whole_worker_whose_clock_is_ahead_over_amqp(tmp_path, alice, redis, rabbitmq):
    with plain_amqp(rabbitmq) as connection:
        channel = connection.channel()
        channel.queue_delete(REFUSED)

        def kept():
            return connection.channel().queue_declare(REFUSED, passive=True).message_count

        def put_back():
            while message := channel.basic_get(REFUSED, no_ack=True):
                channel.basic_publish(message, "", "celery")

        ahead_then_right(tmp_path, alice, f"sealed-amqp://{rabbitmq}//", redis, kept, put_back)


def ahead_then_right(tmp_path, alice, broker, redis, kept, put_back):
    where = place(tmp_path, alice, broker, f"sealed-redis://{redis}/1", TEST_MAX_AGE="3600")
    for number in range(3):
        run_client(where, "send.py", "run", f"task {number}")
    right = dict(where.environment)
    where.environment.update(wrong_clock(tmp_path, 3 * 3600))
    with worker(where, "-P", "solo", name="ahead") as ahead:
        wait_for(lambda: "clock is ahead" in ahead.log and kept() == 3, 60)
    assert where.witness == []
    where.environment.clear()
    where.environment.update(right)
    put_back()
    with worker(where, "-P", "solo", name="right"):
        wait_for(lambda: sorted(where.witness) == ["task 0", "task 1", "task 2"], 60)


# --- Places ---


def test_a_message_of_another_domain_is_refused(where, alice):
    kind = AmqpBroker if where[0].startswith("sealed-amqp") else Broker
    staging = sealing_of(alice, [alice], domain="staging")
    broker = kind(where, staging)
    publish(broker.connection)
    raw = broker.take()
    for domain in ("production", ""):
        sealing = sealing_of(alice, [alice], domain=domain)
        broker.put(copy.deepcopy(raw))
        with connect(where, sealing) as connection:
            assert consume(connection, timeout=0.5) == []
        assert sealing.refusals == {"domain": 1}
    broker.put(raw)
    with connect(where, staging) as connection:
        assert payloads(consume(connection, timeout=0.5)) == [BODY]
    broker.close()


def test_a_message_that_is_moved_to_another_database_does_not_run_there(redis, alice):
    client(redis).flushall()
    staging, production = (sealing_of(alice, [alice], domain=domain) for domain in ("staging", "production"))
    with connect((f"sealed-redis://{redis}/0", {}), staging) as connection:
        publish(connection)
    (name,) = (name for name in client(redis).keys("tasks*"))
    assert client(redis).move(name, 1)
    with connect((f"sealed-redis://{redis}/1", {}), production) as connection:
        assert consume(connection, timeout=0.5) == []
    assert production.refusals == {"domain": 1}


def test_a_result_of_another_domain_is_not_there(alice):
    staging, production = (sealing_of(alice, [alice], domain=domain) for domain in ("staging", "production"))
    sealed = staging.sealer.seal_payload("celery-result", "task-1", b"7")
    assert staging.results.open_payload(sealed, "celery-result", "task-1").payload == b"7"
    with pytest.raises(OpenError) as refused:
        production.results.open_payload(sealed, "celery-result", "task-1")
    assert refused.value.reason == "domain"


@pytest.mark.parametrize("options", [{"domain": 7}, {"domain": "d" * 4097}, {"dead_letter_max": 0}, {"replay_capacity": True}])
def test_settings_that_make_no_sense(alice, options):
    with pytest.raises(ValueError):
        sealing_of(alice, [alice], **options)
