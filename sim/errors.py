"""A caller's mistake, told so that it can be mended: where, what was found, which rule, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

LONGEST_SHOWN = 60
"""Characters of a wrong value that a message shows."""


class Problem(NamedTuple):
    """One thing wrong with an input."""

    path: str
    value: object
    """What was found; None where there is nothing to show."""
    rule: str

    def __str__(self) -> str:
        found = "" if self.value is None else f" is {shown(self.value)};"
        return f"{self.path}{found} {self.rule}" if self.path else self.rule


class Empty:
    """Stands for a key that was given without a value."""


EMPTY = Empty()


class ScenarioError(ValueError):
    """A scenario, a file it names, or an argument cannot be used; ``problems`` says why, one by one."""

    def __init__(self, problems: Sequence[Problem] | str, source: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem("", None, problems)]
        self.problems = tuple(problems)
        self.source = source
        lead = f"{source}: " if source else ""
        super().__init__("\n".join(f"{lead}{problem}" for problem in self.problems))


def nearest(word: object, known: Iterable[str]) -> str:
    """``; did you mean …?`` with the known word that looks most like this one; empty if none does."""
    near = difflib.get_close_matches(str(word)[:LONGEST_SHOWN], list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


# --------------------------------------------------------------------------- values, as a file writes them


def shown(value: object) -> str:
    """A value on one line and not too long, as YAML would have it."""
    text = _flow(value, depth=0)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def _flow(value: object, depth: int) -> str:
    if isinstance(value, str):
        plain = bool(value) and value == value.strip() and value.isprintable()
        return value[: LONGEST_SHOWN + 1] if plain else repr(value[: LONGEST_SHOWN + 1])
    if isinstance(value, Empty) or value is None:
        return "empty" if depth == 0 else ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping | list | tuple) and depth > 3:
        return "…"
    # an item takes three characters at least, so those beyond would not be seen
    if isinstance(value, Mapping):
        pairs = list(value.items())[:LONGEST_SHOWN]
        return "{" + ", ".join(f"{_flow(k, depth + 1)}: {_flow(v, depth + 1)}" for k, v in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item, depth + 1) for item in value[:LONGEST_SHOWN]) + "]"
    if isinstance(value, int | float):
        try:
            return repr(float(value) if isinstance(value, float) else int(value))
        except ValueError:  # Python does not write out thousands of digits
            return "a number of thousands of digits"
    return f"a {type(value).__name__}"


# --------------------------------------------------------------------------- pydantic's errors in our words

_INSTEAD = {"schedule": ", unless preset names a bundled policy"}
_RULES = {
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping (name: value)",
    "tuple_type": "must be a list, such as [a, b]",
    "too_short": "must have at least one entry",
    "string_type": "must be text; put it in quotes if it is meant",
    "string_too_short": "must not be empty",
}


def told(errors: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The errors without those that only follow from others: a list is not too short if its entry is wrong."""
    return (error for error in errors if error["type"] != "too_short" or not error["input"])


def explained(error: Mapping[str, Any]) -> str:
    """The rule that a pydantic error speaks of."""
    kind, context = error["type"], error.get("ctx") or {}
    if kind == "rule":
        return str(context["rule"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"is required{_INSTEAD.get(error['loc'][-1], '')}"
    if kind == "literal_error":
        words = str(context["expected"]).replace("'", "")
        return f"must be {words}{nearest(error['input'], words.replace(' or ', ', ').split(', '))}"
    return _RULES.get(kind) or str(error["msg"]).replace("Input should be", "must be", 1)


def problem(error: Mapping[str, Any]) -> Problem:
    """A pydantic error as a problem: the path of keys as ``--set`` takes it, the value, the rule."""
    keys = [str(part) for part in error["loc"]]
    context = error.get("ctx") or {}
    value: object = error["input"]
    if "key" in context:
        keys.append(str(context["key"]))
        value = context["value"]
    elif keys and keys[-1] == "[key]":  # a key of a mapping is at fault, not what stands below it
        keys.pop(-2)
        keys.pop()
        return Problem(path_of(keys), value, "must be text to be a key here; put it in quotes")
    if error["type"] == "missing":
        return Problem(path_of(keys), None, explained(error))
    if value is None and context.get("key") is None:
        value = EMPTY
    return Problem(path_of(keys), value, explained(error))


def path_of(keys: Iterable[str]) -> str:
    """Keys joined by dots; a key with dots stands in quotes."""
    return ".".join(f'"{key}"' if "." in key or not key else key for key in keys)
