"""Transports that seal whole messages: body, headers, properties and content type.

A broker sees the exchange, the routing key, the priority, the expiration and the delivery mode, and one text. The classes
for kombu's transports are made from two mixins: `taskseal.celery.transport.virtual` for all that build on kombu's virtual
channel, and `taskseal.celery.transport.pyamqp`.
"""

from kombu.transport import TRANSPORT_ALIASES

#: Schemes of sealed transports. Each URL of a failover list needs its own.
SEALED = {
    "sealed-amqp": "taskseal.celery.transport.pyamqp:Transport",
    "sealed-amqps": "taskseal.celery.transport.pyamqp:SSLTransport",
    "sealed-redis": "taskseal.celery.transport.redis:Transport",
    "sealed-rediss": "taskseal.celery.transport.redis:SSLTransport",
    "sealed-memory": "taskseal.celery.transport.memory:Transport",
    "sealed-filesystem": "taskseal.celery.transport.filesystem:Transport",
}


def register():
    """Tells kombu the schemes."""
    TRANSPORT_ALIASES.update(SEALED)


def is_sealed(transport):
    """Whether the messages of a transport's class are sealed: one of ours, or one that was made of the mixins."""
    from . import plain, pyamqp, virtual

    channel = getattr(transport, "Channel", None) or object
    if issubclass(channel, plain.ChannelMixin):
        return False
    return issubclass(channel, virtual.ChannelMixin) or issubclass(
        getattr(transport, "Connection", None) or object, pyamqp.Connection
    )
