"""Secrets as people have them, one order of sources, and no error, log line or repr that holds one."""

import io
import itertools
import json
import logging
import os
import subprocess
import sys
import traceback

import pytest
from celery import Celery
from celery.app.utils import bugreport
from celery.exceptions import ImproperlyConfigured, SecurityError
from celery.worker.control import conf as inspect_conf
from conftest import PIN
from cryptography.fernet import Fernet as TheirFernet
from cryptography.hazmat.primitives import serialization
from support.applications import application, files

import taskseal
from taskseal import kombu_fernet
from taskseal.celery import PrivateKey, register_auth, setup_sealing, setup_security
from taskseal.celery.replay import RedisMemory

CANARY = "kanarie83"

GOOD = ["{}", "{}\n", "{}\r\n", "\ufeff{}", "\ufeff{}\n"]


# --- Newlines, marks and blanks ---


@pytest.mark.parametrize("form", GOOD)
@pytest.mark.parametrize("kind", [str, str.encode, lambda text: lambda: text])
def test_a_newline_or_a_mark_is_no_part_of_a_pin(token, form, kind):
    key = PrivateKey(token.uri_without_pin, kind(form.format(PIN)))
    assert key.sign(b"data", "sha256")
    assert PrivateKey(token.uri_without_pin.encode() + b"\n", kind(form.format(PIN))).sign(b"data", "sha256")


@pytest.mark.parametrize("pin", [
    f" {PIN}", f"{PIN} ", f"{PIN}\n\n", f"{PIN}\t", f"{PIN}\0", f"{PIN}\u200b", f"{PIN}\n{PIN}", "\n", f"{PIN}\udcff",
    PIN.encode() + b"\xff", PIN.encode("utf-16"),
])  # fmt: skip
def test_a_pin_with_something_that_nobody_sees_is_refused_before_any_login(token, pin):
    with pytest.raises(SecurityError, match="cannot be used|UTF-8|empty") as raised:
        PrivateKey(token.uri_without_pin, pin)
    assert PIN not in everything(raised.value)


@pytest.mark.parametrize("password", ["pass word", " password ", "password\n", "p\u00e4ss"])
def test_passwords_of_key_files(alice, password):
    pem = alice.private(serialization.BestAvailableEncryption(password.encode()))
    # As it is, and with a newline that the file of a password has at its end.
    for given in (password, password.encode(), f"{password}\n", f"\ufeff{password}\r\n", lambda: password):
        if given == f"\ufeff{password}\r\n" and password.endswith("\n"):
            continue
        assert PrivateKey(pem, given).sign(b"data", "sha256")
    with pytest.raises(SecurityError, match="password is wrong"):
        PrivateKey(pem, f"{password}x")


FORMS = ["{}", "{}\n", "{}\r\n", " {} ", "'{}'", '"{}"', " '{}'\n", "\ufeff{}\n"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("alphabet", ["url-safe", "standard", "left-over bits"])
@pytest.mark.parametrize("source", ["text", "file", "environment"])
def test_fernet_keys_as_the_original_takes_them(tmp_path, alice, form, alphabet, source, monkeypatch):
    # With both characters in which the alphabets differ.
    keys = (TheirFernet.generate_key().decode() for _ in itertools.count())
    key = next(key for key in keys if "-" in key and "_" in key)
    written = key
    if alphabet == "standard":
        written = key.replace("-", "+").replace("_", "/")
    elif alphabet == "left-over bits":
        last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        written = key[:-2] + last[last.index(key[-2]) + 1] + "="
    given = form.format(written)
    if not given.startswith("\ufeff"):
        assert TheirFernet(given).decrypt(TheirFernet(key).encrypt(b"data")) == b"data"
    settings = files(tmp_path, alice)
    if source == "environment":
        monkeypatch.setenv("KOMBU_FERNET_KEY", given)
        monkeypatch.setenv("KOMBU_FERNET_KEY_PREVIOUS", "\n")
        kombu_fernet.use()
        assert TheirFernet(key).decrypt(kombu_fernet.fernet().encrypt(b"data")) == b"data"
        kombu_fernet.use()
        return
    if source == "file":
        (tmp_path / "fernet.key").write_text(given)
        given = f"file:{tmp_path}/fernet.key"
    sealing = setup_sealing(application(settings, sealing_encryption_keys=[given]))
    message = {"body": "", "content-type": None, "content-encoding": None, "headers": {}, "properties": {}}
    assert TheirFernet(key).decrypt(sealing.seal(message, "", "q"))


# --- One order of sources ---


def test_the_uri_then_the_argument_then_the_setting(token, tmp_path, alice):
    """For every pair of sources: the first of them has the right PIN, and the other a wrong one; and the other way round."""
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path, pin in ((right, PIN), (wrong, "00000000")):
        path.touch(0o600)
        path.write_text(pin)
    base = token.uri_without_pin
    settings = {**files(tmp_path, alice), "sealing_salt": "digest"}

    def sources(pin, path):
        return [
            ("uri", f"{base}&pin-value={pin}"),
            ("uri", f"{base}&pin-source=file:{path}"),
            ("argument", pin),
            ("setting", pin),
        ]

    # Wrong PINs are remembered in the process, so that each is shown once; each pair has a process of its own for that reason.
    script = (
        "import sys, json; from celery import Celery; from taskseal.celery import setup_sealing\n"
        "given = json.loads(sys.argv[1]); app = Celery(); app.conf.update(given['settings'])\n"
        "app.conf.security_key = given.get('uri', given['base'])\n"
        "app.conf.security_key_password = given.get('setting')\n"
        "sealing = setup_sealing(app, key_password=given.get('argument'))\n"
        "message = {'body': '', 'content-type': None, 'content-encoding': None, 'headers': {}, 'properties': {}}\n"
        "sealing.seal(message, '', 'q')\n"
    )
    for (good, bad), first_is_good in itertools.product(
        itertools.combinations(zip(sources(PIN, right), sources("00000000", wrong)), 2), (True, False)
    ):
        chosen = [good[0], bad[1]] if first_is_good else [good[1], bad[0]]
        if chosen[0][0] == chosen[1][0]:
            continue
        given = {"settings": settings, "base": base, **dict(chosen)}
        done = subprocess.run([sys.executable, "-c", script, json.dumps(given)], capture_output=True, text=True, env=os.environ)
        assert (done.returncode == 0) == first_is_good, (chosen, done.stderr[-2000:])
        assert first_is_good or "PIN" in done.stderr


def test_two_sources_in_one_uri_are_an_error(token):
    with pytest.raises(SecurityError, match="both pin-source and pin-value"):
        PrivateKey(f"{token.uri}&pin-value={PIN}")


# --- Canaries ---


def everything(error):
    """All that an error says, with what caused it, as texts and as representations."""
    said, seen = [], set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        said += [str(one), repr(one), repr(one.args), repr(vars(one))]
        waiting += [one.__cause__, one.__context__]
    said += traceback.format_exception(error)
    return "\n".join(said)


SECRETS = [CANARY, f"{CANARY}\n", f" {CANARY}", f"{CANARY}\udcff", CANARY.encode() + b"\xff", CANARY.encode("utf-16"),
           f"{CANARY}\n{CANARY}", f"{CANARY}\0", CANARY.encode()]  # fmt: skip

URIS = [
    "pkcs11:token=t?pin-value=kanarie83&module-path=/no/such",
    "pkcs11:token=t;token=u?pin-value=kanarie83",
    "pkcs11:tokn=t?pin-value=kanarie83",
    "pkcs11:token=t?pin-value=kanarie83&pin-value=kanarie83",
    "pkcs11:token=t;pin-value=kanarie83",
    "pkcs11:token=t&pin-value=kanarie83?module-path=/no/such",
    "pkcs11:token=t?module-path=/no/such?pin-value=kanarie83",
    "pkcs11:token=t?module-path=/no/such;pin-value=kanarie83",
    "pkcs11:token=t?pin-source=/no/such?pin-value=kanarie83&module-path=/no/such",
    "pkcs11:token=t?pin-source=kanarie83&module-path=/no/such",
    "pkcs11:token=t?pin-source=value:kanarie83&module-path=/no/such",
    "pkcs11:token=t?pin-vlaue=kanarie83",
    "pkcs11:token=t?pin-value=kanarie83%ff",
    "pkcs11:token=t?pin-value=kanarie 83",
    "pkcs11:token=t?pin-value=kanarie83\udcff",
    b"pkcs11:token=t?pin-value=kanarie83\xff",
    "PKCS11:token=t?pin-value=kanarie83&x",
]


@pytest.fixture
def logged():
    """All that is logged, on all levels."""
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    logging.getLogger("taskseal").setLevel(5)
    yield stream.getvalue
    root.removeHandler(handler)
    root.setLevel(level)
    logging.getLogger("taskseal").setLevel(logging.NOTSET)


def calls(tmp_path, alice, token):
    """Everything that takes a secret, with every secret that may be wrong."""
    encrypted = alice.private(serialization.BestAvailableEncryption(b"another"))
    settings = files(tmp_path, alice)
    for secret in SECRETS:
        yield lambda s=secret: PrivateKey(encrypted, s)
        yield lambda s=secret: PrivateKey(alice.key_pem, s)
        yield lambda s=secret: PrivateKey(s, s)
        yield lambda s=secret: PrivateKey("pkcs11:token=t?module-path=/no/such", s).sign(b"data", "sha256")
        yield lambda s=secret: PrivateKey("pkcs11:token=t?module-path=/no/such", lambda: s).sign(b"data", "sha256")
        yield lambda s=secret: register_auth(s, s, alice.pem, settings["security_cert_store"])
        yield lambda s=secret: taskseal.Fernet(s)
        yield lambda s=secret: kombu_fernet.from_text(s)
        yield lambda s=secret: taskseal.Signer.from_uri("pkcs11:token=t?module-path=/no/such", alice.native, pin=s).open()
        yield lambda s=secret: taskseal.Signer.from_software_pem(encrypted, alice.native, password=s)
        yield lambda s=secret: taskseal.Signer.from_software_pem(s, alice.native, password=s)
        yield lambda s=secret: taskseal.PrivateKey.from_uri("pkcs11:token=t", pin=s).sign(b"data")
        yield lambda s=secret: taskseal.Fernet.from_uri("pkcs11:token=t", pin=s).encrypt(b"data")
        yield lambda s=secret: setup_sealing(application(settings, sealing_encryption_keys=[s]))
        yield lambda s=secret: setup_sealing(application(settings, sealing_encryption_keys=s))
        (tmp_path / "secret").write_bytes(secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogateescape"))
        yield lambda: setup_sealing(application(settings, sealing_encryption_keys=[f"file:{tmp_path}/secret"]))
        yield lambda: setup_sealing(application(settings, security_key=str(tmp_path / "secret")))
        yield lambda s=secret: setup_sealing(application(settings, security_key_password=s))
        yield lambda: setup_security(app=signed(settings, security_key=str(tmp_path / "secret")))
        yield lambda s=secret: setup_security(app=signed(settings, security_key_password=s))
        yield lambda: PrivateKey(f"pkcs11:token=t?module-path=/no/such&pin-source=file:{tmp_path}/secret").sign(b"", "sha256")
    for uri in URIS:
        yield lambda u=uri: PrivateKey(u).sign(b"data", "sha256")
        yield lambda u=uri: taskseal.Signer.from_uri(u, alice.native).open()
        yield lambda u=uri: taskseal.PrivateKey.from_uri(u).sign(b"data")
        yield lambda u=uri: kombu_fernet.from_text(u).encrypt(b"data")
        yield lambda u=uri: setup_sealing(application(settings, security_key=u)).seal(MESSAGE, "", "q")
        yield lambda u=uri: setup_sealing(application(settings, sealing_encryption_keys=[u])).seal(MESSAGE, "", "q")
    for url in ("redis://:kanarie83/x@h:1/0", "redis://:kanarie83@h:port/0", "x://:kanarie83@h/0", ":kanarie83@h", "kanarie83",
                "rediss://:kanarie83@h/0?ssl_cert_reqs=kanarie83", "redis://:kanarie83@[h/0"):  # fmt: skip
        yield lambda u=url: RedisMemory(u)
        yield lambda u=url: setup_sealing(application(settings, sealing_replay=u))
        for sealed in (url, f"sealed-{url}", f"sealed-memory://;{url}", f"sealed-memory://;sealed-{url}"):
            yield lambda u=sealed: setup_sealing(application(settings, broker_url=u))
            yield lambda u=sealed: setup_sealing(application(settings, result_backend=u))


MESSAGE = {"body": "", "content-type": None, "content-encoding": None, "headers": {}, "properties": {}}


def signed(settings, **more):
    return application({**settings, "task_serializer": "auth", "accept_content": ["auth"], "broker_url": "memory://"}, **more)


def test_no_error_and_no_log_line_holds_a_secret(tmp_path, alice, token, logged):
    failed = 0
    for call in calls(tmp_path, alice, token):
        try:
            call()
        except Exception as error:
            failed += 1
            assert "kanarie" not in everything(error), everything(error)
    assert failed > 250
    assert "kanarie" not in logged()


def test_no_repr_holds_a_secret(alice, token):
    pem = alice.private(serialization.BestAvailableEncryption(CANARY.encode()))
    made = [
        PrivateKey(pem, CANARY),
        PrivateKey(token.uri_without_pin, CANARY),
        PrivateKey(f"{token.uri_without_pin}&pin-value={CANARY}"),
        taskseal.Signer.from_uri(f"{token.uri_without_pin}&pin-value={CANARY}", alice.native, pin=CANARY),
        taskseal.PrivateKey.from_uri(token.uri_without_pin, pin=CANARY),
        taskseal.Fernet.from_uri(token.uri_without_pin, pin=CANARY),
        RedisMemory(f"redis://:{CANARY}@h/0"),
    ]
    assert CANARY not in repr(made)


@pytest.mark.parametrize("namespace", ["", "CELERY_"])
def test_celery_shows_no_password_of_the_replay_memory(tmp_path, alice, namespace):
    given = {
        **files(tmp_path, alice),
        "sealing_replay": f"redis://:{CANARY}@localhost:1/0",
        "sealing_encryption_keys": [taskseal.Fernet.generate_key().decode()],
        "security_key_password": None,
    }
    app = Celery("tests", set_as_current=False)
    if namespace:
        names = {f"{namespace}{name.upper()}": value for name, value in given.items()}
        app.config_from_object(type("Settings", (), names), namespace="CELERY")
    else:
        app.conf.update(given)
    sealing = setup_sealing(app)

    class State:
        pass

    State.app = app
    shown = "".join([bugreport(app), app.conf.humanize(True), repr(inspect_conf(State)), repr([sealing.replay, vars(sealing)])])
    assert "replay" in shown.lower() and CANARY not in shown
    assert given["sealing_encryption_keys"][0] not in shown


def test_a_setting_of_the_wrong_kind_is_said_without_it(tmp_path, alice):
    with pytest.raises(ImproperlyConfigured) as raised:
        setup_sealing(application(files(tmp_path, alice), sealing_replay={"url": f"redis://:{CANARY}@h/0"}))
    assert CANARY not in everything(raised.value)
