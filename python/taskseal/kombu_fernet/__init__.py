"""Drop-in for `kombu-fernet-serializers`: the serializers ``fernet_json``, ``fernet_yaml``, ``fernet_msgpack`` and
``fernet_pickle``, with the same content types.

The keys are read from ``KOMBU_FERNET_KEY`` and ``KOMBU_FERNET_KEY_PREVIOUS`` by the first message, so that a program that
has no keys, and uses none of these serializers, is not disturbed. Either may be the ``pkcs11:`` URI of keys on a token. Only
bodies are encrypted, and nothing is signed: names, ids and headers of tasks stay readable, and `argsrepr` and `kwargsrepr`
repeat the arguments there.

While the keys cannot be used, nothing is lost: a worker of Celery gives messages back to their queue, and a process of its pool
waits. A consumer of kombu's gets the error, as `DecodeError`, and asks `not_now` about it.
"""

import logging
import os
import sys
import time

from .._native import Fernet, MultiFernet
from ..errors import ConfigurationError, TasksealError

logger = logging.getLogger("taskseal.kombu_fernet")

#: How long a process of a pool waits before it tries again, in seconds.
RETRY = 1.0

KEY = "KOMBU_FERNET_KEY"
PREVIOUS_KEY = "KOMBU_FERNET_KEY_PREVIOUS"

_fernet = None


def fernet():
    """The keys of the environment, read once."""
    global _fernet
    if _fernet is None:
        names = [name for name in (KEY, PREVIOUS_KEY) if os.environ.get(name, "").strip()]
        if KEY not in names:
            raise ConfigurationError(
                f"the serializers fernet_* need a key: set {KEY}, for example to what Fernet.generate_key() makes"
            )
        _fernet = MultiFernet([from_text(os.environ[name]) for name in names])
    return _fernet


def from_text(text):
    """The key of a text (`str` or bytes), or keys on a token by their ``pkcs11:`` URI. Both may have a newline at their end."""
    start = text.lstrip()[:7].lower()
    if start in (b"pkcs11:", "pkcs11:"):
        # What is not ASCII is no URI: the error says so.
        return Fernet.from_uri(text.decode("ascii", "replace") if isinstance(text, bytes) else text)
    return Fernet(text)


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
        return loads(_decrypted(token))

    return decode


def not_now(error):
    """Whether an error of a decoder says that the keys cannot be used at the moment. The message is to be given back."""
    while error is not None and not isinstance(error, TasksealError):
        error = error.__cause__ or error.__context__
    return error is not None and error.error_class != "rejected"


def _decrypted(token):
    _guard_workers()
    while True:
        try:
            return fernet().decrypt(token)
        except TasksealError as error:
            if not not_now(error) or not _in_a_pool():
                raise
            # Its message is acknowledged, or cannot be given back from here.
            logger.error("a task waits for the keys to decrypt it with: %s", error)
            time.sleep(RETRY)


def _in_a_pool():
    """Whether this is a process of a worker's pool."""
    process = sys.modules.get("billiard.process")
    return process is not None and process.current_process().name != "MainProcess"


def _guard_workers():
    """Has a worker of Celery's, if this is one, give back what cannot be decrypted. It acknowledges by itself."""
    if "celery.worker.consumer.consumer" in sys.modules:
        from ..celery.worker import give_back_where_keys_are_away

        give_back_where_keys_are_away()
