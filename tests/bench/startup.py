"""How long ``hooklab --help`` takes, against Python alone and against Python that imports typer.

The three take turns, so that a noisy machine slows all of them alike; medians are compared. ``hooklab --help``
should take no more than three times as long as importing typer does.

    python tests/bench/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import typer'": [sys.executable, "-c", "import typer"],
    "hooklab --help": [
        sys.executable,
        "-c",
        "import sys; from loadtest.cli import main; sys.exit(main(['--help']))",
    ],
}


def seconds(command: list[str]) -> float:
    """One run of a command, s."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Measure in turns and print medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:26} {median * 1000:6.0f} ms")
    print(f"ratio {medians['hooklab --help'] / medians[list(COMMANDS)[1]]:.2f} (at most 3)")


if __name__ == "__main__":
    main()
