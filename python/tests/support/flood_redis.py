"""Somebody who writes to everything in Redis that a worker reads."""

import contextlib
import json

import redis as redis_py
from support.hostile import Hostile
from support.servers import wait_for


class RedisWriter:
    """Writes to the lists, tables, channels and results that a worker with this place uses.

    It destroys no message, as whoever writes to a broker can do: of another type is only a key that did not exist, and that
    for a while.
    """

    SEP = "\x06\x16"
    OTHER_TYPE = {
        "string": "redis.call('SET', KEYS[1], 'x')", "list": "redis.call('LPUSH', KEYS[1], 'x')",
        "hash": "redis.call('HSET', KEYS[1], 'x', 'x')", "set": "redis.call('SADD', KEYS[1], 'x')",
        "zset": "redis.call('ZADD', KEYS[1], 1, 'x')", "stream": "redis.call('XADD', KEYS[1], '*', 'x', 'x')",
    }  # fmt: skip

    def __init__(self, address, *, queues=("celery", "second"), ids=()):
        self.store = redis_py.Redis.from_url(f"redis://{address}/0")
        self.results = redis_py.Redis.from_url(f"redis://{address}/1")
        self.genuine = self.hostile = self.chance = None
        self.ids = [*ids, "no-such-task"]
        self.lists = [queue + suffix for queue in queues
                      for suffix in ("", *(self.SEP + str(number) for number in (3, 6, 9)))]  # fmt: skip
        exchanges = [*queues, "celeryev", "celery.pidbox", "reply.celery.pidbox"]
        self.tables = [f"_kombu.binding{kind}.{exchange}" for kind in ("", "_permanent") for exchange in exchanges]
        self.channels = ["/0.celery.pidbox", "/0.celeryev/worker.heartbeat", "/0.celeryev/task.sent", "/0.celeryev/\xff",
                         "/0.", "/0.celery.pidbox/x"]  # fmt: skip
        self.odd_keys = {}

    def __enter__(self):
        self.genuine = wait_for(lambda: self.store.lindex("celery" + self.SEP + "3", 0), 60)
        return self

    def __exit__(self, *_):
        self.store.close()
        self.results.close()

    def write(self, source):
        self.hostile, self.chance = Hostile(source, self.genuine), source
        for key in [key for key, left in self.odd_keys.items() if left <= 0]:
            self.end(key)
        self.odd_keys = {key: left - 1 for key, left in self.odd_keys.items()}
        self.chance.choices(
            [self.to_list, self.to_unacked, self.to_channel, self.to_table, self.to_result, self.copy, self.again, self.other_type],
            [8, 6, 3, 2, 3, 2, 2, 3],
        )[0]()

    def to_list(self):
        with self.unless_odd():
            push = self.chance.choice((self.store.lpush, self.store.rpush))
            push(self.chance.choice(self.lists), self.hostile.value())

    def to_unacked(self):
        tag, value = self.hostile.name(), self.hostile.value()
        if self.chance.random() < 0.7:
            with contextlib.suppress(ValueError, RecursionError):
                value = self.hostile.json([json.loads(value), self.hostile.odd(), self.hostile.odd()])
        with self.unless_odd():
            self.store.zadd("unacked_index", {tag: self.chance.choice((0, 1, -5, float("inf"), 1e300))})
            self.store.hset("unacked", tag, value)

    def to_channel(self):
        self.store.publish(self.chance.choice(self.channels), self.hostile.value())

    def to_table(self):
        parts = [self.chance.choice((self.hostile.name(), b"celery", b"", b"#", b"^(([a-z])+.)+[A-Z]([a-z])+$", b"["))
                 for _ in range(self.chance.choice((1, 2, 3, 3, 3, 5)))]  # fmt: skip
        with self.unless_odd():
            self.store.sadd(self.chance.choice(self.tables), self.SEP.encode().join(parts))

    def to_result(self):
        id = self.chance.choice(self.ids)
        key = self.chance.choice((f"celery-task-meta-{id}", f"celery-taskset-meta-{id}", f"celery-taskset-meta-{id}.j",
                                  f"celery-taskset-meta-{id}.s"))  # fmt: skip
        value = self.hostile.value()
        if self.chance.random() < 0.5:
            self.results.set(key, value)
            self.results.publish(key, value)
        else:
            self.results.delete(key)
            self.results.eval(self.chance.choice(list(self.OTHER_TYPE.values())), 1, key)

    def copy(self):
        """What lies among the unacknowledged into a list, as it is there."""
        with self.unless_odd(), contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
            entry = self.store.hget("unacked", self.chance.choice(self.store.hkeys("unacked")))
            self.store.lpush(self.chance.choice(self.lists), json.dumps(json.loads(entry)[0]))

    def again(self):
        """Says of everything among the unacknowledged that its time is over."""
        with self.unless_odd():
            for tag in self.store.hkeys("unacked"):
                self.store.zadd("unacked_index", {tag: 1})

    def other_type(self):
        key = self.chance.choice([*self.lists, *self.tables, "unacked", "unacked_index", "unacked_mutex"])
        made = self.store.eval(
            f"if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end {self.chance.choice(list(self.OTHER_TYPE.values()))} "
            "return 1", 1, key,
        )  # fmt: skip
        if made:
            self.odd_keys[key] = self.chance.choice((1, 3, 20))

    @contextlib.contextmanager
    def unless_odd(self):
        with contextlib.suppress(redis_py.ResponseError):
            yield

    def end(self, key):
        """Takes a key of another type away, unless somebody made it what it must be meanwhile."""
        del self.odd_keys[key]
        kind = self.store.type(key)
        held = {b"list": self.lists, b"hash": ["unacked"], b"zset": ["unacked_index"], b"set": self.tables}.get(kind, ())
        if key not in held:
            self.store.delete(key)

    def calm(self):
        """What only holds a worker up is taken away."""
        for key in list(self.odd_keys):
            self.end(key)
        self.store.delete("unacked_mutex")

    def clear(self):
        """Nothing of it is left in the queues, nor among the unacknowledged that are due."""
        wait_for(lambda: not any(self.store.llen(key) for key in self.lists), 60)
