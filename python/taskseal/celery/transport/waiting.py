"""What is left alone for a while, and what is said once in a while."""

import time


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
