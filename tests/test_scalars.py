"""Words, numbers, durations, rates and shares: read as people write them, written back without loss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim import policy, yamlio
from sim.fields import (
    format_duration,
    format_rate,
    format_share,
    parse_codes,
    parse_duration,
    parse_rate,
    parse_share,
    parse_size,
)
from sim.scenario import HOUR, load
from tests.worlds import world

SECOND = 10**9
MINUTE = 60 * SECOND
DAY = 24 * HOUR
relaxed = settings(deadline=None)  # a machine may be busy
few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

# --------------------------------------------------------------------------- words of YAML


def test_on_and_off_are_words() -> None:
    """What older YAML takes for truth values stays a word: as a key, as a name and as a value."""
    text = """
    horizon: 1h
    drain: 1h
    producers: {on: {arrivals: {bursts: {on: 2/s, off: 1/s, on_for: 1m, off_for: 1m}}, events: {no: 1, yes: 2}}}
    endpoints: {off: {subscribes: [no, yes], policy: y, receiver: n}}
    policies: {y: {schedule: [0s]}}
    receivers: {n: {latency: 0s, dedupe: off, stale_guard: on}}
    """
    scenario = load(yamlio.parse(text, "test"))
    assert [*scenario.producers] == ["on"]
    assert scenario.event_types("on") == ("no", "yes")
    assert scenario.receivers["n"].dedupe is None
    assert scenario.receivers["n"].stale_guard is True
    assert load(yamlio.parse(scenario.to_yaml(), "test")) == scenario


@pytest.mark.parametrize(
    ("word", "flag"), [("yes", True), ("on", True), ("true", True), ("no", False), ("off", False)]
)
def test_truth_values_may_be_words(word: str, flag: bool) -> None:
    """Where a truth value is wanted, the words that people write for it are understood."""
    mapping = world("receivers/r/stale_guard", yamlio.parse(word, "test"))
    assert load(mapping).receivers["r"].stale_guard is flag


YAML_WORDS = [
    # not a date, not a time of day in base 60, not an octal number, not a truth value
    ("2026-01-01", "2026-01-01"),
    ("1:30", "1:30"),
    ("010", 10),
    ("0o10", 8),
    ("0x10", 16),
    ("1_000", 1000),
    ("1e3", 1000.0),
    ("yes", "yes"),
    ("True", True),
    ("~", None),
]


@pytest.mark.parametrize(("text", "value"), YAML_WORDS)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    """Dates, times of day and the words on, off, yes, no are text; 1e3 is a number."""
    parsed = yamlio.parse(f"key: {text}", "test")["key"]
    assert (parsed, type(parsed)) == (value, type(value))


@few
@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False),
            st.text(st.characters(codec="utf-8")),
            st.sampled_from([text for text, _ in YAML_WORDS]),
        ),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")) | st.integers(), inner)
        ),
        max_leaves=8,
    )
)
def test_what_is_dumped_is_what_is_parsed(value: Any) -> None:
    """Any plain value survives being written as YAML and read again."""
    assert value == yamlio.parse(yamlio.dump(value), "test")


def test_anchors_and_merge_keys_work() -> None:
    """A block may be written once and used again, with a leaf replaced."""
    text = """
    one: &one {schedule: [0s, 1m], timeout: 5s}
    two: {<<: *one, timeout: 3s}
    """
    parsed = yamlio.parse(text, "test")
    assert parsed["two"] == {"schedule": ["0s", "1m"], "timeout": "3s"}


# --------------------------------------------------------------------------- scalars


@relaxed
@given(st.integers(0, policy.LONGEST))
def test_durations_survive_being_written(ns: int) -> None:
    """Every duration is written in a unit that loses nothing."""
    assert ns == parse_duration(format_duration(ns))


@relaxed
@given(st.one_of(st.floats(0, 1), st.integers(0, 1000).map(lambda n: n / 1000)))
def test_shares_survive_being_written(share: float) -> None:
    """Every share is written so that reading it gives the same float."""
    assert share == parse_share(format_share(share))


@relaxed
@given(st.one_of(st.floats(0, 1e9), st.integers(0, 10**6).map(lambda n: n / 3600)))
def test_rates_survive_being_written(rate: float) -> None:
    """Every rate is written so that reading it gives the same float."""
    assert rate == parse_rate(format_rate(rate))


def test_scalars_in_all_their_units() -> None:
    """Units, compositions, blanks and spellings of durations, rates, shares, sizes and codes."""
    units = {
        "1ns": 1,
        "1us": 10**3,
        "1µs": 10**3,
        "1ms": 10**6,
        "1s": SECOND,
        "1m": MINUTE,
        "1h": HOUR,
        "1d": DAY,
    }
    assert [*units.values()] == [parse_duration(text) for text in units]
    assert parse_duration("1w") == 7 * DAY
    assert 90 * MINUTE == parse_duration("1h30m") == parse_duration(" 1.5h ") == parse_duration("90m")
    assert parse_duration(0) == parse_duration("0") == parse_duration("0h") == 0
    assert 0.5 == parse_rate("30/m") == parse_rate("30/min") == parse_rate("0.5 / s") == parse_rate("5e-1/s")
    assert 0.02 == parse_share("2%") == parse_share("0.02") == parse_share(0.02)
    assert 2000 == parse_size("2kB") == parse_size("2 kB") == parse_size(2000)
    assert (200, 299) == parse_codes("2xx") == parse_codes("200-299")
    assert (410, 410) == parse_codes(410) == parse_codes("410")
