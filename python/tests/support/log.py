"""Counts of refusals in a log: those with a line of their own, and those that were counted."""

import re


def refusals_in(log, reason=None):
    """How many refusals a log tells of, for that reason or for any."""
    lines = re.findall(r"\brefused: .*? reason=([\w-]+)", log)
    counted = re.findall(r"\brefused ([\w-]+): (\d+)", log)
    own = sum(reason in (None, found) for found in lines)
    return own + sum(int(count) for found, count in counted if reason in (None, found))
