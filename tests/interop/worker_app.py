"""A stock Celery application as the security guide sets one up. `redis_worker.rs` starts its worker; the environment says
where the broker, the key and the certificates are.
"""
import os

import redis
from celery import Celery

URL = os.environ["TASKSEAL_TEST_REDIS"]
DIRECTORY = os.environ["TASKSEAL_TEST_DIRECTORY"]

app = Celery("worker_app", broker=URL, backend=URL)
app.conf.update(
    security_key=os.path.join(DIRECTORY, "worker.key"),
    security_certificate=os.path.join(DIRECTORY, "trusted", "worker.pem"),
    security_cert_store=os.path.join(DIRECTORY, "trusted", "*.pem"),
    security_digest="sha256",
    task_serializer="auth",
    event_serializer="auth",
    result_serializer="auth",
    accept_content=["auth"],
)
app.setup_security()


@app.task(name="taskseal.record", bind=True)
def record(self, *args, **kwargs):
    # That it ran stays visible whatever becomes of the result.
    redis.Redis.from_url(URL).rpush("ran", self.request.id)
    return {"args": args, "kwargs": kwargs}
