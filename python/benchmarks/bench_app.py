"""The application of `tasks.py`. BENCH_MODE says how messages go: json, auth (stock), ours (signed bodies), sealed."""

import os

from celery import Celery

MODE = os.environ["BENCH_MODE"]
HOME = os.environ["BENCH_HOME"]
ADDRESS = os.environ["BENCH_REDIS"]
SCHEME = "sealed-redis" if MODE == "sealed" else "redis"

app = Celery("bench_app", broker=f"{SCHEME}://{ADDRESS}/0", backend=f"{SCHEME}://{ADDRESS}/1")
app.conf.update(
    security_key=f"{HOME}/key.pem",
    security_certificate=f"{HOME}/trusted/certificate.pem",
    security_cert_store=f"{HOME}/trusted",
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
)
if MODE in ("auth", "ours"):
    app.conf.update(task_serializer="auth", event_serializer="auth", result_serializer="auth", accept_content=["auth"])
if MODE == "auth":
    app.setup_security()
elif MODE == "ours":
    from taskseal.celery import setup_security

    setup_security(app=app)
elif MODE == "sealed":
    from taskseal.celery import setup_sealing

    with open(f"{HOME}/fernet.key") as file:
        app.conf.sealing_encryption_keys = [file.read()]
    setup_sealing(app)


@app.task(name="add")
def add(a, b):
    return a + b


@app.task(name="add_silently", ignore_result=True)
def add_silently(a, b):
    return a + b
