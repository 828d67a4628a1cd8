"""A run in a folder: its scenario, seed, tables, figures and picture, written whole or not at all.

The folder holds ``scenario.yaml`` (complete: it repeats the run, seed included, anywhere), ``replay/`` (the
recordings it plays, if any), ``attempts``, ``deliveries``, ``samples`` and ``polls`` (Parquet or CSV; a streamed
run has ``histograms`` instead), ``metrics.json``, ``meta.json`` and ``overview.png``; later ``report.html``, if
somebody asks for it; and ``.hooklab``, by which a later run knows that these may be replaced. A folder that holds
anything else is never replaced.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import yamlio
from sim.errors import Problem, ScenarioError

if TYPE_CHECKING:
    import pandas as pd

    from sim.result import Result

MARKER = ".hooklab"
MARKED = "Written by hooklab. A run with the same --out replaces its files; it refuses if there are others.\n"
TABLE_FORMATS = ("parquet", "csv")
_TABLES = ("attempts", "deliveries", "samples", "polls", "histograms")
_OWN = {
    *(MARKER, "scenario.yaml", "metrics.json", "meta.json", "overview.png", "report.html"),
    *(f"{table}.{table_format}" for table in _TABLES for table_format in TABLE_FORMATS),
}
_OF_LOAD_TESTS = re.compile(
    r"(dispatcher|receivers-\d+|locust)\.log|locust(_\w+)?\.(html|csv)|(requests|usage)\.(parquet|csv)|agreement\.(json|png)"
)
"""What a load test writes beside: logs, Locust's reports, what was sent, memory and processor time."""
_REPLAY = "replay"
_RECORDING = re.compile(r"\d+-.+")
_NAMED = 3
"""Files of others that a refusal names."""


def save(
    result: Result,
    folder: Path,
    table_format: str = "parquet",
    *,
    figures: Mapping[str, Any] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a run into a folder; one that hooklab wrote earlier is replaced.

    A load test has ``figures`` of its own (``metrics.json``), more ``tables``, and ``files`` by name.

    Everything is written beside the folder first and then moved: whatever goes wrong, an earlier folder stays
    as it was.

    Raises:
        ScenarioError: the folder must not be replaced, cannot be made, or the format is unknown.
        OSError: writing failed.
    """
    from sim.plots import png
    from sim.trace import save_table

    require_format(table_format)
    require_replaceable(folder)
    with replacing(folder.resolve()) as new:
        (new / MARKER).write_text(MARKED, encoding="utf-8")
        _write_scenario(result, new)
        result.made.save(new, table_format)
        for name, frame in (tables or {}).items():
            save_table(frame, new / name, table_format)
        for name, content in (files or {}).items():
            (new / name).write_bytes(content)
        told = json.dumps(result.to_json() if figures is None else figures, indent=1, allow_nan=False)
        (new / "metrics.json").write_text(told + "\n", encoding="utf-8")

        (new / "overview.png").write_bytes(png(result.plot()))


def require_format(table_format: str) -> None:
    """Refuse a table format that is none."""
    if table_format not in TABLE_FORMATS:
        raise ScenarioError([Problem("format", table_format, f"must be {' or '.join(TABLE_FORMATS)}")])


def require_replaceable(folder: Path) -> None:
    """Refuse a folder that a run could not or must not become. Leaves nothing behind.

    Raises:
        ScenarioError: it is no folder, holds what hooklab did not write, or cannot be made where it is.
    """
    try:
        target = folder.resolve()
        if target.is_dir():
            if Path.cwd().is_relative_to(target):
                raise _refused(
                    folder, "holds the current folder and cannot be replaced; name a folder inside it"
                )
            if target.is_mount():
                raise _refused(folder, "is a mount point and cannot be replaced; name a folder inside it")
            if any(target.iterdir()) and not (target / MARKER).is_file():
                rule = (
                    f"is not empty and was not written by hooklab (it has no {MARKER}); name another folder"
                )
                raise _refused(folder, rule)
            require_own(folder)
        elif target.exists():
            raise _refused(folder, "is not a folder; name a folder")
        # permission bits do not tell what root, quotas and read-only mounts allow: trying does
        tempfile.TemporaryDirectory(dir=_existing(target.parent), prefix=MARKER).cleanup()
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        reason = getattr(error, "strerror", None) or error
        raise _refused(folder, f"cannot be written: {reason}") from None


def require_own(folder: Path) -> None:
    """Refuse a folder that holds what hooklab did not write: replacing it would delete that.

    Raises:
        ScenarioError: it does; names some of it.
    """
    others = sorted(_others(folder.resolve()))
    if "experiment.json" in others:
        raise _refused(folder, "holds an experiment; a run needs a folder of its own")
    if others:
        more = len(others) - _NAMED
        named = ", ".join(others[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        rule = f"holds what hooklab did not write ({named}): move it elsewhere, or name another folder"
        raise _refused(folder, rule)


def _others(target: Path) -> Iterator[str]:
    """What in the folder is not ours to delete."""
    for path in target.iterdir():
        if path.name == _REPLAY and path.is_dir() and not path.is_symlink():
            inside = (
                item for item in path.iterdir() if not (_RECORDING.fullmatch(item.name) and item.is_file())
            )
            yield from (f"{_REPLAY}/{item.name}" for item in inside)
        elif not (path.name in _OWN or _OF_LOAD_TESTS.fullmatch(path.name)) or not path.is_file():
            yield path.name


def _refused(folder: Path, rule: str) -> ScenarioError:
    return ScenarioError([Problem(f"out {folder}", None, rule)])  # whole: a value would be cut short


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``target`` at the end, or vanishes if that fails."""
    made = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f"{MARKER}-", ignore_cleanup_errors=True
        ) as workplace:
            new, old = Path(workplace, "new"), Path(workplace, "old")
            new.mkdir()
            yield new
            try:
                if target.exists():
                    require_own(target)  # the run may have taken hours
                    target.rename(old)
                new.rename(target)
            except BaseException:
                if old.exists() and not target.exists():
                    old.rename(target)
                raise
    except BaseException:
        for path in made:  # the deepest first, while they are empty
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise


# --------------------------------------------------------------------------- the scenario


def _write_scenario(result: Result, folder: Path) -> None:
    """``scenario.yaml`` with the seed of the run, and a copy of every recording that it plays."""
    seeded = {"name": result.scenario.name, "seed": result.seed}
    mapping = seeded | result.scenario.to_mapping() | seeded
    names: dict[Path, str] = {}
    for replay in replays(mapping):
        source = result.scenario.folder / replay["file"]
        if source not in names:
            names[source] = f"{_REPLAY}/{len(names)}-{source.name}"
            (folder / _REPLAY).mkdir(exist_ok=True)
            shutil.copyfile(source, folder / names[source])
        replay["file"] = names[source]
    (folder / "scenario.yaml").write_text(yamlio.dump(mapping), encoding="utf-8")


def replays(mapping: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The blocks of a scenario that name a recording."""
    for producer in mapping["producers"].values():
        if "replay" in producer["arrivals"]:
            yield producer["arrivals"]["replay"]
    for receiver in mapping.get("receivers", {}).values():
        faults: Sequence[dict[str, Any]] = receiver.get("faults", ())
        for fault in faults:
            if "replay" in fault.get("outage", {}):
                yield fault["outage"]["replay"]
