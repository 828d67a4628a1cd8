"""The folder of an experiment: what has finished is kept, nothing is run twice, and nothing is mixed in."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import sim
from sim import execution, experiment, experiment_store
from sim.errors import ScenarioError
from sim.execution import Job, Outcome
from sim.plots import png

WORLD: dict[str, Any] = {
    "name": "tiny",
    "seed": 1,
    "horizon": "30s",
    "drain": "10m",
    "producers": {"p": {"arrivals": {"poisson": "2/s"}}},
    "endpoints": {"e": {"policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "1s"], "timeout": "1s"}},
    "receivers": {"r": {"latency": {"exponential": {"mean": "100ms"}}}},
    "dispatcher": {"workers": 4},
}
VARY = "dispatcher.workers=1..3"


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that were run, as they are."""
    made: list[str] = []
    original = execution.simulate

    def counted(job: Job) -> Any:
        made.append(job.name)
        return original(job)

    monkeypatch.setattr(execution, "simulate", counted)
    return made


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A sweep that hears Ctrl-C in its third run."""

    def sweep(out: Path) -> None:
        original, left = execution.simulate, iter(range(2))

        def cut_short(job: Job) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(job)

        with monkeypatch.context() as patch:
            patch.setattr(execution, "simulate", cut_short)
            with pytest.raises(KeyboardInterrupt):
                experiment.sweep(WORLD, vary=VARY, replications=2, out=out)

    return sweep


def lines(out: Path) -> list[bytes]:
    """The lines of finished runs."""
    return (out / "points.jsonl").read_bytes().splitlines()


def test_an_interrupted_sweep_continues_and_ends_as_if_it_had_not_been(
    tmp_path: Path, interrupted: Callable[..., None], simulated: list[str]
) -> None:
    """Two of six runs had finished: four are made, and all tables are those of a sweep in one go, to the bit."""
    interrupted(tmp_path / "cut")
    assert len(lines(tmp_path / "cut")) == 2
    simulated.clear()
    continued = experiment.sweep(WORLD, vary=VARY, replications=2, out=tmp_path / "cut")
    assert len(simulated) == 4
    whole = experiment.sweep(WORLD, vary=VARY, replications=2, out=tmp_path / "whole")
    pd.testing.assert_frame_equal(continued.runs, whole.runs, check_exact=True)
    for name in ("runs.parquet", "table.parquet", "result.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_run_is_never_made_again(tmp_path: Path, simulated: list[str]) -> None:
    """The same sweep makes none; more points or replications make only what is new."""
    experiment.sweep(WORLD, vary=VARY, replications=2, out=tmp_path / "s")
    simulated.clear()
    experiment.sweep(WORLD, vary=VARY, replications=2, out=tmp_path / "s")
    assert simulated == []
    experiment.sweep(WORLD, vary="dispatcher.workers=1..4", replications=2, out=tmp_path / "s")
    assert simulated == ["dispatcher.workers=4"] * 2
    simulated.clear()
    found = experiment.sweep(WORLD, vary=VARY, replications=3, out=tmp_path / "s")
    assert len(simulated) == 3
    assert len(found.runs) == 9


def test_progress_counts_what_was_there_already(tmp_path: Path, interrupted: Callable[..., None]) -> None:
    """Two of six at once, and the time left is that of the other four."""
    interrupted(tmp_path / "s")
    told: list[tuple[int, int]] = []
    experiment.sweep(
        WORLD, vary=VARY, replications=2, out=tmp_path / "s", progress=lambda *now: told.append(now[:2])
    )
    assert told == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path, simulated: list[str], cut: int) -> None:
    """As after a power failure: the rest of the line is taken away, and the next one stands on its own."""
    out = tmp_path / "s"
    expected = experiment.sweep(WORLD, vary=VARY, replications=2, out=out)
    (out / "points.jsonl").write_bytes((out / "points.jsonl").read_bytes()[:-cut])
    simulated.clear()
    found = experiment.sweep(WORLD, vary=VARY, replications=2, out=out)
    assert simulated == ["dispatcher.workers=3"]
    assert all(json.loads(line) for line in lines(out))
    assert len(lines(out)) == 6
    pd.testing.assert_frame_equal(found.runs, expected.runs, check_exact=True)


def test_a_damaged_line_is_run_again(tmp_path: Path, simulated: list[str]) -> None:
    """Whatever it is: no JSON, no record, no numbers."""
    out = tmp_path / "s"
    experiment.sweep(WORLD, vary=VARY, replications=2, out=out)
    damaged = [b"\x00\xff{", b"[]", b'{"key": 1, "figures": {"a": "x"}, "settling": []}']
    (out / "points.jsonl").write_bytes(b"".join(line + b"\n" for line in [*damaged, *lines(out)[3:]]))
    simulated.clear()
    experiment.sweep(WORLD, vary=VARY, replications=2, out=out)
    assert len(simulated) == 3


def test_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    """NaN, infinities, the smallest and the longest number."""
    figures = {
        "a": 0.1 + 0.2,
        "b": math.nan,
        "c": math.inf,
        "d": -math.inf,
        "e": 5e-324,
        "f": 2**53 + 2.0,
        "g": -0.0,
    }
    job = Job(name="", scenario=experiment_store.sent(sim.load(WORLD)), seed=1)
    with experiment_store.open_store(tmp_path / "s", "sweep", sim.load(WORLD)) as store:
        store.add("key", job, Outcome(figures, (math.nan, 0.3)))
    with experiment_store.open_store(tmp_path / "s", "sweep", sim.load(WORLD)) as store:
        found = store.get("key")
    assert found is not None
    assert {name: value.hex() for name, value in found.figures.items()} == {
        name: value.hex() for name, value in figures.items()
    }
    assert math.isnan(found.settling[0])


@pytest.mark.parametrize("when", ["a run", "the tables"])
def test_a_full_disk_is_told_and_what_had_finished_stays(
    tmp_path: Path, simulated: list[str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The folder is named, and the same sweep continues when there is room."""
    out = tmp_path / "s"

    def full(*_: Any, **__: Any) -> None:
        if when == "the tables" or len(simulated) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if when == "a run":
            patch.setattr(experiment_store.os, "fsync", full)
        else:
            patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(ScenarioError) as told:
            experiment.sweep(WORLD, vary=VARY, replications=2, out=out)
    assert f"out {out} cannot be written: No space left on device; what has finished is kept" in str(
        told.value
    )
    made = len(simulated)
    assert made == (3 if when == "a run" else 6)
    found = experiment.sweep(WORLD, vary=VARY, replications=2, out=out)
    assert len(simulated) == 6
    assert len(found.runs) == 6


# --------------------------------------------------------------------------- what is not mixed in


def test_a_changed_scenario_is_told_by_name(tmp_path: Path) -> None:
    """The leaves that differ, as they were and as they are; what was there stays as it is."""
    out = tmp_path / "s"
    experiment.sweep(WORLD, vary=VARY, replications=2, out=out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ScenarioError) as refused:
        experiment.sweep(WORLD, vary=VARY, out=out, overrides=["policies.m.timeout=2s"], seed=9)
    assert (
        "holds a sweep of another scenario: seed was 1 and is 9, policies.m.timeout was 1s and is 2s"
        in str(refused.value)
    )
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_name_or_a_question_changes_nothing(tmp_path: Path, simulated: list[str]) -> None:
    """A renamed file is the same scenario."""
    experiment.sweep(WORLD, vary=VARY, replications=1, out=tmp_path / "s")
    simulated.clear()
    experiment.sweep(
        {**WORLD, "name": "other", "question": "Why?"}, vary=VARY, replications=1, out=tmp_path / "s"
    )
    assert simulated == []


def test_a_changed_recording_is_told(tmp_path: Path) -> None:
    """What is replayed decides about a run as the scenario does, wherever the file lies."""
    recording = tmp_path / "arrivals.csv"
    recording.write_text("t\n1\n2\n", encoding="utf-8")
    world = {**WORLD, "producers": {"p": {"arrivals": {"replay": {"file": str(recording), "time": "t"}}}}}
    experiment.sweep(world, vary=VARY, replications=1, out=tmp_path / "s")
    recording.write_text("t\n1\n2\n3\n", encoding="utf-8")
    with pytest.raises(
        ScenarioError, match=r"producers\.p\.arrivals\.replay\.file was content [0-9a-f]+ and is"
    ):
        experiment.sweep(world, vary=VARY, replications=1, out=tmp_path / "s")


def test_another_version_is_not_mixed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of hooklab nor of the figures."""
    experiment.sweep(WORLD, vary=VARY, replications=1, out=tmp_path / "s")
    monkeypatch.setattr(experiment_store, "METRICS_VERSION", 99)
    with pytest.raises(ScenarioError, match=r"was begun by hooklab .*, and this is .*\(figures 99\)"):
        experiment.sweep(WORLD, vary=VARY, replications=1, out=tmp_path / "s")


def test_everything_that_decides_about_a_run_is_in_its_digest() -> None:
    """Scenario, seed and figures; not the name, nor how it is run."""
    mapping = experiment_store.sent(sim.load(WORLD))
    job = Job(name="a", scenario=mapping, seed=1)
    other = {**mapping, "horizon": "31s"}
    same = [Job(name="b", scenario={**mapping, "name": "n", "seed": 3}, seed=1, many=True)]
    different = [
        Job(name="a", scenario=other, seed=1),
        Job(name="a", scenario=mapping, seed=2),
        Job(name="a", scenario=mapping, seed=1, figures=("within_share{2s}",)),
    ]
    assert {experiment_store.digest(one) for one in same} == {experiment_store.digest(job)}
    assert len({experiment_store.digest(one) for one in [job, *different]}) == 4


def test_folders_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    """A run, another kind of experiment, files that nobody knows, a damaged description, a file."""
    sim.run(WORLD).save(tmp_path / "run")
    experiment.replicate(WORLD, replications=2, out=tmp_path / "replication")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "experiment.json").write_text("{", encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for name, rule in (
        ("run", "holds a run; an experiment needs a folder of its own"),
        ("replication", "holds a replication, and this is a sweep"),
        ("mine", "was not written by hooklab"),
        ("damaged", "has a damaged experiment.json"),
        ("file", "is not a folder"),
    ):
        with pytest.raises(ScenarioError, match=rule):
            experiment.sweep(WORLD, vary=VARY, replications=1, out=tmp_path / name)
    assert (tmp_path / "mine" / "notes.txt").read_text(encoding="utf-8") == "mine"
    with pytest.raises(ScenarioError, match="holds an experiment; a run needs a folder of its own"):
        sim.run(WORLD).save(tmp_path / "replication")


def test_two_experiments_do_not_write_into_one_folder(tmp_path: Path) -> None:
    """The second is refused while the first is at work."""
    base = sim.load(WORLD)
    with (
        experiment_store.open_store(tmp_path / "s", "sweep", base),
        pytest.raises(ScenarioError, match="is in use by another experiment"),
    ):
        experiment_store.open_store(tmp_path / "s", "sweep", base)
    experiment_store.open_store(tmp_path / "s", "sweep", base).__exit__()


# --------------------------------------------------------------------------- what it holds in the end


@pytest.mark.parametrize("table_format", ["parquet", "csv"])
def test_tables_are_written_whole_and_read_back(tmp_path: Path, table_format: str) -> None:
    """In either format; the other one of an earlier time is taken away."""
    out = tmp_path / "s"
    for earlier in ("csv", "parquet", table_format):
        found = experiment.sweep(
            WORLD, vary=["dispatcher.workers=1,unlimited"], replications=2, out=out, table_format=earlier
        )
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}
    for name in ("runs", "table"):
        assert {path.suffix for path in out.glob(f"{name}.*")} == {f".{table_format}"}
        own: pd.DataFrame = getattr(found, name)
        back = read[table_format](out / f"{name}.{table_format}")
        pd.testing.assert_frame_equal(back, own, check_dtype=False, rtol=1e-14, atol=0)
    assert not list(out.glob(".*.new"))
    assert json.loads((out / "result.json").read_text(encoding="utf-8")) == found.to_json()
    assert sim.load(out / "scenario.yaml") == sim.load(WORLD)


def test_a_comparison_keeps_its_tables_and_its_picture(tmp_path: Path) -> None:
    """What ``compare`` adds to them."""
    out = tmp_path / "s"
    found = experiment.compare(WORLD, policies=["m", "timepad"], replications=2, out=out)
    for name in ("differences", "winners", "pareto"):
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{name}.parquet"), getattr(found, name))
    assert (out / "trade_off.png").read_bytes() == png(found.plot())
    panels = found.plot().axes
    drawn = {
        round(float(x), 9) for ax in panels for line in ax.lines for x in np.atleast_1d(line.get_xdata())
    }
    means = found.table[found.table["metric"] == "lost_share"]["mean"]
    assert any(round(float(mean), 9) in drawn for mean in means), (sorted(drawn), list(means))
