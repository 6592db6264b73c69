"""An application that uses sealed connections and sealed result backends alone, whatever its settings become."""

from functools import partial

from celery.app.backends import by_url
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend
from celery.exceptions import ImproperlyConfigured

from . import transport
from .connection import Connection, Pool


def guard(app):
    """Refuses a broker or a result backend that is not sealed: now, and whenever one is used from now on.

    Settings can change later, and so can the environment and the command line.
    """
    if app._pool is not None and not isinstance(app._pool, Pool):
        raise ImproperlyConfigured("the application has connected to a broker before setup_sealing")
    if app._backend is not None and not is_sealed(type(app._backend)):
        raise ImproperlyConfigured("the application has used a result backend before setup_sealing")
    app.amqp.Connection = Connection
    app._get_backend = partial(sealed_backend, app)
    check_urls(app)
    check_backend(app)


def check_urls(app):
    """Makes each connection that the settings name, in whatever place of a failover list, without connecting it."""
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
                failed = failure(lambda one=one: app.connection_for_read(one).transport)
                if failed:
                    raise ImproperlyConfigured(f"{name}: {failed}; it needs one of the schemes {', '.join(transport.SEALED)}")


def sealed_backend(app):
    """`app._get_backend`, for the settings as they are by then."""
    check_backend(app)
    return type(app)._get_backend(app)


def check_backend(app):
    from .backends import SEALED, SealedRedisBackend

    app.loader.override_backends = {**app.loader.override_backends, **SEALED}
    wanted, found = app.backend_cls or app.conf.result_backend, []
    failed = failure(lambda: found.append(by_url(wanted, app.loader)[0]))
    if not failed and not is_sealed(found[0]):
        failed = f"{found[0].__name__} is not sealed"
    elif not failed and issubclass(found[0], SealedRedisBackend):
        # It connects when it is used.
        failed = failure(lambda: type(app)._get_backend(app))
    if failed:
        raise ImproperlyConfigured(
            f"result_backend: {failed}; use one of {', '.join(SEALED)}, rpc, or a class of your own with "
            "taskseal.celery.backends.SealedBackendMixin"
        )


def is_sealed(backend):
    """Whether results are sealed: rpc:// sends them through the broker, and `disabled` stores none."""
    from .backends import SealedBackendMixin

    return issubclass(backend, (SealedBackendMixin, RPCBackend, DisabledBackend))


def failure(make):
    """Why it cannot be made, or None. Texts of others may have a part of a password in them."""
    try:
        make()
    except ImproperlyConfigured as error:
        return str(error)
    except Exception as error:
        return f"it cannot be used ({type(error).__name__})"
