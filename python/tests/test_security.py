"""The drop-in for `celery.security`: its names, arguments and exceptions, its bytes, and what it refuses beyond it."""

import base64
import datetime
import importlib
import json
import os
import subprocess
import time

import celery.security.certificate
import celery.security.key
import celery.security.serialization
import kombu.compression
import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured, SecurityError
from conftest import DAY, PIN, identity, usage
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.x509.oid import ExtendedKeyUsageOID
from kombu.serialization import SerializerNotInstalled, dumps, loads, registry
from support.envelopes import repacked

import taskseal.celery
from taskseal.celery import (
    Certificate,
    CertStore,
    FSCertStore,
    PrivateKey,
    SecureSerializer,
    register_auth,
    setup_security,
)
from taskseal.celery.utils import get_digest_algorithm

VALUES = [None, True, 1, 1.5, "foo", "Ålice €", [], {}, [1, "foo", {"a": [None]}], {"foo": 1}, "x" * 100_000]


def ours(key, cert, trusted, **options):
    store = CertStore()
    for one in trusted:
        store.add_cert(Certificate(one.pem))
    return SecureSerializer(key and PrivateKey(key.key_pem), cert and Certificate(cert.pem), store, **options)


def theirs(key, cert, trusted, **options):
    store = celery.security.certificate.CertStore()
    for one in trusted:
        store.add_cert(celery.security.certificate.Certificate(one.pem))
    return celery.security.serialization.SecureSerializer(
        celery.security.key.PrivateKey(key.key_pem), celery.security.certificate.Certificate(cert.pem), store, **options
    )


def refused(serializer, wire, match):
    with pytest.raises(SecurityError, match=match) as raised:
        serializer.deserialize(wire)
    assert "BaseException" not in str(raised.value)


# --- Celery's own cases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["json", "yaml", "msgpack", "pickle"])
def test_what_is_serialized_is_deserialized(alice, inner):
    serializer = ours(alice, alice, [alice], serializer=inner)
    for value in VALUES:
        assert serializer.deserialize(serializer.serialize(value)) == value
    if inner in ("msgpack", "pickle"):
        assert serializer.deserialize(serializer.serialize({"foo": b"\x00\x01\xff"})) == {"foo": b"\x00\x01\xff"}


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512", "SHA256"])
@pytest.mark.parametrize("inner", ["json", "yaml", "pickle"])
def test_stock_celery_is_read_and_reads(alice, bob, digest, inner):
    mine = ours(alice, alice, [bob], digest=digest, serializer=inner)
    stock = theirs(bob, bob, [alice], digest=digest, serializer=inner)
    for value in VALUES:
        assert stock.deserialize(mine.serialize(value)) == value
        assert mine.deserialize(stock.serialize(value)) == value
    assert isinstance(mine.serialize(1), str)


def test_certificates_from_clocks_that_are_a_little_apart():
    second = datetime.timedelta(seconds=1)
    ahead = identity("ahead", start=40 * second)
    ended = identity("ended", end=-10 * second)
    for one, text in ((ahead, "not valid"), (ended, "expired|Expired")):
        wire = ours(one, one, [one]).serialize("foo")
        assert ours(None, None, [one]).deserialize(wire) == "foo"
        refused(ours(None, None, [one], clock_skew=5.0), wire, text)
        signature = taskseal.inspect_unverified(wire)["signature"]
        certificate = Certificate(one.pem)
        certificate.verify("\"foo\"", signature, "sha256")
        certificate.clock_skew = 5.0
        with pytest.raises(SecurityError, match=text):
            certificate.verify("\"foo\"", signature, "sha256")


def test_the_maximum_salt_is_there_for_old_readers(alice):
    serializer = ours(alice, alice, [alice], salt="max")
    opener = taskseal.Opener(taskseal.CertStore([alice.native]), taskseal.Policy(salts=["max"]))
    assert opener.open(serializer.serialize(1)).json() == 1


def test_separate_ends(alice, bob):
    first, second = ours(alice, alice, [bob]), ours(bob, bob, [alice])
    assert first.deserialize(second.serialize("foo")) == "foo"
    assert second.deserialize(first.serialize("foo")) == "foo"


def test_a_key_of_another_certificate(alice, bob):
    with pytest.raises(SecurityError, match="does not belong to the certificate"):
        ours(alice, bob, [alice, bob]).serialize("foo")


def test_an_unknown_source(alice, bob):
    refused(ours(None, None, [bob]), ours(alice, alice, []).serialize("foo"), "alice 7.* is unknown")


def test_bad_data(alice):
    serializer = ours(alice, alice, [alice])
    for data in ("bad data", b"", "", None, 1, [], {}, {"a": 1}, object(), b"\xff" * 1000, "A" * 4):
        refused(serializer, data, "Unable to deserialize")
    with pytest.raises(SecurityError, match="Unable to serialize"):
        serializer.serialize(object())


def test_without_a_key_or_store(alice):
    with pytest.raises(AssertionError):
        SecureSerializer().serialize(1)
    with pytest.raises(AssertionError):
        SecureSerializer().deserialize("x")


def test_register_auth(alice, tmp_path):
    register_auth(alice.key_pem, None, alice.pem, "")
    assert "application/data" in registry._decoders
    (tmp_path / "alice.pem").write_text(alice.pem)
    register_auth(alice.key_pem, None, alice.pem, str(tmp_path))
    content_type, encoding, body = dumps({"a": 1}, "auth")
    assert (content_type, encoding) == ("application/data", "utf-8")
    assert loads(body, content_type, encoding, accept={"application/data"}) == {"a": 1}
    protected = alice.private(BestAvailableEncryption(b"s3cret"))
    register_auth(protected, "s3cret", alice.pem, str(tmp_path / "*.pem"), "sha512", "yaml")
    assert loads(*(dumps({"a": 1}, "auth")[at] for at in (2, 0, 1))) == {"a": 1}


@pytest.mark.parametrize("key", [None, "", "foo", b"\xff", "pkcs11:x", "-----BEGIN PRIVATE KEY-----"])
def test_bad_keys(key):
    with pytest.raises((SecurityError, TypeError)):
        PrivateKey(key)


def test_other_bad_keys(alice):
    for key in (alice.pem, alice.key_pem[:100], identity("small", bits=1024).key_pem):
        with pytest.raises(SecurityError, match="Invalid private key"):
            PrivateKey(key)
    protected = alice.private(BestAvailableEncryption(b"s3cret"))
    for key, password in ((protected, None), (protected, ""), (protected, "wr0ng"), (alice.key_pem, "s3cret")):
        with pytest.raises(SecurityError) as raised:
            PrivateKey(key, password)
        assert "wr0ng" not in str(raised.value) and "s3cret" not in str(raised.value)
    assert PrivateKey(protected, b"s3cret") and PrivateKey(alice.key_pem.encode())


def test_a_key_signs_what_its_certificate_verifies(alice, bob):
    key, cert = PrivateKey(alice.key_pem), Certificate(alice.pem)
    for digest in (get_digest_algorithm(), "sha384", hashes.SHA512()):
        signature = key.sign("tëst", digest)
        cert.verify("tëst", signature, digest)
        cert.verify("tëst".encode(), signature, digest)
        for data, by in (("test", cert), ("tëst", Certificate(bob.pem))):
            with pytest.raises(SecurityError, match="Bad signature"):
                by.verify(data, signature, digest)
    with pytest.raises(AttributeError):
        key.sign("test", get_digest_algorithm("unknown"))


def test_digests():
    assert get_digest_algorithm("SHA512").name == get_digest_algorithm("sha512") == "sha512"
    with pytest.raises(AssertionError):
        get_digest_algorithm(None)
    for unknown in ("", "sha-256", "unknown"):
        with pytest.raises(AttributeError):
            get_digest_algorithm(unknown)
    for weak in ("md5", "SHA1", "sm3"):
        with pytest.raises(SecurityError):
            get_digest_algorithm(weak)


def test_certificates(alice):
    cert, stock = Certificate(alice.pem), celery.security.certificate.Certificate(alice.pem)
    for method in ("get_id", "get_issuer", "get_serial_number", "has_expired"):
        assert getattr(cert, method)() == getattr(stock, method)()
    assert cert.get_pubkey().public_numbers() == stock.get_pubkey().public_numbers()
    for wrong in (None, "", "foo", alice.key_pem, alice.pem[:200], b"\xff"):
        with pytest.raises(SecurityError, match="Invalid certificate"):
            Certificate(wrong)


def test_stores(alice, bob):
    store = CertStore()
    store.add_cert(Certificate(alice.pem))
    assert [cert.get_id() for cert in store.itercerts()] == ["alice 7"]
    assert store["alice 7"].get_id() == store[b"alice 7"].get_id() == "alice 7"
    for unknown in ("nobody 1", b"\xff", ""):
        with pytest.raises(SecurityError, match="Unknown certificate"):
            store[unknown]
    with pytest.raises(SecurityError, match="Duplicate certificate: 'alice 7'"):
        store.add_cert(Certificate(alice.pem))
    store.add_cert(Certificate(bob.pem))


def test_stores_of_files(alice, bob, tmp_path):
    for empty in (tmp_path, tmp_path / "none", tmp_path / "*.pem"):
        with pytest.raises(SecurityError):
            FSCertStore(str(empty))
    (tmp_path / "alice.pem").write_text(alice.pem)
    for path in (tmp_path, tmp_path / "alice.pem", tmp_path / "*.pem"):
        assert [cert.get_id() for cert in FSCertStore(str(path)).itercerts()] == ["alice 7"]
    expired = identity("old", start=-2 * DAY, end=-DAY)
    other = identity("alice", nth="another")
    for bad in (expired.pem, "no certificate", other.pem, identity("small", bits=1024).pem):
        (tmp_path / "bad.pem").write_text(bad)
        with pytest.raises(SecurityError):
            FSCertStore(str(tmp_path))
    # A copy is no second one.
    (tmp_path / "bad.pem").write_text(alice.pem)
    assert [cert.get_id() for cert in FSCertStore(str(tmp_path)).itercerts()] == ["alice 7"]


def test_keys_and_certificates_as_editors_and_tools_leave_them(alice, bob):
    """A byte order mark, indentation, everything on one line; a certificate with its chain is the first one."""
    def one_line(pem):
        first, *body, last = pem.strip().split("\n")
        return first + "".join(body) + last

    def indented(pem):
        return "".join(f"    {line}\n" for line in pem.split("\n"))

    for change in ("\ufeff{}".format, one_line, indented, str.strip, lambda pem: pem.replace("\n", "\r\n")):
        key, cert = PrivateKey(change(alice.key_pem)), Certificate(change(alice.pem))
        wire = SecureSerializer(key, cert, CertStore()).serialize("foo")
        assert ours(None, None, [alice]).deserialize(wire) == "foo"
    assert Certificate(alice.pem.strip() + bob.pem) == Certificate(alice.pem)
    with pytest.raises(SecurityError, match="BEGIN or END line"):
        Certificate(alice.pem.replace("-----BEGIN", "--BEGIN") + bob.pem)


def test_a_store_of_files_says_when_it_cannot_tell(alice, bob, tmp_path):
    """The error at the root says that the message is not to be lost."""
    (tmp_path / "alice.pem").write_text(alice.pem)
    (tmp_path / "bob.pem").write_text(bob.pem)
    store = FSCertStore(str(tmp_path), reload_interval=0, reload_grace=0)
    serializer = SecureSerializer(None, None, store)
    wire = ours(bob, bob, []).serialize("foo")
    assert serializer.deserialize(wire) == "foo"
    (tmp_path / "bob.pem").write_text("")
    for ask in (lambda: serializer.deserialize(wire), lambda: store["bob 7"]):
        with pytest.raises(SecurityError, match="bob.pem") as raised:
            ask()
        assert (raised.value.__cause__.error_class, raised.value.__cause__.reason) == ("transient", "store")
    (tmp_path / "bob.pem").write_text(bob.pem)
    assert serializer.deserialize(wire) == "foo"


def test_certificates_are_equal_byte_for_byte(alice, bob):
    one, same, other = Certificate(alice.pem), Certificate(alice.pem.encode()), Certificate(bob.pem)
    assert one == same and hash(one) == hash(same) and one != other and one != alice.pem and one is not None
    assert other != Certificate(identity("bob", nth="alice").pem)  # the same name and number, another key
    store = CertStore()
    store.add_cert(one)
    store.add_cert(other)
    assert all(cert in (same, other) for cert in store.itercerts()) and len(set(store.itercerts()) | {same}) == 2


def test_names_of_celerys_modules_are_here():
    """Those that Celery's own unit tests use."""
    for module, names in {
        "": ["setup_security", "disable_untrusted_serializers", "register_auth", "registry", "_disable_insecure_serializers"],
        "certificate": ["Certificate", "CertStore", "FSCertStore"],
        "key": ["PrivateKey"],
        "serialization": ["DEFAULT_SEPARATOR", "SecureSerializer", "register_auth"],
        "utils": ["get_digest_algorithm", "reraise_errors"],
    }.items():
        here, theirs = (importlib.import_module(f"{package}{module and '.' + module}")
                        for package in ("taskseal.celery", "celery.security"))  # fmt: skip
        assert all(hasattr(here, name) and hasattr(theirs, name) for name in names), module
    assert taskseal.celery.serialization.DEFAULT_SEPARATOR == celery.security.serialization.DEFAULT_SEPARATOR


def test_a_store_that_looks_certificates_up_itself(alice, bob):
    class Database(CertStore):
        def __getitem__(self, id):
            if id == "alice 7":
                return Certificate(alice.pem)
            raise SecurityError(f"Unknown certificate: {id!r}")

    serializer = SecureSerializer(cert_store=Database())
    sealed = ours(alice, alice, []).serialize("foo")
    assert serializer.deserialize(sealed) == "foo"
    refused(serializer, ours(bob, bob, []).serialize("foo"), "Unknown certificate")
    refused(serializer, repacked(sealed, body=b'"bar"'), "does not verify")
    refused(serializer, "garbage", "malformed")


# --- setup_security ----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(alice, tmp_path):
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "alice.pem").write_text(alice.pem)
    (tmp_path / "key.pem").write_text(alice.key_pem)
    return tmp_path


def application(files, **settings):
    app = Celery("tests", set_as_current=False)
    app.conf.update(
        {
            "security_key": str(files / "key.pem"),
            "security_certificate": str(files / "trusted" / "alice.pem"),
            "security_cert_store": str(files / "trusted"),
            "security_digest": "sha256",
            "task_serializer": "auth",
            "accept_content": ["auth"],
            **settings,
        }
    )
    return app


def message(body):
    content_type, encoding, wire = dumps(body, "auth")
    return loads(wire, content_type, encoding, accept={"application/data"})


def test_setup_security_from_settings(files):
    setup_security(app=application(files))
    assert message([1, {}, {}]) == [1, {}, {}]
    assert registry._default_content_type == "application/data"
    with pytest.raises(Exception, match="Refusing to deserialize disabled content"):
        loads(b"x", "application/x-python-serialize", "binary")


def test_setup_security_from_arguments(files, alice):
    app = application(files, security_key=None, security_certificate=None, security_cert_store=None)
    protected = files / "protected.pem"
    protected.write_text(alice.private(BestAvailableEncryption(b"s3cret")))
    setup_security(None, str(protected), "s3cret", str(files / "trusted" / "alice.pem"), str(files / "trusted"),
                   "sha384", "json", app)  # fmt: skip
    assert message("x") == "x"
    setup_security(key=str(protected), key_password="s3cret", cert=str(files / "trusted" / "alice.pem"),
                   store=str(files / "trusted"), digest="sha384", serializer="yaml", app=app)  # fmt: skip
    assert message("x") == "x"


def test_setup_security_with_a_key_on_a_token(files, token):
    setup_security(app=application(files, security_key=token.uri))
    assert message([1, {}, {}]) == [1, {}, {}]
    setup_security(app=application(files, security_key=token.uri_without_pin, security_key_password=PIN))
    assert message([2, {}, {}]) == [2, {}, {}]


@pytest.mark.parametrize(
    "settings",
    [
        {"task_serializer": "json"},
        {"accept_content": ["auth", "json"]},
        {"accept_content": ["json"]},
        {"security_key": None},
        {"security_certificate": None},
        {"security_cert_store": None},
    ],
)
def test_settings_that_setup_security_refuses(files, settings):
    with pytest.raises(ImproperlyConfigured):
        setup_security(app=application(files, **settings))


@pytest.mark.parametrize(
    "change",
    [
        {"accept_content": ["auth", "json"]},
        {"accept_content": ["auth", "pickle"]},
        {"accept_content": ["json"]},
        {"accept_content": None},
        {"task_serializer": "json"},
    ],
)
def test_settings_that_are_changed_after_setup_security(files, change):
    app = application(files, broker_url="memory://")
    setup_security(app=app)
    setup_security(app=app)
    with app.connection_for_read() as connection:
        assert app.amqp.TaskConsumer(connection).accept == {"application/data"}
        assert app.amqp.TaskConsumer(connection, accept=["auth"]).accept == {"application/data"}
        with pytest.raises(ImproperlyConfigured, match="accept only tasks"):
            app.amqp.TaskConsumer(connection, accept=["auth", "json"])
        app.conf.update(change)
        with pytest.raises(ImproperlyConfigured, match="accept only tasks"):
            app.amqp.TaskConsumer(connection)


def test_results_that_are_accepted_unsigned_are_said(files, caplog):
    setup_security(app=application(files, result_serializer="auth"))
    assert not caplog.text
    setup_security(app=application(files, result_accept_content=["json"]))
    assert "result_accept_content" in caplog.text


def test_results_that_nobody_signed_are_refused(files):
    app = application(files, result_serializer="auth", result_backend="cache+memory://")
    setup_security(app=app)
    backend = app.backend
    backend.store_result("one", 1, "SUCCESS")
    assert backend.get_result("one") == 1
    backend.set(backend.get_key_for_task("two"), b'{"status": "SUCCESS", "result": 2, "task_id": "two"}')
    with pytest.raises(Exception, match="Unable to deserialize"):
        backend.get_state("two")


def test_kombu_decompresses_with_a_limit(files):
    setup_security(app=application(files), max_body_len=1000)
    for method in ("gzip", "zlib", "bzip2", "lzma", "xz", "application/x-gzip"):
        for length in (0, 1, 1000):
            body, content_type = kombu.compression.compress(b"x" * length, method)
            assert kombu.compression.decompress(body, content_type) == b"x" * length
        body, content_type = kombu.compression.compress(b"x" * 1001, method)
        with pytest.raises(SecurityError, match="longer than 1000 bytes"):
            kombu.compression.decompress(body, content_type)
        for damaged in (body[:-1], body + b"x", b"", b"x"):
            with pytest.raises(SecurityError, match="Refusing a compressed body"):
                kombu.compression.decompress(damaged, content_type)


def test_limits_that_are_none(files):
    for limit in (0, -1, -1001):
        with pytest.raises(ValueError, match="makes no sense"):
            setup_security(app=application(files), max_body_len=limit)


def test_methods_without_a_limit_decompress_nothing(files):
    kombu.compression.register(bytes, bytes, "application/x-endless", aliases=["endless"])
    setup_security(app=application(files))
    with pytest.raises(SecurityError, match="is not accepted"):
        kombu.compression.decompress(b"x", "endless")


def test_other_things_that_setup_security_refuses(files):
    for settings, error in (
        ({"security_digest": "md5"}, SecurityError),
        ({"security_digest": "unknown"}, AttributeError),
        ({"security_key": "pkcs11:nonsense"}, SecurityError),
        ({"security_key": str(files / "none")}, FileNotFoundError),
        ({"security_cert_store": str(files / "none")}, SecurityError),
    ):
        with pytest.raises(error):
            setup_security(app=application(files, **settings))
    with pytest.raises(SecurityError, match="No decoder installed"):
        setup_security(app=application(files), serializer="application/data-of-ours")
    with pytest.raises(SecurityError, match="not signed again"):
        setup_security(app=application(files), serializer="auth")


# --- What is refused beyond Celery -------------------------------------------------------------------------------------


def test_inner_content_types_are_on_a_list(alice):
    serializer = ours(alice, alice, [alice])
    sealed = serializer.serialize([1])
    for content_type in ("application/x-yaml", "application/x-python-serialize", "application/data",
                         "application/text", "text/plain", "a/b"):  # fmt: skip
        refused(serializer, repacked(sealed, content_type=content_type), "content type")
    refused(serializer, repacked(sealed, content_type=""), "empty")
    for encoding in ("utf-16", "rot13", "base64", "hex"):
        refused(serializer, repacked(sealed, content_encoding=encoding), "content encoding")
    wider = ours(alice, alice, [alice], accept=["yaml"])
    assert wider.deserialize(ours(alice, alice, [], serializer="yaml").serialize([1])) == [1]
    refused(wider, ours(alice, alice, [], serializer="pickle").serialize([1]), "x-python-serialize")


def test_content_that_is_not_sealed_is_refused(files):
    setup_security(app=application(files))
    for content_type in ("application/data", "application/text", None, ""):
        for body in ("text", b"bytes", [[], {}, {}], {"args": []}, 7, "é"):
            for encoding in ("utf-8", "binary", None):
                with pytest.raises(Exception, match="Unable to deserialize|Refusing content|is wanted"):
                    loads(body, content_type, encoding, accept={"application/data"})
    for content_type in ("application/json", "application/x-yaml", "text/plain", "a/b"):
        with pytest.raises(Exception, match="Refusing to deserialize untrusted content"):
            loads(b"{}", content_type, "utf-8", accept={"application/data"})


def test_certificates_that_do_not_count(alice):
    for one, match in (
        (identity("alice", start=-2 * DAY, end=-DAY), "expired at"),
        (identity("alice", start=DAY, end=2 * DAY), "not valid before"),
    ):
        sealed = ours(one, one, []).serialize("foo")
        refused(ours(None, None, [one]), sealed, match)
        with pytest.raises(SecurityError, match="[Ee]xpired|not valid yet"):
            Certificate(one.pem).verify("x", PrivateKey(one.key_pem).sign("x", "sha256"), "sha256")
    with pytest.raises(SecurityError, match="1024 bits"):
        Certificate(identity("small", bits=1024).pem)
    for extension in (usage(key_cert_sign=True), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])):
        one = identity("alice", extensions=[(extension, True)])
        refused(ours(None, None, [one]), ours(one, one, []).serialize("foo"), "not for signing")
        with pytest.raises(SecurityError, match="not for signing"):
            Certificate(one.pem).verify("x", PrivateKey(one.key_pem).sign("x", "sha256"), "sha256")


def test_keys_for_pss_alone(tmp_path):
    """As `openssl genpkey -algorithm RSA-PSS` makes them, with the digest of their parameters and no other."""
    for digest, other, options in (
        ("sha256", None, []),
        ("sha512", "sha256", ["-pkeyopt", "rsa_pss_keygen_md:sha512", "-pkeyopt", "rsa_pss_keygen_mgf1_md:sha512"]),
    ):
        key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
        make = ["openssl", "genpkey", "-quiet", "-algorithm", "RSA-PSS", *options, "-out", str(key)]
        subprocess.run(make, check=True)
        certify = ["openssl", "req", "-x509", "-key", str(key), "-subj", "/CN=pss", "-days", "1", "-set_serial", "7"]
        mask = ["-sigopt", f"rsa_mgf1_md:{digest}"] if options else []
        subprocess.run([*certify, *mask, "-out", str(cert)], check=True)
        one, certificate = PrivateKey(key.read_text()), Certificate(cert.read_text())
        trusted = CertStore()
        trusted.add_cert(certificate)
        mine = SecureSerializer(one, certificate, trusted, digest)
        assert mine.deserialize(mine.serialize(["foo"])) == ["foo"]
        stock = celery.security.certificate.CertStore()
        stock.add_cert(celery.security.certificate.Certificate(cert.read_text()))
        stock = celery.security.serialization.SecureSerializer(cert_store=stock, digest=digest)
        assert stock.deserialize(mine.serialize(["foo"])) == ["foo"]
        if other:
            with pytest.raises(SecurityError, match="restricted to RSA-PSS sha512"):
                SecureSerializer(one, certificate, trusted, other).serialize("foo")


def test_critical_extensions_that_nobody_understands(alice, files, caplog):
    oid = "1.3.6.1.4.1.99999.1"
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x05\x00")
    one = identity("odd", extensions=[(unknown, True)])
    assert one.native.refused_extensions == [oid] and not one.native.is_authority
    sealed = ours(one, one, []).serialize("foo")
    refused(ours(None, None, [one]), sealed, f"{oid}, which is critical and not understood")
    with pytest.raises(SecurityError, match="not understood"):
        Certificate(one.pem).verify("x", PrivateKey(one.key_pem).sign("x", "sha256"), "sha256")
    assert ours(None, None, [one], dangerous_ignore_critical=[oid]).deserialize(sealed) == "foo"
    for wrong in (["2.5.29.15"], ["no oid"], oid):
        with pytest.raises(SecurityError, match="cannot be ignored"):
            ours(None, None, [one], dangerous_ignore_critical=wrong)
    # It stops no worker: the others of the store are as good as before.
    (files / "trusted" / "odd.pem").write_text(one.pem)
    setup_security(app=application(files))
    assert "'odd 7' will be refused" in caplog.text and oid in caplog.text
    caplog.clear()
    setup_security(app=application(files), dangerous_ignore_critical=[oid])
    assert caplog.text == ""


def test_another_digest_is_refused(alice):
    refused(ours(None, None, [alice], digest="sha512"), ours(alice, alice, []).serialize("foo"), "does not verify")


def test_changes_are_refused(alice, bob):
    serializer = ours(alice, alice, [alice, bob])
    sealed = serializer.serialize({"foo": 1})
    assert serializer.deserialize(repacked(sealed)) == {"foo": 1}
    for changed, match in (
        ({"body": b'{"foo": 2}'}, "does not verify"),
        ({"signature": b"\x00" * 256}, "does not verify"),
        ({"signature": b""}, "empty"),
        ({"signature": b"\x00" * 255}, "does not verify"),
        ({"signer": "bob 7"}, "does not verify"),
        ({"signer": "nobody 7"}, "unknown"),
        ({"signer": b"\xff"}, "UTF-8"),
    ):
        refused(serializer, repacked(sealed, **changed), match)
    raw = base64.b64decode(sealed)
    for wire in (sealed + "\n", sealed[:-1], sealed + "=", " " + sealed, base64.urlsafe_b64encode(raw + b"\xff\xfe")):
        with pytest.raises(SecurityError):
            serializer.deserialize(wire)


def test_a_changed_store_is_picked_up(files, alice, bob):
    register_auth(alice.key_pem, None, alice.pem, str(files / "trusted"), reload_interval=0)
    from_bob = ours(bob, bob, []).serialize("foo")
    load = lambda wire: loads(wire, "application/data", "utf-8", accept={"application/data"})  # noqa: E731
    with pytest.raises(Exception, match="bob 7.* is unknown"):
        load(from_bob)
    (files / "trusted" / "bob.pem").write_text(bob.pem)
    assert load(from_bob) == "foo"
    os.remove(files / "trusted" / "bob.pem")
    # He is not trusted any more. The file may be about to be written again, so for five seconds he is not unknown either.
    with pytest.raises(Exception, match="bob.pem has just been changed or removed"):
        load(from_bob)
    start = time.monotonic()
    slow = FSCertStore(str(files / "trusted"), reload_interval=0.3)
    (files / "trusted" / "bob.pem").write_text(bob.pem)
    while len(list(slow.itercerts())) == 1:
        assert time.monotonic() - start < 10
        time.sleep(0.02)


def test_a_body_is_what_was_signed(alice):
    """JSON that only Python reads goes both ways, as in stock Celery."""
    serializer = ours(alice, alice, [alice])
    assert serializer.deserialize(serializer.serialize(float("inf"))) == float("inf")
    assert json.loads(taskseal.inspect_unverified(serializer.serialize({"ä": 1}))["body"]) == {"ä": 1}


def test_serializer_not_installed(alice):
    with pytest.raises(SecurityError, match=SerializerNotInstalled.__name__):
        ours(alice, alice, [alice], serializer="none")
