"""``sealed-redis://`` and ``sealed-rediss://``."""

import ssl
from queue import Empty

from kombu.transport import redis

from .virtual import GARBAGE, ChannelMixin, MessageMixin, TransportMixin


class Message(MessageMixin, redis.Channel.Message):
    """A message from Redis."""


class Channel(ChannelMixin, redis.Channel):
    """A channel to Redis that seals."""

    Message = Message

    def _brpop_read(self, **options):
        return self._guarded(super()._brpop_read, "a queue", **options)

    def _receive_one(self, *args):
        return self._guarded(super()._receive_one, "a broadcast", *args)

    def _guarded(self, read, where, *args, **kwargs):
        """Reads one item. If it is none of kombu's it is refused, and the next one is read in the next turn."""
        self._delivering = False
        try:
            return read(*args, **kwargs)
        except GARBAGE as error:
            # Once a consumer has it, what is raised is the consumer's.
            if self._delivering:
                raise
            self._refuse_garbage(error, where)
            raise Empty() from None


class QoS(redis.QoS):
    """Puts back what was not acknowledged, unless somebody wrote garbage there."""

    def restore_by_tag(self, tag, client=None, leftmost=False):
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except GARBAGE as error:
            with self.channel.conn_or_acquire(client) as redis_client:
                item = redis_client.hget(self.unacked_key, tag)
            self.channel._refuse_garbage(error, self.unacked_key, item)
            self._remove_from_indices(tag).execute()


Channel.QoS = QoS


class Transport(TransportMixin, redis.Transport):
    """Redis with sealed messages."""

    Channel = Channel


class SSLTransport(Transport):
    """Redis over TLS with sealed messages. The server's certificate is verified unless `ssl` says otherwise."""

    def __init__(self, client, **kwargs):
        if not client.ssl:
            client.ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        super().__init__(client, **kwargs)
