"""Everything at once and by chance: a worker lives through what somebody without a key writes wherever it reads.

TASKSEAL_FLOOD_WRITES and TASKSEAL_FLOOD_SEED choose how much and what; `scripts/soak` writes more.
"""

import json

import pytest
import redis as redis_py
from support.flood import GOOD, SEED, WRITES, AmqpWriter, SignedAmqpWriter, flood
from support.flood_files import FileWriter
from support.flood_redis import RedisWriter
from support.transports import plain_amqp
from support.workers import place

pytestmark = pytest.mark.timeout(300 + WRITES // 10)


@pytest.fixture(autouse=True)
def seed():
    """Shown when a test fails."""
    print(f"TASKSEAL_FLOOD_SEED={SEED} TASKSEAL_FLOOD_WRITES={WRITES}")


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_rabbitmq(tmp_path, rabbitmq, alice, pool):
    with plain_amqp(rabbitmq) as plain:
        for queue in ("celery", "second"):
            plain.channel(1).queue_delete(queue)
    where = place(tmp_path, alice, f"sealed-amqp://{rabbitmq}//", "rpc://")
    flood(where, AmqpWriter(rabbitmq), "-P", pool, "-c", "2", "-Q", "celery,second")


def test_rabbitmq_with_signed_bodies(tmp_path, rabbitmq, redis, alice):
    with plain_amqp(rabbitmq) as plain:
        for queue in ("celery", "second"):
            plain.channel(1).queue_delete(queue)
            plain.channel(1).queue_declare("second", durable=True, auto_delete=False)
    where = place(tmp_path, alice, f"amqp://{rabbitmq}//", f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_EVENTS="auth")  # fmt: skip
    flood(where, SignedAmqpWriter(rabbitmq), "-P", "prefork", "-c", "2", "-Q", "celery,second")


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_redis(tmp_path, redis, alice, pool):
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    # Its workers look often for what is unacknowledged for too long.
    options = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    where = place(tmp_path, alice, f"sealed-redis://{redis}/0", f"sealed-redis://{redis}/1", TEST_TRANSPORT=json.dumps(options))
    writer = RedisWriter(redis, ids=[f"good-{number}" for number in range(GOOD)])
    flood(where, writer, "-P", pool, "-c", "2", "-Q", "celery,second")


def test_redis_with_signed_bodies(tmp_path, redis, alice):
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    where = place(tmp_path, alice, f"redis://{redis}/0", f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_EVENTS="auth", TEST_PRIORITY="5")  # fmt: skip
    flood(where, RedisWriter(redis), "-P", "prefork", "-c", "2", "-Q", "celery,second")


def test_the_file_system(tmp_path, redis, alice):
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    messages, tables = tmp_path / "messages", tmp_path / "tables"
    messages.mkdir()
    tables.mkdir()
    options = {"data_folder_in": str(messages), "data_folder_out": str(messages), "control_folder": str(tables),
               "polling_interval": 0.1}  # fmt: skip
    where = place(tmp_path, alice, "sealed-filesystem://", f"sealed-redis://{redis}/1", TEST_TRANSPORT=json.dumps(options))
    flood(where, FileWriter(messages, tables), "-P", "solo", "-Q", "celery,second")
    # Nothing was written elsewhere.
    assert {path.name for path in tmp_path.iterdir()} == {
        "certificate.pem", "key.pem", "messages", "tables", "trusted", "witness", "worker.log"}  # fmt: skip
