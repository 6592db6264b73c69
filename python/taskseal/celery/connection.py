"""Connections of an application that seals: each time one is made, its transport is a sealed one or there is none. And those of
an application that signs bodies, whose transports are guarded where they can be.

Settings, the environment and the command line can change URLs after `setup_sealing`, and a failover list leads to others.
"""

import kombu
from celery.exceptions import ImproperlyConfigured
from kombu.connection import ConnectionPool, PooledConnection

from . import transport
from .transport import plain


class SealedMixin:
    """A connection of kombu's that uses sealed transports alone."""

    def get_transport_cls(self):
        found = super().get_transport_cls()
        if not transport.is_sealed(found):
            raise ImproperlyConfigured(f"the transport {found.__module__}.{found.__qualname__} is not sealed")
        return found

    def Pool(self, limit=None, **kwargs):
        return Pool(self, limit, **kwargs)

    def __eqhash__(self):
        # kombu shares pools between equal connections.
        return ("sealed", super().__eqhash__())


class Connection(SealedMixin, kombu.Connection):
    """What `app.connection_for_read` and all the others give."""


class Pooled(SealedMixin, PooledConnection):
    """One of a pool."""


class Pool(ConnectionPool):
    """A pool of such connections."""

    def new(self):
        return Pooled(self, **dict(self.connection._info(resolve=False)))


class GuardedMixin:
    """A connection of kombu's whose transport is guarded, if it is one of those that can be."""

    #: Counts what the transport refuses.
    refusals = None

    def get_transport_cls(self):
        found = super().get_transport_cls()
        return plain.guarded(found) or found

    def Pool(self, limit=None, **kwargs):
        return GuardedPool(self, limit, **kwargs)

    def __eqhash__(self):
        return ("guarded", super().__eqhash__())


class GuardedPool(ConnectionPool):
    """A pool of such connections."""

    def new(self):
        pooled = type("Pooled", (GuardedMixin, PooledConnection), {"refusals": self.connection.refusals})
        return pooled(self, **dict(self.connection._info(resolve=False)))


def guarded(refusals):
    """The class of the connections of an application that signs bodies."""
    return type("Connection", (GuardedMixin, kombu.Connection), {"refusals": refusals})
