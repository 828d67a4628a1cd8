"""What judged gates become: JSON, JUnit XML, a Markdown summary, benchmark history and a report.

Every function but those that write takes plain values and gives text or plain values. Files are written beside their
place and moved, so that nobody finds half of one; a summary is appended in one piece, or not at all.

The JUnit file has what readers agree on: ``testsuites`` with one ``testsuite``, whose ``testcase`` elements have
``name``, ``classname`` and ``time``, and a ``failure`` with ``message`` and ``type`` where one has failed (the schema
of Jenkins' xUnit plugin, junit-10.xsd, is the strictest of them). The benchmark history is that of
``github-action-benchmark`` with ``tool: customSmallerIsBetter``: a list of ``{name, unit, value}``.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.gate import Judged
from sim import report
from sim.errors import Problem, ScenarioError
from sim.experiment_results import JUDGED
from sim.output import MARKER
from sim.report_gates import REQUESTS
from sim.shown import MEANINGS, SPREAD, entry_of, named, shown, unit

if TYPE_CHECKING:
    from sim.streamed import Streamed
    from sim.trace import Trace

VALIDITY = "the load test is valid"
"""The test case, beside one for each gate, which says whether the figures can be believed at all."""
SUMMARY = (
    "deliveries",
    "delivered_share",
    "lost_share",
    "unsettled_share",
    "delivery_latency_s_p50",
    "delivery_latency_s_p99",
    "attempts_per_delivery",
    "duplicate_share",
    "late_share",
    "goodput_per_s",
    "backlog_max",
    "requests",
    "request_failures",
    "request_latency_s_p99",
    "lateness_s_p99",
    "dropped",
)
"""The figures of a summary, in order; those that a run lacks are left out."""
_SMALLER_IS_BETTER = (
    *(name for name, direction in JUDGED.items() if direction < 0),
    "duplicate_share",
    "unsettled_share",
    f"queue_wait_s_{SPREAD}",
    f"request_latency_s_{SPREAD}",
    "request_failures",
    "lateness_s_p99",
    "dropped",
)
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML file may hold, however they are written."""
_MARKUP = re.compile(
    r"[&<>|`*\[\]~$\\@#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+=]|(?<=^\d)[.)]|(?<=^\d\d)[.)]"
)
"""What Markdown or HTML could take for markup; of figures' names nothing."""
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A load test that is over, as its outputs tell of it."""

    name: str
    """What the scenario is called."""
    seed: int
    judged: Sequence[Judged]
    metrics: Mapping[str, float]
    """All figures, those of the load generator included."""
    problems: Sequence[str] = ()
    """Why the figures cannot be believed; none: the load test is valid."""
    facts: Sequence[str] = ()
    """How it ran, a sentence each."""
    warnings: Sequence[str] = ()
    undocumented: Sequence[str] = ()
    """Presets in use whose gaps nobody documents."""
    wall_s: float = 0.0

    @property
    def failed(self) -> list[Judged]:
        """The gates that do not hold."""
        return [gate for gate in self.judged if not gate.ok]

    @property
    def ok(self) -> bool:
        """Whether it is valid and every gate holds."""
        return not self.problems and not self.failed

    @property
    def headline(self) -> str:
        """In a sentence: how many gates hold."""
        if self.problems:
            return "The load test is not valid, so its gates decide nothing."
        if not self.judged:
            return "There was no gate to judge it by."
        count = len(self.judged)
        gates = f"{count:,} gate{'s' if count > 1 else ''}"
        return f"{len(self.failed):,} of {gates} failed." if self.failed else f"{gates} passed."

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab loadtest --json`` prints, and ``metrics.json`` of its folder holds; also a baseline."""
        return {
            "scenario": self.name,
            "seed": self.seed,
            "valid": not self.problems,
            "problems": list(self.problems),
            "facts": list(self.facts),
            "warnings": list(self.warnings),
            "undocumented": list(self.undocumented),
            "wall_s": round(self.wall_s, 3),
            "metrics": {name: v if math.isfinite(v) else None for name, v in self.metrics.items()},
            "gates": [gate.to_json() for gate in self.judged],
        }


def figures_of(made: Trace | Streamed, requests: Mapping[str, float] | None = None) -> dict[str, float]:
    """All figures of a run and of its load generator, as ``Outcome`` takes them."""
    return {**made.metrics, **(requests or {})}


# --------------------------------------------------------------------------- texts


def junit(outcome: Outcome) -> str:
    """The JUnit XML file: a test case for the validity, and one for each gate; none has passed unless it is valid."""
    cases = [(VALIDITY, "; ".join(outcome.problems), "invalid")]
    for gate in outcome.judged:
        told = gate.by if not gate.ok else "the load test is not valid" if outcome.problems else ""
        cases.append((gate.expr, told, "gate"))
    failures = sum(bool(told) for _, told, _ in cases)
    seconds = f"{outcome.wall_s:.3f}"
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "time": seconds}
    name = _xml_text(f"hooklab loadtest {outcome.name}")
    root = ElementTree.Element("testsuites", {"name": name, **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts, "skipped": "0"})
    properties = ElementTree.SubElement(suite, "properties")
    values = {"seed": str(outcome.seed)} | {
        metric: f"{value!r}" for metric, value in outcome.metrics.items() if math.isfinite(value)
    }
    for key, value in values.items():
        ElementTree.SubElement(properties, "property", {"name": _xml_text(key), "value": value})
    for i, (title, told, kind) in enumerate(cases):
        attributes = {"name": _xml_text(title), "classname": name, "time": seconds if i == 0 else "0.000"}
        case = ElementTree.SubElement(suite, "testcase", attributes)
        if told:
            text = _xml_text(told)
            ElementTree.SubElement(case, "failure", {"message": text, "type": kind}).text = text
    ElementTree.indent(root, " ")
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _xml_text(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def markdown(outcome: Outcome) -> str:
    """A summary for people: gates, main figures, how it ran; every value is shown as it is, whatever it holds."""
    mark = "✅" if outcome.ok else "❌"
    lines = [f"## {mark} Load test {_plain(outcome.name)}", "", outcome.headline, ""]
    lines += [f"- **Not valid:** {_plain(text)}" for text in outcome.problems]
    lines += [f"- **Warning:** {_plain(text)}" for text in outcome.warnings]
    if outcome.problems or outcome.warnings:
        lines.append("")
    if outcome.judged:
        lines += ["| | gate | what came out |", "|---|---|---|"]
        lines += [
            f"| {'✅' if gate.ok else '❌'} | <code>{_plain(gate.expr)}</code> | {_plain(gate.by)} |"
            for gate in outcome.judged
        ]
        lines.append("")
    known = [name for name in SUMMARY if not math.isnan(outcome.metrics.get(name, math.nan))]
    if known:
        lines += ["| figure | value | what it means |", "|---|--:|---|"]
        lines += [
            f"| {name} | {shown(name, outcome.metrics[name])} | {_plain(_meaning(name))} |" for name in known
        ]
        lines.append("")
    lines += [f"- {_plain(text)}" for text in (f"Seed {outcome.seed}.", *outcome.facts)]
    return "\n".join(lines) + "\n"


def _meaning(name: str) -> str:
    return REQUESTS.get(name) or MEANINGS[entry_of(name)]


def _plain(text: str) -> str:
    """A text on one line, of which Markdown and HTML make nothing else: a reference to a character is no markup."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", _BLANKS.sub(" ", text).strip())


def benchmarks(outcome: Outcome) -> list[dict[str, Any]]:
    """Figures of which less is better, for a history of benchmarks; those that do not exist are left out."""
    names = (f"{name}" for entry in _SMALLER_IS_BETTER for name in named(entry))
    return [
        {"name": f"{outcome.name}: {name}", "unit": unit(name), "value": outcome.metrics[name]}
        for name in dict.fromkeys(names)
        if math.isfinite(outcome.metrics.get(name, math.nan))
    ]


# --------------------------------------------------------------------------- files


def write_junit(path: Path, outcome: Outcome) -> None:
    """Write the JUnit file, whole or not at all.

    Raises:
        ScenarioError: the file cannot be where it is asked to be.
        OSError: writing failed.
    """
    write_text(path, junit(outcome))


def write_benchmarks(path: Path, outcome: Outcome) -> None:
    """Write the benchmark history of this run; raises as ``write_junit``."""
    write_text(path, json.dumps(benchmarks(outcome), indent=1, allow_nan=False) + "\n")


def write_json(path: Path, outcome: Outcome) -> None:
    """Write the figures and gates, as ``--json`` prints them; raises as ``write_junit``."""
    write_text(path, json.dumps(outcome.to_json(), indent=1, allow_nan=False) + "\n")


def write_report(folder: Path, to: Path | None = None) -> Path:
    """Write the report of a folder that a load test has filled: its gates, and all that a report of a run has.

    The gates are read from ``metrics.json`` there; ``hooklab report`` writes the same.

    Raises:
        ScenarioError: the folder holds no results, or the file must not be replaced.
        OSError: writing failed.
    """
    return report.write(folder, to)


def append_markdown(path: Path, outcome: Outcome) -> None:
    """Append the summary to a file, such as that named by ``GITHUB_STEP_SUMMARY``: all of it, or nothing.

    Raises:
        ScenarioError: the file cannot be where it is asked to be.
        OSError: writing failed; the file is as it was.
    """
    require_writable(path)
    with path.open("ab", buffering=0) as file:
        before = file.tell() if file.seekable() else None
        try:
            _write_all(file.fileno(), _encoded(markdown(outcome)))
        except OSError:
            if before is not None:
                file.truncate(before)
            raise


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and move it there; what is no file, such as ``/dev/stdout``, is written to.

    Raises:
        ScenarioError: the file cannot be where it is asked to be.
        OSError: writing failed; an earlier file is as it was.
    """
    require_writable(path)
    content = _encoded(text)
    place = path.resolve()
    if place.exists() and not place.is_file():
        place.write_bytes(content)
        return
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{MARKER}-") as workplace:
        new = Path(workplace, "new")
        new.write_bytes(content)
        os.replace(new, place)


def require_writable(*paths: Path) -> None:
    """Refuse files that could not be written after a run; leaves nothing behind.

    Raises:
        ScenarioError: one is a folder, stands in a folder that is not there, or may not be written.
    """
    problems = [Problem(f"file {path}", None, rule) for path in paths for rule in _hindrance(path)]
    if problems:
        raise ScenarioError(problems)


def _hindrance(path: Path) -> Iterable[str]:
    try:
        place = path.resolve()
        if place.is_dir():
            yield "is a folder; name a file"
        elif not place.parent.is_dir():
            yield "stands in a folder that is not there; make it first"
        elif place.exists() and not os.access(place, os.W_OK):
            yield "may not be written"
        elif not place.exists() or place.is_file():
            # permission bits do not tell what root, quotas and read-only mounts allow: trying does
            tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{MARKER}-").cleanup()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a zero byte
        yield f"cannot be written: {getattr(error, 'strerror', None) or error}"


def _encoded(text: str) -> bytes:
    """UTF-8; a half of a character, as odd arguments hold them, becomes a question mark."""
    return text.encode("utf-8", "replace")
