"""The doorbell: rings for runs, thousands a second, with nothing of Celery imported.

A ring is a message of Celery's protocol 2 in kombu's Redis envelope, put at the head of the queue's list, which is what
Celery does for a task without options. A test holds it to what the installed Celery makes of the same task. It holds a
run's id and no more, and may be lost: the reaper rings again.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shared.ledger.guard import guarded
from shared.messaging.names import TASK_RUN, redis_list

if TYPE_CHECKING:
    import redis

_AT_ONCE = 1000  # rings in one round trip
_OF_A_SCRIPT = 100

# ARGV: queues' lists and messages in turn, as JSON: one argument costs a hundredth of as many. A list that an agent has
# made something else hears nothing, and keeps nobody else from hearing.
_RING = """
local rings = cjson.decode(ARGV[1])
for i = 1, #rings, 2 do
  local said = redis.pcall('LPUSH', rings[i], rings[i + 1])
  if type(said) == 'table' and said.err and not string.find(said.err, 'WRONGTYPE', 1, true) then return said end
end
"""
_EMBEDDED = json.dumps({"callbacks": None, "errbacks": None, "chain": None, "chord": None})
# Encoded once: a tick may ring for ten thousand.
_MESSAGE = json.dumps(
    {
        "body": "%(body)s",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK_RUN,
            "id": "%(task)s",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "%(task)s",
            "parent_id": None,
            "argsrepr": "['%(run)s']",
            "kwargsrepr": "{}",
            "origin": "holdfast",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": "%(task)s",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "%(queue)s"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "%(tag)s",
        },
    }
)


def waiting(client: redis.Redis, queues: Iterable[str]) -> dict[str, int]:
    """How many rings wait on each queue. Raises LedgerAway and LedgerError."""
    names = sorted(queues)
    if not names:
        return {}
    pipe = client.pipeline(transaction=False)
    for queue in names:
        pipe.llen(redis_list(queue))
    return dict(zip(names, guarded(pipe.execute), strict=True))


def ring(client: redis.Redis, rings: Iterable[tuple[str, str]]) -> int:
    """Ring for runs, each (id, queue); how many there were. Raises LedgerAway and LedgerError: some may have rung."""
    pending = list(rings)
    script = client.register_script(_RING)
    for start in range(0, len(pending), _AT_ONCE):
        pipe = client.pipeline(transaction=False)
        for first in range(start, min(start + _AT_ONCE, len(pending)), _OF_A_SCRIPT):
            some = pending[first : first + _OF_A_SCRIPT]
            packed = [text for run_id, queue in some for text in (redis_list(queue), message(run_id, queue))]
            script(args=[json.dumps(packed)], client=pipe)
        guarded(pipe.execute)
    return len(pending)


def rung(raw: str) -> object:
    """What a message in a queue rings for: a run's id, unless it is forged or none of ours; None where it is none."""
    try:
        found = json.loads(raw)
        if found["headers"]["task"] != TASK_RUN:
            return None
        return json.loads(base64.b64decode(found["body"]))[0][0]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None


def message(run_id: str, queue: str) -> str:
    """One ring, as it lies in the queue's list. Both are of letters, digits, dots, dashes and underscores."""
    body = base64.b64encode(f'[["{run_id}"], {{}}, {_EMBEDDED}]'.encode()).decode()
    one = str(uuid.uuid4())  # a task of its own, delivered once
    return _MESSAGE % {"body": body, "run": run_id, "queue": queue, "task": one, "tag": one}
