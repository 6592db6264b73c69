"""Makes private keys in the forms that operators have, and prints them as JSON: a list of objects with `name`, `pem`,
`password`, `modulus` (hexadecimal, of RSA keys), and what stock Celery says of the key with that password: `celery` is
null when it takes the key, else the error.

A certificate for the RSA key of each size comes with it, as `certificates`: an object of PEM texts by size.
"""
import datetime
import json
import subprocess
import sys

from celery.security.key import PrivateKey
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

PASSWORD = "Žluťoučký kůň 7"
KEYS = {bits: rsa.generate_private_key(65537, bits) for bits in (2048, 3072, 4096, 1024)}
RSA = KEYS[2048]
PLAIN = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def main():
    json.dump({"keys": [*cases()], "certificates": {b: certificate(k) for b, k in KEYS.items()}}, sys.stdout)


def cases():
    for bits, key in KEYS.items():
        yield case(f"PKCS#8 RSA-{bits}", text(key, PrivateFormat.PKCS8), key=key)
        yield case(f"PKCS#1 RSA-{bits}", text(key, PrivateFormat.TraditionalOpenSSL), key=key)

    for encryption in ("aes-256-cbc", "aes-192-cbc", "aes-128-cbc", "des3"):
        for prf in ("hmacWithSHA256", "hmacWithSHA1", "hmacWithSHA512"):
            yield case(f"PBES2 {encryption} {prf}", pkcs8("-v2", encryption, "-v2prf", prf), PASSWORD)
    yield case("PBES2 scrypt", pkcs8("-scrypt"), PASSWORD)
    yield case("PBES2 100000 iterations", pkcs8("-iter", "100000"), PASSWORD)
    yield case("PBES2 camellia", pkcs8("-v2", "camellia-256-cbc"), PASSWORD)
    yield case("PBES1 3DES", pkcs8("-v1", "PBE-SHA1-3DES"), PASSWORD)
    best = BestAvailableEncryption(PASSWORD.encode())
    yield case("PBES2 by cryptography", text(RSA, PrivateFormat.PKCS8, best), PASSWORD)
    yield case("traditional AES", text(RSA, PrivateFormat.TraditionalOpenSSL, best), PASSWORD)
    yield case("traditional 3DES", openssl("rsa", "-traditional", "-des3", "-passout", f"pass:{PASSWORD}"), PASSWORD)

    encrypted = pkcs8("-v2", "aes-256-cbc")
    yield case("password missing", encrypted)
    yield case("password empty", encrypted, "")
    yield case("password wrong", encrypted, "not this one")
    yield case("password not wanted", PLAIN, PASSWORD)
    yield case("password not wanted, PKCS#1", text(RSA, PrivateFormat.TraditionalOpenSSL), PASSWORD)

    elliptic = ec.generate_private_key(ec.SECP256R1())
    yield case("EC PKCS#8", text(elliptic, PrivateFormat.PKCS8), key=None)
    yield case("EC traditional", text(elliptic, PrivateFormat.TraditionalOpenSSL), key=None)
    yield case("Ed25519", text(ed25519.Ed25519PrivateKey.generate(), PrivateFormat.PKCS8), key=None)
    yield case("OpenSSH", text(RSA, PrivateFormat.OpenSSH))
    yield pss_case("RSASSA-PSS")
    yield pss_case("RSASSA-PSS SHA-256", md="sha256", mgf1_md="sha256", saltlen="32")
    yield pss_case("RSASSA-PSS SHA-512", md="sha512", mgf1_md="sha512", saltlen="64")
    yield pss_case("RSASSA-PSS long salt", md="sha256", mgf1_md="sha256", saltlen="200")
    yield pss_case("RSASSA-PSS SHA-1 mask", md="sha256")
    yield pss_case("RSASSA-PSS SHA-1", md="sha1")
    pss = pss_case("RSASSA-PSS")["pem"]
    encrypted_pss = openssl("pkcs8", "-topk8", "-passout", f"pass:{PASSWORD}", stdin=pss)
    yield case("RSASSA-PSS encrypted", encrypted_pss, PASSWORD, key=load_pem_private_key(pss.encode(), None))
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    yield case("public key", public.decode())
    yield case("certificate alone", certificate(RSA))

    yield case("key, then certificate", PLAIN + certificate(RSA))
    yield case("certificate, then key", certificate(RSA) + PLAIN)
    yield case("public key, then key", public.decode() + PLAIN)
    yield case("two keys", PLAIN + text(KEYS[3072], PrivateFormat.PKCS8))
    yield case("CRLF", PLAIN.replace("\n", "\r\n"))
    yield case("encrypted, CRLF", encrypted.replace("\n", "\r\n"), PASSWORD)
    yield case("text before", "Bag Attributes\n    friendlyName: worker\nKey Attributes: <No Attributes>\n" + PLAIN)
    yield case("text between", certificate(RSA) + "Schlüssel:\n" + PLAIN)
    yield case("no final line end", PLAIN.rstrip())
    yield case("lines of 76 characters", rewrapped(76))
    yield case("one line", rewrapped(10000))
    yield case("spaces at line ends", PLAIN.replace("\n", " \n"))


def case(name, pem, password=None, key=RSA):
    try:
        PrivateKey(pem, password=password)
        refused = None
    except Exception as error:  # TypeError for a missing password, SecurityError for the rest
        refused = f"{type(error).__name__}: {error}"
    modulus = None if key is None else f"{key.public_key().public_numbers().n:x}"
    return {"name": name, "pem": pem, "password": password, "modulus": modulus, "celery": refused}


def pss_case(name, **options):
    """A key with the algorithm id-RSASSA-PSS, and a certificate with the same one, which OpenSSL alone makes."""
    wanted = [part for option, value in options.items() for part in ("-pkeyopt", f"rsa_pss_keygen_{option}:{value}")]
    pem = openssl("genpkey", "-quiet", "-algorithm", "RSA-PSS", *wanted, stdin="")
    made = case(name, pem, key=load_pem_private_key(pem.encode(), None))
    subject = ["-subj", f"/CN={name}", "-days", "1"]
    # It signs with a mask of SHA-1 unless it is told otherwise, also where the key forbids that.
    mask = ["-sigopt", f"rsa_mgf1_md:{options['mgf1_md']}"] if "mgf1_md" in options else []
    made["certificate"] = openssl("req", "-x509", "-key", "/dev/stdin", *subject, *mask, stdin=pem)
    return made


def text(key, form, encryption=None):
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def pkcs8(*options):
    return openssl("pkcs8", "-topk8", *options, "-passout", f"pass:{PASSWORD}")


def openssl(*arguments, stdin=PLAIN):
    run = subprocess.run(["openssl", *arguments], input=stdin.encode(), capture_output=True)
    if run.returncode:
        sys.exit(f"openssl {' '.join(arguments)}: {run.stderr.decode()}")
    return run.stdout.decode()


def rewrapped(width):
    first, *body, last = PLAIN.strip().splitlines()
    body = "".join(body)
    return "\n".join([first, *(body[at : at + width] for at in range(0, len(body), width)), last, ""])


def certificate(key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"worker-{key.key_size}")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(key.key_size).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


if __name__ == "__main__":
    main()
