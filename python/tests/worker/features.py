"""A client that uses what Celery offers and checks what comes back. Ends non-zero with a list of what failed."""

import datetime
import os
import sys
import time
import traceback

import kombu
import kombu.compression
from celery import chain, chord, group
from celery.result import AsyncResult
from sealed_app import add, again, app, by_whom, echo, fail, grow, linked_to, more, run, second, silent, total, types, who
from support_wait import wait_for, witnessed

import taskseal

T = 30
FEATURES = []


def feature(function):
    FEATURES.append(function)
    return function


@feature
def simple():
    assert add.delay(2, 3).get(T) == 5


@feature
def kwargs_and_unicode():
    assert echo.delay("Ålice 😀", key="välue").get(T) == [["Ålice 😀"], {"key": "välue"}]


@feature
def datetime_and_bytes():
    now = datetime.datetime.now(datetime.timezone.utc)
    assert types.delay(now, b"\x00\xff").get(T) == [True, True, b"\x00\xff"]


@feature
def retry():
    assert again.delay().get(T) == 1


@feature
def signer():
    with open(os.environ["TEST_CERTIFICATE"]) as file:
        id = taskseal.Certificate(file.read()).id
    assert by_whom.delay().get(T) == id
    # Nobody says of himself who he is.
    assert by_whom.apply_async(headers={"taskseal_signer": "the boss"}).get(T) == id


@feature
def countdown():
    start = time.time()
    assert add.apply_async((1, 1), countdown=1).get(T) == 2
    assert time.time() - start >= 1


@feature
def expires():
    run.apply_async(("expired",), countdown=1, expires=0.5)
    assert add.apply_async((1,), expires=30).get(T) == 1


@feature
def chained():
    assert chain(add.s(1, 2), add.s(3), add.s(4))().get(T) == 10


@feature
def grouped():
    assert group(add.s(n, n) for n in range(5))().get(T) == [0, 2, 4, 6, 8]


@feature
def chorded():
    assert chord((add.s(n, n) for n in range(5)), total.s())().get(T) == 20


@feature
def chord_of_groups():
    got = chord([group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)], echo.s())().get(T)
    # Celery unrolls the inner group.
    assert sorted(got[0][0]) == [2, 4, 6], got


@feature
def chord_of_one_signature_twice():
    frozen = add.s(1, 1)
    frozen.freeze()
    assert chord([frozen, frozen, add.s(2, 2)], total.s())().get(T) == 8


@feature
def chord_of_chains_and_chords():
    inner = chord([add.s(1, 1), add.s(2, 2)], total.s())
    assert chord([chain(add.s(1, 1), add.s(1)), inner, group(add.s(3, 3), add.s(4, 4))], total.s())().get(T) == 23


@feature
def chord_that_grows():
    assert sorted(chord([grow.s(1), add.s(2, 2)], echo.s())().get(T)[0][0]) == [1, 4, 30]


@feature
def group_in_a_chain():
    assert chain(group(add.s(1, 1), add.s(2, 2)), total.s(), add.s(10))().get(T) == 16


@feature
def chord_with_an_error():
    try:
        chord([add.s(1, 1), fail.s("part of a chord")], total.s())().get(T)
    except Exception as error:
        assert "part of a chord" in str(error)
    else:
        raise AssertionError("no error")


@feature
def linked():
    add.apply_async((1, 1), link=linked_to.s()).get(T)
    witnessed("linked 2")


@feature
def subtask():
    assert AsyncResult(more.delay(4).get(T), app=app).get(T) == 5


@feature
def own_task_id():
    own = f"my-own-id-{os.getpid()}"
    assert who.apply_async(task_id=own).get(T)[:2] == [own, own]


@feature
def exception_as_result():
    try:
        fail.delay("the text").get(T)
    except ValueError as error:
        assert str(error) == "the text"
    else:
        raise AssertionError("no error")


@feature
def priority():
    assert [add.apply_async((n,), priority=n).get(T) for n in (0, 3, 9)] == [0, 3, 9]


@feature
def compression():
    # Several blocks, of several kinds.
    body = "x" * 400_000 + "".join(map(str, range(50_000)))
    for method in ("zlib", "bzip2", "lzma", "zstd"):
        # Which of them kombu has depends on what is installed.
        if method in kombu.compression._aliases:
            assert echo.apply_async((body,), compression=method).get(T) == [[body], {}], method


@feature
def large_argument():
    assert echo.delay("x" * 1_000_000).get(T) == [["x" * 1_000_000], {}]


@feature
def ignored_result():
    silent.delay("silent")
    witnessed("silent")


@feature
def second_queue():
    assert second.delay("second").get(T) == "second"


@feature
def inspect_ping():
    assert app.control.ping(timeout=2, limit=1)


@feature
def inspect_registered():
    (tasks,) = app.control.inspect(timeout=2, limit=1).registered().values()
    assert "add" in tasks


@feature
def broadcast():
    assert app.control.broadcast("rate_limit", {"task_name": "echo", "rate_limit": "100/s"}, reply=True, timeout=2, limit=1)


@feature
def revoke():
    result = run.apply_async(("revoked",), countdown=2)
    app.control.revoke(result.id)
    time.sleep(2.5)
    witnessed("revoked", times=0)


@feature
def events():
    got = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: got.append(event["type"])})
        consumer = receiver.itercapture(limit=None, timeout=5, wakeup=True)
        end = time.monotonic() + 30
        sent = False
        while time.monotonic() < end and not {"task-received", "task-succeeded"} <= set(got):
            try:
                next(consumer)
            except (StopIteration, TimeoutError):
                # Its queue is gone with it: nothing is sent before the next one has heard something.
                consumer = receiver.itercapture(limit=None, timeout=5, wakeup=True)
                continue
            if not sent:
                add.delay(1, 1)
                sent = True
    assert "task-succeeded" in got and "task-received" in got, got


@feature
def batch():
    if not hasattr(kombu.Producer, "batch"):
        return  # kombu has it since 5.7
    with app.producer_pool.acquire() as producer, producer.batch(max_size=7):
        results = [add.apply_async((n, n), producer=producer) for n in range(20)]
    assert [result.get(T) for result in results] == [2 * n for n in range(20)]


@feature
def purge():
    for _ in range(3):
        add.apply_async((1,), queue="nobody")
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        assert wait_for(lambda: channel.queue_declare("nobody", passive=True).message_count == 3)
        assert channel.queue_purge("nobody") == 3
        assert channel.queue_purge("nobody") == 0


def main():
    failed = []
    for function in FEATURES:
        if sys.argv[1:] and function.__name__ not in sys.argv[1:]:
            continue
        start = time.monotonic()
        try:
            function()
        except BaseException:
            failed.append(function.__name__)
            traceback.print_exc()
        print(f"{time.monotonic() - start:6.2f} s  {function.__name__}", flush=True)
    witnessed("expired", times=0)
    print(f"{len(FEATURES)} features, failed: {failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
