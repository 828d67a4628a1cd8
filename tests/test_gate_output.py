"""What judged gates become: JUnit XML, Markdown, benchmark history, JSON, a report, and the fixture of pytest."""

from __future__ import annotations

import json
import math
import os
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

import sim
from loadtest import gate, gate_output
from loadtest.gate_output import Outcome
from sim.errors import ScenarioError
from tests import browser, tiny

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
EVIL = (
    "1. <script>alert(1)</script> | `a` **b** __c__ ~~d~~ [x](http://y.invalid) ]]> & \" ' \x00\x1b\ud800 \ufffe"
    " 日本 {{ 7 * 7 }} \\| &amp; \\\nline"
)
METRICS = {"deliveries": 1000.0, "lost_share": 0.004, "delivery_latency_s_p99": 2.31, "drain_s": math.nan}


def verdict(expr: str = "lost_share==0", *, ok: bool = False, by: str = "lost_share is 0.4 %") -> gate.Judged:
    """A judged gate."""
    return gate.Judged(expr=expr, figure="lost_share", value=0.004, limit=0.0, tolerance=0.0, ok=ok, by=by)


def outcome(*judged: gate.Judged, **changes: Any) -> Outcome:
    """A load test that is over."""
    values: dict[str, Any] = {"name": "shop", "seed": 7, "metrics": METRICS, "wall_s": 12.5}
    return Outcome(judged=judged, **(values | changes))


PASSED = verdict("lost_share<=1%", ok=True)
FAILED = verdict()
HOSTILE = outcome(
    verdict(f"lost_share[type={EVIL}]==0", by=EVIL),
    name=EVIL,
    problems=[EVIL],
    warnings=[EVIL],
    facts=[EVIL],
    undocumented=[EVIL],
)

# --------------------------------------------------------------------------- JUnit XML

# What junit-10.xsd of Jenkins' xUnit plugin allows: attributes, those required among them, and children.
SHAPE = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped"},
        {"name", "tests", "failures", "errors"},
        {"properties", "testcase"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, {"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, {"name"}, {"failure"}),
    "failure": ({"message", "type"}, set(), set()),
}


def assert_shaped(element: ElementTree.Element) -> None:
    """An element and all below it are what the schema allows."""
    attributes, required, children = SHAPE[element.tag]
    assert required <= set(element.attrib) <= attributes, element.tag
    if "time" in element.attrib:
        assert re.fullmatch(r"\d+\.\d{3}", element.attrib["time"])
    for child in element:
        assert child.tag in children, (element.tag, child.tag)
        assert_shaped(child)


def cases(text: str) -> dict[str, str | None]:
    """The test cases of a file by name, with what their failure says."""
    root = ElementTree.fromstring(text.encode())
    found = {}
    for case in root.iter("testcase"):
        failure = case.find("failure")
        found[case.attrib["name"]] = None if failure is None else failure.attrib["message"]
    return found


def test_junit_has_a_case_for_each_gate_and_one_for_the_validity() -> None:
    """Those that hold have no failure, the others say what came out; the counts agree."""
    text = gate_output.junit(outcome(PASSED, FAILED))
    assert cases(text) == {
        gate_output.VALIDITY: None,
        "lost_share<=1%": None,
        "lost_share==0": "lost_share is 0.4 %",
    }
    root = ElementTree.fromstring(text.encode())
    assert_shaped(root)
    for counted in (root, root[0]):
        assert (counted.attrib["tests"], counted.attrib["failures"]) == ("3", "1")


def test_no_gate_passes_where_the_load_test_is_not_valid() -> None:
    """A reader of the file sees no green test for figures that nobody can believe."""
    text = gate_output.junit(outcome(PASSED, problems=["the generator was late"]))
    assert cases(text) == {
        gate_output.VALIDITY: "the generator was late",
        "lost_share<=1%": "the load test is not valid",
    }


def test_junit_is_well_formed_whatever_it_holds() -> None:
    """Markup, control characters and halves of characters neither break the file nor get lost unseen."""
    root = ElementTree.fromstring(gate_output._encoded(gate_output.junit(HOSTILE)))
    assert_shaped(root)
    message = root.findall(".//failure")[1].attrib["message"]
    assert "<script>alert(1)</script>" in message
    assert "日本" in message
    assert "\ufffd" in message


def test_without_a_gate_the_validity_is_still_a_case() -> None:
    """A file without a test case is an error to most readers."""
    assert cases(gate_output.junit(outcome())) == {gate_output.VALIDITY: None}


# --------------------------------------------------------------------------- Markdown


class Rendered(HTMLParser):
    """What a renderer makes of Markdown: elements, and the texts of table cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element; begin a row or a cell."""
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_the_summary_has_gates_and_figures_in_tables() -> None:
    """One row for each gate, and the figures that exist; the headline counts what failed."""
    page = Rendered(gate_output.markdown(outcome(PASSED, FAILED, facts=["On 2 cores."])))
    assert page.rows[1] == ["✅", "lost_share<=1%", "lost_share is 0.4 %"]
    assert page.rows[2] == ["❌", "lost_share==0", "lost_share is 0.4 %"]
    assert ["deliveries", "1,000"] in [row[:2] for row in page.rows]
    assert ["delivery_latency_s_p99", "2.31 s"] in [row[:2] for row in page.rows]
    assert "1 of 2 gates failed." in page.text
    assert "On 2 cores." in page.text
    assert "drain_s" not in page.text


def test_the_summary_shows_every_value_as_it_is() -> None:
    """No value becomes markup, ends its cell or its line."""
    page = Rendered(gate_output.markdown(HOSTILE))
    plain = Rendered(gate_output.markdown(outcome(FAILED, problems=["a"], warnings=["b"], facts=["c"])))
    assert page.tags == plain.tags
    assert [len(row) for row in page.rows] == [len(row) for row in plain.rows]
    shown = " ".join(EVIL.split())
    assert page.rows[1][1] == f"lost_share[type={shown}]==0".replace("\x00", "\ufffd")


@pytest.mark.parametrize(
    ("judged", "problems", "headline"),
    [
        ([], [], "no gate to judge"),
        ([PASSED], [], "1 gate passed."),
        ([PASSED, PASSED], [], "2 gates passed."),
        ([FAILED], [], "1 of 1 gate failed."),
        ([PASSED], ["late"], "not valid"),
    ],
)
def test_the_headline_says_what_came_out(
    judged: list[gate.Judged], problems: list[str], headline: str
) -> None:
    """In a sentence, and ``ok`` only where nothing is wrong."""
    over = outcome(*judged, problems=problems)
    assert headline in over.headline
    assert over.ok is ("failed" not in headline and "not valid" not in headline)


# --------------------------------------------------------------------------- benchmark history and JSON


def test_the_history_has_figures_of_which_less_is_better() -> None:
    """Name, unit and value of each; none that does not exist, and none of which more is better."""
    metrics = METRICS | {"delivered_share": 0.9, "within_share{30s}": 0.9, "request_latency_s_p99": 0.2}
    entries = gate_output.benchmarks(outcome(metrics=metrics))
    assert {entry["name"]: (entry["unit"], entry["value"]) for entry in entries} == {
        "shop: lost_share": ("share", 0.004),
        "shop: delivery_latency_s_p99": ("s", 2.31),
        "shop: request_latency_s_p99": ("s", 0.2),
    }
    assert all(list(entry) == ["name", "unit", "value"] for entry in entries)


def test_what_is_written_as_json_has_null_for_what_does_not_exist(tmp_path: Path) -> None:
    """It is strict JSON, and the next run's baseline."""
    from loadtest import gate_baseline

    path = tmp_path / "result.json"
    gate_output.write_json(path, outcome(FAILED))
    data = json.loads(path.read_text("utf-8"), parse_constant=lambda word: pytest.fail(word))
    assert data["metrics"]["drain_s"] is None
    assert data["valid"] is True
    assert {"expr", "value", "ok", "limit", "by"} <= set(data["gates"][0])
    assert gate_baseline.read(path).figure("delivery_latency_s_p99") == 2.31


# --------------------------------------------------------------------------- files


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where moving fails, the earlier file is as it was and nothing lies beside it."""
    path = tmp_path / "junit.xml"
    gate_output.write_junit(path, outcome(PASSED))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        gate_output.write_junit(path, outcome(FAILED))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["junit.xml"]


def test_a_summary_is_appended_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood there stays; a disk that fills up half-way leaves it as it was."""
    path = tmp_path / "summary.md"
    path.write_text("before\n", encoding="utf-8")
    gate_output.append_markdown(path, outcome(PASSED))
    whole = path.read_text("utf-8")
    assert whole == "before\n" + gate_output.markdown(outcome(PASSED))
    write, written = os.write, []

    def filling(descriptor: int, content: Any) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(write(descriptor, bytes(content)[:20]))
        return written[0]

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(OSError, match="No space"):
        gate_output.append_markdown(path, outcome(FAILED))
    assert path.read_text("utf-8") == whole


def test_where_nothing_can_be_written_is_told_before(tmp_path: Path) -> None:
    """A folder, a missing folder, and a path that is none, all at once; nothing is left behind."""
    paths = [tmp_path, tmp_path / "no" / "a.xml", tmp_path / "a\0b", tmp_path / "fine.xml"]
    with pytest.raises(ScenarioError) as caught:
        gate_output.require_writable(*paths)
    assert len(caught.value.problems) == 3
    assert os.listdir(tmp_path) == []


def test_what_is_no_file_is_written_to() -> None:
    """``/dev/null`` and ``/dev/stdout`` are not replaced by a file."""
    gate_output.write_junit(Path(os.devnull), outcome(PASSED))
    gate_output.append_markdown(Path(os.devnull), outcome(PASSED))
    assert Path(os.devnull).is_char_device()


# --------------------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as a load test fills: a run, and in its figures the gates."""
    result = sim.run(tiny.world("0s", "10s", receivers=tiny.failing("0s", "5s")))
    target = tmp_path_factory.mktemp("out") / "results"
    result.save(target)
    gates = gate.read(["lost_share==0", "deliveries>=1", "requests>=1"])
    requests = {"requests": 2.0, "lateness_s_p99": math.nan}
    over = Outcome(
        name=result.scenario.name,
        seed=0,
        judged=gate.judge(gates, result.trace, requests=requests),
        metrics=gate_output.figures_of(result.trace, requests),
        facts=["It ran on <two> cores."],
    )
    gate_output.write_json(target / "metrics.json", over)
    return target


def test_the_report_of_a_load_test_has_its_gates_on_top(folder: Path, tmp_path: Path) -> None:
    """Before any figure: every gate with its verdict; the pictures of the run are there too."""
    text = gate_output.write_report(folder, tmp_path / "r.html").read_text("utf-8")
    first = re.findall(r'<section id="(\w+)"', text)
    assert first[:3] == ["gates", "figures", "pictures"]
    gates = text[text.index('id="gates"') : text.index('id="figures"')]
    assert gates.count(">passed<") == 2
    assert gates.count(">failed<") == 1
    assert "1 of 3 failed." in gates
    assert "lost_share is 50 % (1 of 2 deliveries); it must be == 0 %: 50 points too much" in gates
    assert "It ran on &lt;two&gt; cores." in gates
    assert "lateness_s_p99" not in text
    assert "hooklab loadtest scenario.yaml --seed 0 --gate" in text


def test_the_report_says_where_a_load_test_is_not_valid(folder: Path, tmp_path: Path) -> None:
    """Nobody takes its gates for a verdict."""
    data = json.loads((folder / "metrics.json").read_text("utf-8"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data |= {"valid": False, "problems": ["the generator was late"]}
    (copy / "metrics.json").write_text(json.dumps(data), encoding="utf-8")
    text = gate_output.write_report(copy).read_text("utf-8")
    assert "not valid" in text
    assert "the generator was late" in text


# --------------------------------------------------------------------------- workflows


def workflows() -> Iterator[tuple[str, dict[Any, Any]]]:
    """The workflows of this repository by name."""
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        yield path.name, yaml.safe_load(path.read_text("utf-8"))


def test_workflows_are_complete() -> None:
    """Each has a trigger, rights that are named, and jobs of limited time on pinned actions."""
    found = dict(workflows())
    assert set(found) == {"ci.yml", "loadtest.yml"}
    for content in found.values():
        assert content[True]  # YAML 1.1 reads the key on as a truth value; GitHub does not
        assert content["permissions"] == {"contents": "read"}
        for job in content["jobs"].values():
            assert job["timeout-minutes"] <= 60
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step)
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/checkout@v6"))


def test_ci_keeps_the_pictures_that_tests_of_pages_take() -> None:
    """Where the tests are told to put them is what is kept, whether or not a test fails."""
    job = dict(workflows())["ci.yml"]["jobs"]["check-and-test"]
    told = job["env"][browser.SCREENSHOTS]
    kept = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert told.rpartition("/")[2] == kept["with"]["path"].strip("/")
    assert kept["if"] == "always()"


def test_the_gates_of_the_workflow_can_be_judged() -> None:
    """Its scenario is one, has no warning, and every gate of the command is about something in it."""
    job = dict(workflows())["loadtest.yml"]["jobs"]["loadtest"]
    scenario = sim.load(ROOT / job["env"]["SCENARIO"])
    assert scenario.warnings() == ()
    command = next(step["run"] for step in job["steps"] if "hooklab loadtest" in step.get("run", ""))
    gates = gate.read(re.findall(r"--gate '([^']+)'", command))
    assert len(gates) == command.count("--gate")
    gate.check(gates, scenario)
    simulated = [each for each in gates if not gate_output.REQUESTS.get(each.figure.metric)]
    assert all(found.ok for found in gate.judge(simulated, sim.run(scenario).trace))


# --------------------------------------------------------------------------- the fixture

SUITE = """
import types
import pytest, sim
from sim.errors import ScenarioError

WORLD = {world!r}

@pytest.fixture(scope="module")
def finished(hooklab):
    return hooklab.simulate(WORLD, horizon="90s", warmup=0)

def test_holds(finished):
    finished.gate("deliveries==2", "delivery_latency_s_p50 == 1s")
    assert finished.scenario.to_mapping()["horizon"] == "90s"
    assert finished.metrics["deliveries"] == 2

def test_fails(finished):
    finished.gate("lost_share==0", "deliveries==3", "delivery_latency_s_p99<1s")

def test_mistaken(finished):
    finished.gate("lost_sahre==0")

def test_no_gate(finished):
    with pytest.raises(ScenarioError, match="no gate was given"):
        finished.gate()

def test_baseline(finished, tmp_path):
    import json
    path = tmp_path / "old.json"
    path.write_text(json.dumps(finished.to_json()))
    finished.gate("attempts_per_delivery<=baseline+5%", baseline=path)

def test_streamed_and_seed(hooklab):
    finished = hooklab.simulate(WORLD, overrides=["drain=500s"], stream=True, seed=5)
    finished.gate("lost_share==0")
    assert finished.seed == 5

def test_loadtest(hooklab, monkeypatch):
    import sys
    def run(scenario, *, seed=None, gates=(), out=None, progress=None, **options):
        assert (seed, gates, options) == (4, ["lost_share==0"], {{"speed": 2}})
        trace = sim.run(scenario, seed=seed).trace
        metrics = dict(trace.metrics) | {{"requests": 2.0}}
        return types.SimpleNamespace(trace=trace, metrics=metrics, valid=False, judged=[])
    monkeypatch.setitem(sys.modules, "loadtest.harness", types.SimpleNamespace(run=run))
    finished = hooklab.loadtest(WORLD, horizon="90s", seed=4, gates=["lost_share==0"], speed=2)
    with pytest.raises(AssertionError, match="0 of 2 gates failed.*\\n  not valid") as caught:
        finished.gate("requests==2", "delivery_latency_s_p99<=sim*1.2")
"""


def test_a_suite_of_a_users_own_finds_the_fixture(pytester: pytest.Pytester) -> None:
    """By its entry point alone; failures stand at the line of the test and say figure, limit and miss."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][
        "pytest11"
    ]
    info = pytester.mkdir("hooklab-0.dist-info")
    lines = ["[pytest11]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hooklab\nVersion: 0\n", encoding="utf-8")
    pytester.makepyfile(SUITE.format(world=tiny.world("0s", "10s")))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(pytester.path), str(ROOT)]))
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        result = pytester.runpytest_subprocess(
            *("-p", "hooklab", "-W", "error", "-p", "no:cacheprovider"), timeout=240
        )
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(
        [
            '>*finished.gate("lost_share==0", "deliveries==3", "delivery_latency_s_p99<1s")',
            "E*AssertionError: 2 of 3 gates failed (*, seed 0):",
            "E*deliveries is 2; it must be == 3: 33.3 % too little",
            "E*delivery_latency_s_p99 is 1 s; it must be < 1 s: the limit itself is not <",
            '>*finished.gate("lost_sahre==0")',
            "E*did you mean lost_share?*",
        ]
    )
    result.stdout.no_fnmatch_line("*gate_syntax.py*")


def test_the_fixture_costs_nothing_until_it_is_asked_for(pytester: pytest.Pytester) -> None:
    """The plugin imports neither the simulator nor what it needs: suites that do not use it start as fast as before."""
    pytester.makepyfile(
        """
        import sys
        def test_nothing_heavy():
            import loadtest.fixture
            heavy = {"pandas", "numpy", "numba", "scipy", "pydantic", "locust", "sim"}
            assert not heavy & set(sys.modules)
        """
    )
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", timeout=60)
    result.assert_outcomes(passed=1)
