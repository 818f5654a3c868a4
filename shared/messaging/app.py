"""The one Celery app: how Holdfast uses Celery, in one place.

The queue is a doorbell. A message carries a run's id and no more, is acknowledged before the work begins, and may come
twice or never: the ledger decides and the reaper rings again. Hence no results, no retries, no ETA and no late
acknowledgement, and visibility time-outs do not matter.
"""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING

from celery import Celery
from celery.platforms import SecurityWarning

from shared.ledger.keys import BEAT_PREFIX
from shared.messaging.broker import celery_broker
from shared.messaging.names import MAINTENANCE, SCHEDULER, TASK_TICK, redis_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TICK_SECONDS = 2.0
_SHUTDOWN = 25.0  # seconds; a supervisor gives back its run well before
_SOCKET = {
    "health_check_interval": 25,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
}


def make_app(url: str, *, tick_seconds: float = TICK_SECONDS, name: str = "holdfast", prefix: str = "") -> Celery:
    """The app for the Redis at `url` (redis://, rediss://, unix://). Connects to nothing yet.

    With a `prefix`, a realm's, it touches no key and no channel that does not begin with that.
    """
    app = Celery(name, set_as_current=False, autofinalize=True)
    app.conf.update(
        **celery_broker(url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # a Redis that is full, or a replica now, ends no worker
        broker_transport_options={
            **_SOCKET,
            "visibility_timeout": 3600,
            "unacked_restore_interval": 15,
            "unacked_restore_throttle": 1,
            "priority_steps": [0],
            "global_keyprefix": prefix,
        },
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "interval_max": 1},
        task_default_queue=MAINTENANCE,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # a backup goes on without Redis
        worker_soft_shutdown_timeout=_SHUTDOWN,
        worker_enable_soft_shutdown_on_idle=True,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,  # a worker is drained through the roll; a connection less
        enable_utc=True,
        timezone="UTC",
        beat_scheduler="redbeat.RedBeatScheduler",
        beat_max_loop_interval=tick_seconds,  # a standby tries for the lock this often
        beat_schedule={
            "tick": {
                "task": TASK_TICK,
                "schedule": tick_seconds,
                "options": {"queue": SCHEDULER, "expires": tick_seconds},
            }
        },
        redbeat_redis_url=url,
        redbeat_redis_options={name: value for name, value in _SOCKET.items() if not _unfit(url, name)},
        redbeat_key_prefix=BEAT_PREFIX,
        redbeat_lock_timeout=max(3, round(3 * tick_seconds)),
    )
    return app


def _unfit(url: str, option: str) -> bool:
    return url.startswith("unix://") and option in {"socket_connect_timeout", "socket_keepalive"}


def celery_queues(app: Celery, queues: Iterable[str]) -> list[str]:
    """What this app calls queues that it is to consume: their lists in Redis, without its own prefix.

    And their short names: Celery puts a ring that it took and did not begin with back under the name that stands in it.
    """
    prefix = app.conf.broker_transport_options["global_keyprefix"]
    return list(dict.fromkeys(name for queue in queues for name in (redis_list(queue).removeprefix(prefix), queue)))


def start_worker(app: Celery, queues: Sequence[str], *, name: str, concurrency: int) -> int:
    """Work until told to stop; returns an exit code. Starts children by fork, so nothing may be connected yet."""
    from shared.messaging.gate import put_up  # brings kombu's transports, which only a worker needs

    put_up()
    # An agent reads every file, so it may well be root; Celery warns of pickle, which is not accepted here.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        pool="prefork",
        concurrency=concurrency,
        queues=",".join(celery_queues(app, queues)),
        hostname=name,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="INFO",
        quiet=True,
    )
    gc.collect()
    gc.freeze()  # children share what was imported: the collector would touch, and so copy, every page of it
    worker.start()
    return int(worker.exitcode or 0)
