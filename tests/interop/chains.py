"""Makes certificates as authorities and their tools make them, and prints them as JSON: an object of PEM by name."""
import datetime
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
CA = x509.BasicConstraints(ca=True, path_length=None)
NO_CA = x509.BasicConstraints(ca=False, path_length=None)


class Party:
    """A name and a key, which may have several certificates."""

    def __init__(self, name, kind="rsa"):
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())

    def certificate(self, issuer=None, *extensions, ids=True, issuer_name=None, authority_key=None):
        """A certificate for it by `issuer`, or by itself."""
        issuer = issuer or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer_name or issuer.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + 30 * DAY)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        if ids:
            key = (authority_key or issuer.key).public_key()
            builder = builder.add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key), critical=False)
        made = builder.sign(issuer.key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()


def usage(**uses):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: name in uses for name in names})


def main():
    certs_only, signs_too = usage(key_cert_sign=True), usage(key_cert_sign=True, digital_signature=True)
    root, intermediate = Party("Root"), Party("Intermediate")
    other_intermediate = Party("Intermediate")
    ec_root, ec_intermediate = Party("EC root", "ec"), Party("EC intermediate", "ec")
    old = Party("Old authority")
    loud = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "  INTERMEDIATE ", _type=x509.name._ASN1Type.PrintableString)])
    made = {
        "root": root.certificate(None, CA, signs_too),
        "intermediate": intermediate.certificate(root, CA, certs_only),
        "intermediate without usage": intermediate.certificate(root, CA),
        "intermediate that signs too": intermediate.certificate(root, CA, signs_too),
        "intermediate, cross-signed": intermediate.certificate(ec_root, CA),
        "intermediate, other key": other_intermediate.certificate(root, CA, certs_only),
        "EC root": ec_root.certificate(None, CA, certs_only),
        "EC intermediate": ec_intermediate.certificate(ec_root, CA, certs_only),
        "old root": old.certificate(ids=False),
        "old leaf": Party("old worker").certificate(old, ids=False),
        "leaf of root": Party("worker of root").certificate(root, NO_CA),
        "leaf": Party("worker").certificate(intermediate, NO_CA),
        "other leaf": Party("other").certificate(intermediate, NO_CA),
        "leaf of EC": Party("worker of EC").certificate(ec_intermediate, NO_CA),
        "leaf, name in capitals": Party("shouter").certificate(intermediate, NO_CA, issuer_name=loud),
        "leaf without ids": Party("plain").certificate(intermediate, NO_CA, ids=False),
        "EC leaf": Party("EC worker", "ec").certificate(intermediate, NO_CA),
        # As `openssl req -x509` makes them.
        "self-signed CA": Party("own").certificate(None, CA),
        "self-signed CA 2": Party("own 2").certificate(None, CA),
        "self-signed": Party("simple").certificate(None, ids=False),
        # Two of one name: neither issued the other.
        "namesake": Party("same").certificate(None, ids=False),
        "namesake 2": Party("same").certificate(None, ids=False),
    }
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main()
