"""What is left of AMQP's frames before py-amqp reads them.

A publisher chooses the exchange, the routing key and the properties of a message, byte by byte, and the broker hands them on
as they are. The seal covers all that counts, so nothing of them is needed but the content type, which says that a message is
sealed, and three that the broker looks at. The rest is cut out here, unread: what nobody parses ends no worker.
"""

from struct import pack, unpack_from

import amqp
from amqp import spec
from amqp.exceptions import FrameSyntaxError
from amqp.method_framing import frame_handler
from amqp.serialization import dumps, loads

METHOD, HEADER, BODY = 1, 2, 3

#: What is left of the properties: the content type, and what the broker looks at when the message is put into a queue again.
KEPT = ("content_type", "delivery_mode", "priority", "expiration")

#: All up to the last of these, with their kinds and flags.
PROPERTIES = [(name, kind, 0x8000 >> at) for at, (name, kind) in enumerate(amqp.Message.PROPERTIES[:8])]

#: How many bytes say how long a property is, by its kind; an octet has none.
PREFIXES = {"s": 1, "F": 4, "o": 0}

#: The longest text that is kept, in characters: enough to show what it was.
MAX_TEXT = 60

#: What is behind the class, the method and the consumer tag of a delivery, or the class and method of a message that was asked
#: for, before what its publisher chose: delivery tag and flag. In the latter, the number of further messages ends the frame.
TAG_AND_FLAG, COUNT = 9, 4

#: Exchange and routing key, both empty.
NO_DESTINATION = b"\x00\x00"

#: How the arguments of methods without content are read.
FORMATS = {sig: method.args for kind in (amqp.Connection, amqp.Channel) for sig, method in kind._METHODS.items()}

#: The lengths of the arguments beside texts, in the methods in which the broker writes a sentence.
LENGTHS = {"B": 2, "l": 4, "L": 8}


def reader(max_len):
    """The `frame_handler` of a connection: py-amqp's, behind what cuts frames down.

    A body longer than `max_len` bytes is not gathered. Its message comes without one, and `type` says so.
    """

    def handler(connection, callback):
        hand_over = frame_handler(connection, callback)
        # How much of a body that is too long is still to come, by channel.
        left_out = {}

        def on_frame(frame):
            kind, channel, buf = frame
            if kind == METHOD:
                return hand_over((kind, channel, method(buf)))
            if kind == HEADER:
                buf, body_len = header(buf, max_len)
                if body_len > max_len:
                    left_out[channel] = body_len
                return hand_over((kind, channel, buf))
            if kind == BODY and channel in left_out:
                # What comes is a sign of life, for the heartbeat.
                connection.bytes_recv += 1
                left_out[channel] -= len(buf)
                if left_out[channel] <= 0:
                    del left_out[channel]
                return False
            return hand_over(frame)

        return on_frame

    return handler


#: The property `type` of a message whose body was too long. Nobody but us says so: properties are cut out.
TOO_LARGE = "too-large"


def method(buf):
    """The frame of a method, without what a publisher chose. Raises `FrameSyntaxError` when a broker does not speak AMQP."""
    try:
        sig = unpack_from(">HH", buf)
        if sig == spec.Basic.Deliver:
            end = 5 + buf[4] + TAG_AND_FLAG
            return whole(buf, end)[:end] + NO_DESTINATION
        if sig == spec.Basic.GetOk:
            end = 4 + TAG_AND_FLAG
            return whole(buf, end + COUNT)[:end] + NO_DESTINATION + buf[-COUNT:]
        format = FORMATS.get(sig)
        return readable(format, buf) if format else buf
    except FrameSyntaxError:
        raise
    except Exception as error:
        raise FrameSyntaxError(f"a method that cannot be read: {type(error).__name__}") from None


def whole(buf, length):
    if len(buf) < length:
        raise FrameSyntaxError("a frame that ends too soon")
    return buf


def readable(format, buf):
    """The arguments as py-amqp can read them. The broker's sentences hold names, which it cuts after a number of bytes."""
    try:
        loads(format, buf, 4)
    except UnicodeDecodeError:
        values, at = [], 4
        for kind in format:
            if kind == "s":
                length = 1 + buf[at]
                values.append(buf[at + 1 : at + length].decode("utf-8", "ignore"))
            else:
                length = LENGTHS[kind]
                values.append(int.from_bytes(buf[at : at + length], "big"))
            at += length
        return buf[:4] + dumps(format, values)
    return buf


def header(buf, max_len):
    """The frame of a content's header with the properties of `KEPT` alone, and the length of the body that follows."""
    if len(buf) < 14:
        raise FrameSyntaxError("a content header that ends too soon")
    class_id, body_len = unpack_from(">HxxQ", buf)
    if class_id != amqp.Message.CLASS_ID:
        raise FrameSyntaxError("the content of an unknown class")
    properties = dict(kept(buf))
    if body_len > max_len:
        properties["type"] = TOO_LARGE
    left = amqp.Message(**properties)._serialize_properties()
    return pack(">HHQ", class_id, 0, body_len if body_len <= max_len else 0) + left, body_len


def kept(buf):
    """The properties of `KEPT` that are there and whole. What is between them is passed over by its length."""
    (flags,) = unpack_from(">H", buf, 12)
    at = 14
    for name, kind, flag in PROPERTIES:
        if not flags & flag:
            continue
        prefix = PREFIXES[kind]
        end = at + prefix + (int.from_bytes(buf[at : at + prefix], "big") if prefix else 1)
        if end > len(buf):
            return
        if name in KEPT:
            value = buf[at + prefix : end]
            yield name, value.decode("utf-8", "replace")[:MAX_TEXT] if prefix else value[0]
        at = end
