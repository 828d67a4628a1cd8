"""Logs as they come: formats, names, units and zones; and what is said of those that cannot be used."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import sim
from sim import calibrate_log, calibrate_output
from sim.errors import ScenarioError

MAP = "started_s=ts,finished_s=end,status=code"


def attempts(count: int = 60) -> pd.DataFrame:
    """A small log in seconds: one attempt every ten, each a little slower, one in twelve an error."""
    at = np.arange(count) * 10.0
    return pd.DataFrame(
        {"ts": at, "end": at + 0.1 + at / 10_000, "code": np.where(np.arange(count) % 12 == 5, 500, 200)}
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """A file with a text; its path."""

    def made(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return made


# --------------------------------------------------------------------------- the same log in every dress


def as_iso(frame: pd.DataFrame, zone: str) -> pd.DataFrame:
    """The times as ISO texts."""
    start = pd.Timestamp("2026-03-01T10:00:00")
    texts = {
        c: (start + pd.to_timedelta(frame[c], unit="s")).dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
        for c in ("ts", "end")
    }
    return frame.assign(**{c: t + zone for c, t in texts.items()})


def as_epoch(frame: pd.DataFrame, per_s: float) -> pd.DataFrame:
    """The times as numbers since 1970."""
    return frame.assign(
        **{c: ((1_780_000_000 + frame[c]) * per_s).round().astype("int64") for c in ("ts", "end")}
    )


DRESSES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "seconds of a run": lambda frame: frame,
    "with a zone": lambda frame: as_iso(frame, "Z"),
    "with an offset": lambda frame: as_iso(frame, "+03:00"),
    "without a zone": lambda frame: as_iso(frame, ""),
    "epoch milliseconds": lambda frame: as_epoch(frame, 1e3),
    "epoch microseconds": lambda frame: as_epoch(frame, 1e6),
    "datetimes": lambda frame: as_iso(frame, "Z").assign(
        ts=lambda f: pd.to_datetime(f["ts"]), end=lambda f: pd.to_datetime(f["end"])
    ),
    "a duration in ms": lambda frame: frame.assign(end_ms=(frame["end"] - frame["ts"]) * 1e3).drop(
        columns="end"
    ),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_times_mean_the_same_in_every_form(dress: str) -> None:
    """Seconds, ISO times and epoch numbers give the receiver of the log in seconds, to what a millisecond allows."""
    columns = MAP if dress != "a duration in ms" else "started_s=ts,latency_s=end_ms,status=code"
    fit = sim.fit(DRESSES[dress](attempts()), columns=columns)
    plain = sim.fit(attempts(), columns=MAP)
    assert fit.receiver["faults"] == plain.receiver["faults"]
    # values within a rounded millisecond of each other can change a mean by no more
    mean, expected = fit.durations[0].mean_s, plain.durations[0].mean_s
    assert mean == pytest.approx(expected, abs=0.002)
    assert any("no zone" in text for text in fit.warnings) == (dress == "without a zone")


@pytest.mark.parametrize(
    "name", ["log.csv", "log.csv.gz", "log.tsv", "log.parquet", "log.ndjson", "log.jsonl.gz", "semi.csv"]
)
def test_every_format_is_read(tmp_path: Path, name: str) -> None:
    """The same rows in every format give the same fit."""
    path = tmp_path / name
    frame = attempts()
    if "parquet" in name:
        frame.to_parquet(path)
    else:
        if "json" in name:
            text = "\n".join(json.dumps(row) for row in frame.to_dict("records"))
        else:
            text = frame.to_csv(index=False, sep={"log.tsv": "\t", "semi.csv": ";"}.get(name, ","))
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert sim.fit(path, columns=MAP).to_json() == sim.fit(frame, columns=MAP).to_json()


def test_a_folder_of_a_run_is_read(tmp_path: Path) -> None:
    """What ``hooklab run --out`` writes, in both formats, gives the fit of the result itself."""
    result = sim.run(
        {
            "horizon": "300s",
            "producers": {"p": {"arrivals": {"poisson": "1/s"}, "events": {"a": 1, "b": 2}}},
            "endpoints": {"e": {"count": 3, "policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s", "1s"], "timeout": "1s"}},
            "receivers": {"r": {"latency": {"exponential": {"mean": "200ms"}}}},
        }
    )
    for kind in ("parquet", "csv"):
        result.save(tmp_path / kind, kind)
        fit = sim.fit(tmp_path / kind)
        assert fit.to_json() == sim.fit(result).to_json()
        assert fit.fan_out == "all"
        assert fit.endpoints == 3


def test_checks_and_outages_tell_the_same_history() -> None:
    """A history of checks and one of outages give the same down times; only checks tell who was watched."""
    rows, outages = [], []
    for number in range(5):
        for cycle in range(12):
            start = 1000.0 * cycle + 100 * number
            rows += [(f"e{number}", start, "up"), (f"e{number}", start + 500 + cycle, "down")]
            outages.append((f"e{number}", start + 500 + cycle, start + 1000.0))
        rows.append((f"e{number}", 12_000.0 + 100 * number, "up"))
    checks = pd.DataFrame(rows, columns=["endpoint", "timestamp", "status"])
    listed = pd.DataFrame(outages, columns=["endpoint", "down_start", "down_end"])
    both = [sim.fit(frame) for frame in (checks, listed)]
    medians = [
        fit.table.set_index("parameter").loc["receiver.outage.down.lognormal.median", "value"] for fit in both
    ]
    # without checks, what begins and ends with the log may have been cut off
    assert medians[0] == pytest.approx(medians[1], rel=0.002)
    assert any("outages only" in text for text in both[1].warnings)


def test_everything_given_is_accepted_by_load() -> None:
    """The blocks, in a scenario with a bundled policy, load and run."""
    fit = sim.fit(attempts(), columns=MAP)
    scenario = sim.load(
        fit.scenario("stripe-like" if "stripe-like" in sim.scenario.presets.names("policies") else "timepad")
    )
    assert scenario.receivers["fitted"].faults[0].error is not None


# --------------------------------------------------------------------------- what cannot be used

HEAD = "started_s,finished_s,status\n"
WRONG: dict[str, tuple[str, str, list[str]]] = {
    # name: file, its text, words of the refusal
    "no columns that fit knows": (
        "a.csv",
        "start_time,end_time,code\n1,2,200\n",
        ["started_s=start_time", "finished_s=end_time", "status=code"],
    ),
    "one zone missing": (
        "a.csv",
        f"{HEAD}2026-01-01T00:00:00Z,2026-01-01T00:00:01Z,200\n2026-01-01T00:00:02,2026-01-01T00:00:03Z,200\n",
        ["row 3", "mixed time zones"],
    ),
    "zones of one column only": (
        "a.csv",
        f"{HEAD}2026-01-01T00:00:00Z,2026-01-01T00:00:01,200\n",
        ["mixed time zones", "finished_s without one"],
    ),
    "negative latency": ("a.csv", f"{HEAD}1,2,200\n5,4,200\n", ["row 3", "no latency is negative"]),
    "negative duration": ("a.csv", "started_s,latency_s,status\n1,-2,200\n", ["row 2", "latency_s is -2"]),
    "empty file": ("a.csv", "", ["is empty"]),
    "no rows": ("a.csv", HEAD, ["has no rows"]),
    "no time": ("a.csv", f"{HEAD}1,2,200\nlunch,3,200\n4,5,200\n", ["row 3", "lunch"]),
    "missing time": ("a.csv", f"{HEAD}1,2,200\n,3,200\n", ["row 3", "started_s is missing"]),
    "another unit": ("a.csv", f"{HEAD}1,2,200\n2,3,200\n1780000000000,1780000000001,200\n", ["row 4", "another unit"]),
    "no status": ("a.csv", f"{HEAD}1,2,999\n", ["row 2", "999"]),
    "half a status": ("a.csv", f"{HEAD}1,2,200.5\n", ["row 2", "status is '200.5'"]),
    "an endless status": (
        "a.csv",
        "started_s,finished_s,outcome,status\n1,2,delivered,200\n3,4,delivered,inf\n",
        ["row 3", "status is 'inf'; it must be an HTTP status"],
    ),
    "half a status beside an outcome": (
        "a.csv",
        "started_s,finished_s,outcome,status\n1,2,rejected,500.5\n",
        ["row 2", "500.5"],
    ),
    "no outcome": ("a.csv", "started_s,finished_s,outcome\n1,2,deliverd\n", ["row 2", "did you mean delivered?"]),
    "outages backwards": ("a.csv", "endpoint,down_start,down_end\na,10,20\na,5,7\n", ["row 3", "sort"]),
    "outages overlap": ("a.csv", "endpoint,down_start,down_end\na,10,20\na,15,30\n", ["row 3", "merge"]),
    "outage ends first": ("a.csv", "endpoint,down_start,down_end\na,10,8\n", ["row 2", "earlier than down_start"]),
    "checks backwards": ("a.csv", "endpoint,checked_s,status\na,10,up\na,5,down\n", ["row 3", "sort"]),
    "check of no word": ("a.csv", "endpoint,checked_s,status\na,10,maybe\n", ["row 2", "up or down"]),
    "half an outage": ("a.csv", "endpoint,down_start\na,10\n", ["down_end"]),
    "no JSON": ("a.ndjson", '{"started_s": 1}\nnope\n', ["row 2"]),
    "no Parquet": ("a.parquet", "PAR1xxxx", ["Parquet"]),
    "no format": ("a.log", "hello", [".csv"]),
    "nothing but refusals": (
        "a.csv",
        f"{HEAD}1,2,refused\n3,4,refused\n5,6,500\n",
        ["none of its 3 attempts was delivered (refused 2, rejected 1)", "longer log", "by hand"],
    ),
    "a header twice": (
        "a.csv",
        "started_s,latency_s,latency_s,status\n1,2,3,200\n",
        ["more than one column latency_s"],
    ),
    "a header twice, in quotes": (
        "a.csv",
        '"ts";"status";"status"\n1;200;200\n',
        ["more than one column status"],
    ),
    "nothing finished": ("a.csv", f"{HEAD}1,,200\n", ["finished"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(
    case: str, write: Callable[[str, str], str], hooklab: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """Exit code 2, the rows and the rule on stderr, nothing on stdout, and nothing left behind."""
    name, text, words = WRONG[case]
    path = write(name, text)
    code, out, err = hooklab("fit", path, "--out", str(tmp_path / "receiver.yaml"))
    assert (code, out) == (2, "")
    assert all(word in err for word in words), err
    assert "Traceback" not in err
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--columns", "start=ts"), "is no column that fit knows"),
        (("--columns", "started_s"), "must be pairs"),
        (("--columns", "started_s=tz"), "did you mean ts?"),
        (("--where", "color=1"), "is no column of the log"),
        (("--where", "code"), "COLUMN=VALUE"),
        (("--where", "code=201"), "matches no row"),
        (("--endpoint", "shop*"), "has no column endpoint"),
        (("--from", "tomorrowish"), "ISO time"),
        (("--from", "9", "--until", "3"), "later than from"),
        (("--from", "99999"), "no row in the time asked for"),
        (("--policy", "timepad"), "needs --out"),
        (("--out", "x.yaml", "--policy", "timepda"), "did you mean timepad?"),
        (("--picture", "x.pdf"), ".png or .svg"),
        (("--out", "no/such/folder/x.yaml"), "there is no folder"),
        (("--out", "."), "is a folder"),
    ],
)
def test_wrong_options_are_named(
    words: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    hooklab: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    """Exit code 2, and what to write instead."""
    monkeypatch.chdir(tmp_path)
    attempts().to_csv("log.csv", index=False)
    given = words if "--columns" in words else (*words, "--columns", MAP)
    code, out, err = hooklab("fit", "log.csv", *given)
    assert (code, out) == (2, "")
    assert told in err, err
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]


# --------------------------------------------------------------------------- what is written


def test_command_writes_blocks_scenario_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """One object on stdout with --json; a scenario that runs; a picture; and all are replaced by the next fit."""
    monkeypatch.chdir(tmp_path)
    attempts().to_csv("log.csv", index=False)
    words = ("fit", "log.csv", "--columns", MAP, "--out", "r.yaml")
    code, out, err = hooklab(*words, "--picture", "r.png", "--json")
    assert code == 0
    assert set(json.loads(out)) == {
        *("receiver", "producer", "dispatcher", "table", "goodness", "warnings", "endpoints", "horizon_s"),
    }
    assert "one endpoint only" in err
    assert matplotlib.image.imread("r.png").shape[0] > 100
    text = Path("r.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# {calibrate_output.MARK}")
    assert set(sim.yamlio.parse(text, "r.yaml")) == {"producers", "receivers"}
    code, out, err = hooklab(*words, "--policy", "timepad", "--picture", "r.svg")
    assert code == 0
    assert "receiver.error 500.probability" in out
    assert sim.run("r.yaml", seed=1).metrics["deliveries"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "r.png", "r.svg", "r.yaml"]
    assert hooklab(*words, "--picture", "r.svg")[0] == 0


@pytest.mark.parametrize("option", ["--out", "--picture"])
def test_a_file_of_others_stays(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """A file that hooklab did not write is refused before any work, and stays as it was."""
    monkeypatch.chdir(tmp_path)
    attempts().to_csv("log.csv", index=False)
    name = "mine.yaml" if option == "--out" else "mine.png"
    Path(name).write_text("mine", encoding="utf-8")
    code, out, err = hooklab("fit", "log.csv", "--columns", MAP, option, name)
    assert (code, out) == (2, "")
    assert "was not written by hooklab fit" in err
    assert Path(name).read_text(encoding="utf-8") == "mine"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written earlier stays whole if the next writing breaks."""
    fit = sim.fit(attempts(), columns=MAP)
    path = tmp_path / "r.yaml"
    fit.save(path)
    before = path.read_bytes()

    def broken(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        fit.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["r.yaml"]


def test_plot_draws_on_the_axes_it_is_given() -> None:
    """A notebook's own axes are used and given back, both logarithmic; without any there is a figure of all."""
    fit = sim.fit(attempts(), columns=MAP)
    ax = Figure().subplots()
    assert fit.plot(ax) is ax
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert {line.get_linestyle() for line in ax.get_lines()} >= {"-"}
    assert isinstance(fit.plot(), Figure)


def test_one_endpoint_is_said_to_be_one() -> None:
    """What cannot be told apart with one endpoint is said; with two it is not."""
    one = attempts().assign(endpoint="a")
    two = pd.concat((one, one.assign(endpoint="b")))
    assert any("one endpoint only" in text for text in sim.fit(one, columns=MAP).warnings)
    assert not any("one endpoint only" in text for text in sim.fit(two, columns=MAP).warnings)


def test_what_a_senders_log_cannot_tell_is_said() -> None:
    """Lost answers, queues at receivers and retries are named where the log has no column for them."""
    frame = attempts().assign(outcome=lambda f: np.where(f["code"] == 500, "timed_out", "delivered"))
    told = " ".join(sim.fit(frame, columns=MAP).warnings)
    for words in ("processed_s", "served_s", "attempt_number", "column key"):
        assert words in told


def test_a_refused_log_is_a_scenario_error() -> None:
    """In Python the same refusal is an exception with its problems."""
    with pytest.raises(ScenarioError, match="negative"):
        sim.fit(attempts().assign(end=-1.0), columns=MAP)


ODD: dict[str, dict[str, Any]] = {
    "one attempt": {"count": 1},
    "two attempts": {"count": 2},
    "all rejected": {"code": 500},
    "all timed out": {"code": 0, "end": lambda frame: frame["ts"] + 5.0},
    "all at one instant": {"ts": 5.0, "end": 5.1},
    "no time at all": {"ts": 5.0, "end": 5.0},
    "most in no time": {
        "end": lambda frame: np.where(np.arange(len(frame)) % 7, frame["ts"], frame["ts"] + 0.01)
    },
    "redirects": {"code": 304},
    "before 1970": {"ts": lambda frame: frame["ts"] - 5000, "end": lambda frame: frame["end"] - 5000},
}
"""Logs that are legal and of little use: changes of a column, or another length."""


@pytest.mark.parametrize("case", ODD)
def test_odd_logs_still_give_a_scenario(case: str) -> None:
    """Whatever the log holds, the scenario given loads, the picture is drawn, and what is missing is said."""
    changes = dict(ODD[case])
    fit = sim.fit(attempts(changes.pop("count", 60)).assign(**changes), columns=MAP)
    sim.load(fit.scenario("timepad"))
    fit.plot()
    assert fit.warnings
    json.dumps(fit.to_json(), allow_nan=False)


def test_a_failure_with_status_200_is_no_error_200() -> None:
    """What the sender calls a failure must fail in the scenario too, where 200 would be a success."""
    frame = attempts(120).assign(
        outcome=lambda f: np.where(np.arange(len(f)) % 9 == 4, "rejected", "delivered"), code=200
    )
    fit = sim.fit(frame, columns=MAP)
    assert fit.receiver["faults"][0]["error"]["status"] == 500
    assert any("have the status 200" in text for text in fit.warnings)


def test_a_frame_with_a_column_twice_is_refused_too() -> None:
    """Which of two columns of one name is meant cannot be told, in Python as in a file."""
    twice = attempts().rename(columns={"code": "end"})
    with pytest.raises(ScenarioError, match="more than one column end;"):
        sim.fit(twice, columns="started_s=ts,finished_s=end")


@pytest.mark.parametrize("column", ["outcome", "status"])
def test_every_word_that_is_accepted_is_told(column: str) -> None:
    """The refusal of a word names each that would have done, and each of those is taken, in capitals too."""
    frame = attempts(12).drop(columns="code")
    with pytest.raises(ScenarioError) as caught:
        sim.fit(frame.assign(said="deliverd"), columns=f"started_s=ts,finished_s=end,{column}=said")
    for known in calibrate_log._WORDS:
        assert known in re.findall(r"\w+", str(caught.value))
        said = np.where(np.arange(12) % 2, known.upper(), "OK")
        sim.fit(frame.assign(said=said), columns=f"started_s=ts,finished_s=end,{column}=said")


@pytest.mark.parametrize("codes", [[500], [500, 503, 410], [0], [500, 0]])
def test_a_log_of_failures_gives_a_receiver_that_fails(codes: list[int]) -> None:
    """Where nothing was delivered, nothing is in the scenario: errors with their latency, timeouts as lost answers."""
    at = np.arange(500.0)
    status = np.resize(codes, 500)
    took = np.where(status == 0, 5.0, 0.1)
    fit = sim.fit(pd.DataFrame({"started_s": at, "latency_s": took, "status": status}))
    assert any("none of the 500 attempts was delivered" in text for text in fit.warnings)
    if codes == [500]:
        assert fit.receiver == {
            "latency": "100ms",
            "faults": [{"error": {"probability": "100%", "status": 500}}],
        }
    run = sim.run(fit.scenario("timepad"), seed=1)
    assert run.metrics["deliveries"] > 0
    assert not (run.attempts["outcome"] == "delivered").any()


def test_few_successes_among_timeouts_leave_a_receiver_that_fails() -> None:
    """Too few answers for a latency are no reason to forget the timeouts."""
    status = np.where(np.isin(np.arange(30), (10, 20)), 200, 0)
    took = np.where(status == 0, 5.0, 0.1)
    fit = sim.fit(pd.DataFrame({"started_s": np.arange(30.0), "latency_s": took, "status": status}))
    assert fit.receiver["faults"] == [{"lost_answer": {"probability": "93.3333%"}}]


def test_outages_left_out_are_told_in_numbers(tmp_path: Path) -> None:
    """One outage of a hundred refusals is no fit: the time, the attempts and what to do are told, in the file too."""
    at = np.arange(1000.0)
    refused = (at >= 100) & (at < 200)
    frame = pd.DataFrame({"started_s": at, "latency_s": 0.1, "status": np.where(refused, "refused", "ok")})
    fit = sim.fit(frame)
    assert "faults" not in fit.receiver
    (told,) = (text for text in fit.warnings if text.startswith("outage: 1 outage,"))
    # half a second before the first failure until half a second after the last, of 999 s
    for words in ("100 s of failing (10 %", "100 failed attempts are left out", "longer log", "by hand"):
        assert words in told
    fit.save(tmp_path / "r.yaml")
    assert f"# warning: {told}\n" in (tmp_path / "r.yaml").read_text(encoding="utf-8")


def test_an_endpoint_tried_once_and_refused_is_told() -> None:
    """A refusal without any attempt around it has no length, and is not said to be missing."""
    two = attempts().assign(endpoint="a")
    odd = pd.DataFrame({"ts": [5.0], "end": [5.1], "code": ["refused"], "endpoint": ["b"]})
    told = [text for text in sim.fit(pd.concat((two, odd)), columns=MAP).warnings if "outage" in text]
    assert len(told) == 1
    assert "1 failed attempt " in told[0]


def test_json_has_the_numbers_of_the_file() -> None:
    """Blocks are the same text in JSON, whether they come from the result or from the YAML."""
    frame = attempts().assign(type=lambda f: np.where(np.arange(len(f)) % 3, "paid", "sent"), key="k")
    fit = sim.fit(frame, columns=MAP)
    assert json.dumps(fit.to_json()["producer"]["events"]) == '{"sent": 20, "paid": 40}'
    assert json.dumps(sim.yamlio.parse(sim.yamlio.dump(fit.blocks()), "y")) == json.dumps(fit.blocks())
