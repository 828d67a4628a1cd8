"""Worlds small enough to work out by hand, and rows of a trace to compare with."""

from __future__ import annotations

from typing import Any

import pandas as pd


def world(*times: str, **changes: Any) -> dict[str, Any]:
    """One producer ``p`` with one key and events at these times, one endpoint ``e``; sections replaced."""
    mapping = {
        "horizon": "100s",
        "drain": "1000s",
        "producers": {"p": producer(*times or ("0s",))},
        "endpoints": {"e": {"policy": "m", "receiver": "r"}},
        "policies": {"m": {"schedule": ["0s", "1s"], "timeout": "5s"}},
        "receivers": {"r": {"latency": "1s"}},
    }
    return mapping | changes


def producer(*times: str, **more: Any) -> dict[str, Any]:
    """A producer with one ordering key and events at these times."""
    return {"arrivals": {"at": list(times)}, "keys": {"count": 1}, **more}


def policy(*schedule: Any, timeout: str = "5s", **more: Any) -> dict[str, Any]:
    """The policies of a world that has one."""
    return {"m": {"schedule": list(schedule), "timeout": timeout, **more}}


def receiver(latency: Any = "1s", *faults: Any, **more: Any) -> dict[str, Any]:
    """The receivers of a world that has one."""
    return {"r": {"latency": latency, "faults": list(faults), **more}}


def outage(start: str, end: str, how: Any = "refuse") -> dict[str, Any]:
    """A fault: one outage window."""
    return {"outage": {"windows": [[start, end]], "how": how}}


def endpoint(**more: Any) -> dict[str, Any]:
    """The endpoints of a world that has one."""
    return {"e": {"policy": "m", "receiver": "r", **more}}


def rows(frame: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    """Columns of a frame as plain tuples; None for a missing value, ids without the endpoint ``e:0``."""
    plain = [
        [None if pd.isna(value) else value for value in frame[column].astype(object)] for column in columns
    ]
    return [
        tuple(value.removesuffix(":e:0") if isinstance(value, str) else value for value in row)
        for row in zip(*plain, strict=True)
    ]


def failing(start: str, end: str, how: Any = "refuse", latency: Any = "1s") -> dict[str, Any]:
    """The receivers of a world that has one, with one outage."""
    faults = [{"outage": {"windows": [[start, end]], "how": how}}]
    return {"r": {"latency": latency, "faults": faults}}
