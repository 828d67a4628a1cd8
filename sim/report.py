"""One HTML file that holds everything a folder of results says: ``hooklab report``.

A *page* is plain values: a question, warnings, and sections of paragraphs, tables, pictures and code. The
template ``report.html.j2`` turns it into a file that fetches nothing, runs no script, escapes every value, and
can be read in the dark, by a screen reader, with the keyboard, and on paper.

What kind of folder it is stands under ``kind`` in its ``meta.json`` (of an experiment: ``experiment.json``).
``BUILDERS`` has a function for each kind, from (folder, meta) to a page: a new kind of results joins by adding one.
"""

from __future__ import annotations

import base64
import json
import math
import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import Problem, ScenarioError
from sim.output import MARKER, TABLE_FORMATS
from sim.shown import MEANINGS, entry_of, shown, shown_duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.scenario import Scenario
    from sim.trace import Trace

NAME = "report.html"
"""The file that a report becomes unless another is named."""
GENERATOR = "hooklab report"
_SIGNED = f'<meta name="generator" content="{GENERATOR}">'.encode()
_HEAD_BYTES = 4096
"""Within so many bytes a report says that it is one."""
DESCRIPTIONS = ("meta.json", "experiment.json")
"""Where a folder says of what kind it is: that of a run, and that of an experiment."""
_CLAIMS = {"bound": "at most ", "limit": "about "}


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of a column; numbers stand at the right."""

    text: str
    number: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts; the first cell of a row is its heading."""

    caption: str
    heads: tuple[Head, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture with what it shows in words, for those who do not see it."""

    address: str
    """A ``data:`` address with the whole picture."""
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Code:
    """A text to be read letter by letter; ``folded``: only where somebody opens it."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page."""

    name: str
    """A word for links to it."""
    heading: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Image] = field(default_factory=list)
    code: list[Code] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a report says."""

    title: str
    question: str | None
    facts: list[str]
    warnings: list[str]
    sections: list[Section]


# --------------------------------------------------------------------------- files


def write(folder: Path, to: Path | None = None) -> Path:
    """Write the report of a folder (default: into it, as ``report.html``) and return its path.

    An earlier report is replaced; the file is written beside its place first and then moved.

    Raises:
        ScenarioError: the folder holds no results, some are broken, or the file must not be replaced.
        OSError: writing failed.
    """
    target = folder / NAME if to is None else to
    page = read(folder)
    require_replaceable(target)
    place = target.resolve()
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{MARKER}-") as workplace:
        new = Path(workplace, NAME)
        new.write_text(rendered(page), encoding="utf-8")
        os.replace(new, place)
    return target


def require_replaceable(target: Path) -> None:
    """Refuse a file that is there and is no report, and a folder that is not there.

    Raises:
        ScenarioError: it is so.
    """
    path = f"out {target}"
    if target.is_dir():
        raise ScenarioError([Problem(path, None, "is a folder; name a file, such as report.html")])
    if not target.resolve().parent.is_dir():
        raise ScenarioError([Problem(path, None, "stands in a folder that is not there; make it first")])
    if target.exists():
        with target.open("rb") as file:
            if _SIGNED not in file.read(_HEAD_BYTES):
                raise ScenarioError(
                    [Problem(path, None, "is there and is no report of hooklab; name another file")]
                )


def rendered(page: Page) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sim", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(page=page, generator=GENERATOR).lstrip()


def read(folder: Path) -> Page:
    """The page of a folder of results.

    Raises:
        ScenarioError: it is no folder that hooklab wrote, of an unknown kind, or incomplete or broken.
    """
    if not folder.is_dir():
        rule = "is a file; name the folder it is in" if folder.exists() else "is not there"
        raise ScenarioError(rule, str(folder))
    described = next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)
    if described is None:
        hint = "name a folder written with --out" if not (folder / MARKER).exists() else "run it again"
        raise ScenarioError(f"holds no results of hooklab (there is no meta.json); {hint}", str(folder))
    meta = read_json(described)
    kind = meta.get("kind")
    if not isinstance(kind, str) or kind not in BUILDERS:
        known = ", ".join(BUILDERS)
        raise ScenarioError([Problem("kind", kind, f"is none that a report knows ({known})")], str(described))
    try:
        return BUILDERS[kind](folder, meta)
    except ScenarioError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        rule = f"does not hold what a report needs ({type(error).__name__}: {error}); run it again"
        raise ScenarioError(rule, str(folder)) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ScenarioError: it is not there, cannot be read, or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"cannot be read: {error.strerror or error}", str(path)) from None
    except ValueError as error:
        raise ScenarioError(f"is no JSON: {error}", str(path)) from None
    if not isinstance(value, dict):
        raise ScenarioError("is no JSON object", str(path))
    return value


def read_table(folder: Path, name: str, columns: list[str] | None = None) -> Any:
    """A table of a folder as a frame, from Parquet or CSV; only some columns if given.

    Raises:
        ScenarioError: it is not there, broken, or lacks a column.
    """
    import pandas as pd

    for table_format in TABLE_FORMATS:
        path = folder / f"{name}.{table_format}"
        if path.is_file():
            try:
                if table_format == "csv":
                    return pd.read_csv(path, usecols=columns)
                return pd.read_parquet(path, columns=columns)
            except (ValueError, OSError) as error:  # what Arrow raises is one of them
                reason = str(error).strip().split("\n")[0]
                raise ScenarioError(f"cannot be read: {reason}", str(path)) from None
    raise ScenarioError(f"lacks the table {name} (.parquet or .csv)", str(folder))


# --------------------------------------------------------------------------- parts that pages share


def image(figure: Figure, alt: str, caption: str) -> Image:
    """A figure as a picture of a page."""
    from sim.plots_style import svg

    packed = base64.b64encode(svg(figure)).decode("ascii")
    return Image(address=f"data:image/svg+xml;base64,{packed}", alt=alt, caption=caption)


def figures_table(caption: str, figures: Mapping[str, float | None], names: Iterable[str]) -> Table:
    """Figures of a run with their meanings."""
    rows = [(name, shown(name, _number(figures.get(name))), MEANINGS[entry_of(name)]) for name in names]
    heads = (Head(text="figure"), Head(text="value", number=True), Head(text="what it means"))
    return Table(caption=caption, heads=heads, rows=rows)


def theory_section(rows: list[Mapping[str, Any]]) -> Section:
    """Closed forms beside what was simulated, as ``hooklab run --json`` has them, and why others do not apply."""
    applied = [row for row in rows if row["value"] is not None]
    others = [row for row in rows if row["value"] is None]
    section = Section(name="theory", heading="Closed forms")
    if applied:
        section.paragraphs.append(
            "What formulas say of this scenario. A figure of a single run scatters around the exact ones."
        )
        heads = (
            Head(text="figure"),
            Head(text="in theory", number=True),
            Head(text="simulated", number=True),
            Head(text="which formula, and why it applies"),
            Head(text="source"),
        )
        section.tables.append(
            Table(caption="Closed forms that apply", heads=heads, rows=[_theory_row(row) for row in applied])
        )
    else:
        section.paragraphs.append("No closed form applies to this scenario.")
    if others:
        section.tables.append(
            Table(
                caption="Closed forms that do not apply",
                heads=(Head(text="formula"), Head(text="figure"), Head(text="what is in the way")),
                rows=[(str(row["title"]), _figure_of(row), str(row["why"])) for row in others],
            )
        )
    return section


def _figure_of(row: Mapping[str, Any]) -> str:
    return f"{row['group']}: {row['metric']}" if row.get("group") else str(row["metric"])


def _theory_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    metric = str(row["metric"])
    return (
        _figure_of(row),
        f"{_CLAIMS.get(row['kind'], '')}{shown(metric, _number(row['value']))}",
        shown(metric, _number(row["simulated"])),
        f"{row['title']}: {row['why']}",
        str(row["source"]),
    )


def _number(value: Any) -> float:
    """A number of a JSON file; null is NaN."""
    return math.nan if value is None else float(value)


def repeating_section(command: str, note: str, files: Iterable[Code]) -> Section:
    """How to repeat it: the command, and the files that it needs."""
    return Section(
        name="repeat",
        heading="To repeat it",
        paragraphs=[note],
        code=[Code(title="Command, from the folder of the results:", text=command), *files],
    )


# --------------------------------------------------------------------------- a run


def run_page(folder: Path, meta: Mapping[str, Any]) -> Page:
    """The page of a folder written by ``hooklab run --out``, or by a load test: its gates come first."""
    from sim import report_gates

    figures = read_json(folder / "metrics.json")
    is_loadtest = "gates" in figures
    scenario = _scenario(folder)
    metrics: Mapping[str, float | None] = {
        name: value for name, value in figures["metrics"].items() if name not in report_gates.REQUESTS
    }
    seed = int(meta["seed"])
    facts = [
        f"A single {'load test' if is_loadtest else 'run'}: seed {seed}, "
        f"{shown('attempts', _number(metrics['attempts']))} attempts at "
        f"{shown('deliveries', _number(metrics['deliveries']))} deliveries over "
        f"{shown_duration(float(meta['horizon_s']))}, {meta['engine']} engine. "
        "Figures of one run have no error bars.",
    ]
    if figures["undocumented"]:
        facts.append(f"Gaps assumed, nobody documents them: {', '.join(map(str, figures['undocumented']))}.")
    first, others = _run_tables(metrics)
    sections = [
        Section(name="figures", heading="Figures", tables=first),
        Section(name="pictures", heading="Pictures", pictures=_run_pictures(folder, meta, metrics, scenario)),
    ]
    if figures.get("theory"):
        sections.append(theory_section(figures["theory"]))
    sections.append(Section(name="others", heading="All other figures", tables=[others]))
    words = ["hooklab", "run", "scenario.yaml", "--seed", str(seed)]
    note = "The same scenario with the same seed gives the same run to the last bit, with either engine."
    if is_loadtest:
        sections.insert(0, report_gates.section(figures))
        words, note = report_gates.words(figures, seed), report_gates.NOTE
    if meta.get("stopped"):
        words += ["--backlog-limit", str(meta["backlog_limit"])]
    command = shlex.join(words)
    text = (folder / "scenario.yaml").read_text(encoding="utf-8")
    sections.append(repeating_section(command, note, [Code(title="scenario.yaml", text=text, folded=True)]))
    return Page(
        title=scenario.name,
        question=scenario.question,
        facts=facts,
        warnings=[str(text) for text in figures["warnings"]],
        sections=sections,
    )


def _scenario(folder: Path) -> Scenario:
    from sim.scenario import load

    return load(folder / "scenario.yaml")


def _run_tables(metrics: Mapping[str, float | None]) -> tuple[list[Table], Table]:
    """The figures of the table of a run with their meanings, and all others; those that do not exist are left out."""
    from sim.tables import FIGURES

    known = {name for name, value in metrics.items() if value is not None}
    first = [
        figures_table(heading.capitalize(), metrics, [name for name in names.values() if name in known])
        for heading, names in FIGURES.items()
    ]
    told = {name for names in FIGURES.values() for name in names.values()}
    others = figures_table(
        "Figures of the run", metrics, [n for n in metrics if n in known and n not in told]
    )
    return [table for table in first if table.rows], others


def _run_pictures(
    folder: Path, meta: Mapping[str, Any], metrics: Mapping[str, float | None], scenario: Scenario
) -> list[Image]:
    """The panels of a run and the timelines of its policies, each told in words as well."""
    from sim import plots

    def told(name: str) -> str:
        return shown(name, _number(metrics[name]))

    pictures = (
        _streamed_pictures(folder, meta, told) if is_streamed(folder) else _trace_pictures(folder, meta, told)
    )
    used = {e.policy for e in scenario.endpoints.values() if e.policy is not None and e.mode is None}
    blocks = {name: block for name, block in scenario.policies.items() if name in used}
    if blocks:
        pictures.append(
            image(
                _figure(plots.timelines(blocks)),
                f"When the attempts of a delivery come due that always fails at once, for {', '.join(blocks)}.",
                "Jitter left out; the axis of time is logarithmic.",
            )
        )
    return pictures


def is_streamed(folder: Path) -> bool:
    """Whether a run kept histograms and no tables."""
    return any(folder.glob("histograms.*"))


def _streamed_pictures(folder: Path, meta: Mapping[str, Any], told: Callable[[str], str]) -> list[Image]:
    """The one picture of a run without tables."""
    from sim.plots_streamed import durations

    return [
        image(
            durations(read_table(folder, "histograms"), str(meta["name"])),
            f"Share of deliveries and attempts by how long they took: half of the processed deliveries took "
            f"{told('delivery_latency_s_p50')} at most, 99 % {told('delivery_latency_s_p99')}.",
            "Latency, time to the final state and waiting times, on logarithmic axes.",
        )
    ]


def _trace_pictures(folder: Path, meta: Mapping[str, Any], told: Callable[[str], str]) -> list[Image]:
    """The panels of a run that kept its tables."""
    from sim import plots

    trace = _trace(folder, meta)
    return [
        image(
            _figure(plots.latency_cdf(trace)),
            f"Distribution of latency: half of the processed deliveries took {told('delivery_latency_s_p50')} at "
            f"most, 99 % {told('delivery_latency_s_p99')}, 99.9 % {told('delivery_latency_s_p999')}.",
            "From creation to first processing, on a logarithmic axis of time.",
        ),
        image(
            _figure(plots.latency_tail(trace)),
            f"Share of deliveries not yet processed by age, on logarithmic axes; {told('lost_share')} were lost and "
            f"{told('processed_share')} processed in the end.",
            "Both axes are logarithmic: a level end of the curve is what was never processed.",
        ),
        image(
            _figure(plots.backlog(trace)),
            f"Deliveries waiting at the sender over time, {told('backlog_max')} at most and "
            f"{told('backlog_mean')} on average.",
            "Deliveries that wait for an attempt, by the number of that attempt.",
        ),
        image(
            _figure(plots.rates(trace)),
            f"Attempts and first processings per second over time: on average {told('attempts_per_s')} and "
            f"{told('goodput_per_s')}; at most {told('attempts_per_s_max')} attempts in a second.",
            "Where attempts exceed first processings, retries and repeats take up the load.",
        ),
        image(
            _figure(plots.queues(trace)),
            f"Attempts in flight and requests queued at receivers over time; at most "
            f"{told('receiver_queue_max')} requests were queued.",
            "Requests that a receiver has accepted and not begun are counted with it.",
        ),
    ]


def _figure(ax: Any) -> Figure:
    """The whole figure of a panel."""
    figure: Figure = ax.figure
    return figure


def _trace(folder: Path, meta: Mapping[str, Any]) -> Trace:
    """What pictures need of the trace of a folder: its samples, and some columns of its deliveries."""
    import pandas as pd

    from sim.trace import Trace

    columns = ["created_s", "first_processed_s", "state"]
    deliveries = read_table(folder, "deliveries", columns)
    trace = Trace(pd.DataFrame(), deliveries, pd.DataFrame(), dict(meta))
    vars(trace)["samples"] = read_table(
        folder, "samples"
    )  # written with the run: no need to work them out again
    return trace


# --------------------------------------------------------------------------- kinds


def experiment_page(folder: Path, meta: Mapping[str, Any]) -> Page:
    """The page of a folder written by an experiment or a plan with ``--out``."""
    from sim import report_experiment

    return report_experiment.page(folder, meta)


BUILDERS: dict[str, Callable[[Path, Mapping[str, Any]], Page]] = {
    "terminating": run_page,
    "steady": run_page,
    "replication": experiment_page,
    "comparison": experiment_page,
    "sweep": experiment_page,
    "plan": experiment_page,
    "breaking point": experiment_page,
    "load": experiment_page,
}
"""The builder of the page of each kind of folder, by its ``kind``; a run has its scenario's."""
