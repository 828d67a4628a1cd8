"""The command ``hooklab``: the commands of the simulator and of the load test under one name.

It stands above both packages. Nothing heavy is imported here: ``hooklab --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from loadtest import cli_agree, cli_loadtest, cli_receive, cli_serve, cli_trace
from sim import cli as simulator
from sim import cli_experiment, cli_fit, cli_plan, cli_report
from sim.errors import ScenarioError

OK, BAD_INPUT, INTERRUPTED, NO_READER = 0, 2, 130, 141
"""Exit codes; the last two are those of a process that SIGINT or SIGPIPE has ended. A failed gate is 1."""

MOST_TOLD = 20
"""Problems of one input that are told: a file of another kind may have thousands."""

_CommandLineError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    help="A laboratory for webhook delivery: simulate retry policies, receivers and dispatchers.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"hooklab {version('hooklab')}\n")
        raise typer.Exit


@app.callback()
def _hooklab(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Keep ``hooklab`` a command of commands, however many there are."""


for commands in (
    *(simulator, cli_experiment, cli_plan, cli_fit, cli_report),
    *(cli_serve, cli_receive, cli_trace, cli_loadtest, cli_agree),
):
    commands.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process) and give its exit code."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks ∞ shows ?
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(given or ["--help"], prog_name="hooklab", standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except ScenarioError as error:
        return _refuse(str(error).splitlines())
    except _CommandLineError as error:
        message = getattr(error, "format_message", error.__str__)
        simulator.tell(f"error: {message()}")
        simulator.tell("hooklab --help lists the commands; --help after a command lists its options")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        simulator.tell("interrupted")
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # typer makes a SystemExit of a pipe that its reader has closed
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _give_up_stdout()
        return NO_READER
    except OSError as error:
        _give_up_stdout()
        return _refuse([f"{error.filename}: {error.strerror}" if error.filename else str(error)])
    return code if isinstance(code, int) else OK


def _open_what_is_closed() -> None:
    """What a caller has closed (``>&-``) swallows what is written to it, as it does for ``print``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _give_up_stdout() -> None:
    """What is still to be written goes nowhere: Python would fail once more when it closes stdout."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a file has nothing to close
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(lines: Sequence[str]) -> int:
    for line in lines[:MOST_TOLD]:
        simulator.tell(f"error: {line}")
    if len(lines) > MOST_TOLD:
        simulator.tell(f"… and {len(lines) - MOST_TOLD:,} more")
    return BAD_INPUT
