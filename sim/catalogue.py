"""The bundled policies as a catalogue: what each does, how far it goes, and how well that is known."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from sim import presets
from sim.blocks_policy import PolicyBlock
from sim.errors import ScenarioError
from sim.policy import FOREVER
from sim.scenario import UNDOCUMENTED, schedule_runs
from sim.shown import joined


@dataclass(frozen=True)
class PolicyEntry:
    """One bundled policy."""

    name: str
    file: dict[str, Any]
    """The file as it is: title, provider, certainty, gaps, notes, unmodelled, sources, policy."""
    block: PolicyBlock
    runs: tuple[tuple[int, int], ...]
    """Its gaps as ``(gap_ns, times)``, up to the last attempt that ``max_age`` allows, jitter aside."""
    attempts: int | None
    """Attempts of a delivery that always fails at once; None: without end."""
    horizon_s: float | None
    """From the event to the last of them; None: without end."""

    @property
    def undocumented(self) -> bool:
        """Whether nobody documents its gaps."""
        return self.file["gaps"] in UNDOCUMENTED

    def summary(self) -> dict[str, Any]:
        """The entry as plain values, as ``hooklab policies --json`` lists it."""
        return {
            **{key: self.file[key] for key in ("title", "provider", "certainty", "gaps")},
            "undocumented": self.undocumented,
            "schedule": [
                {
                    "attempt_number": first,
                    "gap_s": gap / 1e9,
                    "times": None if times >= FOREVER else times,
                    "offset_s": offset / 1e9,
                }
                for first, gap, times, offset in self.offsets()
            ],
            "attempts": self.attempts,
            "horizon_s": self.horizon_s,
            "timeout_s": self.block.timeout / 1e9,
        }

    def details(self) -> dict[str, Any]:
        """All about it as plain values, as ``hooklab policies NAME --json`` prints it."""
        rest = {key: self.file[key] for key in ("notes", "unmodelled", "sources", "policy")}
        return {"name": self.name, **self.summary(), **rest}

    def offsets(self) -> list[tuple[int, int, int, int]]:
        """For each run of equal gaps: number of its first attempt, gap, times, and that attempt's offset, ns."""
        rows = []
        number, at = 1, 0
        for gap, times in self.runs:
            rows.append((number, gap, times, at + gap))
            number, at = number + times, at + gap * times
        return rows


def entry(name: str) -> PolicyEntry:
    """A bundled policy by name.

    Raises:
        ScenarioError: there is none of this name; tells the nearest.
    """
    require("policies", name)
    file = presets.read("policies", name)
    block = PolicyBlock.model_validate(file["policy"])
    runs = runs_of(block)
    endless = any(times >= FOREVER for _, times in runs)
    attempts = None if endless else sum(times for _, times in runs)
    horizon_s = None if endless else sum(gap * times for gap, times in runs) / 1e9
    return PolicyEntry(name, file, block, tuple(runs), attempts, horizon_s)


def entries() -> list[PolicyEntry]:
    """All bundled policies, by name."""
    return [entry(name) for name in presets.names("policies")]


def require(kind: str, name: str) -> None:
    """Refuse a name that no bundled file of this kind (``policies``, ``scenarios``, ``receivers``) has."""
    known = presets.names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ScenarioError(f"{name!r} is not in the bundled {kind}{hint} (hooklab {kind} lists them)")


def runs_of(block: PolicyBlock) -> list[tuple[int, int]]:
    """Its gaps as ``(gap_ns, times)``, up to the last attempt within ``max_age`` if every one fails at once."""
    runs = schedule_runs(block)
    if block.max_age is None:
        return list(joined(runs))
    limit = int(block.max_age) + (runs[0][0] if block.max_age_from == "first_attempt" else 0)
    kept = []
    at = 0
    for gap, times in joined(runs):
        fitting = times if gap == 0 else min(times, (limit - at) // gap)
        if fitting:
            kept.append((gap, fitting))
        if fitting < times:
            break
        at += gap * times
    return kept
