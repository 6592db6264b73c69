"""Few log lines about what happens very often."""

import logging
import threading
import weakref

from .. import _native


class Quiet:
    """Logs the first of each topic, counts what follows, and says what it counted in one line per `seconds`.

    So whoever floods a queue does not flood the log, and nothing is missing from the counts.
    """

    def __init__(self, logger, seconds=10.0):
        self._logger = logger
        self._seconds = seconds
        self._tally = _native.Tally(seconds)
        self._timer = None
        # Also when the process ends.
        weakref.finalize(self, _say_rest, self._tally, logger)

    def log(self, level, topic, name, text, *args, **options):
        """Logs a line, or counts it: for this topic, and for this name (whose it is, where it happened) within it."""
        first, summary = self._tally.count(topic, name)
        self._logger.log(level if first else logging.DEBUG, text, *args, **options)
        if summary:
            _say(self._logger, summary)
        elif not first:
            self._say_later()

    def _say_later(self):
        """What was counted is said although nothing comes any more."""
        # In a forked child the thread of its parent counts as dead.
        if self._timer is not None and self._timer.is_alive():
            return
        timer = threading.Timer(self._seconds, _say_rest, (self._tally, self._logger))
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            # No thread is to be had: the next line says it, or the end of the process.
            return
        self._timer = timer


def _say_rest(tally, logger):
    summary = tally.rest()
    if summary:
        _say(logger, summary)


def _say(logger, summary):
    logger.warning("since the last line about each: %s", summary)
