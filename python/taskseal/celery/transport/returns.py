"""Messages of AMQP that are given back: behind the others of their queue, where that is possible."""

import time

from amqp import Channel

from ..refusals import logger
from .aside import Aside
from .waiting import RETRY, Pauses, Rounds, Seldom, say_returned

#: For how long nothing is put at the end of a queue after the broker did not let us, in seconds.
REFUSED = 30.0
#: How many messages are under way, for the length of a round, where any number may be.
UNLIMITED = 100


class Returns:
    """Gives messages back for the channels of one connection.

    What is rejected goes back to the head of most queues, where it keeps others waiting, and quorum queues drop what was
    rejected too often. So a copy is put behind the others, and the message acknowledged.
    """

    def __init__(self, *args, **kwargs):
        """With what a connection to the same broker is made of."""
        self.aside = Aside(*args, **kwargs)
        self._rounds = Rounds()
        self._seldom = Seldom(RETRY)
        self._pauses = Pauses()

    def give_back(self, channel, msg, queue, error, *, to_the_end=True):
        """Gives a message back that was delivered on a channel. Then waits, and not before: another worker may be able to
        tell, and this one may end.
        """
        tag = msg.delivery_info["delivery_tag"]
        moved = to_the_end and self._moved(msg, queue)
        if moved:
            Channel.basic_ack(channel, tag)
        else:
            Channel.basic_reject(channel, tag, requeue=True)
        say_returned(error, queue, self._seldom)
        if self._rounds.over(queue, lambda: self._before(channel, msg, queue, moved)):
            time.sleep(RETRY if error.pause is None or not moved else error.pause)

    def _before(self, channel, msg, queue, moved):
        """How many messages come until one that was given back comes again: those that were delivered already, which may be as
        many as the prefetch count, and those in the queue.
        """
        sent_ahead = channel.prefetch if "consumer_tag" in msg.delivery_info else 1
        # What is rejected goes to the head of its queue.
        return sent_ahead + (self.aside.waiting(queue) - 1 if moved else 0)

    def _moved(self, msg, queue):
        if self._pauses.on("aside"):
            return False
        try:
            self.aside.put(msg, queue)
        except Exception as error:
            self._pauses.begin("aside", REFUSED)
            logger.error("a message cannot be put at the end of the queue %r: %s", queue, error)
            return False
        return True


class ReturnsMixin:
    """A channel whose connection has `Returns`. It knows how many messages are under way to it at most, and for which queues."""

    prefetch = UNLIMITED

    def __init__(self, *args, **kwargs):
        self._queues = {}
        super().__init__(*args, **kwargs)

    def basic_consume(self, queue="", *args, **kwargs):
        consumer_tag = super().basic_consume(queue, *args, **kwargs)
        self._queues[consumer_tag] = queue
        return consumer_tag

    def basic_cancel(self, consumer_tag, *args, **kwargs):
        self._queues.pop(consumer_tag, None)
        return super().basic_cancel(consumer_tag, *args, **kwargs)

    def leave(self, message, error):
        """Gives back a message of kombu's that was handed out. One that has its `raw` message still goes to the end."""
        queue = self._queues.get(message.delivery_info.get("consumer_tag"))
        raw = getattr(message, "raw", None)
        to_the_end = raw is not None and queue is not None
        self.connection.returns.give_back(self, raw or message, queue, error, to_the_end=to_the_end)
        message._state = "REQUEUED"

    def basic_qos(self, prefetch_size, prefetch_count, a_global, *args, **kwargs):
        self.prefetch = prefetch_count or UNLIMITED
        return super().basic_qos(prefetch_size, prefetch_count, a_global, *args, **kwargs)
