"""One configuration out of several files: the named one, what it includes, and `conf.d/` beside it.

Sections (sites, policies, sources and so on) are joined by name, in the order in which the files are read: the named
file, then what it includes, then the `*.yaml` of conf.d by name. That order means nothing: a name that two files define
is an error that names both places.

What was looked at stands in `seen`, with what it was then, so that a watcher can tell whether anything has changed.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from shared.config.document import Document, parse
from shared.config.problems import ConfigInvalid, Path, Problem, found
from shared.errors import ConfigError

FRAGMENTS = "conf.d"
_SECTIONS = frozenset({"defaults", "limits", "scheduling", "regions", "sites", "policies", "sources"})
_INCLUDE = "include"
_FILE_AT_MOST = 64 << 20  # bytes
_HINT = "`holdfast init` writes one; --config or $HOLDFAST_CONFIG names another"

# ("file", path), ("preset", path) and ("kept", path) -> its stamp; ("folder", path) -> names in it; ("glob", pattern)
# -> what it matched; None: not there.
Seen: TypeAlias = dict[tuple[str, str], object]


def look(kind: str, path: str) -> object:
    """What a place is now; equal to what `seen` has of it unless it has changed since."""
    try:
        if kind in {"file", "preset", "kept"}:
            return _stamp(os.stat(path))
        return tuple(_names(path)) if kind == "folder" else tuple(sorted(glob.glob(path)))
    except OSError:
        return () if kind == "folder" and not os.path.isdir(path) else None


@dataclass(slots=True)
class Assembly:
    """The joined data, its problems so far, and of each key the file and line it came from."""

    name: str  # the file or directory that was named; errors of no single file stand under it
    directory: str  # relative paths start here
    data: dict[str, object] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    owners: dict[Path, tuple[str, Document]] = field(default_factory=dict)

    def place(self, path: Path) -> tuple[str, int]:
        """File and line of a key, or of the nearest above it that stands in a file."""
        for known in (path[:2], path[:1], ()):
            if known in self.owners:
                file, document = self.owners[known]
                return file, document.line(path)
        return self.name, 0

    def problem(self, path: Path, reason: str) -> Problem:
        """A problem of a key, with the place it came from."""
        file, line = self.place(path)
        return Problem(path, line, reason, file)

    def add(self, file: str, document: Document) -> None:
        """Join what a file says to the rest."""
        self.problems += [Problem(one.path, one.line, one.reason, file) for one in document.problems]
        if document.data is None:
            return  # empty, or comments alone: an error only where all files are
        if not isinstance(document.data, dict):
            if not document.problems:
                self.problems.append(Problem((), 0, f"expected a mapping, found {found(document.data)}", file))
            return
        self.owners.setdefault((), (file, document))
        for key, value in document.data.items():
            old = self.data.get(key)
            if key not in self.data or (old is None and key in _SECTIONS):
                self.data[key] = dict(value) if isinstance(value, dict) else value
                self.owners[(key,)] = (file, document)
            elif key not in _SECTIONS or (
                value is not None and not (isinstance(value, dict) and isinstance(old, dict))
            ):
                self._twice((key,), file, document)
                continue
            elif isinstance(value, dict) and isinstance(old, dict):
                for name, part in value.items():
                    if name in old:
                        self._twice((key, name), file, document)
                    else:
                        old[name] = part
            if isinstance(value, dict) and key in _SECTIONS:
                for name in value:
                    self.owners.setdefault((key, name), (file, document))

    def _twice(self, path: Path, file: str, document: Document) -> None:
        first, line = self.place(path)
        self.problems.append(Problem(path, document.line(path), f"is defined twice, first at {first}:{line}", file))


def assemble_text(text: str, path: str) -> Assembly:
    """One text alone, as if it were the file `path`; nothing is read."""
    assembly = Assembly(path, os.path.dirname(os.path.abspath(path)))
    assembly.add(path, parse(text))
    return assembly


def assemble(path: str, seen: Seen) -> Assembly:
    """Read all files of a configuration. `path`: a file, or a directory of them. Fills `seen` even where it raises.

    Raises ConfigError where a file can't be read.
    """
    is_directory = os.path.isdir(path)
    home = path if is_directory else os.path.dirname(path)
    assembly = Assembly(path, os.path.abspath(home))
    reader = _Reader(assembly, seen)
    if not is_directory:
        reader.read(path, ())
    folders = [path] if is_directory else []
    folders.append(os.path.join(home, FRAGMENTS))
    for folder in folders:
        for name in seen_names(folder, seen):
            reader.read(os.path.join(folder, name), ())
    if not reader.count:
        raise ConfigError(f"the directory {path} holds no *.yaml", hint=_HINT)
    return assembly


def seen_names(folder: str, seen: Seen) -> list[str]:
    """The files of a folder that count, by name; noted in `seen`."""
    try:
        names = _names(folder)
    except (FileNotFoundError, NotADirectoryError):
        seen["folder", folder] = ()
        return []
    except OSError as error:
        seen["folder", folder] = None
        raise ConfigError(f"can't read the configuration's directory {folder}: {error.strerror}") from None
    seen["folder", folder] = tuple(names)
    return names


class _Reader:
    """Reads files and what they include, each file once."""

    def __init__(self, assembly: Assembly, seen: Seen) -> None:
        self.count = 0
        self._assembly = assembly
        self._seen = seen
        self._read: set[str] = set()

    def read(self, path: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(path)
        if real in self._read:
            return
        self._read.add(real)
        self.count += 1
        document = parse(self._text(path))
        included: object = None
        if isinstance(document.data, dict):
            included = document.data.pop(_INCLUDE, None)
        self._assembly.add(path, document)
        if included is not None:
            for inner in self._included(path, document, included, (*above, path)):
                self.read(inner, (*above, path))

    def _text(self, path: str) -> str:
        self._seen["file", path] = None
        try:
            with open(path, "rb") as file:
                self._seen["file", path] = _stamp(os.fstat(file.fileno()))  # of what is read, not of what comes after
                raw = file.read(_FILE_AT_MOST + 1)
        except OSError as error:
            raise ConfigError(f"can't read the configuration {path}: {error.strerror}", hint=_HINT) from None
        if len(raw) > _FILE_AT_MOST:
            reason = f"the configuration {path} is larger than {_FILE_AT_MOST >> 20} MiB: is it the right file?"
            raise ConfigError(reason)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise ConfigInvalid(path, [Problem((), line, "this is not UTF-8")]) from None

    def _included(self, path: str, document: Document, value: object, chain: tuple[str, ...]) -> Iterator[str]:
        entries = value if isinstance(value, list) else [value]
        for number, entry in enumerate(entries):
            place: Path = (_INCLUDE, number) if isinstance(value, list) else (_INCLUDE,)

            def wrong(reason: str, place: Path = place) -> None:
                self._assembly.problems.append(Problem(place, document.line(place), reason, path))

            if not isinstance(entry, str) or not entry:
                wrong(f"expected the path of a file, found {found(entry)}")
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(path), os.path.expanduser(entry)))
            if glob.has_magic(target):
                matched = sorted(glob.glob(target))
                self._seen["glob", target] = tuple(matched)
            elif os.path.isdir(target):
                matched = [os.path.join(target, name) for name in seen_names(target, self._seen)]
            else:
                matched = [target]
            for inner in matched:
                real = os.path.realpath(inner)
                if real in {os.path.realpath(outer) for outer in chain}:
                    wrong(f"loops: {' -> '.join([*chain, inner])}")
                elif not os.path.isfile(inner):
                    self._seen["file", inner] = look("file", inner)
                    wrong(f"expected a file, found none at {inner}")
                else:
                    yield inner


def _names(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith((".yaml", ".yml")) and not name.startswith("."))


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
