"""The exceptions of taskseal, all of them below :class:`TasksealError`.

No text of an exception holds a PIN, a password, a key or the body of a message.
"""

from typing import Any


class TasksealError(Exception):
    """Something that taskseal did not do, with what a caller may do about it.

    ``error_class`` is one of ``transient``, ``session-lost``, ``busy``, ``timeout``, ``credential``, ``permanent`` and
    ``rejected``.
    """

    def __init__(self, text: str = "", error_class: str = "permanent") -> None:
        super().__init__(text)
        self.error_class = error_class

    @property
    def is_retryable(self) -> bool:
        """Whether the same call may be tried again without anybody changing anything."""
        return self.error_class in ("transient", "session-lost", "busy", "timeout")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.error_class)


class ConfigurationError(TasksealError, ValueError):
    """An argument or a setting makes no sense."""


class CertificateError(TasksealError, ValueError):
    """Bytes that are no certificate which can be used here."""


class StoreError(TasksealError):
    """A certificate store that cannot be filled."""


class KeyError(TasksealError, ValueError):
    """A private key or a PKCS#11 URI that cannot be used. Not Python's ``KeyError``."""


class SignError(TasksealError):
    """A signature that was not made, or a signer that could not be opened."""


class SealError(TasksealError):
    """A message that could not be sealed."""


class OpenError(TasksealError):
    """A message that was refused. ``reason`` says why in one stable word, such as ``bad-signature``.

    ``signer`` is who the message says, or is known, to be from, quoted and cut for a log; ``None`` where that is not known.
    """

    def __init__(
        self, text: str = "", error_class: str = "rejected", reason: str = "", signer: str | None = None
    ) -> None:
        super().__init__(text, error_class)
        self.reason = reason
        self.signer = signer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.error_class, self.reason, self.signer)


class FernetError(TasksealError):
    """A token that was refused, or keys that cannot be used."""
