"""``sealed-amqp://`` and ``sealed-amqps://``."""

import contextlib
import time

import amqp
from amqp import spec
from celery.exceptions import ImproperlyConfigured
from kombu.transport import pyamqp

from ...errors import OpenError
from .. import tls
from ..sealing import CONTENT_TYPE, Bindings, InFlight, PutAside, Unanswered, current, logger
from . import frames
from .returns import Returns, ReturnsMixin
from .virtual import GARBAGE, OUTSIDE, text_of


class Message(pyamqp.Message):
    """A message from AMQP, which can only be used when it was opened."""

    def __init__(self, msg, channel=None, **kwargs):
        super().__init__(msg, channel=channel, **kwargs)
        if not getattr(msg, "opened", False):
            self.body = b""
            error = OpenError("the message was not opened", reason="not-sealed")
            self.errors.append((type(error), error, None))


class Channel(ReturnsMixin, pyamqp.Channel):
    """A channel to an AMQP broker that seals."""

    Message = Message

    def __init__(self, connection, *args, **kwargs):
        self.sealing = connection.sealing
        self._in_flight = InFlight(self.sealing)
        # How often everything was asked back without an answer until now.
        self._recovering = 0
        super().__init__(connection, *args, **kwargs)

    # --- Out ---

    def _basic_publish(self, msg, exchange="", routing_key="", *args, **kwargs):
        properties = dict(msg.properties)
        outside = {name: properties[name] for name in OUTSIDE if properties.get(name) is not None}
        headers = properties.pop("application_headers", None) or {}
        inner = {
            "content-type": properties.pop("content_type", None),
            "content-encoding": properties.pop("content_encoding", None),
            "headers": headers,
            "properties": properties,
            "body": text_of(msg.body, properties),
        }
        sealed = amqp.Message(
            self.sealing.seal(inner, exchange, routing_key),
            content_type=CONTENT_TYPE,
            content_encoding="utf-8",
            application_headers={},
            **outside,
        )
        return super()._basic_publish(sealed, exchange, routing_key, *args, **kwargs)

    # amqp puts its own into an attribute of the instance when publishing is confirmed, and that calls `_basic_publish`.
    basic_publish = _basic_publish

    # --- What leads to which queue ---

    def exchange_declare(self, exchange, type, *args, **kwargs):
        result = super().exchange_declare(exchange, type, *args, **kwargs)
        self.connection.sealed_bindings.declare(exchange, type)
        return result

    def queue_bind(self, queue, exchange="", routing_key="", *args, **kwargs):
        self.connection.sealed_bindings.bind(queue, exchange, routing_key)
        return super().queue_bind(queue, exchange, routing_key, *args, **kwargs)

    def queue_unbind(self, queue, exchange, routing_key="", *args, **kwargs):
        self.connection.sealed_bindings.unbind(queue, exchange, routing_key)
        return super().queue_unbind(queue, exchange, routing_key, *args, **kwargs)

    # --- In ---

    def basic_consume(self, queue="", *args, no_ack=False, callback=None, **kwargs):
        since = time.time() if no_ack else None

        def deliver(msg):
            # What was on its way when everything was given back comes again.
            if not self._recovering:
                with contextlib.suppress(Unanswered):
                    if self._open(msg, queue, no_ack, since):
                        callback(msg)

        # Whoever wants no acknowledgements gets none, but a message of which nothing can be told now must not be gone: we
        # acknowledge for him, when it was opened.
        consumer_tag = super().basic_consume(queue, *args, no_ack=False, callback=deliver, **kwargs)
        if no_ack:
            self.no_ack_consumers.add(consumer_tag)
        return consumer_tag

    def basic_get(self, queue="", no_ack=False, **kwargs):
        while True:
            msg = super().basic_get(queue, no_ack=False, **kwargs)
            try:
                if msg is None or self._open(msg, queue, no_ack):
                    return msg
            except Unanswered:
                return None

    def _open(self, msg, queue, no_ack, since=None):
        """Opens the message in place; whether it is to be handed out. Whatever its bytes are, nothing is raised for them.

        Raises `Unanswered` when nothing can be told, and has given the message back then.
        """
        tag = msg.delivery_info["delivery_tag"]
        try:
            known = self._opened(msg, queue, since)
        except OpenError as error:
            try:
                return self._refuse(error, msg, queue)
            except Unanswered as unanswered:
                self._leave(unanswered, msg, queue, no_ack)
                raise
        except Unanswered as error:
            self._leave(error, msg, queue, no_ack)
            raise
        if no_ack:
            super().basic_ack(tag)
            self._in_flight.remember(known)
        else:
            self._in_flight.start(tag, known)
        return True

    def _opened(self, msg, queue, since):
        """Puts what was sealed in place of what came. Returns by what the message is remembered."""
        found = msg.properties.get("content_type")
        if found != CONTENT_TYPE:
            raise OpenError(f"the message is not sealed: its content type is {found!r}", reason="not-sealed")
        if msg.properties.get("type") == frames.TOO_LARGE:
            raise OpenError(f"the message is longer than {self.sealing.max_len} bytes", reason="too-large")
        try:
            opened, message = self.sealing.open(msg.body, queue, self.connection.sealed_bindings, since)
            known = self._in_flight.check(opened, queue)
            body = self.sealing.body(message)
        except (OpenError, Unanswered):
            raise
        except GARBAGE as error:
            raise OpenError(f"it is no message: {type(error).__name__}", reason="malformed") from error
        except Exception as error:
            # Memory, files, threads: nothing that a message could be blamed for.
            raise Unanswered(f"{type(error).__name__}: {error}") from error
        msg.body = body
        msg.properties = {
            **message["properties"],
            "content_type": message["content-type"],
            "content_encoding": message["content-encoding"],
            "application_headers": message["headers"],
        }
        # Of a delayed message it is where it would have gone at once: a task that is tried again goes there.
        bindings = self.connection.sealed_bindings
        exchange, routing_key = self.sealing.destination(queue, opened.exchange, opened.routing_key, bindings)
        msg.delivery_info.update(exchange=exchange, routing_key=routing_key)
        if opened.signer is not None:
            msg.delivery_info["signer"] = opened.signer.id
        msg.opened = True
        return known

    def _leave(self, error, msg, queue, no_ack):
        """Gives a message back: it is neither lost nor handled unchecked."""
        # Queues of what nobody acknowledges are short, and often nobody else's.
        to_the_end = error.pause is not None or not no_ack
        self.connection.returns.give_back(self, msg, queue, error, to_the_end=to_the_end)

    def _refuse(self, error, msg, queue):
        tag = msg.delivery_info["delivery_tag"]
        aside = isinstance(error, PutAside)
        if aside:
            place = self.sealing.dead_letter_queue
            try:
                self.connection.returns.aside.keep(msg, place, self.sealing.dead_letter_max)
            except Exception as failure:
                raise Unanswered(f"it cannot be put into the queue {place!r} ({failure}): {error}") from failure
        self.sealing.refuse(error, f"message from the queue {queue!r}")
        if self.sealing.refused == "dead-letter" and not aside:
            super().basic_reject(tag, requeue=False)
        else:
            super().basic_ack(tag)
        return False

    def leave(self, message, error):
        self._in_flight.end(message.delivery_tag, handled=False)
        super().leave(message, error)

    # --- Acknowledgements ---

    def basic_ack(self, delivery_tag, multiple=False, **kwargs):
        super().basic_ack(delivery_tag, multiple=multiple, **kwargs)
        self._in_flight.end(delivery_tag, handled=True, multiple=multiple)

    def basic_reject(self, delivery_tag, requeue, **kwargs):
        super().basic_reject(delivery_tag, requeue, **kwargs)
        self._in_flight.end(delivery_tag, handled=not requeue)

    def basic_recover(self, requeue=False):
        self._recovering += 1
        self._in_flight.clear()
        return super().basic_recover(requeue=requeue)

    # The other method, without an answer, leaves open which messages come again.
    basic_recover_async = basic_recover

    def _setup_listeners(self):
        super()._setup_listeners()
        self._callbacks[spec.Basic.RecoverOk] = self._on_recover_ok

    def _on_recover_ok(self):
        self._recovering -= 1

    def _do_revive(self):
        # The broker has closed the channel and taken back what was delivered on it. Delivery tags begin anew.
        self._recovering = 0
        self._in_flight.clear()
        super()._do_revive()


class Connection(pyamqp.Connection):
    """A connection to an AMQP broker whose channels seal."""

    Channel = Channel
    #: Whether the URL says TLS. ``broker_use_ssl`` says it for any URL.
    always_tls = False

    def __init__(self, host="localhost:5672", *args, sealing=None, ssl=False, **kwargs):
        self.sealing = current({"sealing": sealing})
        self.sealed_bindings = Bindings()
        if ssl or self.always_tls:
            ssl = tls.for_amqp(ssl or True, host.rpartition(":")[0].strip("[]"))
        self.returns = Returns(host, *args, ssl=ssl, **kwargs)
        kwargs["frame_handler"] = frames.reader(self.sealing.max_len)
        super().__init__(host, *args, ssl=ssl, **kwargs)

    def collect(self):
        self.returns.aside.close()
        super().collect()


class SSLConnection(Connection):
    """One over TLS."""

    always_tls = True


class TransportMixin:
    """A transport whose options of TLS are looked at when it is made."""

    #: What a worker makes its connection again for. A channel that the broker closed is among it, as when somebody deletes what
    #: the channel uses: on a new connection everything is declared again. Celery alone would end.
    connection_errors = (*pyamqp.Transport.connection_errors, amqp.ChannelError)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "ssl" in (self.client.transport_options or ()):
            # kombu would take it instead of what the URL and the setting say.
            raise ImproperlyConfigured("broker_transport_options has ssl, which belongs into broker_use_ssl")
        if self.client.ssl:
            tls.for_amqp(self.client.ssl, "")


class Transport(TransportMixin, pyamqp.Transport):
    """AMQP with sealed messages."""

    Connection = Connection


class SSLTransport(TransportMixin, pyamqp.SSLTransport):
    """AMQP over TLS with sealed messages."""

    Connection = SSLConnection
