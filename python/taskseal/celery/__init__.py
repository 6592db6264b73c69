"""taskseal for Celery: a drop-in for `celery.security`, and transports that seal whole messages.

`setup_security` makes an application sign and verify the bodies of its messages as Celery's own does, with keys that may be
on a PKCS#11 token. See `docs/celery.md` for what is refused. `setup_sealing` seals whole messages and results.
"""

from functools import partial

from celery.exceptions import ImproperlyConfigured
from kombu.serialization import disable_insecure_serializers as _disable_insecure_serializers
from kombu.serialization import registry

from . import connection, guard, settings
from .certificate import CLOCK_SKEW, Certificate, CertStore, FSCertStore
from .compression import MAX_BODY_LEN
from .key import PrivateKey, is_uri
from .sealing import logger
from .serialization import SecureSerializer, register_auth
from .setup import read, setup_sealing
from .transport.plain import Unsealed

__all__ = (
    "CertStore",
    "Certificate",
    "FSCertStore",
    "PrivateKey",
    "SecureSerializer",
    "disable_untrusted_serializers",
    "register_auth",
    "setup_sealing",
    "setup_security",
)

SECURITY_SETTING_MISSING = """\
Sorry, but you have to configure the
    * security_key
    * security_certificate, and the
    * security_cert_store
configuration settings to use the auth serializer.

Please see the configuration reference for more information.
"""

SETTING_MISSING = """\
You have to configure a special task serializer
for signing and verifying tasks:
    * task_serializer = 'auth'

You have to accept only tasks which are serialized with 'auth'.
There is no point in signing messages if they are not verified.
    * accept_content = ['auth']
"""


def setup_security(allowed_serializers=None, key=None, key_password=None, cert=None, store=None, digest=None,
                   serializer="json", app=None, *, salt="digest", reload_interval=5.0,
                   max_body_len=MAX_BODY_LEN, clock_skew=CLOCK_SKEW, refused="ack",
                   dangerous_ignore_critical=(), reload_grace=300.0):  # fmt: skip
    """Makes `app` sign what it sends and accept nothing that is not signed.

    As :meth:`celery.Celery.setup_security`, from the same settings, with the same exceptions. `key` (``security_key``) is
    the file of a key or the ``pkcs11:`` URI of one on a token, then `key_password` is the PIN if the URI names no source for
    it. Bodies are accepted that are serialized with `serializer` or with one of `allowed_serializers`, and that have at most
    `max_body_len` bytes when they are decompressed. Certificates count for `clock_skew` seconds before their beginning and
    after their end, because clocks differ. `dangerous_ignore_critical` are OIDs of critical extensions that a signer's
    certificate may have although nobody here understands them. The store is looked at every `reload_interval` seconds, and
    a file in it that cannot be read keeps what it gave for `reload_grace` seconds.

    A worker of `app` acknowledges what it refuses (`refused` ``ack``), or rejects it (``dead-letter``), so that AMQP puts it
    where the queue's policy says. It does not start, or ends when it connects anew, once the settings accept more than what
    is signed.
    """
    if app is None:
        from celery import current_app

        app = current_app._get_current_object()

    _disable_insecure_serializers(allowed_serializers)

    # A misspelt `security_digest` would be the default, and a setting of `setup_sealing` that is none would seal nothing.
    settings.check(app)
    settings.hide()
    conf = app.conf
    check_settings(conf)

    key = key or conf.security_key
    key_password = key_password or conf.security_key_password
    cert = cert or conf.security_certificate
    store = store or conf.security_cert_store
    digest = digest or conf.security_digest

    if not (key and cert and store):
        raise ImproperlyConfigured(SECURITY_SETTING_MISSING)

    serializer_of_app = register_auth(
        key if is_uri(key) else read(key),
        key_password,
        read(cert),
        store,
        digest,
        serializer,
        accept=allowed_serializers or (),
        salt=salt,
        reload_interval=reload_interval,
        max_body_len=max_body_len,
        clock_skew=clock_skew,
        dangerous_ignore_critical=dangerous_ignore_critical,
        reload_grace=reload_grace,
    )
    registry._set_default_serializer("auth")
    refusals = Unsealed(refused)
    guard.install(app, refusals=refusals, store=serializer_of_app._cert_store)
    if not issubclass(app.amqp.Connection, connection.SealedMixin):
        app.amqp.Connection = connection.guarded(refusals)
        # What was connected before is not guarded.
        app._pool = app.amqp._producer_pool = None
    if conf.event_serializer == "auth":
        app.events.receiver_cls = "taskseal.celery.events:SignedEventReceiver"
    app.amqp.TaskConsumer = partial(task_consumer, app)

    if conf.result_accept_content is not None and list(conf.result_accept_content) != ["auth"]:
        logger.warning(
            "result_accept_content is %r: results are taken that nobody signed. Use result_serializer='auth' and leave it out, "
            "or seal results (setup_sealing)",
            conf.result_accept_content,
        )


def check_settings(conf):
    """Refuses settings with which something is accepted or sent that is not signed."""
    if conf.task_serializer != "auth" or list(conf.accept_content or ()) != ["auth"]:
        raise ImproperlyConfigured(SETTING_MISSING)


def task_consumer(app, channel, queues=None, accept=None, **options):
    """`app.amqp.TaskConsumer` that looks at the settings once more: they may have been changed since `setup_security`."""
    check_settings(app.conf)
    if accept is not None and list(accept) != ["auth"]:
        raise ImproperlyConfigured(SETTING_MISSING)
    worker = getattr(options.get("on_decode_error"), "__self__", None)
    if worker is not None and not hasattr(worker, "guard"):
        raise ImproperlyConfigured("worker_consumer was changed after setup_security: set it before")
    return type(app.amqp).TaskConsumer(app.amqp, channel, queues=queues, **options)


def disable_untrusted_serializers(whitelist=None):
    """Lets kombu load only what these serializers made."""
    _disable_insecure_serializers(allowed=whitelist)
