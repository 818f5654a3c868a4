"""The cached index of a repository at a site: which blobs are there, and where."""

from shared.repository.indexcache.cache import IndexCache
from shared.repository.indexcache.segment import Location

__all__ = ["IndexCache", "Location"]
