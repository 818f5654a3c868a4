"""What of a message reaches Celery: which of our tasks, an id, one text, an expiry.

Celery ends a worker on a message that it can't take apart, puts that one back, and so ends the next worker too. It also
obeys what stands beside the arguments: limits of time, tasks to call next. A ring needs none of it, so none passes, and
what is no message at all is dropped. Nothing is lost by that: the reaper rings again.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

from shared.messaging.names import TASK_HEAR, TASK_RUN, TASK_TICK
from shared.observability.structured import structlog

_log = structlog.get_logger("holdfast.worker")
_TASKS = (TASK_RUN, TASK_TICK, TASK_HEAR)
_NONE = (ValueError, TypeError, KeyError, IndexError, AttributeError)  # what is no message raises


def put_up() -> None:
    """Put it before all queues that this process reads from now on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


class Channel(redis.Channel):  # type: ignore[misc] # kombu has no types
    """Reads on after what is not even JSON."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            _drop("", error)
            return True


class Transport(redis.Transport):  # type: ignore[misc] # kombu has no types
    """Delivers what `cleaned` leaves of a message."""

    Channel = Channel

    def register_with_event_loop(self, connection: object, loop: object) -> None:
        """A Redis that is a replica now refuses what this begins with. Celery then tries again, and closes nothing."""
        try:
            super().register_with_event_loop(connection, loop)
        except BaseException:
            self.close_connection(connection)
            raise

    def _deliver(self, message: object, queue: str) -> None:
        if not queue.endswith(".pidbox"):  # Celery's own, for questions to workers
            try:
                message = cleaned(message, queue)
            except _NONE as error:
                _drop(queue, error)
                return
        super()._deliver(message, queue)


def cleaned(message: Any, queue: str) -> dict[str, Any]:
    """The message with nothing in it but what a ring has. Raises one of `_NONE` where it has not even that."""
    headers = message["headers"]
    task, task_id, expires = headers["task"], headers["id"], headers.get("expires")
    tag = message["properties"]["delivery_tag"]
    arguments = json.loads(base64.b64decode(message["body"]))[0]
    if task not in _TASKS or not isinstance(arguments, list) or not isinstance(task_id + tag, str):
        raise ValueError(f"no message of ours, but for {task!r}")
    if expires is not None:
        datetime.fromisoformat(expires)
    texts = [one for one in arguments[:1] if isinstance(one, str)]  # those of a newer release may be more
    return {
        "body": base64.b64encode(json.dumps([texts, {}, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": task, "id": task_id, "expires": expires},
        "properties": {
            "delivery_mode": 2,
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "body_encoding": "base64",
            "priority": 0,
        },
    }


def _drop(queue: str, error: Exception) -> None:
    _log.warning("a message that is none was dropped", queue=queue, reason=repr(error)[:200])
