"""Mounts of a run's own: what hooks mount is seen by this run alone, over the very paths that are backed up.

So a snapshot of LVM, ZFS or btrfs is recorded under the original paths while others go on working on these; and such
mounts end with the last process of the run, however it ends.
"""

from __future__ import annotations

import ctypes
import os

from shared.errors import BackupError

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_SLAVE = 1 << 14, 1 << 19


def make_mounts_private(source: str) -> None:
    """Give this process, and those that it will start, a view of the mounts of their own. Raises BackupError.

    What is mounted or unmounted elsewhere is still followed: else this view would keep a disk busy.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None):
        raise BackupError(
            f"source {source}: its hooks can't have mounts of their own: {os.strerror(ctypes.get_errno())}",
            hint="Only root may (CAP_SYS_ADMIN); else leave out `private_mounts`",
        )
