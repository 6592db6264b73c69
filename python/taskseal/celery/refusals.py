"""What was refused: counted by its reason, and in the log unless there is a flood of it."""

import logging
from collections import Counter

from ..errors import OpenError
from .quiet import Quiet

logger = logging.getLogger("taskseal.celery")

#: What the time alone is a reason for. It says as much about the clock of this host.
TIME = frozenset({"too-old", "from-the-future", "expired", "not-yet-valid"})


class PutAside(OpenError):
    """A message that is refused for what need not be its fault: it is kept, whatever is done with others that are refused."""


class Refusals:
    """Counts and logs refusals, and knows what becomes of what was refused.

    `refused` says it: ``ack`` (it is gone) or ``dead-letter`` (AMQP: rejected, so that the broker puts it where the queue's
    policy says; elsewhere: put into the queue `dead_letter_queue`). `on_refused` is called with the reason and where it was.
    What is put aside goes into that queue in any case. The last `dead_letter_max` messages in it are kept.
    """

    def __init__(self, refused="ack", dead_letter_queue="taskseal.refused", dead_letter_max=10_000, on_refused=None):
        if refused not in ("ack", "dead-letter"):
            raise ValueError(f"refused={refused!r} is not known; use ack or dead-letter")
        self.refused = refused
        if isinstance(dead_letter_max, bool) or not isinstance(dead_letter_max, int) or dead_letter_max < 1:
            raise ValueError(f"dead_letter_max={dead_letter_max!r} is no number of messages")
        self.dead_letter_queue = dead_letter_queue
        self.dead_letter_max = dead_letter_max
        self.on_refused = on_refused
        #: How many messages and results were refused, by reason.
        self.refusals = Counter()
        #: What is logged of them, and of what else may be said for each message of a flood.
        self.quiet = Quiet(logger)

    def keeps(self, error):
        """Whether a message that is refused for this is kept among the dead letters."""
        return self.refused == "dead-letter" or isinstance(error, PutAside)

    def refuse(self, error, where):
        """Counts a refusal and logs it, unless there are many. Never raises."""
        reason = getattr(error, "reason", None) or type(error).__name__
        self.refusals[reason] += 1
        name = getattr(error, "signer", None) or where
        self.quiet.log(logging.WARNING, f"refused {reason}", name, "refused: %s: reason=%s: %s", where, reason, error)
        if self.on_refused is not None:
            try:
                self.on_refused(reason, where)
            except Exception:
                self.quiet.log(logging.ERROR, "on_refused raised", reason, "on_refused raised", exc_info=True)
