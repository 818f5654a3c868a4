"""Where bytes lie. Import-light: a kind of store is imported when one is opened."""

from __future__ import annotations

from shared.storage.api import (
    Buffer,
    Capabilities,
    Denied,
    MissingObject,
    ObjectInfo,
    ObjectStore,
    Permanent,
    StoreFull,
    Transient,
)
from shared.storage.open import open_store, parse_url

__all__ = [
    "Buffer",
    "Capabilities",
    "Denied",
    "MissingObject",
    "ObjectInfo",
    "ObjectStore",
    "Permanent",
    "StoreFull",
    "Transient",
    "open_store",
    "parse_url",
]
