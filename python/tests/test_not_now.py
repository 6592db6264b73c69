"""Workers of applications that encrypt or sign bodies, while their keys or certificates are away: no message is lost."""

import shutil
import subprocess
import time
from dataclasses import replace

import kombu
import pytest
import redis as redis_py
from conftest import DAY, PIN, command, identity
from support.servers import wait_for
from support.workers import client, place, worker

import taskseal


@pytest.fixture(params=["redis", "amqp"])
def broker(request, redis):
    redis_py.Redis.from_url(f"redis://{redis}/0").flushall()
    url = f"redis://{redis}/0" if request.param == "redis" else f"amqp://{request.getfixturevalue('rabbitmq')}//"
    with kombu.Connection(url) as connection:
        connection.default_channel.queue_declare("celery", durable=True, auto_delete=False)
        connection.default_channel.queue_purge("celery")
    return url


@pytest.fixture
def fernet(token):
    """The URI of keys of Fernet's on a token, without a PIN."""
    uri = token.uri.replace("object=worker", "object=bodies-fernet")
    subprocess.run([command(), "fernet", "key", "generate", "--key", uri], capture_output=True)
    return token.uri_without_pin.replace("object=worker", "object=bodies-fernet")


def test_bodies_that_cannot_be_decrypted_now_stay_in_their_queue(tmp_path, alice, token, fernet, broker, redis):
    """The application calls nothing of ours. Keys are away from the worker, and later from a process of its pool alone."""
    pin = tmp_path / "pin"
    where = place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="fernet_app", SOFTHSM2_CONF=token.configuration,
                  KOMBU_FERNET_KEY=f"{fernet}&pin-source=file:{pin}")  # fmt: skip
    (tmp_path / "pin-of-the-client").write_text(PIN)
    sender = replace(where, environment={**where.environment,
                                         "KOMBU_FERNET_KEY": f"{fernet}&pin-source=file:{pin}-of-the-client"})  # fmt: skip
    for number in range(3):
        client(sender, "send.py", "run", f"before {number}")
    arguments = ["-P", "prefork", "-c", "1", "--max-tasks-per-child", "1", "--without-mingle", "--without-gossip"]
    with worker(where, *arguments, app="fernet_app") as running:
        wait_for(lambda: running.log.count("stays in the queue") >= 2, 60)
        assert where.witness == [] and "Can't decode message body" not in running.log
        pin.write_text(PIN)
        wait_for(lambda: set(where.witness) == {f"before {number}" for number in range(3)}, 60)
        # The main process is logged in, and each process of the pool logs in for itself.
        pin.unlink()
        client(sender, "send.py", "run", "after")
        wait_for(lambda: "a task waits for the keys" in running.log, 60)
        assert "after" not in where.witness
        pin.write_text(PIN)
        wait_for(lambda: "after" in where.witness, 60)
        assert len(where.witness) == 4 and "raised unexpected" not in running.log


def test_a_body_that_nobody_can_decrypt_is_refused(tmp_path, alice, broker, redis):
    """Keys that are there and are other ones are no reason to wait."""
    keys = [taskseal.Fernet.generate_key().decode() for _ in range(2)]
    where = place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="fernet_app", KOMBU_FERNET_KEY=keys[0])
    client(replace(where, environment={**where.environment, "KOMBU_FERNET_KEY": keys[1]}), "send.py", "run", "stranger's")
    with worker(where, "-P", "solo", app="fernet_app") as running:
        client(where, "send.py", "run", "good")
        wait_for(lambda: "good" in where.witness, 60)
        assert where.witness == ["good"] and running.log.count("Can't decode message body") == 1


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_signed_bodies_wait_while_the_store_is_empty(tmp_path, alice, broker, redis, pool):
    where = place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_RELOAD="0.2")  # fmt: skip
    store, aside = tmp_path / "trusted", tmp_path / "aside"
    with worker(where, "-P", pool, "-c", "1", app="signed_app") as running:
        client(where, "send.py", "run", "before")
        wait_for(lambda: "before" in where.witness, 60)
        store.rename(aside)
        store.mkdir()
        # A client needs one.
        sender = replace(where, environment={**where.environment, "TEST_STORE": str(aside)})
        client(sender, "send.py", "run", "meanwhile")
        wait_for(lambda: running.log.count("stays in the queue") >= 2, 60)
        assert where.witness == ["before"]
        for file in aside.iterdir():
            shutil.copy(file, store)
        wait_for(lambda: "meanwhile" in where.witness, 60)
        assert where.witness == ["before", "meanwhile"] and "refused:" not in running.log


def test_messages_of_which_nothing_can_be_told_hold_up_none_of_those_behind_them(tmp_path, alice, broker, redis):
    """A pause after each of them would be five minutes."""
    stranger = identity("carol")
    where = place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_RELOAD="0.2")  # fmt: skip
    with kombu.Connection(broker) as connection, worker(where, "-P", "solo", app="signed_app") as running:
        client(where, "send.py", "run", "before")
        wait_for(lambda: "before" in where.witness, 60)
        # Whose certificate is in a file that is not complete yet, nobody knows. A client needs one that is.
        shutil.copytree(tmp_path / "trusted", tmp_path / "complete")
        sender = replace(where, environment={**where.environment, "TEST_STORE": str(tmp_path / "complete")})
        (tmp_path / "trusted" / "half.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIC")
        time.sleep(1)
        body = taskseal.Sealer(stranger.signer()).seal_bytes('[["stranger\'s"], {}, {}]')
        for number in range(300):
            headers = {"task": "run", "id": f"stranger-{number}"}
            connection.Producer().publish(body, exchange="", routing_key="celery", headers=headers,
                                          content_type="application/data", content_encoding="utf-8", priority=0)  # fmt: skip
        wait_for(lambda: "stays in the queue" in running.log, 60)
        client(sender, "send.py", "run", "good")
        wait_for(lambda: "good" in where.witness, 60)
        assert "refused:" not in running.log and where.witness == ["before", "good"]


@pytest.mark.parametrize("refused", ["ack", "dead-letter"])
def test_signed_bodies_that_time_alone_refuses_are_kept(tmp_path, alice, broker, redis, refused):
    """A certificate that begins tomorrow, or whose owner's clock is right and ours is wrong: no message is lost."""
    carol = identity("carol", start=DAY, end=2 * DAY)
    where = place(tmp_path, alice, broker, f"redis://{redis}/1", TEST_APP="signed_app", TEST_SECURITY="ours",
                  TEST_REFUSED=refused, trusted=[carol])  # fmt: skip
    body, headers = taskseal.Sealer(carol.signer()).seal_bytes('[["early"], {}, {}]'), {"task": "run", "id": "early"}
    with kombu.Connection(broker) as connection, worker(where, "-P", "solo", app="signed_app") as running:
        connection.Producer().publish(body, exchange="", routing_key="celery", headers=headers, content_type="application/data",
                                      content_encoding="utf-8")  # fmt: skip
        wait_for(lambda: "reason=not-yet-valid" in running.log, 60)
        message = connection.default_channel.basic_get("taskseal.refused", no_ack=True)
        assert text_of(message.body) == body and message.headers["task"] == "run"
        client(where, "send.py", "run", "good")
        wait_for(lambda: where.witness == ["good"], 60)


def text_of(body):
    return body if isinstance(body, str) else body.decode()
