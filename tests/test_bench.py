"""Every benchmark runs, small, in a process of its own, and prints its table with figures in it."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import AMQP, POSTGRES, lacking

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf)", re.IGNORECASE)
DISPATCHER = {"single": 2, "batches of 20": 2}
"""Figures of a row that are above zero whatever the run: events a second and CPU; parts of the CPU may round to 0."""


def printed(script: str, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """What a benchmark says, run as its first lines tell."""
    command = ["-m", "tests.bench.soak"] if script == "soak" else [f"tests/bench/{script}.py"]
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def assert_rows(table: str, rows: dict[str, int]) -> None:
    """Each row is there, and so many figures after its name are finite and above zero."""
    for name, count in rows.items():
        after = [line.partition(name)[2] for line in table.splitlines() if line.lstrip("| ").startswith(name)]
        assert after, f"no row {name} in\n{table}"
        for line in after:
            figures = [float(one.replace(",", "").replace("−", "-")) for one in NUMBER.findall(line)]
            assert len(figures) >= count, (name, line)
            assert all(math.isfinite(one) for one in figures), (name, line)
            assert all(one > 0 for one in figures[:count]), (name, line)


@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        (
            "startup",
            "--rounds 1",
            {"python -c pass": 1, "python -c 'import typer'": 1, "hooklab --help": 1, "ratio": 1},
        ),
        (
            "engines",
            "--rounds 1 --deliveries 200",
            {
                **{f"SimPy by hand, {kind}": 2 for kind in ("processes", "store")},
                **{f"hooklab, {engine}": 2 for engine in ("SimPy engine", "compiled, trace", "compiled, stream")},
            },
        ),
        (
            "scale",
            "--rounds 1 --sizes 1e4 --scenarios thin-versus-full",
            {"streamed,": 3, "thin-versus-full": 5, "hooklab run, s:": 3},
        ),
        pytest.param(
            "sweep",
            "--rounds 1 --points 4 --point-s 0.05 --tiny-points 21",
            {"two processes of": 1, "one process": 3, "two processes  ": 3, "Dask, two workers": 3},
            marks=pytest.mark.long,
        ),
        ("sender", "640", {"127.0.0.1,": 3, "localhost,": 3}),
        (
            "dispatcher",
            "--events 200 --rounds 1 --retries",
            {f"sqlite, {row}": count for row, count in DISPATCHER.items()} | {"sqlite, each retried once": 2},
        ),
        (
            "dispatcher_waiting",
            "--waiting 1000 --events 200 --rounds 1",
            {"0 wait": 5, "1,000 wait": 5, "pairs of rounds": 2},
        ),
        ("panel", "--deliveries 2000 --requests 2", {"overview": 3, "one delivery": 3, "deliveries  ": 3}),
        ("generator", "--rates 50 --for 1 --rounds 1", {"50 |": 5}),
        pytest.param("agreement", "fifo-endpoint", {"fifo-endpoint": 6}, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_a_benchmark_prints_its_table(script: str, arguments: str, rows: dict[str, int]) -> None:
    """The least that it can be asked for has every row of the whole."""
    assert_rows(printed(script, *arguments.split()), rows)


@pytest.mark.shared
@pytest.mark.usefixtures("shared")
def test_a_fit_is_held_against_what_came() -> None:
    """A row for each history, with prediction, interval and what came."""
    source = "DHBern/upptime_digitaleditions"
    assert_rows(printed("fit_histories", "--worlds", "2", "--events", "200", source), {source: 1})


def test_a_soak_tells_of_every_process() -> None:
    """A minute is too short to judge a slope, so either verdict will do; nothing may be lost."""
    told = printed("soak", "--rate", "50", "--for", "4", codes=(0, 1))
    assert_rows(told, {"dispatcher:": 1, "locust:": 1})
    assert re.search(r"^\d+ events at 50/s, 0 refused, 0 missing, lost_share 0, unsettled_share 0", told)
    assert "nothing was lost and" in told


def test_a_profile_has_parts_or_says_what_it_needs() -> None:
    """py-spy comes with none of the extras."""
    if shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent)):
        told = printed("dispatcher_profile", "--seconds", "2", "--events", "20000")
        assert_rows(told, {"functions by": 0})
        assert re.search(r"^\d+ samples, \d+\.\d+ ms of CPU per event", told)
    else:
        printed("dispatcher_profile", "--seconds", "1", "--events", "2000", codes=(1,))


@pytest.mark.xdist_group("postgres")
def test_the_dispatcher_is_measured_on_servers(required: list[str]) -> None:
    """PostgreSQL with tiers on RabbitMQ, with the CPU of both."""
    told = printed(
        "dispatcher", "--events", "200", "--rounds", "1", "--only", "postgresql + rabbitmq", *required
    )
    assert_rows(told, {f"postgresql + rabbitmq, {row}": count for row, count in DISPATCHER.items()})


@pytest.mark.long
@pytest.mark.parametrize("library", ["celery", "dramatiq"])
def test_rivals_are_measured_beside_it(library: str, required: list[str]) -> None:
    """Both kinds of configuration, and the ratios to them."""
    pytest.importorskip(library)
    told = printed(
        "dispatcher",
        "--events",
        "200",
        "--rounds",
        "1",
        "--rivals",
        "--only",
        library,
        "--only",
        "sqlite",
        *required,
    )
    assert_rows(told, {library: 2, "sqlite, single": 2})
    assert told.count("against the best") == 2


@pytest.fixture
def required() -> list[str]:
    """Options that name a PostgreSQL and a RabbitMQ that answer."""
    import socket
    from urllib.parse import urlsplit

    for url, port in ((POSTGRES, 5432), (AMQP, 5672)):
        parts = urlsplit(url)
        try:
            socket.create_connection((parts.hostname or "127.0.0.1", parts.port or port), timeout=3).close()
        except OSError as error:
            lacking(f"nothing at {parts.hostname}:{parts.port or port}: {error}")
    return ["--postgres", POSTGRES, "--amqp", AMQP]


def test_every_benchmark_is_run_here() -> None:
    """A new file is a script that is run above, or one that scripts run or import."""
    parts = {"dispatcher_processes", "dispatcher_receiver", "dispatcher_rivals", "lean_http"}
    parts |= {"rival_celery", "rival_dramatiq", "rival_work"}
    source = Path(__file__).read_text(encoding="utf-8")
    scripts = {path.stem for path in (ROOT / "tests/bench").glob("*.py")} - parts
    assert {name for name in scripts if f'"{name}"' not in source} == set()
