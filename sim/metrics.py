"""The figures of a trace: latency, loss, duplicates, order, load, backlog. A trace and nothing else is needed.

Figures about deliveries are taken over those created in [warmup, horizon), and shares are shares of these;
rates, utilisation, orbit and backlog are taken over the same interval of time. A figure that does not exist
(the latency of nothing) is NaN.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sim import receiver, series
from sim.fields import parse_duration
from sim.order import late_in_order
from sim.policy import LOST
from sim.series import Floats

if TYPE_CHECKING:
    from sim.trace import Trace

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
WITHIN = ("1s", "30s", "5m", "1h", "24h")
PIECES = 100
"""Pieces of the horizon in the series by which a warm-up is checked."""
_WITHIN = re.compile(r"within_share\{(.+)\}")


class Metrics(Mapping[str, float]):
    """Name → figure, in a fixed order; ``within_share{…}`` answers for any duration, listed or not."""

    def __init__(self, values: dict[str, float], within: Callable[[str], float]) -> None:
        self._values = values
        self._within = within

    def __getitem__(self, name: str) -> float:
        if name in self._values:
            return self._values[name]
        if match := _WITHIN.fullmatch(name):
            try:
                return self._within(match[1])
            except ValueError as error:
                raise KeyError(f"{name}: {error}") from None
        near = difflib.get_close_matches(name, self._values, n=3)
        raise KeyError(f"there is no figure {name}" + (f"; did you mean {', '.join(near)}?" if near else ""))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metrics({self._values!r})"


def metrics(trace: Trace) -> Metrics:
    """All figures of a trace."""
    inside = _window(trace)
    values: dict[str, float] = {"events": float(trace.meta["events"])}
    values |= of_deliveries(trace, inside)
    values |= _over_time(trace, trace.meta["warmup_s"], min(trace.meta["horizon_s"], trace.meta["end_s"]))
    latencies, count = _latencies(trace.deliveries[inside]), int(inside.sum())
    return Metrics(values, functools.partial(_within, latencies, count))


def latency_by_piece(trace: Trace) -> tuple[float, ...]:
    """Mean latency of the deliveries created in each of ``PIECES`` pieces of the horizon, s; NaN without any."""
    created = trace.deliveries["created_s"].to_numpy()
    latency = trace.deliveries["first_processed_s"].to_numpy() - created
    known = ~np.isnan(latency)
    ns = np.rint(created[known] * 1e9).astype(np.int64)
    piece = np.searchsorted(piece_ends(round(trace.meta["horizon_s"] * 1e9)), ns, side="right")
    return piece_means(np.bincount(piece, latency[known], PIECES), np.bincount(piece, minlength=PIECES))


def piece_ends(horizon: int) -> list[int]:
    """Where the pieces of a horizon end, ns."""
    return [-(-(piece + 1) * horizon // PIECES) for piece in range(PIECES)]


def piece_means(sums: Any, counts: Any) -> tuple[float, ...]:
    """Means from sums and counts; NaN of nothing."""
    means = np.divide(sums, counts, out=np.full(len(sums), math.nan), where=counts > 0)
    return tuple(means.tolist())


def metrics_by(trace: Trace, what: str) -> pd.DataFrame:
    """All figures by ``endpoint`` group, event ``type`` or ``hour``: one row each.

    By endpoint and type they are those of the part of the trace that belongs to it; by hour those of the
    deliveries created in it, and rates, backlog and utilisation over it.
    """
    deliveries = trace.deliveries
    inside = _window(trace)
    if what == "hour":
        hours = (deliveries["created_s"] // 3600).astype(int)
        rows = {
            hour: _of_hour(trace, inside & (hours == hour), hour) for hour in sorted(hours[inside].unique())
        }
    elif what in ("endpoint", "type"):
        names: list[str] = [str(name) for name in deliveries[what].cat.categories]
        if what == "endpoint":
            names = [name.rpartition(":")[0] for name in names]
        labels = np.array(names, dtype=object)[deliveries[what].cat.codes.to_numpy()]
        rows = {
            label: dict(metrics(part_of(trace, labels == label, label if what == "endpoint" else None)))
            for label in sorted(set(labels[inside]))
        }
    else:
        raise ValueError(f"what is {what!r}; it must be endpoint, type or hour")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(what)


def _of_hour(trace: Trace, chosen: Any, hour: int) -> dict[str, float]:
    start = max(3600.0 * hour, trace.meta["warmup_s"])
    end = min(3600.0 * (hour + 1), trace.meta["horizon_s"])
    events = float(trace.deliveries["event_id"][chosen].nunique())
    return {"events": events, **of_deliveries(trace, chosen), **_over_time(trace, start, end)}


def part_of(trace: Trace, mask: Any, group: str | None) -> Trace:
    """The part of a trace with the deliveries of a mask; of the polls, those of an endpoint group if given."""
    from sim.trace import Trace as Whole

    keep = mask[trace.delivery_rows]
    polls = trace.polls
    if group is not None:
        polls = polls[polls["endpoint"].astype(str).str.rpartition(":")[0] == group] if len(polls) else polls
    deliveries = trace.deliveries[mask].reset_index(drop=True)
    created = deliveries["created_s"]
    inside = (created >= trace.meta["warmup_s"]) & (created < trace.meta["horizon_s"])
    meta = trace.meta | {"events": int(deliveries["event_id"][inside].nunique())}
    part = Whole(trace.attempts[keep].reset_index(drop=True), deliveries, polls.reset_index(drop=True), meta)
    vars(part)["delivery_rows"] = (np.cumsum(mask) - 1)[trace.delivery_rows[keep]]
    return part


def _window(trace: Trace) -> Any:
    created = trace.deliveries["created_s"]
    return (created >= trace.meta["warmup_s"]) & (created < trace.meta["horizon_s"])


def _latencies(deliveries: pd.DataFrame) -> Floats:
    """Creation → first processing of those processed, sorted, s."""
    return np.sort(
        series.exact((deliveries["first_processed_s"] - deliveries["created_s"]).dropna().to_numpy())
    )


def _within(latencies: Floats, deliveries: int, limit: str) -> float:
    if not deliveries:
        return math.nan
    return float(np.searchsorted(latencies, parse_duration(limit) / 1e9, side="right") / deliveries)


def summary(name: str, values: Floats) -> dict[str, float]:
    """Mean and quantiles; a quantile is the least observed value that so many do not exceed."""
    if not len(values):
        return {f"{name}_{which}": math.nan for which in ("mean", *QUANTILES)}
    ordered = np.sort(values)
    figures = {f"{name}_mean": float(values.mean())}
    for which, share in QUANTILES.items():
        figures[f"{name}_{which}"] = float(ordered[max(math.ceil(share * len(ordered)) - 1, 0)])
    return figures


def ratio(part: float, whole: float) -> float:
    """A share or rate; NaN of nothing."""
    return part / whole if whole else math.nan


def of_deliveries(trace: Trace, chosen: Any) -> dict[str, float]:
    """The figures about the chosen deliveries (a mask) and their attempts."""
    mask = np.asarray(chosen)
    deliveries = trace.deliveries[mask]
    of_chosen = mask[trace.delivery_rows]
    count = len(deliveries)
    attempts = int(of_chosen.sum())
    state = deliveries["state"]
    processed = deliveries["first_processed_s"].notna()
    lost = state.isin(LOST)
    waits = series.exact((trace.attempts["started_s"] - trace.attempts["due_s"]).to_numpy()[of_chosen])
    effects, stale_dropped = _effects(trace, deliveries, of_chosen)
    return {
        "deliveries": float(count),
        "attempts": float(attempts),
        "delivered_share": ratio(int((state == "delivered").sum()), count),
        "lost_share": ratio(int(lost.sum()), count),
        "unsettled_share": ratio(int(state.isin(("waiting", "in_flight")).sum()), count),
        "expired_share": ratio(int((state == "expired").sum()), count),
        "processed_share": ratio(int(processed.sum()), count),
        "false_loss_share": ratio(int((lost & processed).sum()), count),
        **summary("delivery_latency_s", _latencies(deliveries)),
        **{f"within_share{{{limit}}}": _within(_latencies(deliveries), count, limit) for limit in WITHIN},
        **summary(
            "settle_time_s",
            series.exact((deliveries["settled_s"] - deliveries["created_s"]).dropna().to_numpy()),
        ),
        **summary("queue_wait_s", waits),
        "attempts_per_delivery": ratio(attempts, count),
        "duplicates_per_delivery": ratio(int(deliveries["duplicates"].sum()), count),
        "duplicate_share": ratio(int((deliveries["duplicates"] > 0).sum()), count),
        "effect_duplicates_per_delivery": ratio(effects, count),
        "stale_dropped_share": ratio(stale_dropped, count),
        "late_share": ratio(int(deliveries["late"].sum()), count),
        "inversions_per_event": ratio(_inversions(deliveries), count),
        "newer_share": ratio(int(deliveries["newer"].sum()), count),
        "stale_share": ratio(int(deliveries["stale"].sum()), count),
    }


def _effects(trace: Trace, deliveries: pd.DataFrame, of_chosen: Any) -> tuple[int, int]:
    """Repeats that had an effect, after dedupe and stale guard, and deliveries that a stale guard ignored.

    A receiver forgets a delivery its window after the processing that had an effect; a repeat does not renew it.
    """
    window, guarded = trace.meta["dedupe_s"], trace.meta["stale_guard"]
    if not window and not guarded:
        return int(deliveries["duplicates"].sum()), 0
    rows = trace.delivery_rows
    processed = trace.attempts["processed_s"].to_numpy()
    wanted = np.flatnonzero(of_chosen & ~np.isnan(processed))
    wanted = wanted[
        np.lexsort((trace.attempts["attempt_number"].to_numpy()[wanted], processed[wanted], rows[wanted]))
    ]
    late = _late_processings(trace)[wanted].tolist() if guarded else [False] * len(wanted)
    names = trace.deliveries["endpoint"].cat.categories
    codes = trace.deliveries["endpoint"].cat.codes.to_numpy()[rows[wanted]].tolist()
    forgets = [window.get(name, 0.0) for name in names]
    guards = [name in guarded for name in names]
    effects = ignored = 0
    delivery, had, known_until = -1, False, -math.inf
    for row, at, is_late, code in zip(
        rows[wanted].tolist(), processed[wanted].tolist(), late, codes, strict=True
    ):
        is_first = row != delivery
        if is_first:
            delivery, had, known_until = row, False, -math.inf
        effect = receiver.effect(is_late, guards[code], at, known_until)
        if effect == receiver.IGNORED:
            ignored += is_first
        elif effect == receiver.EFFECTIVE:
            effects += had
            had, known_until = True, round(at + forgets[code], 9)  # as ``exact``
    return effects, ignored


def _late_processings(trace: Trace) -> Any:
    """For each attempt, whether its processing came after one of a later seq of its key."""
    attempts = trace.attempts
    keys = pd.factorize(attempts["key"])[0]
    stream = (
        attempts["endpoint"].cat.codes.to_numpy().astype(np.int64) * (int(keys.max(initial=0)) + 1) + keys
    )
    numbers = attempts["attempt_number"].to_numpy()
    known = np.flatnonzero(attempts["processed_s"].notna().to_numpy())
    late = np.zeros(len(attempts), dtype=bool)
    late[known] = late_in_order(
        stream[known],
        attempts["seq"].to_numpy()[known],
        attempts["processed_s"].to_numpy()[known],
        trace.delivery_rows[known],
        numbers[known],
    )
    return late


def _inversions(deliveries: pd.DataFrame) -> int:
    """Pairs of one key at one endpoint of which the later seq was processed first."""
    if not deliveries["late"].any():
        return 0
    from sim import jit

    known = deliveries[deliveries["first_processed_s"].notna()]
    keys = pd.factorize(known["key"])[0]  # a key's name begins with its producer's
    streams = pd.factorize(
        known["endpoint"].cat.codes.to_numpy().astype(np.int64) * (int(keys.max()) + 1) + keys
    )[0]
    order = np.lexsort((known.index.to_numpy(), known["first_processed_s"].to_numpy(), streams))
    seq = known["seq"].to_numpy()
    place = streams[order].astype(np.int64) * (int(seq.max()) + 1) + seq[order]
    return jit.count_inversions(place)


def _over_time(trace: Trace, start: float, end: float) -> dict[str, float]:
    """The figures about an interval of time."""
    meta = trace.meta
    length = max(end - start, 0.0)  # a run may have stopped before its warm-up was over
    attempts, deliveries = trace.attempts, trace.deliveries
    pushed = attempts["tier"].to_numpy() > 0
    started = attempts["started_s"].to_numpy()
    first = deliveries["first_processed_s"].to_numpy()
    delivered = deliveries["delivered_s"].to_numpy()
    waiting = series.waits(trace)
    retry = waiting.tier > 1
    orbit = series.held(waiting.entered[retry], np.minimum(waiting.due, waiting.left)[retry], start, end)
    producers = deliveries["producer"].cat
    sizes = np.array([meta["bytes"]["body"][name] for name in producers.categories], dtype=float)
    bodies = sizes[producers.codes.to_numpy()]
    queued = bodies if meta["queue_holds"] == "body" else np.full(len(bodies), float(meta["bytes"]["id"]))
    polls = trace.polls[(trace.polls["polled_s"] >= start) & (trace.polls["polled_s"] < end)]
    return {
        "attempts_per_s": ratio(int(((started >= start) & (started < end)).sum()), length),
        "goodput_per_s": ratio(int(((first >= start) & (first < end)).sum()), length),
        "delivered_per_s": ratio(int(((delivered >= start) & (delivered < end)).sum()), length),
        "attempts_per_s_max": _peak_per_s(started, start, end),
        "backlog_mean": ratio(series.held(waiting.entered, waiting.left, start, end), length),
        "backlog_max": _highest(waiting.entered, waiting.left, None, start, end),
        "backlog_bytes_max": _highest(waiting.entered, waiting.left, queued[waiting.delivery], start, end),
        "receiver_queue_max": _highest(*series.receiver_queue(trace), None, start, end),
        "egress_bytes_per_s": ratio(_egress(trace, bodies, start, end), length),
        "api_calls_per_s": ratio(_api_calls(trace, start, end), length),
        "orbit_mean": ratio(orbit, length),
        "drain_s": _drain(trace, waiting),
        "worker_utilization": _utilization(trace, started[pushed], pushed, start, end),
        "empty_poll_share": ratio(int((polls["returned"] == 0).sum()), len(polls)),
    }


def _peak_per_s(started: Floats, start: float, end: float) -> float:
    """Most attempts that start within one second, seconds counted from the beginning of the interval."""
    inside = started[(started >= start) & (started < end)]
    if not len(inside):
        return 0.0
    return float(np.unique(np.floor(series.exact(inside - start)), return_counts=True)[1].max())


def _highest(entered: Floats, left: Floats, weight: Floats | None, start: float, end: float) -> float:
    """The highest sum of weights of intervals at one time."""
    times, levels = series.steps(entered, left, weight)
    if not len(times) or start >= end:
        return 0.0
    at_start = max(int(np.searchsorted(times, start, side="right")) - 1, 0)
    until = int(np.searchsorted(times, end, side="left"))
    inside = levels[at_start:until]
    return float(inside.max()) if len(inside) else 0.0


def _egress(trace: Trace, bodies: Floats, start: float, end: float) -> float:
    """Bytes sent: a message per attempt, and where messages are thin the body fetched per processing."""
    attempts = trace.attempts
    row = trace.delivery_rows
    sent = (attempts["started_s"] >= start) & (attempts["started_s"] < end)
    if trace.meta["message"] == "full":
        return float(bodies[row][sent.to_numpy()].sum())
    fetched = (attempts["processed_s"] >= start) & (attempts["processed_s"] < end)
    return float(sent.sum() * trace.meta["bytes"]["thin"] + bodies[row][fetched.to_numpy()].sum())


def _api_calls(trace: Trace, start: float, end: float) -> float:
    """Calls that receivers make back: one for each processing of a thin message, one for each poll."""
    polled = trace.polls["polled_s"]
    calls = float(((polled >= start) & (polled < end)).sum())
    if trace.meta["message"] == "thin":
        processed = trace.attempts["processed_s"]
        calls += float(((processed >= start) & (processed < end)).sum())
    return calls


def _utilization(trace: Trace, started: Floats, pushed: Any, start: float, end: float) -> float:
    """Share of the workers' time spent on attempts; NaN when workers are unlimited."""
    finished = trace.attempts["finished_s"].fillna(np.inf).to_numpy()[pushed]
    return ratio(series.held(started, finished, start, end), capacity(trace.meta["workers"], start, end))


def capacity(workers: list[list[float]] | None, start: float, end: float) -> float:
    """The time that workers have in an interval, s; ``workers`` as in ``meta``, NaN when they are unlimited."""
    if workers is None:
        return math.nan
    froms = np.array([step[0] for step in workers])
    untils = np.append(froms[1:], np.inf)
    spans = np.maximum(np.minimum(untils, end) - np.maximum(froms, start), 0.0)
    return float((spans * np.array([step[1] for step in workers])).sum())


def _drain(trace: Trace, waiting: series.Waits) -> float:
    """From the end of the last outage until what waits is back at its mean before it, s.

    The queues of receivers count: a storm of retries moves the backlog there. NaN: no outage, or never.
    """
    outage: list[float] | None = trace.meta["last_outage_s"]
    if outage is None:
        return math.nan
    start, end = outage
    queued = series.receiver_queue(trace)
    entered = np.concatenate((waiting.entered, queued[0]))
    left = np.concatenate((waiting.left, queued[1]))
    began = min(trace.meta["warmup_s"], start)
    before = series.held(entered, left, began, start) / (start - began) if start > began else 0.0
    # what receivers take up only after the run has not been taken up in it
    times, levels = series.steps(entered, np.where(left > trace.meta["ended_s"], np.inf, left))
    at = int(np.searchsorted(times, end, side="right")) - 1
    if at < 0:  # nothing had waited yet
        return 0.0
    back = np.flatnonzero(levels[at:] <= before)
    if not len(back):
        return math.nan
    return float(max(times[at + back[0]] - end, 0.0))
