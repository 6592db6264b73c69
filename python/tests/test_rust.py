"""A Rust producer seals for a Python worker over `sealed-redis://`, and the other way round. The command `taskseal` is the
Rust side."""

import base64
import json
import subprocess
import uuid

import pytest
from conftest import command
from support.servers import redis_server, wait_for
from support.workers import client, place, worker

import taskseal


@pytest.fixture(scope="module", name="command")
def the_command():
    return command()


@pytest.fixture(params=["signed", "encrypted"])
def where(request, tmp_path, alice, bob):
    """An application whose worker is Alice and that trusts Bob, the Rust side."""
    key = taskseal.Fernet.generate_key().decode()
    (tmp_path / "fernet.key").write_text(key + "\n")
    (tmp_path / "fernet.key").chmod(0o600)
    (tmp_path / "bob.key").write_text(bob.key_pem)
    (tmp_path / "bob.key").chmod(0o600)
    (tmp_path / "bob.pem").write_text(bob.pem)
    with redis_server(tmp_path) as redis:
        made = place(tmp_path, alice, f"sealed-redis://{redis}/0", f"sealed-redis://{redis}/1", trusted=[bob],
                     encryption_keys=[key] if request.param == "encrypted" else [])  # fmt: skip
        made.redis = redis
        made.options = ["--encrypt-key", str(tmp_path / "fernet.key")] if request.param == "encrypted" else ["--message"]
        yield made


def run(command, *arguments, input):
    done = subprocess.run([command, *arguments], input=input, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def store(where):
    import redis

    return redis.Redis.from_url(f"redis://{where.redis}/0")


def test_a_rust_producer_and_a_python_worker(where, command):
    task = str(uuid.uuid4())
    body = json.dumps([["from Rust", 7], {"key": "välue"}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "echo", "id": task, "root_id": task, "lang": "rust", "retries": 0, "timelimit": [None, None]},
        "properties": {"body_encoding": "base64", "correlation_id": task, "reply_to": "", "delivery_mode": 2, "priority": 0},
    }
    sealed = run(
        command, "seal", "--key", where.directory / "bob.key", "--cert", where.directory / "bob.pem", *where.options,
        "--exchange", "", "--routing-key", "celery", input=json.dumps(message).encode(),
    ).decode().strip()  # fmt: skip
    outer = {
        "body": sealed,
        "content-type": "application/x-taskseal",
        "content-encoding": "utf-8",
        "headers": {},
        "properties": {"delivery_tag": str(uuid.uuid4()), "delivery_info": {"exchange": "", "routing_key": "celery"},
                       "body_encoding": "utf-8", "priority": 0, "delivery_mode": 2},
    }  # fmt: skip
    with worker(where, "-P", "solo") as running:
        store(where).lpush("celery", json.dumps(outer))
        wait_for(lambda: f"Task echo[{task}] succeeded" in running.log, 30)
        assert client(where, "send.py", "state", task).strip() == "SUCCESS"


def test_a_python_producer_and_a_rust_consumer(where, command):
    task = client(where, "send.py", "run", "from Python").strip()
    outer = json.loads(store(where).rpop("celery\x06\x163"))
    arguments = ["open", "--store", where.directory / "trusted", *where.options]
    opened = run(command, *arguments, "--exchange", "", "--routing-key", "celery", input=outer["body"].encode())
    message = json.loads(opened)
    assert message["headers"]["task"] == "run" and message["headers"]["id"] == task
    assert json.loads(message["body"])[0] == ["from Python"]
    elsewhere = subprocess.run(
        [command, *arguments, "--exchange", "", "--routing-key", "other"], input=outer["body"].encode(), capture_output=True
    )
    assert elsewhere.returncode != 0 and b"expected" in elsewhere.stderr
