"""What a scenario fitted to the first half of recorded histories says of the second; prints a table.

Run: python tests/bench/fit_histories.py [WORLDS]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests import halves  # noqa: E402


def main(worlds: int) -> None:
    """Print prediction, interval and what really came, for each history."""
    for source in halves.SOURCES:
        half = halves.predict(ROOT.parent / "shared", source, worlds)
        inside = "inside" if half.low <= half.real <= half.high else "outside"
        print(f"{source}: {half.endpoints} endpoints, {half.outages[0]} and {half.outages[1]} outages")
        print(f"  predicted {half.predicted:.3%}, 95 % of {worlds} worlds {half.low:.3%} … {half.high:.3%}")
        print(f"  second half {half.real:.3%} by intersection, {half.replayed:.3%} replayed: {inside}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
