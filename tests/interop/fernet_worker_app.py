"""A stock Celery application whose bodies are encrypted by kombu-fernet-serializers. `fernet_worker.rs` starts its worker;
the environment says where the broker is, and the package reads its keys from there.
"""
import os

import redis
from celery import Celery

URL = os.environ["TASKSEAL_TEST_REDIS"]
SERIALIZER = os.environ["TASKSEAL_TEST_SERIALIZER"]

app = Celery("fernet_worker_app", broker=URL, backend=URL)
app.conf.update(
    task_serializer=SERIALIZER,
    result_serializer=SERIALIZER,
    accept_content=[SERIALIZER],
)


@app.task(name="taskseal.record", bind=True)
def record(self, *args, **kwargs):
    # That it ran stays visible whatever becomes of the result.
    redis.Redis.from_url(URL).rpush("ran", self.request.id)
    return {"args": args, "kwargs": kwargs}
