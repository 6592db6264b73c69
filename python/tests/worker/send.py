"""A client: `send.py WHAT ARGUMENT...`."""

import sys

from sealed_app import add, app, run, slow, who

what, *arguments = sys.argv[1:]
if what == "slow":
    print(slow.delay(arguments[0], float(arguments[1])).id)
elif what == "run":
    print(run.delay(arguments[0]).id)
elif what == "pids":
    results = [who.delay() for _ in range(int(arguments[0]))]
    print(*[result.get(30)[2] for result in results])
elif what == "two-results":
    results = [add.delay(n, n) for n in (1, 2)]
    assert [result.get(30) for result in results] == [2, 4]
    print(*[result.id for result in results])
elif what == "state":
    print(app.AsyncResult(arguments[0]).state)
else:
    sys.exit(f"no {what}")
