"""What a plan comes to: the setting that was found, what was tried on the way, and how close each came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from sim import yamlio
from sim.beside import Beside
from sim.experiment_results import Experiment
from sim.planning_slo import Slo, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value for each varied leaf, and how it did."""

    texts: Mapping[str, str]
    """By leaf, as ``--set`` takes them."""
    values: Mapping[str, Any]
    """By leaf, as a column of a table: durations in s, rates per s, shares between 0 and 1."""
    verdicts: tuple[Verdict, ...]
    """One for each objective."""
    cost: float
    """Of a million deliveries, at the prices given; NaN without prices."""

    @property
    def name(self) -> str:
        """As messages call it: ``path=value, …``."""
        return ", ".join(f"{path}={text}" for path, text in self.texts.items())

    @property
    def met(self) -> bool:
        """Whether it meets every objective."""
        return all(verdict.met for verdict in self.verdicts)

    @property
    def worst(self) -> Verdict:
        """The objective with the least headroom."""
        return min(self.verdicts, key=lambda verdict: verdict.headroom)

    @property
    def leaves(self) -> dict[str, Any]:
        """By leaf, the value as a scenario file has it."""
        return {path: yamlio.parse(text, path) for path, text in self.texts.items()}

    def to_json(self) -> dict[str, Any]:
        """As ``hooklab plan --json`` prints it."""
        return {
            "values": self.leaves,
            "met": self.met,
            "cost_per_million": self.cost if math.isfinite(self.cost) else None,
            "slo": [verdict.to_json() for verdict in self.verdicts],
        }


@dataclass(frozen=True, repr=False, kw_only=True)
class Plan(Experiment):
    """The smallest or cheapest setting that meets all objectives, and the way to it."""

    slos: tuple[Slo, ...]
    prices: Mapping[str, float]
    size: int
    """Settings there are, tried or not."""
    tried: tuple[Setting, ...]
    """In the order of the grid, judged by the first n replications, or the second n where it met in the first only."""
    answer: Setting | None
    """The setting found, judged by the replications that confirmed it, which the search had not seen; None if no
    setting that was tried meets every objective."""
    theory: tuple[Beside, ...]
    """Closed forms of the answer that apply, beside the means of its replications."""

    @property
    def closest(self) -> Setting | None:
        """Of the settings tried, the one whose worst objective is missed by the least; None where nothing was."""
        return max(self.tried, key=lambda setting: setting.worst.headroom, default=None)

    @property
    def before(self) -> Setting | None:
        """Of the settings tried that are smaller than the answer, or cheaper, the one that came closest."""
        if self.answer is None:
            return None
        if self.prices:
            smaller = [setting for setting in self.tried if setting.cost < self.answer.cost]
        else:
            names = [setting.name for setting in self.tried]
            smaller = list(self.tried[: names.index(self.answer.name)])
        return max(smaller, key=lambda setting: setting.worst.headroom, default=None)

    @property
    def binding(self) -> Slo | None:
        """The objective that keeps the answer from being smaller or cheaper: the worst of the setting ``before`` it.

        Where there is none before it, or no answer, the worst of the answer, or of what came closest.
        """
        shown = self.before or self.answer or self.closest
        return None if shown is None else shown.worst.slo

    @property
    def curve(self) -> pd.DataFrame:
        """One row per setting tried: its leaves, met, cost_per_million; of each objective mean, bound, headroom."""
        rows = []
        for setting in self.tried:
            row = {**setting.values, "met": setting.met, "cost_per_million": setting.cost}
            for verdict in setting.verdicts:
                told = {"mean": verdict.mean, "bound": verdict.bound, "headroom": verdict.headroom}
                row |= {f"{verdict.slo.text} {what}": value for what, value in told.items()}
            rows.append(row)
        return pd.DataFrame(rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curve behind the answer: the figure of the binding objective over what was varied."""
        from sim.plots_plan import binding_curve

        return binding_curve(self, ax)

    def to_json(self) -> dict[str, Any]:
        """What ``hooklab plan --json`` prints; a number that does not exist is None.

        ``slo`` judges the answer, or where there is none what came closest.
        """
        shown = self.answer or self.closest
        verdicts = () if shown is None else shown.verdicts
        return {
            **super().to_json(),
            "answer": None if self.answer is None else self.answer.leaves,
            "closest": None if self.answer or shown is None else shown.leaves,
            "cost_per_million": None if shown is None or math.isnan(shown.cost) else shown.cost,
            "prices": dict(self.prices),
            "slo": [{**verdict.to_json(), "binding": verdict.slo == self.binding} for verdict in verdicts],
            "size": self.size,
            "tried": [setting.to_json() for setting in self.tried],
            "theory": [row.to_json() for row in self.theory],
        }

    def _repr_html_(self) -> str:
        html: str = self.curve.to_html(index=False)
        return html


def figure_of(ax: Axes) -> Figure:
    """The whole picture of a panel."""
    figure: Any = ax.figure
    return figure  # type: ignore[no-any-return]
