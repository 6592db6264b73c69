"""Workers with signed bodies over kombu's own transports: beside stock Celery, and against messages that nobody signed."""

from dataclasses import replace

import pytest
import redis as redis_py
from celery import Celery
from support.log import refusals_in
from support.servers import wait_for
from support.workers import Worker, client, place, worker


@pytest.fixture(params=["redis", "amqp"])
def where(request, tmp_path, token, redis):
    """An application with its key on a token."""
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    broker = f"redis://{redis}/0" if request.param == "redis" else f"amqp://{request.getfixturevalue('rabbitmq')}//"
    return place(tmp_path, token.identity, broker, f"redis://{redis}/1", key=token.uri, TEST_APP="signed_app",
                 TEST_SECURITY="ours", SOFTHSM2_CONF=token.configuration)  # fmt: skip


def with_stock_celery(where):
    """The same application with stock Celery's `setup_security`, which reads keys from files."""
    key = str(where.directory / "key.pem")
    return replace(where, environment={**where.environment, "TEST_SECURITY": "stock", "TEST_KEY": key})


def test_stock_celery_and_ours_read_each_other(where):
    for name, ours, theirs in (("ours", where, with_stock_celery(where)), ("stock", with_stock_celery(where), where)):
        with worker(ours, "-P", "prefork", "-c", "1", app="signed_app", name=name):
            for side, sender in (("same", ours), ("other", theirs)):
                client(sender, "send.py", "run", f"{name} {side}")
                wait_for(lambda: f"{name} {side}" in where.witness, 30)  # noqa: B023
                assert client(sender, "send.py", "two-results").split()


def test_what_nobody_signed_does_not_run_nor_stop_a_worker(where):
    with worker(where, "-P", "prefork", "-c", "1", app="signed_app") as running:
        plain = Celery("plain", broker=where.environment["TEST_BROKER"], set_as_current=False)
        for number in range(3):
            plain.send_task("run", [f"unsigned {number}"])
            plain.control.shutdown()
            client(where, "send.py", "run", f"good {number}")
        wait_for(lambda: {"good 0", "good 1", "good 2"} <= set(where.witness), 30)
        assert len(where.witness) == 3 and running.process.poll() is None
        wait_for(lambda: refusals_in(running.log) >= 6, 30)


def test_a_signer_that_is_not_trusted(where, tmp_path, bob):
    """Neither whom nobody knows, nor who uses the name of somebody else."""
    with worker(where, "-P", "prefork", "-c", "1", app="signed_app") as running:
        for name, certificate in (("stranger", bob.pem), ("impostor", (tmp_path / "certificate.pem").read_text())):
            theirs = tmp_path / name
            theirs.mkdir()
            (theirs / "trusted.pem").write_text(bob.pem)
            (theirs / "key.pem").write_text(bob.key_pem)
            (theirs / "certificate.pem").write_text(certificate)
            environment = {"TEST_SECURITY": "stock", "TEST_KEY": str(theirs / "key.pem"),
                           "TEST_CERTIFICATE": str(theirs / "certificate.pem"), "TEST_STORE": str(theirs)}  # fmt: skip
            (theirs / "key.pem").rename(tmp_path / f"{name}.key")
            environment.update(TEST_KEY=str(tmp_path / f"{name}.key"), TEST_STORE=str(theirs / "trusted.pem"))
            client(replace(where, environment={**where.environment, **environment}), "send.py", "run", name)
        client(where, "send.py", "run", "good")
        wait_for(lambda: "good" in where.witness, 30)
        assert where.witness == ["good"]
        assert "is unknown" in running.log and "does not verify" in running.log


def test_a_worker_whose_settings_were_widened_does_not_start(where):
    client(where, "send.py", "run", "waits")
    started = Worker(where, "-P", "solo", app="widened_app", name="widened")
    try:
        assert started.process.wait(60) != 0
    finally:
        started.stop()
    assert "accept only tasks" in started.log and where.witness == []
    with worker(where, "-P", "solo", app="signed_app"):
        wait_for(lambda: "waits" in where.witness, 30)
