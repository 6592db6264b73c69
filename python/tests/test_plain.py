"""The plain Python API: seal, open, keys in memory and on tokens."""

import json
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from conftest import DAY, PIN, command, identity
from cryptography import x509
from cryptography.fernet import Fernet as TheirFernet
from cryptography.fernet import MultiFernet as TheirMultiFernet
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from support.servers import wait_for

import taskseal
from taskseal.errors import (
    CertificateError,
    ConfigurationError,
    FernetError,
    KeyError,
    OpenError,
    SealError,
    SignError,
    StoreError,
)

VALUE = [["Ålice", 1.5, None], {"key": "välue"}, {}]


def opener(*identities, **policy):
    return taskseal.Opener(taskseal.CertStore([one.native for one in identities]), taskseal.Policy(**policy))


def not_told(open_it):
    """The reason of an error that says nothing about the message."""
    with pytest.raises(OpenError) as raised:
        open_it()
    assert raised.value.error_class == "transient" and raised.value.is_retryable
    return raised.value.reason


def refused(open_it):
    with pytest.raises(OpenError) as raised:
        open_it()
    assert raised.value.error_class == "rejected" and not raised.value.is_retryable
    assert str(raised.value)
    return raised.value.reason


@pytest.mark.parametrize("format", ["celery", "celery-raw", "celery-5.4"])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "SHA512"])
@pytest.mark.parametrize("salt", ["digest", "max"])
def test_what_is_sealed_is_opened(alice, format, digest, salt):
    sealed = taskseal.Sealer(alice.signer(digest=digest, salt=salt), format=format).seal(VALUE)
    assert type(sealed) is (bytes if format == "celery-raw" else str)
    opened = opener(alice, digest=digest, formats=[format]).open(sealed)
    assert opened.json() == VALUE
    assert (opened.format, opened.digest, opened.salt) == (format, digest.lower(), salt)
    assert opened.signer == alice.native and opened.signer.id == "alice 7"
    assert (opened.content_type, opened.content_encoding) == ("application/json", "utf-8")
    assert json.loads(opened.body) == VALUE


def test_bytes_of_any_kind_are_taken(alice):
    sealer = taskseal.Sealer(alice.signer(), content_type="application/x-msgpack", content_encoding="binary")
    for body in (b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")):
        sealed = sealer.seal_bytes(body)
        for wire in (sealed, sealed.encode(), bytearray(sealed.encode()), memoryview(sealed.encode())):
            assert opener(alice, content_types=["application/x-msgpack"]).open(wire).body == b"\x00\xff"
    for other in (None, 1, [b"x"], object()):
        with pytest.raises(TypeError):
            sealer.seal_bytes(other)
        with pytest.raises(TypeError):
            opener(alice).open(other)


def test_refusals_have_a_reason(alice, bob):
    sealer = taskseal.Sealer(alice.signer())
    sealed = sealer.seal(VALUE)
    ours = opener(alice)
    assert refused(lambda: ours.open(sealed[:-8])) in ("malformed", "bad-signature")
    assert refused(lambda: ours.open("not an envelope")) == "malformed"
    assert refused(lambda: ours.open(b"")) == "malformed"
    assert refused(lambda: opener(bob).open(sealed)) == "unknown-signer"
    assert refused(lambda: opener(identity("alice", nth="another")).open(sealed)) == "bad-signature"
    assert refused(lambda: opener(alice, digest="sha512").open(sealed)) == "bad-signature"
    assert refused(lambda: opener(alice, salts=["max"]).open(sealed)) == "bad-signature"
    assert refused(lambda: opener(alice, max_message_len=100).open(sealed)) == "too-large"
    assert refused(lambda: opener(alice, content_types=["a/b"]).open(sealed)) == "content-type"
    assert refused(lambda: ours.open_message("application/json", sealed)) == "not-sealed"
    assert ours.open_message("application/data", sealed).json() == VALUE
    assert refused(lambda: ours.open(sealed, at=time.time() + 2 * DAY.total_seconds())) == "expired"
    assert refused(lambda: ours.open(sealed, at=time.time() - 2 * DAY.total_seconds())) == "not-yet-valid"


def test_arguments_that_make_no_sense(alice):
    for wrong in (
        lambda: alice.signer(digest="md5"),
        lambda: alice.signer(salt="20"),
        lambda: taskseal.Sealer(alice.signer(), format="celery-9"),
        lambda: taskseal.Policy(salts=[]),
        lambda: taskseal.Policy(clock_skew=-1),
        lambda: taskseal.Policy(clock_skew=float("nan")),
        lambda: opener(alice).open("x", at=float("inf")),
        lambda: taskseal.CertStore.open("/", expired="maybe"),
        lambda: taskseal.CertStore().reload(),
        lambda: taskseal.MultiFernet([]),
    ):
        with pytest.raises(ConfigurationError):
            wrong()
    sealer = taskseal.Sealer(alice.signer())
    for value in (float("nan"), {"a": object()}):
        with pytest.raises(SealError):
            sealer.seal(value)
    with pytest.raises(SealError):
        taskseal.Sealer(alice.signer(), content_type="a/b").seal([])


def test_keys_in_memory(alice, bob):
    protected = alice.private(BestAvailableEncryption(b"s3cret"))
    signer = taskseal.Signer.from_software_pem(protected, alice.native, password="s3cret")
    assert alice.native.verifies(b"message", signer.sign(b"message"))
    assert not signer.is_token and "in memory" in repr(signer)
    for key, certificate, password, kind in (
        (protected, alice, None, KeyError),
        (protected, alice, "wr0ng", KeyError),
        (alice.key_pem, alice, "s3cret", KeyError),
        (alice.key_pem, bob, None, SignError),
        (alice.pem, alice, None, KeyError),
        ("", alice, None, KeyError),
        (identity("small", bits=1024).key_pem, alice, None, KeyError),
    ):
        with pytest.raises(kind) as raised:
            taskseal.Signer.from_software_pem(key, certificate.native, password=password)
        assert "wr0ng" not in str(raised.value)


def test_certificates(alice):
    certificate = alice.native
    assert (certificate.id, certificate.issuer, certificate.serial_number) == ("alice 7", "alice", 7)
    assert (certificate.subject, certificate.key_bits) == ("CN=alice", 2048)
    assert certificate.not_before < time.time() < certificate.not_after
    assert not certificate.has_expired() and certificate.has_expired(certificate.not_after)
    assert certificate.is_not_yet_valid(certificate.not_before - 1)
    assert taskseal.Certificate(certificate.der()) == taskseal.Certificate(certificate.to_pem().encode()) == certificate
    assert len({certificate, taskseal.Certificate(alice.pem)}) == 1
    assert identity("large", serial=2**159 - 1).native.serial_number == 2**159 - 1
    for wrong in ("", b"\x30\x82", alice.key_pem):
        with pytest.raises(CertificateError):
            taskseal.Certificate(wrong)


def test_a_store_in_memory(alice, bob):
    store = taskseal.CertStore([alice.native])
    assert len(store) == 1 and "alice 7" in store and store.get("bob 7") is None
    store.add(alice.native)  # the same one is one
    with pytest.raises(StoreError, match="two certificates"):
        store.add(identity("alice", nth="another").native)
    store.add(bob.native)
    assert [one.id for one in store.certificates()] == ["alice 7", "bob 7"]
    assert store.remove("alice 7") and not store.remove("alice 7")
    sealed = taskseal.Sealer(alice.signer()).seal(VALUE)
    ours = taskseal.Opener(store)
    assert refused(lambda: ours.open(sealed)) == "unknown-signer"
    store.add(alice.native)
    assert ours.open(sealed).json() == VALUE


def test_a_directory_is_read_again_when_it_changes(alice, bob, tmp_path, caplog):
    (tmp_path / "alice.pem").write_text(alice.pem)
    store = taskseal.CertStore.open(tmp_path, reload_interval=0)
    kept = taskseal.CertStore.open(tmp_path, reload_interval=None)
    ours = taskseal.Opener(store)
    sealed = {one.native.id: taskseal.Sealer(one.signer()).seal(VALUE) for one in (alice, bob)}
    assert refused(lambda: ours.open(sealed["bob 7"])) == "unknown-signer"
    (tmp_path / "bob.pem").write_text(bob.pem)
    assert ours.open(sealed["bob 7"]).json() == VALUE
    (tmp_path / "alice.pem").unlink()
    # Not trusted any more, and unknown as soon as it can no longer be about to be written again.
    assert not_told(lambda: ours.open(sealed["alice 7"])) == "store" and "just been changed" in store.unsettled
    wait_for(lambda: store.unsettled is None, 20)
    assert refused(lambda: ours.open(sealed["alice 7"])) == "unknown-signer"
    # What is no certificate is left out, and keeps nobody else out. Whether others are unknown cannot be told.
    (tmp_path / "broken.pem").write_text("no certificate")
    (tmp_path / "copy.pem").write_text(bob.pem)
    assert not_told(lambda: ours.open(sealed["alice 7"])) == "store"
    assert "broken.pem" in caplog.text and "broken.pem" in store.unsettled
    assert ours.open(sealed["bob 7"]).json() == VALUE
    (tmp_path / "copy.pem").write_text(identity("bob", nth="another").pem)
    assert not_told(lambda: ours.open(sealed["bob 7"])) == "store"
    assert "bob 7" in caplog.text
    (tmp_path / "copy.pem").unlink()
    assert ours.open(sealed["bob 7"]).json() == VALUE
    with pytest.raises(StoreError, match="broken.pem"):
        store.reload()
    assert [one.id for one in kept.certificates()] == ["alice 7"]
    for file in tmp_path.iterdir():
        file.unlink()
    assert not_told(lambda: ours.open(sealed["bob 7"])) == "store"
    tmp_path.rmdir()
    assert len(store) == 0 and "does not exist" in store.unsettled


def test_a_signer_whose_certificate_came_just_now_is_known(alice, bob, tmp_path):
    """Long before the next look is due. Whoever is not there is looked for once a second."""
    (tmp_path / "alice.pem").write_text(alice.pem)
    signed = taskseal.Opener(taskseal.CertStore.open(tmp_path, reload_interval=3600))
    whole = taskseal.MessageOpener(taskseal.CertStore.open(tmp_path, reload_interval=3600))
    time.sleep(1.1)
    (tmp_path / "bob.pem").write_text(bob.pem)
    assert signed.open(taskseal.Sealer(bob.signer()).seal(VALUE)).json() == VALUE
    message = json.dumps({"body": "", "headers": {}, "properties": {}})
    sealed = taskseal.MessageSealer(bob.signer()).seal(message)
    assert whole.open(sealed).payload == message.encode()


def test_a_file_that_cannot_be_read_keeps_what_it_gave_for_a_time(alice, bob, tmp_path):
    (tmp_path / "alice.pem").write_text(alice.pem)
    (tmp_path / "bob.pem").write_text(bob.pem)
    store = taskseal.CertStore.open(tmp_path, reload_interval=0, grace=3600)
    strict = taskseal.CertStore.open(tmp_path, reload_interval=0, grace=0)
    (tmp_path / "alice.pem").write_text(alice.pem[:500])
    assert "alice 7" in store and "alice 7" not in strict
    assert "alice.pem, line 1: " in store.unsettled and "alice.pem" in strict.unsettled
    (tmp_path / "alice.pem").write_text(alice.pem)
    for one in (store, strict):
        assert "alice 7" in one and one.unsettled is None


def test_a_store_in_a_process_without_file_descriptors(alice, bob, tmp_path):
    """All of it counts on, what comes meanwhile counts afterwards, and nobody is taken for unknown."""
    (tmp_path / "alice.pem").write_text(alice.pem)
    (tmp_path / "bob.pem").write_text(bob.pem)
    program = """
        import os, resource, sys, taskseal
        alice, bob = os.path.join(sys.argv[1], "alice.pem"), os.path.join(sys.argv[1], "bob.pem")
        text = open(bob).read()
        for path in (sys.argv[1], os.path.join(sys.argv[1], "*.pem")):
            open(bob, "w").write(text)
            store = taskseal.CertStore.open(path, reload_interval=0)
            os.remove(bob)
            open(alice, "a").write("\\n")
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            held = []
            try:
                while True:
                    held.append(os.dup(0))
            except OSError:
                pass
            assert len(store) >= 1 and "alice 7" in store, store
            assert "open files" in store.unsettled, store.unsettled
            for one in held:
                os.close(one)
            assert [one.id for one in store.certificates()] == ["alice 7"], store
            assert "bob.pem has just been changed or removed" in store.unsettled, store.unsettled
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program), tmp_path], capture_output=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_a_file_is_a_leaf_and_its_chain(alice, tmp_path):
    authority = x509.BasicConstraints(ca=True, path_length=None)
    root = identity("root", extensions=[(authority, True)])
    leaf = identity("leaf", by=root, serial=8)
    (tmp_path / "leaf.pem").write_text(leaf.pem + root.pem)
    (tmp_path / "alice.pem").write_text(alice.pem)
    store = taskseal.CertStore.open(tmp_path)
    assert [one.subject for one in store.certificates()] == ["CN=alice", "CN=leaf"]
    sealed = taskseal.Sealer(root.signer()).seal(VALUE)
    assert refused(lambda: taskseal.Opener(store).open(sealed)) == "unknown-signer"


def test_a_handler_of_logging_may_ask_the_store(alice, tmp_path):
    """While the store logs, no lock of it is held: other threads may come then, with the GIL."""
    (tmp_path / "alice.pem").write_text(alice.pem)
    program = """
        import logging, sys, taskseal
        store = taskseal.CertStore.open(sys.argv[1], reload_interval=0)
        seen = []
        class Handler(logging.Handler):
            def emit(self, record):
                seen.append(len(store))
        logging.basicConfig(level=logging.INFO, handlers=[Handler()])
        store.reload()
        assert seen == [1], seen
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), tmp_path], check=True, timeout=30)


def test_a_key_on_a_token(token):
    signer = taskseal.Signer.from_uri(token.uri, token.identity.native)
    assert signer.is_token and PIN not in repr(signer)
    sealed = taskseal.Sealer(signer).seal(VALUE)
    assert opener(token.identity).open(sealed).json() == VALUE
    key = taskseal.PrivateKey.from_uri(token.uri)
    for digest in ("sha256", "sha512", "sha256"):
        assert token.identity.native.verifies(b"message", key.sign(b"message", digest), digest)


def test_a_token_is_opened_by_the_first_signature(token, bob):
    asked = []

    def pin():
        asked.append(threading.current_thread())
        return PIN

    signer = taskseal.Signer.from_uri(token.uri_without_pin, token.identity.native, pin=pin)
    assert signer.certificate == token.identity.native and not asked
    signer.open()
    signer.sign(b"message")
    # The process may be logged in by another test already: a PIN is asked for when one is needed.
    assert len(asked) <= 1
    for wrong, kind in (
        ("pkcs11:token=nobody;object=worker", SignError),
        ("pkcs11:nonsense", KeyError),
        ("file:/etc/passwd", KeyError),
    ):
        with pytest.raises(kind):
            taskseal.Signer.from_uri(wrong + f"?module-path={token.module}&pin-value=7531", bob.native).sign(b"")
    with pytest.raises(SignError):
        taskseal.Signer.from_uri(token.uri, bob.native).sign(b"message")


def test_a_pin_is_never_shown(token):
    secret = "87654321"
    for pin in (secret, lambda: secret, lambda: None, lambda: 1 / 0):
        signer = taskseal.Signer.from_uri(
            token.uri_without_pin.replace("object=worker", "object=none"), token.identity.native, pin=pin, deadline=5
        )
        with pytest.raises(SignError) as raised:
            signer.sign(b"message")
        assert secret not in repr(signer) + str(raised.value) + repr(raised.value)
    with pytest.raises(TypeError):
        taskseal.Signer.from_uri(token.uri_without_pin, pin=7)


def test_threads_sign_and_open_at_once(token):
    signer = taskseal.Signer.from_uri(token.uri, token.identity.native)
    sealer, ours = taskseal.Sealer(signer), opener(token.identity)
    failed = []

    def work(number):
        try:
            for turn in range(20):
                assert ours.open(sealer.seal([number, turn])).json() == [number, turn]
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_the_gil_is_released_while_signing():
    """A thread that only counts gets on while another one signs with a large key."""
    large = identity("large key", bits=4096)
    signer = large.signer()
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            # Lets go of the GIL.
            time.sleep(0)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=count)
    thread.start()
    try:
        # Nobody is made to let go of the GIL, so the other thread gets on while it is released, and at no other time.
        sys.setswitchinterval(1000)
        gains = []
        for _ in range(30):
            before = counted[0]
            signer.sign(b"message")
            gains.append(counted[0] - before)
        assert sum(gain > 0 for gain in gains) > 10, gains
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_fernet_reads_and_writes_what_cryptography_does():
    keys = [taskseal.Fernet.generate_key() for _ in range(2)]
    ours = [taskseal.Fernet(key) for key in keys]
    theirs = [TheirFernet(key) for key in keys]
    for data in (b"", b"x", b"\x00" * 100_000):
        assert theirs[0].decrypt(ours[0].encrypt(data)) == data
        assert ours[0].decrypt(theirs[0].encrypt(data)) == data
        assert ours[0].decrypt(theirs[0].encrypt(data).decode()) == data
        assert taskseal.MultiFernet(ours).decrypt(theirs[1].encrypt(data)) == data
        assert TheirMultiFernet(theirs).decrypt(taskseal.MultiFernet(ours).rotate(theirs[1].encrypt(data))) == data
    with pytest.raises(FernetError):
        ours[1].decrypt(ours[0].encrypt(b"x"))
    old = theirs[0].encrypt_at_time(b"x", int(time.time()) - 100)
    assert ours[0].decrypt(old, ttl=200) == b"x"
    with pytest.raises(FernetError):
        ours[0].decrypt(old, ttl=50)
    for wrong in ("", "x" * 44, keys[0][:-1]):
        with pytest.raises(FernetError) as raised:
            taskseal.Fernet(wrong)
        assert "xxx" not in str(raised.value)


def test_many_fernet_tokens_at_once():
    keys = [taskseal.Fernet.generate_key() for _ in range(3)]
    new, old, other = [taskseal.Fernet(key) for key in keys]
    both = taskseal.MultiFernet([new, old])
    data = [b"x" * length for length in range(100)]
    tokens = both.encrypt_all(data)
    assert [TheirFernet(keys[0]).decrypt(token) for token in tokens] == data
    assert len(set(tokens)) == 100
    assert new.decrypt_all(tokens) == data == both.decrypt_all(tokens, ttl=60)
    mixed = [old.encrypt(b"old"), other.encrypt(b"other"), "no token", tokens[7].decode()]
    assert both.decrypt_all(mixed) == [b"old", None, None, data[7]]
    assert new.decrypt_all(mixed) == [None, None, None, data[7]]
    rotated = both.rotate_all(mixed)
    assert new.decrypt_all([token or "" for token in rotated]) == [b"old", None, None, data[7]]
    assert new.encrypt_all([]) == both.rotate_all([]) == []
    stale = TheirFernet(keys[0]).encrypt_at_time(b"x", int(time.time()) - 100)
    assert new.decrypt_all([stale, tokens[1]], ttl=50) == [None, b"x"]
    for wrong in (b"bytes", [1], [None], 7):
        with pytest.raises(TypeError):
            new.encrypt_all(wrong)


def test_fernet_with_its_keys_on_a_token(token, tmp_path):
    """Made by the command, as an operator does it."""
    uri = token.uri.replace("object=worker", "object=fernet")
    made = subprocess.run([command(), "fernet", "key", "generate", "--key", uri], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    fernet = taskseal.Fernet.from_uri(uri)
    assert "fernet" in repr(fernet)
    for data in (b"", b"x" * 100_000):
        assert fernet.decrypt(fernet.encrypt(data)) == data
    in_memory = taskseal.Fernet(taskseal.Fernet.generate_key())
    both = taskseal.MultiFernet([fernet, in_memory])
    assert fernet.decrypt(both.rotate(in_memory.encrypt(b"x"))) == b"x"
    many = [b"%d" % number for number in range(500)]
    assert fernet.decrypt_all(both.rotate_all(in_memory.encrypt_all(many))) == many
    none = taskseal.Fernet.from_uri(uri.replace("object=fernet", "object=none"), deadline=5)
    with pytest.raises(FernetError):
        none.encrypt(b"x")
    with pytest.raises(FernetError):
        none.decrypt_all(fernet.encrypt_all(many))


def test_a_message_can_be_looked_at(alice):
    parts = taskseal.inspect_unverified(taskseal.Sealer(alice.signer()).seal(VALUE))
    assert (parts["signer"], parts["format"], len(parts["signature"])) == ("alice 7", "celery", 256)
    assert json.loads(parts["body"]) == VALUE
    with pytest.raises(OpenError):
        taskseal.inspect_unverified("x")
