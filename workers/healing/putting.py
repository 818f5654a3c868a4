"""Putting what is to be whole again, and reading it back: a site may take something and not keep it."""

from __future__ import annotations

import hashlib

from shared.errors import StorageError
from shared.storage.api import Buffer, Denied, MissingObject, ObjectStore, Permanent, StoreFull

_RIGHTS = "healing needs an identity that may overwrite (docs/sites.md#rights)"


def put_named(store: ObjectStore, key: str, data: Buffer, name: str) -> str:
    """Put what hashes to `name` and read it back; empty, or why it is not there. Raises Transient."""
    try:
        store.put(key, data, sha256=name)
        kept = store.get(key)
    except (Denied, Permanent, StoreFull, MissingObject) as error:
        return why_not(error)
    return "" if hashlib.sha256(kept).hexdigest() == name else "what was put reads back as other bytes"


def why_not(error: StorageError) -> str:
    """Why something that was put is not there."""
    if isinstance(error, MissingObject):
        return "this site took it, and has not kept it"
    return f"it can't be put: {error.args[0]}" + (f"; {_RIGHTS}" if isinstance(error, Denied) else "")
