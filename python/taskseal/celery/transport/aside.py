"""Messages that are put into another queue of AMQP, or behind the others of their own, as they are."""

import contextlib

import amqp

from ..sealing import CONTENT_TYPE

#: How long to wait until the broker says that it has a message, in seconds.
PATIENCE = 5.0


class Aside:
    """Puts messages where they are kept, and returns when the broker has them. Raises when it may not have them.

    By a connection of its own: whoever waits for an answer on the one that messages come by is given more of them meanwhile.
    """

    def __init__(self, *args, **kwargs):
        """With what a connection to the same broker is made of."""
        self._arguments = args, {**kwargs, "confirm_publish": True, "heartbeat": 0}
        self._connection = self._channel = None
        self._declared = set()

    def keep(self, msg, queue, most):
        """Puts it into a queue that keeps the last so many messages. One that is there already stays as it is."""
        with self._opened():
            if queue not in self._declared:
                self._declare(queue, most)
                self._declared.add(queue)
            # It does not expire there.
            self._put(msg.body, queue, {"content_type": CONTENT_TYPE, "content_encoding": "utf-8"})

    def put(self, msg, queue):
        """Puts it behind the others of a queue. It has no priority there, with which it would be delivered first again."""
        properties = {name: value for name, value in msg.properties.items() if name != "priority"}
        with self._opened():
            self._put(msg.body, queue, properties)

    def waiting(self, queue):
        """How many messages are in a queue and with nobody."""
        with self._opened():
            return self._channel.queue_declare(queue, passive=True).message_count

    def close(self):
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    @contextlib.contextmanager
    def _opened(self):
        try:
            if self._connection is None:
                args, kwargs = self._arguments
                self._connection = amqp.Connection(*args, **kwargs)
                self._connection.connect()
                self._channel = self._connection.channel()
            yield
        except BaseException:
            # The next one begins anew: nobody knows what the answer to a later question would belong to.
            self.close()
            raise

    def _declare(self, queue, most):
        options = {"durable": True, "auto_delete": False}
        try:
            self._channel.queue_declare(queue, arguments={"x-max-length": most}, **options)
        except amqp.PreconditionFailed:
            # An operator's, or of another limit. The broker has closed the channel.
            self._channel = self._connection.channel()
            self._channel.queue_declare(queue, passive=True)

    def _put(self, body, queue, properties):
        message = amqp.Message(body, **{"delivery_mode": 2, **properties})
        # Whatever cannot be routed comes back and raises.
        self._channel.basic_publish(message, "", queue, mandatory=True, confirm_timeout=PATIENCE)
