"""Evidence of many sources at once, for a ledger that was emptied: thousands in a few round trips.

It is the transition that everybody uses: what is older than what is known changes nothing, so it may be done twice,
late, or beside all that goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from shared.ledger import notescripts
from shared.ledger.guard import guarded, known
from shared.ledger.keys import Keys

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Evidence

AT_ONCE = 500  # of one pipeline


def note_evidence(pools: Ledger, rows: Sequence[tuple[str, str, str, Evidence]]) -> None:
    """Note evidence, each (host, source, site, evidence). Raises LedgerAway: some may be noted then; LedgerError.

    What an agent has made of the keys of its own realm holds up nobody else.
    """
    script = pools.client.register_script(notescripts.EVIDENCE)
    for at in range(0, len(rows), AT_ONCE):
        pipe = pools.client.pipeline(transaction=False)
        for host, source, site, one in rows[at : at + AT_ONCE]:
            script(keys=[Keys(host).evidence(source)], args=[site, one.last, one.last_full], client=pipe)
        for answer in guarded(partial(pipe.execute, raise_on_error=False)):
            known(answer)
