"""Calls per second of the serializers, side by side with stock Celery's in one run: `python benchmarks/serializers.py`.

Small and 100 kB bodies, RSA-2048 in memory on both sides. Each number is the best of five turns. Build the package with
optimisation: `scripts/bench-python` does.
"""

import base64
import datetime
import json
import sys
import time

import celery.security.certificate
import celery.security.key
import celery.security.serialization
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from kombu.utils.json import dumps

import taskseal
from taskseal.celery import Certificate, CertStore, PrivateKey, SecureSerializer

BODIES = {
    "81 B": [[1, 2], {"key": "value"}, {"callbacks": None, "errbacks": None, "chain": None}],
    "100 kB": [["x" * 100_000], {}, {}],
}


def identity():
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder().issuer_name(name).subject_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - day).not_valid_after(now + day).sign(key, hashes.SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


def per_second(call, seconds=0.4):
    call()
    best = 0.0
    for _ in range(5):
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            call()
            count += 1
        best = max(best, count / spent)
    return best


def main():
    key, certificate = identity()
    store, stock_store = CertStore(), celery.security.certificate.CertStore()
    store.add_cert(Certificate(certificate))
    stock_store.add_cert(celery.security.certificate.Certificate(certificate))
    ours = SecureSerializer(PrivateKey(key), Certificate(certificate), store)
    stock = celery.security.serialization.SecureSerializer(
        celery.security.key.PrivateKey(key), celery.security.certificate.Certificate(certificate), stock_store
    )
    opener = taskseal.Opener(store.native)
    signer = taskseal.Signer.from_software_pem(key, taskseal.Certificate(certificate))
    fernet = taskseal.Fernet(taskseal.Fernet.generate_key())
    sealers = {
        "sealed, signed": (taskseal.MessageSealer(signer), taskseal.MessageOpener(store.native)),
        "sealed, encrypted": (taskseal.MessageSealer(signer, [fernet]), taskseal.MessageOpener(store.native, [fernet])),
    }
    rows = []
    for size, value in BODIES.items():
        wire = stock.serialize(value)
        rows += [
            (size, "serialize", "stock auth", per_second(lambda: stock.serialize(value))),
            (size, "serialize", "ours", per_second(lambda: ours.serialize(value))),
            (size, "deserialize", "stock auth", per_second(lambda: stock.deserialize(wire))),
            (size, "deserialize", "ours", per_second(lambda: ours.deserialize(wire))),
            (size, "open", "ours, without JSON", per_second(lambda: opener.open(wire))),
        ]
        body = base64.b64encode(dumps(value).encode()).decode()
        message = json.dumps({"body": body, "content-type": "application/json", "content-encoding": "utf-8", "headers": {},
                              "properties": {"body_encoding": "base64"}})  # fmt: skip
        for name, (sealer, message_opener) in sealers.items():
            sealed = sealer.seal(message, exchange="", routing_key="celery")
            rows.append((size, "serialize", name, per_second(lambda s=sealer: s.seal(message, exchange="", routing_key="q"))))
            rows.append((size, "deserialize", name, per_second(lambda o=message_opener, w=sealed: o.open(w))))
    print("| body | call | | per second |\n|---|---|---|---:|")
    for size, call, who, rate in rows:
        print(f"| {size} | {call} | {who} | {rate:,.0f} |")
    rates = {row[:3]: row[3] for row in rows}
    for call in ("serialize", "deserialize"):
        for size in BODIES:
            ratio = rates[size, call, "ours"] / rates[size, call, "stock auth"]
            print(f"{call}, {size}: ours is {ratio:.2f} times stock")
    opening = rates["100 kB", "open", "ours, without JSON"] / rates["100 kB", "deserialize", "stock auth"]
    print(f"opening 100 kB: {opening:.2f} times stock deserialize (aim: at least 4)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
