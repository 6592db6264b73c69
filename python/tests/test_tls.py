"""A URL that says TLS is TLS, to a server whose certificate and name are verified, whatever the options; or an error."""

import contextlib
import socket
import ssl
import threading

import pytest
import redis as redis_py
from celery.exceptions import ImproperlyConfigured
from conftest import tls_files
from support.applications import application, files
from support.servers import redis_server

from taskseal.celery import setup_sealing
from taskseal.celery.replay import RedisMemory


class PlainServer:
    """Listens without TLS, notes what clients say first, and hangs up."""

    def __init__(self):
        self.heard = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                with client:
                    client.settimeout(10)
                    with contextlib.suppress(OSError):
                        self.heard.append(client.recv(4096))

    def heard_nothing_but_tls(self):
        # A record of a handshake, of any version.
        return bool(self.heard) and all(heard[:2] == b"\x16\x03" for heard in self.heard if heard)


@pytest.fixture
def plain():
    server = PlainServer()
    yield server
    server.socket.close()


@pytest.fixture
def good(tmp_path, alice):
    return {**files(tmp_path, alice), "broker_connection_timeout": 5}


BROKERS = [
    ("sealed-rediss://:canary@localhost:{port}/0", None),
    ("sealed-rediss://:canary@localhost:{port}/0", False),
    ("sealed-rediss://:canary@localhost:{port}/0", True),
    ("sealed-rediss://:canary@localhost:{port}/0", {}),
    ("sealed-rediss://:canary@localhost:{port}/0", {"ssl_keyfile": None}),
    ("sealed-rediss://:canary@localhost:{port}/0", {"ssl_cert_reqs": "none"}),
    ("sealed-rediss://:canary@localhost:{port}/0?ssl_cert_reqs=required", None),
    ("sealed-rediss://:canary@localhost:{port}/0?ssl_cert_reqs=none", True),
    ("sealed-rediss://:canary@localhost:1/0;sealed-rediss://:canary@localhost:{port}/0", True),
    # The setting says it for any URL.
    ("sealed-redis://:canary@localhost:{port}/0", True),
    ("sealed-redis://:canary@localhost:{port}/0", {"ssl_cert_reqs": ssl.CERT_NONE}),
    ("sealed-amqps://user:canary@localhost:{port}//", None),
    ("sealed-amqps://user:canary@localhost:{port}//", True),
    ("sealed-amqps://user:canary@localhost:{port}//", {}),
    ("sealed-amqps://user:canary@localhost:{port}//", {"cert_reqs": ssl.CERT_NONE}),
    ("sealed-amqps://user:canary@localhost:{port}//", {"context": {}}),
    ("sealed-amqps://user:canary@localhost:{port}//?ssl_cert_reqs=none", None),
    ("sealed-amqp://user:canary@localhost:{port}//", True),
    ("sealed-amqp://user:canary@localhost:{port}//", {"cert_reqs": ssl.CERT_NONE}),
]


@pytest.mark.parametrize(("url", "use_ssl"), BROKERS)
@pytest.mark.parametrize("options", [{}, {"ssl": False, "connection_class": redis_py.Connection, "socket_timeout": 5}])
def test_a_server_without_tls_never_sees_more_than_a_handshake(good, plain, url, use_ssl, options):
    app = application(good, broker_url=url.format(port=plain.port), broker_use_ssl=use_ssl, broker_transport_options=options)
    if options and "amqp" in url:
        with pytest.raises(ImproperlyConfigured, match="broker_transport_options has ssl"):
            setup_sealing(app)
        return
    setup_sealing(app)
    for connection in (app.connection_for_read(), app.connection_for_write().clone(), app.pool.acquire()):
        # The second try of a list goes to the next of its servers.
        with connection, pytest.raises(Exception):  # noqa: B017
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, interval_max=0, timeout=20)
            connection.default_channel.queue_declare("x")
    assert plain.heard_nothing_but_tls(), plain.heard


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=none"])
@pytest.mark.parametrize("use_ssl", [None, {}, {"ssl_keyfile": None}, {"ssl_cert_reqs": ssl.CERT_NONE}])
def test_results_never_go_to_a_server_without_tls(good, plain, query, use_ssl):
    url = f"sealed-rediss://:canary@localhost:{plain.port}/0{query}"
    app = application(good, result_backend=url, redis_backend_use_ssl=use_ssl)
    setup_sealing(app)
    with pytest.raises(redis_py.ConnectionError):
        app.backend.client.ping()
    with pytest.raises(redis_py.ConnectionError):
        app.backend.client.pubsub().subscribe("x")
    assert plain.heard_nothing_but_tls(), plain.heard


@pytest.mark.parametrize("query", ["", "?ssl_cert_reqs=none", "?ssl_check_hostname=false"])
def test_the_replay_memory_never_talks_to_a_server_without_tls(good, plain, query):
    sealing = setup_sealing(application(good, sealing_replay=f"rediss://:canary@localhost:{plain.port}/0{query}"))
    with pytest.raises(redis_py.ConnectionError):
        sealing.replay.contains(b"key")
    assert plain.heard_nothing_but_tls(), plain.heard


@pytest.mark.parametrize("settings", [
    {"broker_url": "sealed-rediss://h/0?ssl_cert_reqs=requird"},
    {"broker_url": "sealed-rediss://h/0", "broker_use_ssl": {"ssl_cert_reqs": None}},
    {"broker_url": "sealed-rediss://h/0", "broker_use_ssl": {"ssl_cert_reqs": "yes"}},
    {"broker_url": "sealed-rediss://h/0", "broker_use_ssl": {"ssl_cert_reqs": False}},
    {"broker_url": "sealed-rediss://h/0", "broker_use_ssl": "yes"},
    {"broker_url": "sealed-amqps://h//", "broker_use_ssl": "yes"},
    {"broker_url": "sealed-amqps://h//", "broker_use_ssl": {"cert_reqs": "yes"}},
    {"broker_url": "sealed-redis://a/0;sealed-rediss://h/0?ssl_cert_reqs=requird"},
    {"result_backend": "sealed-rediss://h/0?ssl_cert_reqs=requird"},
    {"result_backend": "sealed-rediss://h/0?connection_class=redis.Connection"},
    {"result_backend": "sealed-rediss://h/0", "redis_backend_use_ssl": True},
    {"result_backend": "sealed-redis://h/0", "redis_backend_use_ssl": True},
    {"result_backend": "sealed-rediss://h/0", "redis_backend_use_ssl": {"ssl_cert_reqs": "yes"}},
    {"result_backend": "sealed-redis://h/0?ssl_cert_reqs=required"},
    {"sealing_replay": "rediss://h/0?ssl_cert_reqs=requird"},
    {"sealing_replay": "redis://h/0?ssl_cert_reqs=required"},
    {"sealing_replay": "redis+tls://h/0"},
    {"sealing_replay": "sealed-rediss://h/0"},
    {"sealing_replay": "redis://:pass/word@h:6379/0"},
])  # fmt: skip
def test_options_that_nobody_understands_are_errors_at_the_start(good, settings):
    with pytest.raises(ImproperlyConfigured) as raised:
        setup_sealing(application(good, **settings))
    assert "pass" not in str(raised.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("redis")
    tls = tls_files(directory / "tls", "localhost")
    with redis_server(directory, tls=tls) as address:
        yield address.split(":")[1], f"{tls}/ca.pem"


def cases(authority):
    """Host, query and setting, and whether the server's certificate is to be accepted."""
    return [
        ("localhost", "", None, False),
        ("localhost", "", True, False),
        ("localhost", "", {"ssl_ca_certs": authority}, True),
        ("localhost", f"?ssl_ca_certs={authority}", True, True),
        ("localhost", f"?ssl_ca_certs={authority}", {"ssl_cert_reqs": "none"}, True),
        # The certificate is localhost's.
        ("127.0.0.1", "", {"ssl_ca_certs": authority}, False),
        ("127.0.0.1", f"?ssl_ca_certs={authority}", None, False),
        ("127.0.0.1", "", {"ssl_ca_certs": authority, "ssl_check_hostname": False}, True),
        ("127.0.0.1", "", {"ssl_cert_reqs": ssl.CERT_NONE}, True),
        ("127.0.0.1", "?ssl_cert_reqs=none", None, True),
    ]


def test_the_certificate_and_the_name_of_a_broker_are_verified(good, server):
    port, authority = server
    for host, query, use_ssl, works in cases(authority):
        for scheme in ("sealed-rediss", *(["sealed-redis"] if use_ssl and not query else [])):
            app = application(good, broker_url=f"{scheme}://{host}:{port}/0{query}", broker_use_ssl=use_ssl)
            setup_sealing(app)
            with app.connection_for_write() as connection:
                if works:
                    assert connection.default_channel.queue_declare("x").queue == "x", (host, query, use_ssl)
                else:
                    with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
                        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)


def test_the_certificate_and_the_name_of_a_result_backend_are_verified(good, server):
    port, authority = server
    for host, query, use_ssl, works in cases(authority):
        if use_ssl is True:
            continue
        app = application(good, result_backend=f"sealed-rediss://{host}:{port}/0{query}", redis_backend_use_ssl=use_ssl)
        setup_sealing(app)
        check(app.backend.client.ping, works, (host, query, use_ssl))


def test_the_certificate_and_the_name_of_a_replay_memory_are_verified(server):
    port, authority = server
    for host, query, use_ssl, works in cases(authority):
        if use_ssl:
            continue
        memory = RedisMemory(f"rediss://{host}:{port}/0{query}")
        check(lambda memory=memory: memory.remember(b"key", 2e9, 1e9) or True, works, (host, query))


def check(call, works, case):
    if works:
        assert call(), case
    else:
        with pytest.raises(redis_py.ConnectionError, match="CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
            call()
