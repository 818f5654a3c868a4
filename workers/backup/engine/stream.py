"""A source that is the output of a program: read in a helper as a big file is, and one file of the snapshot.

Invariant: the file's node is given only when the program has ended with exit code 0 and has printed something. So
whatever cuts it short makes no snapshot; what was packed of it until then is kept for the next attempt.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from shared.repository.tree import MODE_DIR, Node, encode_node
from workers.backup.engine.assembly import Directory
from workers.backup.engine.big import BigFileReader
from workers.backup.engine.nodes import DIR_TAIL
from workers.backup.engine.reading import CHANGED, NEW, TORN, ReadNode
from workers.backup.engine.treecache import NO_REF
from workers.backup.spec import StreamSpec
from workers.programs.program import Program, ProgramFailed

TOP = "/stream"  # what the paths of streams begin with in a snapshot
_FILE_MODE, _DIR_MODE = 0o600, MODE_DIR | 0o700  # a dump is its owner's business


def read_stream(
    spec: StreamSpec,
    big: BigFileReader,
    *,
    began: int,
    is_first: bool,
    grew: Callable[[int], None],
    look: Callable[[], None],
) -> ReadNode:
    """Run the program to its end; the node of what it printed. `began`: the file's time, in nanoseconds.

    `look` is called now and then, and may raise to end it. Raises ProgramFailed.
    """
    with Program(spec.program, writes=True) as program:
        content, size = big.stream(lambda room: program.read_into(room, look), grew)
        program.finish(look)
    if not size:
        raise ProgramFailed(
            f"{spec.program.name} ended with code 0 and printed nothing{f': {said}' if (said := program.said) else ''}",
            hint="An empty file would restore nothing, so none is kept",
        )
    folder, name = os.path.split(os.fsencode(spec.path))
    node = _node(name, "file", _FILE_MODE, began)
    node.size, node.links, node.content = size, 1, content
    return folder, name, encode_node(node), TORN, b"".join(content), NEW if is_first else CHANGED, size


def directories(path: str, began: int) -> list[Directory]:
    """The folders above a stream's file, the top first; each waits for what lies in it, which is one thing."""
    parts = os.fsencode(path).strip(b"/").split(b"/")[:-1]
    made = [Directory(b"/", None, b"", NO_REF)]
    for name in parts:
        above = made[-1]
        node = _node(name, "dir", _DIR_MODE, began)
        node.subtree = bytes(32)
        above.subs.append((name, encode_node(node)[:-DIR_TAIL], TORN, b"", NO_REF))
        made.append(Directory(os.path.join(above.path, name), above, b"", NO_REF))
    return made


def _node(name: bytes, kind: str, mode: int, began: int) -> Node:
    return Node(name, kind, mode=mode, mtime=began, atime=began, ctime=began, uid=os.getuid(), gid=os.getgid())
