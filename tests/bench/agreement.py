"""How far simulation and reality agree: bundled scenarios, simulated and run for real, side by side.

    python tests/bench/agreement.py [SCENARIO …] [--json FILE] [--pictures FOLDER]

Every scenario of ``loadtest.agreement_cases`` takes half a minute or so. Times are those of this machine: what else
runs on it is in the real figures and not in the simulated ones.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from loadtest import agreement_shown, harness
from loadtest.agreement import Agreement
from loadtest.agreement_cases import CASES, Case
from loadtest.cli_agree import compared
from sim.plots import png

SHOWN = ("delivery_latency_s_p50", "delivery_latency_s_p99", "queue_wait_s_p99", "backlog_max")


def measure(case: Case, pictures: Path | None) -> Agreement:
    """Run a case for real and compare it with its simulation."""
    found = compared(harness.run(case.load()))
    if pictures is not None:
        (pictures / f"{case.scenario}.png").write_bytes(png(agreement_shown.picture(found)))
    return found


def line(found: Agreement) -> str:
    """A row of the table: the verdict, and figures as simulated (with the sender's overhead) → real."""
    by_name = {row.name: row for row in found.figures}
    cells = [
        f"{by_name[name].sim:.4g} ({by_name[name].slowed:.4g}) → {by_name[name].real:.4g}" for name in SHOWN
    ]
    missed = ", ".join(row.name for row in found.figures if not row.ok)
    verdict = "agrees" if found.agree else f"differs: {'; '.join(filter(None, (missed, *found.invalid)))}"
    compared_by = (
        f"{found.fates.deliveries:,} equal fates" if found.fates and found.fates.ok else "distributions"
    )
    return f"| {found.scenario} | {compared_by} | {' | '.join(cells)} | {verdict} |"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path)
    chosen = parser.parse_args()
    cases = [case for case in CASES if not chosen.scenarios or case.scenario in chosen.scenarios]
    if unknown := set(chosen.scenarios) - {case.scenario for case in CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if chosen.pictures is not None:
        chosen.pictures.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    print(f"| scenario | compared by | {' | '.join(SHOWN)} | verdict |")
    print("|---|---|" + "---|" * (len(SHOWN) + 1))
    for case in cases:
        load = os.getloadavg()[0]
        agreement = measure(case, chosen.pictures)
        print(line(agreement), flush=True)
        found.append(agreement.to_json() | {"load_before": load})
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(not all(one["agree"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
