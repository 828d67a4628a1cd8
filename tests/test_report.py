"""The report of a folder: what stands in it, that it needs nothing else, and which folders are refused."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from loadtest.cli import main
from sim import report
from sim.errors import ScenarioError
from sim.shown import MISSING, shown
from tests.browser import CONTRAST, PICTURES, Browser, assert_quiet

EVIL = "<script>alert(1)</script><img src=http://x.invalid/a onerror=alert(2)> & \"quoted\" 'too' {{ 7 * 7 }} ]]>"
SCENARIO = f"""
name: {json.dumps(EVIL)}
question: {json.dumps("Is </title><b>this</b> safe? " + EVIL)}
seed: 3
horizon: 5m
drain: 30m
producers:
  shop: {{arrivals: {{poisson: 2/s}}}}
endpoints:
  group: {{policy: mine, receiver: r}}
  other: {{policy: hookdeck-like, receiver: r}}
policies:
  mine: {{schedule: [0s, 10s, 1m]}}
receivers:
  r: {{latency: 100ms, faults: [{{error: {{probability: 20%}}}}]}}
"""


class Page(HTMLParser):
    """An HTML page taken apart: its elements with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.pieces.append(data)

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(self.pieces)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


Hooklab = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a run whose names try to break out of the page."""
    place = tmp_path_factory.mktemp("finished")
    (place / "evil.yaml").write_text(SCENARIO, encoding="utf-8")
    assert main(["run", str(place / "evil.yaml"), "--out", str(place / "out")]) == 0
    return place / "out"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Its report."""
    target = report.write(finished, tmp_path_factory.mktemp("page") / "page.html")
    return Page(target.read_text(encoding="utf-8"))


# --------------------------------------------------------------------------- what stands in it


def test_a_report_says_what_the_folder_says(page: Page, finished: Path) -> None:
    """Question, seed, figures with meanings, closed forms, warnings, scenario and command are there."""
    figures = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))
    assert EVIL in page.text
    assert "Is </title><b>this</b> safe?" in page.text
    assert "seed 3" in page.text
    assert "deliveries given up although their receiver had processed them" in page.text
    assert "nobody documents them: hookdeck-like" in page.text
    assert figures["warnings"]
    assert all(text in page.text for text in figures["warnings"])
    assert "group: lost_share" in page.text
    assert "3 attempts fail independently of one another (errors 20 %)" in page.text
    assert "hooklab run scenario.yaml --seed 3" in page.text
    assert (finished / "scenario.yaml").read_text(encoding="utf-8") in page.text


def test_every_figure_of_the_run_is_there(page: Page, finished: Path) -> None:
    """No figure that exists is left out, and none stands twice in the tables of figures."""
    metrics = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    cells = list(itertools.pairwise(page.pieces))
    for name, value in metrics.items():
        written = MISSING if value is None else shown(name, value)
        assert cells.count((name, written)) == (value is not None), name


def test_a_report_needs_nothing_but_itself(page: Page) -> None:
    """No script, no address but data: and places on the page; a policy that forbids the rest comes first."""
    assert not page.all("script")
    addresses = [
        (tag, name, value or "")
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster") or name.startswith("on")
    ]
    assert addresses
    assert all(value.startswith(("data:", "#")) for _, _, value in addresses)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_nothing_breaks_out_of_its_place(page: Page) -> None:
    """Elements are those of the template: names in them are text, and templates in names are not filled in."""
    known = {
        *(
            "html",
            "head",
            "meta",
            "title",
            "link",
            "style",
            "body",
            "a",
            "header",
            "h1",
            "p",
            "strong",
            "nav",
        ),
        *("ul", "li", "main", "section", "h2", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"),
        *("figure", "img", "figcaption", "details", "summary", "pre", "footer"),
    }
    assert {tag for tag, _ in page.elements} <= known
    assert "{{ 7 * 7 }}" in page.text
    assert all(picture["src"].startswith("data:image/svg+xml;base64,") for picture in page.all("img"))  # type: ignore[union-attr]


def test_a_folder_that_was_tampered_with_breaks_out_no_more(folder: Path) -> None:
    """Texts of metrics.json are escaped like all others."""
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    figures["warnings"] = [EVIL]
    figures["theory"][0] |= {"title": EVIL, "why": EVIL, "source": EVIL, "metric": EVIL}
    figures["undocumented"] = [EVIL]
    (folder / "metrics.json").write_text(json.dumps(figures), encoding="utf-8")
    found = Page(report.write(folder).read_text(encoding="utf-8"))
    assert found.text.count(EVIL) >= 6
    assert not found.all("script")
    assert all((picture["src"] or "").startswith("data:") for picture in found.all("img"))


def test_pictures_are_told_in_words(page: Page) -> None:
    """Every picture has a text in its place that holds its numbers, and every table a caption."""
    alts = [picture["alt"] or "" for picture in page.all("img")]
    assert len(alts) == 6
    assert all(len(alt) > 40 for alt in alts)
    assert "99 % " in alts[0]
    assert len(page.all("caption")) == len(page.all("table"))
    assert {head["scope"] for head in page.all("th")} == {"col", "row"}


def test_links_on_the_page_lead_somewhere(page: Page) -> None:
    """Every place that is linked to is there, once."""
    places = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(places) == len(set(places))
    assert {(link["href"] or "").removeprefix("#") for link in page.all("a")} <= set(places)


def test_csv_gives_the_same_report(finished: Path, page: Page, tmp_path: Path, hooklab: Hooklab) -> None:
    """The format of the tables makes no difference to what is said."""
    code, _, _ = hooklab(
        "run", str(finished / "scenario.yaml"), "--out", str(tmp_path / "out"), "--format", "csv"
    )
    assert code == 0
    again = Page(report.write(tmp_path / "out").read_text(encoding="utf-8"))
    assert re.sub(r"\w+ engine", "", again.text) == re.sub(r"\w+ engine", "", page.text)
    assert [picture["src"] for picture in again.all("img")] == [picture["src"] for picture in page.all("img")]


POOR = {
    "nothing happens": {"producers": {"p": {"arrivals": {"at": ["10m"]}}}},
    "nothing is pushed": {"endpoints": {"e": {"receiver": "healthy", "mode": {"poll": {"every": "1m"}}}}},
    "all is lost": {"endpoints": {"e": {"policy": "github", "receiver": "dead"}}},
}


@pytest.mark.parametrize("changes", POOR.values(), ids=POOR.keys())
def test_no_run_is_too_poor_for_a_report(changes: dict[str, Any], tmp_path: Path) -> None:
    """Figures that do not exist are left out, and pictures say that there is nothing to see."""
    import sim

    scenario = {
        "horizon": "5m",
        "producers": {"p": {"arrivals": {"poisson": "1/s"}}},
        "endpoints": {"e": {"policy": "github", "receiver": "healthy"}},
        **changes,
    }
    sim.run(scenario).save(tmp_path / "out")
    text = report.write(tmp_path / "out").read_text(encoding="utf-8")
    assert "nan" not in Page(text).text.lower().split()


# --------------------------------------------------------------------------- the command and its file


def test_the_command_writes_into_the_folder(folder: Path, hooklab: Hooklab) -> None:
    """Without --out the report joins the folder, replaces an earlier one, and a new run may replace both."""
    for _ in range(2):
        code, out, err = hooklab("report", str(folder))
        assert (code, out, err) == (0, "", f"written to {folder / 'report.html'}\n")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []
    code, _, _ = hooklab("run", str(folder.parent / "out" / "scenario.yaml"), "--out", str(folder))
    assert code == 0
    assert not (folder / "report.html").exists()


def test_the_file_can_be_named(folder: Path, tmp_path: Path, hooklab: Hooklab) -> None:
    """--out names the file and --json prints where it is; the folder is left alone."""
    before = sorted(folder.iterdir())
    target = tmp_path / "page.html"
    code, out, _ = hooklab("report", str(folder), "--out", str(target), "--json")
    assert (code, json.loads(out)) == (0, {"report": str(target)})
    assert sorted(folder.iterdir()) == before
    assert target.stat().st_mode & 0o777 == (folder / "metrics.json").stat().st_mode & 0o777


def test_only_a_report_is_replaced(folder: Path, tmp_path: Path, hooklab: Hooklab) -> None:
    """A file that is no report, a folder, and a place that is not there are refused, and nothing is touched."""
    other = tmp_path / "notes.html"
    other.write_text("<p>mine", encoding="utf-8")
    for target, message in (
        (other, "is there and is no report of hooklab"),
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "no" / "page.html", "stands in a folder that is not there"),
    ):
        code, out, err = hooklab("report", str(folder), "--out", str(target))
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err
    assert other.read_text(encoding="utf-8") == "<p>mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, where nobody may write")
def test_a_place_that_cannot_be_written_is_told(folder: Path, hooklab: Hooklab) -> None:
    """The reason of the system is told, also to somebody who may write anywhere else."""
    code, _, err = hooklab("report", str(folder), "--out", "/proc/report.html")
    assert code == 2
    assert err.startswith("error: out /proc/report.html cannot be written: ")
    assert "Traceback" not in err


def test_a_failed_write_leaves_the_earlier_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong, the report that was there stays, and nothing half written beside it."""
    target = report.write(folder)
    before, names = target.read_bytes(), sorted(folder.iterdir())

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sim.report.os.replace", broken)
    with pytest.raises(OSError, match="No space"):
        report.write(folder)
    assert target.read_bytes() == before
    assert sorted(folder.iterdir()) == names


# --------------------------------------------------------------------------- folders that are none


def spoil_json(path: Path, key: str, value: Any) -> None:
    """Replace a value of a JSON file; of a mapping, some of its entries."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data[key] = {**data[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(data), encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    # what is done to the folder, and what the error says
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "holds no results of hooklab"),
    "no meta": (lambda f: (f / "meta.json").unlink(), "there is no meta.json"),
    "meta is no JSON": (lambda f: (f / "meta.json").write_text("{"), "meta.json: is no JSON"),
    "meta is a list": (lambda f: (f / "meta.json").write_text("[]"), "meta.json: is no JSON object"),
    "meta is binary": (lambda f: (f / "meta.json").write_bytes(b"\xff\xfe"), "meta.json: is no JSON"),
    "no kind": (lambda f: (f / "meta.json").write_text("{}"), "is none that a report knows"),
    "another kind": (lambda f: (f / "meta.json").write_text('{"kind": "cake"}'), "kind is cake"),
    "kind of another type": (lambda f: (f / "meta.json").write_text('{"kind": ["run"]}'), "kind is [run]"),
    "meta lacks things": (
        lambda f: (f / "meta.json").write_text('{"kind": "steady"}'),
        "does not hold what a report needs (KeyError: 'seed')",
    ),
    "no figures": (lambda f: (f / "metrics.json").unlink(), "metrics.json: cannot be read: No such file"),
    "figures lack things": (lambda f: (f / "metrics.json").write_text("{}"), "KeyError: 'metrics'"),
    "figures are text": (lambda f: (f / "metrics.json").write_text('{"metrics": "no"}'), "does not hold"),
    "a figure is text": (lambda f: spoil_json(f / "metrics.json", "metrics", {"attempts": "many"}), "ValueError"),
    "an unknown figure": (lambda f: spoil_json(f / "metrics.json", "metrics", {"luck": 1.0}), "KeyError: 'luck'"),
    "half a closed form": (lambda f: spoil_json(f / "metrics.json", "theory", [{"value": 1}]), "KeyError: 'metric'"),
    "no horizon": (lambda f: spoil_json(f / "meta.json", "horizon_s", None), "TypeError"),
    "no scenario": (lambda f: (f / "scenario.yaml").unlink(), "scenario.yaml: there is no such file"),
    "broken scenario": (lambda f: (f / "scenario.yaml").write_text("a: ["), "scenario.yaml"),
    "no deliveries": (lambda f: (f / "deliveries.parquet").unlink(), "lacks the table deliveries"),
    "broken table": (lambda f: (f / "deliveries.parquet").write_bytes(b"no"), "deliveries.parquet: cannot be read"),
    "no samples": (lambda f: (f / "samples.parquet").unlink(), "lacks the table samples"),
    "csv without columns": (
        lambda f: ((f / "deliveries.parquet").unlink(), (f / "deliveries.csv").write_text("a,b\n1,2\n")),
        "deliveries.csv: cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_folder_is_told(
    spoil: Callable[[Path], Any], message: str, folder: Path, hooklab: Hooklab
) -> None:
    """The error names the file and what is wrong with it; there is no traceback, and no report."""
    spoil(folder)
    code, out, err = hooklab("report", str(folder))
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not (folder / "report.html").exists()


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    """A path that is not there, and a file."""
    with pytest.raises(ScenarioError, match="is not there"):
        report.read(tmp_path / "none")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ScenarioError, match="is a file; name the folder it is in"):
        report.read(file)


def test_a_new_kind_joins_by_a_builder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder for another kind is all that its folders need to get a report."""

    def build(place: Path, meta: Any) -> report.Page:
        row = ("workers", str(meta["answer"]))
        table = report.Table(
            caption="Answer", heads=(report.Head(text="leaf"), report.Head(text="value")), rows=[row]
        )
        section = report.Section(name="answer", heading="Answer", tables=[table])
        return report.Page(title=place.name, question=None, facts=[], warnings=[], sections=[section])

    monkeypatch.setitem(report.BUILDERS, "plan", build)
    (folder / "meta.json").write_text('{"kind": "plan", "answer": 12}', encoding="utf-8")
    found = Page(report.write(folder).read_text(encoding="utf-8"))
    assert "workers12" in found.text


# --------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def address(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report."""
    return report.write(finished, tmp_path_factory.mktemp("shown") / "page.html").as_uri()


def test_a_browser_shows_the_report(browser: Browser, address: str) -> None:
    """No error on the console, no request but for the page and its data, all pictures drawn, names as text."""
    assert_quiet(browser.open(address), address)
    assert browser.evaluate(PICTURES) == [True] * 6
    assert browser.evaluate("document.querySelector('h1').textContent") == EVIL
    assert browser.evaluate("document.title") == f"{EVIL} – hooklab"
    assert browser.evaluate("document.scripts.length + document.querySelectorAll('[onerror]').length") == 0


def test_a_page_that_fetches_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    """The test above fails for a page with an outside picture or an error of a script."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>nothing.there</script>", encoding="utf-8")
    visit = browser.open(bad.as_uri())
    assert any("nothing is not defined" in text for text in visit.console)
    assert "http://127.0.0.1:9/x.png" in visit.requests


def test_a_report_can_be_read_in_the_dark(browser: Browser, address: str) -> None:
    """Text contrasts with its ground by 4.5 at least, light and dark."""
    grounds = {}
    for scheme in ("light", "dark"):
        browser.open(address, prefers_color_scheme=scheme)
        grounds[scheme], contrast = browser.evaluate(CONTRAST)
        assert contrast >= 4.5, scheme
    assert grounds["dark"] < 0.1 < 0.9 < grounds["light"]


def test_a_report_works_with_the_keyboard_and_a_screen_reader(browser: Browser, address: str) -> None:
    """The first stop leads to the content; pictures, tables, headings and regions have names."""
    browser.open(address)
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    nodes = browser.accessibility()
    for role, least in (("image", 6), ("table", 5), ("heading", 6), ("region", 5), ("link", 6)):
        named = [node["name"] for node in nodes if node["role"] == role]
        assert len(named) >= least, role
        assert all(named), role
    assert {"main", "navigation"} <= {node["role"] for node in nodes}


@pytest.mark.parametrize("width", [360, 1200])
def test_a_report_fits_its_window(browser: Browser, address: str, width: int) -> None:
    """The page itself never scrolls sideways; what is wide scrolls in its own region."""
    browser.open(address)
    browser.resize(width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_a_report_can_be_printed(browser: Browser, address: str) -> None:
    """It prints as a PDF of several pages."""
    browser.open(address)
    assert browser.pdf().startswith(b"JVBERi0")  # %PDF- in base64
