"""kombu's own transports, guarded: what is stored at a broker, or comes from one, ends no worker.

They are for applications that sign bodies (`setup_security`), under kombu's own URLs. Nothing is sealed, and what is around a
body is anybody's: it has the types that it must have, or is refused. Whether a body is signed is looked at later.
"""

import base64
import json
import sys
from functools import cache
from struct import unpack_from

import amqp
from amqp import spec
from amqp.exceptions import FrameSyntaxError
from amqp.method_framing import frame_handler
from amqp.serialization import loads as amqp_loads
from kombu.serialization import loads as decoded
from kombu.transport import pyamqp
from kombu.utils.imports import symbol_by_name
from kombu.utils.json import loads

from ...errors import OpenError
from ..forms import COMMAND_HEADERS, NOT_A_COMMAND, conform, short
from ..guard import SIGNED, is_not_now, reason_of, root
from ..refusals import Refusals
from ..sealing import Unanswered
from . import frames, virtual
from .returns import Returns, ReturnsMixin
from .stored import Frame, parsed, stored
from .virtual import Delivery, TransportMixin

#: How deep headers and properties may be nested.
MAX_DEPTH = 100


class PlainFrame(Frame):
    """A message as kombu stores it, of which each part has the type that it must have."""

    __slots__ = ("parts", "typed")

    @classmethod
    def read(cls, item, limit=None):
        # kombu's JSON makes other types of what says so.
        typed = isinstance(item, (bytes, str)) and ("__type__" if isinstance(item, str) else b"__type__") in item
        if isinstance(item, (bytes, str)):
            item = parsed(item, limit)
        if not isinstance(item, dict) or not isinstance(item.get("properties"), dict):
            raise OpenError("it is no message of kombu's", reason="malformed")
        properties, headers = item["properties"], item.get("headers")
        if not isinstance(headers, (dict, type(None))) or not is_shallow([headers, properties]):
            raise OpenError("the headers are no table, or are nested too deep", reason="malformed")
        info = properties.get("delivery_info")
        info = info if isinstance(info, dict) else {}
        priority = properties.get("priority")
        frame = cls(
            body_of(item.get("body"), properties.get("body_encoding")),
            priority if type(priority) is int and 0 <= priority <= 255 else 0,
            any(part.get("redelivered") is True for part in (item, headers or {}, info)),
        )
        frame.typed = typed
        frame.parts = {
            "content-type": text_or_none(item.get("content-type")),
            "content-encoding": text_or_none(item.get("content-encoding")),
            "headers": headers or {},
            "exchange": text_or_none(info.get("exchange")) or "",
            "routing_key": text_or_none(info.get("routing_key")) or "",
            "properties": {name: value for name, value in properties.items() if name not in OURS},
        }
        return frame

    def stored(self, queue, tag=None, *, redelivered=False):
        # Whatever it was sent to, here it is in this queue.
        made = stored("", None, queue, tag, self.priority, redelivered or self.redelivered)
        made["properties"] = {**self.parts["properties"], **made["properties"], **encoded(made, self.sealed)}
        made["properties"]["delivery_info"].update(exchange=self.parts["exchange"], routing_key=self.parts["routing_key"])
        return {**made, **{name: self.parts[name] for name in ("content-type", "content-encoding", "headers")}}

    def letter(self, queue):
        made = self.stored(queue)
        made["properties"]["priority"] = 0
        return made

    def delivery(self, tag, queue):
        """What kombu makes a message of."""
        info = {"exchange": self.parts["exchange"], "routing_key": self.parts["routing_key"]}
        headers = self.parts["headers"]
        if self.typed:
            headers = typed_again(headers)
        if self.redelivered:
            headers, info = {**headers, "redelivered": True}, {**info, "redelivered": True}
        properties = {**self.parts["properties"], "delivery_tag": tag, "delivery_info": info, "body_encoding": None,
                      "priority": self.priority}  # fmt: skip
        parts = {name: self.parts[name] for name in ("content-type", "content-encoding")}
        return Delivery({**parts, "body": self.sealed, "headers": headers, "properties": properties}, self, queue)


#: Properties that are made anew.
OURS = {"delivery_tag", "delivery_info", "body_encoding", "priority"}


def body_of(body, encoding):
    if encoding not in (None, "utf-8", "base64") or not isinstance(body, (str, bytes)):
        raise OpenError("the body is no text, or in an encoding that kombu does not have", reason="malformed")
    try:
        return base64.b64decode(body, validate=True) if encoding == "base64" else body
    except ValueError:
        raise OpenError("the body is no base64", reason="malformed") from None


def encoded(made, body):
    """Puts a body into what is stored; the property that says how it is written there."""
    if isinstance(body, str):
        made["body"] = body
        return {"body_encoding": "utf-8"}
    made["body"] = base64.b64encode(body).decode()
    return {"body_encoding": "base64"}


def text_or_none(value):
    if not isinstance(value, (str, type(None))):
        raise OpenError(f"a type or a name is of the type {type(value).__name__}", reason="malformed")
    return value


def typed_again(headers):
    try:
        return loads(json.dumps(headers))
    except Exception as error:
        raise OpenError(f"the headers cannot be decoded: {type(error).__name__}", reason="malformed") from None


def is_shallow(value, depth=MAX_DEPTH):
    """Whether nothing is nested deeper. Asks without recursion."""
    layer = [value]
    while layer and depth:
        layer = [inner for outer in layer if isinstance(outer, (dict, list))
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
        depth -= 1
    return not layer


# --- Virtual transports ---


class Unsealed(Refusals):
    """What a channel that seals asks its `Sealing`, for one that does not."""

    max_frame_len = sys.maxsize

    def check_broadcast(self, queue, body, content_type, headers):
        """Raises `OpenError` for what is not signed in a mailbox of remote control: commands, and answers to them.

        kombu would raise it to whoever waits for an answer. Events and results may be unsigned: who takes them looks.
        """
        if not queue.endswith(".pidbox"):
            return
        if content_type != SIGNED or not body:
            raise OpenError(f"the body is not signed: its content type is {short(content_type)}", reason="not-sealed")
        conform(headers or {}, COMMAND_HEADERS, "header", NOT_A_COMMAND)
        try:
            decoded(body, SIGNED, "utf-8", accept={SIGNED})
        except Exception as error:
            if is_not_now(error):
                raise Unanswered(str(root(error))) from error
            raise reason_of(error) from error


class Untracked:
    """What is in flight in a channel that tells no repetition from a redelivery."""

    def start(self, *args, **kwargs):
        pass

    end = clear = remember = start

    def has(self, tag):
        return False


class ChannelMixin:
    """Put before a class of channels that seal, it makes one that does not, and that guards what it reads in the same way."""

    Frame = PlainFrame
    body_encoding = "base64"

    def __init__(self, connection, **kwargs):
        super().__init__(connection, **kwargs)
        self._in_flight = Untracked()

    def _rules(self, client):
        return client.refusals

    def basic_publish(self, message, exchange, routing_key, **kwargs):
        return super(virtual.ChannelMixin, self).basic_publish(message, exchange, routing_key, **kwargs)

    def _checked(self, frame, tag, queue, no_ack, since):
        delivery = frame.delivery(tag, queue)
        if no_ack and "compression" not in delivery["headers"]:
            self.sealing.check_broadcast(queue, delivery["body"], delivery["content-type"], delivery["headers"])
        return delivery


#: Transports of kombu's that are guarded, and those that seal in the same way.
VIRTUAL = {
    "kombu.transport.redis:Transport": "taskseal.celery.transport.redis:Transport",
    "kombu.transport.memory:Transport": "taskseal.celery.transport.memory:Transport",
    "kombu.transport.filesystem:Transport": "taskseal.celery.transport.filesystem:Transport",
}


@cache
def guarded(transport):
    """The guarded class for a class of kombu's transports, or None where there is none."""
    if transport in AMQP:
        return AMQP[transport]
    name = VIRTUAL.get(f"{transport.__module__}:{transport.__qualname__}")
    if name is None:
        return None
    channel = type("Channel", (ChannelMixin, symbol_by_name(name).Channel), {})
    # TLS is as kombu has it.
    return type("Transport", (TransportMixin, transport), {"Channel": channel, "tls": None})


# --- AMQP ---


def reader(connection, callback):
    """The `frame_handler` of a connection: py-amqp's, behind what cuts out of frames what cannot be read."""
    hand_over = frame_handler(connection, callback)

    def on_frame(frame):
        kind, channel, buf = frame
        if kind == frames.METHOD:
            buf = readable_method(buf)
        elif kind == frames.HEADER:
            buf = readable_header(buf)
        return hand_over((kind, channel, buf))

    return on_frame


#: Deliveries, and how their arguments are read.
DELIVERIES = {sig: amqp.Channel._METHODS[sig].args for sig in (spec.Basic.Deliver, spec.Basic.GetOk)}


def readable_method(buf):
    format = DELIVERIES.get(unpack_from(">HH", buf)) if len(buf) >= 4 else None
    if format is not None:
        try:
            amqp_loads(format, buf, 4)
            return buf
        except Exception:
            # Exchange and routing key are their publisher's, and cut out below.
            pass
    return frames.method(buf)


def readable_header(buf):
    """The header of a content, without the properties if they cannot be read: such a message names no task."""
    try:
        message = amqp.Message()
        message.inbound_header(buf)
        if is_shallow(message.properties):
            return buf
    except Exception as error:
        if len(buf) < 14:
            raise FrameSyntaxError("a content header that ends too soon") from error
    return frames.header(buf, 2**64 - 1)[0]


class AMQPMessage(pyamqp.Message):
    """A message from AMQP, with what it was made of: somebody may put its payload in place of the body."""

    def __init__(self, msg, channel=None, **kwargs):
        super().__init__(msg, channel=channel, **kwargs)
        self.raw = msg


class AMQPChannel(ReturnsMixin, pyamqp.Channel):
    """A channel to an AMQP broker that leaves out what is not signed where nothing is acknowledged."""

    Message = AMQPMessage

    def basic_consume(self, queue="", *args, no_ack=False, callback=None, **kwargs):
        def deliver(msg):
            headers = msg.properties.get("application_headers") or {}
            try:
                if "compression" not in headers:
                    refusals.check_broadcast(queue, msg.body, msg.properties.get("content_type"), headers)
            except (OpenError, Unanswered) as error:
                return refusals.refuse(error, f"message from the queue {queue!r}")
            return callback(msg)

        refusals = self.connection.client.refusals
        return super().basic_consume(queue, *args, no_ack=no_ack, callback=deliver if no_ack else callback, **kwargs)


class AMQPConnection(pyamqp.Connection):
    """A connection to an AMQP broker that reads whatever a publisher chose."""

    Channel = AMQPChannel

    def __init__(self, *args, **kwargs):
        self.returns = Returns(*args, **kwargs)
        super().__init__(*args, frame_handler=reader, **kwargs)

    def collect(self):
        self.returns.aside.close()
        super().collect()


class AMQPTransport(pyamqp.Transport):
    """AMQP, guarded."""

    Connection = AMQPConnection


class AMQPSSLTransport(pyamqp.SSLTransport):
    """AMQP over TLS, guarded."""

    Connection = AMQPConnection


AMQP = {pyamqp.Transport: AMQPTransport, pyamqp.SSLTransport: AMQPSSLTransport}
