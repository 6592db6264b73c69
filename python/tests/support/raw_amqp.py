"""A publisher over AMQP who writes each byte as he likes, as far as the broker hands it on."""

from struct import pack

import amqp
from support.transports import plain_amqp

#: Properties in the order of their flags: name, flag, kind.
PROPERTIES = [
    ("content_type", 0x8000, "s"), ("content_encoding", 0x4000, "s"), ("headers", 0x2000, "F"), ("delivery_mode", 0x1000, "o"),
    ("priority", 0x0800, "o"), ("correlation_id", 0x0400, "s"), ("reply_to", 0x0200, "s"), ("expiration", 0x0100, "s"),
    ("message_id", 0x0080, "s"), ("timestamp", 0x0040, "Q"), ("type", 0x0020, "s"), ("app_id", 0x0008, "s"),
    ("cluster_id", 0x0004, "s"),
]  # fmt: skip

SEALED = b"application/x-taskseal"


def properties(**given):
    """The bytes of a content header's properties. Texts are bytes, `headers` the bytes within the table."""
    flags, values = 0, b""
    for name, flag, kind in PROPERTIES:
        if name in given:
            flags |= flag
            value = given.pop(name)
            values += {"s": lambda: pack(">B", len(value)) + value, "F": lambda: pack(">I", len(value)) + value,
                       "o": lambda: pack(">B", value), "Q": lambda: pack(">Q", value)}[kind]()  # fmt: skip
    assert not given, given
    return pack(">H", flags) + values


def field(key, value):
    """A field of a table: a key and the bytes of a value with its type."""
    return pack(">B", len(key)) + key + value


def nested(depth, kind=b"F"):
    """The bytes of a table of tables, or of arrays, so deep."""
    value = b"I\x00\x00\x00\x01"
    for _ in range(depth):
        inner = field(b"k", value) if kind == b"F" else value
        value = kind + pack(">I", len(inner)) + inner
    return field(b"k", value)


class Message(amqp.Message):
    """A message whose properties are these bytes."""

    def __init__(self, body, properties):
        super().__init__(body)
        self.raw = properties

    def _serialize_properties(self):
        return self.raw


class Publisher:
    """Publishes messages, with exchange and routing key as bytes. A channel that the broker closed is opened again."""

    def __init__(self, address):
        self.address = address
        self.connection = None

    def publish(self, body, raw=None, exchange=b"", routing_key=b""):
        """Whether the broker took it."""
        try:
            if self.connection is None:
                self.connection = plain_amqp(self.address)
                self.connection.confirm_publish = True
                self.channel = self.connection.channel()
            raw = properties(content_type=SEALED) if raw is None else raw
            self.channel.basic_publish(Message(body, raw), exchange, routing_key)
            return True
        except (amqp.exceptions.AMQPError, OSError):
            self.close()
            return False

    def close(self):
        if self.connection is not None:
            self.connection.collect()
            self.connection = None


#: What is well formed for the broker and is hard on whoever parses it: name and properties.
HARD_PROPERTIES = {
    "a content type that is no text": properties(content_type=b"\xff\xfe"),
    "a content type that is cut": properties(content_type=SEALED[:-1] + b"\xc3"),
    "a content encoding that is no text": properties(content_type=SEALED, content_encoding=b"\xff"),
    "a content encoding that is unknown": properties(content_type=SEALED, content_encoding=b"rot13"),
    "a correlation id that is no text": properties(content_type=SEALED, correlation_id=b"\xff\xfe"),
    "a reply address that is no text": properties(content_type=SEALED, reply_to=b"\xff" * 255),
    "a message id that is no text": properties(content_type=SEALED, message_id=b"\xed\xa0\x80"),
    "a type that is no text": properties(content_type=SEALED, type=b"\xc0\x80"),
    "the type of what is too large": properties(content_type=SEALED, type=b"too-large"),
    "an application that is no text": properties(content_type=SEALED, app_id=b"\xff"),
    "a cluster that is no text": properties(content_type=SEALED, cluster_id=b"\xff"),
    "a time in the property": properties(content_type=SEALED, timestamp=2**64 - 1),
    "headers 3,000 deep": properties(content_type=SEALED, headers=nested(3000)),
    "arrays 3,000 deep": properties(content_type=SEALED, headers=nested(3000, b"A")),
    "a time in a header": properties(content_type=SEALED, headers=field(b"when", b"T" + pack(">Q", 2**62))),
    "a decimal with a large scale": properties(content_type=SEALED, headers=field(b"k", b"D\xff\x7f\xff\xff\xff")),
    "a key that is no text": properties(content_type=SEALED, headers=field(b"\xff", b"V")),
    "a value that is no text": properties(content_type=SEALED, headers=field(b"k", b"S\x00\x00\x00\x01\xff")),
    "bytes": properties(content_type=SEALED, headers=field(b"k", b"x\x00\x00\x00\x02\xff\xfe")),
    "a large number": properties(content_type=SEALED, headers=field(b"k", b"d" + pack(">d", 1e308))),
    "the same key twice": properties(content_type=SEALED, headers=field(b"k", b"V") * 2),
    "no properties": properties(),
}


def hard_properties(source):
    """Properties made by chance: well formed, with texts and tables that are not."""
    chance = lambda: source.random() < 0.3  # noqa: E731
    given = {}
    for name, _, kind in PROPERTIES:
        if name == "content_type":
            given[name] = SEALED if source.random() < 0.7 else source.randbytes(source.randrange(200))
        elif name == "expiration" or not chance():
            continue
        elif kind == "s":
            given[name] = source.choice([source.randbytes(source.randrange(255)), b"\xff\xfe", "Å😀".encode()])
        elif kind == "o":
            given[name] = source.choice([1, 2]) if name == "delivery_mode" else source.randrange(256)
        elif kind == "Q":
            given[name] = source.choice([0, 2**62, 2**64 - 1])
        else:
            given[name] = hard_table(source)
    return properties(**given)


def hard_table(source, depth=3):
    fields = []
    for _ in range(source.randrange(4)):
        value = source.choice([
            b"V", b"T" + pack(">Q", source.choice([2**62, 2**63, 2**64 - 1])), b"t" + source.randbytes(1), b"I" + source.randbytes(4),
            b"l" + source.randbytes(8), b"d" + pack(">d", source.gauss(0, 1e300)), b"D" + source.randbytes(5),
            b"S" + pack(">I", 3) + source.randbytes(3), b"x" + pack(">I", 3) + source.randbytes(3),
        ])  # fmt: skip
        if depth and source.random() < 0.4:
            inner = hard_table(source, depth - 1)
            value = b"F" + pack(">I", len(inner)) + inner
        fields.append(field(source.randbytes(source.randrange(20)), value))
    if source.random() < 0.05:
        fields.append(nested(source.randrange(1, 3000), source.choice([b"F", b"A"])))
    return b"".join(fields)
