"""Figures as people like to read them: shares, times, counts, and the gaps of a schedule. Text only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from sim.policy import FOREVER

MISSING = "–"
"""Stands for a figure that does not exist, such as the latency of nothing."""
ENDLESS = "∞"
_TIME = re.compile(r"(?<!_per)_s(_(mean|p\d+))?$")
_UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0))
"""Each is used from two of it on, the second from one: 90 s, 2 min, 119 min, 2 h."""


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
