"""`setup_sealing`: an application whose messages and results are sealed whole."""

from celery.exceptions import ImproperlyConfigured

from ..errors import TasksealError
from ..kombu_fernet import from_text
from . import application, compression, guard, settings, transport
from . import sealing as _sealing
from .certificate import Certificate, FSCertStore
from .key import PrivateKey, is_uri
from .replay import RedisMemory
from .utils import get_digest_algorithm

SETTING_MISSING = """\
Sorry, but you have to configure the
    * security_key
    * security_certificate, and the
    * security_cert_store
configuration settings to seal messages.
"""


def setup_sealing(app=None, *, key=None, key_password=None, cert=None, store=None, digest=None, encryption_keys=None):
    """Makes `app` seal its messages and results whole. Returns the `Sealing`.

    The key, the certificate and the store are those of `setup_security`, from the same settings. With
    ``sealing_encryption_keys`` everything is encrypted too. Call it where the app is made, after it was configured: it checks
    that every URL of the broker, and the result backend, is a sealed one.
    """
    if app is None:
        from celery import current_app

        app = current_app._get_current_object()
    settings.check(app)
    settings.check_kind("sealing_encryption_keys", encryption_keys)
    settings.hide()
    conf = app.conf
    key = key or conf.security_key
    key_password = key_password or conf.security_key_password
    cert = cert or conf.security_certificate
    store = store or conf.security_cert_store
    digest = digest or conf.security_digest
    if not (key and cert and store):
        raise ImproperlyConfigured(SETTING_MISSING)

    digest = get_digest_algorithm(digest)
    interval = conf.get("sealing_reload_interval", 5.0)
    grace = conf.get("sealing_reload_grace")
    options = {option: conf[name] for name, option in settings.SETTINGS.items() if conf.get(name) is not None}
    replay = conf.get("sealing_replay")
    if isinstance(replay, str):
        replay = RedisMemory(replay)
    signer = PrivateKey(key if is_uri(key) else read(key), key_password).signer(
        Certificate(read(cert)), digest, conf.get("sealing_salt", "digest")
    )
    trusted = FSCertStore(
        store, interval, options.get("dangerous_ignore_critical", ()), reload_grace=300.0 if grace is None else grace
    ).native
    fernets = [fernet(text) for text in encryption_keys or conf.get("sealing_encryption_keys") or ()]
    try:
        sealing = _sealing.Sealing(signer, trusted, fernets, digest=digest, replay=replay, **options)
    except ValueError as error:
        raise ImproperlyConfigured(f"The settings sealing_... cannot be used: {error}") from error
    _sealing.use(sealing)
    guard.install(app, refusals=sealing)
    # For results, which Celery decompresses with kombu's functions. Messages are decompressed by the transports.
    compression.limit(sealing.max_body_len)
    transport.register()
    application.guard(app)
    return sealing


def fernet(text):
    """A key of Fernet: its text, ``file:`` and the path of a file that holds it, or the ``pkcs11:`` URI of keys on a token."""
    failed = None
    try:
        return from_text(read(text.removeprefix("file:")) if text.startswith("file:") else text)
    except TasksealError as error:
        failed = str(error)
    raise ImproperlyConfigured(f"sealing_encryption_keys: {failed}")


def read(path):
    """The bytes of a file."""
    with open(path, "rb") as file:
        return file.read()
