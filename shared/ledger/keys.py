"""Where things lie in Redis. All that belongs to one host's runs begins with `hf:h:<host>:`, which an ACL can hold.

hf:ledger             the random id of this ledger; a wipe makes another
hf:counter            counts leases; a token is "<ledger id>:<count>" and is compared for equality
hf:run:<id>           hash: one run (fields as in `model.Run`; its times in milliseconds)
hf:run:<id>:packs     set: the packs that the run has uploaded so far, hex
hf:run:<id>:children  set: the ids of the runs that it wanted
hf:open               sorted set: runs that are not final, by the time (ms) at which the reaper looks at them
hf:recent             list: the runs that ended, newest first, bounded
hf:history:<source>   list: the runs of one source that ended, newest first, bounded; what falls out is deleted
hf:backups:<source>   set: the ids of the backups of a source that are not over; a second one joins one of them
hf:counts             hash: ended|<kind>|<state>, error|<exit code>: runs; retries|<site>: requests made again;
                      uploaded|<source>: bytes of packs, of backups
hf:fenced             sorted set: runs whose holder was fenced, "<run>:<pid>" of engines that were killed, by when (ms),
                      until the repository lock is gone
hf:cut                sorted set: runs that were cut in shards, by when (ms) their kept lock is looked at
hf:pulse              hash: when the reaper last looked (at), and until when it spares leases that ran out (spare), ms
hf:evidence:<source>  hash: "<site>|last", "<site>|full": slots of the newest snapshots
hf:upkeep:<source>    hash, of the pools' realm alone: "<site>|<kind>": slot of the last; "<site>|<kind>|said": its end
hf:workers            sorted set: the names of workers, by when they were last heard of (ms)
hf:worker:<name>      hash: what a worker says of itself; expires
hf:drain:<name>       string: who asked that worker to leave; expires
hf:seen               hash: "<site>|<observer>": the sealed event of what it saw last; see `shared.health.events`
hf:places             sorted set: places from which sites are looked at, by when somebody there was last heard of (ms)
hf:h:<host>:...       the same again, for the runs of one host, and its queues
"""

from __future__ import annotations

import re

BEAT_PREFIX = "hf:beat"  # of RedBeat's own keys
BEAT_LOCK = f"{BEAT_PREFIX}:lock"  # there for as long as a scheduler leads
_HOST = re.compile(r"[a-z0-9][a-z0-9._-]*")
HOST_QUEUE = "host."  # begins the names of a host's queues
HOST_RESTORES = ".restore"  # ends that of its restores


def realm_prefix(host: str) -> str:
    """What all that belongs to a host begins with, or (with an empty host) to the pools."""
    return f"hf:h:{host}:" if host else "hf:"


def host_queues(host: str) -> tuple[str, str]:
    """The queues on which a host's runs are rung, and no others: its backups', and its restores'."""
    return f"{HOST_QUEUE}{host}", f"{HOST_QUEUE}{host}{HOST_RESTORES}"


class Keys:
    """The names of one realm's keys: a host's, or (with an empty host) the pools'."""

    def __init__(self, host: str = "") -> None:
        if host and not _HOST.fullmatch(host):
            raise ValueError(f"host {host!r}: expected lower-case letters, digits, dots, dashes and underscores")
        self.prefix = realm_prefix(host)
        self.ledger = f"{self.prefix}ledger"
        self.counter = f"{self.prefix}counter"
        self.open = f"{self.prefix}open"
        self.recent = f"{self.prefix}recent"
        self.fenced = f"{self.prefix}fenced"
        self.cut = f"{self.prefix}cut"
        self.workers = f"{self.prefix}workers"
        self.pulse = f"{self.prefix}pulse"
        self.counts = f"{self.prefix}counts"

    def run(self, run_id: str) -> str:
        """One run."""
        return f"{self.prefix}run:{run_id}"

    def packs(self, run_id: str) -> str:
        """The journal of one run."""
        return f"{self.prefix}run:{run_id}:packs"

    def children(self, run_id: str) -> str:
        """The runs that one wanted."""
        return f"{self.prefix}run:{run_id}:children"

    def history(self, source: str) -> str:
        """The runs of one source that ended."""
        return f"{self.prefix}history:{source}"

    def worker(self, name: str) -> str:
        """What a worker says of itself."""
        return f"{self.prefix}worker:{name}"

    def drain(self, name: str) -> str:
        """Whether a worker is asked to leave."""
        return f"{self.prefix}drain:{name}"

    def evidence(self, source: str) -> str:
        """What is known of a source's snapshots."""
        return f"{self.prefix}evidence:{source}"

    def upkeep(self, source: str) -> str:
        """What is known of a source's upkeep. Only that of the pools' realm counts: no agent does any."""
        return f"{self.prefix}upkeep:{source}"
