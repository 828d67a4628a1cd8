"""Speed of the engines on one model, side by side in one run: `make bench`.

The model: deliveries in a Poisson stream, 8 workers, an exponential latency of 0.1 s, success with probability
0.8, gaps of 1, 10, 60, 300 and 1800 s, workers busy 85 % of the time. The bare model is what one writes by hand
with SimPy's own Store: no trace, no fan-out, no receiver, no addressed dice. Rounds of all contenders alternate,
and medians are printed, so that a noisy machine touches all alike; time is CPU time. Compilation is not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable

import simpy

WORKERS = 8
LATENCY_S = 0.1
FAILURE = 0.2
GAPS_S = (1.0, 10.0, 60.0, 300.0, 1800.0)
ATTEMPTS_PER_DELIVERY = sum(FAILURE**k for k in range(len(GAPS_S) + 1))
RATE_PER_S = 0.85 * WORKERS / LATENCY_S / ATTEMPTS_PER_DELIVERY


def bare_simpy(deliveries: int, seed: int) -> tuple[int, float]:
    """A webhook sender by hand: a Store of work, a process per worker, a process per wait."""
    rng = random.Random(seed)
    env = simpy.Environment()
    queue = simpy.Store(env)
    attempts = delivered = lost = 0

    def produce():
        for _ in range(deliveries):
            yield env.timeout(rng.expovariate(RATE_PER_S))
            queue.put((env.now, 0))

    def wait(created, tries):
        yield env.timeout(GAPS_S[tries - 1])
        queue.put((created, tries))

    def work():
        nonlocal attempts, delivered, lost
        while True:
            created, tries = yield queue.get()
            yield env.timeout(rng.expovariate(1 / LATENCY_S))
            attempts += 1
            if rng.random() >= FAILURE:
                delivered += 1
            elif tries < len(GAPS_S):
                env.process(wait(created, tries + 1))
            else:
                lost += 1

    env.process(produce())
    for _ in range(WORKERS):
        env.process(work())
    begun = time.process_time()
    while delivered + lost < deliveries:
        env.step()
    return attempts, time.process_time() - begun


def scenario(deliveries: int) -> dict:
    """The same model as a scenario."""
    return {
        "name": "reference",
        "horizon": f"{deliveries / RATE_PER_S:.3f}s",
        "drain": "2h",
        "producers": {"producer": {"arrivals": {"poisson": f"{RATE_PER_S}/s"}, "keys": {"count": 1}}},
        "endpoints": {"endpoint": {"policy": "gaps", "receiver": "server"}},
        "policies": {"gaps": {"schedule": ["0s", *(f"{gap:g}s" for gap in GAPS_S)], "timeout": "1h"}},
        "receivers": {
            "server": {
                "latency": {"exponential": {"mean": f"{LATENCY_S * 1000:g}ms"}},
                "faults": [{"error": {"probability": FAILURE}}],
            }
        },
        "dispatcher": {"workers": WORKERS},
    }


def our_simpy(deliveries: int, seed: int) -> tuple[int, float]:
    """The SimPy engine, with everything it records."""
    from sim import engine_simpy, model
    from sim.scenario import load

    built = model.build(load(scenario(deliveries)), seed)
    begun = time.process_time()
    columns = engine_simpy.run(built)
    return len(columns.attempts), time.process_time() - begun


def our_compiled(deliveries: int, seed: int) -> tuple[int, float]:
    """The compiled engine, with everything it records; ten times the deliveries, as it is so much faster."""
    from sim import engine_compiled, model
    from sim.scenario import load

    built = model.build(load(scenario(10 * deliveries)), seed)
    begun = time.process_time()
    columns = engine_compiled.run(built)
    return len(columns.attempts), time.process_time() - begun


CONTENDERS: dict[str, Callable[[int, int], tuple[int, float]]] = {
    "bare SimPy": bare_simpy,
    "hooklab, SimPy engine": our_simpy,
    "hooklab, compiled engine": our_compiled,
}


def main() -> None:
    """Run the rounds and print attempts per second and ratios to the bare model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    for contender in CONTENDERS.values():
        contender(200, 0)  # compile, import, warm up
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for round_number in range(options.rounds):
        for name, contender in CONTENDERS.items():
            attempts, seconds = contender(options.deliveries, round_number)
            speeds[name].append(attempts / seconds)
    base = speeds["bare SimPy"]
    rows = {
        name: {
            "attempts_per_s": statistics.median(values),
            "ratio": statistics.median(own / bare for own, bare in zip(values, base, strict=True)),
        }
        for name, values in speeds.items()
    }
    if options.json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    print(f"{options.rounds} rounds of {options.deliveries:,} deliveries, medians; ratios round by round")
    for name, row in rows.items():
        print(f"{name:24} {row['attempts_per_s']:12,.0f} attempts/s {row['ratio']:8.2f} x bare SimPy")


if __name__ == "__main__":
    main()
