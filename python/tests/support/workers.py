"""Celery workers in processes of their own."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.servers import wait_for

WORKER = Path(__file__).parent.parent / "worker"


@dataclass
class Place:
    """What an application needs to know, as environment of its processes."""

    environment: dict
    directory: Path
    #: The Python of its processes: that of the tests unless an environment with another Celery is meant.
    python: str = sys.executable

    @property
    def witness(self):
        path = Path(self.environment["TEST_WITNESS"])
        return path.read_text().splitlines() if path.exists() else []


def place(directory, identity, broker, backend, *, key=None, trusted=(), encryption_keys=(), **more):
    """Writes keys and certificates into a directory. `key` is a URI, or the identity's key is put in a file."""
    trust = directory / "trusted"
    trust.mkdir()
    for one in (identity, *trusted):
        (trust / f"{one.native.issuer}.pem").write_text(one.pem)
    (directory / "certificate.pem").write_text(identity.pem)
    (directory / "key.pem").write_text(identity.key_pem)
    environment = {
        **os.environ,
        "TEST_BROKER": broker,
        "TEST_BACKEND": backend,
        "TEST_KEY": key or str(directory / "key.pem"),
        "TEST_CERTIFICATE": str(directory / "certificate.pem"),
        "TEST_STORE": str(trust),
        "TEST_ENCRYPTION_KEYS": " ".join(encryption_keys),
        "TEST_WITNESS": str(directory / "witness"),
        "PYTHONPATH": str(WORKER),
        "PYTHONUNBUFFERED": "1",
        **more,
    }
    return Place(environment, directory)


class Worker:
    """A worker. Its log is in a file, and in the message of a failure."""

    def __init__(self, place, *arguments, app="sealed_app", name="worker"):
        self.log_path = place.directory / f"{name}.log"
        self._log = open(self.log_path, "ab")
        self.name = f"{name}@localhost"
        self.process = subprocess.Popen(
            [place.python, "-m", "celery", "-A", app, "worker", "-l", "info", "-n", self.name, *arguments],
            env=place.environment, cwd=place.directory, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def ready(self):
        try:
            wait_for(lambda: " ready." in self.log or self.process.poll() is not None, 60)
        except TimeoutError:
            raise RuntimeError(self.log[-5000:]) from None
        if self.process.poll() is not None:
            raise RuntimeError(self.log[-5000:])
        return self

    def stop(self, number=signal.SIGTERM, seconds=30):
        """Ends it: a warm shutdown unless another signal is given."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()

    def kill(self):
        """Ends it and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def worker(place, *arguments, **options):
    started = Worker(place, *arguments, **options)
    try:
        yield started.ready()
    finally:
        started.stop()


def client(place, program, *arguments, seconds=120):
    """Runs a script of `worker/` as a client of the application; what it printed."""
    done = subprocess.run(
        [place.python, str(WORKER / program), *arguments],
        env=place.environment, cwd=place.directory, capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip
    if done.returncode != 0:
        raise AssertionError(done.stdout[-3000:] + done.stderr[-5000:])
    return done.stdout
