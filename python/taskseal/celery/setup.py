"""`setup_sealing`: an application whose messages and results are sealed whole."""

from celery.app.backends import by_url
from celery.exceptions import ImproperlyConfigured

from ..errors import TasksealError
from ..kombu_fernet import from_text
from . import compression, guard, transport
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

#: The settings beyond Celery's own, and the options of `Sealing` that they become.
SETTINGS = {
    "sealing_max_age": "max_age",
    "sealing_result_max_age": "result_max_age",
    "sealing_clock_skew": "clock_skew",
    "sealing_broadcast_skew": "broadcast_skew",
    "sealing_max_message_len": "max_len",
    "sealing_max_body_len": "max_body_len",
    "sealing_refused": "refused",
    "sealing_dead_letter_queue": "dead_letter_queue",
    "sealing_bindings": "bindings",
    "sealing_on_refused": "on_refused",
    "sealing_dangerous_ignore_critical": "dangerous_ignore_critical",
}

#: All of them: these are read for themselves.
KNOWN = {*SETTINGS, "sealing_replay", "sealing_reload_interval", "sealing_salt", "sealing_encryption_keys"}


def setup_sealing(app=None, *, key=None, key_password=None, cert=None, store=None, digest=None, encryption_keys=None):
    """Makes `app` seal its messages and results whole. Returns the `Sealing`.

    The key, the certificate and the store are those of `setup_security`, from the same settings. With
    ``sealing_encryption_keys`` everything is encrypted too. Call it where the app is made, after it was configured: it checks
    that every URL of the broker, and the result backend, is a sealed one.
    """
    if app is None:
        from celery import current_app

        app = current_app._get_current_object()
    conf = app.conf
    key = key or conf.security_key
    key_password = key_password or conf.security_key_password
    cert = cert or conf.security_certificate
    store = store or conf.security_cert_store
    digest = digest or conf.security_digest
    if not (key and cert and store):
        raise ImproperlyConfigured(SETTING_MISSING)
    check_options(conf)

    digest = get_digest_algorithm(digest)
    interval = conf.get("sealing_reload_interval", 5.0)
    options = {option: conf[name] for name, option in SETTINGS.items() if conf.get(name) is not None}
    replay = conf.get("sealing_replay")
    if isinstance(replay, str):
        replay = RedisMemory(replay)
    signer = PrivateKey(key if is_uri(key) else read(key), key_password).signer(
        Certificate(read(cert)), digest, conf.get("sealing_salt", "digest")
    )
    trusted = FSCertStore(store, interval, options.get("dangerous_ignore_critical", ())).native
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
    check_urls(app)
    return sealing


def check_options(conf):
    """Refuses settings that would be taken for something else."""
    for name in conf:
        if isinstance(name, str) and name.startswith("sealing_") and name not in KNOWN:
            raise ImproperlyConfigured(f"There is no setting {name}; there are {', '.join(sorted(KNOWN))}")


def check_urls(app):
    """Refuses a broker or a result backend that is not sealed, in whatever place of a failover list."""
    conf = app.conf
    if conf.broker_transport:
        raise ImproperlyConfigured("broker_transport overrules the sealed scheme of the URL: leave it out")
    for name in ("broker_url", "broker_read_url", "broker_write_url"):
        urls = getattr(conf, name)
        if callable(urls):
            urls = urls()
        # Without a URL Celery takes amqp://.
        for url in [urls] if isinstance(urls, str) else urls or ["amqp://"]:
            for one in url.split(";"):
                scheme = one.partition("://")[0]
                if scheme not in transport.SEALED:
                    raise ImproperlyConfigured(
                        f"{name} has the scheme {scheme!r}, which is not sealed; use one of {', '.join(transport.SEALED)}"
                    )
    check_backend(app)


def check_backend(app):
    from .backends import SEALED, SealedBackendMixin

    app.loader.override_backends = {**app.loader.override_backends, **SEALED}
    backend = app.conf.result_backend
    if not backend:
        return
    if isinstance(backend, str):
        backend, _ = by_url(backend, app.loader)
    # rpc:// sends results through the broker, which is sealed; `disabled` stores none.
    names = {"celery.backends.rpc.RPCBackend", "celery.backends.base.DisabledBackend"}
    if f"{backend.__module__}.{backend.__qualname__}" not in names and not issubclass(backend, SealedBackendMixin):
        raise ImproperlyConfigured(
            f"the result backend {backend.__name__} is not sealed; use one of {', '.join(SEALED)}, rpc, or a class of your "
            "own with taskseal.celery.backends.SealedBackendMixin"
        )


def fernet(text):
    """A key of Fernet: its text, ``file:`` and the path of a file that holds it, or the ``pkcs11:`` URI of keys on a token."""
    if text.startswith("file:"):
        text = read(text.removeprefix("file:")).strip()
    try:
        return from_text(text)
    except TasksealError as error:
        raise ImproperlyConfigured(f"sealing_encryption_keys: {error}") from error


def read(path):
    """The text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()
