"""A client that lives: sends `run` of the application that TEST_APP names with each line that it reads, and says so."""

import importlib
import os
import sys

run = importlib.import_module(os.environ.get("TEST_APP", "sealed_app")).run

for line in sys.stdin:
    run.delay(line.rstrip("\n"))
    print("sent", flush=True)
