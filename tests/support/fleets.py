"""A fleet of one source and one directory site, as a file, for tests that start real processes."""

from __future__ import annotations

import json
import os

from shared.config.fleet import Fleet


class SmallFleet:
    """`fleet.yaml` in a directory of its own. The source's engine is told what to do by `behave`."""

    def __init__(self, directory: str, *, broker: str = "", policy: str = "full: 1d", metrics: str = "off") -> None:
        self.directory = directory
        self.source_dir = os.path.join(directory, "source")
        self.state_dir = os.path.join(directory, "state")
        for folder in (self.source_dir, os.path.join(directory, "site"), self.state_dir):
            os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(directory, "fleet.yaml")
        for name, secret in (("secret", "0123456789abcdef" * 4), ("recovery", "a recovery password")):
            with open(os.path.join(directory, name), "w", opener=_private) as file:
                file.write(secret)
        with open(self.path, "w") as file:
            file.write(f"exporter: {{listen: '{metrics}'}}\n")
            file.write("secret: {file: secret}\nrecovery_password: {file: recovery}\n")
            file.write("state_dir: state\ncache_dir: cache\nsites: {a: {url: site}}\nhealth: {probe: false}\n")
            if broker:
                file.write(f'regions: {{local: {{broker: "{broker}"}}}}\n')
            file.write(f"policies: {{all: {{{policy}}}}}\nsources: {{web1: {{paths: [{self.source_dir}]}}}}\n")
        self.behave("done")

    @property
    def fleet(self) -> Fleet:
        """The file, loaded."""
        return Fleet.load(self.path)

    def add_source(self, name: str, *, host: str) -> None:
        """A further source, of a host."""
        with open(self.path) as file:
            text = file.read().rstrip()
        with open(self.path, "w") as file:
            file.write(f"{text[:-1]}, {name}: {{host: {host}, paths: [{self.source_dir}]}}}}\n")

    def change(self, old: str, new: str) -> None:
        """Change the file at once, as an editor does: what reads it finds one or the other."""
        with open(self.path) as file:
            text = file.read()
        assert old in text
        with open(f"{self.path}.new", "w") as file:
            file.write(text.replace(old, new, 1))
        os.replace(f"{self.path}.new", self.path)

    def behave(self, do: str, **more: object) -> None:
        """Tell the fake engine what to do from now on."""
        with open(os.path.join(self.source_dir, "engine.json"), "w") as file:
            json.dump({"do": do, **more}, file)

    @property
    def starts(self) -> list[dict[str, object]]:
        """What each engine that was started noted: pid, run, journal, slot."""
        try:
            with open(os.path.join(self.source_dir, "starts")) as file:
                return [json.loads(line) for line in file]
        except FileNotFoundError:
            return []


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def alive(pid: object) -> bool:
    """Whether a process runs, zombies aside."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
