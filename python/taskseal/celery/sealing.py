"""What the sealed transports and result backends seal and open with."""

import base64
import logging
import threading
import time
from collections import deque

from kombu.exceptions import OperationalError
from kombu.utils.json import dumps, loads

from .. import _native
from ..errors import FernetError, OpenError
from .compression import MAX_BODY_LEN, checked, decompress
from .delayed import undelayed
from .refusals import PutAside, Refusals, logger
from .replay import ProcessMemory

#: The outer content type of a message that is sealed whole.
CONTENT_TYPE = "application/x-taskseal"

#: The longest sealed message, in bytes, unless another one is given.
MAX_MESSAGE_LEN = 64 * 1024 * 1024

#: The scheme of a sealed transport or backend begins with it.
SCHEME = "sealed-"

#: How old a result may be unless `result_max_age` says otherwise, in seconds: ten years.
RESULT_MAX_AGE = 10 * 365 * 24 * 3600.0

#: The reasons of an `OpenError` that say nothing about the message: keys on a token cannot be used at the moment, or a part of
#: the certificate store cannot be read.
KEYS, STORE = "keys", "store"
NOT_NOW = frozenset((KEYS, STORE))


class Unanswered(Exception):
    """It cannot be told now whether a message is a good one. It is neither to be handled nor to be lost.

    `pause` is how many seconds its queue is left alone then, if that is known.
    """

    def __init__(self, text, pause=None):
        super().__init__(text)
        self.pause = pause


class Sealing(Refusals):
    """A signer, the certificates that are trusted, keys to encrypt with, and the rules for what comes in.

    What is sealed for a `domain` is taken in it alone; the empty text is none.

    One per process is the default for all sealed connections (`use`); another one can be given to a connection as the
    transport option ``sealing``. What is refused becomes what `Refusals` says.
    """

    def __init__(self, signer, store, fernets=(), *, digest="sha256", max_age=24 * 3600.0, result_max_age=None,
                 clock_skew=60.0, broadcast_skew=0.0, max_len=None, max_body_len=MAX_BODY_LEN, refused="ack",
                 dead_letter_queue="taskseal.refused", dead_letter_max=10_000, replay=None, replay_capacity=900_000,
                 domain="", bindings=None, on_refused=None, dangerous_ignore_critical=()):  # fmt: skip
        super().__init__(refused, dead_letter_queue, dead_letter_max, on_refused)
        if not isinstance(domain, str) or len(domain.encode()) > 4096:
            raise ValueError("domain is a text of at most 4096 bytes")
        fernets = list(fernets)
        policy = _native.Policy(
            digest=digest, max_message_len=max_len, dangerous_ignore_critical=list(dangerous_ignore_critical)
        )
        self.store = store
        self.sealer = _native.MessageSealer(signer, fernets, domain=domain)
        opener = {"policy": policy, "clock_skew": clock_skew, "max_len": max_len, "domain": domain}
        self.opener = _native.MessageOpener(store, fernets, max_age=max_age, untimed=True, **opener)
        # Results are read long after they were made, and are bound to their task.
        result_max_age = RESULT_MAX_AGE if result_max_age is None else result_max_age
        self.results = _native.MessageOpener(store, fernets, max_age=result_max_age, **opener)
        #: For how long what is sealed now is taken, by any clock that is no further off than the skew.
        self.lifetime = max_age + 2 * clock_skew
        self.clock = _native.ClockWatch()
        # What this process sealed last: its own clock says nothing about itself.
        self._own = deque(maxlen=1000)
        self.broadcast_skew = broadcast_skew
        #: The longest sealed message, in bytes.
        self.max_len = max_len or MAX_MESSAGE_LEN
        self.max_body_len = checked(max_body_len)
        #: The longest thing around a sealed message that is looked at: its text may be in base64.
        self.max_frame_len = self.max_len * 3 // 2 + 64 * 1024
        self.replay = ProcessMemory(replay_capacity) if replay is None else replay
        self.bindings = {queue: set(map(tuple, pairs)) for queue, pairs in (bindings or {}).items()}

    def seal(self, message, exchange, routing_key):
        """The text that goes to the broker for a message of kombu's (a dict)."""
        sealed = self.sealer.seal(dumps(message), exchange=exchange or "", routing_key=routing_key or "")
        self._own.append(hash(sealed))
        return sealed

    def open(self, wire, queue, bindings, since=None):
        """Opens a message that came out of `queue`. Returns what was verified and the message (a dict).

        With `since`, a time: nobody acknowledges what is delivered here, so it can neither wait nor be put aside, and a
        broadcast from before that time is refused. It went to those who listened then.
        """
        try:
            opened = self.opener.open(wire)
        except FernetError as error:
            raise Unanswered(f"the keys to decrypt with cannot be used: {error}") from error
        except OpenError as error:
            if error.reason in NOT_NOW:
                raise Unanswered(str(error)) from error
            raise
        try:
            return opened, self._checked(opened, wire, queue, bindings, since)
        except OpenError as error:
            # It is known who signed it, whatever is wrong with it.
            error.signer = error.signer or (opened.signer and repr(opened.signer.id))
            raise

    def _checked(self, opened, wire, queue, bindings, since):
        """The message in what was verified, when it was meant for here and now."""
        exchange, routing_key = opened.exchange, opened.routing_key
        if exchange is None or routing_key is None:
            raise OpenError("the message does not say where it was sent to", reason="destination")
        if self.destination(queue, exchange, routing_key, bindings) is None:
            raise OpenError(
                f"the message was sent to exchange {exchange[:120]!r} with routing key {routing_key[:120]!r}, "
                f"which does not lead to the queue {queue!r}",
                reason="destination",
            )
        message = parse(opened.payload)
        if opened.untimely is not None or not self._is_own(wire):
            self._check_time(opened, queue, since)
        # What was sealed within a millisecond has one time.
        if since is not None and bindings.is_broadcast(exchange) and opened.issued_at + 0.001 < since - self.broadcast_skew:
            raise OpenError("the broadcast was sent before this consumer listened", reason="too-old")
        return message

    def _check_time(self, opened, queue, since):
        """What is to become of a message that is good but for the time, perhaps."""
        step, pause, complaint = self.clock.judge(opened)
        if complaint:
            logger.error("%s", complaint)
        untimely = opened.untimely
        if since is not None:
            if untimely is not None:
                raise untimely
        elif step == "give-back":
            raise Unanswered(str(untimely or "the clock of this host is wrong"), pause)
        elif step == "put-aside":
            if queue == self.dead_letter_queue:
                # It is there already.
                raise Unanswered(str(untimely))
            raise PutAside(str(untimely), reason=untimely.reason)

    def _is_own(self, wire):
        return hash(wire if isinstance(wire, str) else bytes(wire).decode("ascii", "replace")) in self._own

    def body(self, message):
        """The body of a message that `open` returned, as its sender had it: without base64 and compression, neither of which
        `message` mentions from then on.
        """
        body = message["body"]
        if message["properties"].pop("body_encoding", None) == "base64":
            try:
                body = base64.b64decode(body, validate=True)
            except ValueError:
                raise OpenError("the body is no base64", reason="not-a-message") from None
        method = message["headers"].pop("compression", None)
        return decompress(body, method, self.max_body_len) if method else body

    def destination(self, queue, exchange, routing_key, bindings):
        """The exchange and the routing key by which a message that was sent to these comes into the queue, or None when they
        do not lead there. They are other ones when the broker delayed it.
        """
        named = self.bindings.get(queue, ())
        meant = undelayed(exchange, routing_key)
        if meant is not None:
            return next((pair for pair in named if pair[1] == meant), None) or bindings.delayed(queue, meant)
        if (exchange, routing_key) in named or bindings.allows(queue, exchange, routing_key):
            return exchange, routing_key
        return None


class Bindings:
    """Which exchanges and routing keys lead to a queue, as far as this connection declared it.

    What the broker says is not asked: whoever writes to the broker writes that too.
    """

    def __init__(self):
        self._queues = {}
        self._types = {"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic"}

    def declare(self, exchange, type):
        if exchange:
            self._types[exchange] = type or "direct"

    def bind(self, queue, exchange, routing_key):
        self._queues.setdefault(queue, set()).add((exchange or "", routing_key or ""))

    def unbind(self, queue, exchange, routing_key):
        self._queues.get(queue, set()).discard((exchange or "", routing_key or ""))

    def forget(self, queue):
        self._queues.pop(queue, None)

    def rows(self, exchange):
        """What was bound to an exchange here, in the form of kombu's tables."""
        return [(key, "", queue) for queue, bound in self._queues.items() for name, key in bound if name == exchange]

    def is_broadcast(self, exchange):
        return self._types.get(exchange, "direct") in ("fanout", "topic")

    def allows(self, queue, exchange, routing_key):
        if exchange == "":
            return routing_key == queue
        type = self._types.get(exchange, "direct")
        for bound, key in self._queues.get(queue, ()):
            if bound != exchange:
                continue
            if type in ("fanout", "headers") or key == routing_key:
                return True
            if type == "topic" and topic_matches(key.split("."), routing_key.split(".")):
                return True
        return False

    def delayed(self, queue, routing_key):
        """The exchange and the routing key by which a message comes into the queue when its delay is over, or None.

        Celery has the broker hand it to each exchange of its queues that is no direct one. The signature does not name which.
        """
        for exchange, key in self._queues.get(queue, ()):
            type = self._types.get(exchange, "direct")
            if type == "topic" and topic_matches(key.split("."), routing_key.split(".")):
                return exchange, routing_key
            # What goes to a fanout exchange comes to all of its queues, under the key of one of them.
            if type == "fanout" and any((exchange, routing_key) in pairs for pairs in self._queues.values()):
                return exchange, routing_key
        return None


def topic_matches(pattern, words):
    """Whether a topic pattern matches a routing key: ``*`` stands for one word, ``#`` for any number of them.

    Takes as many steps as pattern and key have words, multiplied: both are short, and the key is signed.
    """
    reached = {0}
    for part in pattern:
        if part == "#":
            reached = set(range(min(reached), len(words) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(words) and part in ("*", words[at])}
    return len(words) in reached


def parse(payload):
    """The message in a verified payload: a dict with the parts of kombu's, each of the right type."""
    try:
        message = loads(payload)
    except Exception as error:
        raise OpenError(f"what was sealed is no JSON: {type(error).__name__}", reason="not-a-message") from None
    wanted = {
        "body": str,
        "content-type": (str, type(None)),
        "content-encoding": (str, type(None)),
        "headers": dict,
        "properties": dict,
    }
    if not isinstance(message, dict) or not all(isinstance(message.get(name), kind) for name, kind in wanted.items()):
        raise OpenError("what was sealed is no message", reason="not-a-message")
    return message


_current = None


def use(sealing):
    """Makes this the process' sealing."""
    global _current
    _current = sealing


def current(options=None):
    """The sealing of these transport options, or the process'. Without any there is no sealed connection."""
    found = (options or {}).get("sealing") or _current
    if found is None:
        raise OperationalError(
            "a sealed transport has nothing to seal with: call taskseal.celery.setup_sealing(app) where the app is made"
        )
    return found


class InFlight:
    """Messages of one channel that are delivered and not acknowledged, to tell a repetition from a redelivery.

    While a message is in flight here, the broker has no reason to deliver it here again. Once it is acknowledged, nobody
    has: it goes into the replay memory. One that was returned, or whose channel was closed, may come again.

    A message is known by what was verified, and a delivery by a tag: of the channel's own making, or its broker's. Nothing
    that was sent with a message is a tag.
    """

    def __init__(self, sealing):
        self._sealing = sealing
        self._lock = threading.Lock()
        self._by_tag = {}
        self._tag_of = {}

    def check(self, opened, queue):
        """Raises `Repeated` when the message was handled before, or is being handled. Returns its key."""
        key = opened.replay_key + queue.encode()
        held = self._tag_of.get(key)
        if held is not None:
            raise Repeated(held)
        replay = self._sealing.replay
        try:
            repeated = replay.contains(key)
            forgotten = not repeated and hasattr(replay, "forgot") and replay.forgot(key, opened.remember_until)
        except Exception as error:
            raise Unanswered(f"the replay memory does not answer: {error}") from error
        if repeated:
            raise Repeated()
        if forgotten:
            text = "the message may have been handled: the replay memory had no room for messages of its age"
            raise PutAside(text, reason="forgotten")
        return key, opened.remember_until

    def start(self, tag, known):
        with self._lock:
            self._by_tag[tag] = known
            self._tag_of[known[0]] = tag

    def has(self, tag):
        return tag in self._by_tag

    def end(self, tag, *, handled, multiple=False):
        with self._lock:
            # As in AMQP, where 0 stands for all of them.
            tags = [held for held in self._by_tag if held <= tag or tag == 0] if multiple else [tag]
            ended = [self._by_tag.pop(held) for held in tags if held in self._by_tag]
            for key, _ in ended:
                self._tag_of.pop(key, None)
        if handled:
            for known in ended:
                self.remember(known)

    def clear(self):
        """All of them were given back, and may come again."""
        with self._lock:
            self._by_tag.clear()
            self._tag_of.clear()

    def remember(self, known):
        key, until = known
        try:
            new = self._sealing.replay.remember(key, until, time.time())
        except Exception as error:
            text = "a handled message was not remembered, and could be repeated: %s"
            self._sealing.quiet.log(logging.ERROR, "not remembered", None, text, error)
        else:
            if not new:
                logger.warning("a message was handled here and by somebody else")


class Repeated(OpenError):
    """The message was handled before, or is being handled: then `held` is the tag of that delivery."""

    def __init__(self, held=None):
        super().__init__("the message has been handled before, or is being handled", reason="replayed")
        self.held = held
