"""What the commands print for people: the table of a run, the list of policies, the page of one policy.

Everything is rendered to text first and written at once. In a pipe lines are not wrapped, coloured or padded,
so that ``grep`` finds a whole entry on its line.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from sim.policy import FOREVER
from sim.shown import ENDLESS, MISSING, shown, shown_duration, shown_gap, shown_gaps

if TYPE_CHECKING:
    from sim.catalogue import PolicyEntry
    from sim.result import Result

PIPE_WIDTH = 200
FIGURES = {
    "delivery": {
        "deliveries": "deliveries",
        "delivered": "delivered_share",
        "lost": "lost_share",
        "false loss": "false_loss_share",
        "unsettled": "unsettled_share",
        "latency p50": "delivery_latency_s_p50",
        "latency p90": "delivery_latency_s_p90",
        "latency p99": "delivery_latency_s_p99",
        "latency p999": "delivery_latency_s_p999",
    },
    "load": {
        "attempts per delivery": "attempts_per_delivery",
        "peak attempts/s": "attempts_per_s_max",
        "backlog max": "backlog_max",
        "worker utilisation": "worker_utilization",
        "drain after the last outage": "drain_s",
    },
    "order and duplicates": {
        "duplicate share": "duplicate_share",
        "late share": "late_share",
        "effect duplicates per delivery": "effect_duplicates_per_delivery",
    },
}
"""The figures of the table of a run: what they are called there, and their names."""
GROUP_FIGURES = {
    "deliveries": "deliveries",
    "delivered": "delivered_share",
    "lost": "lost_share",
    "unsettled": "unsettled_share",
    "p50": "delivery_latency_s_p50",
    "p99": "delivery_latency_s_p99",
    "attempts": "attempts_per_delivery",
    "duplicates": "duplicate_share",
    "late": "late_share",
}
"""The figures by endpoint group: heads of the columns, and their names."""


def write(parts: Iterable[RenderableType]) -> None:
    """Write to stdout, as its terminal or pipe can show it."""
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PIPE_WIDTH, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    text = captured.get()
    sys.stdout.write(text if terminal else "\n".join(line.rstrip() for line in text.split("\n")))


def _wide() -> bool:
    """Whether there is room for a column that one can do without."""
    return not sys.stdout.isatty() or shutil.get_terminal_size().columns >= 110


# --------------------------------------------------------------------------- a run


def of_run(result: Result) -> list[RenderableType]:
    """Warnings, a header, the figures in groups, and figures by endpoint group where there are several."""
    scenario, metrics = result.scenario, result.metrics
    parts: list[RenderableType] = [Text(f"warning: {text}", "yellow") for text in result.warnings]
    parts.append(
        Text.assemble((scenario.name, "bold"), f": {scenario.question}" if scenario.question else "")
    )
    attempts = len(result.attempts)
    speed = attempts / result.wall_s if result.wall_s > 0 else 0.0
    parts.append(
        Text(
            f"seed {result.seed}, {result.engine} engine, {attempts:,} attempts in "
            f"{shown_duration(result.wall_s)} ({speed:,.0f} attempts/s)"
        )
    )
    figures = _table()
    figures.add_column()
    figures.add_column(justify="right")
    figures.add_column(style="dim")
    for heading, names in FIGURES.items():
        figures.add_row("")
        figures.add_row(Text(heading, "bold"))
        for label, name in names.items():
            figures.add_row(f"  {label}", shown(name, metrics[name]), name)
    parts.append(figures)
    if len(scenario.endpoints) > 1:
        parts += [Text(""), _by_group(result)]
    return parts


def _by_group(result: Result) -> Table:
    table = _table(heads=["endpoint group", *GROUP_FIGURES])
    for column in table.columns[1:]:
        column.justify = "right"
    figures = result.metrics_by("endpoint").to_dict("index")
    for group in result.scenario.endpoints:
        values = figures.get(group)
        cells = (MISSING if values is None else shown(n, values[n]) for n in GROUP_FIGURES.values())
        table.add_row(group, *cells)
    return table


def _table(heads: Sequence[str] = ()) -> Table:
    table = Table(
        box=None, show_header=bool(heads), pad_edge=False, padding=(0, 2, 0, 0), header_style="bold"
    )
    for head in heads:
        table.add_column(head)
    return table


def of_scenarios(questions: Mapping[str, str | None]) -> list[RenderableType]:
    """One line for each scenario: its name and the question it answers."""
    table = _table(["scenario", "question"])
    table.columns[0].no_wrap = True
    for name, question in questions.items():
        table.add_row(name, question or MISSING)
    return [table]


# --------------------------------------------------------------------------- policies


def of_policies(entries: Iterable[PolicyEntry]) -> list[RenderableType]:
    """One line for each policy; those whose gaps nobody documents are marked."""
    table = _table(["policy", "gaps", "attempts", "horizon", "timeout", *(["gaps are"] if _wide() else [])])
    table.columns[0].no_wrap = True
    for column in table.columns[2:5]:
        column.justify = "right"
    marked = False
    for entry in entries:
        marked = marked or entry.undocumented
        jitter = entry.block.jitter.kind
        table.add_row(
            f"{entry.name} *" if entry.undocumented else entry.name,
            shown_gaps(entry.runs) + ("" if jitter == "none" else f", jitter {jitter.replace('_', ' ')}"),
            ENDLESS if entry.attempts is None else f"{entry.attempts:,}",
            ENDLESS if entry.horizon_s is None else shown_duration(entry.horizon_s),
            shown_gap(entry.block.timeout),
            *([str(entry.file["gaps"])] if _wide() else []),
        )
    parts: list[RenderableType] = [table]
    if marked:
        parts.append(Text("* nobody documents these gaps: they are assumed or recalled from memory", "dim"))
    return parts


def of_policy(entry: PolicyEntry) -> list[RenderableType]:
    """All that is known about one policy."""
    file = entry.file
    title = Text.assemble((entry.name, "bold"), f": {file['title']}")
    known = f"the policy is {file['certainty']}, its gaps are {file['gaps']}"
    if entry.undocumented:
        known += ": nobody documents them"
    schedule = _table(["attempt", "gap", "after the event"])
    for column in schedule.columns:
        column.justify = "right"
    for number, gap, times, offset in entry.offsets():
        schedule.add_row(*_schedule_row(number, gap, times, offset))
    parts: list[RenderableType] = [title, Text(known), Text(""), schedule]
    rules = _table()
    for name, value in _rules(entry):
        rules.add_row(Text(name, "bold"), value)
    parts += [Text(""), rules]
    for heading, lines in (
        ("notes", file["notes"]),
        ("not modelled", file["unmodelled"]),
        ("sources", [f"{source['url']} ({source['note']})" for source in file["sources"]]),
    ):
        parts += [Text(""), Text(heading, "bold")]
        parts += [Text(f"- {line}") for line in lines] or [Text("- none")]
    return parts


def _schedule_row(number: int, gap: int, times: int, offset: int) -> tuple[str, str, str]:
    """A run of equal gaps: its attempts, the gap, and when they come due if attempts take no time."""
    first = shown_duration(offset / 1e9)
    if times == 1:
        return f"{number:,}", shown_gap(gap), first
    if times >= FOREVER:
        return f"{number:,}–{ENDLESS}", shown_gap(gap), f"{first} – {ENDLESS}" if gap else first
    last = shown_duration((offset + gap * (times - 1)) / 1e9)
    return f"{number:,}–{number + times - 1:,}", shown_gap(gap), f"{first} – {last}" if gap else first


def _rules(entry: PolicyEntry) -> Iterable[tuple[str, str]]:
    """Timeout, verdicts, jitter and limits, as the scenario file writes them."""
    written = entry.file["policy"]
    yield "timeout", shown_gap(entry.block.timeout)
    verdicts = [f"{code} → {action}" for code, action in entry.block.verdicts.items()]
    success = [f"{code} → success" for code in entry.block.success]
    yield "verdicts", ", ".join([*verdicts, *success, "else → retry"])
    yield "jitter", _flat(written.get("jitter", "none"))
    for name in written:
        if name not in ("schedule", "timeout", "verdicts", "success", "jitter"):
            yield name, _flat(written[name])


def _flat(value: Any) -> str:
    """A nested value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_flat(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flat, value)) + "]"
    return str(value)
