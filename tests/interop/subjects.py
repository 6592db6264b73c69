"""Reads certificates and certificate requests, whose PEM texts are a JSON list on standard input, and prints what stock Celery
makes of each: its id for a certificate, the values of the subject for a request. A warning of `cryptography` about a value
counts as an error.
"""
import json
import sys
import warnings

from celery.security.certificate import Certificate
from cryptography import x509

warnings.simplefilter("error")


def read(pem):
    try:
        if "REQUEST" in pem:
            subject = x509.load_pem_x509_csr(pem.encode()).subject
            return {"ok": " ".join(attribute.value for attribute in subject)}
        return {"ok": Certificate(pem).get_id()}
    except Exception as error:  # whatever it is, it cannot be used
        return {"error": f"{type(error).__name__}: {error}"}


json.dump([read(pem) for pem in json.load(sys.stdin)], sys.stdout)
