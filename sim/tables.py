"""What the commands print for people: the table of a run, the list of policies, the page of one policy.

Everything is rendered to text first and written at once. In a pipe lines are not wrapped, coloured or padded,
so that ``grep`` finds a whole entry on its line. A terminal too narrow for a table gets an entry on several
lines instead: no number is ever cut.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sim.policy import FOREVER
from sim.shown import ENDLESS, MEANINGS, MISSING, shown, shown_duration, shown_gap, shown_gaps, unit

if TYPE_CHECKING:
    from sim.beside import Beside
    from sim.catalogue import PolicyEntry
    from sim.result import Result

PIPE_WIDTH = 10_000
"""Columns of a pipe: more than any line has."""
WIDE = 110
"""Columns from which the list of policies is a table."""
FIGURES = {
    "delivery": {
        "deliveries": "deliveries",
        "delivered": "delivered_share",
        "lost": "lost_share",
        "expired": "expired_share",
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
        "backlog max in bytes": "backlog_bytes_max",
        "API calls/s": "api_calls_per_s",
        "empty polls": "empty_poll_share",
        "worker utilisation": "worker_utilization",
        "drain after the last outage": "drain_s",
    },
    "order and duplicates": {
        "duplicate share": "duplicate_share",
        "late share": "late_share",
        "newer data share": "newer_share",
        "stale data share": "stale_share",
        "effect duplicates per delivery": "effect_duplicates_per_delivery",
    },
}
"""The figures of the table of a run: what they are called there, and their names."""
SAYS_SOMETHING: Mapping[str, Callable[[Result], bool]] = {
    **{
        name: lambda result, name=name: result.metrics[name] > 0  # type: ignore[misc]
        for name in ("expired_share", "api_calls_per_s", "newer_share", "stale_share")
    },
    "backlog_bytes_max": lambda result: result.meta["queue_holds"] == "id",
    "empty_poll_share": lambda result: not math.isnan(result.metrics["empty_poll_share"]),
}
"""Figures that most runs have no use for, and when they are shown."""
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
    "effects": "effect_duplicates_per_delivery",
}
"""The figures by endpoint group: heads of the columns, and their names."""


def write(parts: Iterable[RenderableType]) -> None:
    """Write to stdout, as its terminal or pipe can show it."""
    console = _console(_width())
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text) and bool(part.no_wrap))
    text = captured.get()
    sys.stdout.write(text if sys.stdout.isatty() else "\n".join(line.rstrip() for line in text.split("\n")))


def _console(width: int) -> Console:
    # a terminal that can do nothing has its own idea of its width, unless the height is given too
    return Console(width=width, height=25, markup=False, highlight=False, emoji=False)


def _width() -> int:
    """Columns of the terminal, or of a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH


def fits(table: Table) -> bool:
    """Whether every cell of a table can stand on one line."""
    return _console(PIPE_WIDTH).measure(table).maximum <= _width()


def indented(text: str | Text) -> Padding:
    """A text two columns in, the lines on which it continues included."""
    return Padding(text, (0, 0, 0, 2), expand=False)


def packed(items: Iterable[tuple[str, str]]) -> Text:
    """Names and values in a row that wraps between two pairs only."""
    lines = [""]
    for name, value in items:
        pair = f"{name} {value}"
        if lines[-1] and len(lines[-1]) + 2 + len(pair) > _width() - 2:
            lines.append("")
        lines[-1] += f"  {pair}" if lines[-1] else pair
    return Text("\n".join(lines))


# --------------------------------------------------------------------------- a run


def of_run(result: Result) -> list[RenderableType]:
    """Warnings, a header, the figures in groups, what closed forms say of them, and figures by endpoint group."""
    scenario = result.scenario
    parts: list[RenderableType] = [Text(f"warning: {text}", "yellow") for text in result.warnings]
    parts.append(
        Text.assemble((scenario.name, "bold"), f": {scenario.question}" if scenario.question else "")
    )
    attempts = result.attempts_made
    engine = f"{result.engine} engine{', streamed' if result.streamed else ''}"
    speed = attempts / result.wall_s if result.wall_s > 0 else 0.0
    parts.append(
        Text(
            f"seed {result.seed}, {attempts:,} attempts, {engine} "
            f"{shown_duration(result.wall_s)} ({speed:,.0f} attempts/s)"
        )
    )
    figures = _figures(result, named=True)
    parts.append(figures if fits(figures) else _figures(result, named=False))
    parts += _theory(result.theory)
    if result.streamed:
        note = (
            "quantiles are within 0.2 %; streamed: no tables, and no figures by endpoint group, type or hour"
        )
        parts += [Text(""), Text(note, "dim")]
    elif len(scenario.endpoints) > 1:
        parts += [Text(""), *_by_group(result)]
    return parts


def _figures(result: Result, named: bool) -> Table:
    """The figures of a run in groups, with the names that files and gates know them by if there is room."""
    table = blank_table()
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    if named:
        table.add_column(style="dim")
    for heading, names in FIGURES.items():
        table.add_row("")
        table.add_row(Text(heading, "bold"))
        for label, name in names.items():
            if name not in SAYS_SOMETHING or SAYS_SOMETHING[name](result):
                table.add_row(indented(label), _figure(result, name), *([name] if named else []))
    return table


def _figure(result: Result, name: str) -> str:
    """A figure of a run; where it does not exist and there is a reason to tell, the reason."""
    value = result.metrics[name]
    if name == "drain_s" and math.isnan(value):
        if result.meta["last_outage_s"] is not None:
            return "never"
        faults = [fault for receiver in result.scenario.receivers.values() for fault in receiver.faults]
        return "no outage ended" if any(fault.outage for fault in faults) else "no outage"
    return shown(name, value)


def _by_group(result: Result) -> list[RenderableType]:
    """The figures of each endpoint group: as a table, or below its name where a table has no room."""
    figures = result.metrics_by("endpoint").to_dict("index")
    rows = {
        group: [
            shown(name, figures[group][name]) if group in figures else MISSING
            for name in GROUP_FIGURES.values()
        ]
        for group in result.scenario.endpoints
    }
    table = blank_table(heads=["endpoint group", *GROUP_FIGURES])
    for column in table.columns[1:]:
        column.justify = "right"
    for group, cells in rows.items():
        table.add_row(group, *cells)
    if fits(table):
        return [table]
    parts: list[RenderableType] = [Text("by endpoint group", "bold")]
    for group, cells in rows.items():
        parts += [Text(group), indented(packed(zip(GROUP_FIGURES, cells, strict=True)))]
    return parts


_CLAIMS = {"bound": "at most ", "limit": "about "}
"""What is said before the value of a closed form, by its kind."""


def _theory(rows: Iterable[Beside]) -> list[RenderableType]:
    """The closed forms that apply, beside what was simulated; nothing if all they say is the most attempts."""
    applied = [row for row in rows if row.form.value is not None]
    if all(row.form.kind == "bound" for row in applied):
        return []
    table = blank_table(["closed forms", "in theory", "simulated", "which, and why it applies"])
    table.columns[1].justify = table.columns[2].justify = "right"
    lines: list[RenderableType] = [Text("closed forms", "bold")]
    told = ""
    for row in applied:
        name, value, simulated, why = _theory_row(row)
        new = why if why != told else ""
        told = why
        table.add_row(name, value, simulated, new)
        lines += [indented(f"{name}: {value}, simulated {simulated}")]
        lines += [indented(f"({new})")] if new else []
    return [Text(""), table] if fits(table) else [Text(""), *lines]


def _theory_row(row: Beside) -> tuple[str, str, str, str]:
    """Figure, value, simulated value and reason of a closed form."""
    form = row.form
    assert form.value is not None
    name = form.metric if form.group is None else f"{form.group}: {form.metric}"
    value = f"{_CLAIMS.get(form.kind, '')}{shown(form.metric, form.value)}"
    simulated = MISSING if row.simulated is None else shown(form.metric, row.simulated)
    return name, value, simulated, f"{form.title}: {form.why}"


def blank_table(heads: Sequence[str] = ()) -> Table:
    """A table without lines around it, with these heads if any."""
    table = Table(
        box=None, show_header=bool(heads), pad_edge=False, padding=(0, 2, 0, 0), header_style="bold"
    )
    for head in heads:
        table.add_column(head)
    return table


def of_scenarios(questions: Mapping[str, str | None]) -> list[RenderableType]:
    """One line for each scenario: its name and the question it answers."""
    return [_listed(["scenario", "question"], questions)]


def of_receivers(titles: Mapping[str, str | None]) -> list[RenderableType]:
    """One line for each receiver: its name and what it is like."""
    return [_listed(["receiver", "title"], titles)]


def _listed(heads: Sequence[str], rows: Mapping[str, str | None]) -> Table:
    table = blank_table(heads)
    table.columns[0].no_wrap = True
    for name, text in rows.items():
        table.add_row(name, text or MISSING)
    return table


def of_figures(names: Iterable[str]) -> list[RenderableType]:
    """One line for each figure: its name, unit and meaning; the meaning below where there is no room."""
    table = blank_table(["figure", "unit", "meaning"])
    parts: list[RenderableType] = []
    for name in names:
        table.add_row(name, unit(name), MEANINGS[name])
        parts += [Text.assemble((name, "bold"), f" ({unit(name)})"), indented(MEANINGS[name])]
    return [table] if fits(table) else parts


# --------------------------------------------------------------------------- policies


def of_policies(entries: Iterable[PolicyEntry]) -> list[RenderableType]:
    """One line for each policy (three on a narrow terminal); those whose gaps nobody documents are marked."""
    heads = ["policy", "gaps", "attempts", "horizon", "timeout", "gaps are"]
    rows = [_policy_row(entry) for entry in entries]
    parts: list[RenderableType] = []
    if _width() >= WIDE:
        table = blank_table(heads)
        for column in (table.columns[0], *table.columns[2:]):
            column.no_wrap = True
        for column in table.columns[2:5]:
            column.justify = "right"
        for row in rows:
            table.add_row(*row)
        parts.append(table)
    else:
        for name, gaps, *rest in rows:
            parts += [Text(name, "bold"), indented(gaps)]
            parts.append(indented(packed(zip(heads[2:], rest, strict=True))))
    if any(name.endswith("*") for name, *_ in rows):
        parts.append(Text("* nobody documents these gaps: they are assumed or recalled from memory", "dim"))
    return parts


def _policy_row(entry: PolicyEntry) -> list[str]:
    jitter = entry.block.jitter.kind
    return [
        f"{entry.name} *" if entry.undocumented else entry.name,
        shown_gaps(entry.runs) + ("" if jitter == "none" else f", jitter {jitter.replace('_', ' ')}"),
        ENDLESS if entry.attempts is None else f"{entry.attempts:,}",
        ENDLESS if entry.horizon_s is None else shown_duration(entry.horizon_s),
        shown_gap(entry.block.timeout),
        str(entry.file["gaps"]),
    ]


def of_policy(entry: PolicyEntry) -> list[RenderableType]:
    """All that is known about one policy."""
    file = entry.file
    title = Text.assemble((entry.name, "bold"), f": {file['title']}")
    known = f"the policy is {file['certainty']}, its gaps are {file['gaps']}"
    if entry.undocumented:
        known += ": nobody documents them"
    schedule = blank_table(["attempt", "gap", "after the event"])
    for column in schedule.columns:
        column.justify = "right"
    for number, gap, times, offset in entry.offsets():
        schedule.add_row(*_schedule_row(number, gap, times, offset))
    parts: list[RenderableType] = [title, Text(known), Text(""), schedule]
    rules = blank_table()
    for name, value in _rules(entry):
        rules.add_row(Text(name, "bold"), value)
    parts += [Text(""), rules]
    for heading, lines in (
        ("notes", file["notes"]),
        ("not modelled", file["unmodelled"]),
        ("sources", [f"{source['url']} ({source['note']})" for source in file["sources"]]),
    ):
        parts += [Text(""), Text(heading, "bold")]
        # an address must stay whole to be followed: the terminal wraps it
        parts += [Text(f"- {line}", no_wrap=heading == "sources") for line in lines] or [Text("- none")]
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
