"""Everything at once and by chance: a worker lives through what somebody without a key writes wherever it reads.

TASKSEAL_FLOOD_WRITES and TASKSEAL_FLOOD_SEED choose how much and what; `scripts/soak` writes more.
"""

import pytest
from support.flood import WRITES, AmqpWriter, SignedAmqpWriter, flood
from support.transports import plain_amqp
from support.workers import place

pytestmark = pytest.mark.timeout(300 + WRITES // 10)


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
