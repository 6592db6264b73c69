"""Drop-in for `kombu-fernet-serializers`: the serializers ``fernet_json``, ``fernet_yaml``, ``fernet_msgpack`` and
``fernet_pickle``, with the same content types.

The keys are read from ``KOMBU_FERNET_KEY`` and ``KOMBU_FERNET_KEY_PREVIOUS`` by the first message, so that a program that
has no keys, and uses none of these serializers, is not disturbed. Either may be the ``pkcs11:`` URI of keys on a token. Only
bodies are encrypted, and nothing is signed: names, ids and headers of tasks stay readable, and `argsrepr` and `kwargsrepr`
repeat the arguments there.
"""

import os

from .._native import Fernet, MultiFernet
from ..errors import ConfigurationError

KEY = "KOMBU_FERNET_KEY"
PREVIOUS_KEY = "KOMBU_FERNET_KEY_PREVIOUS"

_fernet = None


def fernet():
    """The keys of the environment, read once."""
    global _fernet
    if _fernet is None:
        names = [name for name in (KEY, PREVIOUS_KEY) if os.environ.get(name)]
        if KEY not in names:
            raise ConfigurationError(
                f"the serializers fernet_* need a key: set {KEY}, for example to what Fernet.generate_key() makes"
            )
        _fernet = MultiFernet([from_text(os.environ[name]) for name in names])
    return _fernet


def from_text(text):
    """The key of a text, or keys on a token by their ``pkcs11:`` URI."""
    return Fernet.from_uri(text) if text.startswith("pkcs11:") else Fernet(text)


def use(*fernets):
    """Takes these keys instead of the environment's: the first encrypts, all of them decrypt. Without any, the environment
    is read again.
    """
    global _fernet
    _fernet = MultiFernet(list(fernets)) if fernets else None


def fernet_encode(dumps):
    """A serializer that encrypts what `dumps` makes."""

    def encode(data):
        return fernet().encrypt(dumps(data))

    return encode


def fernet_decode(loads):
    """A deserializer that hands `loads` what it decrypted, as bytes, and nothing else."""

    def decode(token):
        return loads(fernet().decrypt(token))

    return decode
