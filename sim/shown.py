"""Figures as people like to read them: what they mean, shares, times, counts, the gaps of a schedule. Text only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from sim.policy import FOREVER

MISSING = "–"
"""Stands for a figure that does not exist, such as the latency of nothing."""
ENDLESS = "∞"
SPREAD = "{mean,p50,p90,p99,p999}"
"""Stands for the mean and the quantiles of a figure, which differ only in the end of their names."""
MEANINGS = {
    "events": "events that producers emitted in the whole run",
    "deliveries": "events times the endpoints that they go to; those created between warm-up and horizon",
    "attempts": "HTTP tries for these deliveries, whenever they were made",
    "delivered_share": "deliveries that the sender knows to have arrived",
    "lost_share": "deliveries given up: dead, expired, dropped, or their object vanished from the database",
    "unsettled_share": "deliveries still waiting or in flight when the run ended; raise drain if it is above 0",
    "expired_share": "deliveries given up because they became older than max_age",
    "processed_share": "deliveries that their receiver processed, whether or not the sender got to know",
    "false_loss_share": "deliveries given up although their receiver had processed them",
    f"delivery_latency_s_{SPREAD}": "from creation to the first processing, of the deliveries that were processed",
    "within_share{…}": "deliveries processed within this time of their creation; any duration will do, as in {10s}",
    f"settle_time_s_{SPREAD}": "from creation to the final state, delivered or given up",
    f"queue_wait_s_{SPREAD}": "from when an attempt is due until it starts: the wait for a worker, a slot or a turn",
    "attempts_per_delivery": "attempts divided by deliveries: how much retries multiply the load",
    "duplicates_per_delivery": "repeated processings divided by deliveries",
    "duplicate_share": "deliveries that their receiver processed more than once",
    "effect_duplicates_per_delivery": "repeats that neither dedupe nor a stale guard caught, divided by deliveries",
    "stale_dropped_share": "deliveries that a stale guard ignored, since something newer had been processed",
    "late_share": "deliveries processed, or repeated, after a later one of the same key: order violations",
    "inversions_per_event": "pairs of one key processed in the wrong order, divided by deliveries",
    "newer_share": "deliveries processed with data newer than their event (ids in the queue, thin messages)",
    "stale_share": "deliveries processed with data that its object had already outgrown",
    "attempts_per_s": "attempts started in a second, on average: the throughput",
    "goodput_per_s": "first processings in a second, on average: what the attempts are good for",
    "delivered_per_s": "deliveries that the sender learned to have arrived in a second, on average",
    "attempts_per_s_max": "most attempts started within one second",
    "backlog_mean": "deliveries waiting at the sender for an attempt, retries not yet due included, on average",
    "backlog_max": "most deliveries waiting at the sender at once",
    "backlog_bytes_max": "most bytes waiting at the sender at once: bodies, or ids if the queue holds those",
    "receiver_queue_max": "most requests waiting at receivers at once",
    "egress_bytes_per_s": "bytes sent in a second, on average, objects fetched for thin messages included",
    "api_calls_per_s": "calls that receivers make back in a second, on average: polls, and fetches for thin messages",
    "orbit_mean": "failed deliveries waiting for their next attempt to come due, on average",
    "drain_s": "from the end of the last outage until as little waits, at sender and receivers, as before it",
    "worker_utilization": "share of the workers' time that attempts take; none where workers are unlimited",
    "empty_poll_share": "polls that returned nothing",
}
"""Every figure of a run in a sentence, in the order of ``Metrics``; names that differ in a part have one entry."""
REQUEST_MEANINGS = {
    "requests": "requests that the load generator made, one or more events each",
    "request_failures": "requests that were not answered as they should have been",
    f"request_latency_s_{SPREAD}": "from the intended start of a request to its answer",
    f"lateness_s_{SPREAD}": "by how much requests left later than planned: the load generator could not keep up",
    "dropped": "requests that were due and never sent",
}
"""Figures of the load generator of a load test, by name; no simulation has them."""
_TIME = re.compile(r"(?<!_per)_s(_(mean|p\d+))?$")
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
"""Each is used from two of it on, the second from one: 90 s, 2 min, 119 min, 2 h."""


def entry_of(name: str) -> str:
    """The name in ``MEANINGS`` of a figure: ``within_share{…}`` for ``within_share{30s}``.

    Raises:
        KeyError: there is no such figure.
    """
    stem = re.sub(r"_(mean|p50|p90|p99|p999)$", f"_{SPREAD}", name)
    for entry in (name, stem, re.sub(r"\{[^{}]+\}$", "{…}", name)):
        if entry in MEANINGS:
            return entry
    raise KeyError(name)


def named(entry: str) -> tuple[str, ...]:
    """The figures that an entry of ``MEANINGS`` or ``REQUEST_MEANINGS`` stands for."""
    if not entry.endswith(SPREAD):
        return (entry,)
    return tuple(f"{entry.removesuffix(SPREAD)}{which}" for which in SPREAD.strip("{}").split(","))


def unit(name: str) -> str:
    """The unit of a figure as JSON and files have it; a share is between 0 and 1."""
    stem = name.removesuffix(f"_{SPREAD}")
    if "share" in stem or stem == "worker_utilization":
        return "share"
    if "bytes" in stem:
        return "B/s" if stem.endswith("_per_s") else "B"
    if re.search(r"_per_s(_max)?$", stem):
        return "1/s"
    if _TIME.search(stem):
        return "s"
    return "ratio" if "_per_" in stem else "count"


def shown(name: str, value: float) -> str:
    """A figure by its name: shares in per cent, times in their own unit, counts with commas."""
    if math.isnan(value):
        return MISSING
    if "share" in name or name == "worker_utilization":
        return shown_share(value)
    if _TIME.search(name):
        return shown_duration(value)
    if "bytes" in name:
        return f"{value:,.0f} {'B/s' if name.endswith('_per_s') else 'B'}"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else _digits(value, 4)


def shown_share(share: float) -> str:
    """A share in per cent; 100 % and 0 % are said only where nothing at all is missing."""
    percent = share * 100
    if percent == 0:
        return "0 %"
    # what lies close to the whole is read by what is missing: 99.9993 %
    missing = (1 - share) * 100
    return f"{_digits(percent, 2, missing) if 0 < missing < 1 else _digits(percent, 3)} %"


def _digits(value: float, count: int, scale: float | None = None) -> str:
    """So many digits of a number, counted from the first of ``scale`` (default: its own); never an exponent."""
    first = math.floor(math.log10(abs(value if scale is None else scale)))
    text = f"{value:.{max(count - 1 - first, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown_duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if math.isinf(seconds):
        return ENDLESS
    if seconds == 0:
        return "0 s"
    amount, unit = _in_unit(seconds)
    return f"{_three(amount)} {unit}"


def _in_unit(seconds: float) -> tuple[float, str]:
    for unit, size in _UNITS:
        if seconds >= size * (2 if unit != "s" else 1):
            return seconds / size, unit
    return seconds * 1000, "ms"


def _three(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def shown_gap(gap_ns: int) -> str:
    """A gap the short way, as a scenario writes it: ``90m``; rounded to three digits where that is long."""
    from sim.fields import format_duration

    exact = format_duration(gap_ns)
    if len(exact.rstrip("dhmsun")) <= 3:
        return exact
    amount, unit = _in_unit(gap_ns / 1e9)
    return f"{_three(amount)}{unit.removesuffix('in')}"


def shown_gaps(runs: Iterable[tuple[int, int]], most: int = 8) -> str:
    """The gaps of a schedule on one line, such as ``0s 5s 5m 10h ×2``; of many, the first and the last."""
    parts = [_shown_run(gap, times) for gap, times in joined(runs)]
    if len(parts) > most:
        parts = [*parts[: most - 2], "…", parts[-1]]
    return " ".join(parts)


def _shown_run(gap: int, times: int) -> str:
    if times == 1:
        return shown_gap(gap)
    return f"{shown_gap(gap)} ×{ENDLESS if times >= FOREVER else f'{times:,}'}"


def joined(runs: Iterable[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """The runs ``(gap, times)`` with equal neighbours as one."""
    result: list[tuple[int, int]] = []
    for gap, times in runs:
        if result and result[-1][0] == gap:
            gap, times = gap, min(result.pop()[1] + times, FOREVER)
        result.append((gap, times))
    return result
