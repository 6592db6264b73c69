"""A client: `send.py WHAT ARGUMENT...`, of the application that TEST_APP names."""

import importlib
import os
import sys

module = importlib.import_module(os.environ.get("TEST_APP", "sealed_app"))
what, *arguments = sys.argv[1:]
if what == "slow":
    print(module.slow.delay(arguments[0], float(arguments[1])).id)
elif what == "slow-many":
    for number in range(int(arguments[0])):
        module.slow.delay(f"task-{number}", float(arguments[1]))
elif what == "run":
    print(module.run.delay(arguments[0]).id)
elif what == "delayed":
    print(module.run.apply_async((arguments[0],), countdown=float(arguments[1])).id)
elif what == "later":
    print(*module.later.apply_async((arguments[0], float(arguments[1])), countdown=float(arguments[1])).get(60))
elif what == "named":
    print(module.app.send_task(arguments[0], arguments[2:], task_id=arguments[1]).id)
elif what == "pids":
    results = [module.who.delay() for _ in range(int(arguments[0]))]
    print(*[result.get(30)[2] for result in results])
elif what == "two-results":
    results = [module.add.delay(n, n) for n in (1, 2)]
    assert [result.get(30) for result in results] == [2, 4]
    print(*[result.id for result in results])
elif what == "state":
    print(module.app.AsyncResult(arguments[0]).state)
else:
    sys.exit(f"no {what}")
