"""What malloc of a helper does with memory that is freed: here it is kept, as the next blob needs as much."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 4 << 20  # bytes


def keep_freed_memory() -> None:
    """Make malloc keep up to 4 MiB of what is freed for what is asked next. Does nothing with another C library.

    A helper that reads blobs frees and asks for about a MiB at every step. Were it given back each time (see
    workers.helpers), what replaces it would cost a page fault for every 4 KiB, and those cost more than
    reading, decrypting and writing together.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT)
    mallopt(_M_TRIM_THRESHOLD, _KEPT)
