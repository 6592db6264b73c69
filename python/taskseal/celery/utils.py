"""Digests by Celery's names, and errors that name their cause."""

from contextlib import contextmanager

from celery.exceptions import SecurityError

from ..errors import ConfigurationError, TasksealError

#: What may sign: the digests that RSA-PSS is used with here.
DIGESTS = ("sha256", "sha384", "sha512")

#: Known to Celery, and refused: too weak, or not to be had on tokens.
REFUSED_DIGESTS = (
    "blake2b", "blake2s", "md5", "sha1", "sha224", "sha3_224", "sha3_256", "sha3_384", "sha3_512", "sha512_224",
    "sha512_256", "shake128", "shake256", "sm3",
)  # fmt: skip


class Digest(str):
    """A digest by its name. Like the hashes of `cryptography`, it has a ``name``."""

    @property
    def name(self):
        return str(self)


def get_digest_algorithm(digest="sha256"):
    """The digest that ``security_digest`` names.

    Raises as Celery does: `AssertionError` for None, `AttributeError` for an unknown name; and `SecurityError` for a digest
    that Celery knows and that is not accepted here.
    """
    assert digest is not None
    name = str(getattr(digest, "name", digest)).lower()
    if name in REFUSED_DIGESTS:
        raise SecurityError(f"The digest {name!r} is not accepted; use one of {', '.join(DIGESTS)}")
    if name not in DIGESTS:
        raise AttributeError(f"there is no digest {name!r}; use one of {', '.join(DIGESTS)}")
    return Digest(name)


def text_of(value, what):
    """Bytes as text. No error has any of them in it."""
    if isinstance(value, str):
        return value
    text = bytes(value).decode("utf-8", "replace")
    if text.encode() != value:
        raise ConfigurationError(f"{what} is not UTF-8")
    return text


def forget(error):
    """Takes out of an error about an encoding what was to be encoded: all of it, which may be a secret or a message."""
    if isinstance(error, (UnicodeEncodeError, UnicodeDecodeError)):
        nothing = type(error.object)()
        error.object, error.args = nothing, (error.encoding, nothing, 0, 0, error.reason)


@contextmanager
def reraise_errors(msg="{0}", errors=(TasksealError,)):
    """Turns these errors into `SecurityError`, with the cause in its text."""
    try:
        yield
    except errors as exc:
        forget(exc)
        # Texts of taskseal stand for themselves; of other errors the type is needed to understand them.
        cause = exc if isinstance(exc, TasksealError) else repr(exc)
        raise SecurityError(msg.format(cause)) from exc
