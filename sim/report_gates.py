"""What the report of a load test says beyond that of a run: its gates, its load generator, how to repeat it.

A folder is that of a load test if its ``metrics.json`` has ``gates``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sim.report import Head, Section, Table
from sim.shown import REQUEST_MEANINGS, named, shown

REQUESTS = {name: meaning for entry, meaning in REQUEST_MEANINGS.items() for name in named(entry)}
"""The figures of a load generator, each with its meaning."""


def section(figures: Mapping[str, Any]) -> Section:
    """The gates, whether the load test is valid, and what its load generator measured."""
    gates: Sequence[Mapping[str, Any]] = figures["gates"]
    failed = sum(not gate["ok"] for gate in gates)
    told = Section(name="gates", heading="Gates")
    if not figures["valid"]:
        told.paragraphs.append("The load test is not valid, so its gates decide nothing:")
        told.paragraphs.extend(map(str, figures["problems"]))
    if gates:
        told.paragraphs.append(f"{failed:,} of {len(gates):,} failed." if failed else "All passed.")
        heads = (Head(text="gate"), Head(text="verdict"), Head(text="what came out"))
        rows = [(str(g["expr"]), "passed" if g["ok"] else "failed", str(g["by"])) for g in gates]
        told.tables.append(Table(caption="What the load test had to show", heads=heads, rows=rows))
    else:
        told.paragraphs.append("There was no gate to judge it by.")
    told.paragraphs.extend(map(str, figures.get("facts", ())))
    if known := _requests(figures["metrics"]):
        heads = (Head(text="figure"), Head(text="value", number=True), Head(text="what it means"))
        told.tables.append(Table(caption="Figures of the load generator", heads=heads, rows=known))
    return told


def _requests(metrics: Mapping[str, float | None]) -> list[tuple[str, ...]]:
    values = {name: metrics.get(name) for name in REQUESTS}
    return [
        (name, shown(name, value), REQUESTS[name])
        for name, value in values.items()
        if value is not None and not math.isnan(value)
    ]


def words(figures: Mapping[str, Any], seed: int) -> list[str]:
    """The command that repeats the load test, word by word."""
    gates = [word for gate in figures["gates"] for word in ("--gate", str(gate["expr"]))]
    return ["hooklab", "loadtest", "scenario.yaml", "--seed", str(seed), *gates]


NOTE = "The same events and the same luck again; times are those of a real machine, and scatter."
"""What repeating a load test gives."""
