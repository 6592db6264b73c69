"""Somebody who writes to the folders of `sealed-filesystem`."""

import contextlib
import os
import shutil
from pathlib import Path

from support.hostile import Hostile
from support.servers import wait_for


class FileWriter:
    """Writes to the folder of messages and the one of tables of `sealed-filesystem`."""

    def __init__(self, messages, tables, *, queues=("celery", "second"), node="worker@localhost"):
        self.messages, self.tables = Path(messages), Path(tables)
        self.genuine = self.hostile = self.chance = None
        self.queues = [*queues, f"{node}.celery.pidbox"]
        self.exchanges = [*queues, "celeryev", "celery.pidbox", "reply.celery.pidbox", "amq.direct"]
        self.number = 0

    def __enter__(self):
        self.genuine = wait_for(lambda: next(self.messages.glob("*.celery.msg"), None), 60).read_bytes()
        return self

    def __exit__(self, *_):
        pass

    def write(self, source):
        self.hostile, self.chance = Hostile(source, self.genuine), source
        self.number += 1
        if self.chance.random() < 0.8:
            name = f"{self.chance.choice(('0', '1', '9', 'x', '~'))}{self.number}.{self.chance.choice(self.queues)}.msg"
            self.put(self.messages / name)
        else:
            path = self.tables / f"{self.chance.choice(self.exchanges)}.exchange"
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            if self.chance.random() < 0.5:
                row = [self.hostile.odd() for _ in range(self.chance.choice((1, 3, 3, 3, 4)))]
                path.write_bytes(self.hostile.json([row] * self.chance.choice((1, 5))))
            else:
                self.put(path)

    def put(self, path):
        def directory():
            path.mkdir()
            (path / "inside").write_bytes(b"x")

        def huge():
            with open(path, "wb") as file:
                file.truncate(1 << 40)

        def unreadable():
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0))

        def halves():
            # In place, as whoever does not care writes.
            value = self.hostile.value()
            with open(path, "wb") as file:
                file.write(value[: len(value) // 2])
                file.flush()
                file.write(value[len(value) // 2 :])

        self.chance.choices(
            [lambda: path.write_bytes(self.hostile.value()), halves, directory, lambda: os.mkfifo(path), huge, unreadable,
             lambda: path.symlink_to(self.chance.choice(("/dev/zero", "/dev/random", path, "/etc/passwd", self.messages)))],
            [20, 4, 2, 2, 1, 1, 2],
        )[0]()  # fmt: skip

    def calm(self):
        pass

    def clear(self):
        """No file is left that somebody could have written a message into."""
        files = lambda: [path for path in self.messages.glob("*.msg") if path.is_file() and not path.is_symlink()]  # noqa: E731
        wait_for(lambda: not [path for path in files() if ".pidbox." not in path.name], 60)
