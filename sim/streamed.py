"""The figures of a run of which no table was kept: what was counted as it went, put under the names of ``metrics``.

Shares, counts, rates and means are exact; quantiles are those of histograms, at most ``RELATIVE_ERROR`` off.
``within_share`` is exact for the limits that are always told; any other limit is placed within its bucket.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sim import policy
from sim.fields import parse_duration
from sim.histogram import Histogram, lowest
from sim.metrics import QUANTILES, WITHIN, Metrics, capacity, ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DURATIONS = ("delivery_latency_s", "settle_time_s", "queue_wait_s")


@dataclass(frozen=True)
class Streamed:
    """What a run left behind: counts, histograms and what was run."""

    counts: dict[str, float]
    """The counts and areas of the engine by name (``compiled_tally.TALLY``); areas in s."""
    states: dict[str, int]
    """Deliveries of the window by state."""
    within: tuple[int, ...]
    """Deliveries processed within each of ``metrics.WITHIN``."""
    latency: Histogram
    """Creation to first processing."""
    settling: Histogram
    """Creation to final state."""
    wait: Histogram
    """Due to start, of every attempt."""
    latency_by_piece: tuple[float, ...]
    """See ``metrics.latency_by_piece``."""
    meta: dict[str, Any]

    def save(self, folder: Path, table_format: str = "parquet") -> None:
        """Write ``histograms`` (``parquet`` or ``csv``) and ``meta.json`` into a folder that exists."""
        from sim.trace import save_meta, save_table

        save_table(self.histograms, folder / "histograms", table_format)
        save_meta(self.meta, folder)

    @property
    def histograms(self) -> pd.DataFrame:
        """How many durations (of: delivery_latency_s, settle_time_s, queue_wait_s) lay in [low_s, high_s].

        Only buckets that hold any; those of several runs are merged by adding.
        """
        parts = []
        for name, histogram in zip(DURATIONS, (self.latency, self.settling, self.wait), strict=True):
            numbers = np.flatnonzero(histogram.counts)
            low = np.array([lowest(number) for number in numbers.tolist()], dtype=np.int64)
            high = np.array([lowest(number + 1) - 1 for number in numbers.tolist()], dtype=np.int64)
            count = histogram.counts[numbers]
            parts.append(pd.DataFrame({"of": name, "low_s": low / 1e9, "high_s": high / 1e9, "count": count}))
        return pd.concat(parts, ignore_index=True)

    @property
    def attempts_made(self) -> int:
        """Attempts of the whole run, also of deliveries that figures leave out."""
        return int(self.counts["made"])

    def plot(self) -> Figure:
        """Latency, settling and waiting times."""
        from sim.plots_streamed import durations

        return durations(self.histograms, str(self.meta["name"]))

    @functools.cached_property
    def metrics(self) -> Metrics:
        """All figures by name."""
        values = {"events": float(self.meta["events"]), **self._of_deliveries(), **self._over_time()}
        return Metrics(values, functools.partial(_share_within, self.latency, sum(self.states.values())))

    def _of_deliveries(self) -> dict[str, float]:
        c, count = self.counts, sum(self.states.values())
        unsettled = self.states["waiting"] + self.states["in_flight"]
        shares = zip(WITHIN, self.within, strict=True)
        return {
            "deliveries": float(count),
            "attempts": c["attempts"],
            "delivered_share": ratio(self.states["delivered"], count),
            "lost_share": ratio(sum(self.states[state] for state in policy.LOST), count),
            "unsettled_share": ratio(unsettled, count),
            "expired_share": ratio(self.states["expired"], count),
            "processed_share": ratio(c["processed"], count),
            "false_loss_share": ratio(c["false_losses"], count),
            **_summary("delivery_latency_s", self.latency),
            **{f"within_share{{{limit}}}": ratio(done, count) for limit, done in shares},
            **_summary("settle_time_s", self.settling),
            **_summary("queue_wait_s", self.wait),
            "attempts_per_delivery": ratio(c["attempts"], count),
            "duplicates_per_delivery": ratio(c["duplicates"], count),
            "duplicate_share": ratio(c["repeated"], count),
            "effect_duplicates_per_delivery": ratio(c["effects"], count),
            "stale_dropped_share": ratio(c["stale_dropped"], count),
            "late_share": ratio(c["late"], count),
            "inversions_per_event": ratio(c["inversions"], count),
            "newer_share": ratio(c["newer"], count),
            "stale_share": ratio(c["stale"], count),
        }

    def _over_time(self) -> dict[str, float]:
        c, meta = self.counts, self.meta
        start, end = meta["warmup_s"], min(meta["horizon_s"], meta["end_s"])
        length = max(end - start, 0.0)  # a run may have stopped before its warm-up was over
        return {
            "attempts_per_s": ratio(c["started"], length),
            "goodput_per_s": ratio(c["processed_first"], length),
            "delivered_per_s": ratio(c["delivered"], length),
            "attempts_per_s_max": c["most_in_second"],
            "backlog_mean": ratio(c["backlog_area"], length),
            "backlog_max": c["backlog_most"],
            "backlog_bytes_max": c["bytes_most"],
            "receiver_queue_max": c["queue_most"],
            "egress_bytes_per_s": ratio(c["egress"], length),
            "api_calls_per_s": ratio(c["api_calls"], length),
            "orbit_mean": ratio(c["orbit_area"], length),
            "drain_s": c["drained"],
            "worker_utilization": ratio(c["busy_area"], capacity(meta["workers"], start, end)),
            "empty_poll_share": ratio(c["empty_polls"], c["polls"]),
        }


def _summary(name: str, histogram: Histogram) -> dict[str, float]:
    quantiles = {f"{name}_{which}": histogram.quantile_s(share) for which, share in QUANTILES.items()}
    return {f"{name}_mean": histogram.mean_s(), **quantiles}


def _share_within(latency: Histogram, deliveries: int, limit: str) -> float:
    return ratio(latency.up_to(parse_duration(limit)), deliveries)


def state_counts(numbers: list[int]) -> dict[str, int]:
    """Counts by the names of states, from a list in the order of ``policy.STATES``."""
    return dict(zip(policy.STATES, numbers, strict=True))
