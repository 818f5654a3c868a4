"""The coordinator's side of a pass that is abandoned."""

from __future__ import annotations

from collections import deque
from typing import Any
from unittest.mock import MagicMock

import pytest

from workers.backup.engine.assembly import RecordLost
from workers.backup.engine.coordinator import Coordinator


def test_records_that_are_lost_while_a_pass_is_abandoned_do_not_interrupt_it() -> None:
    """What was under way when the first record was lost is passed over, and every claim is dropped.

    It once raised again in the middle of abandoning: claims stayed, so the next pass took for stored what
    nobody had stored, and met the first one's late messages.
    """
    found: Any = (True, [], [], [], 0, b"", (0, 0, 0))
    messages: deque[Any] = deque(
        [
            (0, ("scanned", [(b"/", found)], [])),
            (1, ("scanned", [(b"/", found)], [])),
            (1, ("nodes", [(b"/gone", b"name", b"", (), b"", 0, 0)])),
            (1, ("ask", 7, b"i" * 32)),
            (0, ("flushed",)),
            (1, ("flushed",)),
        ]
    )
    pool = MagicMock()
    pool.__len__.return_value = 2
    pool.poll.side_effect = lambda _: iter([messages.popleft()])
    known = MagicMock(ready=True)
    assembler = MagicMock(root=None)
    assembler.finish.side_effect = RecordLost("a directory's")
    uploader = MagicMock(**{"finished.return_value": []})
    coordinator = Coordinator(
        pool,
        known,
        lambda _: assembler,
        MagicMock(),
        uploader,
        roots={},
        parent=None,
        on_tick=lambda _: None,
        stopping=lambda: False,
    )
    with pytest.raises(RecordLost):
        coordinator.run(lambda: False, 0.0)
    coordinator.abandon()
    assert (list(messages), known.ask.mock_calls, known.drop_claims.call_count) == ([], [], 1)
