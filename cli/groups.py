"""A command with commands of its own, one of which may be left out: `holdfast runs --open` means `runs list --open`."""

from __future__ import annotations

from difflib import get_close_matches

import click


class GroupWithDefault(click.Group):
    """A group whose `default` command runs where none is named."""

    default = "list"
    # What says that a person asks about the group itself, or means an option that stands before the command's name.
    _own = frozenset({"-h", "--help"})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where no command is named."""
        named = any(word in self.commands for word in args)
        options_only = not args or args[0].startswith("-")
        if options_only and not named and not self._own & set(args):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command where there is none of that name."""
        if args and args[0] not in self.commands:
            near = get_close_matches(args[0], self.commands, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            ctx.fail(f'"{ctx.info_name}" has no command "{args[0]}".{hint} There are: {", ".join(self.commands)}.')
        return super().resolve_command(ctx, args)
