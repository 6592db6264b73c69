"""A client that sends tasks until it is ended: `produce.py FILE`. It writes the number of each that was sent into the file."""

import itertools
import sys
import time

from sealed_app import run

with open(sys.argv[1], "a") as sent:
    for number in itertools.count():
        try:
            run.delay(f"secret line {number}")
        except Exception as error:
            print(f"number {number} was not sent: {error!r}", flush=True)
        else:
            sent.write(f"{number}\n")
            sent.flush()
        time.sleep(0.1)
