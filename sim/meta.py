"""What was run: the part of a trace that is not a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.blocks_dispatcher import UNLIMITED
from sim.model import Model

REAL = "real"
"""Stands for an engine where a real sender made the attempts."""
ID_BYTES = 64
"""Size of a queue entry that holds only an id (a UUID in text, a type and a separator)."""
THIN_BYTES = 200
"""Size of a message without data: ids, type, key, seq and a time, as JSON."""


def of(
    model: Model, engine: str, ended: int, stopped: bool, events: int, tiers: Sequence[int]
) -> dict[str, Any]:
    """What is to be known of a run to work out its figures: plain numbers and text, as in ``meta.json``.

    ``ended``: ns; ``stopped``: there the backlog outgrew its limit; ``events``: those created in the window of the
    figures; ``tiers``: the tier of each (policy, tier) that made an attempt: under ``per_tier`` workers were there.
    """
    scenario = model.scenario
    dispatcher = scenario.dispatcher
    outages = model.outages_until(ended)
    groups = {}
    for name, endpoint in scenario.endpoints.items():
        named = endpoint.receiver if isinstance(endpoint.receiver, dict) else [endpoint.receiver]
        groups[name] = {"count": endpoint.count, "receivers": sorted(named)}
    return {
        "scenario": scenario.to_yaml(),
        "name": scenario.name,
        "seed": model.seed,
        "engine": engine,
        "kind": scenario.kind,
        "undocumented": list(scenario.undocumented),
        "horizon_s": model.horizon / 1e9,
        "warmup_s": model.warmup / 1e9,
        "end_s": (ended + 1 if stopped else model.end) / 1e9,  # what happened at the last instant counts
        "stopped": stopped,
        "backlog_limit": model.most_open,
        "ended_s": ended / 1e9,
        "sample_every_s": _sample_every(model) / 1e9,
        "events": events,
        "workers": _workers(model, tiers),
        "overhead_s": dispatcher.overhead / 1e9,
        "queue_holds": dispatcher.queue_holds,
        "message": dispatcher.message,
        "bytes": {
            "body": dict(zip(model.producers, model.body_bytes, strict=True)),
            "id": ID_BYTES,
            "thin": THIN_BYTES,
        },
        "endpoints": groups,
        "dedupe_s": {m.name: model.dedupe_ns(m) / 1e9 for m in model.members if model.dedupe_ns(m)},
        "stale_guard": {m.name: 1.0 for m in model.members if model.guarded(m)},
        "last_outage_s": [at / 1e9 for at in outages[-1]] if outages else None,
    }


def _sample_every(model: Model) -> int:
    chosen = model.scenario.sample_every
    if chosen is not None:
        return int(chosen)
    # 500 points over the horizon, and no more than 5,000 over the whole run
    return max(-(-model.horizon // 500), -(-model.end // 5000))


def _workers(model: Model, tiers: Sequence[int]) -> list[list[float]] | None:
    """Workers over time as [from_s, number]; None: unlimited. Under ``per_tier``: of all tiers in use."""
    dispatcher = model.scenario.dispatcher
    if dispatcher.lanes is not None:
        return [[0.0, float(dispatcher.lanes.first + dispatcher.lanes.retries)]]
    if dispatcher.discipline == "shared":
        steps = model.scenario.dispatcher.workers_at()
        return None if steps[0][1] == UNLIMITED else [[start / 1e9, float(count)] for start, count in steps]
    return [[0.0, float(sum(model.scenario.dispatcher.tier_workers(tier) for tier in tiers))]]
