"""Somebody without a key who writes whatever comes to his mind, seeded, wherever a worker reads; good messages in between."""

import contextlib
import json
import os
import random
import subprocess
import sys

from support.raw_amqp import SEALED, Publisher, field, hard_properties, nested, properties
from support.servers import wait_for
from support.transports import plain_amqp
from support.workers import WORKER, worker

#: How many hostile writes; `scripts/soak` makes it more.
WRITES = int(os.environ.get("TASKSEAL_FLOOD_WRITES", "500"))
SEED = int(os.environ.get("TASKSEAL_FLOOD_SEED", "7"))
GOOD = 50


def flood(where, writer, *arguments):
    """Lets `writer` write while a worker runs. It lives, and runs each of the good messages once."""
    source = random.Random(SEED)
    good = [f"good {number}" for number in range(GOOD)]
    app = where.environment.get("TEST_APP", "sealed_app")
    with sender(where) as send:
        send("stolen")
        with writer, worker(where, "-E", *arguments, app=app) as running:
            for number in range(WRITES):
                writer.write(source)
                if number * GOOD // WRITES < (number + 1) * GOOD // WRITES:
                    send(good[number * GOOD // WRITES])
                if number % 100 == 0:
                    assert running.process.poll() is None, running.log[-5000:]
            writer.calm()
            said = lambda: f"seed {SEED}: {sorted(set(good) - set(where.witness))}\n{running.log[-5000:]}"  # noqa: E731
            try:
                wait_for(lambda: set(good) <= set(where.witness) or running.process.poll() is not None, 60 + WRITES / 20)
            except TimeoutError:
                raise AssertionError(said()) from None
            # What is behind all of it runs as well, and it is the worker that began.
            writer.clear()
            send("the last")
            wait_for(lambda: "the last" in where.witness or running.process.poll() is not None, 60)
            assert running.process.poll() is None, said()
            assert "Connection to broker lost" not in running.log, said()
            assert "Traceback" not in running.log, said()
    if app == "signed_app":
        # A signed body can be repeated, and does not run without its headers.
        assert set(where.witness) - {"stolen"} == {*good, "the last"}, where.witness
    else:
        assert sorted(where.witness) == sorted([*good, "the last", "stolen"]), where.witness


@contextlib.contextmanager
def sender(where):
    """A client that sends a good message for each line that it is given, when the broker takes it."""
    process = subprocess.Popen(
        [sys.executable, str(WORKER / "sender.py")], env=where.environment, cwd=where.directory, text=True,
        stdin=subprocess.PIPE,
    )  # fmt: skip

    def send(line):
        process.stdin.write(line + "\n")
        process.stdin.flush()

    try:
        yield send
    finally:
        process.stdin.close()
        process.wait(30)


#: Bodies without a signature that make sense to somebody.
PLAIN = [
    b"", b"null", b"7", b"{", b"[" * 10_000, b"\xff\xfe", b'"x"', b"[]", b"{}", b"[[], {}, {}]", b'[["x"], {}, {"chord": 7}]',
    json.dumps({"method": "shutdown", "arguments": {}}).encode(), json.dumps({"type": "worker-heartbeat", "hostname": 7}).encode(),
    json.dumps({"task": "run", "id": "x", "args": ["unsigned"], "kwargs": {}}).encode(), b"NaN", b"1e999999", b"\x00" * 100,
    b"x" * 300_000,
]  # fmt: skip


def body(source, genuine):
    """A body: garbage, an unsigned one, or the genuine one, whole or bent."""
    kind = source.randrange(6)
    if kind == 0:
        return source.randbytes(source.randrange(300))
    if kind == 1:
        return source.choice(PLAIN)
    if kind == 2:
        return genuine
    at = source.randrange(len(genuine))
    if kind == 3:
        return genuine[:at]
    if kind == 4:
        return genuine[:at] + source.randbytes(source.randrange(1, 5)) + genuine[at:]
    bent = bytearray(genuine)
    bent[at] ^= 1 << source.randrange(8)
    return bytes(bent)


class AmqpWriter:
    """Writes to every exchange and queue of RabbitMQ that a worker reads."""

    #: Exchanges and routing keys. Queues are reached through the default exchange by their names.
    PLACES = [
        (b"", b"celery"), (b"", b"celery"), (b"", b"second"), (b"", b"worker@localhost.celery.pidbox"),
        (b"celery.pidbox", b""), (b"celery", b"celery"), (b"celeryev", b"worker.heartbeat"), (b"celeryev", b"worker.online"),
        (b"celeryev", b"task.received"), (b"reply.celery.pidbox", b"x"),
    ]  # fmt: skip

    #: Where a routing key may be any bytes.
    ANY_KEY = (b"celery.pidbox", b"celeryev")

    def __init__(self, address):
        self.address = address
        self.publisher = Publisher(address)
        self.genuine = None

    def __enter__(self):
        with plain_amqp(self.address) as plain:
            message = wait_for(lambda: plain.channel(1).basic_get("celery", no_ack=True), 20)
        # The body of a sealed message is text; amqp has decoded it.
        self.genuine = message.body.encode()
        assert self.publisher.publish(self.genuine, routing_key=b"celery")
        return self

    def __exit__(self, *_):
        self.publisher.close()

    def write(self, source):
        exchange, key = source.choice(self.PLACES)
        if exchange in self.ANY_KEY and source.random() < 0.3:
            key = source.choice([b"\xff\xfe", b"worker.\xff", b"\xed\xa0\x80", source.randbytes(source.randrange(255)), b"a." * 100])
        self.publisher.publish(body(source, self.genuine), self.properties(source), exchange, key)

    def properties(self, source):
        """The bytes of the properties of one of its messages, or None for those of a sealed one."""
        chosen = source.randrange(3)
        if chosen == 2:
            return hard_properties(source)
        return [None, properties(content_type=b"application/json", content_encoding=b"utf-8")][chosen]

    def calm(self):
        """What only holds a worker up is taken away: here, nothing does."""

    def clear(self):
        """Nothing of it is left in the queues of tasks."""
        with plain_amqp(self.address) as plain:
            wait_for(lambda: all(plain.channel(1).queue_declare(queue, passive=True).message_count == 0
                                 for queue in ("celery", "second")), 60)  # fmt: skip


class SignedAmqpWriter(AmqpWriter):
    """The same for an application that signs bodies: headers are outside, and anybody's."""

    def properties(self, source):
        if source.randrange(2):
            return super().properties(source)
        given = {b"task": [b"run", b"no.such.task", b"\xff"], b"id": [b"x", b"victim", b""], b"eta": [b"", b"x"],
                 b"lang": [b"py"], b"compression": [b"zlib", b"x"]}  # fmt: skip
        fields = b"".join(field(name, long_text(source.choice(values))) for name, values in given.items() if source.randrange(3))
        if source.randrange(3) == 0:
            fields += nested(source.choice([1, 50, 900, 3000]), source.choice([b"F", b"A"]))
        return properties(content_type=b"application/data", content_encoding=b"utf-8", headers=fields)


def long_text(value):
    return b"S" + len(value).to_bytes(4, "big") + value


__all__ = ["AmqpWriter", "SEALED", "SignedAmqpWriter", "flood"]
