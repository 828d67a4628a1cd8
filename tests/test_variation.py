"""The grammar of ``--vary``: lists, ranges, steps by equal differences and by equal factors, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import variation
from sim.errors import ScenarioError
from sim.fields import parse_duration

TABLE: dict[str, tuple[list[str], list[Any]]] = {
    # whole numbers, one by one
    "a=4..7": (["4", "5", "6", "7"], [4, 5, 6, 7]),
    "a=-1..1": (["-1", "0", "1"], [-1, 0, 1]),
    # N values, both ends included
    "a=1..9/3": (["1", "5", "9"], [1, 5, 9]),
    "a=1s..3s/3": (["1s", "2s", "3s"], [1.0, 2.0, 3.0]),
    "a=0s..1h/3": (["0s", "30m", "1h"], [0.0, 1800.0, 3600.0]),
    "a=10/s..30/s/3": (["10/s", "20/s", "30/s"], [10.0, 20.0, 30.0]),
    "a=0%..10%/3": (["0%", "5%", "10%"], [0.0, 0.05, 0.1]),
    "a=1kB..3kB/3": (["1kB", "2000B", "3kB"], [1000, 2000, 3000]),
    # four digits, or as many as tell neighbours apart
    "a=1s..1000s/3log": (["1s", "31.62s", "1000s"], [1.0, 31.62, 1000.0]),
    "a=1000.0..1001.0/4": (
        ["1000.0", "1000.33", "1000.67", "1001.0"],
        [1000.0, 1000.33, 1000.67, 1001.0],
    ),
    "a=0.0..2.0/5": (["0.0", "0.5", "1", "1.5", "2.0"], [0.0, 0.5, 1.0, 1.5, 2.0]),
    # in the unit that fits
    "a=100ms..1s/3log": (["100ms", "316.2ms", "1s"], [0.1, 0.3162, 1.0]),
    "a=90s..91s/3": (["90s", "90.5s", "91s"], [90.0, 90.5, 91.0]),
    # by equal factors
    "a=1s..100s/3log": (["1s", "10s", "100s"], [1.0, 10.0, 100.0]),
    "a=1..1000/4log": (["1", "10", "100", "1000"], [1, 10, 100, 1000]),
    # whole numbers that rounding makes equal are one value
    "a=1..4/8log": (["1", "2", "3", "4"], [1, 2, 3, 4]),
    # lists
    "a=8": (["8"], [8]),
    "a=1,2.5,4": (["1", "2.5", "4"], [1.0, 2.5, 4.0]),
    "a= 2h , 30m": (["2h", "30m"], [7200.0, 1800.0]),
    "a=true,false": (["true", "false"], [True, False]),
    "a=unlimited,8": (["unlimited", "8"], ["unlimited", "8"]),
    # commas in brackets and quotes belong to their value, points in paths are no range
    "a=[0s, 1m],[0s]": (["[0s, 1m]", "[0s]"], ["[0s, 1m]", "[0s]"]),
    "a={plus_minus: 20%},full": (["{plus_minus: 20%}", "full"], ["{plus_minus: 20%}", "full"]),
    'a="x,y",z': (['"x,y"', "z"], ['"x,y"', "z"]),
    "a=../one.csv,../two.csv": (["../one.csv", "../two.csv"], ["../one.csv", "../two.csv"]),
}
REFUSED = {
    "a": "must be PATH=V1,V2,… or PATH=A..B",
    "=1": "must be PATH=VALUE",
    "a=": "has no value",
    "a=1,,2": "has an empty value between commas",
    "a=1,": "has an empty value between commas",
    "a=3..1": "is empty: the first value must be below the last",
    "a=2..2": "is empty",
    "a=5s..1s/3": "is empty",
    "a=1,2,1": "1 stands twice",
    "a=60s,1m": "60s and 1m are the same",
    "a=1s..9s": "counts whole numbers only; write 1s..9s/N",
    "a=1/s..10/s": "counts whole numbers only; write 1/s..10/s/N",
    "a=1s..9s/1": "must have between 2 and",
    "a=0s..9s/3log": "must begin above 0",
    "a=1s..9/s/3": "must go from A to B of one kind",
    "a=1..x": "must go from A to B of one kind",
    "a=1..3,7": "must be one range",
    "a=..3": "must be one range",
    "a=1..": "must be one range",
    "a=1..999999999": "has more than 10,000 values",
    "seed=1..5": "use --replications",
    "a.b[0]=1,2": "write b.0 for b[0]",
}


@pytest.mark.parametrize("text", TABLE)
def test_values_are_read_as_the_table_says(text: str) -> None:
    """The texts that ``--set`` takes, and the values for a column."""
    axis = variation.axis(text)
    assert (list(axis.texts), list(axis.values)) == TABLE[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_slip_is_refused_with_its_rule(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ScenarioError) as refused:
        variation.axis(text)
    assert REFUSED[text] in str(refused.value)


@given(
    st.integers(1, 10**6), st.integers(1, 10**5), st.integers(2, 40), st.sampled_from(["", "log"]),
    st.sampled_from(["{}s", "{}ms", "{}/s", "{}kB", "{}.0"]),
)  # fmt: skip
def test_a_range_has_its_ends_its_number_and_its_order(
    low: int, more: int, count: int, spacing: str, unit: str
) -> None:
    """Whatever the unit: N rising values from the first to the last as they were written."""
    first, last = unit.format(low), unit.format(low + 1000 * more)
    axis = variation.axis(f"a={first}..{last}/{count}{spacing}")
    assert (axis.texts[0], axis.texts[-1]) == (first, last)
    assert len(axis.texts) == count
    assert all(one < other for one, other in zip(axis.values, axis.values[1:], strict=False))


def test_several_make_a_grid_with_the_last_fastest() -> None:
    """Every combination, as texts and as values."""
    grid = variation.axes(["a=1,2", "b=x,y"])
    assert list(variation.points(grid)) == [
        (("a=1", "b=x"), {"a": 1, "b": "x"}),
        (("a=1", "b=y"), {"a": 1, "b": "y"}),
        (("a=2", "b=x"), {"a": 2, "b": "x"}),
        (("a=2", "b=y"), {"a": 2, "b": "y"}),
    ]


def test_a_mapping_has_lists_of_values_by_path() -> None:
    """As the texts say it; a text in a list is one value, and one in place of a list is read like that of an option."""
    told = variation.axes(["a=1,2.5", 'b."x.y"=[0s, "1,2"],off', "c=true", "d=1..3"])
    made = variation.axes(
        {"a": [1, 2.5], 'b."x.y"': ['[0s, "1,2"]', "off"], "c": (True,), "d": "1..3"},
    )
    assert made == told
    assert variation.axes({"a": [["0s", "1s"]]})[0].texts == ('["0s", "1s"]',)
    assert variation.axes({"a": np.array([1, 2])})[0].values == (1, 2)


@pytest.mark.parametrize(
    ("vary", "rule"),
    [
        ({}, "nothing is varied"),
        ({"a": []}, "vary a has no value"),
        ({"a": 4}, "must be a list of values"),
        ({"a": [1, 1]}, "1 stands twice"),
        ({"a": [object()]}, "must be a value that a scenario file can have"),
        ({"a": [float("nan")]}, "must be a value that a scenario file can have"),
        ({1: [1]}, "must be the path of a leaf"),
        ({"seed": [1, 2]}, "use --replications"),
        ({"a=1": [1, 2]}, "must be the path of a leaf"),
    ],
)
def test_a_slip_in_a_mapping_is_refused(vary: Any, rule: str) -> None:
    """With the path and the rule."""
    with pytest.raises(ScenarioError, match=rule):
        variation.axes(vary)


def test_what_is_set_is_not_varied_too() -> None:
    """Neither the leaf nor what lies below one; a neighbour and what lies above may be set."""
    grid = variation.axes(["a.b=1,2"])
    for undone in ("a.b=3", "a.b.c=3", '"a"."b"=3'):
        with pytest.raises(ScenarioError, match=r"is undone by --vary a\.b"):
            variation.require_unset(grid, [undone])
    variation.require_unset(grid, ["a.bc=3", "a.c=3", "a={b: 3, c: 4}"])


@given(st.integers(1, 10**18))
def test_a_duration_is_written_without_a_change_of_value(ns: int) -> None:
    """To the nanosecond, whatever its unit."""
    assert parse_duration(variation._duration(ns)) == ns


def test_no_leaf_one_leaf_twice_and_too_many_points_are_refused() -> None:
    """With what to do instead."""
    for texts, rule in (
        ([], "nothing is varied"),
        (["a=1", "a=2"], "stands twice; give all its values in one"),
        (["a=1..1000", "b=1..1000"], "has 1,000,000 points"),
    ):
        with pytest.raises(ScenarioError, match=rule):
            variation.axes(texts)
