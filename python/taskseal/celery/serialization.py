"""The `auth` serializer, as `celery.security.serialization` has it: the same bytes, and strict about what it accepts."""

from celery.app.defaults import DEFAULT_SECURITY_DIGEST
from celery.exceptions import SecurityError
from kombu.serialization import SerializerNotInstalled, dumps, loads, registry
from kombu.utils.encoding import ensure_bytes

from .. import _native
from . import compression
from .certificate import CLOCK_SKEW, Certificate, CertStore, FSCertStore
from .compression import MAX_BODY_LEN
from .key import PrivateKey
from .utils import get_digest_algorithm, reraise_errors

__all__ = ("SecureSerializer", "register_auth")

#: The outer content type of sealed messages.
CONTENT_TYPE = "application/data"
#: What is between the fields of an envelope. Here for those who take envelopes apart, as in Celery.
DEFAULT_SEPARATOR = b"\x00\x01"
#: Refused in an application that signs, like every content that is not sealed.
REFUSED_CONTENT_TYPE = "application/text"


class SecureSerializer:
    """Signed serializer.

    `serializer` is what the bodies are serialized with. Only it, and those in `accept`, are accepted from others. `salt` is
    ``digest`` or ``max``; ``max`` is for readers with a `cryptography` older than 42. Certificates count for `clock_skew`
    seconds before their beginning and after their end.
    """

    def __init__(self, key=None, cert=None, cert_store=None, digest=DEFAULT_SECURITY_DIGEST, serializer="json", *,
                 accept=(), salt="digest", max_message_len=None, clock_skew=CLOCK_SKEW,
                 dangerous_ignore_critical=()):  # fmt: skip
        self._key = key
        self._cert = cert
        self._cert_store = cert_store
        self._digest = get_digest_algorithm(digest)
        self._serializer = serializer
        self._salt = salt
        self._sealer = None
        with reraise_errors("Unable to use the serializer: {0}", errors=(Exception,)):
            self._policy = _native.Policy(
                content_types=[_content_type(name) for name in (serializer, *accept)],
                digest=self._digest,
                max_message_len=max_message_len,
                clock_skew=clock_skew,
                dangerous_ignore_critical=list(dangerous_ignore_critical),
            )
        self._opener = self._opener_for(cert_store)

    def serialize(self, data):
        """Serialize data structure into string."""
        assert self._key is not None
        assert self._cert is not None
        with reraise_errors("Unable to serialize: {0}", (Exception,)):
            content_type, content_encoding, body = dumps(data, serializer=self._serializer)
            if self._sealer is None:
                self._sealer = _native.Sealer(self._key.signer(self._cert, self._digest, self._salt))
            return self._sealer.seal_bytes(
                ensure_bytes(body), content_type=content_type, content_encoding=content_encoding
            )

    def deserialize(self, data):
        """Deserialize data structure from string."""
        assert self._cert_store is not None
        with reraise_errors("Unable to deserialize: {0}", (Exception,)):
            opened = (self._opener or self._opener_of(data)).open(data)
        return loads(opened.body, opened.content_type, opened.content_encoding, force=True)

    def _opener_for(self, store):
        """An opener on a store of ours. One that looks certificates up in a way of its own is asked for each message."""
        if isinstance(store, CertStore) and type(store).__getitem__ is CertStore.__getitem__:
            return _native.Opener(store.native, self._policy)
        return None

    def _opener_of(self, data):
        found = self._cert_store[_native.inspect_unverified(data)["signer"]]
        return _native.Opener(_native.CertStore([found.native]), self._policy)


def _content_type(name):
    """The content type of a serializer that has a decoder: without one, kombu would hand out what was sent."""
    if name == "auth":
        raise ValueError("a signed body is not signed again")
    content_type = registry.name_to_type.get(name, name if "/" in name else None)
    if content_type is None or content_type not in registry._decoders:
        raise SerializerNotInstalled(f"No decoder installed for {name}")
    return content_type


def register_auth(key=None, key_password=None, cert=None, store=None, digest=DEFAULT_SECURITY_DIGEST, serializer="json",
                  *, accept=(), salt="digest", reload_interval=5.0, max_body_len=MAX_BODY_LEN,
                  clock_skew=CLOCK_SKEW, dangerous_ignore_critical=(), reload_grace=300.0):  # fmt: skip
    """Register security serializer.

    From then on content that is not sealed is refused, and so are compressed bodies that become more than `max_body_len`
    bytes.
    """
    s = SecureSerializer(
        key and PrivateKey(key, password=key_password),
        cert and Certificate(cert),
        store and FSCertStore(store, reload_interval, dangerous_ignore_critical, reload_grace=reload_grace),
        digest,
        serializer=serializer,
        accept=accept,
        salt=salt,
        clock_skew=clock_skew,
        dangerous_ignore_critical=dangerous_ignore_critical,
    )
    registry.register("auth", s.serialize, s.deserialize, content_type=CONTENT_TYPE, content_encoding="utf-8")
    registry.register("taskseal-refused", None, _refuse, content_type=REFUSED_CONTENT_TYPE)
    compression.limit(max_body_len)
    return s


def _refuse(data):
    raise SecurityError(f"Refusing content of type {REFUSED_CONTENT_TYPE!r}: it is not signed")
