"""The smallest world that loads, and ways to change a leaf of it and to look one up."""

from __future__ import annotations

import copy
from typing import Any

WORLD: dict[str, Any] = {
    "horizon": "1h",
    "drain": "2h",
    "producers": {"p": {"arrivals": {"poisson": "1/s"}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "1m"]}},
    "receivers": {"r": {"latency": "100ms"}},
}


def world(path: str = "", value: Any = None) -> dict[str, Any]:
    """The smallest world, with one leaf set; ``path`` is separated by slashes."""
    mapping = copy.deepcopy(WORLD)
    node: Any = mapping
    *way, last = path.split("/")
    for key in way:
        node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    if path:
        node[int(last) if isinstance(node, list) else last] = value
    return mapping


def at(scenario: Any, path: str) -> Any:
    """A value of a loaded scenario by its path."""
    for key in path.split("/"):
        scenario = scenario[key] if isinstance(scenario, dict) else getattr(scenario, key)
    return scenario
