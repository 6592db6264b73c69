"""What is left alone for a while, and what is said once in a while."""

import time

from ..refusals import logger

#: How long a queue waits when nothing could be told of its messages, in seconds.
RETRY = 1.0


class Pauses:
    """Queues or keys that are not read until their time has come."""

    def __init__(self):
        self._until = {}

    def begin(self, name, seconds):
        self._until[name] = time.monotonic() + seconds

    def on(self, name):
        until = self._until.get(name)
        if until is not None and until <= time.monotonic():
            del self._until[name]
            return False
        return until is not None


class Rounds:
    """Says when every message of a queue was given back once: only then it is worth a pause.

    A pause after each of them would let anyone who can copy such messages hold up those that stand behind them.
    """

    #: How many messages a round has at most.
    LONGEST = 1000

    def __init__(self):
        self._left = {}

    def over(self, queue, waiting):
        """Whether a round is over, after a message was given back. `waiting` says how many are in the queue, and is asked
        once a round.
        """
        left = self._left.pop(queue, None)
        if left is None:
            try:
                left = max(1, min(waiting(), self.LONGEST))
            except Exception:
                # Somebody else has to find out what is wrong with the broker, and does so at the next message.
                left = 1
        if left <= 1:
            return True
        self._left[queue] = left - 1
        return False


class Seldom:
    """Says of each thing whether it is due to be said again, so that a log holds it once in a while."""

    def __init__(self, seconds=60.0, capacity=1000):
        self._seconds = seconds
        self._capacity = capacity
        self._said = {}

    def due(self, what):
        now = time.monotonic()
        if now < self._said.get(what, now):
            return False
        if len(self._said) >= self._capacity:
            # Names may be anybody's: what is kept of them has a limit.
            self._said = {known: until for known, until in self._said.items() if until > now}
            if len(self._said) >= self._capacity:
                self._said.clear()
        self._said[what] = now + self._seconds
        return True


def say_returned(error, queue, seldom):
    """Logs that a message went back: what is wrong with us is an error."""
    if error.pause is not None:
        # It waits for its time, behind the others.
        logger.debug("the message goes to the end of the queue %r: %s", queue, error)
    elif seldom.due(queue):
        logger.error("the message stays in the queue %r: %s", queue, error)
