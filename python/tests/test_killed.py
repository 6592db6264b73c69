"""Workers that are killed, and connections that break, in the middle of traffic: every task that acknowledges late runs."""

import contextlib
import os
import signal
import time
from dataclasses import replace

import pytest
import redis as redis_py
from support.proxy import Proxy
from support.servers import wait_for
from support.transports import client as redis_client
from support.transports import plain_amqp
from support.workers import Worker, client, place

COUNT = 60


@pytest.fixture(params=["redis", "amqp"])
def where(request, tmp_path, alice):
    if request.param == "redis":
        address = request.getfixturevalue("redis")
        redis_client(address).flushall()
        broker = f"sealed-redis://{address}/0"
    else:
        address = request.getfixturevalue("rabbitmq")
        with plain_amqp(address) as connection:
            connection.channel().queue_delete("celery")
        broker = f"sealed-amqp://{address}//"
    made = place(tmp_path, alice, broker, "rpc://", TEST_VISIBILITY="3")
    return made, address if request.param == "redis" else None


def missing(where):
    done = set(where.witness)
    return [number for number in range(COUNT) if f"task-{number} done" not in done]


def wait_for_some(where):
    """Until some more tasks have begun or ended, or none that is left is with a living worker."""
    before = len(where.witness)
    wait_for(lambda: len(where.witness) > before + 3 or not missing(where) or idle(where), 60)


@contextlib.contextmanager
def nothing_given_out(redis):
    """Without messages between Redis, which has taken one out of its queue, and a worker, which is about to note it there. What
    is killed then loses one, with kombu as with us.
    """
    if redis is None:
        yield
        return
    with contextlib.closing(redis_client(redis)) as client:
        with contextlib.suppress(redis_py.ResponseError):
            client.rename("celery", "hidden")
        time.sleep(0.5)
        yield
        while client.lmove("hidden", "celery"):
            pass


def idle(where, seconds=4):
    before = len(where.witness)
    time.sleep(seconds)
    return len(where.witness) == before


def all_done(where, workers, seconds=90):
    try:
        wait_for(lambda: not missing(where), seconds)
    except TimeoutError:
        log = "".join(worker.log[-3000:] for worker in workers)
        raise AssertionError(f"{missing(where)} did not run\n{log}") from None


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
def test_no_task_is_lost_with_a_worker_that_is_killed(where, pool):
    where, redis = where
    arguments = ("-P", pool, "-c", "2")
    client(where, "send.py", "slow-many", str(COUNT), "0.3")
    workers = [Worker(where, *arguments, name=f"worker{number}") for number in range(2)]
    try:
        for number in range(2, 5):
            workers[-2].ready()
            # In the middle of its tasks, with others that it was sent ahead.
            wait_for_some(where)
            with nothing_given_out(redis):
                workers[-2].kill()
            workers.append(Worker(where, *arguments, name=f"worker{number}"))
        # What the killed ones had is given out again after the visibility timeout of Redis. A worker looks for it when it
        # starts, and then every 100 s, as kombu has it.
        wait_for(lambda: not missing(where) or idle(where), 60)
        workers.append(Worker(where, *arguments, name="last"))
        all_done(where, workers)
        assert "refused" not in "".join(worker.log for worker in workers)
    finally:
        for worker in workers:
            worker.kill()


def test_no_task_is_lost_with_a_child_that_is_killed(where):
    where, _ = where
    client(where, "send.py", "slow-many", str(COUNT), "0.1")
    worker = Worker(where, "-P", "prefork", "-c", "2")
    try:
        worker.ready()
        children = f"/proc/{worker.process.pid}/task/{worker.process.pid}/children"
        for _ in range(3):
            wait_for_some(where)
            with open(children) as pids:
                victim = pids.read().split()[0]
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(victim), signal.SIGKILL)
        all_done(where, [worker])
        assert worker.process.poll() is None
    finally:
        worker.kill()


def test_no_task_is_lost_with_connections_that_break(where):
    where, redis = where
    client(where, "send.py", "slow-many", str(COUNT), "0.3")
    scheme, _, rest = where.environment["TEST_BROKER"].partition("://")
    login, at, rest = rest.rpartition("@")
    address, slash, path = rest.partition("/")
    proxy = Proxy(address)
    behind = replace(where, environment={**where.environment,
                                         "TEST_BROKER": f"{scheme}://{login}{at}{proxy.address}{slash}{path}"})  # fmt: skip
    worker = Worker(behind, "-P", "prefork", "-c", "2")
    try:
        worker.ready()
        for _ in range(8):
            with nothing_given_out(redis):
                proxy.cut()
            time.sleep(0.3)
        all_done(where, [worker])
        assert proxy.cuts >= 8 and worker.process.poll() is None
    finally:
        worker.kill()
        proxy.close()
