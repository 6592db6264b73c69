"""X.509 certificates and stores of them, as `celery.security.certificate` has them."""

import logging

import time

from celery.exceptions import SecurityError
from kombu.utils.encoding import bytes_to_str, ensure_bytes

from .. import _native
from ..errors import OpenError
from .utils import get_digest_algorithm, reraise_errors

__all__ = ("CertStore", "Certificate", "FSCertStore")

logger = logging.getLogger("taskseal.celery")

#: The smallest RSA key that is trusted, in bits.
MIN_KEY_BITS = 2048

#: How far clocks may be apart, in seconds.
CLOCK_SKEW = 60.0


class Certificate:
    """X.509 certificate."""

    #: A signature counts for that many seconds before the certificate's beginning and after its end: clocks differ.
    clock_skew = CLOCK_SKEW

    def __init__(self, cert):
        with reraise_errors("Invalid certificate: {0}", errors=(Exception,)):
            self.native = cert if isinstance(cert, _native.Certificate) else _native.Certificate(ensure_bytes(cert))
            if self.native.key_bits < MIN_KEY_BITS:
                raise ValueError(f"a key of {self.native.key_bits} bits is too weak; {MIN_KEY_BITS} are needed")

    def has_expired(self):
        """Check if the certificate has expired."""
        return self.native.has_expired()

    def get_pubkey(self):
        """The public key, as an object of `cryptography`, which has to be installed for this."""
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        return load_der_public_key(self.native.public_key_der())

    def get_serial_number(self):
        """Return the serial number in the certificate."""
        return self.native.serial_number

    def get_issuer(self):
        """Return issuer (CA) as a string."""
        return self.native.issuer

    def get_id(self):
        """Serial number/issuer pair uniquely identifies a certificate."""
        return self.native.id

    def verify(self, data, signature, digest):
        """Verify signature for string containing data."""
        digest = get_digest_algorithm(digest)
        now = time.time()
        if self.native.has_expired(now - self.clock_skew):
            raise SecurityError(f"Expired certificate: {self.get_id()!r}")
        if self.native.is_not_yet_valid(now + self.clock_skew):
            raise SecurityError(f"Certificate that is not valid yet: {self.get_id()!r}")
        if not self.native.allows_signatures():
            raise SecurityError(f"Certificate that is not for signing: {self.get_id()!r}")
        if refused := self.native.refused_extensions:
            raise SecurityError(f"Certificate with an extension that is not understood: {self.get_id()!r}: {refused[0]}")
        with reraise_errors("Bad signature: {0}", errors=(Exception,)):
            if not self.native.verifies(ensure_bytes(data), ensure_bytes(signature), digest):
                raise ValueError("it is not this key's signature of this data with this digest")

    def __eq__(self, other):
        """Whether it is the same certificate, byte for byte."""
        return self.native == other.native if isinstance(other, Certificate) else NotImplemented

    def __hash__(self):
        return hash(self.native)

    def __repr__(self):
        return f"<{type(self).__name__} {self.get_id()!r}>"


class CertStore:
    """Base class for certificate stores."""

    def __init__(self):
        self.native = _native.CertStore()

    def itercerts(self):
        """Return certificate iterator."""
        for certificate in self.native.certificates():
            yield Certificate(certificate)

    def __getitem__(self, id):
        """Get certificate by id."""
        try:
            found = self.native.get(bytes_to_str(id))
        except UnicodeError:
            found = None
        if found is None and self.native.unsettled:
            error = OpenError(self.native.unsettled, "transient", "store")
            raise SecurityError(f"Whether the certificate {id!r} is unknown cannot be told: {error}") from error
        if found is None:
            raise SecurityError(f"Unknown certificate: {id!r}")
        return Certificate(found)

    def add_cert(self, cert):
        """Add a certificate."""
        if cert.get_id() in self.native:
            raise SecurityError(f"Duplicate certificate: {cert.get_id()!r}")
        with reraise_errors("Unable to add the certificate: {0}"):
            self.native.add(cert.native)


class FSCertStore(CertStore):
    """File system certificate store: a directory, a file, or a pattern.

    Of a file with a leaf and its chain the leaf alone is a signer's.

    It looks for changes when it is used, at most every `reload_interval` seconds; None for never. A certificate that was
    taken away is unknown from then on. A file that cannot be read, or not all of it, keeps what it gave for `reload_grace`
    seconds, and is an error in the log; while anything is left out, it cannot be told whether a signer is unknown. At the
    start nothing is left out: an unreadable or expired file is a `SecurityError`, as in Celery, and so is an empty store. It
    says then whose certificate has a critical extension that is not understood nor in `dangerous_ignore_critical`.
    """

    def __init__(self, path, reload_interval=5.0, dangerous_ignore_critical=(), *, reload_grace=300.0):
        with reraise_errors("Unable to load the certificate store: {0}"):
            self.native = _native.CertStore.open(path, reload_interval=reload_interval, grace=reload_grace)
        for certificate in self.itercerts():  # each is checked by being made
            for oid in certificate.native.refused_extensions:
                if oid not in dangerous_ignore_critical:
                    logger.error(
                        "every message of the signer %r will be refused: its certificate has the extension %s, which is "
                        "critical and not understood, or says that it is no certificate (see dangerous_ignore_critical)",
                        certificate.get_id(),
                        oid,
                    )

    def add_cert(self, cert):
        raise SecurityError("This store is read from files: put the certificate there")
