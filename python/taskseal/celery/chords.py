"""Chords over Redis: the body runs once, with every part that belongs to it, and with nothing else.

Stock Celery counts with plain numbers in the store. Here the size is sealed with the group's id when the chord is set, and each
part with its id, its place and the ids of the parts that its task added. So the store decides nothing: it can lose what it
holds, and the body does not run then.
"""

import time
from dataclasses import dataclass

from celery import states
from celery._state import get_current_task
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result
from redis.exceptions import LockError, ResponseError, WatchError

from ..errors import TasksealError
from .sealing import NOT_NOW, logger

#: What a value of a chord is sealed for.
SIZE, PART, ADDED = "celery-chord-size", "celery-chord-part", "celery-chord-added"

#: How long one worker may take to gather the parts and send the body, and how long others wait for it, in seconds.
LEASE, WAIT = 300, 30

#: How long the last part of a chord tries again what cannot be done now, and how often, in seconds.
PATIENCE, PAUSE = 60, 1


@dataclass(frozen=True)
class Part:
    """What a task of the header returned, and the ids of the tasks that it added to the chord."""

    id: str
    place: int | None
    state: str
    result: object
    added: tuple = ()

    @property
    def field(self):
        """Where it is stored. A task that runs again writes there again; one signature in two places of a header has two."""
        return f"{self.place}:{self.id}"

    @property
    def order(self):
        return (self.place is None, self.place or 0, self.id)


class Chord:
    """The chord whose header is this group."""

    def __init__(self, backend, group):
        self.backend = backend
        self.group = group
        self.client = backend.client
        self.size_key, self.parts_key, self.added_key, self.lock_key = (
            backend.get_key_for_group(group, suffix) for suffix in (".s", ".j", ".t", ".c")
        )

    # --- What is stored ---

    def set_size(self, size, nested):
        """Says of how many parts it is, before the last of them is sent. `nested` when the body is given groups in groups."""
        sealed = self._seal(SIZE, {"size": size, "nested": nested})
        self._write(lambda pipe: pipe.set(self.size_key, sealed), self.size_key)

    def add(self, id):
        """Says that the task that runs now adds a part."""
        task = get_current_task()
        if task is not None:
            # Its own part says so as well. Nobody can run the body without that one.
            task.request.taskseal_added = (*_added(task.request), id)
        sealed = self._seal(ADDED, {"id": id})
        self._write(lambda pipe: pipe.hset(self.added_key, id, sealed), self.added_key)

    def part(self, request, state, result):
        """A part is there. Runs the body, or fails the chord, when it was the last.

        Nobody looks at the chord again after its last part. So what cannot be done now, because keys or stores are away, is
        tried again for a while.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._part(request, state, result)
            except TasksealError as error:
                passes = error.is_retryable or getattr(error, "reason", None) in NOT_NOW
                if not passes or time.monotonic() > end:
                    raise
                logger.error("the chord %r waits: %s", self.group, error)
                time.sleep(PAUSE)

    def _part(self, request, state, result):
        part = Part(request.id, request.group_index, state, self.backend.encode_result(result, state), _added(request))
        sealed = self._seal(PART, [1, part.id, part.state, part.result, part.place, list(part.added)])
        callback = maybe_signature(request.chord, app=self.backend.app)
        try:
            there = self._write(
                lambda pipe: pipe.hset(self.parts_key, part.field, sealed).hlen(self.parts_key),
                self.parts_key, self.added_key, self.size_key,
            )[1]  # fmt: skip
            size = self._size()
            if size is not None and there >= size.size:
                self._finish(callback)
        except ChordError as error:
            self._fail(callback, error)
        except ResponseError as error:
            # The text of a pipeline's error begins with the command.
            if not str(error).rpartition("caused error: ")[2].startswith("WRONGTYPE"):
                raise
            self._fail(callback, ChordError("chord-incomplete: something else is stored in the place of the chord's parts"))

    # --- The end ---

    def _finish(self, callback):
        """Runs the body if all parts are there."""
        lock = self.client.lock(self.lock_key, timeout=LEASE, blocking_timeout=WAIT)
        if not lock.acquire():
            logger.error("the chord %r is held by somebody else, and was left to him", self.group)
            return
        try:
            # Once more: another worker may have finished it.
            size = self._size()
            if size is None:
                return
            if self._was_run(size.run):
                logger.error("the chord %r was run before, and its parts were put back; it is not run again", self.group)
                self._clear()
                return
            parts = self._parts()
            if len(parts) < size.size + len(self._added().union(*(part.added for part in parts))):
                return
            results = self._nested_results() if size.nested else [self._result(part) for part in parts]
            if lock.owned():
                self._send(callback, results, size.run)
        except (ChordError, ResponseError, TasksealError):
            raise
        except Exception as error:
            raise ChordError(f"Join error: {error!r}") from error
        finally:
            _release(lock)

    def _send(self, callback, results, run):
        publish = getattr(self.backend.app.amqp, "_retry_publish", _call)
        try:
            publish(callback.delay, results)
        except TasksealError:
            raise
        except Exception as error:
            raise ChordError(f"Callback error: {error!r}") from error
        self._remember(run)
        self._clear()

    def _fail(self, callback, error):
        """Fails the chord, and leaves nothing that could still run its body."""
        logger.error("the chord %r has failed: %s", self.group, error)
        self._clear()
        self.backend.chord_error_from_stack(callback, error)

    def _clear(self):
        self.client.delete(self.parts_key, self.added_key, self.size_key)

    def _result(self, part):
        """What the body is given of a part."""
        found = part.result
        if part.state in states.EXCEPTION_STATES:
            found = self.backend.exception_to_python(found)
        if part.state in states.PROPAGATE_STATES:
            error = ChordError(f"Dependency {part.id} raised {found!r}")
            error.__cause__ = found if isinstance(found, BaseException) else None
            raise error
        return found

    def _nested_results(self):
        app = self.backend.app
        header = GroupResult.restore(self.group, app=app, backend=self.backend)
        if header is None:
            raise ChordError("chord-incomplete: the form of the chord's header is lost")
        header.on_ready()
        try:
            with allow_join_result():
                return header.join_native(timeout=app.conf.result_chord_join_timeout, propagate=True)
        except Exception as error:
            raise ChordError(f"Join error: {error!r}") from error

    # --- What was sealed ---

    def _size(self):
        value = self.client.get(self.size_key)
        if not value:
            return None
        opened = self.backend.opened(value, SIZE, self.group)
        if opened is None:
            raise ChordError("chord-size: the stored size of the chord is not the one that was sealed")
        said = self._decode(opened)
        return Size(said["size"], said["nested"], opened.replay_key)

    def _parts(self):
        parts = []
        for field, part in self._verified(self.parts_key, PART):
            _, id, state, result, place, added = part
            part = Part(id, place, state, result, tuple(added))
            # A copy of a part under another name is none.
            if part.field == _text(field):
                parts.append(part)
        return sorted(parts, key=lambda part: part.order)

    def _added(self):
        return {added["id"] for _, added in self._verified(self.added_key, ADDED)}

    def _verified(self, key, purpose):
        """The fields of a hash that verify. Others are taken out of it."""
        for field, value in self.client.hscan_iter(key, count=100):
            opened = self.backend.opened(value, purpose, self.group)
            if opened is None:
                self._remove(key, field, value)
            else:
                yield field, self._decode(opened)

    def _remove(self, key, field, value):
        """Takes a field out, unless it has changed meanwhile."""
        with self.client.pipeline() as pipe:
            try:
                pipe.watch(key)
                if pipe.hget(key, field) == value:
                    pipe.multi()
                    pipe.hdel(key, field)
                    pipe.execute()
            except WatchError:
                pass

    # --- Helpers ---

    def _was_run(self, run):
        try:
            return run is not None and self.backend.sealing.replay.contains(self._run_key(run))
        except Exception as error:
            # Otherwise the chord would be lost. It runs twice only if somebody also puts its parts back.
            logger.error("the replay memory does not answer for the chord %r: %s", self.group, error)
            return False

    def _remember(self, run):
        if run is None:
            return
        now = time.time()
        try:
            self.backend.sealing.replay.remember(self._run_key(run), now + self.backend.sealing.lifetime, now)
        except Exception as error:
            logger.error("the chord %r was run and not remembered: %s", self.group, error)

    def _run_key(self, run):
        return b"chord:" + run

    def _seal(self, purpose, value):
        return self.backend.sealing.sealer.seal_payload(purpose, self.group, self.backend.encode(value))

    def _decode(self, opened):
        return self.backend.decode_opened(opened.payload)

    def _write(self, commands, *keys):
        """Sends commands at once. These keys live for as long as chords do, and the form of the header as long as results."""
        backend = self.backend
        # Celery 5.7 has a setting for chords alone.
        expires = getattr(backend, "chord_expires", backend.expires)
        header_expires = getattr(backend, "_chord_result_expires", None)

        def write():
            with self.client.pipeline() as pipe:
                commands(pipe)
                if expires:
                    for key in keys:
                        pipe.expire(key, expires)
                if header_expires:
                    pipe.expire(backend.get_key_for_group(self.group), header_expires)
                return pipe.execute()

        return backend.ensure(write, ())


@dataclass(frozen=True)
class Size:
    """Of how many parts a chord is, and which of its runs: a frozen chord can be applied again."""

    size: int
    nested: bool
    run: bytes | None


def _added(request):
    return tuple(getattr(request, "taskseal_added", None) or ())


def _release(lock):
    try:
        lock.release()
    except (LockError, ResponseError):
        logger.warning("a chord took longer than %s seconds to finish, or somebody wrote to its lock", LEASE)


def _call(function, *arguments):
    return function(*arguments)


def _text(field):
    return field.decode("utf-8", "backslashreplace") if isinstance(field, bytes) else field
