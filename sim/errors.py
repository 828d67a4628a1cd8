"""A caller's mistake, told so that it can be mended: where, what was found, which rule, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing wrong with an input."""

    path: str
    value: object
    rule: str

    def __str__(self) -> str:
        found = "" if self.value is None else f" is {_shown(self.value)};"
        return f"{self.path}{found} {self.rule}" if self.path else self.rule


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class ScenarioError(ValueError):
    """A scenario, a file it names, or an argument cannot be used; ``problems`` says why, one by one."""

    def __init__(self, problems: Sequence[Problem] | str, source: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem("", None, problems)]
        self.problems = tuple(problems)
        self.source = source
        lead = f"{source}: " if source else ""
        super().__init__("\n".join(f"{lead}{problem}" for problem in self.problems))
