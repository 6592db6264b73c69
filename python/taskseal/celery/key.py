"""Private keys, as `celery.security.key` has them, and on tokens."""

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from .. import _native
from ..errors import TasksealError
from .utils import get_digest_algorithm, reraise_errors

__all__ = ("PrivateKey", "is_uri")


def is_uri(key):
    """Whether this names a key on a PKCS#11 token rather than being one."""
    if isinstance(key, bytes):
        return key.lstrip()[:7].lower() == b"pkcs11:"
    return isinstance(key, str) and key.lstrip()[:7].lower() == "pkcs11:"


class PrivateKey:
    """A private RSA key: PEM text, or the ``pkcs11:`` URI of a key on a token.

    The password of an encrypted key, or the PIN of the token when its URI names no source for one. A token is opened by the
    first signature, in each process anew.
    """

    def __init__(self, key, password=None):
        password = password or None
        with reraise_errors("Invalid private key: {0}", errors=(TasksealError, ValueError)):
            if is_uri(key):
                pin = password if password is None or callable(password) else bytes_to_str(password)
                self._key = _native.PrivateKey.from_uri(bytes_to_str(key).strip(), pin=pin)
            else:
                self._key = _native.PrivateKey.from_software_pem(
                    ensure_bytes(key) or b"", None if password is None else ensure_bytes(password)
                )

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
