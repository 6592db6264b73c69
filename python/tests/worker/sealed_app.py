"""A Celery application with sealed messages. The environment says with which broker, key and certificates."""

import datetime
import json
import os
import time

from celery import Celery
from kombu import Exchange, Queue
from support_wait import witness

from taskseal.celery import setup_sealing

app = Celery("sealed_app")
app.conf.update(
    broker_url=os.environ["TEST_BROKER"],
    result_backend=os.environ["TEST_BACKEND"],
    security_key=os.environ["TEST_KEY"],
    security_certificate=os.environ["TEST_CERTIFICATE"],
    security_cert_store=os.environ["TEST_STORE"],
    sealing_encryption_keys=os.environ.get("TEST_ENCRYPTION_KEYS", "").split(),
    sealing_reload_interval=0.5,
    sealing_replay=os.environ.get("TEST_REPLAY"),
    sealing_max_age=float(os.environ.get("TEST_MAX_AGE", "86400")),
    sealing_clock_skew=float(os.environ.get("TEST_CLOCK_SKEW", "60")),
    broker_connection_retry_on_startup=True,
    # Certificates of servers are compared with this one alone; None for connections without TLS.
    broker_use_ssl={"ca_certs": os.environ["TEST_CA"]} if os.environ["TEST_BROKER"].startswith("sealed-amqps") else None,
    broker_transport_options={"visibility_timeout": int(os.environ.get("TEST_VISIBILITY", "3600")),
                              **json.loads(os.environ.get("TEST_TRANSPORT", "{}"))},  # fmt: skip
    result_extended=True,
    worker_prefetch_multiplier=4,
    # Events and remote control are sealed with everything else.
    task_send_sent_event=True,
    worker_send_task_events=True,
    task_routes={"second": {"queue": "second"}},
    task_default_priority=5,
)
if os.environ.get("TEST_QUORUM"):
    # RabbitMQ itself delays tasks then.
    topic = Exchange("tasks-by-topic", type="topic")
    app.conf.update(
        task_queues=[
            Queue(name, topic, routing_key=key, queue_arguments={"x-queue-type": "quorum"})
            for name, key in (("celery", "celery"), ("second", "orders.#"), ("third", "third"))
        ],
        task_default_exchange=topic.name,
        task_default_exchange_type=topic.type,
        task_routes={"second": {"queue": "second", "routing_key": "orders.created"}, "later": {"queue": "third"}},
    )
sealing = setup_sealing(app)


@app.task(name="add")
def add(a, b=0):
    return a + b


@app.task(name="echo")
def echo(*args, **kwargs):
    return [args, kwargs]


@app.task(name="run")
def run(line):
    witness(line)
    return line


@app.task(name="linked_to")
def linked_to(value):
    witness(f"linked {value}")


@app.task(name="second")
def second(line):
    witness(line)
    return line


@app.task(name="total")
def total(numbers):
    return sum(numbers)


@app.task(name="grow", bind=True)
def grow(self, number):
    self.add_to_chord(add.s(10, 20))
    return number


@app.task(name="fail")
def fail(text):
    raise ValueError(text)


@app.task(name="types")
def types(when, data):
    return [isinstance(when, datetime.datetime), isinstance(data, bytes), data]


@app.task(name="again", bind=True, max_retries=2)
def again(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task(name="later", bind=True)
def later(self, line, countdown):
    """Ends at the second retry."""
    witness(f"{line} {self.request.retries}")
    if self.request.retries < 2:
        raise self.retry(countdown=countdown)
    return [self.request.delivery_info[name] for name in ("exchange", "routing_key")]


@app.task(name="more")
def more(a):
    return add.delay(a, 1).id


@app.task(name="who", bind=True)
def who(self):
    return [self.request.id, self.request.correlation_id, os.getpid()]


@app.task(name="by-whom", bind=True)
def by_whom(self):
    return getattr(self.request, "taskseal_signer", None)


@app.task(name="slow", acks_late=True, reject_on_worker_lost=True, bind=True)
def slow(self, line, seconds):
    witness(f"{line} {self.request.delivery_info.get('redelivered')}")
    time.sleep(seconds)
    witness(f"{line} done")
    return line


@app.task(name="silent", ignore_result=True)
def silent(line):
    witness(line)
