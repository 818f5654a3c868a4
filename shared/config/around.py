"""Programs that are run around backups and restores: hooks, what a restore goes into, a server for a restore test."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from shared.config.base import Model
from shared.config.programs import Variables
from shared.config.values import AbsolutePath, Duration, Flag, Program, Text, wrong


class Into(Model):
    """A program that restores over the queue may go into."""

    command: Program
    env: Variables = Field(default_factory=dict)
    timeout: Duration = 86400.0  # seconds


class Hooks(Model):
    """Programs run around a backup."""

    before: Program | None = None
    after: Program | None = None
    timeout: Duration = 300.0  # seconds, of each
    private_mounts: Flag = False  # what they mount is seen by this backup alone


class Scratch(Model):
    """A server of its own for each restore test of a stream: how it is made, filled and checked."""

    make: Program | None = None
    serve: Program | None = None
    ready: Program | None = None
    fill: Program  # gets the dump
    check: Program | None = None
    user: Text | None = None  # whose programs they are where the worker is root
    folder: AbsolutePath | None = None  # below which all of it is made; None: `cache_dir`
    env: Variables = Field(default_factory=dict)
    timeout: Duration = 3600.0  # seconds, of each program but `serve`

    @model_validator(mode="after")
    def _serves(self) -> Self:
        if self.ready is not None and self.serve is None:
            raise wrong("has ready and no serve that could be")
        return self
