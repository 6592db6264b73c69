"""The settings of `setup_sealing`: what is refused, and that the documentation has them all."""

import inspect
import re
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from conftest import identity
from cryptography import x509

from taskseal.celery import setup_sealing
from taskseal.celery.sealing import Bindings, Sealing
from taskseal.celery.setup import KNOWN, SETTINGS
from taskseal.errors import OpenError

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "celery.md"


def test_settings_that_setup_sealing_refuses(tmp_path, alice, redis):
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "alice.pem").write_text(alice.pem)
    (tmp_path / "key.pem").write_text(alice.key_pem)
    good = {
        "broker_url": "sealed-memory://",
        "result_backend": f"sealed-redis://{redis}/0",
        "security_key": str(tmp_path / "key.pem"),
        "security_certificate": str(tmp_path / "trusted" / "alice.pem"),
        "security_cert_store": str(tmp_path / "trusted"),
    }

    def app(**settings):
        made = Celery("tests", set_as_current=False)
        made.conf.update({**good, **settings})
        return made

    assert setup_sealing(app()).replay
    assert setup_sealing(app(result_backend="rpc://")) and setup_sealing(app(result_backend=None))
    assert setup_sealing(app(broker_url="sealed-redis://a/0;sealed-amqp://b//", sealing_replay=f"redis://{redis}/3"))
    for settings in (
        {"security_key": None},
        {"security_certificate": None},
        {"security_cert_store": None},
        {"broker_url": "redis://a/0"},
        {"broker_url": None},
        {"broker_url": "sealed-redis://a/0;redis://b/0"},
        {"broker_url": ["sealed-redis://a/0", "amqp://b//"]},
        {"broker_read_url": "redis://a/0"},
        {"broker_write_url": "redis://a/0"},
        {"broker_transport": "redis"},
        {"result_backend": f"redis://{redis}/0"},
        {"result_backend": "file:///tmp"},
        {"sealing_encryption_keys": ["no key"]},
        {"sealing_max_agee": 1},
        {"sealing_max_body_len": 0},
        {"sealing_max_age": -1},
        {"sealing_refused": "drop"},
        {"sealing_dangerous_ignore_critical": ["2.5.29.15"]},
        {"sealing_dangerous_ignore_critical": "1.3.6.1.4.1.99999.1"},
    ):
        with pytest.raises(ImproperlyConfigured) as raised:
            setup_sealing(app(**settings))
        assert "no key" not in str(raised.value)


def test_the_way_out_for_critical_extensions_reaches_messages(tmp_path, alice, caplog):
    oid = "1.3.6.1.4.1.99999.1"
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x05\x00")
    odd = identity("odd", extensions=[(unknown, True)])
    (tmp_path / "odd.pem").write_text(odd.pem)
    (tmp_path / "odd.key").write_text(odd.key_pem)

    def made(**settings):
        app = Celery("tests", set_as_current=False, broker="sealed-memory://")
        app.conf.update(
            security_key=str(tmp_path / "odd.key"),
            security_certificate=str(tmp_path / "odd.pem"),
            security_cert_store=str(tmp_path / "*.pem"),
            **settings,
        )
        return setup_sealing(app)

    message = {"body": "", "content-type": None, "content-encoding": None, "headers": {}, "properties": {}}
    strict = made()
    assert "'odd 7' will be refused" in caplog.text and oid in caplog.text
    wire = strict.seal(message, "", "celery")
    with pytest.raises(OpenError) as raised:
        strict.open(wire, "celery", Bindings())
    assert raised.value.reason == "critical-extension"
    opened, payload = made(sealing_dangerous_ignore_critical=[oid]).open(wire, "celery", Bindings())
    assert opened.signer.id == "odd 7" and payload == message


def test_the_documentation_has_the_settings_with_their_defaults():
    rows = re.findall(r"^\| `(sealing_\w+)` \| ([^|]+) \|", DOCUMENTATION.read_text(), re.M)
    assert {name for name, _ in rows} == KNOWN and len(rows) == len(KNOWN)
    defaults = {name: parameter.default for name, parameter in inspect.signature(Sealing).parameters.items()}
    for name, documented in rows:
        default = defaults.get(SETTINGS.get(name))
        if isinstance(default, (int, float)):
            number, _, unit = documented.partition(" ")
            assert float(number) * {"": 1, "MiB": 1024 * 1024}[unit] == default, name
        elif isinstance(default, str):
            assert documented == f"`{default}`", name
        elif default is None and name not in ("sealing_replay", "sealing_max_message_len"):
            assert documented == "none" or name not in SETTINGS, name
