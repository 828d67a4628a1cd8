"""What the load generators sent, and whether they were on time: the figures of the requests of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import orjson

from sim.metrics import summary
from sim.policy import SECOND

if TYPE_CHECKING:
    from loadtest.generator import Sent

LATE_S = 0.005
"""Lateness (p99) that a run may always have."""
LATE_SHARE = 0.1
"""Share of the gated quantile that it may have beyond."""

Row = list[Any]
"""Intended, sent and answered (ns since 1970), status, ids of the events, whether it failed, dropped."""
FIELDS = ("intended", "sent", "answered", "status", "ids", "failed", "dropped")


@dataclass(frozen=True, kw_only=True)
class Posted:
    """The requests of a run, one entry each; times are ns since 1970."""

    intended: np.ndarray[Any, np.dtype[np.int64]]
    sent: np.ndarray[Any, np.dtype[np.int64]]
    answered: np.ndarray[Any, np.dtype[np.int64]]
    failed: np.ndarray[Any, np.dtype[np.bool_]]
    dropped: np.ndarray[Any, np.dtype[np.bool_]]
    ids: list[list[str]]

    @property
    def accepted(self) -> dict[str, int]:
        """The events that were answered 202, and when, ns since 1970."""
        return {
            name: int(at)
            for names, at, failed in zip(self.ids, self.answered, self.failed, strict=True)
            if not failed
            for name in names
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Figures of the requests by name; latencies count from the intended start, those dropped have none."""
        went = ~self.dropped
        latency = (self.answered - self.intended)[went] / SECOND
        lateness = (self.sent - self.intended)[went] / SECOND
        return {
            "requests": float(len(self.sent)),
            "request_failures": float(self.failed.sum()),
            **summary("request_latency_s", latency),
            **summary("lateness_s", lateness),
            "dropped": float(self.dropped.sum()),
        }


def row(sent: Sent) -> Row:
    """What is noted of a request."""
    return [sent.intended, sent.sent, sent.answered, sent.status, sent.post.ids, sent.failed, sent.dropped]


def posted(rows: Iterable[Row]) -> Posted:
    """The requests of these rows, in order of their intended start."""
    ordered = sorted(rows, key=lambda row: row[0])
    columns: dict[str, list[Any]] = {name: [row[i] for row in ordered] for i, name in enumerate(FIELDS)}
    return Posted(
        intended=np.array(columns["intended"], dtype=np.int64),
        sent=np.array(columns["sent"], dtype=np.int64),
        answered=np.array(columns["answered"], dtype=np.int64),
        failed=np.array(columns["failed"], dtype=bool),
        dropped=np.array(columns["dropped"], dtype=bool),
        ids=columns["ids"],
    )


def read(file: BinaryIO) -> Posted:
    """Read the rows that a master wrote, one in each line; a line that was cut off is left out."""
    return posted(orjson.loads(line) for line in file if line.endswith(b"\n"))


def too_late(metrics: Mapping[str, float], gated_s: float = math.inf) -> str:
    """Why a run is invalid, as its generator was late or had no room; empty if it was on time.

    Args:
        metrics: of the requests.
        gated_s: the smallest latency that a gate asks for; infinite: none is gated.
    """
    limit = max(LATE_S, LATE_SHARE * gated_s) if math.isfinite(gated_s) else LATE_S
    late = metrics["lateness_s_p99"]
    if metrics["dropped"]:
        return f"the load generator had no room for {metrics['dropped']:,.0f} requests and dropped them"
    if not metrics["requests"]:
        return "the load generator sent nothing"
    if not late <= limit:
        return (
            f"the load generator was late: lateness_s_p99 is {late:.4g} s, at most {limit:.4g} s are allowed "
            "(a machine with more cores, more --processes or a lower rate helps)"
        )
    return ""
