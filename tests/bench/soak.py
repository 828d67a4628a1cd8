"""A long run at a steady rate: whether anything is lost, and whether the memory of a process grows.

    python -m tests.bench.soak [--rate 500] [--for 600] [--json FILE]

The slope is that of a straight line through the memory of the second half of the run; exit 1 if an event was lost or
the memory of a process grows by more than a tenth of itself an hour at that slope, beyond the scatter of the line.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scipy import stats

from loadtest import harness
from loadtest.load_result import LoadResult
from tests.bench.generator import scenario

KEYS = 10_000
"""All of them have come in the first half: what a receiver has to know of each key's order grows no more."""
GROWS = 0.1
"""Share of a process's memory by which it may grow in an hour."""


def slopes(result: LoadResult, for_s: float) -> dict[str, dict[str, float]]:
    """For each process: memory at the end (bytes), its slope (bytes an hour) and the slope's standard error."""
    found = {}
    for process, part in result.usage.groupby("process"):
        half = part[(part["at_s"] > for_s / 2) & (part["at_s"] < for_s)]
        fit = stats.linregress(half["at_s"], half["memory_bytes"])
        found[str(process)] = {
            "memory_bytes": float(half["memory_bytes"].iloc[-1]),
            "slope_per_h": float(fit.slope) * 3600,
            "slope_error_per_h": float(fit.stderr) * 3600,
        }
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--for", dest="for_s", type=float, default=600.0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    result = harness.run(scenario(chosen.rate, chosen.for_s, KEYS))
    metrics = result.metrics
    memory = slopes(result, chosen.for_s)
    print(
        f"{metrics['requests']:,.0f} events at {chosen.rate:g}/s, {metrics['request_failures']:.0f} refused, "
        f"{result.collected.missing} missing, lost_share {metrics['lost_share']:g}, "
        f"unsettled_share {metrics['unsettled_share']:g}, lateness_s_p99 {metrics['lateness_s_p99']:.4f}"
    )
    grows = []
    for process, one in memory.items():
        print(
            f"{process}: {one['memory_bytes'] / 1e6:.0f} MB at the end, slope {one['slope_per_h'] / 1e6:+.1f} "
            f"± {one['slope_error_per_h'] / 1e6:.1f} MB an hour"
        )
        if one["slope_per_h"] - 3 * one["slope_error_per_h"] > GROWS * one["memory_bytes"]:
            grows.append(process)
    lost = result.collected.missing or metrics["lost_share"] or metrics["unsettled_share"] or result.partial
    if chosen.json is not None:
        told = {"rate_per_s": chosen.rate, "for_s": chosen.for_s, "memory": memory, "metrics": dict(metrics)}
        chosen.json.write_text(json.dumps(told, indent=1) + "\n")
    print("lost events" if lost else "nothing was lost", "and", f"{', '.join(grows) or 'no process'} grows")
    return int(bool(lost or grows))


if __name__ == "__main__":
    sys.exit(main())
