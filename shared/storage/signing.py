"""minio-py's signing of a request, without what its package imports besides.

`import minio` runs its client and its admin API, and with them pycryptodome and cffi: 67 ms and 5 MB in every command,
engine and helper on an S3 site, for one function. So the modules that sign are imported below a stand-in for the
package. It does not stay: whoever imports minio later gets all of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def _without_the_client() -> Iterator[None]:
    """Let `minio.signer` and others be imported without `minio` itself, where nobody has done that yet."""
    spec = None if "minio" in sys.modules else importlib.util.find_spec("minio")
    if spec is None or spec.submodule_search_locations is None:
        yield
        return
    package = ModuleType("minio")
    package.__path__ = list(spec.submodule_search_locations)
    vars(package).update(__title__="minio-py", __version__="")  # its helpers make a User-Agent of them, which is unused
    sys.modules["minio"] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "minio"]:
            del sys.modules[name]


with _without_the_client():
    from minio.credentials.credentials import Credentials
    from minio.helpers import queryencode, quote
    from minio.signer import sign_v4_s3
    from minio.time import to_amz_date, utcnow

__all__ = ["Credentials", "queryencode", "quote", "sign_v4_s3", "to_amz_date", "utcnow"]
