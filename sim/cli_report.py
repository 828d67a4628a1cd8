"""The command ``hooklab report``: one HTML file of a folder of results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(report)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder written with --out.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the report. Default: report.html in the folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write one HTML file with everything a folder of results says: question, figures, pictures, how to repeat it."""
    from sim import report as pages
    from sim.cli import tell

    written = pages.write(folder, out)
    if as_json:
        sys.stdout.write(json.dumps({"report": str(written)}) + "\n")
    else:
        tell(f"written to {written}")
