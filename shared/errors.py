"""The tree of errors, drawn once; leaves live beside the code that raises them.

HoldfastError                     1  something failed that has no class of its own
├── UsageError                    2  the command line is wrong (click's own code, kept)
├── ConfigError                  10  the fleet's file: names file, line, key, found, expected
├── RepositoryError              20  shared.repository
│   ├── RepositoryMissing        21  there is none at that place
│   ├── WrongPassword            22  no key file opens with this password
│   ├── UnsupportedRepository    23  a version or feature this release can't handle
│   ├── Damaged                  24  bytes that do not verify: names object, expected, got
│   ├── Locked                   25  another holder's lock is in the way
│   ├── KeyNeeded                27  a password in use would open it no more
│   ├── SnapshotNeeded           28  the last good one of its source, or under a hold
│   └── AnotherRepository        29  under the same name, at another site
├── StorageError                 30  shared.storage
│   ├── MissingObject            31  no such object
│   ├── Denied                   32  credentials may not do this
│   ├── Transient                33  retried until the deadline, still failing
│   ├── Permanent                34  the store refuses, and would again
│   └── StoreFull                35  no space, or over quota
├── BackupError                  40  workers.backup
│   └── HookFailed               44  a program around a backup
├── ProgramFailed                43  a source's command, or what a restore goes into
├── RestoreError                 50  workers.restore
│   └── TargetRefused            51  the machine's own file does not let a restore write there
├── LedgerError                  60  shared.ledger
├── StaleEpoch                   70  shared.topology: nothing more is deleted
├── NoMajority                   72  nothing about who is primary can be changed
├── NotAllAgree                  73  nothing is deleted
├── MoveRefused                  74  as the topology stands
├── TooFarBehind                 76  the new primary lacks something
├── KitError                     90  shared.kit
│   ├── WrongKitPassword         91  the password does not open it
│   ├── KitDamaged               92  no kit, or not a whole one
│   ├── NewerKit                 93  of a later release
│   └── WrongParts               94  too few, or of different kits
└── Interrupted                 130  Ctrl-C or SIGTERM; what was uploaded is kept

Exit code 3 is not an error: the run finished, but something was left out (an incomplete
snapshot, metadata that could not be set, a restore with skipped files).
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_INCOMPLETE = 3


class HoldfastError(Exception):
    """The root. `str(error)` names the thing and the reason; `hint` names the way out."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message}. {self.hint}" if self.hint else message


class UsageError(HoldfastError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(HoldfastError):
    """The configuration is wrong: names file, line, key, what was found and what was expected."""

    exit_code = 10


class RepositoryError(HoldfastError):
    """A repository can't be used as asked."""

    exit_code = 20


class StorageError(HoldfastError):
    """A site can't be used as asked. `site`: its name, empty where it has none."""

    exit_code = 30
    site = ""


class BackupError(HoldfastError):
    """A backup can't be made."""

    exit_code = 40


class RestoreError(HoldfastError):
    """A restore can't be made."""

    exit_code = 50


class LedgerError(HoldfastError):
    """The ledger (Redis) can't be used as asked."""

    exit_code = 60


class Interrupted(HoldfastError):
    """Ctrl-C or SIGTERM: the work stopped cleanly and can be taken up again."""

    exit_code = 130
