"""Sealed result backends: what is stored comes back, under its own key alone, and nothing else does."""

import json

import kombu.compression
import pytest
import redis as redis_py
from celery import Celery, states
from celery.backends.filesystem import FilesystemBackend
from celery.exceptions import SecurityError
from celery.result import GroupResult
from conftest import tls_files
from support.servers import redis_server

import taskseal
from taskseal.celery import compression
from taskseal.celery.backends import RESULT, SealedBackendMixin, SealedRedisBackend, Verified
from taskseal.celery.sealing import Sealing
from taskseal.errors import OpenError


class SealedFiles(SealedBackendMixin, FilesystemBackend):
    """As an application makes one for another backend."""


def application(sealing, **settings):
    app = Celery("tests", set_as_current=False)
    app.conf.update(result_backend_transport_options={"sealing": sealing}, **settings)
    return app


@pytest.fixture(params=["redis", "files"])
def backend(request, tmp_path, alice):
    sealing = Sealing(
        alice.signer(), taskseal.CertStore([alice.native]), [taskseal.Fernet(taskseal.Fernet.generate_key())]
    )
    app = application(sealing)
    if request.param == "files":
        return SealedFiles(app=app, url=f"file://{tmp_path}")
    made = SealedRedisBackend(app=app, url=f"sealed-redis://{request.getfixturevalue('redis')}/0")
    made.client.flushall()
    return made


def stored(backend, key):
    return super(SealedBackendMixin, backend).get(backend.key_t(key))


def write(backend, key, value):
    super(SealedBackendMixin, backend).set(backend.key_t(key), value)


def task(id):
    return f"celery-task-meta-{id}"


def test_results_come_back(backend):
    backend.store_result("one", {"secret": "Å"}, states.SUCCESS)
    backend.store_result("two", ValueError("text"), states.FAILURE)
    assert backend.get_result("one") == {"secret": "Å"} and backend.get_state("one") == states.SUCCESS
    assert isinstance(backend.get_result("two"), ValueError)
    assert backend.get_state("three") == states.PENDING
    assert b"secret" not in bytes(stored(backend, task("one")))
    # A result that succeeded is not written over.
    backend.store_result("one", "other", states.FAILURE)
    assert backend.get_state("one") == states.SUCCESS
    backend.forget("one")
    assert backend.get_state("one") == states.PENDING
    assert not backend.sealing.refusals


def test_the_url_that_is_shown_is_sealed(redis, backend):
    if isinstance(backend, SealedRedisBackend):
        assert backend.as_uri() == f"sealed-redis://{redis}/0"


def test_several_results_at_once(backend):
    for number in range(3):
        backend.store_result(f"n{number}", number, states.SUCCESS)
    metas = dict(backend.get_many(["n0", "n1", "n2"], timeout=5, interval=0.1))
    assert {id: meta["result"] for id, meta in metas.items()} == {"n0": 0, "n1": 1, "n2": 2}


def test_results_over_tls_are_verified(tmp_path, alice):
    sealing = Sealing(alice.signer(), taskseal.CertStore([alice.native]))
    tls = tls_files(tmp_path / "tls", "localhost")
    with redis_server(tmp_path, tls=tls) as address:
        port = address.split(":")[1]
        for url, works in (
            (f"sealed-rediss://localhost:{port}/0", False),
            (f"sealed-rediss://localhost:{port}/0?ssl_ca_certs={tls}/ca.pem", True),
            (f"sealed-rediss://127.0.0.1:{port}/0?ssl_ca_certs={tls}/ca.pem", False),
            (f"sealed-rediss://localhost:{port}/0?ssl_cert_reqs=none", True),
        ):
            backend = SealedRedisBackend(app=application(sealing), url=url)
            if works:
                assert backend.client.ping()
            else:
                with pytest.raises(redis_py.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                    backend.client.ping()


def test_compressed_results_have_a_limit(backend, monkeypatch):
    for table in ("_encoders", "_decoders", "_aliases"):
        monkeypatch.setattr(kombu.compression, table, getattr(kombu.compression, table).copy())
    compression.limit(100_000)
    backend.compression = "gzip"
    backend.store_result("one", "x" * 90_000, states.SUCCESS)
    backend.store_result("two", "x" * 110_000, states.SUCCESS)
    assert len(stored(backend, task("one"))) < 10_000
    assert backend.get_result("one") == "x" * 90_000
    with pytest.raises(SecurityError, match="longer than 100000 bytes"):
        backend.get_state("two")


def test_groups_come_back(backend):
    app = backend.app
    group = GroupResult("a-group", [app.AsyncResult("one"), app.AsyncResult("two")], app=app)
    backend.save_group("a-group", group)
    assert [one.id for one in backend.restore_group("a-group").results] == ["one", "two"]
    write(backend, "celery-taskset-meta-b-group", stored(backend, "celery-taskset-meta-a-group"))
    assert backend.restore_group("b-group") is None
    assert backend.sealing.refusals == {"context": 1}


def test_what_is_not_this_result_counts_as_none(backend, bob):
    backend.store_result("one", 1, states.SUCCESS)
    swapped = bytes(stored(backend, task("one")))
    plain = json.dumps({"status": "SUCCESS", "result": 2, "task_id": "two", "traceback": None, "children": []}).encode()
    stranger = Sealing(bob.signer(), taskseal.CertStore([bob.native]))
    message = backend.sealing.seal(
        {"body": "", "content-type": None, "content-encoding": None, "headers": {}, "properties": {}}, "", "celery"
    )
    bad = [swapped, plain, b"garbage", b"\xff\xfe", swapped[:-4], message.encode(),
           stranger.sealer.seal_payload(RESULT, "two", plain).encode()]  # fmt: skip
    for value in bad:
        write(backend, task("two"), value)
        assert backend.get_state("two") == states.PENDING
    assert sum(backend.sealing.refusals.values()) == len(bad)
    # A worker that has the true result stores it all the same.
    backend.store_result("two", 2, states.SUCCESS)
    assert backend.get_result("two") == 2


def test_nothing_is_decoded_that_was_not_opened(backend):
    payload = json.dumps({"status": "SUCCESS", "result": 2, "task_id": "two"}).encode()
    with pytest.raises(OpenError):
        backend.decode(payload)
    with pytest.raises(OpenError):
        backend.decode_result(payload)
    assert backend.decode(Verified(payload))["result"] == 2


def test_notifications_are_opened_too(redis, alice):
    sealing = Sealing(alice.signer(), taskseal.CertStore([alice.native]))
    backend = SealedRedisBackend(app=application(sealing), url=f"sealed-redis://{redis}/0")
    meta = {"status": "SUCCESS", "result": 2, "task_id": "two", "traceback": None, "children": []}
    payload = json.dumps(meta).encode()
    assert backend.open_result(sealing.sealer.seal_payload(RESULT, "two", payload))["result"] == 2
    for bad in (payload, b"garbage", None, 7, sealing.sealer.seal_payload(RESULT, "other", payload),
                sealing.sealer.seal_payload("celery-group", "two", payload)):  # fmt: skip
        assert backend.open_result(bad) is None
        backend.result_consumer.on_state_change(backend.open_result(bad), None)
