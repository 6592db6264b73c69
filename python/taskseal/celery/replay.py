"""What was handled already, so that a repeated message is not handled again.

A memory has `contains(key)` and `remember(key, until, now)`; the latter says whether the key was new. Keys are bytes, times
seconds since 1970; `until` is when the message is too old by itself. A memory that cannot answer raises. One that may have to
forget what counts has `forgot(key, until)`: whether it did so with messages of the same signer that are as old. All keys of
one signer begin with the same eight bytes.
"""

import hashlib
import time

from celery.exceptions import ImproperlyConfigured

from .. import _native
from . import tls

#: Parameters of a URL of Redis that are a pool's, and not a connection's.
POOL = {"connection_class", "max_connections", "timeout"}


class ProcessMemory:
    """Remembers in this process: a worker that is started anew, or another one, knows nothing of it.

    When it is full, it forgets what would be too old first, of the signers with the most, and takes nothing of theirs that
    is as old as that any more. A message takes about 50 bytes.
    """

    def __init__(self, capacity=900_000):
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ValueError(f"replay_capacity={capacity!r} is no number of messages")
        self._memory = _native.MemoryReplay(capacity)

    def contains(self, key):
        return self._memory.contains(key, time.time())

    def forgot(self, key, until):
        return self._memory.forgot(key, until)

    def remember(self, key, until, now):
        return self._memory.remember(key, until, now)

    def __len__(self):
        return len(self._memory)

    def __bool__(self):
        # An empty one is one all the same.
        return True


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
