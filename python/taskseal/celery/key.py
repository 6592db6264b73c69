"""Private keys, as `celery.security.key` has them, and on tokens."""

from kombu.utils.encoding import ensure_bytes

from .. import _native
from ..errors import TasksealError
from .utils import get_digest_algorithm, reraise_errors, text_of

__all__ = ("PrivateKey", "is_uri")


def is_uri(key):
    """Whether this names a key on a PKCS#11 token rather than being one."""
    if isinstance(key, bytes):
        return key.lstrip()[:7].lower() == b"pkcs11:"
    return isinstance(key, str) and key.lstrip()[:7].lower() == "pkcs11:"


class PrivateKey:
    """A private RSA key: PEM text, or the ``pkcs11:`` URI of a key on a token.

    The password of an encrypted key, or the PIN of the token when its URI names no source for one: text, bytes, or a
    callable that is asked for it. A token is opened by the first signature, in each process anew.
    """

    def __init__(self, key, password=None):
        password = password or None
        with reraise_errors("Invalid private key: {0}", errors=(TasksealError, ValueError)):
            if is_uri(key):
                pin = password if password is None or callable(password) else text_of(password, "the PIN")
                self._key = _native.PrivateKey.from_uri(text_of(key, "the URI"), pin=pin)
            else:
                self._key = _native.PrivateKey.from_software_pem(key or b"", password() if callable(password) else password)

    def sign(self, data, digest):
        """Sign string containing data."""
        digest = get_digest_algorithm(digest)
        with reraise_errors("Unable to sign data: {0}"):
            return self._key.sign(ensure_bytes(data), digest)

    def signer(self, cert, digest, salt="digest"):
        """The `taskseal.Signer` of this key and its certificate."""
        with reraise_errors("Unable to use the key: {0}"):
            return self._key.signer(cert.native, get_digest_algorithm(digest), salt)

    def __repr__(self):
        return f"<{type(self).__name__} {'on a token' if self._key.is_token else 'in memory'}>"
