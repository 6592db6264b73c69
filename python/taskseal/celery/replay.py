"""What was handled already, so that a repeated message is not handled again.

A memory has `contains(key)` and `remember(key, until, now)`; the latter says whether the key was new. Keys are bytes, times
seconds since 1970. A memory that cannot answer raises.
"""

import hashlib
import os
import threading
import time
from collections import OrderedDict

from celery.exceptions import ImproperlyConfigured

from . import tls

#: Parameters of a URL of Redis that are a pool's, and not a connection's.
POOL = {"connection_class", "max_connections", "timeout"}


class ProcessMemory:
    """Remembers in this process: a worker that is started anew, or another one, knows nothing of it."""

    def __init__(self, capacity=100_000):
        self._capacity = capacity
        self._until = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def contains(self, key):
        with self._own():
            return self._until.get(key, 0) >= time.time()

    def remember(self, key, until, now):
        with self._own():
            if self._until.get(key, 0) >= now:
                return False
            # About in the order of their ends, as messages of one queue are about equally old.
            while self._until and (
                len(self._until) >= self._capacity or next(iter(self._until.values())) < now
            ):
                self._until.popitem(last=False)
            self._until[key] = until
            return True

    def _own(self):
        # A lock that was held when the process forked is held for ever.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock


class RedisMemory:
    """Remembers in Redis, for all workers that use the same: ``SET key NX`` with an expiry.

    Whoever may write to it can make messages be refused or repeated: use another Redis than the broker's, or another user
    with rights on these keys alone.
    """

    def __init__(self, url, *, prefix="taskseal-replay:", timeout=5.0):
        self._options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, **parameters(url)}
        self._prefix = prefix.encode()
        self._client = None

    def contains(self, key):
        return bool(self._redis().exists(self._name(key)))

    def remember(self, key, until, now):
        seconds = max(1, int(until - now) + 1)
        return bool(self._redis().set(self._name(key), b"1", nx=True, ex=seconds))

    def _name(self, key):
        return self._prefix + hashlib.sha256(key).hexdigest().encode()

    def _redis(self):
        # redis-py's pools notice a fork themselves.
        if self._client is None:
            import redis

            self._client = redis.Redis(connection_pool=redis.ConnectionPool(**self._options))
        return self._client

    def __repr__(self):
        return f"<{type(self).__name__}>"


def parameters(url):
    """What redis-py makes of a URL. Whatever is wrong with it is said now, and nothing of the URL: it may hold a password."""
    from redis.connection import Connection, parse_url

    failed = None
    try:
        options = tls.for_redis_url(parse_url(url))
        # It only connects when it is used.
        options.get("connection_class", Connection)(**{k: v for k, v in options.items() if k not in POOL})
    except ImproperlyConfigured as error:
        failed = str(error)
    except Exception as error:
        failed = f"it is no URL that redis-py can use ({type(error).__name__})"
    if failed:
        raise ImproperlyConfigured(f"the URL of the replay memory: {failed}")
    return options
