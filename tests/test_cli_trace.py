"""``hooklab trace``: what a dispatcher has recorded, as tables in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import orjson
import pandas as pd
import pytest

import sim
from tests import recorded, tiny
from tests.dispatchers import COMMAND, PATIENCE_S, ROOT, dispatcher, receiver
from tests.recorded import T0

Command = Callable[..., tuple[int, str, str]]
T0_S = Decimal(T0) / 10**9


def lossy_lines() -> tuple[sim.Trace, list[bytes]]:
    """A small run with failures, and what its dispatcher would have recorded."""
    world = tiny.world(*(f"{i}s" for i in range(10)), receivers=tiny.failing("0s", "3s", {"status": 503}))
    made = sim.run(sim.load(world), engine="simpy", stream=False).made
    assert isinstance(made, sim.Trace)
    return made, recorded.dispatcher_lines(made)


@pytest.mark.parametrize("table_format", ["parquet", "csv"])
def test_the_tables_are_those_of_the_run(hooklab: Command, tmp_path: Path, table_format: str) -> None:
    """All pages are read; times are Unix seconds, exact in CSV; what only receivers know is empty."""
    made, lines = lossy_lines()
    out = tmp_path / "made" / "out"
    with recorded.pages() as served:
        served.lines["/trace"], served.most = lines, 3
        code, printed, err = hooklab(
            "trace", served.url, "--out", str(out), "--format", table_format, "--json"
        )
    assert code == 0, err
    last = orjson.loads(lines[-1])["cursor"]
    assert json.loads(printed) == {"attempts": 13, "deliveries": 10, "cursor": last, "out": str(out)}
    assert sorted(path.name for path in out.iterdir()) == [
        ".hooklab",
        f"attempts.{table_format}",
        f"deliveries.{table_format}",
        "meta.json",
    ]
    tables = {
        name: pd.read_parquet(out / f"{name}.parquet")
        if table_format == "parquet"
        else pd.read_csv(out / f"{name}.csv", dtype=str, keep_default_na=False)
        for name in ("attempts", "deliveries")
    }
    for name, table in tables.items():
        theirs = getattr(made, name)
        assert set(table) <= set(theirs)
        assert set(theirs) - set(table) <= {"due_s", "newer", "stale"}
        for column in ("delivery_id", "event_id", "endpoint", "key"):
            assert table[column].tolist() == theirs[column].astype(str).tolist()
        for column in table:
            if column in ("processed_s", "served_s", "first_processed_s", "duplicates", "late"):
                assert (table[column].isna() | (table[column] == "")).all()
            elif column.endswith("_s") and table_format == "csv":
                ours = [Decimal(text) - T0_S if text else None for text in table[column]]
                assert ours == [
                    None if pd.isna(at) else Decimal(recorded.ns(at)) / 10**9 for at in theirs[column]
                ]
            elif column.endswith("_s"):
                ours = table[column] - float(T0_S)
                # two floats of the size of Unix seconds, each half a spacing of 2**-22 s off at most
                assert ((ours - theirs[column]).abs().fillna(0) <= 2**-22).all()
                assert (ours.isna() == theirs[column].isna()).all()
            else:
                assert table[column].astype(str).tolist() == theirs[column].astype(str).tolist()


def test_what_is_written_can_be_fitted(hooklab: Command, tmp_path: Path) -> None:
    """Hooklab fit reads the folder, and a second trace replaces it; a folder of others is left alone."""
    _, lines = lossy_lines()
    out = tmp_path / "out"
    with recorded.pages() as served:
        served.lines["/trace"] = lines
        assert hooklab("trace", served.url, "--out", str(out))[0] == 0
        assert hooklab("trace", served.url, "--out", str(out), "--format", "csv")[0] == 0
        assert not (out / "attempts.parquet").exists()
        code, printed, err = hooklab("fit", str(out), "--json")
        assert code == 0, err
        assert "e:0" in printed or "receivers" in printed
        # a real sender's, whose attempts all started when they were due
        assert json.loads(printed)["dispatcher"] == {"overhead": "0s"}
        assert "served_s" in err
        others = tmp_path / "others"
        others.mkdir()
        (others / "mine.txt").write_text("mine")
        code, _, err = hooklab("trace", served.url, "--out", str(others))
    assert code == 2
    assert "was not written by hooklab" in err
    assert (others / "mine.txt").read_text() == "mine"


def test_a_cursor_leaves_out_what_is_known(hooklab: Command, tmp_path: Path) -> None:
    """--after gives the rest; an unsettled delivery waits, and its number of attempts counts earlier ones."""
    _, lines = lossy_lines()
    rows = [orjson.loads(line) for line in lines]
    second = next(row for row in rows if row.get("attempt_number") == 2)
    with recorded.pages() as served:
        served.lines["/trace"] = [
            line
            for line, row in zip(lines, rows, strict=True)
            if not (row["kind"] == "delivery" and row["delivery_id"] == second["delivery_id"])
        ]
        out = tmp_path / "out"
        after = second["cursor"] - 1
        code, _, err = hooklab("trace", served.url, "--out", str(out), "--after", str(after))
        assert code == 0, err
        deliveries = pd.read_parquet(out / "deliveries.parquet").set_index("delivery_id")
        attempts = pd.read_parquet(out / "attempts.parquet")
        assert len(attempts) == sum(row["kind"] == "attempt" and row["cursor"] > after for row in rows)
        waiting = deliveries.loc[second["delivery_id"]]
        assert (waiting["state"], waiting["attempts"], waiting["type"]) == ("waiting", 2, "")
        assert waiting["producer"] == "p"
        assert f"--after {rows[-1]['cursor']}" in err
        # nothing came after the last one
        code, _, err = hooklab("trace", served.url, "--out", str(out), "--after", str(rows[-1]["cursor"]))
        assert code == 0, err
        assert len(pd.read_parquet(out / "attempts.parquet")) == 0
        assert f"go on with --after {rows[-1]['cursor']}" in err


def test_a_real_dispatcher_and_foreign_names(
    hooklab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ids and types: the tables are there, with a token from the environment; without it, exit 2."""
    token = "a-long-enough-token"
    with receiver() as shop, dispatcher(f"sqlite:{tmp_path / 'a.db'}", token=token) as running:
        running.endpoint(shop.url, id="their-endpoint")
        for name in ("first", "ns:7"):
            event = {"id": name, "type": "order.paid", "key": "k", "data": 1}
            assert running.call("POST", "/events", event)[0] == 202
        running.settled(2)
        url, out = f"http://127.0.0.1:{running.port}", tmp_path / "out"
        monkeypatch.delenv("HOOKLAB_TOKEN", raising=False)
        code, _, err = hooklab("trace", url, "--out", str(out))
        assert (code, out.exists()) == (2, False)
        assert "HOOKLAB_TOKEN" in err
        code, _, err = hooklab("trace", url, "--out", str(out), "--token", "wrong-but-long")
        assert (code, out.exists()) == (2, False)
        monkeypatch.setenv("HOOKLAB_TOKEN", token)
        code, printed, err = hooklab("trace", url + "/", "--out", str(out))
        assert (code, printed) == (0, ""), err
    deliveries = pd.read_parquet(out / "deliveries.parquet")
    assert deliveries["event_id"].tolist() == ["first", "ns:7"]
    assert deliveries["producer"].tolist() == ["", "ns"]
    assert deliveries["type"].tolist() == ["order.paid"] * 2
    assert deliveries["seq"].isna().all()
    assert deliveries["state"].tolist() == ["delivered"] * 2
    assert "\x1b" not in err  # progress is for terminals


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["http://127.0.0.1:1"], "cannot be reached"),
        (["https://127.0.0.1:1"], "cannot be reached"),
        (["http://nowhere.invalid"], "cannot be reached"),
        (["127.0.0.1:8080"], "must be a URL"),
        (["http://"], "must be a URL"),
        (["http://127.0.0.1:99999"], "must be a URL"),
        (["http://127.0.0.1:8080/?x=1"], "must be a URL"),
        (["ftp://127.0.0.1"], "must be a URL"),
        (["--format", "xlsx"], "must be parquet or csv"),
        (["--after", "-1"], "must be a cursor"),
        (["--after", str(2**63)], "must be a cursor"),
        (["--token", "ключ"], "HOOKLAB_TOKEN"),
    ],
)
def test_bad_input_is_refused(
    hooklab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    """Exit code 2, one line that says what is wrong, and nothing is left behind."""
    monkeypatch.delenv("HOOKLAB_TOKEN", raising=False)
    code, out, err = hooklab("trace", "--out", str(tmp_path / "out"), *words)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>\n", b'{"cursor": 1}\nx\n', b'{"cursor": 0}\n', b"[1]\n"]
)
def test_a_server_of_another_kind_is_told(hooklab: Command, tmp_path: Path, body: bytes) -> None:
    """What it answers is no trace, or it has none."""
    with recorded.pages() as served:
        served.page = lambda path, after: body  # type: ignore[method-assign]
        code, _, err = hooklab("trace", served.url, "--out", str(tmp_path / "out"))
        assert code == 2
        assert "is no page of it" in err
        del served.lines["/trace"]
        code, _, err = hooklab("trace", served.url, "--out", str(tmp_path / "out"))
        assert code == 2
        assert "answers 404" in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Interrupted while it reads, an earlier folder stays as it was."""
    _, lines = lossy_lines()
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hooklab").write_text("")
    (out / "attempts.csv").write_text("earlier\n")
    asked: list[int] = []
    with recorded.pages() as served:
        served.lines["/trace"], served.most, served.delay_s = lines, 1, 0.2
        page = served.page

        def noted(path: str, after: int) -> bytes:
            asked.append(after)
            return page(path, after)

        served.page = noted  # type: ignore[method-assign]
        process = subprocess.Popen(
            [*COMMAND, "trace", served.url, "--out", str(out)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            end = time.monotonic() + PATIENCE_S
            while len(asked) < 3:
                assert time.monotonic() < end
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait(PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in out.iterdir()) == [".hooklab", "attempts.csv"]
    assert (out / "attempts.csv").read_text() == "earlier\n"


def test_help_imports_nothing_heavy() -> None:
    """``hooklab trace --help`` answers without what only reading needs."""
    heavy = ("pyarrow", "pandas", "numba", "orjson", "urllib3")
    script = (
        "import sys; from loadtest.cli import main; main(['trace', '--help']);"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    assert "--after" in done.stdout
    assert done.stderr.strip() == "[]"
