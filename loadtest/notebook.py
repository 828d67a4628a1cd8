"""What notebooks need of real runs: bundled scenarios, simulated and run for real, one after another."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest import harness
from loadtest.agreement import Agreement
from loadtest.agreement_cases import CASES
from loadtest.cli_agree import compared
from loadtest.cli_real import interruptible, read_scenario
from sim.errors import Problem, ScenarioError, nearest

__all__ = ["agree", "agreements"]


def agree(name: str, faster: float = 1.0) -> Agreement:
    """Run a case of ``agreement_cases`` for real, so many times faster than it says, and compare it.

    Interrupting it (the stop button of a notebook) stops all that it started.

    Raises:
        ScenarioError: there is no such case, or the parts that run for real are not installed.
    """
    cases = {case.scenario: case for case in CASES}
    if name not in cases:
        hint = nearest(name, cases)
        raise ScenarioError([Problem("case", name, f"is no scenario of loadtest.agreement_cases{hint}")])
    case = cases[name]
    scenario = read_scenario(case.scenario, case.overrides, case.compress * faster)
    with interruptible():
        real = harness.run(scenario)
        if real.interrupted:
            raise KeyboardInterrupt
        return compared(real)


def agreements(names: Sequence[str], faster: float = 1.0, only: str | None = None) -> list[Agreement]:
    """``agree`` with each of the names in turn; with ``only``, that case is run once and stands for all of them."""
    if only is not None:
        return [agree(only, faster)] * len(names)
    return [agree(name, faster) for name in names]
