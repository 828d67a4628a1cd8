"""Reading and writing YAML as a scenario needs it: no repeated keys, and on, off, yes and no stay words."""

from __future__ import annotations

import re
from typing import Any

import yaml

from sim.errors import ScenarioError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the booleans of YAML 1.2 and an error on a repeated key."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float):
            raise yaml.MarkedYAMLError(
                problem="a key must be a word or a number", problem_mark=key_node.start_mark
            )
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"the key {key} stands twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, with short lists on one line."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        flat = all(isinstance(item, str | int | float) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)


def parse(text: str, source: str) -> Any:
    """The value of one YAML document.

    Raises:
        ScenarioError: not YAML, or a key stands twice; names line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ScenarioError(f"{where}{error.problem or error.context}", source) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ScenarioError(f"cannot be read as YAML: {str(error).splitlines()[0]}", source) from None


def dump(value: object) -> str:
    """The value as a YAML document, keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
