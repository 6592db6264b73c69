"""Result backends that seal what they store: ``sealed-redis://`` and ``sealed-rediss://``, and a mixin for others.

What is stored is bound to the key that it is stored under: the result of one task does not pass for another's. A value that
does not verify counts as none: a result that is not there yet.
"""

from celery.backends.redis import RedisBackend, ResultConsumer
from celery.exceptions import ImproperlyConfigured
from celery.result import GroupResult
from celery.utils.functional import _regen
from kombu.utils.objects import cached_property
from redis.exceptions import ResponseError

from ..errors import OpenError
from . import tls
from .chords import Chord
from .sealing import NOT_NOW, SCHEME, current

#: What a value is sealed for.
RESULT, GROUP, CHORD, OTHER = "celery-result", "celery-group", "celery-chord", "celery-other"


class Verified(bytes):
    """A payload that was opened."""


class SealedBackendMixin:
    """Seals in `set` and opens in `get` and `mget`, for any of Celery's key-value backends.

    `decode` takes nothing that was not opened before, however it got there.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sealing  # noqa: B018  a backend without keys is no backend

    @cached_property
    def sealing(self):
        # By the first use: some backends store something while they are made.
        return current(self.app.conf.get("result_backend_transport_options"))

    # --- Values under keys ---

    def set(self, key, value, *args, **kwargs):
        return super().set(key, self._seal(*self._place(key), value), *args, **kwargs)

    def get(self, key):
        return self._open(*self._place(key), super().get(key))

    def mget(self, keys):
        keys = list(keys)
        values = super().mget(keys)
        if hasattr(values, "items"):
            return {key: self._open(*self._place(key), value) for key, value in values.items()}
        return [self._open(*self._place(key), value) for key, value in zip(keys, values)]

    def _place(self, key):
        """What a value under this key is for, and the rest of the key: of a task's result, the task's id."""
        key = self.key_t(key)
        for purpose, prefix in (
            (RESULT, self.task_keyprefix),
            (GROUP, self.group_keyprefix),
            (CHORD, self.chord_keyprefix),
        ):
            if key.startswith(prefix):
                return purpose, text(key[len(prefix) :])
        return OTHER, text(key)

    def _seal(self, purpose, context, value):
        return self.sealing.sealer.seal_payload(purpose, context, value)

    def _open(self, purpose, context, value):
        # Some backends make `mget` of `get`.
        if not value or isinstance(value, Verified):
            return value or None
        opened = self.opened(value, purpose, context)
        return None if opened is None else Verified(opened.payload)

    def opened(self, value, purpose, context):
        """What was sealed for this purpose and context, or None when the value does not verify."""
        try:
            return self.sealing.results.open_payload(value, purpose, context)
        except (OpenError, TypeError) as error:
            if getattr(error, "reason", None) in NOT_NOW:
                raise
            self.sealing.refuse(error, f"{purpose} {context!r}")
            return None

    # --- What Celery decodes ---

    def decode(self, payload):
        if payload is None:
            return None
        if not isinstance(payload, Verified):
            raise OpenError("a result that was not opened", reason="not-sealed")
        return super().decode(bytes(payload))

    def decode_opened(self, payload):
        """What is in a payload that was opened."""
        return self.decode(Verified(payload))

    def open_result(self, payload):
        """The result in a payload that came without its key, such as a notification. None when it does not verify."""
        try:
            opened = self.sealing.results.open_payload(payload, RESULT)
            meta = self.decode_result(Verified(opened.payload))
            if meta["task_id"] != opened.context:
                raise OpenError("the result names another task than it is bound to", reason="context")
            return meta
        except (OpenError, TypeError, KeyError) as error:
            if getattr(error, "reason", None) in NOT_NOW:
                raise
            self.sealing.refuse(error, "notification of a result")
            return None


class SealedResultConsumer(ResultConsumer):
    """Notifications of results from Redis, opened."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._decode_result = self.backend.open_result

    def on_state_change(self, meta, message):
        if meta is not None:
            super().on_state_change(meta, message)


class SealedRedisBackend(SealedBackendMixin, RedisBackend):
    """Results in Redis, sealed."""

    ResultConsumer = SealedResultConsumer

    def __init__(self, *args, url=None, **kwargs):
        #: The chords that were applied, and whose size is not set yet, with groups in their header.
        self._nested = set()
        if kwargs["app"].conf.redis_backend_use_ssl is True:
            raise ImproperlyConfigured("redis_backend_use_ssl is a dict with options of TLS, or left out; the URL says TLS")
        # Celery gives the URL with its own scheme.
        if url is not None and url.startswith(SCHEME):
            url = url[len(SCHEME) :]
        super().__init__(*args, url=url, **kwargs)

    def _params_from_url(self, url, defaults):
        params = super()._params_from_url(url, defaults)
        if url.startswith("rediss:") or self.app.conf.redis_backend_use_ssl:
            # Celery asks for the word about certificates. Here they are verified unless something else is said.
            params = tls.for_redis_url(params)
            if "ssl_check_hostname" not in params:
                raise ImproperlyConfigured("the result backend is to use TLS, and its options name another kind of connection")
        return params

    def as_uri(self, include_password=False):
        """The URL, for people: the worker's banner shows it."""
        return SCHEME + super().as_uri(include_password)

    def get(self, key):
        try:
            return super().get(key)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            # Storing a result writes over it. Until then there is none.
            purpose, context = self._place(key)
            error = OpenError(f"the key {text(key)!r} in Redis is of another type", reason="malformed")
            self.sealing.refuse(error, f"{purpose} {context!r}")
            return None

    # --- Chords ---

    def apply_chord(self, header_result_args, body, **kwargs):
        group, results = header_result_args[:2]
        # As Celery itself asks: a generator is not to be used up.
        if not isinstance(results, _regen) and any(isinstance(result, GroupResult) for result in results):
            self._nested.add(group)
        return super().apply_chord(header_result_args, body, **kwargs)

    def set_chord_size(self, group_id, chord_size):
        nested = group_id in self._nested
        self._nested.discard(group_id)
        Chord(self, group_id).set_size(chord_size, nested)

    def add_to_chord(self, group_id, result):
        Chord(self, group_id).add(result.id)

    def on_chord_part_return(self, request, state, result, *args, **kwargs):
        if request.group and request.id:
            Chord(self, request.group).part(request, state, result)

    def _set_chord_key(self, key, value):
        # Celery 5.7 keeps the form of a header with it.
        return super()._set_chord_key(key, self._seal(*self._place(key), value))


def text(key):
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key


#: By the scheme of ``result_backend``.
SEALED = {
    "sealed-redis": "taskseal.celery.backends:SealedRedisBackend",
    "sealed-rediss": "taskseal.celery.backends:SealedRedisBackend",
}
