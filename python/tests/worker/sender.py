"""A client that lives: sends `run` of the application that TEST_APP names with each line that it reads, as often as it takes
until the broker has it.
"""

import importlib
import os
import sys
import time

module = importlib.import_module(os.environ.get("TEST_APP", "sealed_app"))

for line in map(str.strip, sys.stdin):
    while True:
        try:
            module.run.apply_async((line,), task_id=line.replace(" ", "-"))
            break
        except Exception as error:
            # Somebody wrote something else in the place of the queue.
            print(f"{line!r} was not sent: {error!r}", file=sys.stderr, flush=True)
            module.app.pool.force_close_all()
            time.sleep(0.2)
