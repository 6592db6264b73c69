"""The forms of what Celery's workers are sent: tasks, remote control, events. What has another form is refused.

Celery takes what a message holds as it is: a wrong type is an error somewhere in the worker's main process, at times after the
message was taken. So the types and sizes of everything that Celery itself reads are in one table here. What it hands on to
tasks, arguments and headers of the application's own, is not looked at.
"""

import math
from datetime import datetime

from celery.utils.time import maybe_iso8601

from ..errors import OpenError

#: The reason of an `OpenError` for a message that was verified and does not have the form of one.
NOT_A_TASK, NOT_A_COMMAND, NOT_AN_EVENT = "not-a-task", "not-a-command", "not-an-event"

#: The longest name, id or address, in characters. Ids become part of keys and names of files.
MAX_NAME_LEN = 1024
#: The longest text that is there to be shown, such as ``argsrepr``, in characters.
MAX_TEXT_LEN = 1024 * 1024
#: The most links, stamps and members of lists in one place.
MAX_ITEMS = 100_000
#: The longest time limit, in seconds: ten years.
MAX_SECONDS = 10 * 365 * 24 * 3600
#: The largest count, and the largest reading of a logical clock: what every peer can count up from.
MAX_COUNT, MAX_CLOCK = 2**31 - 1, 2**53


# --- What one value may be: functions that say whether a value is one. ---


def name(value):
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_LEN and encodes(value)


def shown(value):
    return isinstance(value, str) and len(value) <= MAX_TEXT_LEN and encodes(value)


def address(value):
    """A routing key: it may be empty."""
    return isinstance(value, str) and len(value) <= MAX_NAME_LEN and encodes(value)


def encodes(value):
    """Whether a text can be written down at all: half of a surrogate pair cannot."""
    return value.isascii() or value.encode("utf-8", "ignore").decode("utf-8") == value


def flag(value):
    return isinstance(value, bool)


def count(value):
    return type(value) is int and 0 <= value <= MAX_COUNT


def clock(value):
    return type(value) is int and 0 <= value <= MAX_CLOCK


def number(value):
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MAX_CLOCK


def seconds(value):
    return number(value) and 0 <= value <= MAX_SECONDS


def when(value):
    """A time in ISO 8601, which every zone can tell."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and 0 < len(value) <= 64):
        return False
    try:
        found = maybe_iso8601(value)
    except (ValueError, TypeError, ArithmeticError):
        return False
    # A year from either end: zones are less than that apart.
    return 1 < found.year < 9999


def limits(value):
    """The hard and the soft time limit."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(one is None or seconds(one) for one in value)


def names(value):
    return isinstance(value, (list, tuple)) and len(value) <= MAX_ITEMS and all(map(name, value))


def table(value):
    return isinstance(value, dict) and len(value) <= MAX_ITEMS and all(isinstance(key, str) for key in value)


def some(value):
    """A list of anything."""
    return isinstance(value, (list, tuple)) and len(value) <= MAX_ITEMS


def link(value):
    """A signature, which is a dict that names a task."""
    return isinstance(value, dict) and name(value.get("task"))


def links(value):
    """Signatures. Celery takes one alone as well."""
    return link(value) or (some(value) and all(map(link, value)))


def optional(kind):
    return lambda value: value is None or kind(value)


def either(*kinds):
    return lambda value: any(kind(value) for kind in kinds)


# --- The tables. ---

#: Headers of a task. Others are the application's own.
TASK_HEADERS = {
    "task": name,
    "id": name,
    "lang": optional(shown),
    "root_id": optional(address),
    "parent_id": optional(address),
    "group": optional(address),
    "group_index": optional(count),
    "shadow": optional(shown),
    "eta": optional(when),
    "expires": optional(when),
    "retries": optional(count),
    "timelimit": optional(limits),
    "argsrepr": optional(shown),
    "kwargsrepr": optional(shown),
    "origin": optional(shown),
    "ignore_result": optional(flag),
    "replaced_task_nesting": optional(count),
    "stamped_headers": optional(names),
    "stamps": optional(table),
    "compression": optional(name),
    "hostname": optional(shown),
}

#: Names that Celery takes from the embedded part of the body. As headers, they would be taken when the body has none.
EMBEDDED = {"callbacks": optional(links), "errbacks": optional(links), "chain": optional(links), "chord": optional(link)}

#: Names that a header must not have: what is in the body, and what Celery's request calls.
NO_HEADERS = {*EMBEDDED, "headers", "get", "update", "clear", "as_execution_options", "children", "_children"}

#: Properties of a message, as far as Celery reads them.
PROPERTIES = {
    "correlation_id": optional(address),
    "reply_to": optional(address),
    "priority": optional(either(count, name)),
}

#: The body of a task in protocol 1, which has in it what protocol 2 has in headers.
TASK_BODY = {
    **{key: kind for key, kind in TASK_HEADERS.items() if key != "compression"},
    **EMBEDDED,
    "args": optional(some),
    "kwargs": optional(table),
    "utc": optional(flag),
    "taskset": optional(address),
}

#: The body of a command of remote control. It has no other members.
COMMAND = {
    "method": name,
    "arguments": optional(table),
    "destination": optional(either(names, name)),
    "pattern": optional(shown),
    "matcher": optional(name),
    "ticket": optional(address),
    "reply_to": optional(lambda value: table(value) and all(address(value.get(key)) for key in ("exchange", "routing_key"))),
}

#: Headers of commands and of the replies to them.
COMMAND_HEADERS = {"clock": optional(clock), "expires": optional(number), "ticket": optional(address)}

#: Members of an event that Celery itself reads.
EVENT = {
    "type": name,
    "hostname": name,
    "timestamp": number,
    "utcoffset": optional(number),
    "pid": optional(count),
    "clock": optional(clock),
    "freq": optional(seconds),
    "local_received": optional(number),
    "active": optional(count),
    "processed": optional(number),
    "loadavg": optional(some),
}

#: Further members of the events of an election, and what each of these has.
ELECTION = {"id": name, "topic": optional(name), "cver": optional(count)}
ELECTIONS = {"worker-elect": ("id", "clock", "pid", "topic", "action", "cver"), "worker-elect-ack": ("id",)}


# --- What is refused. ---


def check_task(message, payload):
    """Raises `OpenError` unless a message (of kombu) with this payload has the form of a task."""
    headers = message.headers
    if not isinstance(headers, dict) or not isinstance(message.properties, dict):
        raise OpenError("the headers or the properties are no table", reason=NOT_A_TASK)
    conform(message.properties, PROPERTIES, "property", NOT_A_TASK)
    forbidden = NO_HEADERS & headers.keys()
    if forbidden:
        raise OpenError(f"a header has the name {min(forbidden)!r}, which is the body's", reason=NOT_A_TASK)
    if isinstance(payload, dict):
        check_old_body(headers, payload)
    elif "task" not in headers:
        raise OpenError("it names no task", reason=NOT_A_TASK)
    else:
        check_body(payload)
        require(headers, ("task", "id"), NOT_A_TASK)
    conform(headers, TASK_HEADERS, "header", NOT_A_TASK)


def check_body(payload):
    """The body of protocol 2: arguments, keyword arguments and what is embedded."""
    if not isinstance(payload, (list, tuple)) or len(payload) != 3:
        raise OpenError("the body is no list of arguments, keyword arguments and links", reason=NOT_A_TASK)
    args, kwargs, embed = payload
    if not some(args) or not table(kwargs) or not (embed is None or table(embed)):
        raise OpenError("arguments, keyword arguments or links have a wrong type", reason=NOT_A_TASK)
    conform(embed or {}, EMBEDDED, "link", NOT_A_TASK)


def check_old_body(headers, payload):
    """The body of protocol 1. Its own name and id count: a result or an event, which are tables too, have neither."""
    require(payload, ("task", "id"), NOT_A_TASK)
    conform(payload, TASK_BODY, "member", NOT_A_TASK)
    if any(headers.get(key, payload[key]) != payload[key] for key in ("task", "id")):
        raise OpenError("the headers name another task than the body", reason=NOT_A_TASK)


def check_command(message, payload):
    """Raises `OpenError` unless a message with this payload has the form of a command of remote control."""
    if not isinstance(payload, dict) or not isinstance(message.headers, dict):
        raise OpenError("the body or the headers are no table", reason=NOT_A_COMMAND)
    unknown = [key for key in payload if key not in COMMAND]
    if unknown:
        raise OpenError(f"it has the member {short(unknown[0])}", reason=NOT_A_COMMAND)
    require(payload, ("method",), NOT_A_COMMAND)
    conform(payload, COMMAND, "member", NOT_A_COMMAND)
    conform(message.headers, COMMAND_HEADERS, "header", NOT_A_COMMAND)


def check_event(payload):
    """Raises `OpenError` unless a payload has the form of an event."""
    if not isinstance(payload, dict):
        raise OpenError("the event is no table", reason=NOT_AN_EVENT)
    require(payload, ("type", "hostname", "timestamp"), NOT_AN_EVENT)
    conform(payload, EVENT, "member", NOT_AN_EVENT)
    if payload["type"] in ELECTIONS:
        require(payload, ELECTIONS[payload["type"]], NOT_AN_EVENT)
        conform(payload, ELECTION, "member", NOT_AN_EVENT)


def require(found, keys, reason):
    for key in keys:
        if key not in found:
            raise OpenError(f"it has no {key!r}", reason=reason)


def conform(found, kinds, what, reason):
    """Raises for the first of the known names whose value is of another kind."""
    if len(found) > MAX_ITEMS:
        raise OpenError(f"there are {len(found)} times a {what}", reason=reason)
    for key, kind in kinds.items():
        if key in found and not kind(found[key]):
            raise OpenError(f"the {what} {key!r} has a value that Celery's never have: {short(found[key])}", reason=reason)


def short(value):
    """A value for the log, as much of it as tells what is wrong."""
    if isinstance(value, (str, bytes)):
        return f"{type(value).__name__} {value[:40]!r}"
    if isinstance(value, (float, bool)) or (isinstance(value, int) and abs(value) <= 2**64):
        return f"{type(value).__name__} {value!r}"
    return f"of the type {type(value).__name__}"
