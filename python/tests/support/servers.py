"""Redis and RabbitMQ on ports of their own, with nothing that outlives them."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from conftest import skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(name):
    """Where a program is. Daemons lie in sbin, which is not on everybody's path."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def end(process):
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def redis_server(directory, tls=None):
    """A Redis; its URL without the scheme. With `tls`, the directory of `tls_files`, it speaks TLS alone."""
    import redis

    path = program("redis-server") or skip("redis-server is not installed")
    port = free_port()
    listen, options = ["--port", str(port)], {}
    if tls:
        listen = ["--port", "0", "--tls-port", str(port), "--tls-cert-file", f"{tls}/cert.pem", "--tls-key-file",
                  f"{tls}/key.pem", "--tls-ca-cert-file", f"{tls}/ca.pem", "--tls-auth-clients", "no"]  # fmt: skip
        options = {"ssl": True, "ssl_cert_reqs": "none"}
    process = subprocess.Popen(
        [path, *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
    )
    try:
        with contextlib.closing(redis.Redis(port=port, **options)) as client:
            wait_for(client.ping, 20)
        yield f"127.0.0.1:{port}"
    finally:
        end(process)


@contextlib.contextmanager
def rabbitmq_server(directory, tls=None):
    """A RabbitMQ of one node, which needs no name in the network. With `tls` it speaks TLS alone. Its scripts start an epmd on a
    port of its own, which ends with it.
    """
    path = program("rabbitmq-server") or skip("rabbitmq-server is not installed")
    directory = Path(directory)
    port, distribution, names = free_port(), free_port(), str(free_port())
    # The script under bin/ insists on a user of its own; the one of the library runs as whoever calls it.
    library = next(iter(sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))), None)
    listen = f"listeners.tcp.1 = 127.0.0.1:{port}\n"
    if tls:
        listen = (
            f"listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {tls}/ca.pem\n"
            f"ssl_options.certfile = {tls}/cert.pem\nssl_options.keyfile = {tls}/key.pem\nssl_options.verify = verify_none\n"
        )
    (directory / "rabbitmq.conf").write_text(f"{listen}loopback_users.guest = true\nlog.file.level = warning\n")
    (directory / "enabled_plugins").write_text("[].\n")
    environment = {
        **os.environ,
        "HOME": str(directory),
        "RABBITMQ_NODENAME": f"taskseal{port}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
        "ERL_EPMD_PORT": names,
    }
    with open(directory / "output", "wb") as output:
        process = subprocess.Popen([str(library or path)], env=environment, stdout=output, stderr=output)
    try:
        try:
            wait_for(lambda: handshake(port, tls), 90)
        except TimeoutError:
            raise RuntimeError((directory / "output").read_text()[-3000:]) from None
        yield f"guest:guest@127.0.0.1:{port}"
    finally:
        end(process)
        # Nobody else knows this port.
        subprocess.run(["epmd", "-port", names, "-kill"], capture_output=True, check=False)


def handshake(port, tls=None):
    """Whether an AMQP broker answers."""
    import amqp

    options = {"ssl": {"ca_certs": f"{tls}/ca.pem"}} if tls else {}
    with amqp.Connection(f"127.0.0.1:{port}", userid="guest", password="guest", connect_timeout=2, **options):
        return True


def wait_for(condition, seconds, pause=0.05):
    """Tries until `condition` is true and returns what it says. Errors count as no."""
    end_at = time.monotonic() + seconds
    while True:
        try:
            answer = condition()
            if answer:
                return answer
        except Exception:
            if time.monotonic() > end_at:
                raise
        if time.monotonic() > end_at:
            raise TimeoutError(f"not after {seconds} s")
        time.sleep(pause)
