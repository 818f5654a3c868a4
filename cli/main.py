"""The `holdfast` command: finds the module of a command, runs it, and turns every error into one clear line."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from cli.app import RunFailed, global_options
from cli.terminal import shown, shown_json
from shared.errors import EXIT_OK, HoldfastError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141  # as a shell reports a program that SIGPIPE ended
DEBUG_VARIABLE = "HOLDFAST_DEBUG"
COMPLETE_VARIABLE = "_HOLDFAST_COMPLETE"  # set by the script of `holdfast completion` when a shell asks at a TAB

# A command's module is imported when it runs; its line of help stands here so that `--help` imports none of them.
COMMANDS = {
    "init": "Write a first configuration and strong secrets.",
    "up": "Run everything on this machine: scheduler, worker and Redis.",
    "down": "Stop what `holdfast up` runs here.",
    "backup": "Back up a source now.",
    "restore": "Bring files back.",
    "snapshots": "List the snapshots of a source.",
    "ls": "List what a snapshot holds.",
    "find": "Find files in all snapshots of a source.",
    "history": "Show one file through all snapshots.",
    "diff": "Show what differs between two snapshots.",
    "dump": "Write a file, or a directory as tar, to stdout.",
    "verify": "Check that what is stored can be restored.",
    "restore-test": "Restore a sample to a scratch folder, compare and time it.",
    "replicate": "Bring snapshots to another site.",
    "retention": "Show which snapshots stay, which go, and why.",
    "hold": "Hold snapshots, so that nothing forgets them.",
    "forget": "Forget snapshots that no rule keeps.",
    "prune": "Give back the space of what no snapshot needs.",
    "runs": "List, show, follow, cancel and retry runs.",
    "sites": "Show the sites, and what would be lost; let them join and leave.",
    "failover": "Let a site take the place of one that is gone.",
    "switchover": "Let a site take another one's place, as planned.",
    "failback": "Let a site that came back be primary again.",
    "rebuild": "Fill an empty Redis from the sites.",
    "schedule": "Show what will run, when and why.",
    "status": "Show how the fleet stands, worst first.",
    "worker": "Start a worker, list those that are there, or let one leave.",
    "agent": "Enroll a server, let it join, run its agent, list or revoke agents.",
    "scheduler": "Run the scheduler alone, as a service of its own.",
    "failover-worker": "Watch the sites, and act when a primary is gone.",
    "exporter": "Serve the fleet's metrics to Prometheus.",
    "config": "Check the configuration, or show what it amounts to.",
    "keys": "List, add, remove or change the passwords that open a repository.",
    "kit": "Make, show, check or open the recovery kit.",
    "unlock": "Remove stale locks from a repository.",
    "restic": "Run stock restic on a source's repository.",
    "sources": "List the configured sources, or ask the inventory for them.",
    "completion": "Print the completion of commands and options for a shell.",
    "version": "Show which Holdfast this is.",
}


class LazyGroup(click.Group):
    """A group whose commands are modules of cli.commands, each with a `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of a first use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"cli.commands.{cmd_name.replace('-', '_')}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"the command of {cmd_name} is none")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command where there is none of that name."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else f" There are: {', '.join(COMMANDS)}."
            ctx.fail(f'There is no command "{args[0]}".{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """The list of commands in the help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
First steps:
  holdfast init --source /srv/data
  holdfast backup data --direct
  holdfast snapshots data
  holdfast restore data --direct

\b
Exit codes: 0 done; 3 done, but something was left out;
2 wrong command line; others are errors, see docs/exit-codes.md.""",
)
@global_options
def holdfast() -> None:
    """Backup and disaster recovery in the restic format."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process by default); the exit code."""
    asked = os.environ.get(COMPLETE_VARIABLE)
    if asked and arguments is None:
        from cli.commands.completion import answer

        return answer(holdfast, asked)
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    watched = _is_watched()
    # A request to end, and a terminal that goes away, arrive as Ctrl-C does: the engine stops cleanly.
    with contextlib.suppress(ValueError):  # not the main thread, as in a test
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        # Not `holdfast.main`, which would answer an interruption and a closed pipe itself.
        with holdfast.make_context("holdfast", given) as context:
            code = holdfast.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_USAGE
    except click.ClickException as error:
        return _report(as_json, error.format_message(), _usage_hint(error), error.exit_code, error)
    except (KeyboardInterrupt, click.Abort) as error:
        if sys.stderr.isatty():
            click.echo(err=True)  # the terminal shows ^C in this line
        return _report(as_json, "interrupted", "", EXIT_INTERRUPTED, error)
    except HoldfastError as error:
        exit_code = error.code if isinstance(error, RunFailed) else error.exit_code
        return _report(as_json, str(error.args[0]), error.hint, exit_code, error)
    except BrokenPipeError:
        # Who read our output has enough; the interpreter must not complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except OSError as error:
        if error.errno == errno.EIO and watched and not _is_watched():
            return EXIT_INTERRUPTED  # the terminal went away before its SIGHUP was heard, or while that was answered
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"{error.filename or 'what this command writes'}: {error.strerror}"
            return _report(as_json, message, "Free space there, and run it again", EXIT_FAILED, error)
        return _report_unexpected(as_json, error)
    except Exception as error:  # noqa: BLE001 - the last boundary
        return _report_unexpected(as_json, error)
    return code if isinstance(code, int) else EXIT_OK


def _is_watched() -> bool:
    """Whether what is said goes to a terminal that is there."""
    return any(stream.isatty() for stream in (sys.stdout, sys.stderr))


def _usage_hint(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"See `{error.ctx.command_path} --help`"
    return ""


def _report(as_json: bool, message: str, hint: str, code: int, error: BaseException) -> int:
    if os.environ.get(DEBUG_VARIABLE):
        _print_trace(error)
    if as_json:
        body = {"type": type(error).__name__, "message": message, "hint": hint, "exit_code": code}
        text = shown_json(json.dumps({"error": body}, ensure_ascii=False))
    else:
        text = shown(f"error: {message}" + (f"\nhint: {hint}" if hint else ""))
    with contextlib.suppress(OSError):  # a terminal that has gone away
        click.echo(text, err=True)
    return code


def _report_unexpected(as_json: bool, error: Exception) -> int:
    message = f"unexpected {type(error).__name__}: {error}"
    if os.environ.get(DEBUG_VARIABLE):
        return _report(as_json, message, "", EXIT_FAILED, error)
    place = _write_trace(error)
    hint = f"This is a bug of Holdfast. {place}{DEBUG_VARIABLE}=1 shows the trace here"
    return _report(as_json, message, hint, EXIT_FAILED, error)


def _print_trace(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)


def _write_trace(error: Exception) -> str:
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile("w", prefix="holdfast-", suffix=".trace", delete=False) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return ""
    return f"The trace was written to {file.name}; "


def run() -> NoReturn:
    """The `holdfast` program: `main`, then an end without taking the interpreter apart, which would cost 30 ms."""
    gc.set_threshold(50_000, 20, 100)  # imports make much and drop nothing: looking for cycles took 5 ms
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = EXIT_PIPE
    except OSError:  # a full disk, or a terminal that has gone away
        code = code or EXIT_FAILED
    os._exit(code)


if __name__ == "__main__":
    run()
