"""What a worker did, and waiting for it."""

import os
import time


def witness(line):
    """What was run stays visible whatever becomes of results."""
    with open(os.environ["TEST_WITNESS"], "a") as file:
        file.write(line + "\n")


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def lines():
    path = os.environ["TEST_WITNESS"]
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return file.read().splitlines()


def witnessed(line, times=1):
    """Waits until a worker wrote that line; with `times` 0, it must not have."""
    if times:
        assert wait_for(lambda: line in lines()), f"no worker wrote {line!r}: {lines()}"
    else:
        assert line not in lines()
