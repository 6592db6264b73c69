"""Everything at once and by chance: a worker lives through what somebody without a key writes wherever it reads.

TASKSEAL_FLOOD_WRITES and TASKSEAL_FLOOD_SEED choose how much and what; `scripts/soak` writes more.
"""

import pytest
from support.flood import WRITES, AmqpWriter, flood
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
