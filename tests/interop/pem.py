"""Writes two certificates in odd forms of PEM and prints what Python's `cryptography` reads of each, as JSON: a list of objects
with `name`, `pem` (base64), and either `read` (the names in the certificates, in their order) or `refused` (its error text).

Stock Celery reads certificates with it: the first one of each file.
"""
import base64
import datetime
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
BEGIN, END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
#: OpenSSL's settings of trust: for TLS clients, rejected for nothing, and rejected for TLS clients.
CLIENT_AUTH = bytes.fromhex("06082b06010505070302")
TRUST = b"\x30\x0c\x30\x0a" + CLIENT_AUTH
REJECT = b"\x30\x0c\xa0\x0a" + CLIENT_AUTH


def main():
    json.dump([describe(name, text) for name, text in cases().items()], sys.stdout)


def describe(name, text):
    pem = text if isinstance(text, bytes) else text.encode()
    case = {"name": name, "pem": base64.b64encode(pem).decode()}
    try:
        found = x509.load_pem_x509_certificates(pem)
        return {**case, "read": [one.subject.rfc4514_string() for one in found]}
    except ValueError as error:
        return {**case, "refused": str(error)}


def certificate(key, name):
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 30 * DAY)
        .sign(key, hashes.SHA256())
    )


def wrapped(der, label):
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


def lines(text, change):
    return "".join(change(line) + "\n" for line in text.strip().split("\n"))


def cases():
    key = rsa.generate_private_key(65537, 2048)
    der = certificate(key, "a").public_bytes(serialization.Encoding.DER)
    a, b = (certificate(key, name).public_bytes(serialization.Encoding.PEM).decode() for name in "ab")
    body = a.replace(BEGIN, "").replace(END, "").replace("\n", "")
    one_line = BEGIN + body + END
    cut = a[: len(a) // 2] + "\n"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"x"),
    ).decode()
    request = wrapped(b"\x30\x00", "CERTIFICATE REQUEST")
    return {
        "two": a + b,
        "second one with small begin and end": a + b.replace("BEGIN", "Begin").replace("END", "End"),
        "second one with tabs": a + b.replace("N CERT", "N\tCERT").replace("D CERT", "D\tCERT"),
        "second one with hard blanks": a + b.replace("N CERT", "N\xa0CERT").replace("D CERT", "D\xa0CERT"),
        "second one misspelt": a + b.replace("CERTIFICATE", "CERTIFCATE").replace("BEGIN", "BEGN").replace("END", "EDN"),
        "second one without begin and end": a + "\r\n".join(b.split("\n")[1:-2]),
        "first one without begin and end": "\n".join("  " + line for line in a.split("\n")[1:-2]) + "\n" + b,
        "second one without begin and end, on one line": a + "".join(b.split("\n")[1:-2]),
        "glued": a.strip() + b,
        "glued, without any line": one_line + one_line.replace(body, b.replace(BEGIN, "").replace(END, "").replace("\n", "")),
        "one line": one_line,
        "the body on one line": f"{BEGIN}\n{body}\n{END}\n",
        "blanks for line ends": a.replace("\n", " ") + b,
        "a byte order mark": "\ufeff" + a + b,
        "a byte order mark between": a + "\ufeff" + b,
        "indented": lines(a, lambda line: "    " + line) + b,
        "indented with tabs": lines(a, lambda line: "\t" + line) + b,
        "body indented": lines(a, lambda line: line if line.startswith("-") else "  " + line) + b,
        "X509 CERTIFICATE": wrapped(der, "X509 CERTIFICATE") + b,
        "TRUSTED CERTIFICATE": wrapped(der + TRUST, "TRUSTED CERTIFICATE") + b,
        "TRUSTED CERTIFICATE without settings": wrapped(der, "TRUSTED CERTIFICATE"),
        "TRUSTED CERTIFICATE, rejected": wrapped(der + REJECT, "TRUSTED CERTIFICATE") + b,
        "TRUSTED CERTIFICATE, more behind it": wrapped(der + TRUST + b"\0", "TRUSTED CERTIFICATE") + b,
        "settings of trust under CERTIFICATE": wrapped(der + TRUST, "CERTIFICATE") + b,
        "CRLF": (a + b).replace("\n", "\r\n"),
        "CR": (a + b).replace("\n", "\r"),
        "blanks at line ends": (a + b).replace("\n", "  \n"),
        "blank lines": (a + b).replace("\n", "\n\n"),
        "a blank line first": a.replace(BEGIN + "\n", BEGIN + "\n\n") + b,
        "headers": a.replace(BEGIN + "\n", BEGIN + "\nName: worker\nPlace: rack 7\n\n") + b,
        "headers that do not end": a.replace(BEGIN + "\n", BEGIN + "\nName: worker\n") + b,
        "text around": f"Subject: a\n{a}between\n{b}after\n",
        "text on the line": f"certificate: {a.strip()} that was it\n{b}",
        "Latin-1 around": "Bücher\n".encode("latin-1") + a.encode() + b"\xff\n" + b.encode(),
        "NUL before": "\0" + a + b,
        "a request before": request + a + b,
        "a key before": secret + a + b,
        "a locked key before": locked + a + b,
        "a damaged key before": wrapped(b"x", "PRIVATE KEY").replace("eA==", "*") + a + b,
        "a key without an end before": secret[: len(secret) // 2] + "\n" + a + b,
        "first one damaged": a.replace("MII", "*II", 1) + b,
        "second one damaged": a + b.replace("MII", "*II", 1),
        "second one is no certificate": a + wrapped(b"\x30\x00", "CERTIFICATE"),
        "first one cut": cut + b,
        "second one cut": a + cut,
        "first one has no end": a.replace(END, "") + b,
        "second one has no end": a + b.replace(END, ""),
        "first one has no beginning": a.replace(BEGIN, "") + b,
        "other end": a.replace("END CERT", "END X509 CERT") + b,
        "misspelt beginning": a.replace("BEGIN CERTIFICATE", "BEGIN CERTIFICAT") + b,
        "small letters": a.replace("CERTIFICATE", "certificate") + b,
        "four dashes before": a.replace("-----BEGIN", "----BEGIN") + b,
        "four dashes behind": a.replace("END CERTIFICATE-----", "END CERTIFICATE----") + b,
        "six dashes": a.replace("-----", "------") + b,
        "typographic dashes": a.replace("-----", "—–") + b,
        "a blank behind the dashes": a.replace("-----BEGIN", "----- BEGIN").replace("-----END", "----- END") + b,
        "a blank behind the label": a.replace("CERTIFICATE-----", "CERTIFICATE -----") + b,
        "quoted": lines(a, lambda line: "> " + line) + b,
        "commented out": lines(a, lambda line: "# " + line) + b,
        "ATTRIBUTE CERTIFICATE": wrapped(der, "ATTRIBUTE CERTIFICATE") + b,
        "PKCS7": wrapped(der, "PKCS7") + b,
        "UTF-16": (a + b).encode("utf-16"),
        "UTF-16, then UTF-8": a.encode("utf-16-le") + b.encode(),
        "UTF-16 of the other order, then UTF-8": a.encode("utf-16-be") + b.encode(),
        "backslash n for line ends": a.replace("\n", "\\n") + b,
        "words about a certificate": "Take BEGIN CERTIFICATE to END CERTIFICATE\n# the CERTIFICATE of a\n" + a + b,
        "nothing": "",
    }


if __name__ == "__main__":
    main()
