"""On the path of every Python that lives ahead: its sleep, which libfaketime 0.9.10 breaks.

Python sleeps until a time on CLOCK_MONOTONIC, and libfaketime, told to leave that clock alone, shifts the time all the
same: now and then it is one that the kernel refuses (EINVAL). `select` sleeps for a span, and has no clock.
"""

from __future__ import annotations

import select
import time


def _sleep(seconds: float, /) -> None:
    deadline = time.monotonic() + seconds
    while seconds > 0:
        select.select([], [], [], seconds)
        seconds = deadline - time.monotonic()


time.sleep = _sleep
