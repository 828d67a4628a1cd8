"""The command ``hooklab``: the commands of the simulator and of the load test under one name.

It stands above both packages. Nothing heavy is imported here: ``hooklab --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import typer

from sim import cli as simulator
from sim.errors import ScenarioError

OK, BAD_INPUT, INTERRUPTED, NO_READER = 0, 2, 130, 141
"""Exit codes; the last two are those of a process that SIGINT or SIGPIPE has ended. A failed gate is 1."""

_CommandLineError: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    help="A laboratory for webhook delivery: simulate retry policies, receivers and dispatchers.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=False,
)


@app.callback()
def _hooklab() -> None:
    """Keep ``hooklab`` a command of commands, however many there are."""


simulator.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process) and give its exit code."""
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


def _give_up_stdout() -> None:
    """What is still to be written goes nowhere: Python would fail once more when it closes stdout."""
    with contextlib.suppress(OSError, ValueError):  # a stdout without a file has nothing to close
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(lines: Sequence[str]) -> int:
    for line in lines:
        simulator.tell(f"error: {line}")
    return BAD_INPUT
