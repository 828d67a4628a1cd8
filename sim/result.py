"""Running a scenario from Python, and what comes back."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import Problem, ScenarioError
from sim.fields import parse_whole
from sim.scenario import Scenario, load
from sim.shown import shown, shown_duration

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sim.beside import Beside
    from sim.engine_simpy import UserReceivers
    from sim.metrics import Metrics
    from sim.model import Model
    from sim.streamed import Streamed
    from sim.trace import Trace

ENGINES = ("auto", "simpy", "compiled")
WORTH_COMPILING = 50_000
"""Attempts from which ``auto`` takes the compiled engine: it takes longer to load than a small run takes."""
STREAM_FROM = 5_000_000
"""Attempts from which no tables are kept, if nothing else is said: they would take about 4 GB."""

SHOWN = (
    "deliveries",
    "attempts_per_delivery",
    "delivered_share",
    "lost_share",
    "false_loss_share",
    "unsettled_share",
    "delivery_latency_s_p50",
    "delivery_latency_s_p99",
    "delivery_latency_s_p999",
    "queue_wait_s_p99",
    "duplicate_share",
    "late_share",
    "backlog_max",
    "attempts_per_s_max",
    "worker_utilization",
)
"""The figures of a first look, in order."""


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run: its scenario, figures and, unless it was streamed, its tables."""

    scenario: Scenario
    made: Trace | Streamed
    """What the run left: tables, or the figures alone."""
    wall_s: float
    """How long the engine ran, s."""
    scenario_warnings: tuple[str, ...] = field(default=())
    replaced: bool = False
    """Whether receivers or arrivals were a user's own objects, which formulas know nothing of."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before believing the figures: of the scenario, and of how the run ended."""
        told = list(self.scenario_warnings)
        if self.meta["stopped"]:
            told.append(
                f"the run stopped at {shown_duration(self.meta['ended_s'])} of "
                f"{shown_duration(self.meta['horizon_s'])}: the backlog outgrew its limit, and figures are those "
                "until then; more arrives than is ever delivered, or else raise the limit (--backlog-limit)"
            )
        share = self.metrics["unsettled_share"]
        if share > 0:
            told.append(
                f"unsettled_share is {shown('unsettled_share', share)}: the run ended before these deliveries did, "
                "and latency quantiles leave them out, so they look too good"
                + ("" if self.meta["stopped"] else "; raise drain")
            )
        return tuple(told)

    @property
    def meta(self) -> dict[str, Any]:
        """What was run: plain numbers and text, as in ``meta.json``."""
        return self.made.meta

    @property
    def streamed(self) -> bool:
        """Whether figures were gathered as the run went, and no tables kept."""
        from sim.streamed import Streamed

        return isinstance(self.made, Streamed)

    @property
    def trace(self) -> Trace:
        """The tables of the run.

        Raises:
            ScenarioError: it was streamed and has none.
        """
        from sim.streamed import Streamed

        if isinstance(self.made, Streamed):
            raise ScenarioError(
                "this run was streamed: it has figures and no tables; run it with stream=False (--no-stream) to keep "
                "a row of every attempt, or make it shorter"
            )
        return self.made

    @property
    def attempts_made(self) -> int:
        """Attempts of the whole run, also of deliveries that figures leave out."""
        return self.made.attempts_made

    @property
    def seed(self) -> int:
        """The seed of the run: with the scenario it repeats the run to the last bit."""
        seed: int = self.meta["seed"]
        return seed

    @property
    def engine(self) -> str:
        """The engine that ran."""
        engine: str = self.meta["engine"]
        return engine

    @property
    def attempts(self) -> pd.DataFrame:
        """One row per attempt; columns in ``sim.trace``."""
        return self.trace.attempts

    @property
    def deliveries(self) -> pd.DataFrame:
        """One row per delivery; columns in ``sim.trace``."""
        return self.trace.deliveries

    @property
    def samples(self) -> pd.DataFrame:
        """Time series: backlog per tier, in flight, receiver queue, rates; columns in ``sim.series``."""
        return self.trace.samples

    @property
    def polls(self) -> pd.DataFrame:
        """One row per poll of an endpoint in ``mode: poll``."""
        return self.trace.polls

    @cached_property
    def metrics(self) -> Metrics:
        """All figures by name; ``within_share{10s}`` works for any duration."""
        return self.made.metrics

    @property
    def latency_by_piece(self) -> tuple[float, ...]:
        """Mean latency of the deliveries created in each hundredth of the horizon, s: whether a run has settled."""
        return self.made.latency_by_piece

    def metrics_by(self, what: str) -> pd.DataFrame:
        """Figures by ``endpoint`` group, event ``type`` or ``hour`` of creation."""
        from sim.metrics import metrics_by

        return metrics_by(self.trace, what)

    @cached_property
    def theory(self) -> list[Beside]:
        """Closed forms beside the simulated figures, with the reason why each applies, or why not."""
        from sim.beside import beside

        return [] if self.replaced else beside(self)

    def plot(self) -> Figure:
        """One picture: latency distribution, backlog per tier, attempts and goodput over time.

        Of a streamed run: its latency, settling and waiting times.
        """
        return self.made.plot()

    def save(self, folder: str | Path, table_format: str = "parquet") -> None:
        """Write scenario, tables, figures and picture into a folder; see ``sim.output``."""
        from sim.output import save

        save(self, Path(folder), table_format)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab run --json`` prints; a figure that does not exist is None."""
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "engine": self.engine,
            "wall_s": round(self.wall_s, 3),
            "streamed": self.streamed,
            "stopped": self.meta["stopped"],
            "undocumented": self.meta["undocumented"],
            "warnings": list(self.warnings),
            "theory": [row.to_json() for row in self.theory],
            "metrics": {name: None if math.isnan(v) else v for name, v in self.metrics.items()},
        }

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {shown(name, self.metrics[name])}" for name in SHOWN[:9])
        return f"<Result of {self.scenario.name}, seed {self.seed}, {self.engine} engine: {figures}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td style='text-align:right'>{shown(name, self.metrics[name])}</td></tr>"
            for name in SHOWN
        )
        notes = "".join(f"<p>⚠ {html.escape(text)}</p>" for text in self.warnings)
        title = html.escape(self.scenario.question or "")
        head = f"<b>{html.escape(self.scenario.name)}</b>, seed {self.seed}, {self.engine} engine"
        return f"<p>{head}<br>{title}</p>{notes}<table>{rows}</table>"


def run(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    seed: int | None = None,
    engine: str = "auto",
    stream: bool | None = None,
    backlog_limit: int | None = None,
    overrides: Iterable[str] = (),
    receivers: UserReceivers | None = None,
    arrivals: Mapping[str, Iterable[Any]] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """Simulate a scenario: a bundled name, a path, a mapping or a ``Scenario``.

    ``overrides`` are ``path=value`` texts. ``receivers`` replaces receivers (by name, or by endpoint group)
    by a user's own objects, see ``sim.user``; ``arrivals`` replaces producers' arrivals by times in s, or
    (time, type, key) tuples. ``stream`` gathers figures as the run goes and keeps no tables, so that memory does
    not grow with the run; None: from ``STREAM_FROM`` expected attempts on. A run stops, with the figures until
    then, when more than ``backlog_limit`` deliveries (default: ``model.MOST_OPEN``) would be open at once.
    ``progress`` is called now and then with the simulated share of the horizon.

    Raises:
        ScenarioError: anything wrong with the scenario, a file it names, or an argument.
    """
    if engine not in ENGINES:
        raise ScenarioError([Problem("engine", engine, f"must be one of {', '.join(ENGINES)}")])
    if stream not in (None, True, False):
        raise ScenarioError([Problem("stream", stream, "must be True, False or None")])
    if stream and engine == "simpy":
        raise ScenarioError("stream needs the compiled engine: drop --engine simpy, or stream")
    if backlog_limit is not None:
        try:
            backlog_limit = parse_whole(backlog_limit, 1, 2**40)
        except ValueError as error:
            raise ScenarioError([Problem("backlog_limit", backlog_limit, str(error))]) from None
    if seed is not None:
        try:
            seed = parse_whole(seed, 0, 2**64 - 1)
        except ValueError as error:
            raise ScenarioError([Problem("seed", seed, str(error))]) from None
    if arrivals is not None and not isinstance(arrivals, Mapping):
        raise ScenarioError([Problem("arrivals", arrivals, "must map producers to times in seconds")])
    loaded = load(scenario, overrides)
    from sim import model, trace

    built = model.build(loaded, seed, arrivals, backlog_limit or model.MOST_OPEN)
    warnings = (*loaded.warnings(), *_unheard(built, arrivals or {}))
    tell = None if progress is None else (lambda now: progress(min(now / built.horizon, 1.0)))
    chosen, go = _engine(engine, stream, built, receivers)
    begun = time.perf_counter()
    left = go(tell)
    wall_s = time.perf_counter() - begun
    if progress is not None:
        progress(1.0)  # the tables are still to be built
    made = trace.build(built, left, chosen) if isinstance(left, trace.Columns) else left
    return Result(loaded, made, wall_s, warnings, bool(receivers) or arrivals is not None)


def _unheard(built: Model, arrivals: Mapping[str, Iterable[Any]]) -> Iterator[str]:
    """Event types of a user's own arrivals that nobody subscribes to."""
    for name, codes, fan_out in zip(built.producers, built.type_codes, built.fan_out, strict=True):
        lost = [built.event_types[code] for code, to in zip(codes, fan_out, strict=True) if not to]
        if name in arrivals and lost:
            yield (
                f"arrivals.{name} has events of the type {', '.join(lost[:8])}{', …' if len(lost) > 8 else ''}, "
                "which no endpoint subscribes to; they are delivered to nobody"
            )


def _engine(
    name: str, stream: bool | None, built: Model, receivers: UserReceivers | None
) -> tuple[str, Callable[[Callable[[int], None] | None], Any]]:
    """The engine to run a model with, compiled and ready: its name, and how to start it."""
    from sim import advice, engine_compiled, engine_simpy, jit

    refused = engine_compiled.refuses(built, own_receivers=bool(receivers))
    if refused and (name == "compiled" or stream):
        what = "the compiled engine" if name == "compiled" else "stream"
        raise ScenarioError(f"{what} cannot do {refused}; use the SimPy engine (--engine simpy)")
    expected = advice.expected_attempts(built.scenario)
    small = name == "auto" and expected < WORTH_COMPILING and not stream
    if name == "simpy" or refused or small:
        jit.prepare()
        return "simpy", lambda tell: engine_simpy.run(built, receivers, tell)
    if stream is None:
        stream = expected >= STREAM_FROM
    engine_compiled.prepare(stream)
    go = engine_compiled.stream if stream else engine_compiled.run
    return "compiled", lambda tell: go(built, tell)
