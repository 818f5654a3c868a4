"""structlog without rich, which it imports where that is installed, to draw tracebacks that we never draw.

That is 4 MB of each process that stands all day, and 40 ms of its start. Whoever imports rich later gets it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _without_rich() -> Iterator[None]:
    """Let structlog find no rich, where nobody has imported that yet."""
    if "rich" in sys.modules:
        yield
        return
    sys.modules["rich"] = None  # type: ignore[assignment] # an import of it fails then, as Python documents
    try:
        yield
    finally:
        del sys.modules["rich"]


with _without_rich():
    import structlog

__all__ = ["structlog"]
