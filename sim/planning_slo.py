"""Service level objectives: ``delivery_latency_s_p99<=30s``, how they are written, and what it takes to meet them.

A setting *meets* an objective with 95 % confidence if the one-sided 95 % limit of the figure's mean over luck
(Student's t over independent replications; the upper limit for ``<=``, the lower for ``>=``) lies within the
objective. So a setting whose true mean does not is taken for one that does at most once in twenty times. The claim is
about the mean over many runs of this length, not about each of them. Several objectives need no correction: all are
said to be met only if each of them is, by itself, at that confidence (an intersection–union test: Berger,
*Multiparameter hypothesis testing and acceptance sampling*, Technometrics 24 (1982)).
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim import intervals
from sim.errors import Problem, ScenarioError
from sim.experiment_session import FLOORS
from sim.fields import parse_duration, parse_rate, parse_share, parse_size
from sim.metrics import QUANTILES
from sim.shown import MEANINGS, SPREAD, entry_of, shown, unit

FIELD = "slo"
NEAREST = 3
"""Names that a message about an unknown one gives."""
_EXPRESSION = re.compile(r"\s*([^<>=≤≥!]+?)\s*(<=|>=|≤|≥)\s*([^<>=≤≥!]+?)\s*")
_WITHIN = re.compile(r"within_share\{([^{}]+)\}")
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,15})?(?:[eE][-+]?\d{1,2})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Slo:
    """A figure and what it may be, at most or at least."""

    text: str
    """As it was given, without blanks."""
    metric: str
    at_most: bool
    limit: float
    """In the unit of the figure: s, a share between 0 and 1, per s, bytes, or a count."""

    @property
    def scale(self) -> float:
        """What the objective leaves to be used up, by which headroom is measured.

        The limit itself, or for a share that must be reached, the share that may be missed; never less than what
        matters of this unit.
        """
        whole = 1 - self.limit if not self.at_most and unit(self.metric) == "share" else self.limit
        return max(whole, FLOORS[unit(self.metric)])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a setting meets an objective, judged from its replications."""

    slo: Slo
    mean: float
    """Of the figure over the replications in which it exists; NaN if there are none."""
    bound: float
    """The one-sided confidence limit of that mean, on the side of the objective; NaN if there is none."""
    met: bool
    runs_met: int
    """Replications that met the objective one by one."""
    missing: int
    """Replications without the figure; a setting that has any does not meet the objective."""
    runs: int

    @property
    def headroom(self) -> float:
        """What is left between the confidence limit and the objective, as a part of ``Slo.scale``.

        Negative if the objective is missed; -inf if the figure does not exist in every replication.
        """
        if self.missing or math.isnan(self.bound):
            return -math.inf
        left = self.slo.limit - self.bound if self.slo.at_most else self.bound - self.slo.limit
        return left / self.slo.scale

    def to_json(self) -> dict[str, Any]:
        """As ``hooklab plan --json`` prints it; a number that does not exist is None."""
        numbers = {"mean": self.mean, "bound": self.bound, "headroom": self.headroom}
        return {
            "expr": self.slo.text,
            "metric": self.slo.metric,
            "limit": self.slo.limit,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "met": self.met,
            "runs_met": self.runs_met,
            "runs": self.runs,
        }


def judge(slo: Slo, values: Sequence[float] | np.ndarray[Any, Any], confidence: float) -> Verdict:
    """Judge one figure of the replications of a setting; NaN stands for a figure that does not exist.

    Two replications at least, and a confidence above 50 %.
    """
    figures = np.asarray(values, dtype=float)
    known = figures[~np.isnan(figures)]
    # the ends of a two-sided interval with 2c - 1 are the one-sided limits with c
    interval = intervals.mean_interval(known, 2 * confidence - 1)
    bound = interval.high if slo.at_most else interval.low
    met_by = known <= slo.limit if slo.at_most else known >= slo.limit
    within = bound <= slo.limit if slo.at_most else bound >= slo.limit
    missing = len(figures) - len(known)
    return Verdict(
        slo=slo,
        mean=interval.mean,
        bound=bound,
        met=bool(within) and not missing,
        runs_met=int(met_by.sum()),
        missing=missing,
        runs=len(figures),
    )


# --------------------------------------------------------------------------- reading


def read(texts: str | Iterable[str]) -> tuple[Slo, ...]:
    """Read objectives, each ``metric<=value`` or ``metric>=value``.

    A value is a duration, share, rate or size as a scenario has them, or a number in the unit of the figure.

    Raises:
        ScenarioError: there is none, one is not of that form, names no figure (tells the nearest), has a value that
            the figure cannot have, or two of them cannot both be met.
    """
    given = [texts] if isinstance(texts, str) else list(texts)
    if not given:
        raise ScenarioError("nothing to meet; give --slo METRIC<=VALUE, such as delivery_latency_s_p99<=30s")
    slos = tuple(dict.fromkeys(_read_one(text) for text in given))
    _require_possible(slos)
    return slos


def _read_one(text: str) -> Slo:
    match = _EXPRESSION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        rule = "must be METRIC<=VALUE or METRIC>=VALUE, such as delivery_latency_s_p99<=30s"
        raise ScenarioError([Problem(FIELD, text, rule)])
    metric, sign, value = match.groups()
    _require_known(text, metric)
    at_most = sign in ("<=", "≤")
    try:
        limit = READERS[unit(metric)](value)
    except ValueError as error:
        rule = f"has the value {value}, which {error}"
        raise ScenarioError([Problem(FIELD, text, rule)]) from None
    return Slo(
        text=f"{metric}{'<=' if at_most else '>='}{value}", metric=metric, at_most=at_most, limit=limit
    )


def _require_known(text: str, metric: str) -> None:
    if within := _WITHIN.fullmatch(metric):
        try:
            parse_duration(within[1])
        except ValueError as error:
            raise ScenarioError([Problem(FIELD, text, f"has {within[1]} in braces, which {error}")]) from None
        return
    names = known_metrics()
    if metric in names:
        return
    near = difflib.get_close_matches(metric, names, n=NEAREST, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ScenarioError(
        [Problem(FIELD, text, f"names no figure of a run: {metric}{hint} (hooklab figures lists them)")]
    )


def known_metrics() -> tuple[str, ...]:
    """Every figure of a run by name, quantiles one by one; of ``within_share`` one for many."""
    names: list[str] = []
    for entry in MEANINGS:
        if entry.endswith(SPREAD):
            names += [f"{entry.removesuffix(SPREAD)}{which}" for which in ("mean", *QUANTILES)]
        else:
            names.append(entry.replace("{…}", "{30s}"))
    return tuple(names)


def _seconds(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    return parse_duration(text) / 1e9


def _per_s(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else parse_rate(text)


def _bytes(text: str) -> float:
    return float(text) if _NUMBER.fullmatch(text) else float(parse_size(text.removesuffix("/s").strip()))


def _plain(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError("must be a number of at least 0, such as 1.5")
    return float(text)


READERS: dict[str, Callable[[str], float]] = {
    "s": _seconds,
    "share": parse_share,
    "1/s": _per_s,
    "B": _bytes,
    "B/s": _bytes,
    "ratio": _plain,
    "count": _plain,
}
"""How a value is read, by the unit of its figure."""


# --------------------------------------------------------------------------- contradictions


def _require_possible(slos: Sequence[Slo]) -> None:
    """Refuse two objectives of which one asks for more of a figure than the other allows.

    A quantile is never below that of a smaller share, nor ``within_share`` below that of a shorter time.
    """
    for one, other in itertools.permutations(slos, 2):
        if one.at_most or not other.at_most or one.limit <= other.limit:
            continue
        if one.metric == other.metric or _never_above(one.metric, other.metric):
            rule = f"contradicts {other.text}: no setting meets both; change one of them"
            raise ScenarioError([Problem(FIELD, one.text, rule)])


def _never_above(low: str, high: str) -> bool:
    """Whether the one figure cannot exceed the other, whatever happens."""
    within = [_WITHIN.fullmatch(name) for name in (low, high)]
    if within[0] and within[1]:
        return parse_duration(within[0][1]) <= parse_duration(within[1][1])
    if within[0]:
        return high == "processed_share"
    (stem, which), (other_stem, other) = low.rsplit("_", 1), high.rsplit("_", 1)
    order = list(QUANTILES)
    return (
        stem == other_stem
        and entry_of(low).endswith(SPREAD)
        and which in order
        and other in order
        and order.index(which) <= order.index(other)
    )


def shown_verdict(verdict: Verdict) -> str:
    """In words: by how much an objective is missed or met."""
    slo = verdict.slo
    if verdict.missing:
        return f"{slo.text}: {slo.metric} does not exist in {verdict.missing:,} of {verdict.runs:,} runs"
    side = "up to" if slo.at_most else "as low as"
    what = f"{slo.metric} is {shown(slo.metric, verdict.mean)} ({side} {shown(slo.metric, max(verdict.bound, 0.0))})"
    by = f"{abs(verdict.headroom) * 100:,.0f} % of what it allows"
    return (
        f"{slo.text}: {what}, {'with' if verdict.met else 'over by'} {by}{' to spare' if verdict.met else ''}"
    )
