"""Reading and writing YAML as a scenario needs it: no repeated keys, and words stay words.

The scalars are those of YAML 1.2: only ``true`` and ``false`` are truth values, so ``on``, ``off``, ``yes`` and
``no`` are words, and so are dates and times of day; ``1e3`` is a number.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from sim.errors import ScenarioError, shown

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_UNSPACED = re.compile(r"\s*(?:-\s+)?([A-Za-z_][\w.-]*:(?!//)[^\s:]\S*)")
"""A key whose value follows its colon at once, which makes one word of both."""
_RESOLVERS = (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"<<"), ["<"]),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and an error on a repeated key."""

    yaml_implicit_resolvers = {}
    yaml_constructors = {}


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, with short lists on one line.

    It quotes what either version of YAML would not read as a word.
    """

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        flat = all(isinstance(item, str | int | float) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=flat)

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Text; with escapes where a character would not survive being written as it is."""
        style = None if data.replace("\n", "").isprintable() else '"'
        return self.represent_scalar(_TAG + "str", data, style=style)

    def represent_float(self, data: float) -> yaml.ScalarNode:
        """A number; a whole one without a point, as people write it."""
        if data.is_integer() and abs(data) < 1e15:
            return self.represent_int(int(data))
        return super().represent_float(data)

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out each time."""
        return True


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_representer(float, _Dumper.represent_float)
for _name, _pattern, _first in _RESOLVERS:
    _whole = re.compile(rf"^(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_TAG + _name, _whole, _first)
    _Dumper.add_implicit_resolver(_TAG + _name, _whole, _first)


def _refusal(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _mapping(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise _refusal(node, "a mapping was announced, but something else follows")
    seen: set[object] = set()
    for key_node, _ in node.value:
        if key_node.tag == _TAG + "merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, bool) or not isinstance(key, str | int | float):
            raise _refusal(key_node, "a key must be a word or a number; put others in quotes")
        if key in seen:
            raise _refusal(key_node, f"the key {shown(key)} stands twice; remove one of them")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _sequence(loader: _Loader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise _refusal(node, "a list was announced, but something else follows")
    return yaml.SafeLoader.construct_sequence(loader, node, deep=True)


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    """A word, number, truth value or nothing, by the tag that was resolved or written."""
    if not isinstance(node, yaml.ScalarNode):
        raise _refusal(node, "a single value was announced, but something else follows")
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind == "str":
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and _INT.fullmatch(text):
        if len(text) > 400:
            raise _refusal(node, f"the number {text[:10]}… has {len(text)} digits, too many to count with")
        return int(text.replace("_", ""), 10) if text[:2] not in ("0x", "0o") else int(text, 0)
    if kind == "float" and (_FLOAT.fullmatch(text) or _INT.fullmatch(text)):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise _refusal(node, f"{shown(text)} is not of the kind {kind} that is written before it")


def _unknown(loader: _Loader, node: yaml.Node) -> Any:
    raise _refusal(node, f"the tag {node.tag.replace(_TAG, '!!')} has no meaning here; remove it")


for _name in ("str", "null", "bool", "int", "float"):
    _Loader.add_constructor(_TAG + _name, _scalar)
_Loader.add_constructor(_TAG + "map", _mapping)
_Loader.add_constructor(_TAG + "seq", _sequence)
_Loader.add_constructor(None, _unknown)


def parse(text: str, source: str) -> Any:
    """The value of one YAML document.

    Raises:
        ScenarioError: not YAML, or a key stands twice; names line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ScenarioError(_explained(error, text.splitlines()), source) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        rule = f"line {line}: holds the character {chr(error.character)!r}, which a text file may not hold"
        raise ScenarioError(rule, source) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ScenarioError(f"cannot be read as YAML: {str(error).splitlines()[0]}", source) from None
    except RecursionError:
        raise ScenarioError("is nested too deeply", source) from None


def _explained(error: yaml.MarkedYAMLError, lines: list[str]) -> str:
    """Where the document stops being YAML, and what was probably meant."""
    problem = error.problem or error.context or "cannot be read as YAML"
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return problem
    here = mark.line
    if "expected ':'" in problem and error.context_mark is not None:
        here = error.context_mark.line
        return _unspaced(here, lines) or f"line {here + 1}: {_source(here, lines)} has no colon after its key"
    if "mapping values are not allowed" in problem:
        before = max((i for i in range(min(here, len(lines))) if lines[i].strip()), default=here)
        if slip := _unspaced(before, lines):
            return slip
        if ": " not in "".join(lines[here : here + 1])[: mark.column]:  # the first colon of its line
            return _misplaced(here, lines)
    if "expected <block end>" in problem or "expected '<document start>'" in problem:
        return _misplaced(here, lines)
    return f"line {here + 1}, column {mark.column + 1}: {_meant(error, problem)}"


def _meant(error: yaml.MarkedYAMLError, problem: str) -> str:
    opened = error.context_mark
    if "'\\t'" in problem:
        return "a tab; indent with spaces"
    if "another document" in problem:
        return "a second document starts; a file holds one"
    if "mapping values are not allowed" in problem:
        return "a second colon in one line; put text with a colon in quotes, and a mapping into a line of its own"
    if "cannot start any token" in problem:
        return f"{problem}; put text that begins so in quotes"
    if opened is not None and error.context in (
        "while parsing a flow mapping",
        "while parsing a flow sequence",
    ):
        bracket, missing = ("{", "}") if "mapping" in error.context else ("[", "]")
        where = f"line {opened.line + 1}, column {opened.column + 1}"
        return f"a comma or {missing} is missing: the {bracket} of {where} is still open"
    if (
        opened is not None
        and error.context == "while scanning a quoted scalar"
        and "end of stream" in problem
    ):
        return f"the quote of line {opened.line + 1}, column {opened.column + 1} is still open"
    if error.context and error.problem and error.context.startswith("while"):
        return f"{error.context}: {error.problem}"
    return problem


def _source(number: int, lines: list[str]) -> str:
    return f"'{shown(lines[number].strip())}'" if number < len(lines) else "the end"


def _unspaced(number: int, lines: list[str]) -> str:
    """What to say if a line has a key and a value with no space between; else nothing."""
    match = _UNSPACED.match(lines[number]) if number < len(lines) else None
    return f"line {number + 1}: {match[1]!r} has no space after the colon" if match else ""


def _misplaced(number: int, lines: list[str]) -> str:
    return (
        f"line {number + 1}: {_source(number, lines)} does not fit the lines before it; check the indentation: what "
        "belongs together starts in the same column"
    )


def dump(value: object) -> str:
    """The value as a YAML document, keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
