"""Values that somebody without a key writes, who has one genuine message to copy."""

import json


class Hostile:
    """Values that anybody could write, made by chance from one genuine message as the broker has it."""

    def __init__(self, chance, genuine):
        self.chance = chance
        self.genuine = genuine

    def value(self):
        """Bytes for any place."""
        return self.chance.choice(
            [self.copied, self.bent, self.cut, self.framed, self.framed, self.plain, self.noise, self.structure, self.typed]
        )()

    def copied(self):
        return self.genuine

    def bent(self):
        value = bytearray(self.genuine)
        for _ in range(self.chance.choice((1, 1, 3, 30))):
            value[self.chance.randrange(len(value))] = self.chance.randrange(256)
        return bytes(value)

    def cut(self):
        value = self.genuine
        start = self.chance.randrange(len(value))
        middle = value[start : start + self.chance.randrange(100)]
        return self.chance.choice((value[:start], value[start:], value[:start] + middle * 3 + value[start:], b""))

    def framed(self):
        """The genuine message in its frame, of which some parts are something else or missing."""
        try:
            frame = json.loads(self.genuine)
        except ValueError:
            return self.bent()
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            place = frame
            while isinstance(place, dict) and place:
                name = self.chance.choice([*place, "more"])
                if isinstance(place.get(name), dict) and self.chance.random() < 0.7:
                    place = place[name]
                    continue
                place[name] = self.odd()
                if self.chance.random() < 0.2:
                    del place[name]
                break
        return self.json(frame)

    def plain(self):
        """What stock Celery would run, or obey."""
        headers = {"task": "run", "id": self.word(), "lang": "py", "argsrepr": "x", "root_id": None, "parent_id": None,
                   "group": None, "retries": 0, "timelimit": [None, None], "eta": None, "expires": None}  # fmt: skip
        if self.chance.random() < 0.5:
            headers[self.chance.choice(list(headers))] = self.odd()
        control = {"method": self.chance.choice(("shutdown", "pool_restart", "revoke", "add_consumer")),
                   "arguments": {"task_id": self.word(), "queue": self.word()}, "destination": None}  # fmt: skip
        body = self.chance.choice(([["unsealed"], {}, {}], control, self.odd()))
        return self.json({
            "body": self.json(body).decode(), "content-type": self.chance.choice(("application/json", "application/data", None)),
            "content-encoding": "utf-8", "headers": headers,
            "properties": {"delivery_tag": self.word(), "body_encoding": self.chance.choice(("utf-8", "base64", None)),
                           "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": self.odd()},
        })  # fmt: skip

    def noise(self):
        return self.chance.randbytes(self.chance.choice((1, 10, 1000)))

    def structure(self):
        return self.json(self.odd())

    def typed(self):
        kind = self.chance.choice(("datetime", "date", "time", "uuid", "decimal", "bytes", "base64", "nobody's", [], None))
        return self.json({"__type__": kind, "__value__": self.odd()})

    def odd(self):
        """Something for JSON that is seldom right."""
        choice = self.chance.choice
        return choice((
            None, True, 0, -1, 7, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", "\0", "\ud800", "x" * 5000, "Å😀", [],
            {}, [[]], {"a": {}}, ["celery"] * 3, "celery", "celery.pidbox", "DEEP", "NUMBER", "application/x-taskseal",
            "../../outside", "\x06\x16",
        ))  # fmt: skip

    def json(self, value):
        text = json.dumps(value)
        depth = self.chance.choice((100, 900, 970, 5000))
        text = text.replace('"DEEP"', '{"a":' * depth + "1" + "}" * depth).replace('"NUMBER"', "9" * 5000)
        return text.encode()

    def word(self):
        return self.chance.choice(("x", "\ud800", "a-b", "x" * 300, "../x", "1", str(self.chance.random())))

    def name(self):
        """Bytes for a name or a field."""
        return self.word().encode("utf-8", "surrogatepass")
