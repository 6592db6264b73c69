"""Clocks that are wrong."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from conftest import skip


class Shifted:
    """An opener to whom it is another time: `seconds` later, or what a function of the payload says."""

    def __init__(self, opener, seconds):
        self._opener = opener
        self._seconds = seconds

    def open(self, wire):
        seconds = self._seconds
        if callable(seconds):
            seconds = seconds(self._opener.open(wire).payload)
        return self._opener.open(wire, at=time.time() + seconds)


@contextlib.contextmanager
def clock_of(sealing, seconds):
    """Sets the clock of whoever opens with this, as far as messages are concerned."""
    right = sealing.opener
    sealing.opener = Shifted(right, seconds)
    try:
        yield
    finally:
        sealing.opener = right


def wrong_clock(directory, seconds):
    """The environment of a process whose clock is off by so many seconds. A library for it is made in this directory."""
    library = directory / "clock.so"
    if not library.exists():
        compiler = shutil.which("cc") or skip("there is no C compiler")
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    preload = " ".join(filter(None, [str(library), os.environ.get("LD_PRELOAD")]))
    return {"LD_PRELOAD": preload, "CLOCK_OFFSET": str(seconds)}
