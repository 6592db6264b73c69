"""The versions of Celery that are promised, each with the newest kombu of its line: what Celery offers works sealed.

The environments are made by `scripts/test`, with the same wheel of this package as the one that the other tests use.
"""

import contextlib
import json
import subprocess
from dataclasses import replace

import pytest
import redis as redis_py
from conftest import environment_of
from support.odd import frames
from support.raw_amqp import HARD_PROPERTIES, Publisher
from support.servers import wait_for
from support.transports import plain_amqp
from support.workers import WORKER, client, place, worker

import taskseal

VERSIONS = ["5.5", "5.6"]


@pytest.fixture(params=VERSIONS)
def python(request):
    return environment_of(f"celery-{request.param}"), request.param


def test_everything_that_celery_offers(tmp_path, token, redis, python):
    executable, version = python
    installed = subprocess.run(
        [executable, "-c", "import celery, kombu.compression as c; print(celery.__version__, 'zstd' in c._aliases)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert installed.stdout.startswith(f"{version}.") and installed.stdout.split()[1] == "True"
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    where = place(tmp_path, token.identity, f"sealed-redis://{redis}/0", f"sealed-redis://{redis}/1", key=token.uri,
                  encryption_keys=[taskseal.Fernet.generate_key().decode()],
                  SOFTHSM2_CONF=token.configuration)  # fmt: skip
    where = replace(where, python=executable)
    with worker(where, "-P", "prefork", "-c", "2", "-Q", "celery,second", "-E") as running:
        try:
            print(client(where, "features.py", seconds=170))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{running.log[-4000:]}") from None
    assert "refused:" not in running.log


def test_over_amqp_and_with_native_delayed_delivery(tmp_path, rabbitmq, alice, redis, python):
    """py-amqp has one line, but kombu and Celery around it differ."""
    with plain_amqp(rabbitmq) as plain:
        for queue in ("celery", "second", "third"):
            plain.channel(1).queue_delete(queue)
    where = place(tmp_path, alice, f"sealed-amqp://{rabbitmq}//", f"sealed-redis://{redis}/1", TEST_QUORUM="1")
    where = replace(where, python=python[0])
    with worker(where, "-P", "prefork", "-c", "2", "-E") as running, contextlib.closing(Publisher(rabbitmq)) as raw:
        for each in HARD_PROPERTIES.values():
            for exchange, key in ((b"", b"celery"), (b"celery.pidbox", b"\xff")):
                assert raw.publish(b"garbage", each, exchange, key)
        client(where, "features.py", "countdown", "chorded", "second_queue", "inspect_ping", "events")
        assert client(where, "send.py", "later", "tried", "1.2").split() == ["tasks-by-topic", "third"]
        assert running.process.poll() is None and "Traceback" not in running.log
        assert "destination" not in running.log
    with plain_amqp(rabbitmq) as plain:
        for queue in ("celery", "second", "third"):
            plain.channel(1).queue_delete(queue)


def test_the_decompressor_of_these_versions_keeps_a_limit(python):
    executable, _ = python
    done = subprocess.run([executable, str(WORKER / "zstandard_limits.py")], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]


def test_signed_bodies_over_kombus_own_transport(tmp_path, alice, redis, python):
    """The guard around Celery's consumer and kombu's channel, on the consumer and the channel of these versions."""
    executable, _ = python
    store = redis_py.Redis.from_url(f"redis://{redis}/0")
    store.flushall()
    where = place(tmp_path, alice, f"redis://{redis}/0", f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_EVENTS="auth")  # fmt: skip
    where = replace(where, python=executable)
    client(where, "send.py", "run", "stolen")
    items = frames(json.loads(store.lpop("celery")))
    with worker(where, "-P", "prefork", "-c", "1", "-E", app="signed_app") as running:
        for item in items:
            store.lpush("celery", item)
            store.publish("/0.celery.pidbox", item)
            store.publish("/0.celeryev/worker.heartbeat", item)
        client(where, "send.py", "run", "good")
        wait_for(lambda: "good" in where.witness and store.llen("celery") == 0, 60)
        client(where, "send.py", "two-results")
        assert running.process.poll() is None and set(where.witness) <= {"good", "stolen"}
        assert "Traceback" not in running.log and "Connection to broker lost" not in running.log, running.log[-5000:]
