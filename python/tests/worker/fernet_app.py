"""A Celery application with encrypted bodies and nothing else of ours: no setup is called."""

import os

from celery import Celery
from support_wait import witness

app = Celery("fernet_app")
app.conf.update(
    broker_url=os.environ["TEST_BROKER"],
    result_backend=os.environ["TEST_BACKEND"],
    task_serializer="fernet_json",
    result_serializer="fernet_json",
    accept_content=["fernet_json"],
    broker_connection_retry_on_startup=True,
)


@app.task(name="add")
def add(a, b=0):
    return a + b


@app.task(name="run")
def run(line):
    witness(line)
    return line
