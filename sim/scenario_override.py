"""One leaf of a scenario replaced: ``policies.mine.timeout=3s``, as ``--set`` and sweeps take it."""

from __future__ import annotations

import copy
import re
from typing import Any

from sim import presets, yamlio
from sim.blocks_world import ReceiverBlock
from sim.errors import Problem, ScenarioError, nearest, path_of, shown

SECTIONS = ("producers", "endpoints", "policies", "receivers")
"""Sections that map names to blocks."""

_KEY = r"""(?:"[^"]+"|'[^']+'|[^."'=]+)"""
_QUOTED = re.compile(r""""[^"]*"|'[^']*'""")
_OVERRIDE = re.compile(rf"\s*({_KEY}(?:\.{_KEY})*)=(.*)", re.DOTALL)


def split(text: str) -> tuple[list[str], str]:
    """The keys and the value of a ``path=value`` text; a key with dots stands in quotes.

    Raises:
        ScenarioError: it is not of that form.
    """
    if not isinstance(text, str):
        raise ScenarioError(
            [Problem("overrides", text, "must be PATH=VALUE texts, such as policies.mine.timeout=3s")]
        )
    match = _OVERRIDE.fullmatch(text)
    if match is not None and (
        position := re.search(r"([^.\[\]]+)\[(\d+)\]", _QUOTED.sub("", text).partition("=")[0])
    ):
        raise ScenarioError(
            f"--set {shown(text)}: a position in a list is a key like any other; write "
            f"{position[1]}.{position[2]} for {position[0]}"
        )
    if match is None:
        raise ScenarioError(
            f"--set {shown(text)} must be PATH=VALUE, such as policies.mine.timeout=3s; a key with dots stands "
            'in quotes: producers.shops.events."order.paid"=5'
        )
    return [key.strip("\"' ") for key in re.findall(_KEY, match[1])], match[2]


def override(data: dict[str, Any], text: str) -> None:
    """Replace one leaf of a scenario that has been read and not yet checked.

    A bundled policy or receiver that the path goes into is brought in first, so its other leaves stay.

    Raises:
        ScenarioError: not of the form ``path=value``, the value is not YAML, or the path leads nowhere or through
            a name that is not there.
    """
    keys, value = split(text)
    _require_known(data, keys)
    leaf = yamlio.parse(value, f"--set {path_of(keys)}")
    node: Any = data
    for depth, key in enumerate(keys[:-1]):
        here = keys[: depth + 1]
        if isinstance(node, dict):
            key = _as_given(node, key)
            if node.get(key) is None or not isinstance(node[key], dict | list):
                node[key] = _starting_point(data, here) if node.get(key) is None else {}
            node = node[key]
        else:
            node = node[_position(node, here)]
            if not isinstance(node, dict | list):
                raise ScenarioError(f"--set {path_of(keys)}: there is nothing below {path_of(here)} to set")
    if isinstance(node, dict):
        node[_as_given(node, keys[-1])] = leaf
    else:
        node[_position(node, keys)] = leaf


def _require_known(data: dict[str, Any], keys: list[str]) -> None:
    """Refuse a path through a producer, endpoint, policy or receiver that is not there: a slip would make one."""
    section, *inner = keys
    if section not in SECTIONS or len(inner) < 2:
        return
    name, key, *below = inner
    given = data.get(section)
    there = [str(known) for known in given] if isinstance(given, dict) else []
    bundled = presets.names(section) if section in presets.KINDS else []
    if name not in there and name not in bundled:
        near = nearest(name, [*there, *bundled])
        where = f"{section} of this scenario{', nor bundled' if bundled else ''}"
        known = f" (known: {', '.join(there)})" if there else ""
        raise ScenarioError(
            f"--set {path_of(keys)}: {name} is not in {where}{near}{known}; a new one is set as a whole: "
            f"{path_of([section, name])}={{{key}: …}}"
        )
    if section == "endpoints" and below and key == "policy":
        meant = path_of(["policies", _named(data, name, "policy"), *below])
        raise ScenarioError(f"--set {path_of(keys)}: a policy is a name here; set {meant}")
    if section == "endpoints" and below and key == "receiver" and below[0] in ReceiverBlock.model_fields:
        meant = path_of(["receivers", _named(data, name, "receiver"), *below])
        raise ScenarioError(f"--set {path_of(keys)}: a receiver is a name here; set {meant}")


def _named(data: dict[str, Any], group: str, key: str) -> str:
    """The policy or receiver of an endpoint group; NAME if there is not just one."""
    given = data["endpoints"]
    endpoint = given[_as_given(given, group)]
    name = endpoint.get(key) if isinstance(endpoint, dict) else None
    return name if isinstance(name, str) else "NAME"


def _as_given(node: dict[Any, Any], key: str) -> Any:
    """The key as the file has it: 410 may be a number there."""
    return next((given for given in node if str(given) == key), key)


def _position(node: list[Any], keys: list[str]) -> int:
    key = keys[-1]
    if not re.fullmatch(r"\d{1,9}", key, re.ASCII) or int(key) >= len(node):
        known = f"from 0 to {len(node) - 1}" if node else "of an entry, and the list is empty"
        raise ScenarioError(f"--set {path_of(keys)}: {key!r} must be a position {known}")
    return int(key)


def _starting_point(data: dict[str, Any], keys: list[str]) -> Any:
    """What an override finds where the file says nothing: the bundled policy or receiver, or an empty mapping."""
    section, *inner = keys
    if section == "receivers" and len(inner) == 1 and inner[0] in presets.names("receivers"):
        return copy.deepcopy(presets.read("receivers", inner[0])["receiver"])
    if section == "policies" and len(inner) == 1 and inner[0] in presets.names("policies"):
        return {"preset": inner[0]}
    if section == "policies" and len(inner) == 2 and isinstance(data["policies"], dict):
        preset = data["policies"][_as_given(data["policies"], inner[0])].get("preset")
        if isinstance(preset, str) and preset in presets.names("policies"):
            return copy.deepcopy(presets.read("policies", preset)["policy"].get(inner[1])) or {}
    return {}
