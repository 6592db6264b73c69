"""A Celery application that signs bodies alone. TEST_SECURITY says whose `setup_security` it calls: ``ours`` or ``stock``."""

import os

from celery import Celery
from support_wait import witness

import taskseal.celery

app = Celery("signed_app")
app.conf.update(
    broker_url=os.environ["TEST_BROKER"],
    result_backend=os.environ["TEST_BACKEND"],
    security_key=os.environ["TEST_KEY"],
    security_certificate=os.environ["TEST_CERTIFICATE"],
    security_cert_store=os.environ["TEST_STORE"],
    task_serializer="auth",
    result_serializer="auth",
    accept_content=["auth"],
    event_serializer=os.environ.get("TEST_EVENTS", "json"),
    task_default_priority=int(os.environ.get("TEST_PRIORITY", "0")),
    broker_connection_retry_on_startup=True,
)
if os.environ["TEST_SECURITY"] == "ours":
    reload_interval = float(os.environ.get("TEST_RELOAD", "5"))
    taskseal.celery.setup_security(app=app, reload_interval=reload_interval, refused=os.environ.get("TEST_REFUSED", "ack"))
else:
    app.setup_security()


@app.task(name="add")
def add(a, b=0):
    return a + b


@app.task(name="run")
def run(line):
    witness(line)
    return line
