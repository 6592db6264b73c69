"""``sealed-filesystem://``."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import time
import uuid
from queue import Empty

from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

from ...errors import OpenError
from ..sealing import Unanswered, logger
from .routing import rows_of
from .virtual import RETRY, ChannelMixin, MessageMixin, TransportMixin

#: The longest table of bindings that is read, in bytes.
MAX_TABLE_LEN = 4 * 1024 * 1024

#: How long a table is waited for that somebody else has locked, in seconds.
LOCK_TIMEOUT = 5.0

#: What opens a file and nothing else: a link is not followed, and a pipe not waited for.
SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Message(MessageMixin, filesystem.Channel.Message):
    """A message from a file."""


class Channel(ChannelMixin, filesystem.Channel):
    """A channel to a directory that seals."""

    Message = Message

    # --- Messages ---

    def __init__(self, *args, **kwargs):
        # The message that is being opened: its file, which is locked, and where that lies.
        self._taken = None
        super().__init__(*args, **kwargs)

    def _put(self, queue, payload, **kwargs):
        """Writes a message. It has its name from the moment on at which it is complete."""
        path = self._new_path(self.data_folder_out, queue)
        hidden = os.path.join(self.data_folder_out, f".{uuid.uuid4()}.new")
        try:
            with open(hidden, "xb") as file:
                file.write(str_to_bytes(dumps(payload)))
            os.rename(hidden, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(hidden)
            raise ChannelError(f"cannot write a message to {self.data_folder_out!r}: {error}") from error

    def _new_path(self, folder, queue):
        # As kombu's, and in order also within a millisecond.
        now = time.monotonic_ns()
        name = f"{now // 10**6}_{now % 10**6:06}-{uuid.uuid4()}.{queue}.msg"
        if os.path.basename(name) != name or "\0" in name:
            raise ChannelError(f"a queue cannot have the name {queue!r}")
        return os.path.join(folder, name)

    def _get(self, queue):
        limit = self.sealing.max_frame_len
        for name in self._names(queue):
            path = os.path.join(self.data_folder_in, name)
            file, problem = opened(path, os.O_RDONLY)
            if file is None:
                self._skip(path, problem)
            # Somebody who has it locked takes it, or writes it still.
            elif not locked(file) or not is_at(file, path):
                file.close()
            else:
                self._taken = file, path
                length = os.fstat(file.fileno()).st_size
                if length <= limit:
                    return file.read(length)
                self.sealing.refuse(OpenError(f"{length} bytes are more than {limit}", reason="too-large"),
                                    f"message from the queue {queue!r}")  # fmt: skip
                self._finish()
        raise Empty()

    def _names(self, queue):
        try:
            names = os.listdir(self.data_folder_in)
        except OSError as error:
            if self._seldom.due("folder"):
                logger.error("the directory %r cannot be read: %s", self.data_folder_in, error)
            return []
        return sorted(name for name in names if name.partition(".")[2] == f"{queue}.msg")

    def _open(self, item, queue, no_ack, since=None):
        """Opens it while its file lies where it lay, so that it is lost at no moment before it is handed out."""
        try:
            delivery = super()._open(item, queue, no_ack, since)
        except Unanswered:
            self._finish(keep=True)
            raise
        if self._finish() or delivery is None:
            return delivery
        # It would come again and again.
        self._in_flight.end(delivery["properties"]["delivery_tag"], handled=False)
        self._pauses.begin(queue, RETRY)

    def _return(self, item, queue):
        super()._return(item, queue)
        self._finish()

    def _give_back(self, tag, frame, queue):
        if self._taken is None:
            return super()._give_back(tag, frame, queue)
        file, path = self._taken
        try:
            # Behind the others.
            os.rename(path, self._new_path(self.data_folder_in, queue))
        except OSError as error:
            # It lies where it lay.
            self._skip(path, error)
        self._finish(keep=True)

    def _finish(self, keep=False):
        """Takes the file of the message away that was opened, unless it is kept; whether that was possible."""
        if self._taken is None:
            return True
        (file, path), self._taken = self._taken, None
        try:
            if not keep and self.store_processed:
                shutil.move(path, os.path.join(self.processed_folder, os.path.basename(path)))
            elif not keep:
                os.unlink(path)
        except OSError as error:
            self._skip(path, error)
            return False
        finally:
            file.close()
        return True

    def _skip(self, path, problem):
        if not isinstance(problem, FileNotFoundError) and self._seldom.due(("skipped", path)):
            logger.error("%r is in the place of a message and is left where it is: %s", path, problem)

    # --- Tables ---

    def _table(self, exchange):
        path = self._table_path(exchange)
        file, problem = opened(path, os.O_RDONLY)
        if isinstance(problem, FileNotFoundError):
            return []
        if file is None:
            raise ChannelError(f"the table {path!r} cannot be read: {problem}")
        with file:
            return self._rows(file, exchange)

    def get_table(self, exchange):
        try:
            return self._table(exchange)
        except (ChannelError, OSError) as error:
            self._say_table(exchange, error)
            return []

    def _rows(self, file, exchange):
        """The rows in the file of a table."""
        if not locked(file, fcntl.LOCK_SH, LOCK_TIMEOUT):
            raise ChannelError(f"the table of {exchange!r} is locked by somebody")
        length = os.fstat(file.fileno()).st_size
        content = file.read(min(length, MAX_TABLE_LEN))
        try:
            table = json.loads(content) if length <= MAX_TABLE_LEN else None
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, list):
            if content:
                self._say_table(exchange, "it is no table")
            return []
        rows = rows_of(table, self._seldom, exchange)
        return [filesystem.exchange_queue_t(*row) for row in rows if "/" not in row[2] and "\0" not in row[2]]

    def _put_fanout(self, exchange, payload, routing_key, **kwargs):
        for queue in self._lookup(exchange, routing_key):
            self._put(queue, payload, **kwargs)

    def _queue_bind(self, exchange, routing_key, pattern, queue):
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda rows: rows if row in rows else [row, *rows])

    def _delete(self, queue, exchange, routing_key, pattern, *args, **kwargs):
        self._purge(queue)
        row = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change_table(exchange, lambda rows: [other for other in rows if other != row])

    def _change_table(self, exchange, change):
        """Writes what becomes of a table's rows. A table that is none is written anew; what is no file is left alone."""
        path = self._table_path(exchange)
        try:
            self.control_folder.mkdir(exist_ok=True)
            file, problem = opened(path, os.O_RDWR | os.O_CREAT)
            if file is None:
                raise problem
            with file:
                if not locked(file, fcntl.LOCK_EX, LOCK_TIMEOUT):
                    raise ChannelError("somebody has locked it")
                before = self._rows(file, exchange)
                after = change(before)
                if after != before:
                    file.seek(0)
                    file.write(str_to_bytes(dumps(after)))
                    file.truncate()
        except (ChannelError, OSError) as error:
            self._say_table(exchange, error)

    def _table_path(self, exchange):
        if not exchange or "/" in exchange or "\0" in exchange:
            raise ChannelError(f"an exchange cannot have the name {exchange!r}")
        return str(self.control_folder / f"{exchange}.exchange")

    def _say_table(self, exchange, problem):
        if self._seldom.due(("table", exchange)):
            logger.error("the bindings of the exchange %r are not in its file: %s", exchange, problem)


def opened(path, flags):
    """A regular file, or None and why not: links, pipes, directories and devices may lie in its place."""
    try:
        descriptor = os.open(path, flags | SAFELY, 0o666)
    except OSError as error:
        return None, error
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "r+b" if flags & os.O_RDWR else "rb"), None
    os.close(descriptor)
    return None, OSError(errno.EINVAL, "it is no file")


def locked(file, how=fcntl.LOCK_EX, seconds=0.0):
    """Locks a file; whether that was possible in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)


def is_at(file, path):
    """Whether a path leads to this file still."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file.fileno()))
    except OSError:
        return False


class Transport(TransportMixin, filesystem.Transport):
    """A directory with sealed messages."""

    Channel = Channel
