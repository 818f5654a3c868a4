"""Presets: small files that say how a kind of database is dumped, so that a source only has to name its options.

They are built in, or stand in `presets/` beside the configuration; those come first. A source with `preset:` is given
`command`, `filename` and `env` before it is checked like any other. In each text of a preset `{option}` is replaced;
an argument that names an option without a value is left out. A source that says `scratch: {}` gets the preset's scratch
server, in which what it says itself counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field, ValidationError

from shared.config.assembly import Assembly, Seen, look, seen_names
from shared.config.base import Model
from shared.config.document import parse
from shared.config.problems import ConfigInvalid, Path, Problem, found, nearest
from shared.config.values import Flag, Program, Text, mapping_of
from shared.errors import ConfigError

BUILT_IN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presets")
FOLDER = "presets"
_AT_MOST = 1 << 20  # characters


class Option(Model):
    """One thing that a preset wants to know."""

    meaning: Text
    required: Flag = False
    default: str = ""  # empty: arguments that name it are left out


class Server(Model):
    """How a scratch server for restore tests is made: see `models.Scratch`."""

    make: Program | None = None
    serve: Program | None = None
    ready: Program | None = None
    fill: Program
    check: Program | None = None
    user: Text | None = None


class Preset(Model):
    """One preset's file."""

    description: Text
    command: Program
    filename: Text
    options: Annotated[dict[str, Option], mapping_of("options by name")] = Field(default_factory=dict)
    env: Annotated[dict[str, str], mapping_of("variables")] = Field(default_factory=dict)
    restore: Text  # for people: the command that takes it back
    scratch: Server | None = None  # of a source that asks for one


def expand(assembly: Assembly, seen: Seen) -> None:
    """Give each source with a `preset` what that says. What is wrong is added to the assembly's problems."""
    sources = assembly.data.get("sources")
    if not isinstance(sources, dict):
        return
    loaded: _Loaded | None = None
    for name, source in sources.items():
        if not isinstance(source, dict) or "preset" not in source:
            continue
        if loaded is None:
            loaded = _Loaded(files(assembly.directory, seen), seen)
        for path, reason in _expand(source, loaded):
            assembly.problems.append(assembly.problem(("sources", name, *path), reason))
    if loaded is not None:
        assembly.problems += loaded.problems


def files(directory: str, seen: Seen) -> dict[str, str]:
    """The file of each preset by its name."""
    own = os.path.join(directory, FOLDER)
    found_files: dict[str, str] = {}
    for folder, names in ((BUILT_IN, sorted(os.listdir(BUILT_IN))), (own, seen_names(own, seen))):
        found_files |= {os.path.splitext(name)[0]: os.path.join(folder, name) for name in names if "." in name}
    return found_files


def load(file: str) -> Preset:
    """Read one. Raises ConfigInvalid, ConfigError."""
    try:
        with open(file, encoding="utf-8") as opened:
            document = parse(opened.read(_AT_MOST))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the preset {file} can't be read: {error}") from None
    if not document.problems:
        try:
            return Preset.model_validate(document.data)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                path: Path = detail["loc"]
                document.problems.append(Problem(path, document.line(path), f"in this preset: {detail['msg']}"))
    raise ConfigInvalid(file, document.problems)


class _Loaded:
    """The presets that are used, each read once."""

    def __init__(self, known: dict[str, str], seen: Seen) -> None:
        self.known = known
        self.problems: list[Problem] = []
        self._seen = seen
        self._read: dict[str, Preset | None] = {}

    def get(self, name: str) -> Preset | None:
        """The preset; None where its file is wrong, which is noted."""
        if name not in self._read:
            file = self.known[name]
            self._seen["preset", file] = look("preset", file)
            self._read[name] = None
            try:
                self._read[name] = load(file)
            except ConfigInvalid as error:
                self.problems += [replace(one, file=one.file or error.file) for one in error.problems]
        return self._read[name]


def _expand(source: dict[str, object], loaded: _Loaded) -> Iterator[tuple[Path, str]]:
    name = source["preset"]
    if not isinstance(name, str) or name not in loaded.known:
        near = nearest(name, loaded.known) if isinstance(name, str) else ""
        there = ", ".join(sorted(loaded.known))
        yield ("preset",), f"expected a preset, found {found(name)}{near}; there are: {there}"
        return
    if "command" in source or "paths" in source:
        yield ("preset",), "stands beside command or paths: a preset says what is read"
        return
    preset = loaded.get(name)
    if preset is None:
        return
    given = source.get("options", {})
    if not isinstance(given, dict):
        yield ("options",), f"expected a mapping of options, found {found(given)}"
        return
    values = {option: one.default for option, one in preset.options.items()}
    wrong = False
    for option, value in given.items():
        wrong = True
        if option not in preset.options:
            there = f"{nearest(option, preset.options)}; it has: {', '.join(preset.options) or 'none'}"
            yield ("options", option), f"preset {name} has no such option{there}"
        elif isinstance(value, bool) or not isinstance(value, str | int) or "\0" in str(value):
            yield ("options", option), f"expected a text, found {found(value)}"
        else:
            values[option] = str(value)
            wrong = False
    for option, one in preset.options.items():
        if one.required and not values[option]:
            wrong = True
            yield ("options",), f"preset {name} needs {option}: {one.meaning}"
    if wrong:
        return
    source["command"] = [text for part in preset.command if (text := _filled(part, values)) is not None]
    source.setdefault("filename", _filled(preset.filename, values) or name)
    own_server = source.get("scratch")
    if isinstance(own_server, dict) and preset.scratch is not None:
        source["scratch"] = {**_server(preset.scratch, values), **own_server}
    env = {key: text for key, part in preset.env.items() if (text := _filled(part, values)) is not None}
    own = source.get("env")
    if env and (own is None or isinstance(own, dict)):
        source["env"] = {**env, **(own or {})}


def _server(server: Server, values: Mapping[str, str]) -> dict[str, object]:
    shown: dict[str, object] = {}
    for step in ("make", "serve", "ready", "fill", "check"):
        program: tuple[str, ...] | None = getattr(server, step)
        if program is not None:
            shown[step] = [text for part in program if (text := _filled(part, values)) is not None]
    return {**shown, "user": server.user} if server.user else shown


def _filled(text: str, values: Mapping[str, str]) -> str | None:
    """The text with its options; None where it names one without a value."""
    for option, value in values.items():
        mark = f"{{{option}}}"
        if mark in text:
            if not value:
                return None
            text = text.replace(mark, value)
    return text
