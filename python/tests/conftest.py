"""Keys, certificates and tokens that the tests share. Everything lies in temporary directories."""

import datetime
import ipaddress
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

import taskseal

PIN = "90210754"
DAY = datetime.timedelta(days=1)


@dataclass
class Identity:
    """A key and a certificate for it."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self):
        return self.private(serialization.NoEncryption())

    def private(self, encryption):
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ).decode()

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def native(self):
        return taskseal.Certificate(self.pem)

    def signer(self, **options):
        return taskseal.Signer.from_software_pem(self.key_pem, self.native, **options)


KEYS = {}


def identity(name, *, bits=2048, serial=7, start=-DAY, end=DAY, nth=None, issuer=None, extensions=(),
             by=None):  # fmt: skip
    """Makes a certificate that is its own issuer, or `by` another one. Keys are made once per `nth`, which is the name unless
    given. Extensions are pairs with whether each is critical.
    """
    nth = name if nth is None else nth
    if (bits, nth) not in KEYS:
        KEYS[bits, nth] = rsa.generate_private_key(65537, bits)
    key = KEYS[bits, nth]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(by.certificate.subject if by else issuer or subject)
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now + start)
        .not_valid_after(now + end)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Identity(key, builder.sign(by.key if by else key, hashes.SHA256()))


def tls_files(directory, *names):
    """Makes an authority and a server's certificate for these names in a directory: ``ca.pem``, ``cert.pem``, ``key.pem``."""
    ca = identity("a test's authority", extensions=[(x509.BasicConstraints(ca=True, path_length=0), True)])
    alternatives = x509.SubjectAlternativeName([
        x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names
    ])  # fmt: skip
    server = identity("server", serial=8, by=ca, extensions=[(alternatives, False)])
    directory.mkdir(exist_ok=True)
    for name, text in (("ca.pem", ca.pem), ("cert.pem", server.pem), ("key.pem", server.key_pem)):
        (directory / name).write_text(text)
    return directory


def usage(**allowed):
    """The extension `keyUsage` with these uses."""
    uses = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{use: allowed.get(use, False) for use in uses})


@pytest.fixture(scope="session")
def alice():
    return identity("alice")


@pytest.fixture(scope="session")
def bob():
    return identity("bob")


def softhsm_module():
    """The path of SoftHSM's module, as `scripts/lib.sh` looks for it."""
    places = [
        os.environ.get("SOFTHSM2_MODULE", ""),
        "/usr/lib/softhsm/libsofthsm2.so",
        *map(str, Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")),
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ]
    return next((place for place in places if place and os.path.isfile(place)), None)


@dataclass
class Token:
    """A SoftHSM token with the key of an identity."""

    module: str
    identity: Identity
    configuration: str

    @property
    def uri(self):
        return f"{self.uri_without_pin}&pin-source=file:{Path(self.configuration).parent}/pin"

    @property
    def uri_without_pin(self):
        return f"pkcs11:token=tests;object=worker?module-path={self.module}"


def make_token(directory, identity):
    """Makes a token in this directory. The variable SOFTHSM2_CONF has to name its configuration from now on."""
    module = softhsm_module()
    if module is None:
        skip("SoftHSM is not installed")
    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    key = directory / "key.pem"
    key.write_text(identity.key_pem)
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    for arguments in (
        ["--init-token", "--free", "--label", "tests", "--so-pin", "12345678", "--pin", PIN],
        ["--import", str(key), "--token", "tests", "--label", "worker", "--id", "01", "--pin", PIN],
    ):
        subprocess.run(["softhsm2-util", *arguments], env=environment, check=True, capture_output=True)
    key.unlink()
    (directory / "pin").touch(0o600)
    (directory / "pin").write_text(PIN)
    return Token(module, identity, str(configuration))


@pytest.fixture(scope="session")
def token(tmp_path_factory, alice):
    """Alice's key on a token. One per test process: SoftHSM reads its configuration once."""
    made = make_token(tmp_path_factory.mktemp("softhsm"), alice)
    os.environ["SOFTHSM2_CONF"] = made.configuration
    return made


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    """The address of a Redis that all tests share: each begins by emptying what it uses."""
    from support.servers import redis_server

    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory):
    """User, password and address of a RabbitMQ that all tests share."""
    from support.servers import rabbitmq_server

    with rabbitmq_server(tmp_path_factory.mktemp("rabbitmq")) as address:
        yield address


@pytest.fixture(params=["memory", "redis", "amqp"])
def stored(request, tmp_path, alice):
    """A broker in which one message of Alice's is stored, a consumer's connection, and what that opens with."""
    from support.transports import AmqpBroker, Broker, connect, place_of, publish, sealing_of, tasks

    where = place_of(request.param, request, tmp_path)
    sealing = sealing_of(alice, [alice])
    broker = (AmqpBroker if request.param == "amqp" else Broker)(where, sealing)
    publish(broker.connection)
    tasks("other", "other.key")(broker.channel).declare()
    with connect(where, sealing) as connection:
        yield broker, connection, sealing
    broker.close()


@pytest.fixture(autouse=True)
def kombu_registry(monkeypatch):
    """What a test registers with kombu and disables there is undone: it is the whole process'."""
    import kombu.compression
    from kombu.serialization import registry

    for table in ("_encoders", "_decoders", "_aliases"):
        monkeypatch.setattr(kombu.compression, table, getattr(kombu.compression, table).copy())
    saved = {name: value.copy() for name, value in vars(registry).items() if hasattr(value, "copy")}
    defaults = {name: value for name, value in vars(registry).items() if name.startswith("_default")}
    yield
    for name, value in saved.items():
        getattr(registry, name).clear()
        getattr(registry, name).update(value)
    vars(registry).update(defaults)


def skip(reason):
    """Skips a test, which CI forbids."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"would be skipped, which CI=true forbids: {reason}")
    pytest.skip(reason)


def command():
    """The path of the command `taskseal`: TASKSEAL_COMMAND, or where cargo puts it."""
    target = os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parents[2] / "target"
    path = Path(os.environ.get("TASKSEAL_COMMAND") or Path(target) / "debug" / "taskseal")
    return path if path.exists() else skip(f"{path} is not built: cargo build --package taskseal-cli")


def environment_of(name):
    """The Python of an environment that `scripts/test` makes."""
    target = os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parents[2] / "target"
    python = Path(target).absolute() / "venv" / name / "bin" / "python"
    return str(python) if python.exists() else skip(f"there is no {python}: ./scripts/test makes it")
