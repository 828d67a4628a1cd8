"""The pytest fixture ``hooklab``: delivery policies under test in a user's own suite.

    def test_policy(hooklab):
        result = hooklab.simulate("dreamkas", horizon="10m")
        result.gate("lost_share==0", "delivery_latency_s_p99<2")

The plugin is found by itself once hooklab is installed. It costs nothing until a test asks for the fixture: the
simulator is imported then, and the load test only where one is run. Gates are written as in ``loadtest.gate_syntax``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from loadtest.gate_baseline import Baseline
    from sim.scenario import Scenario


class Finished:
    """A run that is over: a ``sim.Result`` or ``loadtest.harness.LoadResult``, whose attributes it has, and gates."""

    def __init__(self, result: Any, scenario: Scenario) -> None:
        self.result = result
        self._scenario = scenario

    def __getattr__(self, name: str) -> Any:
        if name == "result":  # while it is copied or unpickled, nothing is there yet
            raise AttributeError(name)
        return getattr(self.result, name)

    def __repr__(self) -> str:
        return repr(self.result)

    def gate(self, *gates: str, baseline: str | Path | Baseline | None = None) -> None:
        """Require what gates say; all are judged before the first is told.

        ``baseline`` is the JSON of an earlier run, or what was read from it.

        Raises:
            AssertionError: a gate does not hold, or the load test was not valid: each with figure, limit and miss.
            ScenarioError: there is no gate, or one cannot be judged: not well written, or of an unknown figure, group
                or type.
        """
        __tracebackhide__ = True
        from sim.errors import ScenarioError

        try:
            told = self._failures(gates, baseline)
        except ScenarioError as error:  # told where the test stands, not where it was noticed
            raise ScenarioError(error.problems, error.source) from None
        if told:
            raise AssertionError(told)

    def _failures(self, gates: tuple[str, ...], baseline: str | Path | Baseline | None) -> str:
        """What does not hold, in words; empty if all does."""
        from loadtest import gate as judging
        from loadtest import gate_baseline
        from sim.errors import ScenarioError

        read = judging.read(gates)
        if not read:
            raise ScenarioError("no gate was given; write one such as gate('lost_share==0')")
        if isinstance(baseline, str | Path):
            baseline = gate_baseline.read(baseline)
        judging.check(read, self._scenario, baseline)
        judged = judging.judge(
            read,
            self._made,
            requests=self._requests(),
            baseline=baseline,
            prediction=self._prediction() if judging.needs(read, "sim") else None,
        )
        told = [f"  not valid: {problem}" for problem in self._problems()]
        told += [f"  {verdict.expr}\n    {verdict.by}" for verdict in judged if not verdict.ok]
        if not told:
            return ""
        failed = sum(not verdict.ok for verdict in judged)
        meta = self._made.meta
        lead = f"{failed} of {len(judged)} gates failed ({meta['name']}, seed {meta['seed']}):"
        return "\n".join([lead, *told])

    @property
    def _made(self) -> Any:
        """What the run left: a simulation may have been streamed and keep no trace."""
        return self.result.made if self._is_simulation else self.result.trace

    @property
    def _is_simulation(self) -> bool:
        return hasattr(self.result, "made")

    def _prediction(self) -> Any:
        """The simulation of what was run for real; a simulation has none but itself."""
        if self._is_simulation:
            return None
        import sim

        return sim.run(self._scenario, seed=self._made.meta["seed"]).made

    def _requests(self) -> Mapping[str, float]:
        """What a load generator measured; a simulation has none."""
        from loadtest.gate_syntax import REQUEST_FIGURES

        metrics = self.result.metrics
        return {name: metrics[name] for name in REQUEST_FIGURES if name in metrics}

    def _problems(self) -> list[str]:
        """Why a load test cannot be believed; a simulation always can."""
        if getattr(self.result, "valid", True):
            return []
        return [str(text) for text in getattr(self.result, "problems", ())] or [
            "its figures cannot be believed"
        ]


class Hooklab:
    """What the fixture ``hooklab`` is: runs scenarios, simulated or for real."""

    def simulate(
        self, scenario: Any, *, overrides: Iterable[str] = (), seed: int | None = None, **settings: Any
    ) -> Finished:
        """Simulate a scenario: a bundled name, a path, a mapping or a ``Scenario``.

        ``settings`` are keys of the scenario (``horizon="10m"``), or options of ``sim.run`` (``engine``, ``stream``);
        ``overrides`` are ``path=value`` texts, as ``--set`` takes them.

        Raises:
            ScenarioError: anything wrong with the scenario, a file it names, or an argument.
        """
        import sim

        loaded, options = _loaded(scenario, overrides, settings)
        return Finished(sim.run(loaded, seed=seed, **options), loaded)

    def loadtest(
        self, scenario: Any, *, overrides: Iterable[str] = (), seed: int | None = None, **settings: Any
    ) -> Finished:
        """Run a scenario for real; ``settings`` are keys of it, or options of ``loadtest.harness.run``.

        Raises:
            ScenarioError: anything wrong with the scenario, a file it names, or an argument.
        """
        from importlib import import_module

        loaded, options = _loaded(scenario, overrides, settings)
        return Finished(import_module("loadtest.harness").run(loaded, seed=seed, **options), loaded)


def _loaded(
    scenario: Any, overrides: Iterable[str], settings: Mapping[str, Any]
) -> tuple[Scenario, dict[str, Any]]:
    """The scenario with its settings, and those settings that are none of its keys."""
    from sim.scenario import Scenario, load

    own = {name: value for name, value in settings.items() if name in Scenario.model_fields}
    options = {name: value for name, value in settings.items() if name not in own}
    texts = [f"{name}={json.dumps(value)}" for name, value in own.items()]
    given = [overrides] if isinstance(overrides, str) else list(overrides)
    return load(scenario, [*texts, *given]), options


@pytest.fixture(scope="session")
def hooklab() -> Hooklab:
    """Runs of webhook scenarios, simulated or for real, and gates for them."""
    return Hooklab()
