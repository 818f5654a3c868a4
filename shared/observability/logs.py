"""Logging: structlog and the standard library in one stream, with a run's context in every line and no secret in any.

Celery is told to leave logging alone by `connect_celery`. A line is JSON, or readable where it goes to a terminal.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextlib import AbstractContextManager
from typing import Any, TextIO

from shared.observability.logfile import LogFile
from shared.observability.masks import Event, mask_secrets
from shared.observability.structured import structlog
from shared.plain import plain_lines

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_encode = json.JSONEncoder().encode  # what `mask_secrets` has passed is of JSON's own types

# What Celery says of each message, and beat of each tick, would fill a disk and says nothing that Holdfast does not.
_CHATTER = ("celery.beat", "celery.app.trace", "celery.worker.strategy")


class _Line(str):
    """One line of the log, whole and masked."""

    __slots__ = ()


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Makes lines of what the standard library's loggers are told. What structlog is told comes as a line.

    A tick may log ten thousand lines: to hand over what is to be rendered takes as long as to render it.
    """

    def format(self, record: logging.LogRecord) -> str:
        return record.msg if isinstance(record.msg, _Line) else super().format(record)


def _as_json(_logger: object, _method: str, event: Event) -> str:
    return _encode(event)


def _as_line(_logger: object, _method: str, text: Any) -> _Line:  # what the renderer made of the event
    return _Line(text)


def _plain(_logger: object, _method: str, event: Event) -> Event:
    """What somebody else wrote must not steer the terminal that shows it. JSON escapes it by itself."""
    return {name: plain_lines(value) if isinstance(value, str) else value for name, value in event.items()}


def set_up(*, stream: TextIO | None = None, log_file: str = "", level: int = logging.INFO) -> None:
    """Send everything that is logged to `stream` (standard error if None), or to a file. May be called again."""
    out = stream if stream is not None else sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderers: list[structlog.typing.Processor] = [_as_json]
    if out.isatty() and not log_file:
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        renderers = [_plain, console]
    # A traceback is made a text before secrets are looked for: an error's message may hold one.
    last: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, mask_secrets, *renderers]
    structlog.configure(
        processors=[*shared, *last, _as_line],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler: logging.Handler = LogFile(log_file) if log_file else logging.StreamHandler(out)
    handler.setFormatter(
        _Formatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTER:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def about_run(*, run: str, source: str, kind: str, site: str, attempt: int) -> AbstractContextManager[None]:
    """What is logged inside is about this run, and says so: the one place that binds a run's context.

    All are asked for, so that none is forgotten. `site` is empty where the configuration no longer says which;
    `attempt` is 0 where there has been none yet. Holds for this thread alone.
    """
    return structlog.contextvars.bound_contextvars(run=run, source=source, kind=kind, site=site, attempt=attempt)


def connect_celery(*, log_file: str = "", level: int = logging.INFO) -> None:
    """Take logging out of Celery's hands, and bind a task's context around it. To be called before a worker starts.

    What is logged goes to `log_file`, or to standard error.
    """
    from celery import signals

    signals.setup_logging.connect(lambda **_: set_up(log_file=log_file, level=level), weak=False)
    signals.task_prerun.connect(_bind, weak=False)
    signals.task_postrun.connect(_unbind, weak=False)


def _bind(*, task: Any = None, args: Any = (), **_: Any) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(task=getattr(task, "name", ""))
    run = args[0] if args else None
    if isinstance(run, str) and _RUN_ID.fullmatch(run):  # a forged message may hold anything, of any length
        structlog.contextvars.bind_contextvars(run=run)


def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()
