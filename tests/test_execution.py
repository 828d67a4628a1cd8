"""Running many jobs: the same results to the bit wherever they run, and workers that die cost only their own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sim
from sim import execution, experiment_store, metrics, yamlio
from sim.errors import ScenarioError
from sim.execution import Failure, Job, Outcome, Workers
from sim.scenario import load

ROOT = Path(__file__).resolve().parent.parent
WORLD = {
    "horizon": "2m",
    "drain": "1h",
    "producers": {"p": {"arrivals": {"poisson": "5/s"}}},
    "endpoints": {"e": {"count": 3, "policy": "m", "receiver": "r"}},
    "policies": {"m": {"schedule": ["0s", "1s", "10s"], "jitter": "full", "timeout": "1s"}},
    "receivers": {
        "r": {
            "latency": {"lognormal": {"median": "100ms", "p99": "2s"}},
            "servers": 4,
            "faults": [{"error": {"probability": "10%"}}],
        }
    },
    "dispatcher": {"workers": 8},
}
"""About 2,000 attempts."""


def jobs_of(seeds: range, world: Any = WORLD, **options: Any) -> list[Job]:
    """One job per seed."""
    mapping = experiment_store.sent(load(world))
    return [Job(name=f"seed {seed}", scenario=mapping, seed=seed, **options) for seed in seeds]


def run(jobs: list[Job], place: Workers) -> list[Outcome | Failure]:
    """What came of the jobs, in their order."""
    found = dict(execution.run_all(jobs, place))
    assert sorted(found) == list(range(len(jobs)))
    return [found[at] for at in range(len(jobs))]


def bits(outcomes: list[Outcome | Failure]) -> list[Any]:
    """Outcomes in a form in which equal means equal to the last bit, NaN included."""
    assert all(isinstance(outcome, Outcome) for outcome in outcomes), outcomes
    return [
        ({name: float(value).hex() for name, value in one.figures.items()}, [v.hex() for v in one.settling])
        for one in outcomes
        if isinstance(one, Outcome)
    ]


@pytest.fixture(scope="module")
def here() -> list[Any]:
    """The outcomes of six jobs in this process."""
    with execution.workers() as place:
        return bits(run(jobs_of(range(6)), place))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Dask cluster of two workers."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as found:
        yield found


def test_a_job_gives_the_figures_of_a_run() -> None:
    """The same as ``sim.run`` with that seed, and what else was asked for."""
    (job,) = jobs_of(range(5, 6), figures=("within_share{7s}",))
    outcome = execution.simulate(job)
    expected = sim.run(WORLD, seed=5).metrics
    assert isinstance(outcome, Outcome)
    assert bits([outcome]) == bits([Outcome({**expected, "within_share{7s}": expected["within_share{7s}"]})])


def test_both_engines_and_processes_give_the_same_bits(here: list[Any]) -> None:
    """One process or two, the compiled engine or SimPy's."""
    with execution.workers(2) as place:
        assert bits(run(jobs_of(range(6)), place)) == here
        assert bits(run(jobs_of(range(6), many=True), place)) == here


def test_a_dask_cluster_gives_the_same_bits(here: list[Any], cluster: Any) -> None:
    """Two workers that were there already."""
    with execution.workers(dask=cluster.scheduler_address) as place:
        assert bits(run(jobs_of(range(6)), place)) == here


EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "plan": ("plan", "--slo", "lost_share<=5%", "--vary", "dispatcher.workers=1..6", "--replications", "3"),
    "load": ("plan", "--load", "1,5", "--replications", "3"),
    "breaking point": ("plan", "--find", "outage=1s..60s/4log", "--replications", "3"),
    "compare": ("compare", "--policies", "m,timepad", "--replications", "3"),
    "replicate": ("replicate", "--precision", "10%", "--replications", "12"),
    "sweep": ("sweep", "--vary", "dispatcher.workers=4,8", "--replications", "2"),
}


@pytest.mark.parametrize("words", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_an_experiment_on_a_cluster_is_the_one_made_here(
    words: tuple[str, ...], cluster: Any, tmp_path: Path, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """What a command prints and every file that it leaves, but for the order in which runs finished."""
    (tmp_path / "world.yaml").write_text(yamlio.dump({**WORLD, "seed": 5}), encoding="utf-8")
    command, *rest = words
    told, kept = [], []
    for name, place in (("here", ("--jobs", "1")), ("there", ("--dask", cluster.scheduler_address))):
        out = tmp_path / name
        code, printed, err = hooklab(
            command, str(tmp_path / "world.yaml"), *rest, *place, "--json", "--out", str(out)
        )
        assert code == 0, err
        told.append(printed)
        files = {path.name: path.read_bytes() for path in out.iterdir()}
        kept.append({**files, "points.jsonl": sorted(files["points.jsonl"].splitlines())})
    assert told[0] == told[1]
    assert kept[0] == kept[1]
    assert {"result.json", "points.jsonl", "runs.parquet"} <= set(kept[1])


def test_steady_scenarios_bring_their_latency_over_time() -> None:
    """A mean per piece of the horizon, NaN where nothing was created."""
    world = {**WORLD, "kind": "steady", "producers": {"p": {"arrivals": {"at": ["0s", "1s", "119s"]}}}}
    (job,) = jobs_of(range(1), world)
    outcome = execution.simulate(job)
    assert isinstance(outcome, Outcome)
    known = [at for at, value in enumerate(outcome.settling) if not math.isnan(value)]
    result = sim.run(world, seed=0)
    latency = (result.deliveries["first_processed_s"] - result.deliveries["created_s"]).to_numpy()
    assert known == [0, metrics.PIECES - 1]
    assert outcome.settling[0] == pytest.approx(latency[:6].mean(), rel=1e-12)
    assert outcome.settling[-1] == pytest.approx(latency[6:].mean(), rel=1e-12)


def test_progress_counts_up_and_knows_the_time_left() -> None:
    """From none of three, with time unknown, to three of three with nothing left."""
    told: list[tuple[int, int, float | None]] = []
    with execution.workers() as place:
        for _ in execution.run_all(jobs_of(range(3)), place, lambda *now: told.append(now)):
            pass
    assert [(finished, total) for finished, total, _ in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert told[0][2] is None
    assert told[1][2] is not None
    assert told[1][2] > 0
    assert told[3][2] == 0


def test_a_scenario_that_breaks_in_a_run_fails_by_itself() -> None:
    """Retries without a gap against a receiver that fails in no time: the others finish."""
    still = {
        **WORLD,
        "policies": {"m": {"schedule": ["0s", {"delay": "0s", "times": "forever"}]}},
        "receivers": {"r": {"latency": "0s", "faults": [{"error": {"probability": 1, "latency": "0s"}}]}},
    }
    with execution.workers() as place:
        good, bad, last = run([*jobs_of(range(1)), *jobs_of(range(1), still), *jobs_of(range(1, 2))], place)
    assert isinstance(good, Outcome)
    assert isinstance(last, Outcome)
    assert isinstance(bad, Failure)
    assert "retries without a gap" in bad.reason


# --------------------------------------------------------------------------- workers that die


class Deadly(dict[str, Any]):
    """A scenario that ends the process that unpacks it, as a run too large for its memory does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_killed_worker_costs_only_what_it_had(here: list[Any]) -> None:
    """SIGKILL in the middle of a run: all is there in the end, to the bit, from new workers."""
    with execution.workers(2) as place:
        before = {child.pid for child in multiprocessing.active_children()}
        found: dict[int, Outcome | Failure] = {}
        for position, outcome in execution.run_all(jobs_of(range(6)), place):
            if not found:
                os.kill(min(child.pid or 0 for child in multiprocessing.active_children()), signal.SIGKILL)
            found[position] = outcome
        after = {child.pid for child in multiprocessing.active_children()}
    assert bits([found[at] for at in range(6)]) == here
    assert after - before  # the pool had been broken, or this test proves nothing


def test_a_job_that_kills_its_worker_twice_is_given_up_and_the_rest_finishes(here: list[Any]) -> None:
    """It is named a failure; jobs that were beside it are not blamed."""
    jobs = jobs_of(range(6))
    jobs.insert(2, Job(name="deadly", scenario=Deadly(), seed=0))
    with execution.workers(2) as place:
        found = run(jobs, place)
    failure = found.pop(2)
    assert isinstance(failure, Failure)
    assert "killed its worker twice" in failure.reason
    assert bits(found) == here


def test_a_killed_dask_worker_costs_only_what_it_had(here: list[Any], cluster: Any) -> None:
    """Its runs are made again by the other or by the one that takes its place."""
    with execution.workers(dask=cluster.scheduler_address) as place:
        found: dict[int, Outcome | Failure] = {}
        for position, outcome in execution.run_all(jobs_of(range(6)), place):
            if not found:
                os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
            found[position] = outcome
    assert bits([found[at] for at in range(6)]) == here


def test_workers_end_when_their_parent_is_killed() -> None:
    """A parent that gets no chance to say so leaves no processes behind."""
    code = (
        "import multiprocessing, time\n"
        "from sim import execution\n"
        "if __name__ == '__main__':\n"
        "    with execution.workers(2) as place:\n"
        "        print(*[child.pid for child in multiprocessing.active_children()], flush=True)\n"
        "        time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    assert children
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked about does not."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    """Workers import the main module again; one that starts workers by that is an error with the remedy."""
    script = tmp_path / "script.py"
    script.write_text("from sim import execution\nwith execution.workers(2):\n    pass\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert "jobs is 2; worker processes cannot start" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("jobs", [0, -1, 10**6, True, 1.5])
def test_a_number_of_processes_that_is_none_is_refused(jobs: Any) -> None:
    """Before anything starts."""
    with (
        pytest.raises(ScenarioError, match=r"^jobs is .*; must be a number of processes"),
        execution.workers(jobs),
    ):
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for what may take five."""
    monkeypatch.setattr(execution, "CONNECT_S", 1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("address", ["", "localhost", "foo://x:1", "tcp://127.0.0.1:1", "a b:c"])
def test_a_dask_address_where_nothing_is_is_refused(address: str) -> None:
    """With the address and what came of asking there."""
    pytest.importorskip("distributed")
    with (
        pytest.raises(ScenarioError, match=r"^dask is .*; is no Dask scheduler"),
        execution.workers(dask=address),
    ):
        pass


@pytest.mark.usefixtures("impatient")
def test_an_address_that_never_answers_is_refused() -> None:
    """It accepts connections and is silent: a bounded time, not for ever."""
    pytest.importorskip("distributed")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ScenarioError) as refused, execution.workers(dask=address):
            pass
    assert "is no Dask scheduler that answers within 1 s (no answer); give" in str(refused.value)


@pytest.mark.usefixtures("impatient")
def test_a_server_of_another_kind_is_refused() -> None:
    """It answers in words that mean an absurd size to Dask: the error says what is there, and what to give."""
    pytest.importorskip("distributed")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                connection.recv(1024)

        answering = threading.Thread(target=answer)
        answering.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ScenarioError) as refused, execution.workers(dask=address):
            pass
        answering.join()
    assert "(what answers there speaks another protocol); give the address that" in str(refused.value)


@pytest.mark.usefixtures("impatient")
def test_a_cluster_without_workers_is_refused() -> None:
    """It would take jobs and never run one."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(ScenarioError, match="has no workers"),
        execution.workers(dask=empty.scheduler_address),
    ):
        pass


def test_a_cluster_that_goes_away_is_told_of() -> None:
    """In the middle of runs: an error that names the address, not a wait without end."""
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    address = cluster.scheduler_address

    def run_on_and_on() -> None:
        with execution.workers(dask=address) as place:
            for _ in execution.run_all(jobs_of(range(1000)), place):
                cluster.close()

    with pytest.raises(ScenarioError, match="has gone away"):
        run_on_and_on()
