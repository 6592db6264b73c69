"""A client that lives: sends `run` with each line that it reads, and says so."""

import sys

from sealed_app import run

for line in sys.stdin:
    run.delay(line.rstrip("\n"))
    print("sent", flush=True)
