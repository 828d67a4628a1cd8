"""The policy of an endpoint: chosen by name, or its own block in the scenario format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from sim import presets
from sim.blocks_policy import PolicyBlock
from sim.errors import Problem, ScenarioError, nearest, problem, told


def resolve(given: str | Mapping[str, Any], named: Mapping[str, PolicyBlock]) -> tuple[str, str]:
    """A policy as (block in JSON, name); the name is empty for a block.

    Args:
        given: a name or a block; a block may start from a bundled ``preset``.
        named: policies of a scenario, which come before bundled ones of the same name.

    Raises:
        ScenarioError: an unknown name, or a block that breaks a rule; paths begin with ``policy``.
    """
    if isinstance(given, str):
        if given in named:
            return written(named[given]), given
        bundled = presets.names("policies")
        if given in bundled:
            return written(_read(presets.read("policies", given)["policy"])), given
        rule = f"is no policy{nearest(given, [*named, *bundled])} (hooklab policies lists the bundled ones)"
        raise ScenarioError([Problem("policy", given, rule)])
    return written(_read(presets.completed_policy(given, "policy.preset"))), ""


def written(block: PolicyBlock) -> str:
    """A block as JSON, complete without its preset; ``PolicyBlock.model_validate_json`` makes an equal one."""
    return block.model_dump_json(by_alias=True, exclude_defaults=True, exclude={"preset"})


def _read(block: Mapping[str, Any]) -> PolicyBlock:
    try:
        return PolicyBlock.model_validate(block)
    except ValidationError as error:
        found = [problem(each) for each in told(error.errors(include_url=False))]
    raise ScenarioError(
        [Problem(f"policy.{each.path}" if each.path else "policy", each.value, each.rule) for each in found]
    )
