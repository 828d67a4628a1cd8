"""What all pictures share: a figure of their own, files, text sizes, line styles, and axes of time.

They are made to be read on a projector and printed in black and white: lines differ in style and marker, areas
in hatch, and no text is small. Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
)

from sim.errors import Problem, ScenarioError
from sim.shown import shown, unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

TEXT = 11
TITLE = 13
SIZE = (9.0, 5.0)
"""Width and height of a picture with one panel, inches."""
LINES: tuple[dict[str, Any], ...] = (
    {"color": "black", "linewidth": 1.8},
    {"color": "0.45", "linewidth": 2.2, "linestyle": (0, (5, 2))},
    {"color": "black", "linewidth": 1.6, "linestyle": (0, (1, 1.5))},
    {"color": "0.6", "linewidth": 2.6},
    {"color": "0.3", "linewidth": 1.6, "linestyle": (0, (6, 2, 1, 2))},
    {"color": "0.55", "linewidth": 2.2, "linestyle": (0, (1, 3))},
)
"""Lines that can be told apart without colour, for as many curves as a panel can bear."""
MARKERS = "osD^vP"
FORMATS = ("svg", "png")
FAR_APART = 10.0
"""Ratio of the largest to the least value above 0 from which an axis is logarithmic."""
MOST_TICKS = 5
"""Labels that an axis of a narrow panel has room for."""
LABEL = 0.012
"""Width of a letter on an axis of a whole picture, as a part of that axis."""
_TIME_TICKS = {
    1e-6: "1 μs",
    1e-5: "10 μs",
    1e-4: "100 μs",
    1e-3: "1 ms",
    1e-2: "10 ms",
    0.1: "100 ms",
    1.0: "1 s",
    10.0: "10 s",
    60.0: "1 min",
    600.0: "10 min",
    3600.0: "1 h",
    21_600.0: "6 h",
    86_400.0: "1 d",
    864_000.0: "10 d",
    8_640_000.0: "100 d",
    86_400_000.0: "1,000 d",
}
"""Where a logarithmic axis of time is labelled, s."""


class Picture(Figure):
    """A figure that a notebook shows by itself, with or without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


# --------------------------------------------------------------------------- files


def png(figure: Figure, about: Mapping[str, str] | None = None) -> bytes:
    """The figure as a PNG file; ``about``: what its metadata say of it."""
    return _file(figure, "png", dpi=120, metadata=dict(about or {}))


def svg(figure: Figure, about: Mapping[str, str] | None = None) -> bytes:
    """The figure as an SVG file; text is drawn as outlines, and the same figure gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "hooklab", "svg.fonttype": "path"}):
        return _file(figure, "svg", metadata={"Date": None, "Creator": None, **(about or {})})


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure into a file whose name ends in .svg or .png.

    Raises:
        ScenarioError: the name ends otherwise.
        OSError: writing failed.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ScenarioError([Problem(f"picture {path}", None, "must end in .svg or .png")])
    path.write_bytes(svg(figure) if kind == "svg" else png(figure))


def _file(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes; nobody can do anything about it here
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


# --------------------------------------------------------------------------- panels


def axes(ax: Axes | None, size: tuple[float, float] = SIZE) -> Axes:
    """The axes to draw on: those given, or those of a new ``Picture`` (``ax.figure``)."""
    if ax is not None:
        return ax
    return Picture(figsize=size, layout="constrained").subplots()


def side_by_side(count: int, size: tuple[float, float] = (15.0, 5.4)) -> list[Axes]:
    """Axes of so many panels of one new ``Picture``, from left to right."""
    return list(Picture(figsize=size, layout="constrained").subplots(1, count, squeeze=False)[0])


def dress(ax: Axes, title: str, x: str, y: str) -> None:
    """Title, labels of the axes and a grid."""
    ax.set_title(title, fontsize=TITLE, loc="left", parse_math=False)
    ax.set_xlabel(x, fontsize=TEXT, parse_math=False)
    ax.set_ylabel(y, fontsize=TEXT, parse_math=False)
    ax.tick_params(labelsize=TEXT)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(visible=True, color="0.85", linewidth=0.6)
    ax.set_axisbelow(True)


def say(ax: Axes, text: str) -> None:
    """A sentence in the middle of a panel that has nothing to draw."""
    ax.text(
        0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=TITLE, parse_math=False
    )


def legend(ax: Axes, **place: Any) -> None:
    """A legend, if anything has a label."""
    if ax.get_legend_handles_labels()[1]:
        drawn = ax.legend(fontsize=TEXT, framealpha=0.9, edgecolor="0.7", **place)
        drawn.get_title().set_fontsize(TEXT)
        for text in drawn.get_texts():
            text.set_parse_math(False)


# --------------------------------------------------------------------------- axes


def time_ticks(axis: Axis, low_s: float, high_s: float) -> None:
    """Label a logarithmic axis of seconds in units that people use."""
    ticks = [tick for tick in _TIME_TICKS if low_s <= tick <= high_s]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([_TIME_TICKS[tick] for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def written_ticks(axis: Axis, written: Mapping[float, str]) -> None:
    """Label an axis at values that were tried, as they were written; those without room for a label have none."""
    scale = axis.get_transform().transform
    places = scale(np.array(sorted(written), dtype=float))
    extent = float(np.ptp(places)) or 1.0
    kept: list[float] = []
    free = -math.inf
    for value, place in zip(sorted(written), (places - places[0]) / extent, strict=True):
        half = (len(written[value]) + 2) * LABEL / 2
        if place - half >= free:
            kept.append(value)
            free = place + half
    axis.set_major_locator(FixedLocator(kept))
    axis.set_major_formatter(FixedFormatter([written[value] for value in kept]))
    axis.set_minor_locator(NullLocator())


def figure_axis(axis: Axis, name: str) -> None:
    """Label an axis with values of a figure of a run as its tables show them; none is below 0."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(name, value) if value >= 0 else ""))


def figure_label(name: str) -> str:
    """A figure of a run and its unit, as the label of an axis."""
    words = {"share": "%", "s": "time"}
    return f"{name} ({words.get(unit(name), unit(name))})"


def spread(ax: Axes, which: str, values: Sequence[float], name: str) -> list[float]:
    """Make an axis (x or y) for values of a figure, logarithmic where they are far apart; where to draw each.

    On a logarithmic axis 0 has a place and a label of its own, at the low end.
    """
    axis: Axis = ax.xaxis if which == "x" else ax.yaxis
    positive = [value for value in values if value > 0]
    if not positive or max(positive) < FAR_APART * min(positive):
        figure_axis(axis, name)
        axis.set_major_locator(MaxNLocator(nbins=4))
        if not positive:  # a scale around 0 would show shares below it
            getattr(ax, f"set_{which}lim")(-0.05, 1)
        return list(values)
    getattr(ax, f"set_{which}scale")("log")
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    ticks = [10.0**power for power in range(low, high + 1, max(1, (high - low + 3) // 4))]
    if unit(name) == "s":
        ticks = [tick for tick in _TIME_TICKS if min(positive) / 3 <= tick <= max(positive) * 3]
    floor = min(positive) / 10
    zero = [floor] if min(values) <= 0 else []
    ticks = [tick for tick in ticks if not zero or tick > min(positive) / 2]  # the label of 0 needs its room
    ticks = ticks[:: math.ceil(len(ticks) / MOST_TICKS) or 1]
    axis.set_major_locator(FixedLocator([*zero, *ticks]))
    labels = [_TIME_TICKS[tick] if unit(name) == "s" else shown(name, tick) for tick in ticks]
    axis.set_major_formatter(FixedFormatter([*("0" for _ in zero), *labels]))
    axis.set_minor_locator(NullLocator())
    return [value if value > 0 else floor for value in values]


def thinned(at: Any, share: Any) -> tuple[Any, Any]:
    """Some 2,000 points of a long curve: evenly, and all of its last ones, where the tail is."""
    if len(at) <= 2000:
        return at, share
    kept = np.unique(
        np.concatenate((np.linspace(0, len(at) - 1, 1500).astype(int), np.arange(len(at) - 500, len(at))))
    )
    return at[kept], share[kept]
