"""``sealed-filesystem://``."""

from kombu.transport import filesystem

from .virtual import ChannelMixin, MessageMixin, TransportMixin


class Message(MessageMixin, filesystem.Channel.Message):
    """A message from a file."""


class Channel(ChannelMixin, filesystem.Channel):
    """A channel to a directory that seals."""

    Message = Message


class Transport(TransportMixin, filesystem.Transport):
    """A directory with sealed messages."""

    Channel = Channel
