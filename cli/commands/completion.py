"""`holdfast completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

from itertools import pairwise

import click

from cli.app import App, global_options, pass_app

PROGRAM = "holdfast"
VARIABLE = "_HOLDFAST_COMPLETE"


@click.command(
    epilog="""\b
Examples:
  source <(holdfast completion bash)
  holdfast completion zsh > ~/.zfunc/_holdfast
  holdfast completion fish > ~/.config/fish/completions/holdfast.fish""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@global_options
@pass_app
def command(app: App, shell: str) -> None:
    """Print the completion of commands and options for a shell.

    The shell then asks `holdfast` itself at each TAB, so it knows the commands of the release that is installed.
    """
    from click.shell_completion import get_completion_class

    from cli.main import holdfast

    kind = get_completion_class(shell)
    if kind is None:  # click has all three
        raise click.BadParameter(f"no completion for {shell}")
    app.result({"shell": shell, "script": (script := _script(kind, holdfast))}, script)


def _script(kind: type[click.shell_completion.ShellComplete], root: click.Command) -> str:
    """The script. Not `source()`, which for bash runs the bash that is found here to ask for its version."""
    made = kind(root, {}, PROGRAM, VARIABLE)
    return made.source_template % made.source_vars()


def answer(root: click.Command, instruction: str) -> int:
    """Answer a shell that asks at a TAB, "bash_complete" for one; the exit code."""
    from click.shell_completion import get_completion_class

    shell, _, asked = instruction.partition("_")
    kind = get_completion_class(shell)
    if kind is None or asked != "complete":
        return 1
    offered = _with_sources(kind)(root, {}, PROGRAM, VARIABLE).complete()
    if offered:
        click.echo(offered)
    return 0


def _with_sources(kind: type[click.shell_completion.ShellComplete]) -> type[click.shell_completion.ShellComplete]:
    """The same completion, which knows the configured sources too."""
    from click.shell_completion import CompletionItem

    class Completion(kind):  # type: ignore[valid-type,misc] # a class that is chosen at run time
        def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
            items: list[CompletionItem] = super().get_completions(args, incomplete)
            # Nothing that click knows: an argument of any text, which is a source where none stands yet.
            if items or not args or args[-1].startswith("-") or incomplete.startswith("-"):
                return items
            names = _sources(args)
            if set(names).intersection(args):
                return items
            return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return Completion


def _sources(args: list[str]) -> list[str]:
    """The sources of the configuration that the command line would use; none where it is wrong."""
    from shared.errors import HoldfastError

    app = App()
    for option, value in pairwise(args):
        if option in {"-c", "--config"}:
            app.config = value
    try:
        return list(app.fleet.sources)
    except HoldfastError:
        return []
