"""What notebooks need beside analyses: full or short runs, tables to read, and the figures that a conclusion quotes.

The environment variable ``HOOKLAB_SHORT`` (1: yes) makes notebooks run short: every step runs, so a change that breaks
one is noticed, and no figure means much.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sim.shown import shown, shown_share

if TYPE_CHECKING:
    import pandas as pd

    from sim.calibrate import FitResult

__all__ = ["facts", "fitted", "forecasts", "interval", "length", "recordings", "table", "told"]

SHORT = "HOOKLAB_SHORT"
RECORDINGS = Path("data", "receivers")
"""Where recorded receivers are, in the folder of reference data beside the checkout."""
T = TypeVar("T")


class Forecast(NamedTuple):
    """A row of what ``holdout`` gives, with what came true."""

    policy: str
    mean: float
    low: float
    high: float
    real: float


def length(full: T, short: T) -> T:
    """``full``, or ``short`` if the environment asks for a short run: a horizon, a number of replications, a list."""
    return short if os.environ.get(SHORT, "") not in ("", "0") else full


def facts(told: Mapping[str, str]) -> None:
    """Print the figures that a conclusion quotes, a line each, with what they are of."""
    width = max(map(len, told), default=0)
    for what, value in told.items():
        print(f"{what:<{width}}  {value}")  # noqa: T201 - printing is what it is for


def interval(frame: pd.DataFrame, metric: str, **row: Any) -> str:
    """Mean and interval of a figure in the table of an experiment, as text; ``row``: values of its other columns."""
    for column, value in {"metric": metric, **row}.items():
        frame = frame[frame[column] == value]
    ((mean, low, high),) = frame[["mean", "low", "high"]].to_numpy(dtype=float)
    return f"{shown(metric, mean)} ({shown(metric, low)} … {shown(metric, high)})"


def table(frame: pd.DataFrame, metrics: Sequence[str], by: str) -> pd.DataFrame:
    """The table of an experiment to be read: a row for each value of ``by``, figures with their intervals as text."""
    rows = {
        value: [interval(frame, metric, **{by: value}) for metric in metrics]
        for value in frame[by].drop_duplicates()
    }
    import pandas as pd

    return pd.DataFrame.from_dict(rows, orient="index", columns=list(metrics)).rename_axis(by)


def fitted(result: FitResult) -> pd.DataFrame:
    """The numbers of a fit to be read: value and 95 % interval, a time in its own unit, a share in per cent."""
    import pandas as pd

    names = {"s": "delivery_latency_s_mean", "share": "lost_share", "1/s": "attempts_per_s"}
    rows = []
    for name, value, low, high, unit, count in result.table.itertuples(index=False):
        metric = names.get(str(unit), "deliveries")
        told = " … ".join(shown(metric, float(end)) for end in (low, high))
        rows.append(
            (name, shown(metric, float(value)), told, "" if unit in ("s", "share") else unit, int(count))
        )
    return pd.DataFrame(rows, columns=["parameter", "value", "95 %", "unit", "observations"])


def forecasts(of: str, frame: pd.DataFrame) -> Mapping[str, str]:
    """For ``facts``: each prediction of ``holdout``, and what came true."""
    return {
        f"{of}, {row.policy}": f"predicted {shown_share(row.mean)} ({shown_share(row.low)} … {shown_share(row.high)}), "
        f"came true {shown_share(row.real)}"
        for row in (Forecast(*values) for values in frame[list(Forecast._fields)].to_numpy())
    }


def told(texts: Mapping[str, Sequence[str]]) -> None:
    """Print sentences by what they are about."""
    for what, sentences in texts.items():
        print(what)  # noqa: T201
        for sentence in sentences:
            print(f"- {sentence}")  # noqa: T201


def recordings(start: Path | None = None) -> Path | None:
    """The folder of recorded receivers, ``../shared/data/receivers`` from the checkout; None where there is none.

    ``start``: a folder inside the checkout (default: the current one).
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file():
            found = folder.parent / "shared" / RECORDINGS
            return found if found.is_dir() else None
    return None
