"""Names beside points of a panel: where there is room, and with a line to the point where that is not close by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.transforms import Bbox

from sim.plots_style import TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

CLOSE_PT = 11.0
"""How far from its point a name stands at least, points of 1/72 inch; at that distance it needs no line."""
STEP_PT = 9.0
STEPS = 14
DIRECTIONS = 16
MARK_PT = 5.0
"""Half the width of what a point covers."""
GAP_PT = 2.0
"""Between names."""


class Place(NamedTuple):
    """Where a name may stand, seen from its point."""

    right_pt: float
    up_pt: float
    align: str
    """Which end of the name is there: left, center or right."""
    close: bool


def name_points(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    taken: Sequence[tuple[float, float]] = (),
) -> list[Annotation]:
    """Write names beside points so that none lies on another, on what is taken, or on the legend.

    Limits and scales of the axes must be set. ``taken``: points, in data, that names must not cover, such as other
    points and places along a curve. Names have their places in the order given, the closest first; one for which
    there is no room stands where it covers least.
    """
    figure: Any = ax.get_figure()
    figure.draw_without_rendering()  # only a layout that is made knows where things are
    pt = figure.dpi / 72
    marks = ax.transData.transform(np.array([*points, *taken], dtype=float).reshape(-1, 2))
    boxes = [
        Bbox.from_extents(x, y, x, y).padded(MARK_PT * pt) for x, y in marks[np.isfinite(marks).all(axis=1)]
    ]
    found = ax.get_legend()
    boxes += [found.get_window_extent()] if found is not None else []
    drawn = []
    for point, name in zip(points, names, strict=True):
        text = _write(ax, point, name, Place(0.0, 0.0, "left", close=True))
        box = text.get_window_extent()
        text.remove()
        at = ax.transData.transform(point)
        place = min(_places(), key=lambda one: _covered(_box(at, box, one, pt), boxes, ax.bbox))
        boxes.append(_box(at, box, place, pt))
        drawn.append(_write(ax, point, name, place))
    return drawn


def _places() -> Iterator[Place]:
    """Places around a point, the closest first, and of equally close ones that to the right."""
    for step in range(STEPS):
        away = CLOSE_PT + step * STEP_PT
        for turn in range(DIRECTIONS):
            half = (turn + 1) // 2 * (1 if turn % 2 else -1)  # 0, 1, -1, 2, -2, …
            angle = half * 2 * math.pi / DIRECTIONS
            right, up = away * math.cos(angle), away * math.sin(angle)
            align = "left" if right > 1 else "right" if right < -1 else "center"
            yield Place(right, up, align, close=step == 0)


def _box(at: Any, text: Bbox, place: Place, pt: float) -> Bbox:
    """What a name would cover, with a gap around it, px."""
    x, y = at[0] + place.right_pt * pt, at[1] + place.up_pt * pt
    left = x - text.width * {"left": 0.0, "center": 0.5, "right": 1.0}[place.align]
    return Bbox.from_bounds(left, y - text.height / 2, text.width, text.height).padded(GAP_PT * pt)


def _covered(box: Bbox, boxes: Sequence[Bbox], inside: Bbox) -> float:
    """How much of what is there, and of the outside of the axes, a box would cover, px²; 0: it stands free."""
    shared = [Bbox.intersection(box, other) for other in boxes]
    within = Bbox.intersection(box, inside)
    outside = box.width * box.height - (within.width * within.height if within is not None else 0.0)
    return outside + sum(both.width * both.height for both in shared if both is not None)


def _write(ax: Axes, point: tuple[float, float], name: str, place: Place) -> Annotation:
    line = (
        None
        if place.close
        else {"arrowstyle": "-", "color": "0.4", "linewidth": 0.9, "shrinkA": 1, "shrinkB": 5}
    )
    return ax.annotate(
        name, point, (place.right_pt, place.up_pt), textcoords="offset points", ha=place.align, va="center",
        fontsize=TEXT, parse_math=False, arrowprops=line,
    )  # fmt: skip
