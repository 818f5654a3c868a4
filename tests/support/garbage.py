"""Garbage that an agent may write into its own realm: of every key that `shared.ledger.keys` names, of each type.

Drawn from a seed, as a property test draws. Half of it is a run that is nearly one: what reads it must tell the two.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable
from typing import Any

import redis

from shared.ledger.keys import Keys, host_queues

BYTES = b"\xff\xfe\x00broken\x80"
DEEP = "[" * 5000 + "]" * 5000
TEXTS: tuple[bytes, ...] = (
    b"",
    BYTES,
    b"nonsense",
    b"-1",
    b"1e999",
    b"nan",
    b"9" * 400,
    b"99999999999999",
    b"253402300800000",
    b"0",
    b"0x10",
    b"1.5",
    b"x" * 300_000,
    b"\x1b[2J\x1b]0;owned\x07",
    b'"}], {"a": [',
    "\ud7ff\u202e".encode(),
    b"9999-12-31T23:59:59Z",
    b"2026-13-45T99:99:99Z",
    b"zzzz",
    b"null",
    b"[]",
    b"{}",
    b"[1]",
    b'"a"',
    b'{"a": NaN}',
    b'{"bytes": "many", "files": [], "site": {}, "snapshot": 7}',
    b'{"bytes_read": 1e999}',
    b'{"snapshot": "\\u001b[2J", "complete": false}',
    b'{"program": "x", "said": "\\u202e", "host": 5, "undo_hint": ""}',
    b'{"files": 1.5, "files_total": 0, "bytes": true, "current": [], "shards": 3}',
    b'{"exit_code": 1e18, "problems": 5}',
    b'{"site": ["a"], "into": 5}',
    b'{"a": "\\ud800"}',
    b"[[1, 2, 3, 4, 5]]",
    b'[["a", "b", {}, [], null]]',
    b'[[1, "w", -5, 1e40, "e"]]',
    DEEP.encode(),
    ('{"a":' * 3000 + "1" + "}" * 3000).encode(),
)
WORDS = (b"backup-full", b"backup-x", b"forget", b"prune", b"restore", b"replicate", b"queued", b"claimed", b"running")
ENDED = (b"succeeded", b"failed", b"incomplete", b"cancelled", b"paused")
SCORES = (0.0, 1.0, -1.0, 1e300, float("inf"), float("-inf"))


class Garbage:
    """Draws what one agent writes, and writes it by its own connection. `ids` are runs that it has heard of."""

    def __init__(self, client: redis.Redis, host: str, seed: int, *, ids: list[str], sources: list[str]) -> None:
        self._client = client
        self._keys = Keys(host)
        self._draw = random.Random(seed)
        self._ids = ids
        self._sources = sources
        self._queues = host_queues(host)

    def write(self, count: int) -> None:
        """So many keys."""
        pipe = self._client.pipeline(transaction=False)
        for _ in range(count):
            name = self._name()
            pipe.delete(name)
            self._draw.choice((self._run, self._run, self._string, self._list, self._set, self._zset, self._hash))(
                pipe, name
            )
        pipe.execute(raise_on_error=False)  # what it may not write, it may not

    def _name(self) -> str:
        """A key of its realm: each that the ledger knows of, and its queues."""
        named: list[Callable[[], str]] = [
            lambda value=value: value for value in vars(self._keys).values() if value != self._keys.prefix
        ]
        for about, method in inspect.getmembers(self._keys, inspect.ismethod):
            if not about.startswith("_") and len(inspect.signature(method).parameters) == 1:
                named.append(lambda method=method: method(self._about()))
        named += [lambda: f"{self._keys.prefix}{self._draw.choice(self._queues)}"]
        named += [lambda: f"{self._keys.prefix}backups:{self._draw.choice(self._sources)}"]
        return self._draw.choice(named)()

    def _about(self) -> str:
        return self._draw.choice([*self._ids, *self._sources, "w@m"])

    def _text(self) -> bytes:
        known = [text.encode() for text in (*self._ids, *self._sources, *self._queues, "backup", "hf:recent")]
        return self._draw.choice([*TEXTS, *known, *WORDS, *ENDED])

    def _string(self, pipe: Any, name: str) -> None:
        pipe.set(name, self._text())

    def _list(self, pipe: Any, name: str) -> None:
        pipe.rpush(name, *(self._text() for _ in range(self._draw.randint(1, 80))))

    def _set(self, pipe: Any, name: str) -> None:
        pipe.sadd(name, *(self._text() for _ in range(self._draw.randint(1, 30))))

    def _zset(self, pipe: Any, name: str) -> None:
        pipe.zadd(name, {self._text(): self._draw.choice(SCORES) for _ in range(self._draw.randint(1, 30))})

    def _hash(self, pipe: Any, name: str) -> None:
        fields = [b"a|last", b"a|full", b"queues", b"pid", b"since", b"at", b"spare", b"uploaded|web2", b"error|1"]
        fields += [b"ended|backup-full|succeeded", b"retries|a", BYTES]
        chosen = self._draw.sample(fields, self._draw.randint(1, len(fields)))
        pipe.hset(name, mapping={field: self._text() for field in chosen})

    def _run(self, pipe: Any, _: str) -> None:
        """A run that is nearly one, in all the places where one is looked for."""
        run_id = self._draw.choice(self._ids)
        source = self._draw.choice(self._sources)
        fields: dict[str, bytes] = {
            "id": run_id.encode(),
            "kind": self._draw.choice(WORDS[:6]),
            "source": source.encode(),
            "state": self._draw.choice((*WORDS[6:], *ENDED)),
            "queue": self._draw.choice((self._queues[0], "backup", "hf:recent", "scheduler", "hf:open")).encode(),
            "attempt": b"1",
            "rings": b"1",
            "opened": b"1772000000000",
            "started": b"1772000001000",
            "ended": b"1772000002000",
            "owner": b"w@m:1",
            "lease": b"0",
            "token": b"a:1",
            "attempts": json.dumps([[1, "w@m:1", 1, 2, "broken"]]).encode(),
            "result": b'{"site": "a", "bytes_stored": 5}',
            "slot": b"2026-03-04T02:00:00Z",
        }
        for name in self._draw.sample(sorted(fields), self._draw.randint(0, 4)):
            fields[name] = self._text()
        for name in self._draw.sample(sorted(fields), self._draw.randint(0, 2)):
            del fields[name]
        keys = self._keys
        pipe.delete(keys.run(run_id))
        pipe.hset(keys.run(run_id), mapping=dict(fields))
        places: tuple[Callable[[], object], ...] = (
            lambda: pipe.zadd(keys.open, {run_id: self._draw.choice(SCORES)}),
            lambda: pipe.zadd(keys.fenced, {self._draw.choice((run_id, f"{run_id}:9", "x:y")): 1}),
            lambda: pipe.lpush(keys.recent, run_id),
            lambda: pipe.lpush(keys.history(source), run_id),
            lambda: pipe.sadd(f"{keys.prefix}backups:{source}", run_id),
            lambda: pipe.sadd(keys.children(run_id), run_id),
        )
        for place in self._draw.sample(places, 4):
            place()
