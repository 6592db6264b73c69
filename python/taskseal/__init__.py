"""Sign, seal and open task messages with RSA-PSS keys that never leave the HSM.

>>> signer = taskseal.Signer.from_uri("pkcs11:token=payments;object=worker-7?pin-source=file:/run/secrets/pin",
...                                   taskseal.Certificate(pem))                                 # doctest: +SKIP
>>> sealed = taskseal.Sealer(signer).seal([["Alice"], {}, {}])                                   # doctest: +SKIP
>>> taskseal.Opener(taskseal.CertStore.open("/etc/taskseal/trusted")).open(sealed).json()        # doctest: +SKIP
[['Alice'], {}, {}]

The GIL is released around signing and verifying. What the library has to say goes to :mod:`logging`, below the logger
``taskseal``. For Celery see :mod:`taskseal.celery`.
"""

from . import errors
from ._native import (
    Certificate,
    CertStore,
    ClockWatch,
    Fernet,
    MemoryReplay,
    MessageOpener,
    MessageSealer,
    MultiFernet,
    Opened,
    OpenedPayload,
    Opener,
    Policy,
    PrivateKey,
    Sealer,
    Signer,
    __version__,
    forget_refused_pins,
    inspect_unverified,
)
from .errors import TasksealError

__all__ = [
    "CertStore",
    "Certificate",
    "ClockWatch",
    "Fernet",
    "MemoryReplay",
    "MessageOpener",
    "MessageSealer",
    "MultiFernet",
    "Opened",
    "OpenedPayload",
    "Opener",
    "Policy",
    "PrivateKey",
    "Sealer",
    "Signer",
    "TasksealError",
    "__version__",
    "errors",
    "forget_refused_pins",
    "inspect_unverified",
]
