"""What a configuration amounts to: defaults filled in, references followed, and no secret in any of it.

Secrets stand in a file by reference, and a reference is what is shown: a path, a variable's name, a program. Where a
person may have typed one all the same (a broker's URL, a program's arguments), it is left out.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cli.runs import is_here
from shared.config.inventory import place_in, trouble
from shared.errors import ConfigError
from shared.observability.masks import mask_text
from shared.retention import span

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.inventory import Inventory
    from shared.config.limits import SiteLimits
    from shared.config.models import Keep, Policy, Region, Site, Source
    from shared.config.secrets import Credentials, Secret

_HIDDEN = "***"
_REASONS = 3  # policies of which it is said why a source does not follow them


def effective(fleet: Fleet) -> dict[str, Any]:
    """The whole configuration, in the words of the file."""
    return {
        "files": list(fleet.files),
        **({"agent": fleet.agent} if fleet.agent else {}),
        **{key: _reference(reference) for key, reference in _secrets(fleet)},
        "state_dir": fleet.state_dir,
        "cache_dir": fleet.cache_dir,
        "hosts": list(fleet.hosts),
        "restore_to": None if fleet.restore_to is None else list(fleet.restore_to),
        "restore_into": {
            name: {"command": _program(into.command), "env": _env(into.env), "timeout": span(into.timeout)}
            for name, into in fleet.restore_into.items()
        },
        "defaults": {
            "compression": fleet.defaults.compression,
            "pack_size": size(fleet.defaults.pack_size),
            "read_concurrency": fleet.defaults.read_concurrency or "one per core",
        },
        "scheduling": {
            "runs": fleet.scheduling.runs or "any number",
            "runs_per_site": fleet.scheduling.runs_per_site or "any number",
            "runs_per_host": fleet.scheduling.runs_per_host,
        },
        **({"inventory": _inventory(fleet.inventory)} if fleet.inventory else {}),
        "prune": {
            "every": span(fleet.prune.every),
            "grace": span(fleet.prune.grace),
            "max_unused": fleet.prune.max_unused,
            "max_repack": size(fleet.prune.max_repack) if fleet.prune.max_repack else "no limit",
        },
        "exporter": {"listen": fleet.metrics_address or "off", "ask_sites": fleet.ask_sites},
        "health": {
            "probe": fleet.health.probe,
            "place": fleet.health.place or "the host name",
            **{name: span(getattr(fleet.health, name)) for name in ("interval", "timeout", "slow_after")},
            "min_free": size(fleet.health.min_free),
            "clock_tolerance": span(fleet.health.clock_tolerance),
        },
        "limits": {
            "runs": fleet.limits.runs,
            "cores": fleet.limits.cores or "all",
            "nice": fleet.limits.nice,
            "io": fleet.limits.io,
            **_bandwidth(fleet.limits),
        },
        "failover": {
            "mode": fleet.failover.mode,
            "interval": span(fleet.failover.interval),
            "down_after": span(fleet.failover.down_after),
            "observers": fleet.failover.observers,
            "max_behind": "the policy's rpo" if fleet.failover.max_behind is None else span(fleet.failover.max_behind),
            "cool_down": span(fleet.failover.cool_down),
            "grace": span(fleet.failover.grace),
            "moves_per_hour": fleet.failover.moves_per_hour,
            "failback": fleet.failover.failback,
            "failback_hours": str(fleet.failover.failback_hours or "any"),
        },
        "promote_without_majority": fleet.promote_without_majority,
        "regions": {name: _region(region) for name, region in fleet.regions.items()},
        "sites": {name: _site(fleet, site) for name, site in fleet.sites.items()},
        "policies": {name: _policy(fleet, policy) for name, policy in fleet.policies.items()},
        "sources": {name: effective_source(fleet, name) for name in fleet.sources},
    }


def effective_source(fleet: Fleet, name: str) -> dict[str, Any]:
    """One source: which policy it follows and why, where it goes, who reads it, and what."""
    source = fleet.source(name)
    policy = fleet.policy_for(name)
    shown: dict[str, Any] = {"labels": dict(source.labels)}
    if source.formerly:
        shown["formerly"] = source.formerly
    if source.owner:
        shown["owner"] = source.owner
    if rests := source.rests(time.time()):
        shown["rests"] = rests
    shown |= {"policy": policy.id if policy else None, "because": because(fleet, source)}
    if policy is not None:
        shown |= {key: str(when) for key in ("full", "incremental") if (when := getattr(policy, key)) is not None}
        shown |= {key: span(value) for key in ("rpo", "rto") if (value := getattr(policy, key)) is not None}
    try:
        shown["primary"] = fleet.configured_primary(name)
    except ConfigError:
        shown["primary"] = None
    shown["repository"] = fleet.repository_of(name)
    shown["read_by"] = _reader(source)
    shown |= _content(source)
    return shown


def because(fleet: Fleet, source: Source) -> str:
    """Why a source follows the policy that it follows, or none."""
    own = fleet.policy_for(source.id)
    passed = [one for one in fleet.policies.values() if own is None or one.select.rank > own.select.rank]
    passed.sort(key=lambda one: -one.select.rank)
    reasons = [f"{one.id} wants {_lacking(one, source)}" for one in passed[:_REASONS]]
    if len(passed) > _REASONS:
        reasons.append(f"{len(passed) - _REASONS} more do not select it")
    if own is None and not passed:
        return "there are no policies: it is backed up only by hand"
    if own is None:
        return f"no policy selects it, so it is backed up only by hand ({'; '.join(reasons)})"
    select = own.select
    first = f"its labels are those of select {select}" if select.terms else f"select {select} is for all sources"
    others = [one.id for one in fleet.selecting(source.id)[1:]]
    if others:
        more = f" and {len(others) - _REASONS} more" if len(others) > _REASONS else ""
        reasons.insert(0, f"less specific: {', '.join(others[:_REASONS])}{more}")
    return "; ".join([first, *reasons])


def warnings(fleet: Fleet) -> Iterator[str]:
    """What is valid and yet may not be what was meant, or can't be on this machine."""
    if fleet.inventory is not None:
        if said := trouble(place_in(fleet.state_dir).read_state(), fleet.inventory, time.time()):
            yield f"inventory: {said}"
        for name, source in fleet.sources.items():
            if source.left:
                yield f"sources.{name}: {source.rests(time.time())}; where that is meant: holdfast sources drop {name}"
    for name, source in fleet.sources.items():
        if fleet.policy_for(name) is None:
            yield f"sources.{name}: {because(fleet, source)}"
            try:
                fleet.configured_primary(name)
            except ConfigError as error:
                yield f"sources.{name}: {error.args[0]}"
        if not source.has_body:
            yield f"sources.{name}: has no paths; nothing can be read until it has"
    yield from _idle_policies(fleet)
    references: list[tuple[str, Secret | Credentials]] = [
        *_secrets(fleet),
        *((f"sites.{name}.credentials", site.credentials) for name, site in fleet.sites.items() if site.credentials),
        *((f"sites.{name}.admin", site.admin) for name, site in fleet.sites.items() if site.admin),
    ]
    for key, variables in _variables(fleet):
        references += [(f"{key}.{name}", one) for name, one in variables.items() if not isinstance(one, str)]
    for key, reference in references:
        if reference.file is not None and (reason := _wrong_file(reference.file)):
            yield f"{key}: {reason}"


def _variables(fleet: Fleet) -> Iterator[tuple[str, Mapping[str, str | Secret]]]:
    """The environments of programs that run on this machine, by their keys."""
    for name, source in fleet.sources.items():
        if not source.host or is_here(source.host):
            yield f"sources.{name}.env", source.env
        if source.scratch is not None:
            yield f"sources.{name}.scratch.env", source.scratch.env
    if fleet.inventory is not None:
        yield "inventory.env", fleet.inventory.env
    for name, into in fleet.restore_into.items():
        yield f"restore_into.{name}.env", into.env


def _secrets(fleet: Fleet) -> list[tuple[str, Secret]]:
    """Which secrets there are: an agent's file has none of the fleet's."""
    if fleet.machine_passwords is not None:
        return [("machine_passwords", fleet.machine_passwords)]
    return [("secret", fleet.secret), ("recovery_password", fleet.recovery_password)]


def size(count: int) -> str:
    """Bytes as the file would say them: `16 MiB`, `1000`."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power} {unit}"
    return str(count)


def rate(count: int) -> str:
    """Bytes a second as the file would say them: `20 MB`, `512 KiB`."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "KB")):
        if count % 1000**power == 0:
            return f"{count // 1000**power} {unit}"
    return size(count)


def _idle_policies(fleet: Fleet) -> Iterator[str]:
    """Policies that do nothing, where there is anything to do."""
    takers: dict[str, set[str]] = {name: set() for name in fleet.policies}
    for name in fleet.sources:
        selecting = fleet.selecting(name)
        for policy in selecting:
            takers[policy.id].add(selecting[0].id)
    for name, taken in takers.items():
        if not taken and fleet.sources:
            yield f"policies.{name}: no source follows it: {fleet.policies[name].select} selects none"
        elif taken and name not in taken:
            few = ", ".join(sorted(taken)[:_REASONS]) + (" and others" if len(taken) > _REASONS else "")
            yield f"policies.{name}: no source follows it: what it selects follows more specific ones ({few})"


def _lacking(policy: Policy, source: Source) -> str:
    """The first term of a policy that a source does not fulfil, and what it has in its place."""
    term = next(one for one in policy.select.terms if not one.holds(source.labels))
    got = source.labels.get(term.key)
    return f"{term}, and this source has " + (f"{term.key}={got}" if got is not None else f"no {term.key}")


def _site(fleet: Fleet, site: Site) -> dict[str, Any]:
    shown: dict[str, Any] = {"url": site.url, "kind": "s3" if site.is_s3 else "directory"}
    shown["region"] = site.region or next(iter(fleet.regions))
    if site.witness:
        shown["witness"] = True
    if site.credentials is not None:
        shown["credentials"] = _reference(site.credentials)
    if site.admin is not None:
        shown["admin"] = _reference(site.admin)
    if site.ca_file:
        shown["ca_file"] = site.ca_file
    shown["connections"] = site.connections
    return {**shown, "limits": limits} if (limits := _bandwidth(site.limits)) else shown


def _region(region: Region) -> dict[str, Any]:
    shown: dict[str, Any] = {"broker": _broker(region.broker)}
    return shown if region.admin is None else {**shown, "admin": _broker(region.admin)}


def _bandwidth(limits: SiteLimits) -> dict[str, Any]:
    """Either direction that has a limit, in the words of the file."""
    shown: dict[str, Any] = {}
    for key, line in (("upload", limits.upload), ("download", limits.download)):
        if line is not None:
            shown[key] = {"rate": rate(line.rate) if line.rate else "unlimited"}
            if line.windows:
                windows = [{"hours": str(one.hours), "rate": rate(one.rate)} for one in line.windows]
                shown[key] |= {"windows": windows, "timezone": line.timezone or "this machine's"}
    return shown


def _policy(fleet: Fleet, policy: Policy) -> dict[str, Any]:
    shown: dict[str, Any] = {"select": str(policy.select)}
    keeping = [site.id for site in fleet.sites.values() if not site.witness]
    shown["primary"] = policy.primary or keeping[0]
    shown |= {key: str(when) for key in ("full", "incremental") if (when := getattr(policy, key)) is not None}
    shown["timezone"] = policy.timezone
    shown |= {key: span(value) for key in ("rpo", "rto") if (value := getattr(policy, key)) is not None}
    if policy.jitter is not None:
        shown["jitter"] = span(policy.jitter)
    if policy.blackout:
        shown["blackout"] = [str(one) for one in policy.blackout]
    upkeep = ("verify", "verify_data", "restore_test")
    shown |= {key: span(value) for key in upkeep if (value := getattr(policy, key)) is not None}
    if policy.heal:
        shown["heal"] = True
    shown["attempts"] = policy.attempts
    if policy.copies is not None:
        shown["copies"] = policy.copies.model_dump(mode="json", exclude_none=True)
    if policy.retention is not None:
        shown["retention"] = _kept(policy.retention)
        if policy.retention.sites:
            shown["retention"]["sites"] = {site: _kept(keep) for site, keep in policy.retention.sites.items()}
    return {**shown, "sources": [source.id for source in fleet.sources_of(policy.id)]}


def _kept(keep: Keep) -> dict[str, Any]:
    given = keep.model_dump(exclude_none=True, exclude={"sites"})
    return {key: span(value) if key == "keep_within" else value for key, value in given.items()}


def _inventory(inventory: Inventory) -> dict[str, Any]:
    return {
        "command": _program(inventory.command),
        "env": _env(inventory.env),
        "every": span(inventory.every),
        "timeout": span(inventory.timeout),
        "max_loss": inventory.max_loss,
    }


def _env(variables: Mapping[str, str | Secret]) -> dict[str, Any]:
    return {name: _HIDDEN if isinstance(value, str) else _reference(value) for name, value in variables.items()}


def _content(source: Source) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if source.paths is not None:
        shown["paths"] = list(source.paths)
    if source.preset is not None:
        shown |= {"preset": source.preset, "options": dict(source.options)}
    if source.command is not None:
        # What a preset makes of its options is what a person wants to see; what was typed may hold a password.
        whole = [mask_text(part) for part in source.command] if source.preset else _program(source.command)
        shown |= {"command": whole, "stream": source.stream_path, "timeout": span(source.timeout)}
    if source.env:
        shown["env"] = _env(source.env)
    if source.scratch is not None:
        steps = {step: getattr(source.scratch, step) for step in ("make", "serve", "ready", "fill", "check")}
        shown["scratch"] = {step: _program(program) for step, program in steps.items() if program}
        shown["scratch"] |= {key: value for key in ("user", "folder") if (value := getattr(source.scratch, key))}
        shown["scratch"] |= {"env": _env(source.scratch.env), "timeout": span(source.scratch.timeout)}
    if source.hooks is not None:
        hooks = {"before": source.hooks.before, "after": source.hooks.after}
        shown["hooks"] = {name: _program(program) for name, program in hooks.items() if program}
        shown["hooks"] |= {"timeout": span(source.hooks.timeout), "private_mounts": source.hooks.private_mounts}
    if source.command is not None:
        return shown
    for key in ("excludes", "exclude_files", "exclude_if_present"):
        if value := getattr(source, key):
            shown[key] = list(value)
    shown |= {key: getattr(source, key) for key in ("exclude_caches", "one_file_system")}
    if source.exclude_larger_than is not None:
        shown["exclude_larger_than"] = size(source.exclude_larger_than)
    if source.shards is not None:
        shown["shards"] = source.shards
    return shown


def _reader(source: Source) -> str:
    if source.host:
        return f"the worker of host {source.host}"
    return f"any worker of pool {source.pool}" if source.pool else "any worker"


def _reference(reference: Secret | Credentials) -> dict[str, str]:
    if reference.file is not None:
        return {"file": reference.file}
    if reference.env is not None:
        return {"env": reference.env}
    return {"command": _program(reference.command or ())}


def _program(command: tuple[str, ...]) -> str:
    more = len(command) - 1
    return command[0] + (f" (and {more} argument{'s' if more > 1 else ''}, not shown)" if more > 0 else "")


def _broker(broker: str | Secret | None) -> str | dict[str, str]:
    if broker is None:
        return "embedded"
    if not isinstance(broker, str):
        return _reference(broker)
    place, question, _ = broker.partition("?")
    scheme, _, rest = place.partition("://")
    # After the last @: a password may hold one, and a slash, too.
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{_HIDDEN + at if user or at else ''}{host}{question + _HIDDEN if question else ''}"


def _wrong_file(path: str) -> str:
    """What is wrong with a secret's file on this machine; empty where it is fine. Its content is not looked at."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{path}: {error.strerror} (on this machine)"
    if not os.access(path, os.R_OK):
        return f"{path} can't be read by this user"
    if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        mode = stat.S_IMODE(status.st_mode)
        return f"{path} is open to others (mode {mode:04o}); `chmod 600` it"
    return ""
