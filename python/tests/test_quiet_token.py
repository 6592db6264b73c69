"""What a program without logging set up says of a token whose server goes away and comes back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import skip

PROGRAM = """
import os, signal, subprocess, sys, threading, time
import taskseal

certificate, module, socket, softhsm, uri = sys.argv[1:]


def start():
    # A process group of its own: the listener, and one process for each client.
    server = subprocess.Popen(["p11-kit", "server", "-f", "--provider", softhsm, "--name", socket, "pkcs11:token=tests"],
                              stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 20
    while not os.path.exists(socket) and time.monotonic() < until:
        time.sleep(0.01)
    return server


def stop(server):
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    os.path.exists(socket) and os.unlink(socket)


server = start()
signer = taskseal.Signer.from_uri(uri, taskseal.Certificate(open(certificate, "rb").read()), deadline=3)
key = taskseal.Sealer(signer)
key.seal(1)
ended = threading.Event()
signed, failed = [], []


def work():
    while not ended.is_set():
        try:
            key.seal([1, 2])
            signed.append(time.monotonic())
        except taskseal.TasksealError:
            failed.append(time.monotonic())
            time.sleep(0.01)


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for away in (0.3, 1, 6):
    time.sleep(0.7)
    stop(server)
    time.sleep(away)
    server = start()
    back = time.monotonic()
    while not signed[-1] > back and time.monotonic() < back + 20:
        time.sleep(0.01)
ended.set()
for thread in threads:
    thread.join()
stop(server)
print(len(signed), len(failed))
"""


def test_a_server_that_goes_away_three_times_is_a_few_lines_on_stderr(token, alice, tmp_path):
    client = next(Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so"), None)
    if client is None or shutil.which("p11-kit") is None:
        skip("p11-kit is not installed")
    certificate = tmp_path / "alice.pem"
    certificate.write_text(alice.pem)
    socket = tmp_path / "socket"
    uri = token.uri.replace(token.module, str(client))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, certificate, client, socket, token.module, uri],
        env={**os.environ, "SOFTHSM2_CONF": token.configuration, "P11_KIT_SERVER_ADDRESS": f"unix:path={socket}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    signed, failed = map(int, done.stdout.split())
    # Those that waited for the longest absence, with a deadline of half of it.
    assert signed > 100 and failed >= 8, done.stdout
    said = done.stderr.splitlines()
    for what in ("a key fails; it is tried again", "a key works again"):
        assert any(line.startswith(what) for line in said), done.stderr
    assert len(said) < 40, done.stderr
