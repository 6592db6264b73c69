"""Stock Celery at the other end of a pipe: one request, a JSON object, on each line of standard input; one answer on
each line of standard output, `{"ok": ...}` or `{"error": "Type: text"}`. Runs in any Celery from 5.4 on.

Bytes travel as `{"bytes": "<base64>"}`. Serialisers are made once and then named, as in an application.
"""
import base64
import datetime
import functools
import json
import os
import sys
import warnings

import celery
import cryptography
import kombu
from celery.security.certificate import Certificate, CertStore, FSCertStore
from celery.security.key import PrivateKey
from celery.security.serialization import SecureSerializer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

warnings.simplefilter("ignore")

KEYS = {}
SERIALIZERS = {}


def versions():
    return {"celery": celery.__version__, "kombu": kombu.__version__, "cryptography": cryptography.__version__}


def make(bits, issuer=None, serial=7, days=1, nth=0):
    """A key and a certificate for it. `issuer` is a list of RDNs, each a list of [OID, text]; `days` until it expires."""
    key = KEYS.get((bits, nth)) or rsa.generate_private_key(65537, bits)
    KEYS[bits, nth] = key
    issuer = [[[NameOID.COMMON_NAME.dotted_string, "worker"]]] if issuer is None else issuer
    issuer = x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(x509.ObjectIdentifier(o), t) for o, t in rdn])
            for rdn in issuer
        ]
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "subject")]))
        .public_key(key.public_key())
        .serial_number(int(serial))
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {"key": key, "certificate": certificate, "id": Certificate(certificate).get_id()}


def serializer(name, digest, key=None, certificate=None, trusted=(), directory=None, inner="json"):
    """As in `setup_security`: a key and a certificate to sign with, certificates to trust, from memory or a directory."""
    if directory is not None:
        store = FSCertStore(os.path.join(directory, "*"))
    else:
        store = CertStore()
        for pem in trusted:
            store.add_cert(Certificate(pem))
    SERIALIZERS[name] = SecureSerializer(
        key=key and private_key(key),
        cert=certificate and Certificate(certificate),
        cert_store=store,
        digest=digest,
        serializer=inner,
    )
    return [one.get_id() for one in store.itercerts()]


@functools.cache
def private_key(pem):
    """Loading a key checks its primes, which takes longer than many signatures."""
    return PrivateKey(pem)


def serialize(name, value):
    wire = SERIALIZERS[name].serialize(decoded(value))
    return wire if isinstance(wire, str) else encoded(wire)


def deserialize(name, wire):
    return encoded(SERIALIZERS[name].deserialize(decoded(wire)))


def pack(signer, signature, content_type, content_encoding, body):
    return SecureSerializer()._pack(
        decoded(body), content_type, content_encoding, signer=signer, signature=decoded(signature)
    )


def decoded(value):
    """The value, or the bytes that it stands for."""
    if isinstance(value, dict) and value.keys() == {"bytes"}:
        return base64.b64decode(value["bytes"], validate=True)
    return value


def encoded(value):
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


OPERATIONS = {each.__name__: each for each in (versions, make, serializer, serialize, deserialize, pack)}


def main():
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": OPERATIONS[request.pop("op")](**request)}
        except Exception as error:  # the other side decides whether it was expected
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
