"""The commands of experiments: what goes where, exit codes, and an interruption by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main())"]
SCENARIO = """\
name: tiny
seed: 7
horizon: 2m
producers:
  shop: {arrivals: {poisson: 2/s}, keys: {count: 5}}
endpoints:
  shops: {policy: mine, receiver: flaky}
policies:
  mine: {schedule: [0s, 1s, 5s], timeout: 1s}
receivers:
  flaky:
    latency: {exponential: {mean: 50ms}}
    faults:
      - error: {probability: 20%}
dispatcher: {workers: 4}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Path of a scenario that runs in an instant."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return str(path)


def test_replicate_prints_means_with_intervals(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """A line per figure with mean, interval and name; the command that repeats it goes to stderr."""
    code, out, err = hooklab("replicate", tiny, "--replications", "5")
    assert code == 0
    assert "seed 7, 5 replications, 5 runs" in out
    assert re.search(
        r"^attempts per delivery +1\.\d+ +1\.\d+ – 1\.\d+ +all +attempts_per_delivery$", out, re.M
    )
    assert re.search(r"^runs with a loss .* %", out, re.M)
    assert err == f"repeat with: hooklab replicate {tiny} --seed 7 --replications 5\n"


def test_one_replication_prints_no_interval(tiny: str, hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """One run says nothing about others."""
    _, out, _ = hooklab("replicate", tiny, "--replications", "1")
    assert "1 replication: no intervals" in out
    assert "interval" not in out.replace("no intervals", "")
    assert " – " not in out


def test_compare_prints_differences_winners_and_the_front(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """Two policies: what each figure differs by, marked where that is shown; who wins; the trade-off."""
    code, out, _ = hooklab("compare", tiny, "--policies", "mine,timepad", "--replications", "5")
    assert code == 0
    assert re.search(r"^latency p99 +mine .*\n +timepad +25 h .* \+25 h in every run$", out, re.M)
    assert re.search(r"^delivery_latency_s_p99 +mine +clearly$", out, re.M)
    assert re.search(r"^mine .* ●$", out, re.M)
    assert "points (" in out  # differences of shares


def test_compare_takes_leaves_and_files(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Each is held against the scenario as it is."""
    other = tmp_path / "other.yaml"
    other.write_text(SCENARIO.replace("20%", "5%"), encoding="utf-8")
    code, out, _ = hooklab(
        "compare",
        tiny,
        "--variant",
        "policies.mine.timeout=60ms",
        "--variant",
        str(other),
        "--replications",
        "3",
        "--json",
    )
    assert code == 0
    told = json.loads(out)
    assert list(told["variants"]) == ["unchanged", "policies.mine.timeout=60ms", str(other)]
    assert told["baseline"] == "unchanged"


def test_sweep_prints_a_row_per_point_and_writes_tidy_tables(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """The grid in order, and the folder for what comes after."""
    code, out, err = hooklab(
        "sweep", tiny, "--vary", "dispatcher.workers=1..2", "--vary", "policies.mine.timeout=1s,2s",
        "--replications", "2", "--out", str(tmp_path / "s"), "--format", "csv",
    )  # fmt: skip
    assert code == 0
    assert re.findall(r"^(\d) +(\ds) ", out, re.M) == [("1", "1s"), ("1", "2s"), ("2", "1s"), ("2", "2s")]
    assert f"written to {tmp_path / 's'}" in err
    runs = pd.read_csv(tmp_path / "s" / "runs.csv")
    assert list(runs.columns[:4]) == ["dispatcher.workers", "policies.mine.timeout", "replication", "seed"]
    assert len(runs) == 8


@pytest.mark.parametrize("command", ["replicate", "compare", "sweep"])
def test_json_is_one_object_and_all_else_goes_to_stderr(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]], command: str
) -> None:
    """NaN is null, whatever the command."""
    more = {
        "replicate": [],
        "compare": ["--policies", "mine,timepad"],
        "sweep": ["--vary", "dispatcher.workers=1,2"],
    }[command]
    code, out, err = hooklab(command, tiny, "--replications", "2", "--json", *more)
    assert code == 0
    told = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert {"scenario", "seed", "replications", "confidence", "warnings"} <= set(told)
    assert '"drain_s": {\n' in out
    assert "null" in out
    assert "repeat with: hooklab" in err


@pytest.mark.parametrize(
    ("words", "line", "check"),
    [
        (["--set", "kind=steady"], "warmup checked: latency is steady after it (Geweke", (True, True)),
        (["--set", "kind=steady", "--replications", "1"], "warmup not checked", (False, None)),
        ([], "", None),
    ],
)
def test_the_check_of_a_warm_up_is_told(
    tiny: str,
    hooklab: Callable[..., tuple[int, str, str]],
    words: list[str],
    line: str,
    check: tuple[bool, bool | None] | None,
) -> None:
    """By its method and what came of it; a scenario that is meant to have a start has none."""
    call = ("replicate", tiny, "--replications", "5", *words)
    _, out, _ = hooklab(*call)
    assert line in out
    assert ("warmup" in out) == bool(line)
    told = json.loads(hooklab(*call, "--json")[1])["warmup"]
    assert (told and (told["checked"], told["settled"])) == check
    assert told is None or "Geweke" in told["method"]


def test_a_sweep_with_a_point_that_breaks_ends_with_one(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """Its name and reason go to stderr; the rest is printed."""
    schedules = "policies.mine.schedule=[0s],[0s, {delay: 0s, times: forever}]"
    code, out, err = hooklab(
        "sweep", tiny, "--vary", schedules, "--replications", "1", "--set", "drain=1h",
        "--set", "receivers.flaky={latency: 0s, faults: [{error: {probability: 1, latency: 0s}}]}",
    )  # fmt: skip
    assert code == 1
    assert re.search(
        r"^error: policies\.mine\.schedule=.*forever.*, replication 1, seed 7: .*without a gap", err, re.M
    )
    assert "[0s]" in out


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["sweep", "--vary", "dispatcher.worker=1..3"], "did you mean workers?"),
        (["sweep"], "nothing is varied"),
        (["sweep", "--vary", "dispatcher.workers=3..1"], "is empty"),
        (["compare", "--policies", "mine,"], "empty name between commas"),
        (["compare", "--policies", "mine,timepat"], "did you mean timepad?"),
        (["replicate", "--precision", "x"], "must be a share"),
        (["replicate", "--format", "csv"], "it needs --out"),
        (["replicate", "--metric", "lost_share"], "it needs --precision"),
        (
            ["replicate", "--precision", "5%", "--metric", "latency_p99"],
            "--metric is latency_p99; must be a figure of a run; did you mean delivery_latency_s_p99 or",
        ),
        (["compare", "--policies", "mine,timepad", "--metric", "lost_share"], "it needs --precision"),
        (["sweep", "--vary", "horizon=1m,2m", "--set", "horizon=1m"], "undone by --vary horizon"),
        (["replicate", "--jobs", "2", "--dask", "tcp://127.0.0.1:1"], "give one of them"),
        (["replicate", "--jobs", "0"], "must be a number of processes"),
    ],
)
def test_bad_input_ends_with_two_and_a_line_that_says_why(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]], words: list[str], rule: str
) -> None:
    """No traceback, nothing on stdout."""
    code, out, err = hooklab(words[0], tiny, *words[1:])
    assert (code, out) == (2, "")
    assert rule in err
    assert err.startswith("error: ")


def running_in(group: int) -> list[str]:
    """Processes of a group that have not ended (one that has, and that nobody asked about, does not count)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, of_group = rest.split()[:3]
        if state != "Z" and int(of_group) == group:
            found.append(name)
    return found


def test_ctrl_c_keeps_what_has_finished_and_the_same_command_continues(
    tiny: str, tmp_path: Path, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """Sent to the process group, as a terminal does: workers end, nothing runs twice, the bits are those of one go."""
    out = tmp_path / "s"
    words = [
        "sweep",
        tiny,
        "--vary",
        "dispatcher.workers=1..40",
        "--replications",
        "1",
        "--set",
        "horizon=15m",
    ]
    cut = subprocess.Popen(
        [*COMMAND, *words, "--jobs", "2", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    points = out / "points.jsonl"
    deadline = time.monotonic() + 60
    while not (points.exists() and points.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(cut.pid, signal.SIGINT)
    stdout, stderr = cut.communicate(timeout=60)
    finished = points.read_bytes().splitlines()
    assert (cut.returncode, stdout) == (130, "")
    assert stderr == f"what has finished is kept in {out}; the same command continues\ninterrupted\n"
    assert 2 <= len(finished) < 40
    deadline = time.monotonic() + 10
    while running_in(cut.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_in(cut.pid) == []

    def complete(folder: Path) -> pd.DataFrame:
        assert hooklab(*words, "--jobs", "1", "--out", str(folder))[0] == 0
        return pd.read_parquet(folder / "runs.parquet")

    continued = complete(out)
    assert points.read_bytes().splitlines()[: len(finished)] == finished
    assert len(points.read_bytes().splitlines()) == 40
    pd.testing.assert_frame_equal(continued, complete(tmp_path / "whole"), check_exact=True)
