"""Makes odd certificates and prints what stock Celery says of each, as JSON: a list of objects with `name`, `pem`, and
either `facts` (id, issuer, serial, validity in seconds since 1970, expiry, size of the key) or `refused` (Celery's error text).

Certificates that no builder makes are taken apart and put together again. Their signatures do not verify then, which
nobody here looks at: a trust store holds certificates that somebody chose to trust.
"""
import base64
import datetime
import json
import random
import sys
import warnings

from celery.security.certificate import Certificate
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.name import _ASN1Type as Kind
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Negative and zero serial numbers, on purpose.
warnings.simplefilter("ignore")

UTC = datetime.timezone.utc
NOW = datetime.datetime.now(UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
# One verification under it takes as long as a thousand under 65537.
ABSURD_EXPONENT = (1 << 2000) + 1


def main():
    json.dump([describe(name, make()) for name, make in CASES.items()], sys.stdout)


def describe(name, der):
    body = base64.encodebytes(der).decode().replace("\n", "")
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    pem = "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
    try:
        certificate = Certificate(pem)
        facts = {
            "id": certificate.get_id(),
            "issuer": certificate.get_issuer(),
            "serial": str(certificate.get_serial_number()),
            "not_before": int(certificate._cert.not_valid_before_utc.timestamp()),
            "not_after": int(certificate._cert.not_valid_after_utc.timestamp()),
            "expired": certificate.has_expired(),
            "bits": certificate.get_pubkey().key_size,
        }
        return {"name": name, "pem": pem, "facts": facts}
    except Exception as error:  # whatever it is, Celery cannot use that certificate
        return {"name": name, "pem": pem, "refused": f"{type(error).__name__}: {error}"}


# --- Making ----------------------------------------------------------------------------------------------------------

KEYS = {}


def key(bits=2048, exponent=65537):
    if (bits, exponent) not in KEYS:
        KEYS[bits, exponent] = rsa.generate_private_key(exponent, bits)
    return KEYS[bits, exponent]


def name(*attributes):
    """A name of one attribute per RDN; an attribute is (OID, text) or (OID, text, kind)."""
    return x509.Name([x509.NameAttribute(*attribute) for attribute in attributes])


def certificate(issuer=None, serial=7, not_before=NOW - DAY, not_after=NOW + 30 * DAY, signer=None, usage=None,
                extensions=()):
    signer = signer or key()
    issuer = name((NameOID.COMMON_NAME, "worker")) if issuer is None else issuer
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(name((NameOID.COMMON_NAME, "subject")))
        .public_key(signer.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    if usage is not None:
        flags = dict.fromkeys(
            [
                "digital_signature",
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "key_cert_sign",
                "crl_sign",
                "encipher_only",
                "decipher_only",
            ],
            False,
        )
        flags.update(dict.fromkeys(usage, True))
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signer, digest).public_bytes(serialization.Encoding.DER)


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")


def purposes(*names):
    usage = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, name) for name in names])
    return certificate(extensions=[(usage, True)])


# --- Taking apart ----------------------------------------------------------------------------------------------------


def tlv(tag, content):
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def parts(content):
    """The elements of a constructed value, each with its tag and length."""
    found = []
    while content:
        length, header = content[1], 2
        if length & 0x80:
            header += length & 0x7F
            length = int.from_bytes(content[2:header], "big")
        found.append(content[: header + length])
        content = content[header + length :]
    return found


def inside(element):
    return element[2 + (element[1] & 0x7F if element[1] & 0x80 else 0) :]


def integer(number):
    bits = (number if number >= 0 else ~number).bit_length()
    return tlv(0x02, number.to_bytes(bits // 8 + 1, "big", signed=True))


def with_field(der, index, element):
    """The certificate with one field of its TBSCertificate replaced; `None` leaves the field out."""
    tbs, algorithm, signature = parts(inside(der))
    fields = parts(inside(tbs))
    fields[index : index + 1] = [] if element is None else [element]
    return tlv(0x30, tlv(0x30, b"".join(fields)) + algorithm + signature)


VERSION, SERIAL, ISSUER, VALIDITY, SUBJECT, SPKI, EXTENSIONS = 0, 1, 3, 4, 5, 6, 7


def with_serial(number):
    return with_field(certificate(), SERIAL, integer(number))


def with_key(modulus, exponent):
    public = tlv(0x30, integer(modulus) + integer(exponent))
    # rsaEncryption, with NULL parameters.
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return with_field(certificate(), SPKI, tlv(0x30, algorithm + tlv(0x03, b"\0" + public)))


def with_issuer_value(tag, value):
    """An issuer of one common name, of any string type and with any bytes."""
    return with_field(certificate(), ISSUER, common_name(tag, value))


def with_subject_value(tag, value):
    return with_field(certificate(), SUBJECT, common_name(tag, value))


def common_name(tag, value):
    attribute = tlv(0x30, bytes.fromhex("0603550403") + tlv(tag, value))
    return tlv(0x30, tlv(0x31, attribute))


def with_validity(not_before, not_after):
    """Times as (tag, text)."""
    times = [tlv(tag, text.encode()) for tag, text in (not_before, not_after)]
    return with_field(certificate(), VALIDITY, tlv(0x30, b"".join(times)))


UTC_TIME, GENERALIZED_TIME = 0x17, 0x18


def with_extensions(*extensions):
    """Extensions of (OID in hexadecimal, what stands for `critical`, value)."""
    listed = [
        tlv(0x30, tlv(0x06, bytes.fromhex(oid)) + critical + tlv(0x04, value)) for oid, critical, value in extensions
    ]
    with_one = certificate(extensions=[(UNKNOWN, False)])
    return with_field(with_one, EXTENSIONS, tlv(0xA3, tlv(0x30, b"".join(listed))))


CRITICAL, NOT_CRITICAL, FALSE = tlv(0x01, b"\xff"), b"", tlv(0x01, b"\0")
KEY_USAGE, BASIC_CONSTRAINTS = "551d0f", "551d13"


def oid_bytes(text):
    first, second, *rest = map(int, text.split("."))
    encoded = b""
    for number in [first * 40 + second, *rest]:
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.insert(0, number & 0x7F | 0x80)
        encoded += bytes(groups)
    return encoded.hex()


def with_critical(oid):
    """With a critical extension of which nobody looks at the value."""
    return with_extensions((oid_bytes(oid), CRITICAL, b"\x05\x00"))


def rdn_out_of_order():
    ordered = certificate(issuer=x509.Name([x509.RelativeDistinguishedName(common_name_and_organisation())]))
    rdn = parts(inside(parts(inside(parts(inside(ordered))[0]))[ISSUER]))[0]
    return with_field(ordered, ISSUER, tlv(0x30, tlv(0x31, b"".join(reversed(parts(inside(rdn)))))))


def common_name_and_organisation():
    return [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "beta"), x509.NameAttribute(NameOID.COMMON_NAME, "alpha")]


def modulus(bits):
    """An odd number of that size. Nobody holds its factors, and reading a certificate asks for none."""
    return random.Random(bits).getrandbits(bits) | 1 << (bits - 1) | 1


CASES = {
    # Issuers.
    "plain": lambda: certificate(),
    "two attributes": lambda: certificate(
        issuer=name((NameOID.ORGANIZATION_NAME, "Example CA"), (NameOID.COMMON_NAME, "worker 7"))
    ),
    "several attributes in one RDN": lambda: certificate(
        issuer=x509.Name(
            [
                x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COUNTRY_NAME, "DE")]),
                x509.RelativeDistinguishedName(common_name_and_organisation()),
            ]
        )
    ),
    "RDN not in DER's order": rdn_out_of_order,
    "empty issuer": lambda: certificate(issuer=x509.Name([])),
    "non-ASCII issuer": lambda: certificate(issuer=name((NameOID.COMMON_NAME, "Bücher-Žížala 本局"))),
    "emoji issuer": lambda: certificate(issuer=name((NameOID.COMMON_NAME, "🦀🔏"))),
    "combining characters": lambda: certificate(issuer=name((NameOID.COMMON_NAME, "e\u0301 \u00e9 \u200f"))),
    "NUL and newline in the issuer": lambda: certificate(issuer=name((NameOID.COMMON_NAME, "a\0b\nc\rd"))),
    "separator in the issuer": lambda: certificate(issuer=name((NameOID.COMMON_NAME, "a\0\x01b"))),
    "spaces in the issuer": lambda: certificate(issuer=name((NameOID.COMMON_NAME, " a  b "))),
    "quotes and commas in the issuer": lambda: certificate(issuer=name((NameOID.COMMON_NAME, 'a,b="c"\\+<;>#'))),
    "many attributes": lambda: certificate(
        issuer=name(*[(NameOID.ORGANIZATIONAL_UNIT_NAME, f"unit {at}") for at in range(200)])
    ),
    "unknown attribute type": lambda: certificate(
        issuer=name((x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), "private"), (NameOID.COMMON_NAME, "x"))
    ),
    "e-mail and domain components": lambda: certificate(
        issuer=name(
            (NameOID.DOMAIN_COMPONENT, "org", Kind.IA5String),
            (NameOID.DOMAIN_COMPONENT, "example", Kind.IA5String),
            (NameOID.EMAIL_ADDRESS, "ca@example.org", Kind.IA5String),
        )
    ),
    "PrintableString": lambda: certificate(issuer=name((NameOID.COMMON_NAME, "worker 7", Kind.PrintableString))),
    "BMPString": lambda: certificate(issuer=name((NameOID.COMMON_NAME, "Žížala", Kind.BMPString))),
    "BMPString with a surrogate pair": lambda: with_issuer_value(0x1E, "🦀".encode("utf-16-be")),
    "BMPString with half a surrogate pair": lambda: with_issuer_value(0x1E, "🦀".encode("utf-16-be")[:2]),
    "BMPString of odd length": lambda: with_issuer_value(0x1E, b"\0a\0"),
    "TeletexString": lambda: with_issuer_value(0x14, b"teletex"),
    "TeletexString in Latin-1": lambda: with_issuer_value(0x14, "Bücher".encode("latin-1")),
    "UniversalString": lambda: with_issuer_value(0x1C, "worker 🦀".encode("utf-32-be")),
    "UniversalString with a surrogate": lambda: with_issuer_value(0x1C, b"\0\0\xd8\0"),
    "UniversalString of odd length": lambda: with_issuer_value(0x1C, b"\0\0\0w\0"),
    "GeneralString in the issuer": lambda: with_issuer_value(0x1B, b"general"),
    "NumericString": lambda: with_issuer_value(0x12, b"0815"),
    "VisibleString": lambda: with_issuer_value(0x1A, b"visible"),
    "UTF8String that is none": lambda: with_issuer_value(0x0C, b"\xff\xfe"),
    "OCTET STRING in the issuer": lambda: with_issuer_value(0x04, b"octets"),
    "INTEGER in the issuer": lambda: with_issuer_value(0x02, b"\x07"),
    "BIT STRING in the issuer": lambda: certificate(
        issuer=name(
            (NameOID.COMMON_NAME, "worker"),
            (NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\x01\x02", Kind.BitString),
        )
    ),
    # Subjects, which nobody has to understand.
    "empty subject": lambda: with_field(certificate(), SUBJECT, tlv(0x30, b"")),
    "subject of TeletexString in Latin-1": lambda: with_subject_value(0x14, "Bücher".encode("latin-1")),
    "subject of UniversalString": lambda: with_subject_value(0x1C, "Žížala".encode("utf-32-be")),
    "subject of BMPString": lambda: with_subject_value(0x1E, "Žížala".encode("utf-16-be")),
    "subject of BMPString of odd length": lambda: with_subject_value(0x1E, b"\0a\0"),
    "subject of VideotexString": lambda: with_subject_value(0x15, b"videotex"),
    "subject of GraphicString": lambda: with_subject_value(0x19, b"graphic"),
    "subject of GeneralString": lambda: with_subject_value(0x1B, b"general"),
    "subject of INTEGER": lambda: with_subject_value(0x02, b"\x07"),
    "subject of a tag of two bytes": lambda: with_subject_value(0x04, b"x").replace(b"\x04\x01x", b"\x9f\x2a\0"),
    # Serial numbers.
    "serial of 21 bytes": lambda: with_serial(1 << 160),
    "serial of 24 bytes": lambda: with_serial((1 << 190) + 5),
    "serial 1": lambda: certificate(serial=1),
    "serial 127": lambda: certificate(serial=127),
    "serial 128": lambda: certificate(serial=128),
    "serial 2^63": lambda: certificate(serial=1 << 63),
    "serial 2^64": lambda: certificate(serial=1 << 64),
    "serial 2^159-1": lambda: certificate(serial=(1 << 159) - 1),
    "serial 0": lambda: with_serial(0),
    "serial -1": lambda: with_serial(-1),
    "serial -128": lambda: with_serial(-128),
    "serial -129": lambda: with_serial(-129),
    "serial of 2000 bits": lambda: with_serial(1 << 1999),
    "serial with a superfluous zero byte": lambda: with_field(certificate(), SERIAL, b"\x02\x02\x00\x07"),
    # Validity.
    "expired": lambda: certificate(not_before=NOW - 30 * DAY, not_after=NOW - DAY),
    "not valid yet": lambda: certificate(not_before=NOW + DAY),
    "no expiry (RFC 5280, 4.1.2.5)": lambda: certificate(
        not_after=datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    ),
    "ends in 2050": lambda: certificate(not_after=datetime.datetime(2050, 1, 1, tzinfo=UTC)),
    "ends in 2049": lambda: certificate(not_after=datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
    "starts in 1970": lambda: certificate(not_before=datetime.datetime(1970, 1, 1, tzinfo=UTC)),
    "starts in 1955": lambda: certificate(not_before=datetime.datetime(1955, 6, 1, 12, 0, 0, tzinfo=UTC)),
    "from 1900 to 1969": lambda: with_validity((GENERALIZED_TIME, "19000228235959Z"), (UTC_TIME, "691231235959Z")),
    "starts in the year 1": lambda: with_validity((GENERALIZED_TIME, "00010101000000Z"), (UTC_TIME, "490101000000Z")),
    "GeneralizedTime before 2050": lambda: with_validity((GENERALIZED_TIME, "20200229000000Z"), (UTC_TIME, "490101000000Z")),
    "ends on 30 February": lambda: with_validity((UTC_TIME, "200101000000Z"), (UTC_TIME, "490230000000Z")),
    "ends at 24:00": lambda: with_validity((UTC_TIME, "200101000000Z"), (UTC_TIME, "490101240000Z")),
    # Keys.
    "RSA-3072": lambda: certificate(signer=key(3072)),
    "RSA-4096": lambda: certificate(signer=key(4096)),
    "RSA-1024": lambda: with_key(modulus(1024), 65537),
    "RSA-2050": lambda: with_key(modulus(2050), 65537),
    "RSA-8192": lambda: with_key(modulus(8192), 65537),
    "e=3": lambda: certificate(signer=key(2048, 3)),
    "RSA-512": lambda: with_key(modulus(512), 65537),
    "RSA-16384": lambda: with_key(modulus(16384), 65537),
    "absurd exponent": lambda: with_key(modulus(2048), ABSURD_EXPONENT),
    "exponent 1": lambda: with_key(modulus(2048), 1),
    "even exponent": lambda: with_key(modulus(2048), 65536),
    "even modulus": lambda: with_key(modulus(2048) - 1, 65537),
    "negative modulus": lambda: with_key(-modulus(2048), 65537),
    "modulus 0": lambda: with_key(0, 65537),
    "EC": lambda: certificate(signer=ec.generate_private_key(ec.SECP256R1())),
    "Ed25519": lambda: certificate(signer=ed25519.Ed25519PrivateKey.generate()),
    # Key usage.
    "usage digitalSignature": lambda: certificate(usage=["digital_signature"]),
    "usage nonRepudiation": lambda: certificate(usage=["content_commitment"]),
    "usage keyEncipherment": lambda: certificate(usage=["key_encipherment"]),
    "usage keyCertSign": lambda: certificate(usage=["key_cert_sign", "crl_sign"]),
    "usage of four bytes": lambda: with_extensions((KEY_USAGE, CRITICAL, bytes.fromhex("0305008000ff01"))),
    "usage of four bytes without a signature": lambda: with_extensions(
        (KEY_USAGE, CRITICAL, bytes.fromhex("030500200000ff"))
    ),
    "usage with bits that DER leaves out": lambda: with_extensions((KEY_USAGE, CRITICAL, bytes.fromhex("0303070000"))),
    "usage of no bits": lambda: with_extensions((KEY_USAGE, CRITICAL, bytes.fromhex("030100"))),
    "usage twice": lambda: with_extensions(*[(KEY_USAGE, CRITICAL, bytes.fromhex("03020780"))] * 2),
    "usage that is no BIT STRING": lambda: with_extensions((KEY_USAGE, NOT_CRITICAL, bytes.fromhex("04020780"))),
    # Other extensions.
    "critical FALSE is written": lambda: with_extensions((KEY_USAGE, FALSE, bytes.fromhex("03020780"))),
    "for an authority, damaged": lambda: with_extensions((BASIC_CONSTRAINTS, CRITICAL, b"\x05\x00")),
    **{
        f"critical {oid}": lambda oid=oid: with_critical(oid)
        for oid in [
            "2.5.29.9",
            "2.5.29.14",
            "2.5.29.16",
            "2.5.29.17",
            "2.5.29.18",
            "2.5.29.30",
            "2.5.29.31",
            "2.5.29.32",
            "2.5.29.33",
            "2.5.29.35",
            "2.5.29.36",
            "2.5.29.46",
            "2.5.29.54",
            "2.5.29.56",
            "1.3.6.1.5.5.7.1.1",
            "1.3.6.1.5.5.7.1.3",
            "1.3.6.1.5.5.7.1.11",
            "1.3.6.1.5.5.7.1.12",
            "1.3.6.1.5.5.7.1.14",
            "1.3.6.1.5.5.7.1.24",
            "1.3.6.1.5.5.7.1.31",
            "1.3.6.1.5.5.7.48.1.5",
            "1.3.6.1.4.1.11129.2.4.2",
            "1.3.6.1.4.1.11129.2.4.3",
            "1.3.6.1.4.1.311.21.7",
            "1.3.6.1.4.1.311.21.10",
            "2.16.840.1.113730.1.1",
            "2.16.840.1.113730.1.13",
            "1.3.6.1.4.1.99999.4294967296",
        ]
    },
    "two critical": lambda: with_extensions(
        *[(oid_bytes(f"1.3.6.1.4.1.99999.{last}"), CRITICAL, b"\x05\x00") for last in (1, 2)]
    ),
    "precertificate, not critical": lambda: with_extensions(
        (oid_bytes("1.3.6.1.4.1.11129.2.4.3"), NOT_CRITICAL, b"\x05\x00")
    ),
    "for an authority, critical": lambda: certificate(
        extensions=[(x509.BasicConstraints(ca=True, path_length=None), True)]
    ),
    "purposes clientAuth and timeStamping": lambda: purposes("CLIENT_AUTH", "TIME_STAMPING"),
    "purpose timeStamping": lambda: purposes("TIME_STAMPING"),
    "purposes timeStamping and OCSPSigning": lambda: purposes("TIME_STAMPING", "OCSP_SIGNING"),
    "unknown extension": lambda: certificate(extensions=[(UNKNOWN, False)]),
    "unknown critical extension": lambda: certificate(extensions=[(UNKNOWN, True)]),
    # Forms.
    "version 1": lambda: with_field(certificate(), VERSION, None),
    "bytes after it": lambda: certificate() + b"\0",
}

if __name__ == "__main__":
    main()
