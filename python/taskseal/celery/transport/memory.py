"""``sealed-memory://``, for tests."""

from kombu.transport import memory

from .virtual import ChannelMixin, MessageMixin, TransportMixin


class Message(MessageMixin, memory.Channel.Message):
    """A message from memory."""


class Channel(ChannelMixin, memory.Channel):
    """A channel in memory that seals."""

    Message = Message


class Transport(TransportMixin, memory.Transport):
    """Memory with sealed messages."""

    Channel = Channel
