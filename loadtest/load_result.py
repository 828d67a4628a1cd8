"""What a load test came to: one trace in the columns of a simulation, figures, and whether it can be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from loadtest.collect import Collected
from loadtest.posted import Posted, posted, too_late
from sim import output
from sim.metrics import Metrics
from sim.model import Model
from sim.policy import SECOND
from sim.result import Result
from sim.trace import Trace

INTERRUPTED = "interrupted"
"""The failure of a run that somebody stopped."""


@dataclass
class Recorded:
    """What a run has left."""

    start_ns: int = 0
    """T0, ns since 1970; 0: it did not come to that."""
    ended_ns: int = 0
    """When it was over, ns since 1970."""
    failure: str = ""
    """Why it is not a whole run; empty if it is."""
    sent: Posted = field(default_factory=lambda: posted([]))
    dispatcher: list[bytes] = field(default_factory=list)
    """Pages of the dispatcher's trace."""
    receivers: list[bytes] = field(default_factory=list)
    """Receivers' logs."""
    unsettled: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Deliveries that had no final state at the end, by id."""
    touched: tuple[str, ...] = ()
    """What somebody did to endpoints meanwhile."""
    usage: list[tuple[float, str, int, float]] = field(default_factory=list)
    """Now and then: s since T0, process, bytes of memory, s of processor time so far."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By name: logs, and what Locust writes."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """A load test that has run, whole or in part."""

    model: Model
    collected: Collected
    recorded: Recorded
    wall_s: float
    """How long it took, s."""

    @property
    def trace(self) -> Trace:
        """The tables, as of a simulation."""
        return self.collected.trace

    @property
    def partial(self) -> bool:
        """Whether the run broke off."""
        return bool(self.recorded.failure)

    @property
    def interrupted(self) -> bool:
        """Whether somebody stopped it."""
        return self.recorded.failure == INTERRUPTED

    @property
    def requests(self) -> dict[str, float]:
        """Figures of the requests that the load generator sent; see ``loadtest.posted``."""
        return self.recorded.sent.metrics

    @cached_property
    def metrics(self) -> Metrics:
        """Figures of the trace, and those of the requests."""
        own = self.trace.metrics
        return Metrics({**own, **self.requests}, lambda limit: own[f"within_share{{{limit}}}"])

    @cached_property
    def result(self) -> Result:
        """As the result of a simulation: to plot, report and save."""
        return Result(self.model.scenario, self.trace, self.wall_s, self.model.scenario.warnings())

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the run must not be believed, whatever is asked of it."""
        return self.invalid()

    @property
    def valid(self) -> bool:
        """Whether it was a whole run, all events were taken, and the load generator was on time."""
        return not self.problems

    @cached_property
    def usage(self) -> pd.DataFrame:
        """Memory and processor time of every process: at_s, process, memory_bytes, cpu_s (so far)."""
        return pd.DataFrame(self.recorded.usage, columns=["at_s", "process", "memory_bytes", "cpu_s"])

    @cached_property
    def sent(self) -> pd.DataFrame:
        """The requests of the load generator: intended_s, sent_s, answered_s (since T0), failed, dropped, events."""
        sent, start = self.recorded.sent, self.recorded.start_ns
        times = {name: (getattr(sent, name) - start) / SECOND for name in ("intended", "sent", "answered")}
        return pd.DataFrame(
            {
                **{f"{name}_s": column for name, column in times.items()},
                "failed": sent.failed,
                "dropped": sent.dropped,
                "events": [" ".join(ids) for ids in sent.ids],
            }
        )

    @property
    def facts(self) -> tuple[str, ...]:
        """How it ran, a sentence each."""
        told = [
            f"{self.requests['requests']:,.0f} requests in {self.wall_s:.0f} s, all processes started and stopped."
        ]
        attempts = len(self.trace.attempts)
        for process, part in self.usage.groupby("process", sort=True):
            cpu, memory = float(part["cpu_s"].max()), part["memory_bytes"].max() / 1e6
            each = (
                f", {1000 * cpu / attempts:.2g} ms an attempt" if attempts and process == "dispatcher" else ""
            )
            told.append(f"{process}: {cpu:.1f} s of processor time{each}; at most {memory:,.0f} MB.")
        return tuple(told)

    def save(self, folder: Path, figures: Mapping[str, Any], table_format: str = "parquet") -> None:
        """Write everything into a folder, as a run is written, with logs and tables of the load test beside.

        Raises:
            ScenarioError: the folder must not be replaced, or cannot be made.
            OSError: writing failed.
        """
        tables = {"requests": self.sent, "usage": self.usage}
        output.save(
            self.result, folder, table_format, figures=figures, tables=tables, files=self.recorded.files
        )

    def invalid(self, gated_s: float = math.inf) -> tuple[str, ...]:
        """Why the run must not be believed; empty if it may be.

        Args:
            gated_s: the smallest latency that a gate asks for; infinite: none.
        """
        if self.partial:
            return (self.recorded.failure,)
        why = too_late(self.requests, gated_s)
        return tuple(filter(None, (why, *self.recorded.touched, *self.collected.problems)))
