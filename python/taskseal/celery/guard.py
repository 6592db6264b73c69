"""What a worker does with a message before Celery does anything: it verifies it and looks whether it has the form of one.

Whatever a message holds, it ends in one of three ways: it is handled, refused, or given back because it cannot be told now
whether it is good.
"""

import logging
import time

import kombu
from celery.exceptions import BackendError
from kombu.exceptions import ContentDisallowed, DecodeError, OperationalError

from ..errors import OpenError, TasksealError
from . import forms
from .refusals import TIME, Refusals, logger
from .sealing import NOT_NOW, Unanswered
from .transport.waiting import RETRY, Rounds, Seldom, say_returned

#: How many messages a transport may have sent ahead of which nothing is known.
AHEAD = 10

#: The header of a task that says by whom its message was signed: the id of the certificate.
SIGNER = "taskseal_signer"

#: The content type of a signed body.
SIGNED = "application/data"

#: Content types whose decoders need keys begin with it.
ENCRYPTED = "application/x-fernet-"

#: What the setting ``worker_consumer`` becomes.
GUARDED = "taskseal.celery.worker:consumer"


class Guard:
    """What a worker of one application checks, and what it does with messages that it does not handle.

    `refusals` counts, logs and knows what becomes of a refused message: a `Sealing`, or `Refusals`. With `store`, the
    certificates of an application that signs bodies, what is not signed is refused. `consumer` is the class that is guarded.
    """

    def __init__(self, app, refusals, store, consumer):
        self.app = app
        self.refusals = refusals
        self.store = store
        self.consumer = consumer

    # --- What a message is ---

    def check_task(self, message):
        payload = self.payload(message)
        self._tell_signer(message)
        forms.check_task(message, payload)
        if not isinstance(payload, dict) and self._needs_keys(message):
            # A pool's process would verify and decrypt once more, and has nowhere to give the message back to.
            message.body, message.content_type, message.content_encoding = payload, None, None

    def check_command(self, message):
        forms.check_command(message, self.payload(message))

    def check_event(self, message):
        forms.check_event(self.payload(message))

    def payload(self, message):
        """What is in the body, which is decoded only if it is signed, where bodies are."""
        if self.store is not None:
            # kombu's decoder hands out an empty body without asking anybody.
            if not isinstance(message.body, (str, bytes, bytearray, memoryview)) or not len(message.body):
                raise OpenError("the body is empty or no text, and nobody signed it", reason="not-sealed")
            if message.content_type != SIGNED:
                found = forms.short(message.content_type)
                raise OpenError(f"the body is not signed: its content type is {found}", reason="not-sealed")
            message.accept = {SIGNED}
        return message.decode()

    def _tell_signer(self, message):
        """Says to the task who signed its message. Nobody says of himself who he is, and where bodies alone are signed nobody
        says it.
        """
        signer = message.delivery_info.get("signer") if self.store is None else None
        message.headers.pop(SIGNER, None)
        if signer is not None:
            message.headers[SIGNER] = signer

    def _needs_keys(self, message):
        return self.store is not None or str(message.content_type).startswith(ENCRYPTED)

    # --- What becomes of it ---

    def log(self, topic, text, *args, **options):
        """Logs an error, unless there are many of this topic."""
        self.refusals.quiet.log(logging.ERROR, topic, args[0], text, *args, **options)

    def refuse(self, message, error):
        """Counts and logs a refusal, and takes the message out of its queue."""
        error = reason_of(error)
        if not message.acknowledged:
            try:
                self._take_out(message, error)
            except Unanswered as unanswered:
                return give_back(message, unanswered)
        self.refusals.refuse(error, where(message))

    def _take_out(self, message, error):
        """Acknowledges a message, or has it kept before. Raises `Unanswered` when it cannot be."""
        frame, kept = getattr(message, "frame", None), self.refusals.dead_letter_queue
        # What the time alone is a reason for says as much about the clock of this worker.
        aside = error.reason in TIME
        if frame is not None and (aside or self.refusals.keeps(error)):
            # What comes out of the dead letters does not go there again.
            if message.queue != kept:
                message.channel._keep(frame)
        elif aside:
            self._put_aside(message, kept)
        elif self.refusals.keeps(error):
            return message.reject(requeue=False)
        message.ack()

    def _put_aside(self, message, queue):
        headers = {name: value for name, value in message.headers.items() if name != "compression"}
        kept = kombu.Queue(queue, max_length=self.refusals.dead_letter_max)
        try:
            with self.app.producer_pool.acquire(block=True, timeout=RETRY) as producer:
                producer.publish(message.body, exchange="", routing_key=queue, declare=[kept], headers=headers,
                                 content_type=message.content_type, content_encoding=message.content_encoding)  # fmt: skip
        except Exception as failure:
            raise Unanswered(f"it cannot be put into the queue {queue!r}: {failure}") from failure

    def leave_out(self, message, error):
        """Refuses a message that is gone from its queue already: a broadcast."""
        if is_not_now(error):
            self.log("left out", "%s is left out, as it cannot be given back: %s", where(message), root(error))
        else:
            self.refusals.refuse(reason_of(error), where(message))

    def answer(self, message, error):
        """Gives a message back, or refuses it, for what was raised about it."""
        if not is_not_now(error):
            return self.refuse(message, error)
        if not message.acknowledged:
            give_back(message, error)


def give_back(message, error):
    """Returns a message to its queue, behind the others where that is possible. Waits when all of them went back once."""
    error = root(error)
    if is_broadcast(message):
        return logger.error("%s is left out, as it cannot be given back: %s", where(message), error)
    if not isinstance(error, Unanswered):
        error = Unanswered(str(error))
    leave = getattr(message.channel, "leave", None)
    if leave is not None:
        return leave(message, error)
    # A transport that is not guarded.
    message.requeue()
    say_returned(error, routing_key(message), _seldom)
    if _rounds.over("", lambda: length(message)):
        time.sleep(RETRY)


_rounds, _seldom = Rounds(), Seldom(RETRY)


def length(message):
    """How many messages a transport that is not guarded hands out until one that was given back comes again, as far as known."""
    size = getattr(message.channel, "_size", None)
    return size(routing_key(message)) if size is not None else AHEAD


def is_broadcast(message):
    """Whether the broker has forgotten the message: its consumer acknowledges nothing."""
    info = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    return info.get("consumer_tag") in (getattr(message.channel, "no_ack_consumers", None) or ())


def where(message):
    return f"message from the queue {routing_key(message)!r}"


def routing_key(message):
    info = message.delivery_info if isinstance(message.delivery_info, dict) else {}
    return str(info.get("routing_key"))[:120]


def chain(error):
    """An error and those that it was raised from, the outermost first."""
    seen = []
    while isinstance(error, BaseException) and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return seen


def root(error):
    """The error of ours that is at the root of one of kombu's or Celery's."""
    return next((one for one in chain(error) if isinstance(one, (TasksealError, Unanswered))), error)


def is_not_now(error):
    """Whether keys, certificates, memory or the result store are what is missing: the same message may pass later."""
    found = root(error)
    if isinstance(found, TasksealError):
        return found.error_class != "rejected" or getattr(found, "reason", None) in NOT_NOW
    return isinstance(found, (Unanswered, MemoryError, BackendError, OperationalError))


def reason_of(error):
    """The refusal in an error, whoever raised it."""
    found = root(error)
    if isinstance(found, OpenError):
        return found
    text = f"{type(found).__name__}: {str(found)[:300]}"
    if isinstance(found, ContentDisallowed):
        return OpenError(text, reason="content-type")
    if isinstance(found, DecodeError):
        return OpenError(f"the body cannot be decoded: {text}", reason="undecodable")
    return OpenError(f"Celery cannot handle it: {text}", reason="unexpected")


def install(app, *, refusals=None, store=None):
    """Makes the workers of `app` guard what they are given."""
    found = getattr(app, "taskseal_guard", None)
    if found is None:
        app.taskseal_guard = Guard(app, refusals or Refusals(), store, app.conf.worker_consumer)
        app.conf.worker_consumer = GUARDED
        bound_clock(app.clock)
    else:
        found.refusals = refusals or found.refusals
        found.store = store or found.store


def bound_clock(clock):
    """Lets nobody set a logical clock to what others cannot count up from, or to what is no number."""
    adjust = clock.adjust
    clock.adjust = lambda other: adjust(other) if forms.clock(other) else clock.forward()
