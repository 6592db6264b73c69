"""Forks: each process opens the token for itself, on a module that answers nobody but the process that initialised it."""

import os
import subprocess
import sys
import textwrap

import pytest
from conftest import skip
from support.servers import redis_server
from support.workers import client, place, worker

import taskseal

SOURCE = os.path.join(os.path.dirname(__file__), "support", "strict_module.c")


@pytest.fixture(scope="module")
def strict(tmp_path_factory, token):
    """The URI of a key behind the strict module, and the environment that it needs."""
    library = tmp_path_factory.mktemp("module") / "strict.so"
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, SOURCE, "-ldl"], check=True)
    except FileNotFoundError:
        skip("there is no C compiler")
    environment = {**os.environ, "TASKSEAL_REAL_MODULE": token.module, "SOFTHSM2_CONF": token.configuration}
    return token.uri.replace(token.module, str(library)), environment


def run(strict, program, alice, before=""):
    """Runs it in a process of its own, after `before` and the import of taskseal."""
    uri, environment = strict
    imports = """
        import logging, os, sys, threading, time
    """
    setup = f"""
        import taskseal
        certificate = taskseal.Certificate({alice.pem!r})
        signer = taskseal.Signer.from_uri({uri!r}, certificate)
        def sign():
            assert certificate.verifies(b"message", signer.sign(b"message"))
        def child(work):
            pid = os.fork()
            if pid == 0:
                try:
                    work()
                except BaseException as error:
                    print("child:", error, file=sys.stderr)
                    os._exit(1)
                os._exit(0)
            return pid
        def wait(pid):
            assert os.waitpid(pid, 0)[1] == 0
    """
    done = subprocess.run(
        [sys.executable, "-c", "".join(map(textwrap.dedent, [imports, before, setup, program]))],
        env=environment, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_module_is_strict(strict, alice):
    """Without this, the other tests here would prove nothing: a session of the parent is worth nothing in a child."""
    program = """
        import ctypes
        module = ctypes.CDLL(sys.argv[1])
        functions = ctypes.POINTER(ctypes.c_void_p)()
        assert module.C_GetFunctionList(ctypes.byref(functions)) == 0
        call = lambda n, *arguments: ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_void_p] * len(arguments))(
            functions[n + 1])(*arguments)
        info = ctypes.create_string_buffer(256)
        assert call(2, ctypes.addressof(info)) == 0x190
        assert call(0, None) == 0 and call(2, ctypes.addressof(info)) == 0
        def work():
            assert call(2, ctypes.addressof(info)) == 0x190
        wait(child(work))
    """
    uri, environment = strict
    program = program.replace("sys.argv[1]", repr(uri.split("module-path=")[1].split("&")[0]))
    run(strict, program, alice)


def test_children_sign_whether_or_not_the_parent_did(strict, alice):
    run(strict, """
        wait(child(sign))
        sign()
        for pid in [child(sign) for _ in range(4)]:
            wait(pid)
        sign()
        wait(child(lambda: (wait(child(sign)), sign(), wait(child(sign)))))
        sign()
    """, alice)  # fmt: skip


WHILE_THREADS_SIGN = """
    stop = threading.Event()
    failed = []
    def work():
        try:
            while not stop.is_set():
                sign()
        except Exception as error:
            failed.append(error)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        wait(child(sign))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed
"""


def test_forks_while_threads_sign(strict, alice):
    run(strict, WHILE_THREADS_SIGN, alice)


def test_other_hooks_give_the_gil_away_before_a_fork(strict, alice):
    """Hooks that are registered earlier are called later: between taskseal's and the fork, others sign and log."""
    run(strict, WHILE_THREADS_SIGN + """
    assert lines
    """, alice, before="""
        lines = []
        class Handler(logging.Handler):
            def emit(self, record):
                lines.append(record)
        logging.basicConfig(level=logging.DEBUG, handlers=[Handler()])
        os.register_at_fork(before=lambda: time.sleep(0.02))
    """)  # fmt: skip


def test_software_keys_fernet_and_stores_after_a_fork(strict, alice, tmp_path):
    (tmp_path / "alice.pem").write_text(alice.pem)
    run(strict, f"""
        software = taskseal.Signer.from_software_pem({alice.key_pem!r}, certificate)
        store = taskseal.CertStore.open({str(tmp_path)!r}, reload_interval=0)
        fernet = taskseal.Fernet(taskseal.Fernet.generate_key())
        opener, sealer = taskseal.Opener(store), taskseal.Sealer(software)
        sealed = []
        def work():
            assert opener.open(sealer.seal([1])).json() == [1]
            assert fernet.decrypt(fernet.encrypt(b"x")) == b"x"
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                work()
        threads = [threading.Thread(target=busy, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            wait(child(work))
        stop.set()
        for thread in threads:  # the interpreter must not end below them
            thread.join()
    """, alice)  # fmt: skip


def test_a_worker_whose_module_forgets_everything_in_children(strict, alice, tmp_path):
    """Prefork with children that are replaced from a main process that signs events and has its own session."""
    uri, environment = strict
    with redis_server(tmp_path) as redis:
        key = taskseal.Fernet.generate_key().decode()
        where = place(tmp_path, alice, f"sealed-redis://{redis}/0", f"sealed-redis://{redis}/1", key=uri,
                      encryption_keys=[key], TASKSEAL_REAL_MODULE=environment["TASKSEAL_REAL_MODULE"],
                      SOFTHSM2_CONF=environment["SOFTHSM2_CONF"])  # fmt: skip
        with worker(where, "-P", "prefork", "-c", "2", "--max-tasks-per-child", "2", "-E") as running:
            assert len(set(client(where, "send.py", "pids", "12").split())) >= 6
            assert "Traceback" not in running.log
