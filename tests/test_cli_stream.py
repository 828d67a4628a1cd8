"""The command with streamed runs and with a backlog that outgrows its limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import sim
from sim import presets
from sim.histogram import RELATIVE_ERROR
from tests.test_cli import SCENARIO

Hooklab = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Path of a scenario that runs in an instant."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return str(path)


def test_a_streamed_run_prints_the_same_figures(tiny: str, hooklab: Hooklab) -> None:
    """Counts and shares are the same; quantiles to within what is promised; the table says what is missing."""
    kept, streamed = (
        json.loads(hooklab("run", tiny, option, "--json")[1]) for option in ("--no-stream", "--stream")
    )
    assert (kept["streamed"], streamed["streamed"]) == (False, True)
    assert streamed["engine"] == "compiled"
    for name, value in kept["metrics"].items():
        # means are sums of whole numbers in one and of floats in the other
        error = RELATIVE_ERROR if name.endswith(("_p50", "_p90", "_p99", "_p999")) else 1e-9
        assert streamed["metrics"][name] == (value if value is None else pytest.approx(value, rel=error)), (
            name
        )
    out = hooklab("run", tiny, "--stream")[1]
    assert "compiled engine, streamed" in out
    assert "no tables" in out


def test_a_streamed_run_replaces_the_folder_of_a_kept_one(
    tiny: str, hooklab: Hooklab, tmp_path: Path
) -> None:
    """Each kind of run leaves its own tables and nothing of the other's; a report is made of either."""
    out = tmp_path / "out"
    for option, tables in (
        ("--no-stream", {"attempts", "deliveries", "samples", "polls"}),
        ("--stream", {"histograms"}),
    ):
        assert hooklab("run", tiny, option, "--out", str(out))[0] == 0
        assert {path.stem for path in out.glob("*.parquet")} == tables
        assert hooklab("report", str(out))[0] == 0


def test_streaming_with_the_simpy_engine_is_refused(tiny: str, hooklab: Hooklab) -> None:
    """It is told which of the two to drop."""
    code, out, err = hooklab("run", tiny, "--stream", "--engine", "simpy")
    assert (code, out) == (2, "")
    assert err == "error: stream needs the compiled engine: drop --engine simpy, or stream\n"


def test_a_backlog_beyond_its_limit_is_told(tiny: str, hooklab: Hooklab) -> None:
    """The run ends early with a warning first, the figures until then, and ``stopped`` in the JSON."""
    words = (
        "run",
        tiny,
        "--set",
        "receivers.flaky.faults=[{outage: {windows: [[0s, 1h]]}}]",
        "--backlog-limit",
        "3",
    )
    code, out, _ = hooklab(*words)
    assert code == 0
    assert out.startswith("warning: the run stopped at ")
    assert "raise the limit (--backlog-limit)" in out.splitlines()[0] + out.splitlines()[1]
    code, out, err = hooklab(*words, "--json")
    assert json.loads(out)["stopped"] is True
    assert "warning: the run stopped at " in err
    code, _, err = hooklab("run", tiny, "--backlog-limit", "0")
    assert code == 2
    assert "backlog_limit is 0" in err


@pytest.mark.parametrize("name", presets.names("scenarios"))
def test_every_bundled_scenario_can_be_streamed(name: str, hooklab: Hooklab) -> None:
    """Figures, closed forms and what repeats the run are told, cut to half of the horizon."""
    horizon = f"{sim.load(name).horizon // 2 // 10**9}s"
    code, out, err = hooklab("run", name, "--stream", "--json", "--set", f"horizon={horizon}")
    assert code == 0
    printed = json.loads(out)
    assert printed["streamed"] is True
    assert printed["metrics"]["deliveries"] > 0
    assert printed["theory"]
    assert f"hooklab run {name} --seed {printed['seed']} --stream --set horizon={horizon}" in err


def test_the_command_that_repeats_a_run_has_its_options(tiny: str, hooklab: Hooklab, tmp_path: Path) -> None:
    """Followed to the letter it stops where the run did; so does that of the report."""
    out = tmp_path / "out"
    _, first, err = hooklab("run", tiny, "--backlog-limit", "3", "--json", "--out", str(out))
    words = err.partition("repeat with: hooklab ")[2].splitlines()[0].split()
    assert "--backlog-limit" in words
    assert json.loads(hooklab(*words, "--json")[1])["metrics"] == json.loads(first)["metrics"]
    hooklab("report", str(out))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert json.loads(first)["stopped"] == ("--backlog-limit 3" in page)


def test_a_cache_that_cannot_be_written_is_told(
    tiny: str, hooklab: Hooklab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would know why every run compiles."""
    monkeypatch.setattr("sim.jit.CACHE_FOLDER", None)
    assert "XDG_CACHE_HOME" in hooklab("run", tiny)[2]
