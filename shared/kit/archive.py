"""What lies in a kit, as files: a tar that gzip has compressed, so that a bare machine unpacks it by `tar xzf`.

`kit.json` says what the rest is. The other names are those that an opened kit has in its directory.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.kit.errors import KitDamaged, NewerKit

FORMAT = 1
MANIFEST = "kit.json"
CONFIG = "holdfast.yaml"
INSTRUCTIONS = "INSTRUCTIONS.md"
TOPOLOGY = "state/topology.json"
_MOST = 256 << 20  # bytes unpacked; a kit has some hundred KB
_NAME = re.compile(r"[^/\0]+(/[^/\0]+)*")


@dataclass(frozen=True, slots=True)
class Kit:
    """One kit, opened. `files` by their names in the directory, the manifest not among them."""

    manifest: Mapping[str, Any]
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def id(self) -> str:
        """Random, of this kit alone."""
        return str(self.manifest["id"])

    @property
    def made(self) -> float:
        """When, POSIX seconds."""
        return float(self.manifest["made"])


def pack(kit: Kit) -> bytes:
    """The archive."""
    out = io.BytesIO()
    manifest = json.dumps(kit.manifest, indent=1, ensure_ascii=False).encode()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in {MANIFEST: manifest, **kit.files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(kit.made)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0)


def unpack(data: bytes, what: str) -> Kit:
    """Read what `pack` gave. Raises KitDamaged, NewerKit."""
    try:
        unzip = zlib.decompressobj(wbits=31)
        plain = unzip.decompress(data, _MOST)
        if not unzip.eof:
            raise KitDamaged(f"{what}: its archive is not whole, or larger than {_MOST >> 20} MiB")
        files: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is None or not _NAME.fullmatch(entry.name) or {".", ".."} & set(entry.name.split("/")):
                    raise KitDamaged(f"{what}: its archive holds {entry.name!r}, which is no file of a kit")
                files[entry.name] = content.read()
        manifest = json.loads(files.pop(MANIFEST))
        form = manifest["format"]
        if isinstance(form, int) and form > FORMAT:
            raise NewerKit(
                f"{what} is of a newer release ({manifest.get('by', 'unknown')}): its form is {form}, "
                f"and this release knows {FORMAT}",
                hint="Open it with that release; or by hand: `age -d KIT | tar xz`, then read INSTRUCTIONS.md",
            )
        kit = Kit(manifest, files)
        _ = kit.id, kit.made, files[CONFIG], files[INSTRUCTIONS]
    except (KeyError, TypeError, ValueError, tarfile.TarError, zlib.error) as error:
        raise KitDamaged(f"{what} opens, and holds no kit: {error!r}", hint="Take another copy of the kit") from None
    return kit
