"""Result backends that seal what they store: ``sealed-redis://`` and ``sealed-rediss://``, and a mixin for others.

What is stored is bound to the key that it is stored under: the result of one task does not pass for another's. A value that
does not verify counts as none: a result that is not there yet.
"""

import threading

from celery.backends.redis import RedisBackend, ResultConsumer
from kombu.utils.objects import cached_property

from ..errors import OpenError
from .sealing import KEYS, SCHEME, current

#: What a value is sealed for.
RESULT, GROUP, CHORD, PART, OTHER = "celery-result", "celery-group", "celery-chord", "celery-chord-part", "celery-other"


class Verified(bytes):
    """A payload that was opened."""


class SealedBackendMixin:
    """Seals in `set` and opens in `get` and `mget`, for any of Celery's key-value backends.

    `decode` takes nothing that was not opened before, however it got there.
    """

    def __init__(self, *args, **kwargs):
        self._chord = threading.local()
        super().__init__(*args, **kwargs)
        self.sealing  # noqa: B018  a backend without keys is no backend

    @cached_property
    def sealing(self):
        # By the first use: some backends store something while they are made.
        return current(self.app.conf.get("result_backend_transport_options"))

    # --- Values under keys ---

    def set(self, key, value, *args, **kwargs):
        # Sizes of chords are plain numbers, which Redis itself counts with. Before 5.7 Celery sets them here.
        if not isinstance(value, int):
            value = self._seal(*self._place(key), value)
        return super().set(key, value, *args, **kwargs)

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
        try:
            return Verified(self.sealing.results.open_payload(value, purpose, context).payload)
        except (OpenError, TypeError) as error:
            if getattr(error, "reason", None) == KEYS:
                raise
            self.sealing.refuse(error, f"{purpose} {context!r}")
            return None

    # --- What Celery decodes ---

    def decode(self, payload):
        if payload is None:
            return None
        group = getattr(self._chord, "group", None)
        if group is not None and not isinstance(payload, Verified):
            # Raises for a part that does not verify: such a chord has failed, and says so.
            payload = Verified(self.sealing.results.open_payload(payload, PART, group).payload)
            part = super().decode(bytes(payload))
            if part[1] in self._chord.parts:
                raise OpenError(f"the part {part[1]!r} of a chord is there twice", reason="replayed")
            self._chord.parts.add(part[1])
            return part
        if not isinstance(payload, Verified):
            raise OpenError("a result that was not opened", reason="not-sealed")
        return super().decode(bytes(payload))

    def open_result(self, payload):
        """The result in a payload that came without its key, such as a notification. None when it does not verify."""
        try:
            opened = self.sealing.results.open_payload(payload, RESULT)
            meta = self.decode_result(Verified(opened.payload))
            if meta["task_id"] != opened.context:
                raise OpenError("the result names another task than it is bound to", reason="context")
            return meta
        except (OpenError, TypeError, KeyError) as error:
            if getattr(error, "reason", None) == KEYS:
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
        # Celery gives the URL with its own scheme.
        if url is not None and url.startswith(SCHEME):
            url = url[len(SCHEME) :]
        super().__init__(*args, url=url, **kwargs)

    def _params_from_url(self, url, defaults):
        # Celery asks for the word. Here the server's certificate is verified unless something says otherwise.
        params = super()._params_from_url(url, defaults)
        if url.startswith("rediss:"):
            params.setdefault("ssl_cert_reqs", "required")
        return params

    def as_uri(self, include_password=False):
        """The URL, for people: the worker's banner shows it."""
        return SCHEME + super().as_uri(include_password)

    def encode(self, data):
        payload = super().encode(data)
        group = getattr(self._chord, "group", None)
        if group is not None and isinstance(data, (list, tuple)):
            return self._seal(PART, group, payload)
        return payload

    def on_chord_part_return(self, request, state, result, *args, **kwargs):
        self._chord.group, self._chord.parts = request.group, set()
        try:
            return super().on_chord_part_return(request, state, result, *args, **kwargs)
        finally:
            self._chord.group = None

    def _set_chord_key(self, key, value):
        # Sizes are plain numbers, which Redis itself counts with.
        if not isinstance(value, int):
            value = self._seal(*self._place(key), value)
        return super()._set_chord_key(key, value)


def text(key):
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key


#: By the scheme of ``result_backend``.
SEALED = {
    "sealed-redis": "taskseal.celery.backends:SealedRedisBackend",
    "sealed-rediss": "taskseal.celery.backends:SealedRedisBackend",
}
