"""Speed of the engines on one model, side by side in one run: `make bench`.

The model: deliveries in a Poisson stream, 8 workers, an exponential latency of 0.1 s, success with probability
0.8, gaps of 1, 10, 60, 300 and 1800 s, workers busy 85 % of the time. The two bare models are what one writes by
hand with SimPy, a process per delivery that asks for a worker, or workers that take from a store: no trace, no
fan-out, no receiver, no addressed dice. So is the C program (rings.c), compiled on the spot where there is a
compiler. Ciw takes part where it is installed (uninstall it before running the tests: it brings a package ``tests``
that hides ours). Rounds of all contenders alternate, and medians are printed, so that
a noisy machine touches all alike; time is CPU time. Compilation is not counted, and told apart.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import simpy

WORKERS = 8
LATENCY_S = 0.1
FAILURE = 0.2
GAPS_S = (1.0, 10.0, 60.0, 300.0, 1800.0)
ATTEMPTS_PER_DELIVERY = sum(FAILURE**k for k in range(len(GAPS_S) + 1))
RATE_PER_S = 0.85 * WORKERS / LATENCY_S / ATTEMPTS_PER_DELIVERY


def with_processes(deliveries: int, seed: int) -> tuple[int, float]:
    """A webhook sender by hand: a process per delivery, and workers as a resource."""
    rng = random.Random(seed)
    env = simpy.Environment()
    workers = simpy.Resource(env, WORKERS)
    attempts = 0

    def deliver():
        nonlocal attempts
        for gap in (*GAPS_S, None):
            with workers.request() as turn:
                yield turn
                yield env.timeout(rng.expovariate(1 / LATENCY_S))
            attempts += 1
            if rng.random() >= FAILURE or gap is None:
                return
            yield env.timeout(gap)

    def produce():
        for _ in range(deliveries):
            yield env.timeout(rng.expovariate(RATE_PER_S))
            env.process(deliver())

    env.process(produce())
    begun = time.process_time()
    env.run()
    return attempts, time.process_time() - begun


def with_a_store(deliveries: int, seed: int) -> tuple[int, float]:
    """The same with a store of work, a process per worker and a process per wait."""
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


def with_ciw(deliveries: int, seed: int) -> tuple[int, float]:
    """The same in Ciw: a node of workers, and a node that waits for each gap."""
    import ciw

    def routing(node: int) -> object:
        if node == 1:
            return ciw.routing.Probabilistic(list(range(2, len(GAPS_S) + 2)), probabilities)
        return ciw.routing.Direct(to=1)

    # Ciw routes without a memory of earlier tries: each failure takes one of the gaps
    probabilities = [FAILURE / len(GAPS_S)] * len(GAPS_S)
    nodes = len(GAPS_S) + 1
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(RATE_PER_S), *[None] * (nodes - 1)],
        service_distributions=[ciw.dists.Exponential(1 / LATENCY_S), *map(ciw.dists.Deterministic, GAPS_S)],
        number_of_servers=[WORKERS, *[float("inf")] * (nodes - 1)],
        routing=ciw.routing.NetworkRouting([routing(node) for node in range(1, nodes + 1)]),
    )
    ciw.seed(seed)
    simulation = ciw.Simulation(network)
    begun = time.process_time()
    simulation.simulate_until_max_customers(deliveries, method="Finish")
    seconds = time.process_time() - begun
    return sum(record.node == 1 for record in simulation.get_all_records()), seconds


def compiled_c(folder: str) -> Callable[[int, int], tuple[int, float]] | None:
    """The C program, fifty times the deliveries; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    program = str(Path(folder, "rings"))
    source = str(Path(__file__).with_name("rings.c"))
    subprocess.run([compiler, "-O2", "-o", program, source, "-lm"], check=True)

    def contender(deliveries: int, seed: int) -> tuple[int, float]:
        command = [program, str(50 * deliveries), str(seed)]
        attempts, seconds, *_ = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.split()
        return int(attempts), float(seconds)

    return contender


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


def our_trace(deliveries: int, seed: int) -> tuple[int, float]:
    """The compiled engine, with everything it records; fifty times the deliveries, as it is so much faster."""
    from sim import engine_compiled, model
    from sim.scenario import load

    built = model.build(load(scenario(50 * deliveries)), seed)
    begun = time.process_time()
    columns = engine_compiled.run(built)
    return len(columns.attempts), time.process_time() - begun


def our_stream(deliveries: int, seed: int) -> tuple[int, float]:
    """The compiled engine, streamed: all figures, no tables; fifty times the deliveries."""
    from sim import engine_compiled, model
    from sim.scenario import load

    built = model.build(load(scenario(50 * deliveries)), seed)
    begun = time.process_time()
    streamed = engine_compiled.stream(built)
    seconds = time.process_time() - begun
    assert streamed.metrics["attempts_per_delivery"] > 1
    return int(streamed.counts["made"]), seconds


BASE = "SimPy by hand, processes"


def contenders(folder: str) -> dict[str, Callable[[int, int], tuple[int, float]]]:
    """All that take part here, by name."""
    found: dict[str, Callable[[int, int], tuple[int, float]]] = {
        BASE: with_processes,
        "SimPy by hand, store": with_a_store,
        "hooklab, SimPy engine": our_simpy,
        "hooklab, compiled, trace": our_trace,
        "hooklab, compiled, stream": our_stream,
    }
    if (program := compiled_c(folder)) is not None:
        found["C by hand, rings"] = program
    try:
        import ciw  # noqa: F401
    except ImportError:
        pass
    else:
        found["Ciw by hand"] = with_ciw
    return found


def main() -> None:
    """Run the rounds and print attempts per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--deliveries", type=int, default=20_000, help="of the slow contenders")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        running = contenders(folder)
        begun = time.perf_counter()
        for contender in running.values():
            contender(200, 0)  # compile, import, warm up
        warm_up_s = time.perf_counter() - begun
        speeds: dict[str, list[float]] = {name: [] for name in running}
        for round_number in range(options.rounds):
            for name, contender in running.items():
                attempts, seconds = contender(options.deliveries, round_number)
                speeds[name].append(attempts / seconds)
    references = [BASE, *(name for name in speeds if name.startswith("C "))]
    rows = {
        name: {
            "attempts_per_s": statistics.median(values),
            **{
                f"ratio to {other}": statistics.median(
                    a / b for a, b in zip(values, speeds[other], strict=True)
                )
                for other in references
            },
        }
        for name, values in speeds.items()
    }
    if options.json:
        json.dump({"warm_up_s": warm_up_s, "contenders": rows}, sys.stdout, indent=1)
        print()
        return
    print(f"{options.rounds} rounds of {options.deliveries:,} deliveries, medians; ratios round by round")
    print(f"{'':26}{'attempts/s':>14}" + "".join(f"{'x ' + other:>28}" for other in references))
    for name, row in rows.items():
        speed, *ratios = row.values()
        print(f"{name:26}{speed:14,.0f}" + "".join(f"{ratio:28.2f}" for ratio in ratios))
    print(f"compiling or loading, and warming up, took {warm_up_s:.1f} s before that")


if __name__ == "__main__":
    main()
