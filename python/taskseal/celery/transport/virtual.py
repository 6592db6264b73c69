"""Mixins that seal the messages of any transport that builds on kombu's virtual channel."""

import base64
import contextlib
import json
import time
import uuid
from queue import Empty

from kombu.utils.encoding import bytes_to_str

from ...errors import OpenError
from ..sealing import CONTENT_TYPE, Bindings, InFlight, Repeated, Unanswered, current, logger

#: What kombu's decoder of stored messages raises for things that are none.
GARBAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

#: Properties that the broker needs, of an inner message. Everything else goes inside alone.
OUTSIDE = ("priority", "delivery_mode", "expiration")

#: How long to wait before a message is tried again of which nothing could be told, in seconds.
RETRY = 1.0


class Delivery(dict):
    """A message that was opened, in the form of kombu's payloads, with what it was opened from."""

    def __init__(self, message, sealed):
        super().__init__(message)
        self.sealed = sealed


class MessageMixin:
    """A message that can only be made from a `Delivery`, and goes back to the broker as it came."""

    def __init__(self, payload, channel=None, **kwargs):
        if isinstance(payload, Delivery):
            super().__init__(payload, channel=channel, **kwargs)
            self._raw = payload.sealed
            return
        # Nobody opened it: it may be returned to the queue, and be used for nothing else.
        properties = {"delivery_tag": payload["properties"]["delivery_tag"],
                      "delivery_info": payload["properties"]["delivery_info"]}  # fmt: skip
        super().__init__({"body": "", "properties": properties}, channel=channel, **kwargs)
        error = OpenError("the message was not opened", reason="not-sealed")
        self.errors.append((type(error), error, None))
        self._raw = payload

    def serializable(self):
        return self._raw


class ChannelMixin:
    """Seals in `basic_publish`, and opens what a consumer or `basic_get` is to be given.

    A class that uses it needs ``Message``, made of `MessageMixin` and the transport's message.
    """

    # The sealed text is ASCII: base64 around it would say the same with more.
    body_encoding = "utf-8"

    def __init__(self, connection, **kwargs):
        self.sealing = current(connection.client.transport_options)
        self._in_flight = InFlight(self.sealing)
        self._delivering = False
        super().__init__(connection, **kwargs)

    # --- Out ---

    def basic_publish(self, message, exchange, routing_key, **kwargs):
        properties = dict(message["properties"])
        outside = {name: properties[name] for name in OUTSIDE if properties.get(name) is not None}
        for name in ("delivery_info", "delivery_tag", "body_encoding"):
            properties.pop(name, None)
        inner = {
            **message,
            "body": text_of(message["body"], properties),
            "properties": properties,
            "headers": message["headers"] or {},
        }
        sealed = {
            "body": self.sealing.seal(inner, exchange, routing_key),
            "content-type": CONTENT_TYPE,
            "content-encoding": "utf-8",
            "headers": {},
            "properties": {**outside, "delivery_info": {}},
        }
        return super().basic_publish(sealed, exchange, routing_key, **kwargs)

    # --- What leads to which queue ---

    @property
    def sealed_bindings(self):
        return self.connection.sealed_bindings

    def exchange_declare(self, exchange=None, type="direct", *args, **kwargs):
        result = super().exchange_declare(exchange, type, *args, **kwargs)
        self.sealed_bindings.declare(exchange, type)
        return result

    def queue_bind(self, queue, exchange=None, routing_key="", *args, **kwargs):
        self.sealed_bindings.bind(queue, exchange or "amq.direct", routing_key)
        return super().queue_bind(queue, exchange, routing_key, *args, **kwargs)

    def queue_unbind(self, queue, exchange=None, routing_key="", *args, **kwargs):
        self.sealed_bindings.unbind(queue, exchange or "amq.direct", routing_key)
        return super().queue_unbind(queue, exchange, routing_key, *args, **kwargs)

    # --- In ---

    def basic_consume(self, queue, no_ack, *args, **kwargs):
        result = super().basic_consume(queue, no_ack, *args, **kwargs)
        hand_over = self.connection._callbacks[queue]
        since = time.time() if no_ack else None

        def deliver(raw):
            self._delivering = True
            with contextlib.suppress(Unanswered):
                delivery = self._open(raw, queue, no_ack, since)
                if delivery is not None:
                    return hand_over(delivery)

        self.connection._callbacks[queue] = deliver
        return result

    def basic_get(self, queue, no_ack=False, **kwargs):
        while True:
            try:
                raw = self._get(queue)
                delivery = self._open(raw, queue, no_ack)
            except (Empty, Unanswered):
                return None
            if delivery is not None:
                message = self.Message(delivery, channel=self)
                if not no_ack:
                    self.qos.append(message, message.delivery_tag)
                return message

    def _get(self, queue, *args, **kwargs):
        while True:
            try:
                return super()._get(queue, *args, **kwargs)
            except GARBAGE as error:
                self._refuse_garbage(error, queue)

    def _open(self, raw, queue, no_ack, since=None):
        """The delivery, or None when there is nothing to hand out. Whatever the bytes are, nothing is raised for them.

        Raises `Unanswered` when nothing can be told, and has given the message back then.
        """
        try:
            wire, tag, redelivered = unwrap(raw)
            opened, message = self.sealing.open(wire, queue, self.sealed_bindings, since)
            known = self._in_flight.check(opened, queue, tag)
            body = self.sealing.body(message)
        except Repeated as error:
            if error.same:
                # The broker gave it out again while it is being handled here. It stays this delivery.
                held = self.qos._delivered.get(tag)
                return held and self.qos.append(held, tag)
            return self._refuse(error, raw, queue)
        except OpenError as error:
            return self._refuse(error, raw, queue)
        except GARBAGE as error:
            return self._refuse(OpenError(f"it is no message: {type(error).__name__}", reason="malformed"), raw, queue)
        except Unanswered as error:
            # Not to be answered by losing the message, nor by handling it unchecked.
            if queue in getattr(self, "_fanout_queues", ()):
                logger.error("a broadcast to %r is left out, as it cannot be given back: %s", queue, error)
                raise
            logger.error("the message stays in the queue %r: %s", queue, error)
            time.sleep(RETRY)
            self._put(queue, raw)
            raise
        if no_ack:
            self._in_flight.remember(known)
        else:
            self._in_flight.start(tag, known)
        info = {"exchange": opened.exchange, "routing_key": opened.routing_key}
        headers = message["headers"]
        if redelivered:
            headers = {**headers, "redelivered": True}
            info["redelivered"] = True
        priority = message["properties"].get("priority")
        if priority is not None:
            info["priority"] = priority
        properties = {**message["properties"], "delivery_tag": tag, "delivery_info": info, "body_encoding": None}
        return Delivery({**message, "body": body, "headers": headers, "properties": properties}, raw)

    def _refuse(self, error, raw, queue):
        self.sealing.refuse(error, f"message from the queue {queue!r}")
        if queue != self.sealing.dead_letter_queue:
            self._keep(raw if isinstance(raw, dict) else json.dumps(raw, default=repr))

    def _refuse_garbage(self, error, where, item=None):
        """Refuses what cannot be read. Most errors have the text with them; the rest is lost to the dead letters."""
        if item is None:
            item = getattr(error, "doc", None) or getattr(error, "object", None)
        error = OpenError(f"it is no JSON of a message: {type(error).__name__}", reason="malformed")
        self.sealing.refuse(error, f"something from {where!r}")
        if item is not None and where != self.sealing.dead_letter_queue:
            self._keep(item)

    def _keep(self, refused):
        """Puts what was refused among the dead letters, where these are wanted."""
        if self.sealing.refused != "dead-letter":
            return
        if not isinstance(refused, dict):
            refused = frame(refused.encode() if isinstance(refused, str) else refused)
        # With the properties that every transport looks at when it puts a message.
        properties = refused.get("properties") if isinstance(refused.get("properties"), dict) else {}
        self._new_queue(self.sealing.dead_letter_queue)
        self._put(self.sealing.dead_letter_queue, {**refused, "properties": {**properties, "priority": 0}})

    # --- Acknowledgements ---

    def basic_ack(self, delivery_tag, multiple=False):
        super().basic_ack(delivery_tag, multiple=multiple)
        self._in_flight.end(delivery_tag, handled=True)

    def basic_reject(self, delivery_tag, requeue=False):
        super().basic_reject(delivery_tag, requeue=requeue)
        self._in_flight.end(delivery_tag, handled=not requeue)


class TransportMixin:
    """Keeps what the channels of a connection declared."""

    def __init__(self, client, **kwargs):
        self.sealed_bindings = Bindings()
        super().__init__(client, **kwargs)

    def _reject_inbound_message(self, raw_message):
        try:
            super()._reject_inbound_message(raw_message)
        except GARBAGE as error:
            for channel in self.channels:
                return channel._refuse_garbage(error, "a queue without a consumer", json.dumps(raw_message, default=repr))


def unwrap(raw):
    """The sealed text, the delivery tag, and whether the broker says that it was delivered before."""
    properties = raw["properties"]
    if raw.get("content-type") != CONTENT_TYPE:
        found = raw.get("content-type")
        raise OpenError(f"the message is not sealed: its content type is {str(found)[:120]!r}", reason="not-sealed")
    wire, tag = raw["body"], properties["delivery_tag"]
    if not isinstance(wire, (str, bytes)) or not isinstance(tag, str):
        raise TypeError("body or delivery tag")
    if properties.get("body_encoding") == "base64":
        wire = base64.b64decode(wire, validate=True)
    info, headers = properties.get("delivery_info"), raw.get("headers")
    redelivered = any(isinstance(part, dict) and part.get("redelivered") is True for part in (info, headers, raw))
    return wire, tag, redelivered


def frame(item):
    """A message of kombu's with bytes that are none as its body."""
    properties = {"delivery_tag": str(uuid.uuid4()), "delivery_info": {"exchange": "", "routing_key": ""}}
    return {"body": text_of(item, properties), "content-type": "application/octet-stream", "content-encoding": "binary",
            "headers": {}, "properties": properties}  # fmt: skip


def text_of(body, properties):
    """A body as text for JSON. Bytes that are no text are put in base64, which `properties` then say."""
    if isinstance(body, str):
        return body
    body = bytes(body) if body is not None else b""
    properties["body_encoding"] = "base64"
    return bytes_to_str(base64.b64encode(body))
