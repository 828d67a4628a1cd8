"""A sweep of 40 points of at least a second each: one process, two, and a Dask cluster of two workers, side by side.

The three take turns, so that a noisy machine slows all of them alike, and the median of the ratios is given; workers
are started, and the engine is loaded, before a clock runs. Two workers should be at least 1.7 times as fast as one
process, a cluster of two at least 1.5 times, where the machine has two cores to spare: what two processes gain
that only add numbers is measured in the same rounds. The overhead of a point is the time that a point takes whose run
is one delivery, kept in a folder: at most 50 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sim import execution, experiment, experiment_store
from sim.execution import Job, Workers
from sim.scenario import load

POINTS = 40


def scenario(horizon_s: int) -> dict[str, Any]:
    """Workers, retries and slow receivers; as long as it has to be."""
    return {
        "name": "bench",
        "horizon": f"{horizon_s}s",
        "drain": "1h",
        "producers": {"p": {"arrivals": {"poisson": "100/s"}}},
        "endpoints": {"e": {"count": 10, "route": "by_key", "policy": "m", "receiver": "r"}},
        "policies": {"m": {"schedule": ["0s", "1s", "10s"], "timeout": "1s"}},
        "receivers": {
            "r": {
                "latency": {"lognormal": {"median": "100ms", "p99": "2s"}},
                "faults": [{"error": {"probability": "5%"}}],
            }
        },
        "dispatcher": {"workers": 64},
    }


def jobs_of(mapping: dict[str, Any], count: int) -> list[Job]:
    """One job per point of a sweep over the number of workers."""
    base = load(mapping)
    points = [base.with_overrides([f"dispatcher.workers={64 + at}"]) for at in range(count)]
    return [Job(name="", scenario=experiment_store.sent(point), seed=0, many=True) for point in points]


def seconds(jobs: list[Job], place: Workers) -> float:
    """Time of all jobs, s."""
    begun = time.perf_counter()
    for _ in execution.run_all(jobs, place):
        pass
    return time.perf_counter() - begun


def added(_: int) -> int:
    """Bare arithmetic of about a quarter of a second, for the yardstick."""
    return sum(at * at % 7 for at in range(4_000_000))


def bare_gain(pool: ProcessPoolExecutor) -> float:
    """How many times as fast two processes are that only add numbers."""
    begun = time.perf_counter()
    for at in range(8):
        added(at)
    between = time.perf_counter()
    list(pool.map(added, range(8)))
    return (between - begun) / (time.perf_counter() - between)


def horizon_for(point_s: float) -> int:
    """The horizon, s, with which a point takes at least so long here."""
    horizon_s = 100
    with execution.workers() as place:
        seconds(jobs_of(scenario(horizon_s), 1), place)
        while (took := min(seconds(jobs_of(scenario(horizon_s), 1), place) for _ in range(3))) < point_s:
            horizon_s = round(horizon_s * min(max(1.15 * point_s / took, 1.2), 8))
    return horizon_s


def overhead_ms(points: int, **place: Any) -> float:
    """Time of a point whose run is one delivery, kept in a folder, ms; workers are started before the clock."""
    tiny = {**scenario(1), "producers": {"p": {"arrivals": {"at": ["0s"]}}}}
    began: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        experiment.sweep(
            tiny,
            vary=f"dispatcher.workers=1..{points}",
            replications=1,
            out=Path(folder, "sweep"),
            progress=lambda finished, total, left_s: began.append(time.perf_counter()),
            **place,
        )
    # the first of each worker loads the engine
    return (began[-1] - began[10]) / (len(began) - 11) * 1000


def main() -> None:
    """Run the rounds and print times and ratios."""
    from distributed import LocalCluster

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--point-s", type=float, default=1.0, help="a point takes at least so long")
    parser.add_argument("--tiny-points", type=int, default=200, help="points that do nothing, above 20")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    tiny: int = options.tiny_points
    jobs = jobs_of(scenario(horizon_for(options.point_s)), options.points)
    times: dict[str, list[float]] = {"one process": [], "two processes": [], "Dask, two workers": []}
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        address = cluster.scheduler_address
        with (
            execution.workers() as here,
            execution.workers(2) as processes,
            execution.workers(dask=address) as dask,
        ):
            bare: list[float] = []
            places = dict(zip(times, (here, processes, dask), strict=True))
            for place in places.values():
                seconds(jobs[:4], place)
            with ProcessPoolExecutor(2, get_context("spawn")) as pool:
                list(pool.map(added, range(4)))
                for _ in range(options.rounds):
                    bare.append(bare_gain(pool))
                    for name, place in places.items():
                        times[name].append(seconds(jobs, place))
        makers: dict[str, Callable[[], float]] = {
            "one process": lambda: overhead_ms(tiny),
            "two processes": lambda: overhead_ms(tiny, jobs=2),
            "Dask, two workers": lambda: overhead_ms(tiny, dask=address),
        }
        overheads = {name: make() for name, make in makers.items()}
    rows = {
        name: {
            "seconds": statistics.median(own),
            "ratio": statistics.median(one / two for one, two in zip(times["one process"], own, strict=True)),
            "overhead_ms": overheads[name],
        }
        for name, own in times.items()
    }
    gain = statistics.median(bare)
    if options.json:
        json.dump(
            {"points": options.points, "rounds": options.rounds, "bare_ratio": gain, "places": rows},
            sys.stdout,
            indent=1,
        )
        print()
        return
    print(f"{options.rounds} rounds of {options.points} points, medians; ratios round by round")
    print(f"two processes of bare arithmetic: {gain:.2f} x one")
    for name, row in rows.items():
        print(
            f"{name:18} {row['seconds']:7.1f} s {row['ratio']:6.2f} x one process "
            f"{row['overhead_ms']:7.1f} ms a point that does nothing"
        )


if __name__ == "__main__":
    main()
