"""From files to a checked `FleetFile`: validates, names regions, and words what is wrong."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from shared.config import checks, inventory, preset
from shared.config.assembly import Assembly, Seen, assemble, assemble_text
from shared.config.base import Named
from shared.config.models import FleetFile, Region
from shared.config.problems import ConfigInvalid, Path, Problem, found, nearest
from shared.config.values import EXPECTED, EXPECTED_SECRET


def load(path: str, seen: Seen | None = None, kept: inventory.Kept | None = None) -> FleetFile:
    """Read and check a configuration: a file with its conf.d, or a directory.

    `seen` is filled with what was looked at, even where this raises. `kept`: in place of what is kept of the inventory.
    Raises ConfigInvalid, which lists all that is
    wrong; ConfigError where a file can't be read.
    """
    seen = {} if seen is None else seen
    return _checked(assemble(path, seen), seen, kept)


def load_changed(path: str, change: Callable[[Assembly], None]) -> FleetFile:
    """Check a configuration as it would be with a change to what its files say. Raises ConfigInvalid, ConfigError."""
    seen: Seen = {}
    assembly = assemble(path, seen)
    change(assembly)
    return _checked(assembly, seen)


def joined(path: str) -> Assembly:
    """What the files, the inventory and the presets say together, not checked. Raises ConfigError."""
    seen: Seen = {}
    assembly = assemble(path, seen)
    inventory.join(assembly, seen)
    preset.expand(assembly, seen)
    return assembly


def load_text(text: str, path: str) -> FleetFile:
    """Check one file's text; `path` names it in errors, and its directory is where relative paths start."""
    return _checked(assemble_text(text, path), {})


def _checked(assembly: Assembly, seen: Seen, kept: inventory.Kept | None = None) -> FleetFile:
    gone = inventory.join(assembly, seen, kept)
    preset.expand(assembly, seen)
    problems = list(assembly.problems)
    if not assembly.owners:
        raise ConfigInvalid(assembly.name, problems or [Problem((), 0, f"expected a mapping, found {found(None)}")])
    model: FleetFile | None = None
    try:
        model = FleetFile.model_validate(assembly.data, context={"directory": assembly.directory})
    except ValidationError as error:
        problems += _problems(error, assembly)
    if model is not None:
        if not model.regions:
            model.regions[checks.DEFAULT_REGION] = Region()
        for group in (model.regions, model.sites, model.policies, model.sources):
            _give_ids(group)
        for name, since in gone.items():
            model.sources[name].leave(since)
        problems += [assembly.problem(place, reason) for place, reason in checks.check(model)]
    if problems or model is None:
        raise ConfigInvalid(assembly.name, problems)
    return model


def _give_ids(parts: Mapping[str, Named]) -> None:
    for name, part in parts.items():
        part.give_id(name)


def _problems(error: ValidationError, assembly: Assembly) -> Iterable[Problem]:
    for detail in error.errors(include_url=False):
        path: Path = detail["loc"]
        value = detail["input"]
        if path and path[-1] == "[key]":
            path = path[:-1]
            reason = f"{detail['msg']}, found {found(path[-1])}"
        elif detail["type"] == "extra_forbidden":
            known = _fields(path[:-1])
            reason = f"unknown key{nearest(str(path[-1]), known)}"
            if not nearest(str(path[-1]), known):
                reason += f"; known are: {', '.join(known)}"
        elif detail["type"] == "missing":
            reason = "is missing"
        elif detail["type"] in {"model_type", "model_attributes_type"}:
            reason = f"expected a mapping, found {found(value)}"
        elif detail["type"] == EXPECTED:
            reason = f"{detail['msg']}, found {found(value)}{_near_choice(detail, value)}"
        elif detail["type"] == EXPECTED_SECRET:
            reason = detail["msg"]
        else:
            reason = detail["msg"]
        yield assembly.problem(path, reason)


def _near_choice(detail: Any, value: object) -> str:
    words = detail.get("ctx", {}).get("words", "")
    options = words.replace(" or ", ", ").split(", ")
    return nearest(value, options) if isinstance(value, str) and all(" " not in option for option in options) else ""


def _fields(path: Path) -> list[str]:
    """The keys that may stand at `path`."""
    kind: Any = FleetFile
    for part in path:
        kind = _step(kind, part)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _step(kind: Any, part: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        info = kind.model_fields.get(str(part))
        return _plain(info.annotation) if info else None
    if get_origin(kind) in {dict, tuple}:
        return _plain(get_args(kind)[-1 if get_origin(kind) is dict else 0])
    return None


def _plain(kind: Any) -> Any:
    """A type without `Annotated` and `| None`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in {typing.Union, types.UnionType}:
        models = [one for one in get_args(kind) if isinstance(one, type) and issubclass(one, BaseModel)]
        return models[0] if models else None
    return kind
