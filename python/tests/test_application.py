"""After `setup_sealing` an application uses sealed connections and backends alone, whatever its settings become."""

import kombu
import pytest
from celery import Celery
from celery.backends.redis import RedisBackend
from celery.exceptions import ImproperlyConfigured
from kombu.exceptions import OperationalError
from support.applications import application, files
from support.workers import Worker, place

from taskseal.celery import setup_sealing
from taskseal.celery.backends import SealedRedisBackend
from taskseal.celery.transport.memory import Transport

UNSEALED = ["memory://", "redis://localhost:1/0", "amqp://localhost:1//", "pyamqp://", "memory+sealed-memory://", "x://"]


@pytest.fixture
def app(tmp_path, alice):
    made = application(files(tmp_path, alice))
    setup_sealing(made)
    return made


READ, WRITE = "connection_for_read", "connection_for_write"


def channel(app, name):
    """A channel of a connection that the application gives in this way."""
    found = getattr(app, name)
    return (found() if callable(found) else found.acquire()).default_channel


@pytest.mark.parametrize("name", [READ, WRITE, "pool"])
def test_a_sealed_url_works(app, name):
    assert isinstance(channel(app, name).connection, Transport)
    assert isinstance(getattr(app, READ)().clone().default_channel.connection, Transport)


@pytest.mark.parametrize("url", UNSEALED)
@pytest.mark.parametrize(("setting", "names"), [
    ("broker_url", [READ, WRITE, "pool"]),
    ("broker_read_url", [READ]),
    ("broker_write_url", [WRITE, "pool"]),
    ("environment", [READ, WRITE, "pool"]),
    ("broker_transport", [READ, WRITE, "pool"]),
])  # fmt: skip
def test_a_url_that_changes_later_is_refused_where_it_is_used(app, url, setting, names, monkeypatch):
    if setting == "environment":
        monkeypatch.setenv("CELERY_BROKER_URL", url)
    elif setting == "broker_transport":
        app.conf.broker_transport = url.partition(":")[0]
    else:
        app.conf[setting] = url
    for name in names:
        # kombu itself does not know the last one.
        with pytest.raises((ImproperlyConfigured, KeyError, ValueError)):
            channel(app, name)


def test_a_task_is_neither_sent_nor_taken_unsealed(app):
    app.conf.broker_url = "memory://"
    with pytest.raises(ImproperlyConfigured, match="not sealed"):
        app.connection_for_read().default_channel  # noqa: B018
    with pytest.raises(ImproperlyConfigured, match="not sealed"):
        app.send_task("x")


@pytest.mark.parametrize("url", UNSEALED[:-2])
def test_a_failover_never_leads_to_an_unsealed_server(app, url):
    # Nobody listens at the first.
    app.conf.broker_url = f"sealed-redis://localhost:1/0;{url}"
    with pytest.raises((ImproperlyConfigured, OperationalError)) as raised:
        app.connection_for_write().ensure_connection(max_retries=3, interval_start=0, interval_step=0, timeout=10)
    assert isinstance(raised.value, ImproperlyConfigured)
    with app.pool.acquire() as connection:
        connection.switch(url)
        with pytest.raises(ImproperlyConfigured):
            connection.connect()
    connection = app.connection_for_read("sealed-memory://")
    connection.switch(url)
    with pytest.raises(ImproperlyConfigured):
        connection.connect()


def test_pools_of_others_are_not_shared(app):
    theirs = kombu.pools.connections[kombu.Connection("sealed-memory://")]
    assert app.pool is not theirs and app.pool is kombu.pools.connections[app.connection_for_write()]


@pytest.mark.parametrize("url", ["redis://localhost:1/0", "cache+memory://", "file:///tmp", "db+sqlite://", "x://"])
@pytest.mark.parametrize("setting", ["result_backend", "environment", "backend_cls"])
def test_a_result_backend_that_changes_later_is_refused_where_it_is_made(app, url, setting, monkeypatch, redis):
    if setting == "environment":
        monkeypatch.setenv("CELERY_RESULT_BACKEND", url)
    elif setting == "backend_cls":
        app.backend_cls = url
    else:
        app.conf.result_backend = url
    with pytest.raises(ImproperlyConfigured, match="result_backend"):
        app.backend  # noqa: B018
    with pytest.raises(ImproperlyConfigured, match="result_backend"):
        app.AsyncResult("an-id").state  # noqa: B018


def test_another_sealed_result_backend_is_taken(app, redis):
    app.conf.result_backend = f"sealed-redis://{redis}/0"
    assert isinstance(app.backend, SealedRedisBackend)


def test_an_application_that_is_in_use_is_not_set_up(tmp_path, alice, redis):
    good = files(tmp_path, alice)
    for use_it, settings in (
        (lambda app: app.pool, {"broker_url": "memory://"}),
        (lambda app: app.backend, {"result_backend": f"redis://{redis}/0"}),
    ):
        app = application(good, **settings)
        use_it(app)
        app.conf.update(broker_url="sealed-memory://", result_backend=None)
        with pytest.raises(ImproperlyConfigured, match="before setup_sealing"):
            setup_sealing(app)
    assert isinstance(Celery("other", backend=f"redis://{redis}/0").backend, RedisBackend)


def test_a_worker_does_not_start_with_a_url_that_was_changed(tmp_path, alice, redis):
    where = place(tmp_path, alice, f"sealed-redis://{redis}/0", f"sealed-redis://{redis}/1")
    (tmp_path / "changed_app.py").write_text(f"from sealed_app import app\napp.conf.broker_url = 'redis://{redis}/0'\n")
    started = Worker(where, "-P", "solo", app="changed_app")
    try:
        assert started.process.wait(60) != 0
        assert "not sealed" in started.log and " ready." not in started.log
    finally:
        started.stop()
