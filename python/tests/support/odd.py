"""Messages that are well written and that no Celery writes."""

import json

NAN = float("nan")

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

#: A number that Python itself does not read.
LONG = "1" * 5000

#: Texts of task bodies, in JSON, with headers that are changed. None of them is one of Celery's.
TASK_BODIES = [
    *(
        (body, {})
        for body in ("null", "7", "true", '""', '"run"', "[]", "{}", "[[]]", "[[], {}]", "[[], {}, {}, {}]", "[{}, {}, {}]",
                     '["args", {}, {}]', "[7, {}, {}]", "[null, {}, {}]", "[[], [], {}]", "[[], null, {}]", '[[], "x", {}]',
                     "[[], {}, 7]", "[[], {}, []]", "NaN", f"[[{LONG}], {{}}, {{}}]", f"[[], {{}}, {{}}, {LONG}]", "[" * 100_000,
                     "{", "")
    ),
    *(
        (json.dumps([[], {}, {link: value}]), {})
        for link in ("callbacks", "errbacks", "chain")
        for value in (7, "run", {}, {"x": 1}, [7], ["run"], [None], [{}], [[{"task": "run"}]], [{"task": 7}])
    ),
    *((json.dumps([[], {}, {"chord": value}]), {}) for value in (7, "run", [], {}, {"task": 7}, [{"task": "run"}])),
    # A result with everything that Celery can put into it, an event and a command, with and without headers.
    *(
        (json.dumps(body), headers)
        for headers in ({}, {"task": None, "id": None})
        for body in (
            {"status": "SUCCESS", "result": 1, "traceback": None, "children": [], "task_id": "victim", "name": "run",
             "args": ["a result's"], "kwargs": {}, "worker": "w", "retries": 0, "queue": "celery"},
            {"type": "task-sent", "uuid": "victim", "name": "run", "args": "[1]", "kwargs": "{}", "hostname": "h", "timestamp": 1},
            {"method": "shutdown", "arguments": {}, "destination": None},
        )
    ),
    # Protocol 1, which is the body's alone.
    *(
        (json.dumps({"task": "run", "id": "victim-old", "args": ["old"], "kwargs": {}, **odd}), {"task": None, "id": None})
        for odd in ({"task": 7}, {"id": 7}, {"id": ""}, {"args": "x"}, {"args": {}}, {"kwargs": []}, {"kwargs": "x"}, {"eta": 7},
                    {"eta": ""}, {"expires": "x"}, {"timelimit": 7}, {"callbacks": 7}, {"chord": 7}, {"taskset": 7}, {"utc": 7})
    ),
    *(
        (json.dumps({"task": "run", "id": "victim-old", "args": ["old"], "kwargs": {}}), headers)
        for headers in ({"task": "add", "id": "victim-old"}, {"task": "run", "id": "victim-other"})
    ),
]  # fmt: skip

#: Bodies of remote control, and headers.
COMMANDS = [
    *(
        (body, {})
        for body in ("null", "7", '"shutdown"', "[]", "{}", '["shutdown"]', '{"method": 7}', '{"method": null}', '{"method": ["x"]}',
                     '{"method": ""}', '{"method": "ping", "arguments": 7}', '{"method": "ping", "arguments": [1]}',
                     '{"method": "ping", "reply_to": 7}', '{"method": "ping", "reply_to": {}}', '{"method": "ping", "extra": 1}',
                     '{"method": "ping", "reply_to": {"exchange": 7, "routing_key": [1]}}', '{"method": "ping", "ticket": [1]}',
                     '{"method": "ping", "destination": 7}', '{"method": "ping", "destination": [7]}',
                     '{"method": "ping", "pattern": 7, "matcher": 7}', '{"task": "run", "id": "victim", "args": [], "kwargs": {}}',
                     '{"status": "SUCCESS", "result": 1, "task_id": "victim"}', "{", "[" * 100_000, "")
    ),
    *(('{"method": "ping"}', {"clock": clock}) for clock in ("x", [1], 1.5, -1, 10**4000, NAN, True)),
    *(('{"method": "ping"}', {"expires": expires}) for expires in ("x", [1], NAN, 1e300)),
]  # fmt: skip

_EVENT = {"type": "worker-heartbeat", "hostname": "other@host", "timestamp": 1.0, "utcoffset": 0, "pid": 1, "clock": 1}

#: Bodies of events.
EVENTS = [
    "null", "7", "[]", "{}", "[" * 100_000, "{", "",
    *(json.dumps({**_EVENT, **odd}) for odd in (
        {"type": 7}, {"type": None}, {"type": ["x"]}, {"hostname": 7}, {"hostname": None}, {"hostname": ["x"]}, {"hostname": {}},
        {"timestamp": "x"}, {"timestamp": None}, {"timestamp": NAN}, {"timestamp": 10**4000}, {"timestamp": [1]},
        {"utcoffset": "x"}, {"utcoffset": [1]}, {"pid": "x"}, {"clock": "x"}, {"clock": 10**4000}, {"clock": NAN}, {"clock": -1},
        {"freq": "x"}, {"freq": NAN}, {"freq": [1]}, {"freq": -1}, {"active": "x"}, {"processed": "x"}, {"loadavg": 7},
        {"local_received": "x"})),
    *(json.dumps({key: value for key, value in _EVENT.items() if key != left}) for left in ("type", "hostname", "timestamp")),
]  # fmt: skip

#: Bodies of the events of an election, which Celery handles by themselves.
ELECTIONS = [
    *(json.dumps({**_EVENT, "type": "worker-elect", "id": "x", "topic": "task", "action": None, "cver": 1, **odd}) for odd in (
        {"id": 7}, {"id": ["x"]}, {"id": None}, {"clock": "x"}, {"clock": None, "id": {}}, {"topic": 7}, {"cver": "x"})),
    json.dumps({**_EVENT, "type": "worker-elect"}), "null", "7", "[]",
]  # fmt: skip


def frames(genuine):
    """What somebody stores in Redis in place of one of kombu's messages: garbage, and the genuine one with odd parts."""
    info = genuine["properties"]["delivery_info"]
    deep = json.loads("[" * 900 + "]" * 900)
    parts = [
        *({name: value} for name in ("body", "headers", "properties", "content-type", "content-encoding")
          for value in (None, 7, [], {}, ["x"], {"x": 1}, "x", True, deep)),
        *({"properties": {**genuine["properties"], **odd}} for odd in (
            *({"delivery_tag": tag} for tag in (None, 7, [], {}, "\ud800", "x" * 100_000)),
            *({"body_encoding": encoding} for encoding in (None, 7, [], "x", "base32", "utf-8")),
            *({"delivery_info": value} for value in (None, 7, [], {}, "x", {"exchange": 7}, {**info, "routing_key": ["x"]},
                                                    {**info, "exchange": "\ud800"}, {**info, "exchange": "no such"})),
            *({"priority": value} for value in (None, "x", [], -1, 1e300, 10**30)),
            *({name: value} for name in ("correlation_id", "reply_to") for value in (7, [], {"x": 1}, "\ud800")),
        )),
        {"headers": {**genuine["headers"], "x": deep}}, {"x": deep}, {"headers": {**genuine["headers"], "compression": "zlib"}},
        {"headers": {**genuine["headers"], "x": {"__type__": "datetime", "__value__": 7}}},
        {"headers": {**genuine["headers"], "x": {"__type__": ["x"], "__value__": 7}}},
        {"body": "x" * 100}, {"body": "\ud800"}, {},
    ]  # fmt: skip
    garbage = [b"\xff", b"{", b"[" * 100_000, b"7", b"null", b"{}", b"[]", b'"x"', b"", b"NaN", LONG.encode()]
    texts = [json.dumps({**genuine, **odd}).encode() for odd in parts]
    without = [json.dumps({name: value for name, value in genuine.items() if name != left}).encode() for left in genuine]
    # As entries of the unacknowledged, and as messages.
    return garbage + texts + without + [b"[%s, 7, 8]" % texts[-1], b'[%s, "", "celery"]' % texts[-1], b'["x", "", "celery"]']
