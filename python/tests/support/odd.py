"""Messages that are well written and that no Celery writes."""

import json

NAN = float("nan")
DEEP = []
for _ in range(500):
    DEEP = [DEEP]

#: Bodies that nobody signed: the body, headers that are changed, and content type and encoding.
UNSIGNED = [
    *(
        (body, headers, {"content_type": content_type})
        for content_type in ("application/data", "application/text", "application/json", None, "text/plain", "x")
        for body, headers in (("", {}), ("", {"task": "no.such.task"}), ("[[], {}, {}]", {}),
                              ("[[], {}, {}]", {"task": "no.such.task"}), ("null", {"task": "no.such.task"}))
    ),
    ('{"task": "run", "id": "victim", "args": ["x"], "kwargs": {}}', {"task": None, "id": None}, {}),
    ("", {}, {"content_encoding": "no-such-encoding"}),
    ("x", {"compression": "zlib"}, {}),
    ("x", {"compression": "no-such-method"}, {}),
]  # fmt: skip

#: Headers of a task that a genuine body does not make good.
HEADERS = [
    *({"task": task} for task in ("", None, 7, 1.5, True, ["run"], {"run": 1}, "x" * 5000)),
    *({"id": id} for id in ("", None, 7, ["x"], {"x": 1}, True, "x" * 5000)),
    *({name: value} for name in ("eta", "expires")
      for value in ("", 7, 0, 1.5, False, [], ["2030"], {}, "soon", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59",
                    "x" * 5000)),
    *({"timelimit": value} for value in (7, "x", [], [1], [1, 2, 3], ["x", "y"], [-1, None], [None, 1e300], {"x": 1},
                                         [[1], [2]], [True, None])),
    *({"retries": value} for value in ("x", -1, 1.5, [], 2**40)),
    *({name: value} for name in ("root_id", "parent_id", "group", "shadow", "argsrepr", "kwargsrepr", "origin", "lang")
      for value in (7, ["x"], {"x": 1})),
    *({"group_index": value} for value in ("x", -1, [])),
    *({"stamped_headers": value} for value in ("x", 7, [7], {"x": 1})),
    *({"stamps": value} for value in ("x", [], 7)),
    *({"ignore_result": value} for value in ("x", 7, [])),
    *({name: [{"task": "run", "args": ["a header's"], "kwargs": {}, "options": {}}]} for name in ("callbacks", "errbacks", "chain")),
    {"chord": {"task": "run", "args": ["a header's"], "kwargs": {}, "options": {}}},
    *({name: "x"} for name in ("headers", "get", "as_execution_options", "children")),
]  # fmt: skip

TASK_BODIES = []
COMMANDS = []
EVENTS = []
