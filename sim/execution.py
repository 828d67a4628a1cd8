"""Many runs, wherever they run: in this process, in worker processes, or on a Dask cluster; the results are the same.

A job is a scenario as a mapping and a seed; what comes back is a few numbers, never a table. All places have
the interface of ``concurrent.futures``. A worker process that dies costs only the jobs it had: they are run again,
one at a time, and one whose worker dies again is given up by name while the rest goes on.
"""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sim.errors import Problem, ScenarioError

if TYPE_CHECKING:
    from sim.scenario import Scenario

STREAMED_FROM = 100_000
"""Expected attempts from which a run of an experiment is streamed: its figures take a tenth of the time without
tables, and quantiles are within ``histogram.RELATIVE_ERROR`` of those of a run that keeps them."""
CONNECT_S = 5
"""How long a Dask scheduler, and then its first worker, may take to answer, s."""
LOOK_EVERY_S = 5
WORKERS_BACK_S = 60
"""How long a cluster may be without any worker before it is given up, s."""
MOST_JOBS = 1024

Progress = Callable[[int, int, float | None], None]
"""Called with (finished, total, time left in s; None while that is unknown)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run to make. Everything in it is plain and can be sent anywhere."""

    name: str
    """What messages call it."""
    scenario: Mapping[str, Any]
    """Complete, as ``Scenario.to_mapping`` gives it; recordings by absolute path."""
    seed: int
    figures: tuple[str, ...] = ()
    """Figures wanted beyond those of every run, such as ``within_share{10s}``."""
    many: bool = False
    """Whether so much is run that loading the compiled engine pays, however small this run is."""


@dataclass(frozen=True)
class Outcome:
    """What a run is reduced to."""

    figures: dict[str, float]
    settling: tuple[float, ...] = ()
    """Of ``steady`` scenarios: mean latency of the deliveries created in each of ``PIECES`` pieces of the horizon, s;
    NaN where there are none."""


@dataclass(frozen=True)
class Failure:
    """Why a run has no outcome."""

    reason: str


def simulate(job: Job) -> Outcome | Failure:
    """Make one run: the function that workers are given."""
    from sim.advice import expected_attempts
    from sim.result import run
    from sim.scenario import load

    try:
        scenario = load(job.scenario)
        compilable = _compilable(scenario, job.seed)
        engine = "compiled" if job.many and compilable else "auto"
        # by the size of the run alone: the same run has the same figures, whatever it is run with
        stream = compilable and expected_attempts(scenario) >= STREAMED_FROM
        result = run(scenario, seed=job.seed, engine=engine, stream=stream)
        figures = {**result.metrics, **{name: result.metrics[name] for name in job.figures}}
        return Outcome(figures, result.latency_by_piece if scenario.kind == "steady" else ())
    except ScenarioError as error:
        return Failure(str(error))
    except MemoryError:
        return Failure("its worker ran out of memory")


def _compilable(scenario: Scenario, seed: int) -> bool:
    """Whether the compiled engine can do a scenario."""
    if scenario.dispatcher.discipline != "per_tier":
        return True
    from sim import engine_compiled, model

    return not engine_compiled.refuses(model.build(scenario, seed), own_receivers=False)


# --------------------------------------------------------------------------- workers


class Workers:
    """Where jobs run: this process. The others replace what differs."""

    window = 1
    """Jobs given away at once: more than run, so that no worker waits for the next."""
    deaths: tuple[type[Exception], ...] = (BrokenExecutor,)
    """What a job raises whose worker died."""

    def submit(self, job: Job) -> Future[Outcome | Failure]:
        """Start a job, or let it wait for a worker."""
        done: Future[Outcome | Failure] = Future()
        done.set_result(simulate(job))
        return done

    def renew(self) -> None:
        """Make what has broken anew; nothing is running."""

    def look(self) -> None:
        """Raise if nothing can be expected to finish any more; called while nothing does."""

    def gone(self) -> ScenarioError:
        """What to say if jobs were cancelled."""
        return ScenarioError("the runs were cancelled where they ran")

    def close(self) -> None:
        """Let go of the workers; nothing is running."""

    def abandon(self) -> None:
        """Let go of the workers at once, whatever they are doing."""


class _Processes(Workers):
    """Worker processes on this machine, started when they are first needed and kept while jobs come."""

    def __init__(self, width: int) -> None:
        self._width = width
        self.window = 2 * width
        self._executor = self._started()
        try:
            with _interrupts_held():
                ready = self._executor.submit(_ready)
            ready.result()
        except BrokenExecutor:
            self.abandon()
            rule = (
                "worker processes cannot start: they import the main module again, so a script needs "
                'if __name__ == "__main__": around what it runs; 1 needs no processes'
            )
            raise ScenarioError([Problem("jobs", width, rule)]) from None
        except BaseException:
            self.abandon()
            raise

    def _started(self) -> ProcessPoolExecutor:
        from multiprocessing import get_context

        # a forked process would share the locks of numba's and numpy's threads
        return ProcessPoolExecutor(self._width, get_context("spawn"), _end_with_parent)

    def submit(self, job: Job) -> Future[Outcome | Failure]:
        with _interrupts_held():
            return self._executor.submit(simulate, job)

    def renew(self) -> None:
        self._executor.shutdown()
        self._executor = self._started()

    def close(self) -> None:
        self._executor.shutdown()

    def abandon(self) -> None:
        processes = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        self._executor.shutdown()


class _Cluster(Workers):
    """The workers of a Dask cluster that is there already."""

    _client: Any  # Dask has no types

    def __init__(self, address: str) -> None:
        from distributed import Client, KilledWorker

        self.deaths = (KilledWorker,)
        self._address = address
        try:
            with ThreadPoolExecutor(1) as aside:  # a notebook has an event loop of its own
                aside.submit(lambda: asyncio.run(_greet(address))).result()
            self._client = cast(Any, Client)(address, timeout=CONNECT_S, set_as_default=False)
        except Exception as error:  # what answers may be anything
            raise self._lost(
                f"is no Dask scheduler that answers within {CONNECT_S} s ({_no_scheduler(error)}); give the address "
                "that dask scheduler prints, such as tcp://HOST:8786"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_S)
            self._require_same_version()
        except TimeoutError:
            self.abandon()
            raise self._lost("has no workers; start one with dask worker ADDRESS") from None
        except BaseException:
            self.abandon()
            raise
        self.window = 2 * sum(self._client.nthreads().values())
        self._executor: Executor = self._client.get_executor(pure=False)
        self._without_workers_s = 0

    def _lost(self, what: str) -> ScenarioError:
        return ScenarioError([Problem("dask", self._address, what)])

    def _require_same_version(self) -> None:
        """Results are the same to the last bit only if the code is."""
        from sim.experiment_store import version

        try:
            found = self._client.run(version)
        except ModuleNotFoundError as error:
            rule = f"has workers without hooklab ({error}); install it there, with the same version as here"
            raise self._lost(rule) from None
        other = sorted({theirs for theirs in found.values() if theirs != version()})
        if other:
            raise self._lost(
                f"has workers with hooklab {', '.join(other)}; here is {version()}: install the same"
            )

    def submit(self, job: Job) -> Future[Outcome | Failure]:
        return self._executor.submit(simulate, job)

    def look(self) -> None:
        if self._client.status != "running":
            raise self.gone()
        if self._client.nthreads():
            self._without_workers_s = 0
        else:
            self._without_workers_s += LOOK_EVERY_S
            if self._without_workers_s >= WORKERS_BACK_S:
                raise self._lost(
                    f"has had no worker for {WORKERS_BACK_S} s; finished runs are kept if --out was given"
                )

    def gone(self) -> ScenarioError:
        return self._lost("has gone away; finished runs are kept if --out was given")

    def close(self) -> None:
        self._executor.shutdown()
        self._client.close()

    def abandon(self) -> None:
        self._client.close(timeout=CONNECT_S)


@contextmanager
def workers(jobs: int = 1, dask: str | None = None) -> Iterator[Workers]:
    """Workers for ``run_all``: this process, ``jobs`` processes, or the Dask cluster whose scheduler is at ``dask``.

    Raises:
        ScenarioError: ``jobs`` is no number of processes, they cannot start, or the cluster does not answer, has
            no workers or another version of hooklab.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or not 1 <= jobs <= MOST_JOBS:
        raise ScenarioError([Problem("jobs", jobs, f"must be a number of processes from 1 to {MOST_JOBS:,}")])
    place = _Cluster(_address(dask)) if dask is not None else _Processes(jobs) if jobs > 1 else Workers()
    try:
        yield place
    except BaseException:
        place.abandon()
        raise
    place.close()


def _address(dask: str) -> str:
    """The address, if Dask is there to use it."""
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        rule = "needs the package distributed; install hooklab[dask]"
        raise ScenarioError([Problem("dask", dask, rule)])
    return dask


async def _greet(address: str) -> None:
    """Ask a scheduler who it is; a client that never gets an answer could not be closed cleanly."""
    from distributed import comm as comms

    async with asyncio.timeout(CONNECT_S):
        comm = await cast(Any, comms).connect(address, timeout=CONNECT_S)
        try:
            await comm.write({"op": "identity", "reply": True})
            identity = await comm.read()
        finally:
            comm.abort()
    if identity.get("type") != "Scheduler":
        raise ValueError(f"it is a {identity.get('type')}")


def _no_scheduler(error: Exception) -> str:
    """What came of asking for a scheduler where none is."""
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, MemoryError):  # other protocols begin with what reads as an absurd length
        return "what answers there speaks another protocol"
    return _reason(error)


def _reason(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text or type(error).__name__


def _ready() -> None:
    """Do nothing: what a pool that works is done with at once."""


def _end_with_parent() -> None:
    """Let a worker process end when its parent does, however that ends."""
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while processes start: they inherit that, and only the parent hears it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


# --------------------------------------------------------------------------- running


def run_all(
    jobs: Sequence[Job], place: Workers, progress: Progress | None = None
) -> Iterator[tuple[int, Outcome | Failure]]:
    """Run jobs and give (position, what came of it) as each finishes, in any order.

    Raises:
        ScenarioError: the cluster is gone.
    """
    begun = time.monotonic()
    if progress is not None:
        progress(0, len(jobs), None)
    for finished, item in enumerate(_finished(jobs, place), start=1):
        yield item
        if progress is not None:
            left = (time.monotonic() - begun) / finished * (len(jobs) - finished)
            progress(finished, len(jobs), left)


def _finished(jobs: Sequence[Job], place: Workers) -> Iterator[tuple[int, Outcome | Failure]]:
    waiting = collections.deque(range(len(jobs)))
    suspects: collections.deque[int] = collections.deque()
    struck: set[int] = set()
    running: dict[Future[Outcome | Failure], int] = {}
    broken = False
    while waiting or suspects or running:
        if broken and not running:
            place.renew()
            broken = False
        while not broken and (suspects or waiting):
            # a suspect has the place to itself, so that no other is blamed for it
            if len(running) >= (1 if suspects else place.window):
                break
            queue = suspects or waiting
            try:
                running[place.submit(jobs[queue[0]])] = queue[0]
            except BrokenExecutor:
                broken = True
            else:
                queue.popleft()
        done = wait(running, LOOK_EVERY_S, FIRST_COMPLETED).done
        if running and not done:
            place.look()
        for future in done:
            position = running.pop(future)
            try:
                result = future.result()
            except CancelledError:
                raise place.gone() from None
            except place.deaths as death:
                broken = True
                if position not in struck:
                    struck.add(position)
                    suspects.append(position)
                    continue
                result = Failure(f"killed its worker twice ({_reason(death)})")
            yield position, result
