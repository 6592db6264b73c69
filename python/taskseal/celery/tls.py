"""TLS where a URL or a setting asks for it: always TLS, with a server's certificate and name that are verified.

Only the options themselves, by their name, say otherwise. What cannot be understood is an error at the start.
"""

from collections.abc import Mapping
from ssl import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED

from celery.exceptions import ImproperlyConfigured

#: How Celery, kombu and redis-py write what is asked of the server's certificate.
REQUIREMENTS = {
    "required": CERT_REQUIRED,
    "optional": CERT_OPTIONAL,
    "none": CERT_NONE,
    "CERT_REQUIRED": CERT_REQUIRED,
    "CERT_OPTIONAL": CERT_OPTIONAL,
    "CERT_NONE": CERT_NONE,
    CERT_REQUIRED: CERT_REQUIRED,
    CERT_OPTIONAL: CERT_OPTIONAL,
    CERT_NONE: CERT_NONE,
}


def for_redis(ssl):
    """The options of redis-py for a connection over TLS, from ``broker_use_ssl`` or the query of a URL."""
    options = _options(ssl)
    verified = _require(options, "ssl_cert_reqs") != CERT_NONE
    # Before its version 6, redis-py compares no names unless it is told to.
    if options.get("ssl_check_hostname") is None or not verified:
        options["ssl_check_hostname"] = verified
    return options


def for_redis_url(params):
    """The same for the parameters of a URL, as redis-py and Celery read them. A URL of another scheme is left alone."""
    import redis

    kind = params.get("connection_class")
    if not (isinstance(kind, type) and issubclass(kind, redis.SSLConnection)):
        return params
    return {**params, **for_redis({name: value for name, value in params.items() if name.startswith("ssl_")})}


def for_amqp(ssl, host):
    """The options of py-amqp for a connection over TLS. Those of a URL's query begin with ``ssl_``, as for Redis."""
    options = {
        name.removeprefix("ssl_") if name != "ssl_version" else name: value for name, value in _options(ssl).items()
    }
    if "context" in options:
        # These are for `ssl.create_default_context`, which verifies certificates, and no names unless it is told to.
        context = options["context"] = dict(options["context"])
        context.setdefault("check_hostname", True)
        options.setdefault("server_hostname", host)
        return options
    check = options.pop("check_hostname", True)
    if _require(options, "cert_reqs") != CERT_NONE and check and options.get("server_hostname") is None:
        # Without a name, py-amqp takes the certificate of any host.
        options["server_hostname"] = host
    return options


def _options(ssl):
    if ssl is True:
        return {}
    if not isinstance(ssl, Mapping):
        kind = type(ssl).__name__
        raise ImproperlyConfigured(f"the options of TLS are a dict, or True for all of its defaults, and not of type {kind}")
    return dict(ssl)


def _require(options, name):
    """Sets what is asked of the server's certificate: that it is verified, unless something else is said."""
    wanted = options.get(name, CERT_REQUIRED)
    if isinstance(wanted, bool) or not isinstance(wanted, (str, int)) or wanted not in REQUIREMENTS:
        # kombu makes None of what it does not know.
        raise ImproperlyConfigured(f"{name} of the options of TLS is none of required, optional and none")
    options[name] = REQUIREMENTS[wanted]
    return options[name]
