"""Bundled policies, scenarios and receivers, as YAML files beside this module."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

from sim.errors import Problem, ScenarioError, nearest

KINDS = ("policies", "receivers", "scenarios")


def names(kind: str) -> list[str]:
    """Names of the bundled files of a kind (``policies``, ``receivers``, ``scenarios``), sorted."""
    folder = resources.files(__name__) / kind
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def text(kind: str, name: str) -> str:
    """The file's text.

    Raises:
        FileNotFoundError: no such bundled file.
    """
    return (resources.files(__name__) / kind / f"{name}.yaml").read_text(encoding="utf-8")


def read(kind: str, name: str) -> dict[str, Any]:
    """The file as a mapping, the caller's own."""
    return copy.deepcopy(_parsed(kind, name))


def completed_policy(block: Mapping[str, Any], path: str, source: str = "") -> dict[str, Any]:
    """A policy block with what it has from the bundled policy that its ``preset`` names; its own fields come first.

    Args:
        block: as it was given; without a preset it stays as it is.
        path: where its preset stands, for a problem.
        source: the file it is from, for a problem.

    Raises:
        ScenarioError: no bundled policy has this name.
    """
    preset = block.get("preset")
    if preset is None:
        return dict(block)
    bundled = names("policies")
    if preset not in bundled:
        rule = f"is not a bundled policy{nearest(preset, bundled)} (hooklab policies lists them)"
        raise ScenarioError([Problem(path, preset, rule)], source)
    return {**read("policies", preset)["policy"], **block}


@functools.cache
def _parsed(kind: str, name: str) -> dict[str, Any]:
    # every loading of a scenario merges some in, and a sweep loads thousands
    from sim.yamlio import parse

    mapping: dict[str, Any] = parse(text(kind, name), f"{name}.yaml")
    return mapping
