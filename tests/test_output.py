"""A run in a folder: what is in it, when a folder is refused, and that nothing is ever half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import sim
from sim import output, trace
from sim.errors import ScenarioError

SCENARIO = {
    "name": "tiny",
    "horizon": "1m",
    "producers": {"shop": {"arrivals": {"poisson": "2/s"}}},
    "endpoints": {
        "shops": {"policy": "timepad", "receiver": "good"},
        "pollers": {"receiver": "good", "mode": {"poll": {"every": "20s"}}},
    },
    "receivers": {
        "good": {"latency": "50ms", "faults": [{"error": {"probability": "10%"}}]},
    },
}
TABLES = ("attempts", "deliveries", "samples", "polls")


@pytest.fixture(scope="module")
def result() -> sim.Result:
    """A small run with a seed that is not the scenario's."""
    return sim.run(SCENARIO, seed=11)


@pytest.fixture
def quick_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of writing a folder; a stand-in does where the picture does not matter."""
    monkeypatch.setattr("sim.plots.overview", lambda trace: None)
    monkeypatch.setattr("sim.plots.png", lambda figure: b"picture")


def names(folder: Path) -> list[str]:
    """What a folder holds, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_holds_everything(result: sim.Result, tmp_path: Path) -> None:
    """Scenario, tables, figures, picture and marker are there, and the tables read back as they were."""
    folder = tmp_path / "deep" / "out"
    result.save(folder)
    tables = [f"{name}.parquet" for name in TABLES]
    rest = [".hooklab", "meta.json", "metrics.json", "overview.png", "scenario.yaml"]
    assert names(folder) == sorted([*tables, *rest])
    assert names(tmp_path) == ["deep"]
    assert names(tmp_path / "deep") == ["out"]
    again = trace.read(folder)
    pd.testing.assert_frame_equal(again.deliveries, result.deliveries)
    pd.testing.assert_frame_equal(again.attempts, result.attempts)
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == result.to_json()
    assert json.loads((folder / "meta.json").read_text(encoding="utf-8"))["seed"] == 11
    assert (folder / "overview.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("quick_picture")
def test_tables_can_be_csv(result: sim.Result, tmp_path: Path) -> None:
    """With csv every table is a CSV file, and no Parquet is written."""
    result.save(tmp_path / "out", "csv")
    assert [name for name in names(tmp_path / "out") if name.endswith(".parquet")] == []
    for name in TABLES:
        frame = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        assert list(frame.columns) == list(getattr(result, name).columns)
        assert len(frame) == len(getattr(result, name))


@pytest.mark.usefixtures("quick_picture")
def test_the_scenario_in_the_folder_repeats_the_run(result: sim.Result, tmp_path: Path) -> None:
    """The scenario file holds the seed and the policies it took from the bundle, and gives the same run."""
    result.save(tmp_path / "out")
    again = sim.run(tmp_path / "out" / "scenario.yaml")
    assert again.seed == 11
    pd.testing.assert_frame_equal(again.attempts, result.attempts)


@pytest.mark.usefixtures("quick_picture")
def test_recordings_are_copied(tmp_path: Path) -> None:
    """A scenario that replays files stands alone in its folder: the recordings come along, each once."""
    source = tmp_path / "source"
    (source / "data").mkdir(parents=True)
    (source / "data" / "log.csv").write_text("t\n1\n2\n3\n", encoding="utf-8")
    (source / "log.csv").write_text("from,to\n1,2\n", encoding="utf-8")
    replay = {"replay": {"file": "data/log.csv", "time": "t"}}
    outage = {"outage": {"replay": {"file": "log.csv", "start": "from", "end": "to"}}}
    scenario = {
        **SCENARIO,
        "producers": {"shop": {"arrivals": replay}, "kiosk": {"arrivals": replay}},
        "receivers": {"good": {"latency": "50ms", "faults": [outage]}},
    }
    (source / "scenario.yaml").write_text(json.dumps(scenario), encoding="utf-8")
    result = sim.run(source / "scenario.yaml")
    result.save(tmp_path / "out")
    source.rename(tmp_path / "gone")
    assert names(tmp_path / "out" / "replay") == ["0-log.csv", "1-log.csv"]
    again = sim.run(tmp_path / "out" / "scenario.yaml")
    assert len(again.attempts) > 0
    pd.testing.assert_frame_equal(again.attempts, result.attempts)


# --------------------------------------------------------------------------- which folders are taken


@pytest.mark.usefixtures("quick_picture")
def test_an_empty_folder_is_taken(result: sim.Result, tmp_path: Path) -> None:
    """A folder without anything in it may be filled."""
    (tmp_path / "out").mkdir()
    result.save(tmp_path / "out")
    assert "metrics.json" in names(tmp_path / "out")


@pytest.mark.usefixtures("quick_picture")
def test_an_earlier_run_is_replaced_whole(result: sim.Result, tmp_path: Path) -> None:
    """A second run into a folder leaves nothing of the first, not even tables of another format."""
    result.save(tmp_path / "out", "csv")
    result.save(tmp_path / "out")
    assert [name for name in names(tmp_path / "out") if name.endswith(".csv")] == []
    assert names(tmp_path) == ["out"]


@pytest.mark.usefixtures("quick_picture")
def test_a_link_to_a_folder_stays_a_link(result: sim.Result, tmp_path: Path) -> None:
    """What a link points to is replaced, not the link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    result.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "metrics.json" in names(tmp_path / "real")


def test_folders_that_cannot_be_replaced_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal names the folder and the reason, and nothing is left behind by finding out."""
    others = tmp_path / "others"
    others.mkdir()
    (others / "notes.txt").touch()
    (tmp_path / "loop").symlink_to("loop")
    here = tmp_path / "here"
    (here / "inside").mkdir(parents=True)
    monkeypatch.chdir(here / "inside")
    before = sorted(tmp_path.rglob("*"))
    table = [
        (others, "was not written by hooklab"),
        (others / "notes.txt", "is not a folder"),
        (others / "notes.txt" / "out", "cannot be written"),
        (tmp_path / "loop" / "out", "cannot be written"),
        (Path("/proc/out"), "cannot be written"),
        (Path("/"), "holds the current folder"),
        (Path("/proc"), "is a mount point"),
        (here, "holds the current folder"),
        (Path(), "holds the current folder"),
    ]
    for folder, reason in table:
        with pytest.raises(ScenarioError, match=reason) as caught:
            output.require_replaceable(folder)
        assert str(folder) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("quick_picture")
def test_what_a_user_added_is_never_deleted(result: sim.Result, tmp_path: Path) -> None:
    """An earlier folder with others' files in it is refused; three of them are named, and all are kept."""
    out = tmp_path / "out"
    result.save(out)
    (out / "replay").mkdir()
    (out / "replay" / "0-log.csv").touch()
    output.require_replaceable(out)
    for name in ("notes.md", "replay/mine.csv", "attempts.xlsx", "thesis/chapter.tex"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).touch()
    (out / "polls.csv").mkdir()  # our name, and not our file
    before = sorted(tmp_path.rglob("*"))
    told = r"holds what hooklab did not write \(attempts.xlsx, notes.md, polls.csv and 2 more\): move it"
    for refuse in (output.require_replaceable, result.save):
        with pytest.raises(ScenarioError, match=told):
            refuse(out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("quick_picture")
def test_a_file_added_during_the_run_is_kept(
    result: sim.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What appears in the folder while the new one is being written stops the replacement too."""
    result.save(tmp_path / "out")

    def note(figure: object) -> bytes:
        (tmp_path / "out" / "notes.md").write_text("read me", encoding="utf-8")
        return b"picture"

    monkeypatch.setattr("sim.plots.png", note)
    with pytest.raises(ScenarioError, match=r"notes\.md"):
        result.save(tmp_path / "out")
    assert (tmp_path / "out" / "notes.md").read_text(encoding="utf-8") == "read me"
    assert names(tmp_path) == ["out"]


def test_an_unknown_format_is_refused(result: sim.Result, tmp_path: Path) -> None:
    """Tables are Parquet or CSV; another word is told before anything is written."""
    with pytest.raises(ScenarioError, match="format is tsv; must be parquet or csv"):
        result.save(tmp_path / "out", "tsv")
    assert names(tmp_path) == []


# --------------------------------------------------------------------------- whole or not at all


@pytest.mark.usefixtures("quick_picture")
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=repr)
@pytest.mark.parametrize("where", ["sim.trace.Trace.save", "sim.plots.png", "pathlib.Path.rename"])
def test_a_failure_leaves_the_earlier_folder(
    result: sim.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, where: str
) -> None:
    """Whatever fails, and wherever, the earlier folder stays as it was and nothing else is left."""

    def fail(*_: object) -> None:
        raise failure

    result.save(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        for folder in ("out", "new", "deep/er/new"):
            with pytest.raises(type(failure)):
                result.save(tmp_path / folder)
    assert names(tmp_path) == ["out"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.usefixtures("quick_picture")
def test_a_failed_second_rename_brings_the_earlier_folder_back(
    result: sim.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between moving the earlier folder away and the new one in, a failure undoes the first."""
    result.save(tmp_path / "out")
    before = (tmp_path / "out").stat().st_ino
    rename = Path.rename

    def fail_for_new(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "out")
    assert (tmp_path / "out").stat().st_ino == before
    assert names(tmp_path) == ["out"]


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """When the system refuses to write more, the error says so and the earlier folder is whole."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hooklab").touch()
    (tmp_path / "scenario.json").write_text(json.dumps(SCENARIO), encoding="utf-8")
    script = (
        "import pathlib, resource, sys, sim\n"
        "result = sim.run(pathlib.Path('scenario.json'))\n"
        "result.metrics, result.samples\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n"
        "    result.save('out')\n"
        "except OSError as error:\n"
        "    sys.exit(7 if error.errno else 1)\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 7
    assert names(out) == [".hooklab"]
    assert names(tmp_path) == ["out", "scenario.json"]
