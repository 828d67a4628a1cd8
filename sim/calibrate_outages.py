"""When receivers were down: from histories, or from runs of failed attempts; fitted as up and down times.

Up and down times alternate. The first period of an endpoint had begun before it was watched, and enters with the
density of what was left of it, survival / mean (Cox, Renewal Theory, 1962, chapter 5), as a scenario's random
outages begin in steady state; the last is cut off. Both kinds of period are taken as independent, and all
endpoints as alike: what speaks against that is said in warnings.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sim import calibrate_log
from sim.calibrate_durations import Fit, fit_duration
from sim.calibrate_families import Floats, Sample, sample
from sim.calibrate_log import Log
from sim.errors import ScenarioError
from sim.shown import shown_duration, shown_share

FEWEST = 3
"""Complete up times and down times below which no outage is fitted."""
FEWEST_RUN = 3
"""Failures in a row that may be an outage at all."""
BY_CHANCE = 0.01
"""Runs of independent failures that may pass for an outage in a whole log, on average."""
COARSE = 0.2
"""Share of a median down time by which its ends may be uncertain."""
PAUSE = 100.0
"""How many times its usual gap an endpoint may go without an attempt and still be watched."""
UNEQUAL = 0.001
"""A chance of unequal counts of outages so small says that endpoints differ."""
TOGETHER = 3.0
"""How many times more uneven than by chance the number of endpoints that are down may be."""


@dataclass(frozen=True)
class Period:
    """How long one endpoint was watched, and its outages in that time, s."""

    start_s: float
    end_s: float
    outages: Floats
    """[start, end) in rows, in order; one that ends with the watch is cut off."""


History = Mapping[str, Period]
"""Periods by endpoint."""


def between(history: History, start_s: float, end_s: float) -> dict[str, Period]:
    """The part of a history that lies between two times; endpoints not watched then are left out."""
    found = {}
    for name, period in history.items():
        low, high = max(period.start_s, start_s), min(period.end_s, end_s)
        if high > low:
            inside = period.outages[(period.outages[:, 1] > low) & (period.outages[:, 0] < high)]
            found[name] = Period(low, high, np.clip(inside, low, high))
    return found


def share_down(history: History) -> float:
    """Share of the watched time in which endpoints were down."""
    down = sum(float((p.outages[:, 1] - p.outages[:, 0]).sum()) for p in history.values())
    watched = sum(p.end_s - p.start_s for p in history.values())
    return down / watched if watched > 0 else math.nan


# --------------------------------------------------------------------------- reading histories


def of_log(log: Log) -> tuple[dict[str, Period], tuple[str, ...]]:
    """The history in a log of checks or outages, and what to know about it.

    Raises:
        ScenarioError: rows go back in time, an outage ends before it starts, or two of one endpoint overlap.
    """
    return _of_checks(log) if log.kind == "checks" else _of_outages(log)


def _by_endpoint(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if "endpoint" not in frame:
        return [("", frame)]
    return [(str(name), own) for name, own in frame.groupby("endpoint", sort=False)]


def _of_checks(log: Log) -> tuple[dict[str, Period], tuple[str, ...]]:
    frame = log.frame.assign(is_up=calibrate_log.ups(log.frame, log.name))
    history = {}
    for name, own in _by_endpoint(frame):
        at, is_up = own["checked_s"].to_numpy(), own["is_up"].to_numpy()
        _require_order(own, at, log.name, "checked_s")
        edges = np.flatnonzero(np.diff(is_up.astype(int), prepend=1))
        begins = at[edges[~is_up[edges]]]
        ends = at[edges[is_up[edges]]]
        if len(ends) < len(begins):
            ends = np.append(ends, at[-1])
        outages = np.column_stack((begins, ends))
        history[name] = Period(float(at[0]), float(at[-1]), outages[outages[:, 1] > outages[:, 0]])
    return history, ()


def _require_order(own: pd.DataFrame, at: Any, name: str, column: str) -> None:
    back = np.diff(at, prepend=at[0]) < 0
    if back.any():
        rule = f"{column} is earlier than in the row before it of the same endpoint; sort the file by time"
        raise calibrate_log.bad_row(own, back, rule, name)


def _of_outages(log: Log) -> tuple[dict[str, Period], tuple[str, ...]]:
    frame = log.frame
    backwards = (frame["down_end"] < frame["down_start"]).to_numpy()
    if backwards.any():
        raise calibrate_log.bad_row(frame, backwards, "down_end is earlier than down_start", log.name)
    open_ = frame["down_end"].isna()
    if "right_censored" in frame:
        open_ |= frame["right_censored"].astype(str).str.strip().str.lower().isin(("1", "true", "yes"))
    first = float(frame["down_start"].min())
    last = float(np.nanmax(frame[["down_start", "down_end"]].to_numpy()))
    history = {}
    for name, own in _by_endpoint(frame.assign(is_open=open_)):
        start = own["down_start"].to_numpy()
        _require_order(own, start, log.name, "down_start")
        cut = own["is_open"].to_numpy()
        end = np.where(np.isnan(own["down_end"].to_numpy()), last, own["down_end"].to_numpy())
        overlap = np.zeros(len(own), bool)
        overlap[1:] = start[1:] < np.maximum.accumulate(end)[:-1]
        if overlap.any():
            rule = f"starts before an earlier outage of the same endpoint ({name}) has ended; merge the two"
            raise calibrate_log.bad_row(own, overlap, rule, log.name)
        if cut[:-1].any():
            rule = f"goes on when the log ends, and yet another outage of the same endpoint ({name}) follows"
            raise calibrate_log.bad_row(own[:-1], cut[:-1], rule, log.name)
        outages = np.column_stack((start, end))
        history[name] = Period(first, float(end[-1]) if cut[-1] else last, outages[end > start])
    warning = (
        "the log has outages only: every endpoint in it is taken as watched from the first outage of all to the end "
        "of the last, and endpoints without an outage are missing, so receivers look worse than they are; a log of "
        "checks tells both"
    )
    return history, (warning,)


# --------------------------------------------------------------------------- outages in a log of attempts


@dataclass(frozen=True)
class Found:
    """Outages that a log of attempts shows."""

    inside: Any
    """For each attempt, whether it fell into one."""
    histories: dict[str, dict[str, Period]]
    """By what callers met, refuse, hang or a status: the history of every endpoint."""
    shortest_run: int
    """Failures in a row that count as an outage."""
    attempts: Mapping[str, int]
    """By what callers met: the attempts that fell into outages."""
    uncertain_s: float
    """Half of the usual time between the attempts on either side of a beginning or an end, s."""


def detect(frame: pd.DataFrame, window_s: tuple[float, float] | None = None) -> Found:
    """Find outages: failures of one endpoint in a row, with no success among them.

    A run is an outage if a connection was refused in it, or if it is at least so long that ``BY_CHANCE`` runs of
    that length would come about in the whole log, were failures independent (with their share just after a
    success). It begins half-way between the last success and the first failure, and ends half-way too. Where an
    endpoint was not tried for ``PAUSE`` times its usual gap, unless it failed on both sides, nobody watched: a new
    period begins. So does the watch with ``window_s`` and end with it: retries after the last event are few.
    """
    ordered = frame.sort_values(["endpoint", "started_s"], kind="stable")
    failed = (ordered["outcome"] != "delivered").to_numpy()
    at = ordered["started_s"].to_numpy()
    watch, names = _watches(ordered, at, failed)
    refused = (ordered["outcome"] == "refused").to_numpy()
    shortest = _shortest_run(failed, watch)
    edges = np.flatnonzero((np.diff(watch, prepend=-1) != 0) | (np.diff(failed.astype(int), prepend=-1) != 0))
    stops = np.append(edges[1:], len(failed))
    outcome, status = ordered["outcome"].astype(str).to_numpy(), ordered["status"].to_numpy()
    inside = np.zeros(len(failed), bool)
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    attempts: Counter[str] = Counter()
    brackets = []
    for first, stop in zip(edges.tolist(), stops.tolist(), strict=True):
        if not failed[first] or not (refused[first:stop].any() or stop - first >= shortest):
            continue
        inside[first:stop] = True
        start, end = at[first], at[stop - 1]
        if first > 0 and watch[first - 1] == watch[first]:
            brackets.append((start - at[first - 1]) / 2)
            start -= brackets[-1]
        if stop < len(failed) and watch[stop] == watch[first]:
            brackets.append((at[stop] - end) / 2)
            end += brackets[-1]
        how = _how(outcome[first:stop], status[first:stop])
        attempts[how] += stop - first
        if end > start:
            found.setdefault(how, {}).setdefault(int(watch[first]), []).append((start, end))
    firsts = np.flatnonzero(np.diff(watch, prepend=-1) != 0)
    lasts = np.append(firsts[1:], len(watch)) - 1
    watched = list(zip(names, at[firsts].tolist(), at[lasts].tolist(), strict=True))
    histories = {
        how: {
            name: Period(start, end, np.array(runs.get(number, []), dtype=float).reshape(-1, 2))
            for number, (name, start, end) in enumerate(watched)
        }
        for how, runs in found.items()
    }
    if window_s is not None:
        histories = {how: between(history, *window_s) for how, history in histories.items()}
    marks = np.zeros(len(frame), bool)
    marks[frame.index.get_indexer(ordered.index)] = inside
    return Found(marks, histories, shortest, attempts, float(np.median(brackets)) if brackets else 0.0)


def _watches(ordered: pd.DataFrame, at: Any, failed: Any) -> tuple[Any, list[str]]:
    """The number of the watch that each attempt belongs to, and for each the endpoint (and which of its own)."""
    endpoint, names = pd.factorize(ordered["endpoint"])
    gaps = np.diff(at, prepend=at[0])
    changes = np.diff(endpoint, prepend=-1) != 0
    usual = pd.Series(np.where(changes, np.nan, gaps)).groupby(endpoint).transform("median").to_numpy()
    both = failed & np.concatenate(([False], failed[:-1]))
    with np.errstate(invalid="ignore"):
        pauses = ~changes & (gaps > PAUSE * usual) & ~both & (usual > 0)
    begins = changes | pauses
    numbers = pd.Series(begins.astype(int)).groupby(endpoint).cumsum().to_numpy()[begins]
    owners = names[endpoint[begins]]
    labels = [f"{n}" if i == 1 else f"{n} ({i})" for n, i in zip(owners, numbers.tolist(), strict=True)]
    return np.cumsum(begins) - 1, labels


def _shortest_run(failed: Any, watch: Any) -> int:
    """The length of a run that independent failures would hardly reach anywhere in the log."""
    same = watch[1:] == watch[:-1]
    after_success = same & ~failed[:-1]
    share = (int((failed[1:] & after_success).sum()) + 1) / (int(after_success.sum()) + 2)
    if share >= 0.9:
        return max(FEWEST_RUN, len(failed))
    return max(FEWEST_RUN, math.ceil(math.log(BY_CHANCE / max(len(failed), 1)) / math.log(share)))


def _how(outcome: Any, status: Any) -> str:
    """What most attempts of an outage met: refuse, hang, or a status as text."""
    words = np.where(
        outcome == "refused", "refuse", np.where(outcome == "timed_out", "hang", status.astype(str))
    )
    values, counts = np.unique(words, return_counts=True)
    return str(values[counts.argmax()])


# --------------------------------------------------------------------------- up and down times


def durations(history: History) -> tuple[Sample, Sample]:
    """Up times and down times of all endpoints."""
    rows: dict[bool, list[tuple[float, bool, float, bool]]] = {True: [], False: []}
    for period in history.values():
        now, up, residual = period.start_s, True, True
        edges = period.outages.ravel().tolist()
        if edges and edges[0] <= now:
            edges, up = edges[1:], False
        for edge in (*edges, period.end_s):
            ended = edge < period.end_s
            if edge > now or ended:
                rows[up].append((max(edge - now, 0.0), ended, period.end_s - now, residual))
            now, up, residual = edge, not up, False
            if not ended:
                break
    up_rows, down_rows = (np.array(rows[up], dtype=float).reshape(-1, 4) for up in (True, False))
    return tuple(sample(r[:, 0], r[:, 1], r[:, 2], r[:, 3]) for r in (up_rows, down_rows))  # type: ignore[return-value]


@dataclass(frozen=True)
class OutageFit:
    """Fitted up and down times."""

    up: Fit
    down: Fit
    how: Any
    """As a scenario file has it."""
    warnings: tuple[str, ...]

    @property
    def fault(self) -> dict[str, Any]:
        """The fault of a receiver block."""
        return {"outage": {"up": self.up.block, "down": self.down.block, "how": self.how}}


def fit_outages(
    history: History,
    how: str,
    name: str = "outage",
    forms: tuple[str | None, str | None] = (None, None),
    attempts: int = 0,
) -> tuple[OutageFit | None, tuple[str, ...]]:
    """Fit up and down times; None where there are too few, and what to know.

    ``forms`` are those of the up and the down times where they have been chosen already; ``attempts``, how many
    attempts fell into the outages, is told where nothing is fitted.
    """
    ups, downs = durations(history)
    seen = sum(len(period.outages) for period in history.values())
    if min(int(ups.ended.sum()), downs.complete) < FEWEST:
        if not seen:
            return None, ()
        missed = shown_duration(sum(float(np.diff(period.outages).sum()) for period in history.values()))
        tries = f" with {attempts:,} failed attempt{'s' if attempts > 1 else ''}" if attempts else ""
        told = (
            f"{name}: {seen} outage{'s' if seen > 1 else ''}, of which {downs.complete} seen from beginning to end; at "
            f"least {FEWEST} up times and {FEWEST} down times must have ended, so no outage is fitted: {missed} of "
            f"failing ({shown_share(share_down(history))} of the time watched){tries} are left out, and the receiver "
            "given is up all that time; take a longer log, or write an outage by hand"
        )
        return None, (told,)
    if ups.complete < 1:  # first periods tell the mean, and nothing has both ends
        ups = Sample(ups.values, ups.ended, ups.limits, np.zeros(len(ups.values), bool))
    written: Any = {"status": int(how)} if how.isdigit() else how
    fits = (
        fit_duration(ups, f"{name} up", mean_s=_mean_s(ups), form=forms[0]),
        fit_duration(downs, f"{name} down", mean_s=_mean_s(downs), form=forms[1]),
    )
    warnings = (*fits[0].warnings, *fits[1].warnings, *_against(history, name))
    return OutageFit(*fits, written, warnings), warnings


def _against(history: History, name: str) -> tuple[str, ...]:
    """What in a history speaks against the model."""
    return (*_alike(history, name), *_steady(history, name), *_together(history, name))


def _mean_s(taken: Sample) -> float:
    """Time watched for each period that ended: the mean, whatever the distribution, where many ended."""
    return float(taken.values.sum()) / int(taken.ended.sum())


def _alike(history: History, name: str) -> tuple[str, ...]:
    """A warning if endpoints differ in their number of outages by more than chance (chi-square)."""
    counts = np.array([len(period.outages) for period in history.values()], dtype=float)
    watched = np.array([period.end_s - period.start_s for period in history.values()])
    expected = counts.sum() * watched / watched.sum()
    if len(counts) < 2 or expected.min() <= 0:
        return ()
    # outages less regular than Poisson would differ too: the spread over endpoints is what plans must know
    chance = float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1))
    if chance >= UNEQUAL:
        return ()
    most = np.sort(counts)[::-1][: max(len(counts) // 10, 1)].sum() / counts.sum()
    told = (
        f"{name}: endpoints differ: a tenth of them have {most:.0%} of the outages; fit them in groups (--where, "
        "--endpoint) and mix the receivers, or losses of the worst ones are spread over all"
    )
    return (told,)


def _steady(history: History, name: str) -> tuple[str, ...]:
    """A warning if outages came more often in one half of the time than in the other (binomial)."""
    middle = (min(p.start_s for p in history.values()) + max(p.end_s for p in history.values())) / 2
    halves = [between(history, *window) for window in ((-math.inf, middle), (middle, math.inf))]
    if not all(halves):
        return ()
    watched = [sum(p.end_s - p.start_s for p in half.values()) for half in halves]
    counts = [sum(int((p.outages[:, 0] > p.start_s).sum()) for p in half.values()) for half in halves]
    if not sum(counts):
        return ()
    if stats.binomtest(counts[0], sum(counts), watched[0] / sum(watched)).pvalue >= UNEQUAL:
        return ()
    rates = [count / (length / 86_400) for count, length in zip(counts, watched, strict=True)]
    told = (
        f"{name}: not steady: {rates[0]:.3g} outages a day and endpoint in the first half, {rates[1]:.3g} in the "
        "second; the fit takes their mean for all time, and its intervals know nothing of such change"
    )
    return (told,)


def _together(history: History, name: str) -> tuple[str, ...]:
    """A warning if endpoints are down together more than independent ones would be."""
    if len(history) < 2:
        return ()
    low = max(p.start_s for p in history.values())
    high = min(p.end_s for p in history.values())
    if high <= low:
        low, high = min(p.start_s for p in history.values()), max(p.end_s for p in history.values())
    grid = np.linspace(low, high, 20_000)
    down = np.zeros(len(grid))
    expected = 0.0
    for period in history.values():
        mine = np.searchsorted(period.outages.ravel(), grid, side="right") % 2
        down += mine
        expected += float(mine.mean() * (1 - mine.mean()))
    if expected <= 0 or down.var() < TOGETHER * expected:
        return ()
    told = (
        f"{name}: endpoints are down together ({down.var() / expected:.0f} times the variance of independent ones); "
        "intervals take them as independent and are too narrow, and scope: all together is the other extreme"
    )
    return (told,)


def coarse(found: Found, fitted: OutageFit, name: str) -> tuple[str, ...]:
    """A warning if attempts are too rare to see where outages begin and end."""
    ended = fitted.down.sample.values[fitted.down.sample.ended]
    median = float(np.median(ended))
    if found.uncertain_s <= COARSE * median:
        return ()
    told = (
        f"{name}: an outage begins and ends between two attempts, here {shown_duration(2 * found.uncertain_s)} apart, "
        f"and lasts {shown_duration(median)}: shorter ones went unseen, and their number is too small"
    )
    return (told,)


def require_endpoint(frame: pd.DataFrame, pattern: str, name: str) -> Any:
    """Marks of the rows whose endpoint matches a pattern.

    Raises:
        ScenarioError: the log names no endpoints, or none matches.
    """
    import fnmatch

    if "endpoint" not in frame:
        raise ScenarioError("has no column endpoint; map yours with --columns endpoint=NAME", name)
    known = [str(value) for value in frame["endpoint"].unique()]
    matching = {value for value in known if fnmatch.fnmatchcase(value, pattern)}
    if not matching:
        raise ScenarioError(f"has no endpoint {pattern!r}; it has {', '.join(known[:12])}", name)
    return frame["endpoint"].isin(matching).to_numpy()
