"""How the compiled engine scales: with the length of a streamed run, on bundled scenarios, and from a cold start.

Prints the cost of an attempt of short and long streamed runs of the reference model of engines.py and the memory of
the longest; the speed on bundled scenarios beside the SimPy engine's, engines in turns; and how long the command
``hooklab run`` takes for the first of them beside a run with a tenth of its horizon. Medians; loop times are CPU times.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from engines import ATTEMPTS_PER_DELIVERY, our_stream, scenario

SCENARIOS = ("dreamkas", "outage-day")
COMMAND = [sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main(sys.argv[1:]))"]


def cost_of(attempts: int) -> dict[str, float]:
    """CPU time of an attempt, s, and the peak memory of the process, MB, of one streamed run; to be run alone."""
    from sim import engine_compiled, model
    from sim.scenario import load

    our_stream(20, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    built = model.build(load(scenario(round(attempts / ATTEMPTS_PER_DELIVERY))), 1)
    begun = time.process_time()
    streamed = engine_compiled.stream(built)
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ns_per_attempt": seconds / streamed.counts["made"] * 1e9, "loop_s": seconds, "peak_mb": peak,
            "grown_mb": peak - before}  # fmt: skip


def growth(sizes: list[int], rounds: int) -> dict[int, dict[str, float]]:
    """``cost_of`` for each size, each in a process of its own, in turns; medians."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            command = [sys.executable, __file__, "--cost-of", str(size)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[size].append(json.loads(printed))
    return {
        size: {name: statistics.median(one[name] for one in all_) for name in all_[0]}
        for size, all_ in found.items()
    }


def bundled(name: str, rounds: int) -> dict[str, float]:
    """Attempts per CPU second of both engines on a bundled scenario, and the median of the ratios of the rounds."""
    from sim import engine_compiled, engine_simpy, model
    from sim.scenario import load

    built = model.build(load(name))
    speeds: dict[str, list[float]] = {"simpy": [], "trace": [], "stream": []}
    engine_compiled.run(built)
    engine_compiled.stream(built)
    for _ in range(rounds):
        for label, go in (
            ("simpy", engine_simpy.run),
            ("trace", engine_compiled.run),
            ("stream", engine_compiled.stream),
        ):
            begun = time.process_time()
            left: Any = go(built)
            seconds = time.process_time() - begun
            made = left.counts["made"] if label == "stream" else len(left.attempts)
            speeds[label].append(made / seconds)
    ratios = {
        f"{label} x simpy": statistics.median(
            a / b for a, b in zip(speeds[label], speeds["simpy"], strict=True)
        )
        for label in ("trace", "stream")
    }
    return {label: statistics.median(values) for label, values in speeds.items()} | ratios


def warm_start(scenario: str, rounds: int) -> dict[str, float]:
    """Seconds of the command with everything compiled, and on a tenth of the horizon."""
    from sim.scenario import load

    tenth = f"horizon={load(scenario).horizon / 1e10:g}s"
    commands = {
        scenario: [*COMMAND, "run", scenario, "--json"],
        "a tenth of it": [*COMMAND, "run", scenario, "--json", "--set", tenth],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for round_number in range(rounds + 1):
        for name, command in commands.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if round_number:
                times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians | {"ratio": medians[scenario] / medians["a tenth of it"]}


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default="1e6,1e7", help="attempts of the streamed runs; 1e8 takes a while")
    parser.add_argument(
        "--scenarios", default=",".join(SCENARIOS), help="bundled ones; the command runs the first"
    )
    parser.add_argument("--cost-of", type=int, help="measure one streamed run in this process")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    if options.cost_of:
        print(json.dumps(cost_of(options.cost_of)))
        return
    scenarios = options.scenarios.split(",")
    sizes = [int(float(size)) for size in options.sizes.split(",")]
    found = {
        "growth": growth(sizes, options.rounds),
        "bundled": {name: bundled(name, options.rounds) for name in scenarios},
        "warm_start_s": warm_start(scenarios[0], options.rounds),
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    first = found["growth"][sizes[0]]["ns_per_attempt"]
    for size, row in found["growth"].items():
        print(
            f"streamed, {size:13,} attempts {row['ns_per_attempt']:6.1f} ns each "
            f"({row['ns_per_attempt'] / first:.2f} x) {row['loop_s']:7.2f} s, peak {row['peak_mb']:,.0f} MB"
        )
    for name, row in found["bundled"].items():
        print(f"{name:12} " + "  ".join(f"{label} {value:,.1f}" for label, value in row.items()))
    print(
        "hooklab run, s: " + "  ".join(f"{name} {value:.2f}" for name, value in found["warm_start_s"].items())
    )


if __name__ == "__main__":
    main()
