"""From what really happened to a scenario: receiver and producer blocks fitted to a log, with intervals.

``fit`` reads a log of attempts or a history of a receiver (``sim.calibrate_log``), takes it apart (outages, errors,
lost answers, latency, arrivals, keys) and gives blocks that ``sim.load`` accepts. What a sender's log cannot tell
is said in ``FitResult.warnings``: a timed-out request may have been processed, and one endpoint shows neither how
endpoints differ nor whether it or the way to it failed.
"""

from __future__ import annotations

import fnmatch
import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sim import calibrate_log, calibrate_outages
from sim.calibrate_attempts import FEWEST_LATENCIES, Findings, fit_attempts, take_outage
from sim.calibrate_durations import (
    Fit,
    Goodness,
    Parameter,
    duration,
    fit_duration,
)
from sim.calibrate_families import sample
from sim.calibrate_log import Log
from sim.calibrate_outages import Period
from sim.calibrate_sender import overhead
from sim.errors import Problem, ScenarioError
from sim.scenario import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "fitted"
"""What the blocks are called in a scenario."""


@dataclass(frozen=True, repr=False)
class FitResult:
    """Blocks fitted to a log, and how well."""

    receiver: dict[str, Any]
    """A receiver of a scenario file."""
    producer: dict[str, Any] | None
    """A producer of a scenario file; None: the log does not show events, or too few."""
    table: pd.DataFrame
    """A row for each fitted number: parameter, value, low, high (95 %), unit, observations."""
    goodness: pd.DataFrame
    """A row for each test of a fit: what, test, statistic, p_value, observations."""
    warnings: tuple[str, ...]
    """What the log cannot tell, what is too little, and what speaks against the fit."""
    endpoints: int
    """Endpoints in the log."""
    fan_out: str
    """all (every endpoint gets every event) or by_key, as the log shows it."""
    horizon_s: float
    """How long the log is, s."""
    durations: tuple[Fit, ...]
    """Latency, up and down times with their samples; ``plot`` draws them."""
    history: Mapping[str, Period] = field(default_factory=dict)
    """Outages by endpoint, as given or detected."""
    dispatcher: dict[str, Any] | None = None
    """What the sender adds to each attempt, as the dispatcher of a scenario file; None: no real sender was logged."""

    def scenario(self, policy: str = "standard-webhooks") -> dict[str, Any]:
        """A scenario that runs: what was fitted, as long as the log was, with a bundled policy."""
        endpoint: dict[str, Any] = {"count": self.endpoints, "policy": policy, "receiver": NAME}
        producer = self.producer
        if producer is None:  # nothing is known of events: some 10,000 of them
            producer = {"arrivals": {"poisson": f"{max(10_000 / max(self.horizon_s, 1.0), 1e-5):.5f}/s"}}
        if self.endpoints > 1 and self.fan_out == "by_key":
            endpoint["route"] = "by_key"
        return {
            "name": NAME,
            "horizon": duration(max(self.horizon_s, 1.0)),
            "producers": {NAME: producer},
            "endpoints": {NAME: endpoint},
            "policies": {policy: {"preset": policy}},
            "receivers": {NAME: self.receiver},
            **self._dispatcher(),
        }

    def blocks(self) -> dict[str, Any]:
        """The producer and the dispatcher (if there are) and the receiver under their names, ready to paste."""
        producers = {} if self.producer is None else {"producers": {NAME: self.producer}}
        return {**producers, "receivers": {NAME: self.receiver}, **self._dispatcher()}

    def _dispatcher(self) -> dict[str, Any]:
        return {} if self.dispatcher is None else {"dispatcher": self.dispatcher}

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab fit --json`` prints; a number that does not exist is None."""
        return {
            "receiver": self.receiver,
            "producer": self.producer,
            "dispatcher": self.dispatcher,
            "table": _rows(self.table),
            "goodness": _rows(self.goodness),
            "warnings": list(self.warnings),
            "endpoints": self.endpoints,
            "horizon_s": self.horizon_s,
        }

    def save(self, path: str | Path, policy: str | None = None) -> None:
        """Write the blocks, or with a policy a scenario that runs, into a YAML file; see ``sim.calibrate_output``."""
        from sim.calibrate_output import save

        save(self, Path(path), policy)

    def plot(self, ax: Axes | None = None) -> Figure | Axes:
        """Measured against fitted durations: on ``ax`` the first of them (latency), else a figure of all."""
        from sim.calibrate_picture import draw, picture

        if ax is None:
            return picture(self)
        draw(self.durations[0], ax)
        return ax

    def __repr__(self) -> str:
        return f"<FitResult: {', '.join(f'{fit.what} {fit.family}' for fit in self.durations)}>"

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>⚠ {html.escape(text)}</p>" for text in self.warnings)
        return f"{notes}{self.table.to_html(index=False)}{self.goodness.to_html(index=False)}"


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame for JSON: None for what is not finite."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{str(key): plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def fit(
    log: Any,
    *,
    columns: str | Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    endpoint: str = "*",
    observed: tuple[Any, Any] = (None, None),
) -> FitResult:
    """Fit receiver and producer blocks to a log.

    ``log`` is a path (CSV, TSV, Parquet, NDJSON), a folder that ``hooklab run``, ``loadtest`` or ``trace`` wrote
    (``--out``), a frame, or a ``Result``; of a real sender the overhead is given too. ``columns`` maps our names to the
    log's (``"started_s=ts,status=code"``); ``where`` keeps rows by value; ``endpoint`` is a pattern of endpoints to
    keep; ``observed`` cuts the log to [from, until), ISO times or seconds as the log has them.

    Raises:
        ScenarioError: the log cannot be read or used; says what is missing, where, and what to do.
    """
    read = calibrate_log.read(log, columns, where)
    window = _window(read, observed)
    read = _kept(read, endpoint, window)
    found = Findings(warnings=list(read.warnings))
    if read.kind == "attempts":
        receiver, arrivals, history = fit_attempts(read, found)
        dispatcher = _fit_sender(read, found)
    else:
        arrivals = dispatcher = None
        receiver, history = _fit_history(read, found, window)
    endpoints = read.frame["endpoint"].nunique() if "endpoint" in read.frame else 1
    if endpoints == 1:
        found.warnings.append(
            "one endpoint only: whether it failed or the way to it (network, sender) cannot be told apart, nor how "
            "much endpoints differ, nor whether they fail together"
        )
    if arrivals is not None:
        found.parameters += [("producer.", parameter) for parameter in arrivals.parameters]
        found.goodness += arrivals.goodness
        found.warnings += arrivals.warnings
    start, end = _extent(read)
    if window[1] is not None and math.isfinite(window[1]):
        end = min(end, window[1])
    result = FitResult(
        receiver=receiver,
        producer=None if arrivals is None else arrivals.block,
        table=_table(found.parameters),
        goodness=pd.DataFrame(found.goodness, columns=list(Goodness._fields)),
        warnings=tuple(dict.fromkeys(found.warnings)),
        endpoints=endpoints,
        fan_out=_fan_out(read),
        horizon_s=max(end - start, 0.0),
        durations=tuple(found.durations),
        history=history,
        dispatcher=dispatcher,
    )
    load(result.scenario())  # what is given must be accepted
    return result


def _fit_sender(log: Log, found: Findings) -> dict[str, Any] | None:
    """What a real sender adds to each attempt, as the dispatcher of a scenario file."""
    if not log.real:
        return None
    measured = overhead(log.frame)
    found.parameters += [("", part) for part in measured if part.observations]
    found.warnings += measured.warnings
    return measured.block if measured.known else None


def _table(parameters: list[tuple[str, Parameter]]) -> pd.DataFrame:
    rows = []
    for path, parameter in parameters:
        joint = "" if not path or path.endswith(".") else "."
        name = path + joint + parameter.name if parameter.name else path
        rows.append(
            (name, parameter.value, parameter.low, parameter.high, parameter.unit, parameter.observations)
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["parameter", "value", "low", "high", "unit", "observations"])


# --------------------------------------------------------------------------- which part of the log


def _window(log: Log, observed: tuple[Any, Any]) -> tuple[float, float]:
    """The time to look at, s of the log."""
    ends = []
    for name, given, default in zip(("from", "until"), observed, (-math.inf, math.inf), strict=True):
        if given is None:
            ends.append(default)
            continue
        try:
            if isinstance(given, int | float) or str(given).replace(".", "", 1).isdigit():
                moment = float(given)
            else:
                stamp = pd.Timestamp(given)
                moment = (stamp.tz_localize("UTC") if stamp.tz is None else stamp).timestamp()
        except (ValueError, TypeError):
            rule = "must be an ISO time, or seconds as the log counts them"
            raise ScenarioError([Problem(name, given, rule)]) from None
        ends.append(moment - log.origin_s)
    if not ends[0] < ends[1]:
        raise ScenarioError([Problem("until", observed[1], "must be later than from")])
    return ends[0], ends[1]


def _kept(log: Log, endpoint: str, window: tuple[float, float]) -> Log:
    """The rows of the endpoints and the time asked for."""
    frame, deliveries, span = log.frame, log.deliveries, log.window_s
    if endpoint != "*":
        frame = frame[calibrate_outages.require_endpoint(frame, endpoint, log.name)]
        if deliveries is not None:
            names = deliveries["endpoint"].astype(str)
            deliveries = deliveries[names.map(lambda name: fnmatch.fnmatchcase(name, endpoint))]
    column = {"attempts": "started_s", "checks": "checked_s"}.get(log.kind)
    if column is not None:
        frame = frame[(frame[column] >= window[0]) & (frame[column] < window[1])]
        if frame.empty:
            raise ScenarioError("has no row in the time asked for", log.name)
    if window != (-math.inf, math.inf) and deliveries is not None:
        created = deliveries["created_s"].astype(float) - log.origin_s
        deliveries = deliveries[(created >= window[0]) & (created < window[1])]
        span = None if span is None else (max(span[0], window[0]), min(span[1], window[1]))
    return Log(
        log.kind,
        frame.reset_index(drop=True),
        log.name,
        log.origin_s,
        log.clock,
        span,
        deliveries,
        log.warnings,
        log.real,
    )


def _extent(log: Log) -> tuple[float, float]:
    """First and last time of the log, s; when it was kept, if that is known."""
    if log.window_s is not None:
        return log.window_s
    names = [name for name in ("created_s", "started_s", "checked_s", "down_start") if name in log.frame]
    lows = [float(log.frame[name].min()) for name in names]
    highs = [float(log.frame[name].max()) for name in (*names, *(n for n in ("down_end",) if n in log.frame))]
    return min(lows), max(highs)


def _fan_out(log: Log) -> str:
    """Whether every endpoint gets every event, as far as the log shows it."""
    if not (log.has("event_id") and "endpoint" in log.frame):
        return "by_key"
    pairs = log.frame[["event_id", "endpoint"]].drop_duplicates()
    return "all" if len(pairs) > 1.5 * pairs["event_id"].nunique() else "by_key"


# --------------------------------------------------------------------------- histories


def _fit_history(
    log: Log, found: Findings, window: tuple[float, float]
) -> tuple[dict[str, Any], dict[str, Period]]:
    """A receiver that is down as often and as long as those of a history."""
    history, told = calibrate_outages.of_log(log)
    found.warnings += told
    history = calibrate_outages.between(history, *window)
    if not history:
        raise ScenarioError(
            "no endpoint was watched for any time: each needs two checks in the time asked for", log.name
        )
    receiver: dict[str, Any] = {"latency": "0s"}
    if log.kind == "checks" and log.has("latency_s"):
        frame = log.frame
        up = calibrate_log.ups(frame, log.name) & frame["latency_s"].notna().to_numpy()
        values = frame["latency_s"].to_numpy()[up]
        if len(values) >= FEWEST_LATENCIES:
            latency = fit_duration(sample(values), "latency")
            found.take(latency, "receiver.latency")
            receiver["latency"] = latency.block
    else:
        found.warnings.append("latency: the history has none (latency_s), so 0s is given")
    fitted, warnings = calibrate_outages.fit_outages(history, "refuse")
    found.warnings += warnings
    if fitted is not None:
        take_outage(fitted, "receiver.outage", found)
        found.warnings.append("outage: a history does not tell what callers met; refuse is given (how)")
    elif not warnings:
        found.warnings.append("outage: none was seen, so none is given")
    if found.faults:
        receiver["faults"] = found.faults
    return receiver, history
