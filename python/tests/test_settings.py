"""The settings of `setup_sealing`: what is refused, and that the documentation has them all."""

import inspect
import re
import types
from pathlib import Path

import pytest
from celery import Celery
from celery.app.defaults import _OLD_SETTING_KEYS, SETTING_KEYS
from celery.exceptions import ImproperlyConfigured
from conftest import identity
from cryptography import x509
from support.applications import application, files

import taskseal
from taskseal.celery import setup_sealing, setup_security
from taskseal.celery.sealing import Bindings, Sealing
from taskseal.celery.settings import KINDS, KNOWN, SETTINGS, check_name
from taskseal.errors import OpenError

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "celery.md"


@pytest.fixture
def good(tmp_path, alice):
    return files(tmp_path, alice)


def test_settings_that_setup_sealing_refuses(good, redis):
    assert setup_sealing(application(good)).replay
    for settings in (
        {"result_backend": f"sealed-redis://{redis}/0"},
        {"result_backend": "rpc://"},
        {"broker_url": "sealed-redis://a/0;sealed-amqp://b//", "sealing_replay": f"redis://{redis}/3"},
        {"sealing_reload_interval": None, "sealing_result_max_age": 60, "sealing_bindings": {"q": [("e", "k")]}},
    ):
        assert setup_sealing(application(good, **settings))
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
        {"sealing_max_body_len": 0},
        {"sealing_max_age": -1},
        {"sealing_refused": "drop"},
        {"sealing_dangerous_ignore_critical": ["2.5.29.15"]},
        {"sealing_dangerous_ignore_critical": "1.3.6.1.4.1.99999.1"},
    ):
        with pytest.raises(ImproperlyConfigured) as raised:
            setup_sealing(application(good, **settings))
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


NAMES = [
    "sealing_max_agee", "sealing_encryption_key", "sealing_encryption", "sealing_", "sealing",
    # In capitals, as of an old Celery, or as if a namespace were there.
    "SEALING_MAX_AGE", "SEALING_ENCRYPTION_KEYS", "CELERY_SEALING_ENCRYPTION_KEYS", "CELERY_SEALING_ENCRYPTION_KEY",
    "Sealing_Encryption_Keys", "TASKSEAL_SEALING_ENCRYPTION_KEYS", "celery_sealing_max_age",
    # Misspelt.
    # Joined in another way, or behind another word.
    "sealing-encryption-keys", "sealing.encryption_keys", "sealingencryptionkeys", "sealingEncryptionKey",
    "taskseal_encryption_keys", "TASKSEAL_MAX_AGE", "taskseal-encryption-key", "task_sealing_encryption_keys",
    "broker_sealing_replay", "worker_sealing_max_age",
    "seal_encryption_keys", "sealed_encryption_keys", "sealling_encryption_keys", "seling_encryption_keys",
    "sealing_encrpytion_keys", "SEALNG_REPLAY", "seeling_replay",
    "security_key_pasword", "security_digst", "security_certifcate", "SECURITY_KEY", "SECURITY_DIGEST", "security_cert_stores",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_looks_like_a_setting_and_is_none_is_an_error(good, name):
    with pytest.raises(ImproperlyConfigured, match="there is no setting") as raised:
        setup_sealing(application(good, **{name: ["canary-9f2"]}))
    assert "canary-9f2" not in str(raised.value)


@pytest.mark.parametrize("name", ["security_digst", "SEALING_ENCRYPTION_KEYS", "sealing_encryption_key", "SECURITY_DIGEST"])
def test_signed_bodies_have_the_same_look_at_names(good, name):
    app = application(good, task_serializer="auth", accept_content=["auth"], **{name: ["x"]})
    with pytest.raises(ImproperlyConfigured, match="there is no setting"):
        setup_security(app=app)


DJANGO_NAMES = [
    "CELERY_SEALING_ENCRYPTION_KEY",
    "SEALING_ENCRYPTION_KEYS",
    "CELERY_SEALING_ENCYPTION_KEYS",
    "CELERY_SEALNG_REPLAY",
    "CELERY_sealing_encryption_keys",
    "SEALING_MAX_AGE",
    "CELERY_SECURITY_DIGESTS",
]


@pytest.mark.parametrize("name", [None, *DJANGO_NAMES])
def test_settings_in_the_namespace_of_django(good, name):
    given = {f"CELERY_{setting.upper()}": value for setting, value in good.items()}
    key = taskseal.Fernet.generate_key().decode()
    others = {"FIELD_ENCRYPTION_KEYS": ["x"], "SCALING_FACTOR": 2, "SECURE_SSL_REDIRECT": True, "SEAL_OF_APPROVAL": 1}
    others |= {"setup_sealing": setup_sealing, "taskseal": taskseal, "TASKSEAL_PIN": "x", "TASKSEAL_MODULE": "x"}
    others |= {"CELERY_SETUP_SEALING": True, "CELERY_TASKSEAL": taskseal}
    settings = types.SimpleNamespace(**given, **others, CELERY_SEALING_MAX_AGE=77)
    if name:
        setattr(settings, name, [key])
    else:
        settings.CELERY_SEALING_ENCRYPTION_KEYS = [key]
    app = Celery("tests", set_as_current=False)
    app.config_from_object(settings, namespace="CELERY")
    if name:
        with pytest.raises(ImproperlyConfigured, match="there is no setting"):
            setup_sealing(app)
        return
    sealing = setup_sealing(app)
    assert sealing.lifetime == 77 + 2 * 60
    message = {"body": "canary", "content-type": None, "content-encoding": None, "headers": {}, "properties": {}}
    assert sealing.seal(message, "", "q").startswith("gAAAA")


def test_settings_of_a_module(good):
    app = Celery("tests", set_as_current=False)
    app.config_from_object(types.SimpleNamespace(**good, sealing_max_age=77, something_else=1))
    assert setup_sealing(app).lifetime == 77 + 2 * 60
    app = Celery("tests", set_as_current=False)
    app.config_from_object(types.SimpleNamespace(**good, SEALING_MAX_AGE=77))
    with pytest.raises(ImproperlyConfigured, match="'sealing_max_age' is meant"):
        setup_sealing(app)


def test_no_setting_of_celery_looks_like_one_of_ours():
    for name in (*SETTING_KEYS, *_OLD_SETTING_KEYS, *(f"CELERY_{name.upper()}" for name in SETTING_KEYS)):
        check_name(name, "CELERY_" if name.startswith("CELERY_") else "")


@pytest.mark.parametrize(("name", "value"), [
    ("sealing_encryption_keys", "canary-9f2"),
    ("sealing_encryption_keys", ""),
    ("sealing_encryption_keys", b"canary-9f2"),
    ("sealing_encryption_keys", [b"canary-9f2"]),
    ("sealing_encryption_keys", [None]),
    ("sealing_encryption_keys", {"canary-9f2": 1}),
    ("sealing_max_age", "3600"),
    ("sealing_max_age", True),
    ("sealing_max_age", float("nan")),
    ("sealing_max_age", float("inf")),
    ("sealing_result_max_age", "60"),
    ("sealing_clock_skew", []),
    ("sealing_reload_interval", "5"),
    ("sealing_max_message_len", 1e6),
    ("sealing_max_body_len", "1000"),
    ("sealing_refused", True),
    ("sealing_dead_letter_queue", 7),
    ("sealing_bindings", [("orders", "key")]),
    ("sealing_bindings", {"orders": "ab"}),
    ("sealing_bindings", {"orders": ["ab"]}),
    ("sealing_bindings", {"orders": [("shop", None)]}),
    ("sealing_replay", 7),
    ("sealing_replay", {"url": "canary-9f2"}),
    ("sealing_on_refused", "module.function"),
])  # fmt: skip
def test_a_value_of_the_wrong_kind_is_an_error_that_does_not_show_it(good, name, value):
    with pytest.raises(ImproperlyConfigured, match=name) as raised:
        setup_sealing(application(good, **{name: value}))
    assert "canary-9f2" not in str(raised.value)


def test_keys_that_are_an_argument_are_of_the_same_kind(good):
    with pytest.raises(ImproperlyConfigured, match="a list of texts") as raised:
        setup_sealing(application(good), encryption_keys="canary-9f2")
    assert "canary-9f2" not in str(raised.value)


@pytest.mark.parametrize(("value", "said"), [
    (b"canary-9f2", "not of type bytes$"),
    ([b"canary-9f2"], "not of type list with members of type bytes$"),
    (["canary-9f2", b"canary-9f2", None], "not of type list with members of type NoneType and bytes and str$"),
])  # fmt: skip
def test_an_error_says_what_is_wrong_within_a_list(good, value, said):
    with pytest.raises(ImproperlyConfigured, match=said) as raised:
        setup_sealing(application(good, sealing_encryption_keys=value))
    assert "canary-9f2" not in str(raised.value)


def test_the_documentation_has_the_settings_with_their_defaults():
    rows = re.findall(r"^\| `(sealing_\w+)` \| ([^|]+) \|", DOCUMENTATION.read_text(), re.M)
    assert {name for name, _ in rows} == KNOWN == set(KINDS) and len(rows) == len(KNOWN)
    defaults = {name: parameter.default for name, parameter in inspect.signature(Sealing).parameters.items()}
    for name, documented in rows:
        default = defaults.get(SETTINGS.get(name))
        if isinstance(default, (int, float)):
            number, _, unit = documented.partition(" ")
            assert float(number) * {"": 1, "MiB": 1024 * 1024}[unit] == default, name
        elif isinstance(default, str):
            assert documented == (f"`{default}`" if default else "empty"), name
        elif default is None and name not in ("sealing_replay", "sealing_max_message_len", "sealing_result_max_age"):
            assert documented == "none" or name not in SETTINGS, name
