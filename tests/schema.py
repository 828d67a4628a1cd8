"""A JSON Schema as a judge: as much of the standard as the schema of the scenario file uses."""

from __future__ import annotations

import re
from typing import Any

from sim.scenario import json_schema

SCHEMA = json_schema()
TYPES: dict[str, Any] = {
    "string": str,
    "object": dict,
    "array": list,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def violations(value: Any, schema: dict[str, Any] = SCHEMA, path: str = "") -> list[str]:
    """What a JSON Schema says against a value: as much of it as ours uses."""
    if "$ref" in schema:
        schema = {
            **SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]],
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    found: list[str] = []
    if "anyOf" in schema:
        each = [violations(value, option, path) for option in schema["anyOf"]]
        if all(each):
            found += min(each, key=len)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(of_type(value, kind) for kind in kinds):
        return [*found, f"{path}: {value!r} is not {kinds}"]
    if "enum" in schema and not any(same(value, word) for word in schema["enum"]):
        found.append(f"{path}: {value!r} is none of {schema['enum']}")
    if "const" in schema and not same(value, schema["const"]):
        found.append(f"{path}: {value!r} is not {schema['const']}")
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{path}: {value!r} does not look like {schema['pattern']}")
        if len(value) < schema.get("minLength", 0):
            found.append(f"{path}: {value!r} is too short")
    if of_type(value, "number") and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", value - 1)
    ):
        found.append(f"{path}: {value!r} is out of range")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{path}: {len(value)} items")
        items = schema.get("prefixItems", [])
        for position, item in enumerate(value):
            rule = items[position] if position < len(items) else schema.get("items", {})
            found += violations(item, rule, f"{path}.{position}")
    if isinstance(value, dict):
        found += object_violations(value, schema, path)
    return found


def object_violations(value: dict[Any, Any], schema: dict[str, Any], path: str) -> list[str]:
    """What a JSON Schema says against a mapping."""
    keys = {str(key): item for key, item in value.items()}
    found = [f"{path}: {key} is missing" for key in schema.get("required", []) if key not in keys]
    if not schema.get("minProperties", 0) <= len(keys) <= schema.get("maxProperties", len(keys)):
        found.append(f"{path}: {len(keys)} keys")
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key, item in keys.items():
        found += violations(key, schema.get("propertyNames", {}), f"{path}.{key}")
        if key in properties:
            found += violations(item, properties[key], f"{path}.{key}")
        elif rest is False:
            found.append(f"{path}: {key} is no key")
        elif isinstance(rest, dict):
            found += violations(item, rest, f"{path}.{key}")
    return found


def of_type(value: Any, kind: str) -> bool:
    """Whether a value is of a type of JSON, in which a truth value is no number and 1.0 is a whole one."""
    if isinstance(value, bool) and kind != "boolean":
        return False
    return isinstance(value, TYPES[kind]) or (
        kind == "integer" and isinstance(value, float) and value.is_integer()
    )


def same(value: Any, word: Any) -> bool:
    """Equality of JSON, where false is not 0."""
    return bool(value == word) and isinstance(value, bool) == isinstance(word, bool)
