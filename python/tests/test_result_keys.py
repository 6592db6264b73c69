"""Somebody writes something of another type under the key of a result, or the result store refuses: no worker ends by it."""

import contextlib

import pytest
import redis as redis_py
from celery import Celery
from support.servers import redis_server, wait_for
from support.workers import client, place, worker

import taskseal
from taskseal.celery.backends import SealedRedisBackend
from taskseal.celery.sealing import Sealing

TYPES = {
    "list": lambda store, key: store.lpush(key, "x"),
    "hash": lambda store, key: store.hset(key, "x", "x"),
    "set": lambda store, key: store.sadd(key, "x"),
    "zset": lambda store, key: store.zadd(key, {"x": 1}),
    "stream": lambda store, key: store.xadd(key, {"x": "x"}),
    "string": lambda store, key: store.set(key, "x"),
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_result_of_another_type_is_none(redis, alice, kind):
    """It is refused, counts as a result that is not there, and is written over by the true one."""
    sealing = Sealing(alice.signer(), taskseal.CertStore([alice.native]))
    app = Celery("tests", set_as_current=False)
    app.conf.result_backend_transport_options = {"sealing": sealing}
    backend = SealedRedisBackend(app=app, url=f"sealed-redis://{redis}/1")
    backend.client.flushdb()
    TYPES[kind](backend.client, "celery-task-meta-one")
    TYPES[kind](backend.client, "celery-taskset-meta-group")
    assert backend.get_state("one") == "PENDING" and backend.restore_group("group") is None
    assert sum(sealing.refusals.values()) == 2
    backend.store_result("one", 1, "SUCCESS")
    assert backend.get_result("one") == 1
    TYPES[kind](backend.client, "celery-task-meta-two")
    assert [id for id, _ in backend.get_many(["one", "two"], timeout=1, interval=0.1, max_iterations=1)] == ["one"]


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_lives_with_results_of_another_type(tmp_path, redis, alice, pool):
    """Also where its main process stores them: of tasks that it does not know, or that were revoked."""
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    results = redis_py.Redis.from_url(f"redis://{redis}/1")
    where = place(tmp_path, alice, f"sealed-redis://{redis}/0", f"sealed-redis://{redis}/1")
    with worker(where, "-P", pool, "-c", "1") as running:
        for number, write in enumerate(TYPES.values()):
            for name in ("run", "unknown"):
                write(results, f"celery-task-meta-{name}-{number}")
            client(where, "send.py", "named", "run", f"run-{number}", f"line {number}")
            client(where, "send.py", "named", "no.such.task", f"unknown-{number}", "x")
        wait_for(lambda: len(where.witness) == len(TYPES), 60)
        wait_for(lambda: client(where, "send.py", "state", f"unknown-{len(TYPES) - 1}").strip() == "FAILURE", 60)
        assert client(where, "send.py", "state", "run-0").strip() == "SUCCESS"
        assert running.process.poll() is None and "Connection to broker lost" not in running.log
    assert sorted(where.witness) == [f"line {number}" for number in range(len(TYPES))]


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_lives_with_a_result_store_that_is_full(tmp_path, redis, alice, pool):
    """What it refuses is said, and no task runs twice for it."""
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    (tmp_path / "results").mkdir()
    with redis_server(tmp_path / "results") as address:
        where = place(tmp_path, alice, f"sealed-redis://{redis}/0", f"sealed-redis://{address}/0")
        store = redis_py.Redis.from_url(f"redis://{address}/0")
        with worker(where, "-P", pool, "-c", "1") as running:
            store.config_set("maxmemory", 1)
            for number in range(3):
                client(where, "send.py", "run", f"line {number}")
                client(where, "send.py", "named", "no.such.task", f"unknown-{number}", "x")
            wait_for(lambda: len(set(where.witness)) == 3, 60)
            store.config_set("maxmemory", 0)
            client(where, "send.py", "run", "the last")
            wait_for(lambda: "the last" in where.witness, 60)
            with contextlib.suppress(TimeoutError):
                wait_for(lambda: running.process.poll() is not None, 3)
            assert running.process.poll() is None, running.log[-5000:]
        assert sorted(where.witness) == ["line 0", "line 1", "line 2", "the last"]
