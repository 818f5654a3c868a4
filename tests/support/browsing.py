"""Looking into snapshots: the command in this process, on a repository that tests fill; and trees held in memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.main import main
from shared.repository.indexcache import Location
from shared.repository.pack import BlobType
from shared.repository.tree import Node, encode_tree
from tests.support.backups import RECOVERY, REPOSITORY, SECRET, Shop
from workers.restore.reading import Span

CONFIG = """\
secret: {{file: fleet.secret}}
recovery_password: {{file: recovery.password}}
sites:
  a: {{url: {site}}}
sources:
  web1:
    paths: [{source}]
"""


@dataclass(slots=True)
class Looker:
    """The commands on the repository of a Shop, whose one source is `web1`."""

    shop: Shop

    def __post_init__(self) -> None:
        """Write the configuration."""
        conf = Path(self.config).parent
        conf.mkdir()
        (conf / "fleet.secret").write_bytes(SECRET)
        (conf / "recovery.password").write_text(RECOVERY)
        Path(self.config).write_text(CONFIG.format(site=self.shop.site, source=self.shop.source))

    @property
    def config(self) -> str:
        """The configuration's file."""
        return os.path.join(self.shop.base, "conf/holdfast.yaml")

    def run(self, *arguments: str, code: int = 0) -> tuple[bytes, str]:
        """What a command writes to stdout and to stderr; it must end with this code."""
        got, out, err = call(arguments[0], "--config", self.config, *arguments[1:])
        assert got == code, f"{arguments}: exit code {got}\n{out!r}\n{err}"
        return out, err

    def lines(self, *arguments: str, code: int = 0) -> list[str]:
        """The lines on stdout."""
        return self.run(*arguments, code=code)[0].decode().splitlines()

    def ask(self, *arguments: str, code: int = 0) -> Any:
        """The document that --json gives."""
        return json.loads(self.run(*arguments, "--json", code=code)[0])

    def lose_tree(self, tree: bytes) -> None:
        """Damage the pack in which this tree lies, there where it lies."""
        pack, blob = self.shop.blobs()[BlobType.TREE, tree]
        self._flip(pack, blob.offset)

    def lose_content(self, node: Node, number: int = 0) -> None:
        """Damage a file's blob."""
        assert node.content is not None
        pack, blob = self.shop.blobs()[BlobType.DATA, node.content[number]]
        self._flip(pack, blob.offset)

    def _flip(self, pack: bytes, offset: int) -> None:
        path = self.shop.packs()[pack.hex()]
        os.chmod(path, 0o600)
        with open(path, "r+b") as file:
            file.seek(offset + 20)
            file.write(b"\xff\x00\xff\x00")


def look_into(base: Path) -> Looker:
    """A Looker on a new repository."""
    assert REPOSITORY == "web1"
    return Looker(Shop(str(base)))


def call(*arguments: str) -> tuple[int, bytes, str]:
    """Run a command line in this process: exit code, stdout, stderr."""
    with _captured() as (out, err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue().decode()


@contextmanager
def _captured() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    out, err = io.BytesIO(), io.BytesIO()
    kept = sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM)
    stdout, stderr = io.TextIOWrapper(out, encoding="utf-8"), io.TextIOWrapper(err, encoding="utf-8")
    sys.stdout, sys.stderr = stdout, stderr
    try:
        yield out, err
        stdout.flush()
        stderr.flush()
    finally:
        sys.stdout, sys.stderr = kept[0], kept[1]
        signal.signal(signal.SIGTERM, kept[2])
        stdout.detach()
        stderr.detach()


@dataclass(slots=True)
class Forest:
    """Trees in memory, as an index and a reader in one, which counts what is read."""

    blobs: dict[bytes, bytes] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)

    def put(self, *nodes: Node) -> bytes:
        """A tree's id."""
        raw = encode_tree(nodes)
        name = hashlib.sha256(raw).digest()
        self.blobs[name] = raw
        return name

    def lookup(self, blob_type: BlobType, ids: Iterable[bytes]) -> list[Location | None]:
        """All in one pack."""
        assert blob_type in BlobType
        return [Location(bytes(32), 0, len(self.blobs[one]), 0) if one in self.blobs else None for one in ids]

    def trees(self, pack: bytes, spans: list[Span]) -> Iterator[tuple[Span, bytes]]:
        """As Reader.trees."""
        assert pack == bytes(32)
        for span in spans:
            self.asked.append(span.id)
            yield span, self.blobs[span.id]


def file_node(name: bytes, content: bytes = b"", *, mtime: int = 0, mode: int = 0o644) -> Node:
    """A file whose one blob is named by its content's hash."""
    blobs = [hashlib.sha256(content).digest()] if content else []
    return Node(name, "file", mode=mode, mtime=mtime, size=len(content), content=blobs)


def dir_node(name: bytes, tree: bytes, *, mtime: int = 0) -> Node:
    """A directory."""
    return Node(name, "dir", mode=0o755 | 1 << 31, mtime=mtime, subtree=tree)
