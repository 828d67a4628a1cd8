"""Load tests from start to end, with real processes: what they print and write, and how they break."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from loadtest import harness
from loadtest.agreement import compare
from sim.errors import ScenarioError
from sim.result import run as simulate
from tests.dispatchers import COMMAND, ROOT, until

pytestmark = pytest.mark.xdist_group("loadtest")
"""One after the other: each takes the machine."""

SCENARIO: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "horizon": "3s",
    "drain": "20s",
    "producers": {
        "shop": {"arrivals": {"poisson": "40/s"}, "events": {"order.paid": 3, "order.sent": 1}, "keys": {"count": 30}}
    },
    "endpoints": {
        "fast": {"subscribes": ["order.paid"], "policy": "p", "receiver": "r"},
        "own": {"count": 3, "route": "by_key", "policy": "p", "receiver": "r"},
    },
    "policies": {"p": {"schedule": ["0s", "200ms", "400ms"], "timeout": "1s"}},
    "receivers": {
        "r": {
            "latency": {"constant": "10ms"},
            "faults": [{"error": {"probability": "10%"}}, {"lost_answer": {"probability": "2%"}}],
        }
    },
}  # fmt: skip
PATIENT = "delivery_latency_s_p99<100s"
"""A gate that lets the load generator be as late as a busy machine makes it."""
TAKES_S = 90.0


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """The scenario as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SCENARIO))
    return path


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a folder of its own for temporary files; nothing is left in it, and no process."""
    own = tmp_path / "temporary"
    own.mkdir()
    yield {**os.environ, "TMPDIR": str(own), "PYTHONPATH": str(ROOT)}
    left = [path.name for path in own.iterdir() if path.name.startswith("hooklab")]
    assert left == [], "files were left behind"
    assert until(lambda: strays(str(own)), lambda found: not found) == []


def strays(marker: str) -> list[list[str]]:
    """Command lines of processes that were told of a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(marker in word for word in process.cmdline()):
                found.append(process.cmdline())
    return found


def start(places: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """The command, started."""
    return subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=places
    )


def command(places: dict[str, str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    with start(places, *words) as process:
        try:
            out, err = process.communicate(timeout=TAKES_S)
        except BaseException:
            process.kill()
            raise
    return process.returncode, out, err


def test_a_load_test_runs_is_judged_and_written(
    scenario: Path, places: dict[str, str], tmp_path: Path
) -> None:
    """One run: JSON on stdout, exit 1 for the gate that fails, every file of the folder, JUnit, Markdown, history."""
    out = tmp_path / "out"
    files = {name: tmp_path / name for name in ("junit.xml", "summary.md", "history.json")}
    code, text, told = command(
        places,
        *("loadtest", str(scenario), "--json", "--out", str(out), "--processes", "2", "--receivers", "2"),
        *("--gate", PATIENT, "--gate", "lost_share<=1", "--gate", "attempts_per_delivery<1"),
        *("--junit", str(files["junit.xml"]), "--markdown", str(files["summary.md"])),
        *("--benchmark", str(files["history.json"])),
    )
    assert code == 1, told
    said = json.loads(text)
    assert said["valid"], said["problems"]
    assert [gate["ok"] for gate in said["gates"]] == [True, True, False]
    assert "attempts_per_delivery" in said["gates"][2]["by"]
    expected = simulate(SCENARIO).metrics
    for name in ("events", "deliveries", "attempts", "duplicates_per_delivery", "lost_share"):
        assert said["metrics"][name] == expected[name], name
    assert {path.name for path in out.iterdir()} >= {
        *("attempts.parquet", "deliveries.parquet", "requests.parquet", "usage.parquet", "metrics.json"),
        *("scenario.yaml", "overview.png", "report.html", "locust.html", "locust_stats.csv"),
        *("dispatcher.log", "receivers-0.log", "receivers-1.log", "locust.log"),
    }
    assert all(path.stat().st_size for path in files.values())
    requests = pd.read_parquet(out / "requests.parquet")
    assert len(requests) == expected["events"]
    shown = (out / "locust.log").read_text()
    assert all(word in shown for word in ("DELIVERY", "DUPLICATE", "POST"))
    again, _, told = command(places, "report", str(out))
    assert again == 0, told


def test_fates_are_those_of_the_simulation(scenario: Path) -> None:
    """Independent faults: every delivery takes the same attempts to the same outcomes, for real and simulated."""
    real = harness.run(scenario)
    assert not real.partial, real.problems
    found = compare(simulate(scenario, stream=False).trace, real.trace, real.model)
    assert found.exact
    assert found.invalid == ()
    assert found.fates is not None
    assert found.fates.ok, found.fates.different
    assert found.fates.deliveries == len(real.trace.deliveries) > 100


def running(process: subprocess.Popen[str], word: str) -> list[psutil.Process]:
    """The children of the command whose command line has a word, once events are sent."""
    parent = psutil.Process(process.pid)

    def look() -> list[psutil.Process]:
        assert process.poll() is None, process.communicate()
        found = []
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                line = child.cmdline()
                if word in line:
                    found.append(child)
        return found

    return until(look, bool)


def sending(places: dict[str, str]) -> None:
    """Wait until the load generator has told of a request."""
    folder = Path(places["TMPDIR"])
    until(lambda: [p for p in folder.glob("hooklab-*/posts.ndjson") if p.stat().st_size], bool)


@pytest.mark.parametrize("victim", ["receive", pytest.param("serve", marks=pytest.mark.long)])
def test_a_process_that_dies_ends_the_run_and_what_came_is_kept(
    scenario: Path, places: dict[str, str], tmp_path: Path, victim: str
) -> None:
    """Exit 1, the run is not valid and partial, the folder has what was recorded, and nothing is left behind."""
    out = tmp_path / "out"
    process = start(
        places,
        "loadtest",
        str(scenario),
        "--set",
        "horizon=60s",
        "--gate",
        PATIENT,
        "--json",
        "--out",
        str(out),
    )
    with process:
        sending(places)
        running(process, victim)[0].send_signal(signal.SIGKILL)
        text, told = process.communicate(timeout=TAKES_S)
    assert process.returncode == 1, told
    said = json.loads(text)
    assert said["partial"]
    assert not said["valid"]
    assert "in mid-run" in said["problems"][0]
    assert len(pd.read_parquet(out / "requests.parquet")) > 0
    assert "Traceback" not in told


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_run_that_is_stopped_keeps_what_came(
    scenario: Path, places: dict[str, str], tmp_path: Path, number: int
) -> None:
    """Exit 130, partial results, nothing left behind."""
    out = tmp_path / "out"
    process = start(places, "loadtest", str(scenario), "--set", "horizon=60s", "--json", "--out", str(out))
    with process:
        sending(places)
        process.send_signal(number)
        text, told = process.communicate(timeout=TAKES_S)
    assert process.returncode == 130, told
    assert json.loads(text)["partial"]
    assert len(pd.read_parquet(out / "deliveries.parquet")) > 0
    assert "Traceback" not in told


def test_a_worker_of_locust_that_is_lost_spoils_the_run(scenario: Path, places: dict[str, str]) -> None:
    """Half of the events would be missing: the run ends, and says why."""
    process = start(
        places,
        "loadtest",
        str(scenario),
        "--set",
        "horizon=60s",
        "--json",
        "--processes",
        "2",
        "--gate",
        PATIENT,
    )
    with process:
        sending(places)
        master = running(process, "locust")[0]
        worker = next(p for p in until(lambda: master.children(), bool))
        worker.send_signal(signal.SIGKILL)
        text, told = process.communicate(timeout=TAKES_S)
    assert process.returncode == 1, told
    assert any("lost" in problem for problem in json.loads(text)["problems"]), text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--gate", "lost_shar==0"], "lost_share"),
        (["--gate", "lost_share[endpoint=fist]==0"], "fast"),
        (["--gate", "lost_share<=baseline"], "baseline"),
        (["--processes", "0"], "processes"),
        (["--shape", "spikes"], "spike"),
        (["--compress", "-1"], "compress"),
        (["--store", "postgresql://nobody@127.0.0.1:1/none"], "dispatcher"),
        (["--store", "mysql://x"], "sqlite:PATH"),
        (["--junit", "/nowhere/at/all.xml"], "/nowhere"),
        (["--format", "csv"], "--out"),
    ],
)
def test_bad_input_is_refused_in_words(
    scenario: Path, places: dict[str, str], words: list[str], told: str
) -> None:
    """Exit 2, a line that names what is wrong, no traceback, nothing on stdout."""
    code, out, err = command(places, "loadtest", str(scenario), *words)
    assert (code, out) == (2, ""), err
    assert told in err
    assert "Traceback" not in err


@pytest.mark.long
def test_a_store_that_is_not_empty_is_refused(scenario: Path, places: dict[str, str], tmp_path: Path) -> None:
    """Events that the dispatcher has seen would be no new ones."""
    store = f"sqlite:{tmp_path / 'kept.db'}"
    words = ("loadtest", str(scenario), "--store", store, "--gate", PATIENT)
    code, _, told = command(places, *words)
    assert code == 0, told
    code, _, told = command(places, *words)
    assert code == 2
    assert "empty store" in told


def test_options_out_of_range_are_refused_in_python() -> None:
    """The same rules as on the command line."""
    with pytest.raises(ScenarioError, match="capacity"):
        harness.Options(capacity=0)


@pytest.fixture
def served(scenario: Path, places: dict[str, str], tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A dispatcher and receivers that run already: their URLs."""
    found = tmp_path / "endpoints.json"
    with contextlib.ExitStack() as stack:

        def child(name: str, *words: str) -> Path:
            log = tmp_path / f"{name}.txt"
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [*COMMAND, *words], stdout=file, stderr=subprocess.STDOUT, env=places
                )
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            return log

        log = child(
            "serve",
            *("serve", "--listen", "127.0.0.1:0", "--store", f"sqlite:{tmp_path / 'h.db'}", "--seed", "3"),
            *("--scenario", str(scenario), "--allow-network", "127.0.0.0/8", "--allow-port", "1024-65535"),
        )
        child("receive", "receive", str(scenario), "--start", "wait", "--endpoints-file", str(found))
        until(lambda: found.exists() and "listening on" in log.read_text(), bool)
        url = log.read_text().partition("listening on ")[2].split()[0]
        yield url, json.loads(found.read_text())["control"]


@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="one"),
        pytest.param(("--processes", "2"), id="two", marks=pytest.mark.long),
        pytest.param(("--closed-loop", "4"), id="closed", marks=pytest.mark.long),
    ],
)
def test_plain_locust_runs_a_scenario(
    scenario: Path, places: dict[str, str], served: tuple[str, str], words: tuple[str, ...]
) -> None:
    """``locust -f loadtest/locustfile.py``: everything is sent, followed, and the test ends by itself."""
    port = str(harness._free_port())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py"), "--headless"),
            *("--host", served[0], "--receivers", served[1], "--scenario", str(scenario), "--only-summary"),
            *("--master-port", port, "--master-bind-port", port, *words),
        ],
        capture_output=True,
        text=True,
        env=places,
        timeout=TAKES_S,
        check=False,
    )
    said = done.stdout + done.stderr
    count = int(simulate(SCENARIO).metrics["events"])
    assert f"{count} requests, 0 failed, 0 dropped" in said, said
    assert "DELIVERY" in said
    late = "the load generator was late" in said  # on a busy machine; never with a closed loop
    assert done.returncode == int(late)


def test_plain_locust_without_a_dispatcher_says_so(scenario: Path, places: dict[str, str]) -> None:
    """Exit 2 and the address that nobody answers at."""
    begun = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest/locustfile.py"), "--headless"),
            *(
                "--host",
                "http://127.0.0.1:1",
                "--receivers",
                "http://127.0.0.1:1",
                "--scenario",
                str(scenario),
            ),
        ],
        capture_output=True,
        text=True,
        env=places,
        timeout=TAKES_S,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "http://127.0.0.1:1 cannot be reached" in done.stderr
    assert time.monotonic() - begun < TAKES_S / 2


def test_the_workflow_of_the_repository_uses_options_that_there_are() -> None:
    """What users copy works: the job's command is taken apart by the command line itself."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/loadtest.yml").read_text())
    lines = " ".join(step.get("run", "") for step in workflow["jobs"]["loadtest"]["steps"])
    used = {word.partition("=")[0] for word in lines.replace("\\\n", " ").split() if word.startswith("--")}
    helped = subprocess.run(
        [*COMMAND, "loadtest", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert {"--gate", "--junit", "--markdown", "--out"} <= used
    assert {option for option in used if option not in helped.stdout} == set()


def test_make_loadtest_judges_by_the_gates_of_the_workflow() -> None:
    """One set of gates, wherever it is run."""
    texts = ((ROOT / "Makefile").read_text(), (ROOT / ".github/workflows/loadtest.yml").read_text())
    gates = [set(re.findall(r"--gate '([^']+)'", text)) for text in texts]
    assert gates[0] == gates[1] != set()
