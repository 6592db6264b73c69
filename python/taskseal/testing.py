"""Pytest fixtures: a SoftHSM token with a key and a certificate, a signer for it, a sealed Celery application.

Name the plugin in your ``conftest.py``::

    pytest_plugins = ["taskseal.testing"]

It needs pytest, ``cryptography``, and SoftHSM with ``softhsm2-util`` (the package ``softhsm2``). It is not an entry point: that
would load it, with its names, into each pytest of whoever installs taskseal.
"""

import datetime
import os
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

import taskseal

SO_PIN = "87654321"


@dataclass(frozen=True)
class SoftHsm:
    """A token with a key and a certificate. Its module is a copy that knows its configuration, so no variable has to be set."""

    directory: Path
    label: str
    key_label: str
    pin: str
    certificate: taskseal.Certificate

    @property
    def module(self) -> Path:
        """The module of this token."""
        return self.directory / "libsofthsm2.so"

    @property
    def certificate_file(self) -> Path:
        """A file with the certificate in PEM, alone in a directory that can be a store."""
        return self.directory / "trusted" / "certificate.pem"

    @property
    def store(self) -> str:
        """The pattern of a store that trusts this certificate alone."""
        return str(self.certificate_file.parent / "*.pem")

    @property
    def uri(self) -> str:
        """The key's URI with module, token, label and PIN file: all that another process needs."""
        label, key = quote(self.label, safe=""), quote(self.key_label, safe="")
        return f"pkcs11:token={label};object={key}?module-path={self.module}&pin-source=file:{self.directory / 'pin'}"

    @property
    def environment(self) -> dict[str, str]:
        """What SoftHSM's own programs and its original module need in their environment to show this token."""
        return {"SOFTHSM2_CONF": str(self.directory / "c")}

    def signer(self, **options) -> taskseal.Signer:
        """A signer with the key and the certificate; options as `taskseal.Signer.from_uri` takes them."""
        return taskseal.Signer.from_uri(self.uri, self.certificate, **options)


@contextmanager
def start_softhsm(*, label="testkit", key_label="worker", common_name="worker", bits=2048, pin="12345678"):
    """A token of its own, gone when the block ends. Any number of them live side by side.

    Raises FileNotFoundError where SoftHSM is not installed.
    """
    module = find_module()
    if module is None:
        raise FileNotFoundError("SoftHSM is not installed: install softhsm2, or name its module in SOFTHSM2_MODULE")
    places = Places(module)
    with tempfile.TemporaryDirectory(prefix="ts", dir=places.short_root()) as name:
        directory = Path(name)
        (directory / "tokens").mkdir()
        (directory / "trusted").mkdir()
        (directory / "c").write_text(
            f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        copy = directory / "libsofthsm2.so"
        copy.write_bytes(places.copy(directory / "c"))
        (directory / "pin").touch(0o600)
        (directory / "pin").write_text(pin)
        key, certificate = make_certificate(common_name, bits)
        (directory / "trusted" / "certificate.pem").write_bytes(certificate)
        (directory / "key.pem").touch(0o600)
        (directory / "key.pem").write_bytes(key)
        for arguments in (
            ["--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", pin],
            ["--import", str(directory / "key.pem"), "--token", label, "--label", key_label, "--id", "01", "--pin", pin],
        ):
            run = subprocess.run(
                ["softhsm2-util", "--module", str(copy), *arguments], capture_output=True, text=True, check=False
            )
            if run.returncode:
                raise RuntimeError(f"softhsm2-util {arguments[0]}: {run.stdout}{run.stderr}")
        (directory / "key.pem").unlink()
        yield SoftHsm(directory, label, key_label, pin, taskseal.Certificate(certificate.decode()))


@pytest.fixture
def softhsm():
    """A token with a key and a certificate, for one test. Skips where SoftHSM is not installed; with CI=true that fails."""
    if find_module() is None:
        reason = "SoftHSM is not installed: install softhsm2, or name its module in SOFTHSM2_MODULE"
        if os.environ.get("CI") == "true":
            pytest.fail(f"would be skipped, which CI=true forbids: {reason}")
        pytest.skip(reason)
    with start_softhsm() as made:
        yield made


@pytest.fixture
def signer(softhsm):
    """A signer with the key and the certificate of `softhsm`."""
    return softhsm.signer()


@pytest.fixture
def sealed_app(softhsm):
    """A Celery application over ``sealed-memory://`` that seals with the key of `softhsm`, and trusts its certificate alone.

    It keeps no results. Other settings go where a test makes an application of its own.
    """
    from celery import Celery

    from taskseal.celery import setup_sealing

    app = Celery("testing", broker="sealed-memory://", set_as_current=False)
    app.conf.update(
        security_key=softhsm.uri,
        security_certificate=str(softhsm.certificate_file),
        security_cert_store=softhsm.store,
    )
    setup_sealing(app)
    yield app
    app.close()


def find_module():
    """Where SoftHSM's module is: what ``SOFTHSM2_MODULE`` says, else one of the usual places. None when there is none."""
    given = os.environ.get("SOFTHSM2_MODULE")
    places = [given] if given else [
        "/usr/lib/softhsm/libsofthsm2.so",
        *map(str, Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")),
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ]  # fmt: skip
    return next((place for place in places if os.path.isfile(place)), None)


class Places:
    """The places in SoftHSM's module that say where its configuration is, as the Rust crate taskseal-testkit knows them."""

    def __init__(self, module):
        self.bytes = bytearray(Path(module).read_bytes())
        self.variable = self.bytes.find(b"SOFTHSM2_CONF\0")
        self.paths = []
        user = b"%s/.config/softhsm2/softhsm2.conf"
        if (start := self.bytes.find(user + b"\0")) >= 0:
            self.paths.append((start, len(user)))
        built_in, at = b"/softhsm2.conf\0", -1
        found = False
        while (at := self.bytes.find(built_in, at + 1)) >= 0:
            start, end = self.bytes.rfind(b"\0", 0, at) + 1, at + len(built_in) - 1
            if self.bytes[start : start + 1] == b"/":
                self.paths.append((start, end - start))
                found = True
        if self.variable < 0 or not found:
            raise RuntimeError(f"{module} does not read its configuration where SoftHSM 2 does")
        self.room = min(length for _, length in self.paths)

    def short_root(self):
        """A directory for temporary directories in which the configuration's path has room: "/ts", 8 by chance, "/c"."""
        for root in (tempfile.gettempdir(), "/tmp", "/dev/shm"):
            if len(os.fsencode(root)) + 13 <= self.room and os.access(root, os.W_OK):
                return root
        raise RuntimeError(f"no temporary directory leaves room for a configuration's path of {self.room} bytes")

    def copy(self, configuration):
        """The module, reading this configuration and no variable."""
        text = os.fsencode(configuration)
        if len(text) > self.room:
            raise RuntimeError(f"{configuration} has more than {self.room} bytes")
        made = self.bytes.copy()
        for start, length in self.paths:
            made[start : start + length] = text.ljust(length, b"\0")
        made[self.variable] = 0
        return made


def make_certificate(common_name, bits):
    """A key in PEM, and a certificate for it by itself that is valid from an hour ago for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, certificate.public_bytes(serialization.Encoding.PEM)
