"""What an experiment has finished, in a folder: added run by run, so that it can be interrupted and continued.

The folder holds ``experiment.json`` (the kind of experiment and its scenario), ``points.jsonl`` (a line per finished
run, on disk before the next is counted), ``scenario.yaml``, ``.hooklab``, and at the end ``result.json`` and the tables
``runs`` and ``table`` (Parquet or CSV; of a comparison also ``differences``, ``winners``, ``pareto`` and the picture
``trade_off.png``). A line is known by a digest of all that decides about its run, so nothing that was run otherwise is
ever taken for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sim import output, yamlio
from sim.errors import Problem, ScenarioError, path_of, shown
from sim.execution import Job, Outcome

if TYPE_CHECKING:
    import pandas as pd

    from sim.scenario import Scenario

METRICS_VERSION = 1
"""Raised when a figure changes its meaning or its value for the same trace."""
DESCRIPTION, POINTS = "experiment.json", "points.jsonl"
_WITHOUT_EFFECT = ("name", "question")
_MARKED = "Written by hooklab. The same experiment with the same --out continues.\n"
_NAMED = 4
"""Changes of a scenario that a refusal names."""


@functools.cache
def version() -> str:
    """The version of hooklab, as results depend on it; of a checkout that is not installed, just that."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("hooklab")
    except PackageNotFoundError:
        return "not installed"


def sent(scenario: Scenario) -> dict[str, Any]:
    """A scenario as a mapping that means the same wherever it is read: recordings by absolute path."""
    mapping = scenario.to_mapping()
    for replay in output.replays(mapping):
        replay["file"] = str((scenario.folder / replay["file"]).resolve())
    return mapping


def digest(job: Job) -> str:
    """What a run is known by: scenario, content of its recordings, seed, figures, and versions; 32 hex digits."""
    parts = [_content(job.scenario), job.seed, job.figures, METRICS_VERSION, version()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _content(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """What of a scenario decides about a run, seed aside; recordings by their content."""
    mapping: dict[str, Any] = json.loads(json.dumps({**scenario, "seed": 0}))
    for replay in output.replays(mapping):
        replay["file"] = _digest_of_file(replay["file"], os.stat(replay["file"]).st_mtime_ns)
    return {key: value for key, value in mapping.items() if key not in _WITHOUT_EFFECT}


@functools.lru_cache(maxsize=64)
def _digest_of_file(path: str, _changed: int) -> str:
    with open(path, "rb") as file:
        return f"content {hashlib.file_digest(file, 'sha256').hexdigest()[:32]}"


class Store:
    """The folder of one experiment, open for adding; use it as a context manager."""

    def __init__(self, folder: Path, file: BinaryIO, known: dict[str, Outcome]) -> None:
        self.folder = folder
        self._file = file
        self._known = known

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # each run was flushed; what could not be written has been told
            self._file.close()

    def get(self, key: str) -> Outcome | None:
        """What a run came to, if it has finished before."""
        return self._known.get(key)

    def add(self, key: str, job: Job, outcome: Outcome) -> None:
        """Write a finished run; it is on disk when this returns.

        Raises:
            ScenarioError: it cannot be written.
        """
        record = {
            "key": key,
            "name": job.name,
            "seed": job.seed,
            "figures": {name: _written(value) for name, value in outcome.figures.items()},
            "settling": [_written(value) for value in outcome.settling],
        }
        with self._told():
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self._known[key] = outcome

    def finish(
        self,
        tables: Mapping[str, pd.DataFrame],
        told: Mapping[str, Any],
        table_format: str,
        pictures: Mapping[str, bytes],
    ) -> None:
        """Write tables, result and pictures (PNG by name); each file is replaced whole.

        Raises:
            ScenarioError: one cannot be written.
        """
        with self._told():
            for name, picture in pictures.items():
                with _replaced(self.folder / f"{name}.png") as new:
                    new.write_bytes(picture)
            for name, table in tables.items():
                for old in output.TABLE_FORMATS:
                    if old != table_format:
                        (self.folder / f"{name}.{old}").unlink(missing_ok=True)
                with _replaced(self.folder / f"{name}.{table_format}") as new:
                    if table_format == "csv":
                        table.to_csv(new, index=False)
                    else:
                        table.to_parquet(new, index=False)
            with _replaced(self.folder / "result.json") as new:
                new.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell of a file that cannot be written by its folder, and what becomes of the runs."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            rule = f"cannot be written: {reason}; what has finished is kept there, and the same command continues"
            raise _refused(self.folder, rule) from None


def open_store(folder: Path, kind: str, scenario: Scenario) -> Store:
    """Open the folder of an experiment, or begin one.

    Raises:
        ScenarioError: the folder holds something else, an experiment of another kind or scenario (tells what has
            changed), or is in use; or it cannot be written.
    """
    target = folder.resolve()
    description = {
        "hooklab": version(),
        "metrics": METRICS_VERSION,
        "kind": kind,
        "scenario": {**_content(sent(scenario)), "seed": scenario.seed},
    }
    try:
        if (target / DESCRIPTION).is_file():
            _require_same(folder, json.loads((target / DESCRIPTION).read_text(encoding="utf-8")), description)
        else:
            _begin(folder, target, description)
        (target / output.MARKER).write_text(_MARKED, encoding="utf-8")
        with _replaced(target / "scenario.yaml") as new:
            new.write_text(yamlio.dump(sent(scenario)), encoding="utf-8")
        file = (target / POINTS).open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Store(target, file, _read(file))
        except BaseException:
            file.close()
            raise
    except BlockingIOError:
        raise _refused(
            folder, "is in use by another experiment; wait for it, or name another folder"
        ) from None
    except ValueError as error:
        if isinstance(error, ScenarioError):
            raise
        raise _refused(folder, f"has a damaged {DESCRIPTION}; name another folder") from None
    except OSError as error:
        raise _refused(folder, f"cannot be written: {error.strerror or error}") from None


def _begin(folder: Path, target: Path, description: dict[str, Any]) -> None:
    if target.is_dir() and any(target.iterdir()):
        output.require_replaceable(folder)  # says what is wrong with a folder of others
        raise _refused(folder, "holds a run; an experiment needs a folder of its own")
    output.require_replaceable(folder)
    target.mkdir(parents=True, exist_ok=True)
    with _replaced(target / DESCRIPTION) as new:
        new.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _require_same(folder: Path, old: Any, new: dict[str, Any]) -> None:
    """Refuse to mix what was run otherwise into an experiment."""
    if not isinstance(old, dict) or not {"hooklab", "metrics", "kind", "scenario"} <= set(old):
        raise ValueError(DESCRIPTION)
    if old["kind"] != new["kind"]:
        raise _refused(folder, f"holds a {old['kind']}, and this is a {new['kind']}; name another folder")
    if (old["hooklab"], old["metrics"]) != (new["hooklab"], new["metrics"]):
        theirs, ours = (f"hooklab {d['hooklab']} (figures {d['metrics']})" for d in (old, new))
        raise _refused(folder, f"was begun by {theirs}, and this is {ours}; name another folder")
    changes = list(_changes(old["scenario"], json.loads(json.dumps(new["scenario"])), []))
    if changes:
        more = f" and {len(changes) - _NAMED:,} more" if len(changes) > _NAMED else ""
        rule = f"holds a {old['kind']} of another scenario: {', '.join(changes[:_NAMED])}{more}; name another folder"
        raise _refused(folder, rule)


def _changes(old: Any, new: Any, keys: list[str]) -> Iterator[str]:
    """The leaves in which two scenarios differ, and how."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(key), new.get(key), [*keys, key])
    elif old != new:
        was, now = ("not set" if value is None else shown(value) for value in (old, new))
        yield f"{path_of(keys)} was {was} and is {now}"


def _read(file: BinaryIO) -> dict[str, Outcome]:
    """The finished runs; a line that was cut off is taken away, so that the next begins a line of its own."""
    file.seek(0)
    known: dict[str, Outcome] = {}
    end = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        end += len(line)
        with contextlib.suppress(
            ValueError, KeyError, TypeError, AttributeError
        ):  # a damaged line is run again
            record = json.loads(line)
            figures = {name: _read_number(value) for name, value in record["figures"].items()}
            known[str(record["key"])] = Outcome(figures, tuple(map(_read_number, record["settling"])))
    file.truncate(end)
    return known


def _written(value: float) -> float | str | None:
    """A number as JSON has it, to the last bit."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _read_number(value: Any) -> float:
    return math.nan if value is None else float(value)


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file beside this one to write, which takes its place at the end."""
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _refused(folder: Path, rule: str) -> ScenarioError:
    return ScenarioError([Problem(f"out {folder}", None, rule)])
