"""What scenarios fitted to the first halves of recorded histories say of the second; prints a table.

    python tests/bench/fit_histories.py [--worlds 200] [--events 20000] [SOURCE …]

The histories are those of the reference data, which lie beside the checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sim import holdout

CHECKS = Path(__file__).resolve().parents[3] / "shared/data/receivers/upptime_checks.csv.gz"
SOURCES = ("FoodCoopX/upptime", "DHBern/upptime_digitaleditions")
POLICY = "timepad"


def main() -> None:
    """Print prediction, interval and what really came, for each history."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", default=SOURCES)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--events", type=int, default=20_000, help="of each world and of the replay")
    chosen = parser.parse_args()
    print(f"{'':34}{'endpoints':>10}{'predicted %':>12}{'low %':>8}{'high %':>8}{'replayed %':>11}")
    for source in chosen.sources:
        first, second = holdout.halves(CHECKS, source)
        days = first.horizon_s / holdout.DAY_S
        (row,) = holdout.predict(first, [POLICY], days, chosen.worlds, chosen.events).itertuples()
        (real,) = holdout.replay(second, [POLICY], chosen.events)["real"]
        shares = "".join(
            f"{share:{width}.3f}"
            for share, width in zip(
                (100 * row.mean, 100 * row.low, 100 * row.high, 100 * real), (12, 8, 8, 11), strict=True
            )
        )
        inside = "inside" if row.low <= real <= row.high else "outside"
        print(f"{source:34}{len(second):10}{shares}  {inside}", flush=True)


if __name__ == "__main__":
    main()
