"""What is stored around a sealed text at a broker of kombu's virtual transports.

A stored message is somebody else's until its text was opened. `Frame` takes the few parts of it that are used before that,
each of the type that it must have, and everything that is stored again is made anew from them.
"""

import base64
import json
import uuid

from ...errors import OpenError
from ..sealing import CONTENT_TYPE

#: The type of what is no frame, among the dead letters.
BYTES = "application/octet-stream"


class Frame:
    """A sealed text, with what the broker may say about it: its priority, and whether it was delivered before."""

    __slots__ = ("priority", "redelivered", "sealed")

    def __init__(self, sealed, priority=0, redelivered=False):
        self.sealed = sealed
        self.priority = priority
        self.redelivered = redelivered

    @classmethod
    def read(cls, item, limit=None):
        """The frame in what a broker gave: bytes, text, or what kombu's transport made of it. Raises `OpenError` alone."""
        if isinstance(item, (bytes, str)):
            item = parsed(item, limit)
        if not isinstance(item, dict) or not isinstance(item.get("properties"), dict):
            raise OpenError("it is no message of kombu's", reason="malformed")
        if item.get("content-type") != CONTENT_TYPE:
            found = item.get("content-type")
            found = found[:120] if isinstance(found, str) else type(found).__name__
            raise OpenError(f"the message is not sealed: its content type is {found!r}", reason="not-sealed")
        properties = item["properties"]
        priority = properties.get("priority")
        parts = item, item.get("headers"), properties.get("delivery_info")
        return cls(
            sealed_text(item.get("body"), properties.get("body_encoding")),
            priority if type(priority) is int and 0 <= priority <= 255 else 0,
            any(isinstance(part, dict) and part.get("redelivered") is True for part in parts),
        )

    def stored(self, queue, tag=None, *, redelivered=False):
        """The form in which kombu's transports store it, in this queue."""
        return stored(self.sealed, CONTENT_TYPE, queue, tag, self.priority, redelivered or self.redelivered)

    def letter(self, queue):
        """The form in which it lies among the dead letters."""
        return stored(self.sealed, CONTENT_TYPE, queue)


def parsed(item, limit):
    """The JSON in bytes or text. No type of kombu's is made of it, as anybody may have written it."""
    if limit is not None and len(item) > limit:
        raise OpenError(f"what is stored is longer than {limit} bytes", reason="too-large")
    try:
        return json.loads(item)
    except (ValueError, RecursionError) as error:
        raise OpenError(f"it is no JSON of a message: {type(error).__name__}", reason="malformed") from None


def sealed_text(body, encoding):
    """The sealed text in a body. It is ASCII."""
    try:
        if encoding == "base64":
            body = base64.b64decode(body, validate=True)
        text = body.decode("ascii") if isinstance(body, bytes) else body
    except (ValueError, TypeError):
        text = None
    if not isinstance(text, str) or not text.isascii():
        raise OpenError("the body is no sealed text", reason="malformed")
    return text


def garbage(item, queue):
    """A stored message around what is none, for the dead letters. Nothing is raised for it, whatever it is."""
    if not isinstance(item, (bytes, str)):
        try:
            item = json.dumps(item, default=repr)
        except Exception as error:
            item = f"it cannot be shown: {type(error).__name__}"
    if isinstance(item, str):
        item = item.encode("utf-8", "surrogatepass")
    try:
        return stored(item.decode(), BYTES, queue)
    except UnicodeDecodeError:
        return stored(base64.b64encode(item).decode(), BYTES, queue, encoding="base64")


def stored(body, content_type, queue, tag=None, priority=0, redelivered=False, encoding="utf-8"):
    info = {"exchange": "", "routing_key": queue}
    if redelivered:
        info["redelivered"] = True
    properties = {"delivery_tag": tag or str(uuid.uuid4()), "delivery_info": info, "body_encoding": encoding, "priority": priority}
    return {
        "body": body,
        "content-type": content_type,
        "content-encoding": "binary" if content_type == BYTES else "utf-8",
        "headers": {},
        "properties": properties,
    }


def text_of(body, properties):
    """A body as text for JSON. Bytes that are no text are put in base64, which `properties` then say."""
    if isinstance(body, str):
        return body
    body = bytes(body) if body is not None else b""
    properties["body_encoding"] = "base64"
    return base64.b64encode(body).decode()
