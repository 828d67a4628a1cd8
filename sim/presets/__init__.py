"""Bundled policies, scenarios and receivers, as YAML files beside this module."""

from __future__ import annotations

import copy
import functools
from importlib import resources
from typing import Any

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


@functools.cache
def _parsed(kind: str, name: str) -> dict[str, Any]:
    # every loading of a scenario merges some in, and a sweep loads thousands
    from sim.yamlio import parse

    mapping: dict[str, Any] = parse(text(kind, name), f"{name}.yaml")
    return mapping
