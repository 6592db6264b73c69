"""Mixins that seal the messages of any transport that builds on kombu's virtual channel."""

import contextlib
import logging
import time
import warnings
from queue import Empty

from kombu.transport.virtual.base import UNDELIVERABLE_FMT, UndeliverableWarning

from ...errors import OpenError
from ..sealing import CONTENT_TYPE, Bindings, InFlight, Repeated, Unanswered, current, logger
from .stored import Frame, garbage, text_of
from .routing import queues_of
from .waiting import RETRY, Pauses, Rounds, Seldom, say_returned

#: What kombu's decoder of stored messages raises for things that are none.
GARBAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

#: Properties that the broker needs, of an inner message. Everything else goes inside alone.
OUTSIDE = ("priority", "delivery_mode", "expiration")

#: Shorter than this a pause is not worth an event loop's while, in seconds.
BREATH = 0.1


class Delivery(dict):
    """A message that was opened, in the form of kombu's payloads, with the frame and the queue that it came from."""

    def __init__(self, message, frame, queue):
        super().__init__(message)
        self.frame = frame
        self.queue = queue


class MessageMixin:
    """A message that can only be made from a `Delivery`, and goes back to the broker in a frame that is made anew."""

    def __init__(self, payload, channel=None, **kwargs):
        self.frame = self.queue = None
        if isinstance(payload, Delivery):
            self.frame, self.queue = payload.frame, payload.queue
            super().__init__(payload, channel=channel, **kwargs)
            return
        # Nobody opened it, so nothing of it is used.
        info = {"exchange": "", "routing_key": ""}
        super().__init__({"body": "", "properties": {"delivery_tag": None, "delivery_info": info}}, channel=channel, **kwargs)
        error = OpenError("the message was not opened", reason="not-sealed")
        self.errors.append((type(error), error, None))

    def serializable(self):
        return self.frame.stored(self.queue) if self.frame else {}


class ChannelMixin:
    """Seals in `basic_publish`, and opens what a consumer or `basic_get` is to be given.

    A class that uses it needs ``Message``, made of `MessageMixin` and the transport's message. One whose broker keeps what is
    not acknowledged has `_hold`, `_let_go` and `_give_back` of its own.
    """

    # The sealed text is ASCII: base64 around it would say the same with more.
    body_encoding = "utf-8"
    #: What is read of that which is stored.
    Frame = Frame

    def __init__(self, connection, **kwargs):
        self.sealing = self._rules(connection.client)
        self._in_flight = InFlight(self.sealing)
        self._pauses = Pauses()
        self._rounds = Rounds()
        self._seldom_said = Seldom(RETRY)
        self._seldom = Seldom()
        super().__init__(connection, **kwargs)

    def _rules(self, client):
        return current(client.transport_options)

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

    def _lookup(self, exchange, routing_key, default=None):
        """The queues that a message goes to. kombu compiles regular expressions that are in the broker's tables, which
        anybody may have written there. Here their rows are data, and the patterns are those of the routing keys.
        """
        default = default or self.deadletter_queue
        if not exchange:
            return [routing_key or default]
        rule = self.typeof(exchange).type, exchange, routing_key, self._seldom
        # What this connection declared leads somewhere whatever became of the table.
        own = queues_of(self.sealed_bindings.rows(exchange), *rule)
        try:
            queues = queues_of(self._table(exchange), *rule) or own
        except KeyError:
            queues = own
        except Exception:
            if not own:
                raise
            queues = own
        if not queues and default is not None:
            warnings.warn(UndeliverableWarning(UNDELIVERABLE_FMT.format(exchange=exchange, routing_key=routing_key)))
            self._new_queue(default)
            return [default]
        return queues

    def _table(self, exchange):
        """The rows of an exchange's bindings. Raises when they cannot be read."""
        return self.get_table(exchange)

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

    def queue_delete(self, queue, *args, **kwargs):
        result = super().queue_delete(queue, *args, **kwargs)
        if not self.state.queue_index.get(queue):
            self.sealed_bindings.forget(queue)
        return result

    # --- In ---

    def basic_consume(self, queue, no_ack, *args, **kwargs):
        result = super().basic_consume(queue, no_ack, *args, **kwargs)
        hand_over = self.connection._callbacks[queue]
        since = time.time() if no_ack else None

        def deliver(item):
            try:
                delivery = self._open(item, queue, no_ack, since)
            except Unanswered:
                return
            if delivery is not None:
                return hand_over(delivery)

        self.connection._callbacks[queue] = deliver
        return result

    def basic_get(self, queue, no_ack=False, **kwargs):
        while True:
            try:
                delivery = self._open(self._get(queue), queue, no_ack)
            except (Empty, Unanswered):
                return None
            if delivery is not None:
                message = self.Message(delivery, channel=self)
                if not no_ack:
                    self.qos.append(message, message.delivery_tag)
                return message

    def _get(self, queue, *args, **kwargs):
        try:
            return super()._get(queue, *args, **kwargs)
        except GARBAGE as error:
            # Some errors have the text with them.
            item = getattr(error, "doc", None) or getattr(error, "object", None) or ""
            self._refuse(OpenError(f"it is no message: {type(error).__name__}", reason="malformed"), item, queue)
            raise Empty() from None

    def _get_and_deliver(self, queue, callback):
        if self._pauses.on(queue):
            raise Empty()
        return super()._get_and_deliver(queue, callback)

    def _open(self, item, queue, no_ack, since=None):
        """The delivery, or None when there is nothing to hand out. Whatever was stored, nothing is raised for it.

        Raises `Unanswered` when nothing can be told, and has given the message back then.
        """
        try:
            frame = self.Frame.read(item, self.sealing.max_frame_len)
        except OpenError as error:
            return self._refuse(error, item, queue)
        # The tag is ours: it is the name of a delivery, and what is stored with a message may be a copy of another one's.
        tag = self._next_delivery_tag()
        try:
            if not no_ack:
                # Before anybody is asked, as keys and memories may take their time.
                self._hold(tag, frame, queue)
            return self._checked(frame, tag, queue, no_ack, since)
        except Repeated as error:
            self._repeated(error, frame, queue)
        except Unanswered as error:
            self._leave(frame, tag, queue, error)
            raise
        except OpenError as error:
            try:
                self._refuse(error, frame, queue)
            except Unanswered as unanswered:
                self._leave(frame, tag, queue, unanswered)
                raise
        except BaseException:
            # The process is to end, or the connection is gone: it is for another one.
            with contextlib.suppress(Exception):
                self._give_back(tag, frame, queue)
            raise
        if not no_ack:
            self._let_go(tag)

    def _checked(self, frame, tag, queue, no_ack, since):
        """What is delivered of a frame. Raises `OpenError` for what is wrong with it, `Unanswered` for what is wrong with us."""
        try:
            opened, message = self.sealing.open(frame.sealed, queue, self.sealed_bindings, since)
            known = self._in_flight.check(opened, queue)
            body = self.sealing.body(message)
        except (OpenError, Unanswered):
            raise
        except GARBAGE as error:
            raise OpenError(f"it is no message: {type(error).__name__}", reason="malformed") from error
        except Exception as error:
            # Memory, files, threads: nothing that a message could be blamed for.
            raise Unanswered(f"{type(error).__name__}: {error}") from error
        if no_ack:
            self._in_flight.remember(known)
        else:
            self._in_flight.start(tag, known)
        info = {"exchange": opened.exchange, "routing_key": opened.routing_key}
        if opened.signer is not None:
            info["signer"] = opened.signer.id
        headers = message["headers"]
        if frame.redelivered:
            headers = {**headers, "redelivered": True}
            info["redelivered"] = True
        priority = message["properties"].get("priority")
        if priority is not None:
            info["priority"] = priority
        properties = {**message["properties"], "delivery_tag": tag, "delivery_info": info, "body_encoding": None}
        return Delivery({**message, "body": body, "headers": headers, "properties": properties}, frame, queue)

    def _repeated(self, error, frame, queue):
        """A message that was handled before, or a copy of one that is being handled: that one stays as it is."""
        held = self.qos._delivered.get(error.held) if error.held is not None else None
        if held is not None:
            # The broker may have taken it from the unacknowledged to give it out again.
            self._hold(error.held, held.frame, held.queue)
            if not self._in_flight.has(error.held):
                self._let_go(error.held)
            if frame.redelivered:
                return
        self._refuse(error, frame, queue)

    def _leave(self, frame, tag, queue, error):
        """Gives back a message of which nothing can be told now: neither is it lost, nor handled unchecked."""
        if self._is_broadcast(queue):
            # Other workers' events come all the time.
            text = "a broadcast to %r is left out, as it cannot be given back: %s"
            self.sealing.quiet.log(logging.ERROR, "left out", queue, text, queue, error)
            return
        self._give_back(tag, frame, queue)
        self._left(frame, queue, error)

    def leave(self, message, error):
        """The same for a message that was handed out."""
        message.requeue()
        self._left(message.frame, message.queue, error)

    def _left(self, frame, queue, error):
        say_returned(error, queue, self._seldom_said)
        name, length = self._round(frame, queue)
        if self._rounds.over(name, length):
            self._pause(name, RETRY if error.pause is None else error.pause)

    def _round(self, frame, queue):
        """The name of what a message goes round in, and how many are in it."""
        return queue, lambda: self._size(queue)

    def _pause(self, name, seconds):
        if seconds < BREATH:
            time.sleep(seconds)
        else:
            self._pauses.begin(name, seconds)

    # --- Where a message is kept until it is acknowledged, if the broker has such a place ---

    def _hold(self, tag, frame, queue):
        """Keeps it under this tag. Raises `Unanswered` when that is not possible."""

    def _let_go(self, tag):
        """Nobody needs what is kept under this tag."""

    def _give_back(self, tag, frame, queue):
        """Puts it back into its queue, behind the others, from where `_hold` kept it, if it did."""
        self._put(queue, frame.stored(queue))

    def _is_broadcast(self, queue):
        """Whether nothing can be put back into this queue, as it is none at the broker."""
        return False

    # --- What is refused ---

    def _refuse(self, error, item, queue):
        self.sealing.refuse(error, f"message from the queue {queue!r}")
        if queue != self.sealing.dead_letter_queue and self.sealing.keeps(error):
            self._keep(item)

    def _keep(self, item):
        """Puts what was refused among the dead letters, of which the last ones are kept. Raises `Unanswered` when a frame
        cannot be.
        """
        queue = self.sealing.dead_letter_queue
        # All have one priority, so that they lie in one list.
        letter = item.letter(queue) if isinstance(item, Frame) else garbage(item, queue)
        try:
            self._new_queue(queue)
            self._put(queue, letter)
            self._trim(queue, self.sealing.dead_letter_max)
        except Exception as error:
            if isinstance(item, Frame):
                raise Unanswered(f"nothing can be put into the queue {queue!r}: {error}") from error
            text = "what was refused is not kept, as nothing can be put into the queue %r: %s"
            self.sealing.quiet.log(logging.ERROR, "refused and not kept", None, text, queue, error)

    def _trim(self, queue, most):
        """Takes the oldest out of a queue that has more than so many."""
        with contextlib.suppress(Empty):
            for _ in range(self._size(queue) - most):
                super()._get(queue)

    # --- Acknowledgements ---

    def basic_ack(self, delivery_tag, multiple=False):
        super().basic_ack(delivery_tag, multiple=multiple)
        self._in_flight.end(delivery_tag, handled=True)

    def basic_reject(self, delivery_tag, requeue=False):
        super().basic_reject(delivery_tag, requeue=requeue)
        self._in_flight.end(delivery_tag, handled=not requeue)

    def basic_recover(self, requeue=False):
        tags = list(self.qos._delivered)
        failed = super().basic_recover(requeue=requeue) or ()
        for _, message in failed:
            # kombu forgets what could not be put back. It is still being handled here.
            tags.remove(message.delivery_tag)
            self.qos.append(message, message.delivery_tag)
        for tag in tags:
            # What was given back is not in flight any more, and may come again.
            self._in_flight.end(tag, handled=False)
        for error, _ in failed:
            raise error

    def _restore(self, message, leftmost=False):
        """Back to the queue that it came from. Where else its exchange leads to, others have a copy of their own."""
        if message.frame is not None:
            self._put(message.queue, message.frame.stored(message.queue, redelivered=True))

    def _return(self, item, queue):
        """Gives back what came from a queue that nobody consumes any more."""
        try:
            frame = self.Frame.read(item, self.sealing.max_frame_len)
        except OpenError as error:
            return self._refuse(error, item, queue)
        self._give_back(None, frame, queue)


class TransportMixin:
    """Keeps what the channels of a connection declared."""

    def __init__(self, client, **kwargs):
        self.sealed_bindings = Bindings()
        super().__init__(client, **kwargs)

    def _deliver(self, message, queue):
        deliver = self._callbacks.get(queue)
        if deliver is not None:
            return deliver(message)
        for channel in self.channels:
            return channel._return(message, queue)
