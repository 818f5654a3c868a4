"""Every metric of Holdfast: name, type, labels and help, in one table. Nothing here counts or serves anything.

docs/metrics.md, the rules of deploy/prometheus and the exporter are held to this table by a test. No label and no value
is ever taken from an error's text, a URL or a path: what is secret can't get in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

PREFIX = "holdfast_"


class MetricType(StrEnum):
    """As Prometheus knows them. A counter's name ends in `_total`."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` is the whole one, as it stands in a rule."""

    name: str
    type: MetricType
    labels: tuple[str, ...]
    help: str


def _gauge(name: str, labels: str, text: str) -> Metric:
    return Metric(PREFIX + name, MetricType.GAUGE, tuple(labels.split()), text)


def _counter(name: str, labels: str, text: str) -> Metric:
    return Metric(f"{PREFIX}{name}_total", MetricType.COUNTER, tuple(labels.split()), text)


# Runs, counted by the ledger: the counts begin anew where Redis was emptied.
RUNS = _counter("runs", "kind result", "Runs that ended, by kind and final state")
ERRORS = _counter("run_errors", "class", "Runs that failed, by the class of their error (docs/exit-codes.md)")
RETRIES = _counter("store_retries", "site", "Requests to a site that were made again, in the last attempts of runs")
UPLOADED = _counter("uploaded_bytes", "source", "Bytes of packs that the last attempts of a source's backups uploaded")

# The last backup run that ended, per source.
LAST_END = _gauge("last_run_end_timestamp_seconds", "source kind result", "When the last backup run of a source ended")
LAST_FAILED = _gauge("last_run_failed", "source", "1 where the last backup run of a source failed, else 0")
LAST_DURATION = _gauge("last_run_duration_seconds", "source", "From the start of its last attempt to its end")
LAST_READ = _gauge("last_run_read_bytes", "source", "Bytes that the last run read from the source's files")
LAST_ADDED = _gauge("last_run_added_bytes", "source", "Bytes of content that was new to the repository")
LAST_UPLOADED = _gauge("last_run_uploaded_bytes", "source", "Bytes of packs that were uploaded, compressed and sealed")

# What a source has, and what it should have.
SOURCE_INFO = _gauge("source_info", "source policy owner executor site", "1 for each configured source")
SOURCE_LABEL = _gauge("source_label", "source label value", "1 for each label of each configured source")
RPO = _gauge("source_rpo_seconds", "source", "The RPO target of a source's policy; absent where it has none")
RUNNING = _gauge("source_running", "source", "1 while a backup of the source is claimed, running or waiting, else 0")
GOOD_START = _gauge(
    "last_good_snapshot_start_timestamp_seconds",
    "source site",
    "When the newest complete snapshot at a site was begun: what the RPO counts from",
)
GOOD_END = _gauge(
    "last_good_snapshot_end_timestamp_seconds", "source site", "When the run of that snapshot ended; absent if unknown"
)

# What comes back by itself: forgets, prunes, verifications, restore tests.
UPKEEP_EVERY = _gauge("upkeep_interval_seconds", "policy kind", "How often a policy wants this kind of upkeep")
UPKEEP_GOOD = _gauge(
    "upkeep_good_timestamp_seconds", "source site kind", "When it was last done and all was well; absent for never"
)
UPKEEP_FAILED = _gauge("upkeep_failed", "source site kind", "1 where the last one found something wrong, else absent")
UPKEEP_HEALED = _gauge(
    "upkeep_healed_objects", "source site", "What the last verification has healed; absent where there was nothing"
)
RESTORE_RATE = _gauge("restore_rate_bytes_per_second", "source site", "What the last restore test measured")

# What the sites themselves say.
SITE_UP = _gauge("site_up", "site", "1 where the site answered the exporter when it was asked last, else 0")
SITE_SEEN = _gauge("site_seen_up", "site place", "1 where a site was seen to work from a place, if slowly, else 0")
SITE_LATENCY = _gauge("site_latency_seconds", "site place", "How long the last probe took to write and read back")
SITE_FREE = _gauge("site_free_bytes", "site place", "Bytes that may still be written there; no S3 store tells")
SITE_LEAST_FREE = _gauge("site_wanted_free_bytes", "", "Bytes that a site should have left, as configured")
SITE_CERTIFICATE = _gauge(
    "site_certificate_expiry_timestamp_seconds", "site place", "When the certificate of a site's server runs out"
)
SITE_CLOCK = _gauge("site_clock_offset_seconds", "site place", "By how much a site's clock is ahead of the place's")
CLOCK_TOLERANCE = _gauge("site_clock_tolerance_seconds", "", "By how much clocks may differ, as configured")
IGNORED = _counter("events_ignored", "reason", "Events that were ignored, by the reason why")
CLAIM_WRONG = _gauge(
    "claim_disproved", "source site", "1 where the site does not have the last good snapshot that the ledger tells of"
)
CLAIM_CHECKED = _gauge(
    "claim_checked_timestamp_seconds", "source site", "When the site was asked for that snapshot last"
)

# The job system.
OPEN_RUNS = _gauge("open_runs", "kind state", "Runs that are not final")
OPEN_AGE = _gauge("oldest_open_run_seconds", "kind", "For how long the oldest run of a kind is open; 0 for none")
LEASES = _gauge("leases", "queue", "Runs of a queue that a worker holds a lease of")
QUEUE_LENGTH = _gauge("queue_length", "queue", "Rings that no worker has taken yet")
QUEUE_AGE = _gauge("queue_oldest_seconds", "queue", "For how long the oldest run of a queue has waited; 0 for none")
WORKERS = _gauge("executor_workers", "executor", "Workers, heard of lately, that take the backups of an executor")
LEADER = _gauge("scheduler_leader", "", "1 while a scheduler holds the lock by which one leads, else 0")
TICK = _gauge("scheduler_tick_timestamp_seconds", "", "When the last tick was sent")

# Redis.
LEDGER_UP = _gauge("ledger_up", "", "1 where this scrape could read the ledger, else 0")
LEDGER_KEPT = _gauge("ledger_persistent", "", "1 where Redis keeps its log on disk, and could write it last, else 0")
LEDGER_EVICTS = _gauge("ledger_may_evict", "", "1 where maxmemory-policy is another than noeviction, else 0")
LEDGER_USED = _gauge("ledger_memory_bytes", "", "What Redis has allocated")
LEDGER_LIMIT = _gauge("ledger_memory_limit_bytes", "", "Redis's maxmemory; 0 for none")
LEDGER_CLIENTS = _gauge("ledger_clients", "", "Connections to Redis")
LEDGER_CLIENTS_LIMIT = _gauge("ledger_clients_limit", "", "Redis's maxclients")
UNREAD = _gauge("ledger_unread_entries", "host", "Entries of a host's part of the ledger that can't be read")

# The exporter itself.
READ_SECONDS = _gauge("exporter_read_duration_seconds", "", "How long this scrape's reading of the ledger took")
READ_TIME = _gauge("exporter_last_read_timestamp_seconds", "", "When the ledger was last read in full")
CONFIG_OK = _gauge("exporter_config_valid", "", "1 where the configuration in force is what its files say, else 0")
INVENTORY_OK = _gauge(
    "inventory_usable",
    "",
    "1 where the inventory's last answer is in force, else 0; absent where there is no inventory",
)
INVENTORY_TIME = _gauge("inventory_answered_timestamp_seconds", "", "When the answer in force was last given")
SOURCES_GONE = _gauge("inventory_gone_sources", "", "Sources that left the inventory and were not dropped")
KIT_TIME = _gauge(
    "kit_made_timestamp_seconds", "", "When the last recovery kit was made; 0 where the exporter's machine knows none"
)
KIT_OUTDATED = _gauge("kit_outdated", "", "1 where what the last recovery kit was made of has changed since, else 0")
BUILD = _gauge("build_info", "version", "1, with the version of Holdfast")

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))

# The classes of errors by the exit code that a run ended with; other codes are "other".
ERROR_CLASSES = {
    1: "HoldfastError",
    10: "ConfigError",
    20: "RepositoryError",
    21: "RepositoryMissing",
    22: "WrongPassword",
    23: "UnsupportedRepository",
    24: "Damaged",
    25: "Locked",
    30: "StorageError",
    31: "MissingObject",
    32: "Denied",
    33: "Transient",
    34: "Permanent",
    35: "StoreFull",
    40: "BackupError",
    41: "EngineFailed",
    50: "RestoreError",
    60: "LedgerError",
    61: "LedgerAway",
    70: "StaleEpoch",
}
OTHER = "other"


def error_class(exit_code: int) -> str:
    """The label of a failed run's error."""
    return ERROR_CLASSES.get(exit_code, OTHER)
