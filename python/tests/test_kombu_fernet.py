"""The drop-in for kombu-fernet-serializers, in processes of their own: kombu loads serializers when it is imported."""

import os
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet, MultiFernet

import taskseal

KEYS = [Fernet.generate_key().decode() for _ in range(2)]
TYPES = {
    "fernet_json": "application/x-fernet-json",
    "fernet_yaml": "application/x-fernet-yaml",
    "fernet_msgpack": "application/x-fernet-msgpack",
    "fernet_pickle": "application/x-fernet-python-serialize",
}
VALUE = {"list": [1, 2.5, None], "text": "Ålice"}


def python(program, **environment):
    """Runs a program; what it printed, or what its last line of error says."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KOMBU_FERNET")}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**inherited, **environment}, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", TYPES)
def test_names_and_content_types(name):
    program = f"""
from kombu.serialization import dumps, loads
content_type, encoding, token = dumps({VALUE!r}, "{name}")
assert loads(token, content_type, encoding, accept=[content_type]) == {VALUE!r}
assert loads(token.decode(), content_type, encoding, accept=[content_type]) == {VALUE!r}
print(content_type, encoding, token.decode())
"""
    content_type, encoding, token = python(program, KOMBU_FERNET_KEY=KEYS[0]).split()
    assert (content_type, encoding) == (TYPES[name], "utf-8")
    assert Fernet(KEYS[0]).decrypt(token)


def test_the_tokens_are_those_of_cryptography():
    token = Fernet(KEYS[1]).encrypt(b'{"a": 1}')
    program = f"""
from kombu.serialization import loads
print(loads({token!r}, "application/x-fernet-json", "utf-8", accept=["application/x-fernet-json"]))
"""
    assert python(program, KOMBU_FERNET_KEY=KEYS[0], KOMBU_FERNET_KEY_PREVIOUS=KEYS[1]) == "{'a': 1}"
    assert python(program, KOMBU_FERNET_KEY=KEYS[1]) == "{'a': 1}"
    assert "DecodeError" in python(program, KOMBU_FERNET_KEY=KEYS[0])


def test_without_keys_kombu_works():
    program = """
from kombu.serialization import dumps, loads
print(loads(dumps([1], "json")[2], "application/json", "utf-8"))
{}
"""
    assert python(program.format("")) == "[1]"
    for use in ('dumps([1], "fernet_json")', 'loads(b"x", "application/x-fernet-json", "utf-8")'):
        assert "KOMBU_FERNET_KEY" in python(program.format(use))


def test_keys_that_are_none_are_refused_without_being_shown():
    program = 'from kombu.serialization import dumps; dumps([1], "fernet_json")'
    said = python(program, KOMBU_FERNET_KEY="not-a-key")
    assert "44 characters" in said and "not-a-key" not in said


def test_keys_can_be_given_by_the_program():
    program = f"""
import taskseal, taskseal.kombu_fernet
from kombu.serialization import dumps
taskseal.kombu_fernet.use(*[taskseal.Fernet(key) for key in {KEYS!r}])
print(dumps([1], "fernet_json")[2].decode())
"""
    token = python(program)
    assert MultiFernet([Fernet(KEYS[0])]).decrypt(token) == b"[1]"
    assert taskseal.Fernet(KEYS[0]).decrypt(token) == b"[1]"
