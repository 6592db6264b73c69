"""What goes wrong in the library, as exceptions: their classes are the library's, and so is what may be tried again."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import identity

import taskseal
from taskseal import errors
from taskseal.errors import TasksealError

LIBRARY = Path(__file__).parents[2] / "src" / "error.rs"
CLASSES = dict(re.findall(r'Self::(\w+) => "([a-z-]+)"', LIBRARY.read_text()))


def test_the_classes_are_those_of_the_library():
    retryable = re.search(r"fn is_retryable.*?matches!\((.*?)\)", LIBRARY.read_text(), re.S).group(1)
    retryable = {CLASSES[name] for name in re.findall(r"Self::(\w+)", retryable)}
    assert len(CLASSES) == 7 and len(retryable) == 4
    assert {name for name in CLASSES.values() if TasksealError("", name).is_retryable} == retryable
    assert set(re.findall(r"``([a-z-]+)``", TasksealError.__doc__)) == set(CLASSES.values())


def test_all_have_one_root_and_can_be_pickled():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    assert len(kinds) == 9
    for kind in kinds:
        assert issubclass(kind, TasksealError)
        error = kind("a text", "busy", "a-reason") if kind is errors.OpenError else kind("a text", "busy")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (kind, "a text", vars(error))


def use(uri, module, **options):
    """What the token's first use says."""
    return taskseal.PrivateKey.from_uri(f"{uri}?module-path={module}", pin="90210754", deadline=5, **options).sign(b"")


@pytest.mark.parametrize(
    ("kind", "error_class", "wrong"),
    [
        (errors.CertificateError, "permanent", lambda token, bob: taskseal.Certificate("no certificate")),
        (errors.KeyError, "permanent", lambda token, bob: taskseal.PrivateKey.from_software_pem("no key")),
        (errors.KeyError, "permanent", lambda token, bob: taskseal.PrivateKey.from_uri("pkcs11:token=a;token=b")),
        (errors.ConfigurationError, "permanent", lambda token, bob: taskseal.MultiFernet([])),
        (errors.StoreError, "permanent", lambda token, bob: taskseal.CertStore([bob.native, identity("bob", nth="x").native])),
        (errors.FernetError, "rejected", lambda token, bob: taskseal.Fernet(taskseal.Fernet.generate_key()).decrypt("x")),
        (errors.OpenError, "rejected", lambda token, bob: taskseal.Opener(taskseal.CertStore()).open("x")),
        (errors.OpenError, "rejected", lambda token, bob: taskseal.MessageOpener(taskseal.CertStore()).open("x")),
        (errors.SealError, "permanent", lambda token, bob: taskseal.Sealer(bob.signer()).seal(float("nan"))),
        (errors.SealError, "permanent", lambda token, bob: taskseal.MessageSealer(bob.signer()).seal("no JSON")),
        (errors.SignError, "permanent", lambda token, bob: taskseal.Signer.from_uri(token.uri, bob.native).sign(b"")),
        # What looks like a token that is not there yet may be tried again; a module that is none may not.
        (errors.SignError, "transient", lambda token, bob: use("pkcs11:token=nobody;object=worker", token.module)),
        (errors.SignError, "transient", lambda token, bob: use("pkcs11:token=tests;object=nobody", token.module)),
        (errors.SignError, "permanent", lambda token, bob: use("pkcs11:token=tests;object=worker", "/no/module.so")),
        (errors.FernetError, "transient", lambda token, bob: taskseal.Fernet.from_uri(
            f"pkcs11:token=tests;object=nobody?module-path={token.module}", pin="90210754", deadline=5).encrypt(b"")),
    ],
)  # fmt: skip
def test_each_error_has_its_exception_and_class(token, bob, kind, error_class, wrong):
    with pytest.raises(kind) as raised:
        wrong(token, bob)
    assert type(raised.value) is kind and str(raised.value)
    assert raised.value.error_class == error_class
    assert error_class != "rejected" or kind is not errors.OpenError or raised.value.reason


def test_a_wrong_pin_is_a_credential_and_not_tried_again_before_it_is_forgotten(token):
    """In a process of its own: this one may be logged in already."""
    program = f"""
import taskseal
for number in range(3):
    if number == 2:
        taskseal.forget_refused_pins()
    try:
        taskseal.PrivateKey.from_uri({token.uri_without_pin!r}, pin="7531864209").sign(b"")
    except taskseal.errors.SignError as error:
        assert "7531864209" not in str(error)
        print(error.error_class, error.is_retryable, "was not tried again" in str(error))
"""
    environment = {**os.environ, "SOFTHSM2_CONF": token.configuration}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"credential False {known}" for known in (False, True, False)], done.stderr
