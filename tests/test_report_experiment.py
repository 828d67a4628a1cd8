"""Reports of experiments: what stands in them, and how a real browser shows each kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.cli import main
from sim import report, report_experiment
from tests.browser import CONTRAST, PICTURES, Browser, assert_quiet

EVIL = "<script>alert(1)</script><img src=http://x.invalid/a onerror=alert(2)> {{ 7 * 7 }}"
SCENARIO = f"""
name: {json.dumps(EVIL)}
question: {json.dumps("How many </title><b>workers</b>? " + EVIL)}
seed: 7
horizon: 1m
producers:
  shop: {{arrivals: {{poisson: 5/s}}, keys: {{count: 5}}}}
endpoints:
  shops: {{policy: mine, receiver: flaky}}
policies:
  mine: {{schedule: [0s, 1s, 5s], timeout: 1s}}
receivers:
  flaky:
    latency: {{exponential: {{mean: 200ms}}}}
    servers: 8
    faults: [{{error: {{probability: 20%}}}}]
dispatcher: {{workers: 4}}
"""
FEW = ("--replications", "3", "--jobs", "1")
SLO = ("--slo", "delivery_latency_s_p99<=8s", "--slo", "lost_share<=5%")
KINDS: dict[str, tuple[tuple[str, ...], int]] = {
    # the command, and how many pictures its report has
    "comparison": (("compare", "--policies", "mine,timepad,github,hookdeck-like,dreamkas"), 1),
    "sweep": (("sweep", "--vary", "dispatcher.workers=1..12", "--vary", "policies.mine.timeout=1s,2s"), 4),
    "plan": (("plan", *SLO, "--vary", "dispatcher.workers=1..6"), 1),
    "breaking point": (("plan", "--find", "outage=1s..40s/5log"), 1),
    "load": (("plan", "--load", "1,2,5"), 1),
    "replication": (("replicate",), 0),
}
Hooklab = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with its report for each kind of experiment."""
    place = tmp_path_factory.mktemp("experiments")
    (place / "evil.yaml").write_text(SCENARIO, encoding="utf-8")
    found = {}
    for kind, ((command, *rest), _) in KINDS.items():
        found[kind] = place / kind
        assert main([command, str(place / "evil.yaml"), *rest, *FEW, "--out", str(found[kind])]) in (0, 1)
        report.write(found[kind])
    return found


def text_of(folder: Path) -> str:
    """The report in a folder."""
    return (folder / report.NAME).read_text(encoding="utf-8")


# --------------------------------------------------------------------------- in a real browser


@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_shows_every_kind(kind: str, browser: Browser, folders: dict[str, Path]) -> None:
    """No error, no request but for the page and its data, all pictures drawn, and a name that stays text."""
    address = (folders[kind] / report.NAME).as_uri()
    assert_quiet(browser.open(address), address)
    assert browser.evaluate(PICTURES) == [True] * KINDS[kind][1]
    assert browser.evaluate("document.querySelector('h1').textContent") == f"{EVIL}: {kind}"
    assert browser.evaluate("document.scripts.length + document.querySelectorAll('[onerror]').length") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_read(kind: str, browser: Browser, folders: dict[str, Path]) -> None:
    """Nothing runs out of a window of a phone or a desk, text contrasts, and every column and picture has a name."""
    address = (folders[kind] / report.NAME).as_uri()
    for scheme in ("light", "dark"):
        browser.open(address, prefers_color_scheme=scheme)
        for width in (360, 1200):
            browser.resize(width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, (scheme, width)
        assert browser.evaluate(CONTRAST.replace("'figcaption', ", ""))[1] >= 4.5, scheme
    assert browser.evaluate("[...document.querySelectorAll('th')].every(th => th.textContent.trim())")
    nodes = browser.accessibility()
    for role in ("image", "table", "heading", "region", "link", "columnheader", "rowheader"):
        assert all(node["name"] for node in nodes if node["role"] == role), role


@pytest.mark.parametrize("kind", ["comparison", "replication"])
def test_words_of_a_table_have_room_on_a_phone(kind: str, browser: Browser, folders: dict[str, Path]) -> None:
    """A wide table scrolls in its own place; it is not squeezed until each word has a line of its own."""
    browser.open((folders[kind] / report.NAME).as_uri())
    browser.resize(360)
    heights = browser.evaluate("[...document.querySelectorAll('tbody tr')].map(row => row.offsetHeight)")
    line = browser.evaluate("parseFloat(getComputedStyle(document.body).lineHeight)")
    assert max(heights) <= 4.5 * line
    inside = "[...document.querySelectorAll('.wide')].some(part => part.scrollWidth > part.clientWidth)"
    assert browser.evaluate(inside)


def test_names_of_rows_stay_in_sight(browser: Browser, folders: dict[str, Path]) -> None:
    """However far the figures of many variants are scrolled, it can be seen which figure a row has."""
    browser.open((folders["comparison"] / report.NAME).as_uri())
    browser.resize(1200)
    left = """
        (() => {
          const part = [...document.querySelectorAll('.wide')].find(one => one.scrollWidth > one.clientWidth);
          part.scrollLeft = 1e6;
          const name = part.querySelector('tbody th').getBoundingClientRect();
          return [part.scrollLeft, name.left - part.getBoundingClientRect().left];
        })()
    """
    scrolled, distance = browser.evaluate(left)
    assert scrolled > 100
    assert abs(distance) < 1


# --------------------------------------------------------------------------- what stands in them


def test_a_sweep_has_its_values_as_they_were_given(folders: dict[str, Path]) -> None:
    """Durations keep their unit in the table and in the names of curves; a column for each leaf."""
    text = text_of(folders["sweep"])
    assert '<th scope="col">policies.mine.timeout</th>' in text
    assert re.search(r'<tr><th scope="row">1</th><td>1s</td><td class="number">', text)
    assert "2.0</td>" not in text
    told = json.loads((folders["sweep"] / "result.json").read_text(encoding="utf-8"))
    assert told["texts"] == {
        "dispatcher.workers": [str(count) for count in range(1, 13)],
        "policies.mine.timeout": ["1s", "2s"],
    }
    assert told["vary"]["policies.mine.timeout"] == [1.0, 2.0]


def test_a_comparison_has_the_differences_that_the_command_prints(
    folders: dict[str, Path], hooklab: Hooklab
) -> None:
    """Every line of them, with its interval and its chance."""
    scenario = str(folders["comparison"].parent / "evil.yaml")
    _, out, _ = hooklab(*KINDS["comparison"][0][:1], scenario, *KINDS["comparison"][0][1:], *FEW)
    (printed,) = re.findall(r"^latency p99 .*\n +timepad +.* ([-+−]\S.*?)  +(\S.*)$", out, re.M)
    row = re.search(
        r'<th scope="row">delivery_latency_s_p99</th><td>timepad</td><td class="number">(.*?)</td>'
        r'<td class="number">(.*?)</td>',
        text_of(folders["comparison"]),
    )
    assert row is not None
    assert row[1].split(" (")[0].removesuffix(" *") in " ".join(printed)
    assert row[2].replace("&lt;", "<") in printed[1]


def test_an_answer_is_called_what_it_is(folders: dict[str, Path], hooklab: Hooklab) -> None:
    """Smallest without prices, cheapest with them."""
    assert "Smallest that meets every objective: dispatcher.workers=" in text_of(folders["plan"])
    scenario, out = str(folders["plan"].parent / "evil.yaml"), folders["plan"].parent / "priced"
    words = ("--vary", "dispatcher.workers=3,4", "--cost", "worker_hour=1", *FEW, "--out", str(out))
    assert hooklab("plan", scenario, *SLO, *words)[0] == 0
    assert hooklab("report", str(out))[0] == 0
    assert "Cheapest that meets every objective: dispatcher.workers=3" in text_of(out)


def test_an_edge_that_was_not_found_is_told_in_words(folders: dict[str, Path]) -> None:
    """A breaking point has one edge here, and the other lies beyond what was tried."""
    told = json.loads((folders["breaking point"] / "result.json").read_text(encoding="utf-8"))
    text = text_of(folders["breaking point"])
    assert (told["fails"] is None) == ("even from the largest size tried some runs recovered" in text)
    assert f"Surely recovers up to {told['recovers']} (" in text


def test_runs_that_broke_are_in_the_report_of_a_sweep(tmp_path: Path, hooklab: Hooklab) -> None:
    """With their reason, since no mean has them."""
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    schedules = "policies.mine.schedule=[0s],[0s, {delay: 0s, times: forever}]"
    code, _, _ = hooklab(
        "sweep", str(tmp_path / "s.yaml"), "--vary", schedules, "--replications", "1", "--set", "drain=1h",
        "--set", "receivers.flaky={latency: 0s, faults: [{error: {probability: 1, latency: 0s}}]}",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 1
    assert hooklab("report", str(tmp_path / "out"))[0] == 0
    text = text_of(tmp_path / "out")
    assert "Runs that could not be finished" in text
    assert "retries without a gap" in text


def test_a_large_sweep_is_cut_and_says_so(
    tmp_path: Path, hooklab: Hooklab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows beyond the limit are counted, and of many curves as many are drawn as can be told apart."""
    monkeypatch.setattr(report_experiment, "MOST_ROWS", 5)
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    vary = ("--vary", "dispatcher.workers=1,9", "--vary", "policies.mine.timeout=1s..2s/8")
    words = (*vary, "--replications", "1", "--set", "horizon=1s", "--out", str(tmp_path / "out"))
    assert hooklab("sweep", str(tmp_path / "s.yaml"), *words)[0] == 0
    assert hooklab("report", str(tmp_path / "out"))[0] == 0
    text = text_of(tmp_path / "out")
    assert "The first 5 points; result.json has 11 more." in text
    assert text.count('<tr><th scope="row">') == 5
    assert "Drawn are 6 of 8 curves." in text
