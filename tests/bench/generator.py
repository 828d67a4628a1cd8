"""How fast the load generator can be before it is late, beside a dispatcher and receivers on the same machine.

    python tests/bench/generator.py [--rates 250,500,1000] [--for 10] [--rounds 3] [--json FILE]

For each rate a load test of one sending process, interleaved over the rounds; the median of the lateness is shown.
The generator is the bottleneck from the first rate at which its p99 lateness exceeds 5 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from loadtest import harness
from loadtest.posted import LATE_S


def scenario(rate_per_s: float, for_s: float, keys: int = 100_000) -> dict[str, Any]:
    """One endpoint that answers at once, and Poisson arrivals with many keys."""
    return {
        "name": f"at {rate_per_s:g}/s",
        "horizon": f"{for_s:g}s",
        "drain": "60s",
        "producers": {"shop": {"arrivals": {"poisson": f"{rate_per_s:g}/s"}, "keys": {"count": keys}}},
        "endpoints": {"one": {"policy": "timepad", "receiver": "quick"}},
        "receivers": {"quick": {"latency": {"constant": "5ms"}}},
    }


def measure(rate_per_s: float, for_s: float) -> dict[str, float]:
    """Figures of the requests, and processor time of the sending processes for each of them."""
    result = harness.run(scenario(rate_per_s, for_s))
    usage = result.usage[result.usage["process"] == "locust"]
    return result.requests | {
        "cpu_s": float(usage["cpu_s"].max() - usage["cpu_s"].min()),
        "partial": result.partial,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default="250,500,1000")
    parser.add_argument("--for", dest="for_s", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rates = [float(rate) for rate in chosen.rates.split(",")]
    rows: dict[float, list[dict[str, float]]] = {rate: [] for rate in rates}
    for _ in range(chosen.rounds):
        for rate in rates:
            rows[rate].append(measure(rate, chosen.for_s))
    found = []
    print("| events/s | lateness p50 ms | p99 ms | request p50 ms | p99 ms | CPU ms an event | failed |")
    print("|---|---|---|---|---|---|---|")
    for rate in rates:
        one = {name: statistics.median(row[name] for row in rows[rate]) for name in rows[rate][0]}
        found.append({"rate_per_s": rate, **one})
        times = [
            one[f"{what}_s_{q}"] * 1000 for what in ("lateness", "request_latency") for q in ("p50", "p99")
        ]
        cells = " | ".join(f"{each:.2f}" for each in (*times, 1000 * one["cpu_s"] / one["requests"]))
        print(f"| {rate:g} | {cells} | {one['request_failures']:.0f} |", flush=True)
    late = [one["rate_per_s"] for one in found if one["lateness_s_p99"] > LATE_S]
    print(f"the generator is the bottleneck from {late[0]:g}/s on" if late else "it was never the bottleneck")
    if chosen.json is not None:
        chosen.json.write_text(
            json.dumps({"load": os.getloadavg(), "rates": found, "rounds": rows}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
