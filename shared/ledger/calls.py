"""What the ledger's scripts are called with: their numbers, and the order of their arguments, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from shared.ledger.codec import encode_request, milliseconds
from shared.ledger.model import ATTEMPTS, Opened

if TYPE_CHECKING:
    from shared.ledger.keys import Keys
    from shared.ledger.model import RunRequest

RING_AGAIN = 15.0  # seconds after which a ring that nobody followed is repeated, doubled each time
RING_AGAIN_AT_MOST = 600.0
RETRY_FIRST = 30.0  # seconds before a failed slot is opened again, doubled with each attempt
RETRY_AT_MOST = 3600.0
REMEMBERED = 30 * 86400.0  # seconds for which an ended run is kept
JOURNAL_KEPT = 7 * 86400.0
RECENT = 1000
HISTORY = 100  # ended runs that are kept of each source
ATTEMPTS_KEPT = 10
JOINS_ANY = "any"


def transition(keys: Keys, run_id: str, arguments: Sequence[object]) -> tuple[list[str], list[str]]:
    """KEYS and ARGV of a script of `scripts` for one run; `arguments` are the script's own."""
    common = [keys.prefix, run_id, milliseconds(REMEMBERED), RECENT, HISTORY, ATTEMPTS_KEPT]
    return [keys.run(run_id), keys.open], [str(argument) for argument in (*common, *arguments)]


def open_arguments(request: RunRequest, joins: str, ring_again: float = RING_AGAIN) -> list[object]:
    """The own arguments of OPEN. `joins`: which backup of its source it joins: `JOINS_ANY`, a kind, empty for none."""
    source = request.source if request.kind.is_backup else ""
    return [milliseconds(ring_again), request.parent, source, joins, *encode_request(request)]


def opened(request: RunRequest, answer: str) -> tuple[Opened, str]:
    """What OPEN answered: the word, and the id of the run that stands for `request` now."""
    word, _, other = answer.partition(" ")
    return Opened(word), other or request.id


def reap_arguments(*, spared: bool) -> list[object]:
    """The own arguments of REAP. `spared`: leases that ran out are left alone for now."""
    rings = [milliseconds(RING_AGAIN), milliseconds(RING_AGAIN_AT_MOST)]
    return [*rings, ATTEMPTS, milliseconds(RETRY_FIRST), milliseconds(RETRY_AT_MOST), int(spared)]
