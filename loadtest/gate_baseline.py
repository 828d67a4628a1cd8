"""The figures of an earlier run, which gates compare with: ``delivery_latency_s_p99<=baseline*1.1``.

A baseline is the JSON that a load test, or ``hooklab run --json``, has written: ``{"metrics": {name: number}}``. The
figures of some deliveries only (``lost_share[endpoint=slow]``) are those of the gates that this run was judged by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.errors import ScenarioError, nearest, shown

IN_FOLDER = "metrics.json"
"""Where the figures stand in a folder written with ``--out``."""


LARGEST = 1e300
"""The largest figure; JSON writes larger ones that no float holds."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Figures by name, and where they are from."""

    source: str
    scenario: str | None
    """What the scenario was called; None: nobody knows."""
    figures: Mapping[str, float]
    """NaN: the figure does not exist, as of nothing."""

    def figure(self, name: str) -> float:
        """A figure by its name, as gates write it.

        Raises:
            ScenarioError: the run had none, or it did not exist in it.
        """
        if name not in self.figures:
            hint = nearest(name, self.figures)
            if "[" in name:
                hint = "; it has those of its gates: write it again by a run that has a gate about this, with a number"
            raise ScenarioError(f"has no figure {name}{hint}", self.source)
        value = self.figures[name]
        if math.isnan(value):
            rule = f"has no value of {name}: there was nothing to count in that run; choose another baseline"
            raise ScenarioError(rule, self.source)
        return value


def read(path: str | Path) -> Baseline:
    """Read the JSON of an earlier run, or the folder it was written into.

    Raises:
        ScenarioError: it is not there, no such JSON, or a figure in it is no number.
    """
    file, source = Path(path), str(path)
    try:
        file = file / IN_FOLDER if file.is_dir() else file
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        reason = "there is no such file; write one with a run" if isinstance(error, FileNotFoundError) else ""
        raise ScenarioError(reason or f"cannot be read: {error.strerror or error}", str(file)) from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, a zero byte in the path
        raise ScenarioError(f"is no JSON: {error}", source) from None
    if not isinstance(data, dict) or not isinstance(data.get("metrics"), dict):
        rule = 'is no baseline: it has no "metrics"; give the JSON that a load test has written'
        raise ScenarioError(rule, source)
    figures = {name: _number(name, value, source) for name, value in data["metrics"].items()}
    gates = data.get("gates", [])
    for gate in gates if isinstance(gates, list) else [gates]:
        if not isinstance(gate, dict) or not isinstance(gate.get("figure"), str):
            raise ScenarioError("has gates that are none; give the JSON that a load test has written", source)
        figures.setdefault(gate["figure"], _number(gate["figure"], gate.get("value"), source))
    name = data.get("scenario")
    return Baseline(source=source, scenario=name if isinstance(name, str) else None, figures=figures)


def _number(name: str, value: Any, source: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ScenarioError(f"has the figure {shown(name)}, which is {shown(value)} and no number", source)
    return float(value)
