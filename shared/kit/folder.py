"""Secret files that appear together: a kit that was opened, the parts of one.

Invariant: the directory is there with all of them, or not there. Order: a hidden directory beside it, each file
durable in it, then its name, which only an empty directory may have had.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping

from shared.errors import UsageError
from shared.kit.errors import KitError
from shared.storage.durable import TEMPORARY_PREFIX, make_directories, sync_directory, write_durable


def check_free(directory: str) -> None:
    """Raise UsageError where something is in the way; nothing is ever overwritten."""
    try:
        with os.scandir(directory) as entries:
            if next(entries, None) is not None:
                raise UsageError(f"the directory {directory} is not empty", hint="Name one that is not there yet")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"can't use {directory}: {error.strerror}", hint="Name a directory") from None


def publish(directory: str, files: Mapping[str, bytes]) -> None:
    """Write them, mode 0600, names relative to `directory`. Raises UsageError, KitError."""
    check_free(directory)
    directory = os.path.abspath(directory)
    above = os.path.dirname(directory)
    made = os.path.join(above, TEMPORARY_PREFIX + os.urandom(8).hex())
    try:
        make_directories(above, mode=0o755)
        os.mkdir(made, 0o700)
        try:
            for name, data in files.items():
                path = os.path.join(made, name)
                make_directories(os.path.dirname(path))
                write_durable(path, data, mode=0o600)
            sync_directory(made)
            os.rename(made, directory)
        except BaseException:
            with contextlib.suppress(OSError):
                shutil.rmtree(made)
            raise
        sync_directory(above)
    except OSError as error:
        raise KitError(
            f"can't write {directory}: {error.strerror}",
            hint="Name a directory that is not there yet, where you may write",
        ) from None
