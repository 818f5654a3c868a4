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
_EMBEDDED = json.dumps({"callbacks": None, "errbacks": None, "chain": None, "chord": None})
# Encoded once: a tick may ring for ten thousand.
_MESSAGE = json.dumps(
    {
        "body": "@BODY@",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK_RUN,
            "id": "@TASK@",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "@TASK@",
            "parent_id": None,
            "argsrepr": "['@RUN@']",
            "kwargsrepr": "{}",
            "origin": "holdfast",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": "@TASK@",
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "@QUEUE@"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "@TAG@",
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
    for start in range(0, len(pending), _AT_ONCE):
        pipe = client.pipeline(transaction=False)
        for run_id, queue in pending[start : start + _AT_ONCE]:
            pipe.lpush(redis_list(queue), message(run_id, queue))
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
    filled = _MESSAGE.replace("@BODY@", body).replace("@RUN@", run_id).replace("@QUEUE@", queue)
    return filled.replace("@TASK@", str(uuid.uuid4())).replace("@TAG@", str(uuid.uuid4()))
