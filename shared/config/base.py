"""What all configuration models have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PrivateAttr


class Model(BaseModel):
    """A part of the configuration: unknown keys are errors, nothing changes after loading.

    Built when the file is first validated, as one schema: half the start-up of a command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Named(Model):
    """A part that stands under a name; the name is the mapping's key and no field of its own."""

    _id: str = PrivateAttr(default="")

    @property
    def id(self) -> str:
        """The name it stands under."""
        private = self.__pydantic_private__  # three times as fast as `self._id`, and asked for by the ten thousand
        return str(private["_id"]) if private else ""

    def give_id(self, name: str) -> None:
        """Told once, by the loader."""
        self._id = name
