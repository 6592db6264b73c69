"""Applications with sealed messages, made in the test's own process."""

from celery import Celery


def files(directory, identity):
    """Writes what an identity's application reads; its settings, with a broker in memory and no result backend."""
    trust = directory / "trusted"
    trust.mkdir(exist_ok=True)
    (trust / "one.pem").write_text(identity.pem)
    (directory / "key.pem").write_text(identity.key_pem)
    return {
        "broker_url": "sealed-memory://",
        "security_key": str(directory / "key.pem"),
        "security_certificate": str(trust / "one.pem"),
        "security_cert_store": str(trust),
    }


def application(settings, **more):
    """Not set up yet."""
    made = Celery("tests", set_as_current=False)
    made.conf.update({**settings, **more})
    return made
