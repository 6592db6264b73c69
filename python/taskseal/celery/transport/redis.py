"""``sealed-redis://`` and ``sealed-rediss://``."""

import time
import uuid
from functools import partial
from queue import Empty

from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis import exceptions

from ...errors import OpenError
from .. import tls
from ..sealing import Unanswered, logger
from .stored import parsed
from .routing import rows_of
from .virtual import RETRY, ChannelMixin, MessageMixin, TransportMixin
from .waiting import Pauses

#: For how long a key of another type is left alone before it is tried again, in seconds.
ODD = 5.0

#: Moves an entry of the unacknowledged to a queue. Writes first what could fail, so that it is always in one of the two.
#: KEYS: hash, index, queue. ARGV: tag, the entry as it was read, the message, LPUSH or RPUSH.
MOVE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call(ARGV[4], KEYS[3], ARGV[3])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""


class Message(MessageMixin, redis.Channel.Message):
    """A message from Redis."""


class QoS(redis.QoS):
    """Keeps what is not acknowledged in Redis, from the moment on at which a message is taken out of its queue."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._held = set()

    def hold(self, tag, frame, queue):
        # Of the destination nothing is stored but the queue: where else it leads to has a copy of its own.
        entry = dumps([frame.stored(queue, tag), "", queue])
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {tag: time.time()}).hset(self.unacked_key, tag, entry).execute()
        self._held.add(tag)

    def append(self, message, delivery_tag):
        # It was kept before it was opened.
        self._held.discard(delivery_tag)
        virtual.QoS.append(self, message, delivery_tag)

    def let_go(self, tag):
        self._held.discard(tag)
        with self.channel.guarded(self._kinds):
            self._remove_from_indices(tag).execute()

    def ack(self, delivery_tag):
        self.let_go(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag, requeue=False):
        if requeue:
            self.restore_by_tag(delivery_tag, leftmost=True)
        else:
            self.let_go(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, *args, **kwargs):
        with self.channel.guarded({**self._kinds, self.unacked_mutex_key: "string"}):
            self._look_at_mutex()
            super().restore_visible(*args, **kwargs)

    def _look_at_mutex(self):
        """Says when somebody keeps all workers from restoring anything: kombu's lock has an end."""
        key = self.unacked_mutex_key
        if self.channel._seldom.due("mutex"):
            with self.channel.conn_or_acquire() as client:
                if client.pttl(self.channel.global_keyprefix + key) == -1:
                    logger.error("the key %r in Redis has no end, which kombu's lock has: nothing is restored until it is "
                                 "deleted", key)  # fmt: skip

    def restore_by_tag(self, tag, client=None, leftmost=False, redelivered=True, known=None):
        """Puts it back into its queue; whether nothing is left to do. It is there or kept, at any moment."""
        entry = None
        known = known or self._known(tag)
        with self.channel.guarded(self._kinds) as guard, self.channel.conn_or_acquire(client) as client:
            entry = client.hget(self.unacked_key, tag)
        if entry is not None:
            return self._move(tag, entry, client, leftmost, redelivered, known)
        if guard.error and known:
            # What was kept is gone with the key.
            self.channel._give_back(None, *known)
        self.let_go(tag)
        return True

    def _known(self, tag):
        """The frame and the queue of a message that was handed out here, or None."""
        message = self._delivered.get(tag) if tag not in self._dirty else None
        return (message.frame, message.queue) if message is not None and message.frame else None

    def _move(self, tag, entry, client, leftmost, redelivered, known):
        """Moves it. What is known here goes before what is written in the entry."""
        try:
            key, message = self.channel.made(*known, redelivered) if known else self.channel.placed(entry, redelivered)
        except OpenError as error:
            self.channel._refuse(error, entry, self.unacked_key)
            self.let_go(tag)
            return True
        except Unanswered:
            return False
        prefix = self.channel.global_keyprefix
        with self.channel.guarded({key: "list"}) as guard, self.channel.conn_or_acquire(client) as client:
            client.eval(MOVE, 3, prefix + self.unacked_key, prefix + self.unacked_index_key, prefix + key,
                        tag, entry, message, "LPUSH" if leftmost else "RPUSH")  # fmt: skip
            self._held.discard(tag)
        return guard.error is None

    @property
    def _kinds(self):
        return {self.unacked_key: "hash", self.unacked_index_key: "zset"}


class Guard:
    """What somebody wrote under a key, so that it is of another type, ends nothing: it is said, and the key left alone.

    `kinds` are the keys that are used within, with the type that each must have, or a function that says them.
    """

    def __init__(self, channel, kinds):
        self._channel = channel
        self._kinds = kinds
        self.error = None

    def __enter__(self):
        return self

    def __exit__(self, type, error, traceback):
        if not isinstance(error, exceptions.ResponseError):
            return False
        if "WRONGTYPE" not in str(error):
            # A replica, a full memory, a right that is missing. A new connection may be to a better server.
            raise exceptions.ConnectionError(f"Redis refuses a command: {error}") from error
        self.error = error
        self._channel.say_odd(self._kinds() if callable(self._kinds) else self._kinds)
        return True


class Channel(ChannelMixin, redis.Channel):
    """A channel to Redis that seals."""

    Message = Message
    QoS = QoS

    def __init__(self, connection, **kwargs):
        self._odd = Pauses()
        # Messages that Redis did not take back yet: tags under which they are kept, or None; frames and queues.
        self._homeless = []
        super().__init__(connection, **kwargs)

    # --- Keys of another type ---

    def guarded(self, kinds):
        return Guard(self, kinds)

    def say_odd(self, kinds):
        """Finds out which of the keys are of another type, leaves them alone for a while, and says so."""
        found = {}
        try:
            with self.conn_or_acquire() as client:
                for key, kind in kinds.items():
                    is_kind = bytes_to_str(client.type(self.global_keyprefix + key))
                    if is_kind not in ("none", kind):
                        found[key] = is_kind
        except exceptions.ResponseError as error:
            logger.error("one of the keys %r in Redis is of another type: %s", list(kinds), error)
        for key, is_kind in found.items():
            self._odd.begin(key, ODD)
            if self._seldom.due(("odd", key)):
                logger.error("the key %r in Redis is a %s and must be a %s: what needs it waits until it is deleted",
                             key, is_kind, kinds[key])  # fmt: skip
        return found

    def _lists_of(self, queue):
        return {self._q_for_pri(queue, priority): "list" for priority in self.priority_steps}

    def _lists(self):
        return {key: kind for queue in self.active_queues for key, kind in self._lists_of(queue).items()}

    def _tables_of(self, exchange):
        # kombu has the others from 5.7 on.
        return {
            self.keyprefix_queue % exchange: "set",
            f"_kombu.binding_permanent.{exchange}": "set",
            "_kombu.binding_deadlines": "zset",
        }

    # --- Reading ---

    def _brpop_start(self, timeout=None):
        self._bring_home()
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        read = queues if self._has_homes() else []
        keys = [self._q_for_pri(queue, priority) for priority in self.priority_steps for queue in read]
        keys = [key for key in keys if not self._odd.on(key) and not self._pauses.on(key)]
        timeout = timeout or getattr(self, "brpop_timeout", 1) or 0
        if len(keys) < len(queues) * len(self.priority_steps):
            # What is left alone now is to be looked at again.
            timeout = min(timeout, 1) or 1
        # With nothing to wait for it waits all the same, for a list that nobody knows the name of.
        keys = keys or [f"{queues[0]}{self.sep}{uuid.uuid4()}"]
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        command = ["BRPOP", *keys, timeout]
        if self.global_keyprefix:
            command = self.client._prefix_args(command)
        self.client.connection.send_command(*command)

    def _connparams(self, asynchronous=False):
        options = self.connection.tls
        if options is None:
            return super()._connparams(asynchronous)
        # kombu takes the plain class when it does not understand `ssl`.
        self.connection_class = self.connection_class_ssl
        return {**super()._connparams(asynchronous), **options}

    def _trim(self, queue, most):
        # All dead letters have one priority, so they lie in one list.
        with self.conn_or_acquire() as redis_client:
            redis_client.ltrim(queue, 0, most - 1)

    def _brpop_read(self, **options):
        key, item = self._popped(**options)
        queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        self.connection._deliver(item, queue)
        return True

    def _popped(self, **options):
        """The key and the item that BRPOP gives. Raises `Empty` when it gives none."""
        popped = None
        try:
            with self.guarded(self._lists) as guard:
                popped = self._answer(partial(self.client.parse_response, self.client.connection, "BRPOP", **options),
                                      self.client.connection)  # fmt: skip
        finally:
            self._in_poll = None
            # kombu renews the login of a connection where nothing is under way on it.
            getattr(self, "_flush_brpop_reauth", bool)()
        if guard.error and not any(map(self._odd.on, self._lists())):
            # Somebody changes them back and forth.
            for key in self._lists():
                self._pauses.begin(key, RETRY)
        if not popped:
            raise Empty()
        return popped

    def _receive_one(self, c):
        try:
            response = self._answer(c.parse_response, c.connection)
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, (list, tuple)):
            return None
        received = self._handle_message(c, response)
        if not bytes_to_str(received["type"]).endswith("message") or not received["data"]:
            return None
        channel = bytes_to_str(received["channel"])
        if channel.startswith("/"):
            channel = channel.partition(".")[2]
        queue = self._fanout_to_queue.get(channel.split("/", 1)[0])
        if queue is None:
            return None
        self.connection._deliver(received["data"], queue)
        return True

    def _answer(self, read, connection):
        """What Redis answers. What is no answer of its protocol costs the connection."""
        try:
            return read()
        except exceptions.ResponseError:
            raise
        except Exception as error:
            connection.disconnect()
            if isinstance(error, self.connection_errors):
                raise
            raise exceptions.ConnectionError(f"Redis gave no answer that can be read: {type(error).__name__}") from error

    def _get(self, queue):
        with self.conn_or_acquire() as client:
            try:
                # What went round is looked at last, so that it hides nothing.
                for key in sorted(self._lists_of(queue), key=self._pauses.on):
                    item = None
                    with self.guarded({key: "list"}):
                        item = client.rpop(key)
                    if item is not None:
                        return item
            finally:
                if getattr(self, "_expires", None):
                    self._maybe_update_queues_expire(client, queue)
        raise Empty()

    # --- The unacknowledged ---

    def _hold(self, tag, frame, queue):
        if not isinstance(self.qos, QoS) or self._is_broadcast(queue):
            return
        with self.guarded(self.qos._kinds) as guard:
            self.qos.hold(tag, frame, queue)
        if guard.error:
            # One of the two may have been possible.
            self.qos._remove_from_indices(tag).execute(raise_on_error=False)
            raise Unanswered("what is not acknowledged cannot be kept in Redis")

    def _let_go(self, tag):
        if isinstance(self.qos, QoS):
            self.qos.let_go(tag)

    def _give_back(self, tag, frame, queue):
        if self._is_broadcast(queue):
            return
        if not (isinstance(self.qos, QoS) and tag in self.qos._held):
            tag = None
        self._homeless.append((tag, frame, queue))
        self._bring_home()

    def _bring_home(self):
        """Puts back what Redis has to take back, as soon as it takes it."""
        waiting, self._homeless = self._homeless, []
        for tag, frame, queue in waiting:
            if any(map(self._odd.on, self._lists_of(queue))) or not self._take_back(tag, frame, queue):
                self._homeless.append((tag, frame, queue))

    def _take_back(self, tag, frame, queue):
        if tag is not None:
            return self.qos.restore_by_tag(tag, leftmost=True, redelivered=False, known=(frame, queue))
        try:
            self._put(queue, frame.stored(queue))
        except exceptions.ResponseError as error:
            if self._seldom.due(("homeless", queue)):
                logger.error("Redis does not take back a message of the queue %r: %s", queue, error)
            self.say_odd(self._lists_of(queue))
            return False
        return True

    def _has_homes(self):
        """Whether Redis has all that was taken out. Until then nothing else is taken out of it."""
        return all(tag is not None for tag, _, _ in self._homeless)

    def placed(self, entry, redelivered):
        """The key of the list that an entry of the unacknowledged belongs to, and the message for it.

        Raises `OpenError`, or `Unanswered` where it is not known here.
        """
        entry = parsed(entry, self.sealing.max_frame_len + 4096)
        if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(part, str) for part in entry[1:]):
            raise OpenError("it is no entry of the unacknowledged", reason="malformed")
        item, exchange, routing_key = entry
        try:
            queue = self._queue_of(exchange, routing_key)
            return self._list_of(queue, self._again(item, queue, redelivered))
        except (ValueError, TypeError, RecursionError) as error:
            raise OpenError(f"it is no entry of the unacknowledged: {type(error).__name__}", reason="malformed") from None

    def made(self, frame, queue, redelivered):
        """The same for a frame that is known."""
        return self._list_of(queue, frame.stored(queue, redelivered=redelivered))

    def _list_of(self, queue, message):
        key = self._q_for_pri(queue, self._get_message_priority(message))
        key.encode()
        return key, dumps(message)

    def _queue_of(self, exchange, routing_key):
        queues = []
        with self.guarded(partial(self._tables_of, exchange)):
            queues = self._lookup(exchange, routing_key)
        if not queues or not queues[0]:
            # One of another application, which may know the exchange.
            raise Unanswered("the queue of an unacknowledged message is not known")
        return queues[0]

    def _again(self, item, queue, redelivered):
        try:
            return self.Frame.read(item).stored(queue, redelivered=redelivered)
        except OpenError as error:
            if error.reason != "not-sealed":
                raise
            # Applications that are not sealed keep theirs under the same keys: it goes back as it is.
            return item

    def _is_broadcast(self, queue):
        return queue in self._fanout_queues

    # --- Tables and queues ---

    def _table(self, exchange):
        with self.conn_or_acquire() as client:
            rows = client.smembers(self.keyprefix_queue % exchange)
        return rows_of((bytes_to_str(row).split(self.sep) for row in rows), self._seldom, exchange)

    def get_table(self, exchange):
        table = []
        with self.guarded(partial(self._tables_of, exchange)):
            table = self._table(exchange)
        return table

    def _queue_bind(self, exchange, routing_key, pattern, queue):
        with self.guarded(partial(self._tables_of, exchange)):
            super()._queue_bind(exchange, routing_key, pattern, queue)

    def _delete(self, queue, exchange, *args, **kwargs):
        with self.guarded(partial(self._tables_of, exchange)):
            super()._delete(queue, exchange, *args, **kwargs)

    def _round(self, frame, queue):
        # Each list of a queue goes round for itself: one that is always read first would hide the others.
        key = self._q_for_pri(queue, frame.priority)

        def length():
            with self.conn_or_acquire() as client:
                return client.llen(key)

        return key, length

    def _size(self, queue):
        return self._counted(queue, lambda pipe, key: pipe.llen(key))

    def _purge(self, queue):
        # Also a key of another type.
        return self._counted(queue, lambda pipe, key: pipe.llen(key).delete(key))

    def _counted(self, queue, ask):
        """The sum of the lengths of a queue's lists, of which `ask` asks one first."""
        lists = self._lists_of(queue)
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            for key in lists:
                ask(pipe, key)
            answers = pipe.execute(raise_on_error=False)
        lengths = answers[:: len(answers) // len(lists)]
        for error in lengths:
            with self.guarded(lists):
                if isinstance(error, Exception):
                    raise error
        return sum(length for length in lengths if isinstance(length, int))

    def close(self):
        if not self.closed:
            self._bring_home()
        super().close()


class Transport(TransportMixin, redis.Transport):
    """Redis with sealed messages."""

    Channel = Channel
    #: Whether the URL says TLS. ``broker_use_ssl`` says it for any URL.
    always_tls = False

    def __init__(self, client, **kwargs):
        self.tls = tls.for_redis(client.ssl or True) if client.ssl or self.always_tls else None
        super().__init__(client, **kwargs)


class SSLTransport(Transport):
    """Redis over TLS with sealed messages."""

    always_tls = True
