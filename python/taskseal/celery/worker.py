"""The guard around what Celery's consumer is given. No error that a message causes before its task runs ends the worker."""

from amqp.exceptions import ConnectionError as AMQPConnectionError
from celery import signals
from celery.worker import state
from celery.worker.consumer.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.control import Control
from celery.worker.consumer.gossip import Gossip
from celery.worker.consumer.mingle import Mingle
from kombu.utils.imports import symbol_by_name

from ..errors import OpenError
from . import forms
from .guard import give_back, is_not_now, root, where
from .refusals import logger
from .sealing import Unanswered

#: Kinds of errors that a message causes and that some transports count among those of their connections.
_OF_MESSAGES = (LookupError, ValueError, TypeError)


def consumer(*args, app, **kwargs):
    """The consumer of a worker of `app`: the value of the setting ``worker_consumer``."""
    base = symbol_by_name(app.taskseal_guard.consumer)
    return type(base.__name__, (ConsumerMixin, base), {})(*args, app=app, **kwargs)


class ConsumerMixin:
    """Puts the application's guard around what its worker's consumer is given."""

    def __init__(self, *args, app, **kwargs):
        self.guard = app.taskseal_guard
        super().__init__(*args, app=app, **kwargs)
        self._errors_of_the_connection = not_of_messages(self.connection_errors)
        for step in self.steps:
            if isinstance(step, Control):
                self._guard_control(step)
            elif isinstance(step, Gossip):
                self._guard_gossip(step)
            elif isinstance(step, Mingle):
                self._guard_mingle(step)

    def create_task_handler(self, *args, **kwargs):
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message):
            try:
                self.guard.check_task(message)
            except Exception as error:
                return self._answer(self.guard.answer, message, error)
            self._attempt(self.guard.answer, message, handle, message)

        return on_task_received

    def _attempt(self, answer, message, handle, *args):
        """Has Celery handle a message. What the connection raises is the connection's."""
        try:
            return handle(*args)
        except self._errors_of_the_connection:
            raise
        except Exception as error:
            text = "%s: Celery raised while it handled the message"
            self.guard.log("Celery raised", text, where(message), exc_info=True)
            if was_started(message):
                # A pool of this process has run the task, and the message is as good as acknowledged.
                return
            refusing = (*self.channel_errors, *getattr(self.app.backend, "connection_errors", ()))
            if isinstance(error, not_of_messages(refusing)):
                error = Unanswered(f"the broker or the result store refuses: {error}")
            self._answer(answer, message, error)

    def _answer(self, answer, message, error):
        """Says to the broker what becomes of a message. A channel on which that fails is no use any more."""
        try:
            answer(message, error)
        except self._errors_of_the_connection:
            raise
        except Exception as failed:
            raise AMQPConnectionError(f"nothing could be said of a message: {failed!r}") from failed

    # --- What Celery calls for messages that it does not understand ---

    def on_decode_error(self, message, exc):
        self._answer(self.guard.answer, message, exc)

    def on_unknown_message(self, body, message):
        self._answer(self.guard.refuse, message, OpenError("it names no task", reason=forms.NOT_A_TASK))
        signals.task_rejected.send(sender=self, message=message, exc=None)

    def on_invalid_task(self, body, message, exc):
        self._answer(self.guard.answer, message, exc)
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    # --- What does not come through the queues of tasks ---

    def _guard_control(self, step):
        box, start, on_message = step.box, step.box.start, step.box.on_message

        def on_command(body, message):
            try:
                self.guard.check_command(message)
            except Exception as error:
                return self.guard.leave_out(message, error)
            self._attempt(self.guard.leave_out, message, on_message, body, message)

        def start_box(consumer):
            start(consumer)
            if box.consumer is not None:
                box.consumer.on_decode_error = self.guard.leave_out

        box.on_message = on_command
        box.start = step.start = start_box

    def _guard_gossip(self, step):
        on_message, get_consumers = step.on_message, step.get_consumers
        serializer = self.app.conf.event_serializer
        unsigned = self.guard.store is not None and serializer != "auth"
        if step.enabled and unsigned:
            logger.warning("event_serializer is %r: events of other workers are not taken, as nobody signs them", serializer)

        def on_event(prepare, message):
            try:
                self.guard.check_event(message)
            except Exception as error:
                # What all of them are like is not said of each.
                if not unsigned:
                    self.guard.leave_out(message, error)
                return
            self._attempt(self.guard.leave_out, message, on_message, prepare, message)

        def consumers_of(channel):
            consumers = get_consumers(channel)
            for one in consumers:
                one.on_decode_error = self.guard.leave_out
            return consumers

        step.on_message, step.get_consumers = on_event, consumers_of

    def _guard_mingle(self, step):
        start = step.start

        def meet(consumer):
            try:
                start(consumer)
            except self._errors_of_the_connection:
                raise
            except Exception as error:
                logger.error("mingle: what other workers answered cannot be used: %r", root(error))

        step.start = meet


def not_of_messages(kinds):
    return tuple(kind for kind in kinds if not issubclass(kind, _OF_MESSAGES))


def was_started(message):
    """Whether Celery has acknowledged the message for its task, which says so to the broker later."""
    request = state.requests.get(message.headers.get("id"))
    return request is not None and request.acknowledged


def give_back_where_keys_are_away():
    """Makes every worker of the process give back what cannot be decrypted now, however its application was set up."""
    on_decode_error = CeleryConsumer.on_decode_error
    if hasattr(on_decode_error, "gives_back"):
        return

    def guarded(self, message, exc):
        if not is_not_now(exc):
            on_decode_error(self, message, exc)
        elif not message.acknowledged:
            give_back(message, exc)

    guarded.gives_back = True
    CeleryConsumer.on_decode_error = guarded
