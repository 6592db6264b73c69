"""Chords over a sealed Redis: the body runs once, with all of its parts and nothing else, whatever is written to the store."""

import json
import threading

import pytest
from celery import Celery, chord, group, states
from celery._state import _task_stack
from celery.app.task import Context
from celery.exceptions import ChordError
from celery.result import GroupResult

import taskseal
from taskseal.celery import chords
from taskseal.celery.backends import SealedRedisBackend
from taskseal.celery.chords import ADDED, PART, SIZE
from taskseal.celery.sealing import Sealing
from taskseal.errors import OpenError, SignError

GROUP = "a-group"


def run(results):
    """The body."""


class Chords:
    """An application with a sealed store, a task `body` that only notes what it was called with, and an attacker's client."""

    def __init__(self, address, identity):
        self.sealing = Sealing(identity.signer(), taskseal.CertStore([identity.native]))
        self.app = Celery("tests", set_as_current=False, broker="memory://")
        self.app.conf.update(result_backend_transport_options={"sealing": self.sealing})
        self.ran = []
        self.app.task(run, name="body")
        self.app.finalize()
        self.task = self.app.tasks["body"]
        self.task.apply_async = lambda args, kwargs=None, **options: self.ran.append(args[0])
        self.app._backend = self.backend = self.new_backend(address)
        self.store = self.backend.client
        self.store.flushall()

    def new_backend(self, address):
        return SealedRedisBackend(app=self.app, url=f"sealed-redis://{address}/0")

    def request(self, id, place, group=GROUP):
        return Context({"id": id, "group": group, "group_index": place, "chord": self.body()})

    def body(self):
        signature = self.task.s()
        signature.options["task_id"] = "the-body"
        return dict(signature)

    def part(self, id, place, value=None, *, state=states.SUCCESS, request=None):
        request = request or self.request(id, place)
        self.backend.on_chord_part_return(request, state, id if value is None else value)

    def key(self, suffix, group=GROUP):
        return self.backend.get_key_for_group(group, suffix)

    def seal(self, purpose, value, group=GROUP):
        return self.sealing.sealer.seal_payload(purpose, group, json.dumps(value))

    @property
    def error(self):
        """With what the body has failed."""
        return self.backend.get_result("the-body")


@pytest.fixture
def made(redis, alice):
    return Chords(redis, alice)


def test_the_body_runs_with_the_parts_in_their_places(made):
    made.part("c", 2)
    made.backend.set_chord_size(GROUP, 3)
    made.part("a", 0)
    assert made.ran == []
    made.part("b", 1)
    assert made.ran == [["a", "b", "c"]]
    assert made.store.keys() == [] and not made.sealing.refusals


def test_one_signature_twice_in_the_header_is_two_parts(made):
    made.backend.set_chord_size(GROUP, 3)
    for place in (0, 1, 2):
        made.part("same", place, f"result {place}")
    assert made.ran == [["result 0", "result 1", "result 2"]]


def test_a_task_that_runs_again_is_one_part(made):
    made.backend.set_chord_size(GROUP, 2)
    for value in (1, 2, 3):
        made.part("a", 0, value)
    assert made.ran == []
    made.part("b", 1, 4)
    assert made.ran == [[3, 4]]
    # Nor does a late copy run the body again.
    made.part("b", 1, 5)
    assert made.ran == [[3, 4]]


def test_a_part_that_failed_fails_the_chord(made):
    made.backend.set_chord_size(GROUP, 2)
    made.part("a", 0, ValueError("the text"), state=states.FAILURE)
    made.part("b", 1)
    assert made.ran == [] and isinstance(made.error, ChordError) and "Dependency a raised" in str(made.error)
    assert "the text" in str(made.error)


@pytest.mark.parametrize("size", ["1", b"2", "-1", "garbage", "x" * 100_000])
def test_a_size_that_is_none_of_ours_fails_the_chord_with_a_word(made, size):
    made.backend.set_chord_size(GROUP, 3)
    made.store.set(made.key(".s"), size)
    made.part("a", 0)
    assert made.ran == [] and "chord-size" in str(made.error)
    # It does not run after it has failed.
    made.backend.set_chord_size(GROUP, 3)
    made.part("b", 1)
    made.part("c", 2)
    assert made.ran == []


def test_the_size_of_another_chord_or_another_signer_is_none(made, bob):
    stranger = Sealing(bob.signer(), taskseal.CertStore([bob.native]))
    sizes = [made.seal(SIZE, {"size": 1, "nested": False}, "other"), made.seal(PART, {"size": 1, "nested": False}),
             stranger.sealer.seal_payload(SIZE, GROUP, json.dumps({"size": 1, "nested": False}))]  # fmt: skip
    for size in sizes:
        made.store.flushall()
        made.store.set(made.key(".s"), size)
        made.part("a", 0)
        assert made.ran == [] and "chord-size" in str(made.error)


def test_counters_and_parts_of_others_do_not_make_it_run_early(made):
    made.backend.set_chord_size(GROUP, 3)
    made.part("a", 0)
    own = made.store.hget(made.key(".j"), "0:a")
    other = made.seal(PART, [1, "x", "SUCCESS", "x", 1, []], "other")
    for field, value in (("1:b", own), ("1:x", other), ("2:c", b"garbage"), ("3:d", b"\xff"), ("0:a ", own),
                         ("4:e", made.seal(ADDED, {"id": "e"})), ("", json.dumps([1, "b", "SUCCESS", "b", 1, []]))):  # fmt: skip
        made.store.hset(made.key(".j"), field, value)
    made.store.hset(made.key(".t"), "f", "garbage")
    made.part("b", 1)
    assert made.ran == []
    made.part("c", 2)
    assert made.ran == [["a", "b", "c"]]


def test_parts_that_are_taken_away_keep_it_from_running(made):
    made.backend.set_chord_size(GROUP, 3)
    for place, id in enumerate("abc"):
        made.part(id, place)
        if id == "b":
            made.store.hdel(made.key(".j"), "0:a")
    assert made.ran == []


def test_a_task_that_is_added_is_waited_for_whatever_the_store_says(made):
    made.backend.set_chord_size(GROUP, 1)
    made.task.push_request(**made.request("a", 0).__dict__)
    _task_stack.push(made.task)
    try:
        made.backend.add_to_chord(GROUP, made.app.AsyncResult("added"))
        made.store.delete(made.key(".t"))
        made.part("a", 0, request=made.task.request)
    finally:
        _task_stack.pop()
        made.task.pop_request()
    assert made.ran == []
    made.part("added", 0)
    assert made.ran == [["a", "added"]]


def test_a_task_that_was_added_before_a_retry_is_waited_for(made):
    made.backend.set_chord_size(GROUP, 1)
    made.backend.add_to_chord(GROUP, made.app.AsyncResult("added"))
    made.part("a", 0)
    assert made.ran == []
    made.part("added", 0)
    assert made.ran == [["a", "added"]]


def test_a_chord_whose_parts_are_put_back_is_not_run_again(made):
    made.backend.set_chord_size(GROUP, 2)
    made.part("a", 0)
    size, parts = made.store.get(made.key(".s")), made.store.hgetall(made.key(".j"))
    made.part("b", 1)
    made.store.set(made.key(".s"), size)
    made.store.hset(made.key(".j"), mapping=parts)
    made.part("b", 1)
    assert made.ran == [["a", "b"]]
    # A frozen chord that is applied again is another run.
    made.backend.set_chord_size(GROUP, 2)
    made.part("a", 0)
    made.part("b", 1)
    assert made.ran == [["a", "b"]] * 2


@pytest.mark.parametrize("suffix", [".s", ".j", ".t"])
def test_keys_of_another_type_fail_the_chord_with_a_word(made, suffix):
    made.backend.set_chord_size(GROUP, 1)
    made.store.delete(made.key(suffix))
    made.store.rpush(made.key(suffix), "x")
    made.part("a", 0)
    assert made.ran == [] and "chord-incomplete" in str(made.error)


def test_many_workers_that_finish_at_once_run_it_once(made, redis, monkeypatch):
    # All of them see all parts.
    made.backend.set_chord_size(GROUP, 8)
    start = threading.Barrier(8)

    def returns(place):
        backend = made.new_backend(redis)
        start.wait(30)
        backend.on_chord_part_return(made.request(f"t{place}", place), states.SUCCESS, place)

    threads = [threading.Thread(target=returns, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made.ran == [list(range(8))]


def test_a_lock_that_somebody_else_holds_holds_a_worker_up_and_no_more(made, monkeypatch):
    monkeypatch.setattr(chords, "WAIT", 0.3)
    made.backend.set_chord_size(GROUP, 1)
    made.store.set(made.key(".c"), "x")
    made.part("a", 0)
    assert made.ran == []
    made.store.delete(made.key(".c"))
    made.part("a", 0)
    assert made.ran == [["a"]]


@pytest.mark.parametrize("what", ["sealing a part", "opening parts", "sending the body"])
def test_keys_that_are_away_for_a_while_cost_no_chord(made, monkeypatch, what):
    monkeypatch.setattr(chords, "PAUSE", 0.05)
    made.backend.set_chord_size(GROUP, 2)
    made.part("a", 0)
    fails = iter([SignError("away", "timeout"), OpenError("away", reason="keys"), OpenError("away", reason="store")])

    def flaky(function):
        def call(*arguments, **options):
            for error in fails:
                raise error
            return function(*arguments, **options)

        return call

    if what == "sealing a part":
        monkeypatch.setattr(made.backend, "encode_result", flaky(made.backend.encode_result))
    elif what == "opening parts":
        monkeypatch.setattr(made.backend, "opened", flaky(made.backend.opened))
    else:
        made.task.apply_async = flaky(made.task.apply_async)
    made.part("b", 1)
    assert made.ran == [["a", "b"]]


def test_keys_that_stay_away_are_an_error_and_the_parts_are_kept(made, monkeypatch):
    monkeypatch.setattr(chords, "PATIENCE", 0.2)
    monkeypatch.setattr(chords, "PAUSE", 0.05)
    made.backend.set_chord_size(GROUP, 1)

    def away(*arguments):
        raise OpenError("away", reason="keys")

    monkeypatch.setattr(made.backend, "opened", away)
    with pytest.raises(OpenError):
        made.part("a", 0)
    monkeypatch.undo()
    made.part("a", 0)
    assert made.ran == [["a"]]


def test_a_body_that_cannot_be_sent_fails(made):
    def broken(*args, **options):
        raise RuntimeError("no broker")

    made.task.apply_async = broken
    made.backend.set_chord_size(GROUP, 1)
    made.part("a", 0)
    assert "Callback error" in str(made.error) and "no broker" in str(made.error)


def test_the_form_of_a_header_cannot_be_taken_away(made):
    inner = GroupResult("inner", [made.app.AsyncResult("a"), made.app.AsyncResult("b")], app=made.app)
    for id in "ab":
        made.backend.store_result(id, id, states.SUCCESS)
    for lost in (False, True):
        made.backend.apply_chord((GROUP, [inner, made.app.AsyncResult("c")]), None)
        made.backend.store_result("c", "c", states.SUCCESS)
        made.backend.set_chord_size(GROUP, 3)
        if lost:
            made.store.delete(made.key(""))
        for place, id in enumerate("abc"):
            made.part(id, place)
    assert made.ran == [[["a", "b"], "c"]] and "chord-incomplete" in str(made.error)


def test_celery_sets_the_size_itself(made):
    made.task.apply_async = lambda *args, **options: None
    chord([made.task.s(1), group(made.task.s(2), made.task.s(3))], made.task.s()).apply_async()
    (key,) = made.store.keys("*.s")
    opened = made.sealing.results.open_payload(made.store.get(key), SIZE)
    assert json.loads(opened.payload) == {"size": 3, "nested": False}
