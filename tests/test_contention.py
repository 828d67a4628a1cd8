"""Clients contending for one row: the published comparison of jitter kinds, reproduced with ours."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from sim import model
from sim.blocks_policy import PolicyBlock
from sim.contention import brooker_policies, contend, contests

NAMES = {
    "None": "at once",
    "Exponential": "none",
    "FullJitter": "full",
    "EqualJitter": "equal",
    "Decorr": "decorrelated",
}
"""What the reference calls the kinds, and what we do."""
RUNS = {10: 100, 20: 100, 50: 40, 100: 10}
"""Contests of so many clients; the reference allows four standard deviations of a mean of 100."""


def table(shared: Path) -> list[dict[str, Any]]:
    """The rows of the reference."""
    rows = json.loads((shared / "oracles" / "open.json").read_text(encoding="utf-8"))
    return [row for row in rows if row["oracle"].startswith("AWS OCC contention")]


@pytest.mark.shared
def test_the_published_table_is_reproduced(shared: Path) -> None:
    """Time and calls of every kind and number of clients lie within the tolerance of the reference."""
    policies = brooker_policies()
    rows = table(shared)
    assert {(row["params"]["clients"], NAMES[row["params"]["backoff"]]) for row in rows} == {
        (clients, name) for clients in RUNS for name in policies
    }
    wrong = []
    for row in rows:
        clients, rules = row["params"]["clients"], policies[NAMES[row["params"]["backoff"]]]
        runs = [contend(rules, clients, seed) for seed in range(RUNS[clients])]
        for key, values in (
            ("time", [1000 * run.time_s for run in runs]),
            ("calls", [run.calls for run in runs]),
        ):
            expected = row["expected"][key]
            tolerance = expected["tol_100_runs"] * math.sqrt(100 / len(runs))
            if abs(statistics.mean(values) - expected["value"]) > tolerance:
                wrong.append((row["id"], key, statistics.mean(values), expected["value"], tolerance))
    assert wrong == []


def test_jitter_saves_calls_and_time() -> None:
    """With 50 clients backoff without jitter is slowest, and each kind of jitter halves its calls."""
    policies = brooker_policies()
    runs = {name: [contend(rules, 50, seed) for seed in range(10)] for name, rules in policies.items()}
    time_s = {name: statistics.mean(run.time_s for run in own) for name, own in runs.items()}
    calls = {name: statistics.mean(run.calls for run in own) for name, own in runs.items()}
    assert max(time_s, key=lambda name: time_s[name]) == "none"
    assert min(time_s, key=lambda name: time_s[name]) == "at once"
    assert all(calls[name] < 0.7 * calls["none"] for name in ("full", "equal", "decorrelated"))


def test_a_notebook_gets_the_comparison_as_a_table() -> None:
    """One row for each kind of jitter and number of clients, with the means of its contests."""
    frame = contests(clients=(2, 5), runs=4, seed=7)
    assert list(zip(frame["jitter"], frame["clients"], strict=True)) == [
        (name, clients) for clients in (2, 5) for name in NAMES.values()
    ]
    runs = [contend(brooker_policies()["full"], 5, seed) for seed in range(7, 11)]
    row = frame[(frame["jitter"] == "full") & (frame["clients"] == 5)].iloc[0]
    assert row["calls_mean"] == statistics.mean(run.calls for run in runs)
    assert row["time_s_sd"] == pytest.approx(statistics.stdev(run.time_s for run in runs))


def test_one_client_needs_one_call() -> None:
    """Without anybody else the first write succeeds, after four messages of about 10 ms."""
    for rules in brooker_policies().values():
        alone = contend(rules, 1, seed=3)
        assert alone.calls == 1
        assert 0.02 < alone.time_s < 0.06


def test_the_same_seed_gives_the_same_contest() -> None:
    """Luck has addresses: a contest repeats, and another seed is another contest."""
    rules = brooker_policies()["full"]
    assert contend(rules, 10, seed=1) == contend(rules, 10, seed=1)
    assert contend(rules, 10, seed=1) != contend(rules, 10, seed=2)


@pytest.mark.parametrize(
    ("block", "clients", "message"),
    [
        ({"schedule": ["0s", "1s"]}, 5, "the policy gives up"),
        (
            {"schedule": ["0s", {"delay": "1s", "times": "forever"}], "max_age": "1h"},
            5,
            "the policy gives up",
        ),
        ({"schedule": ["0s", {"delay": "1s", "times": "forever"}]}, 0, "clients is 0"),
    ],
)
def test_a_contest_that_may_not_end_is_refused(block: dict[str, Any], clients: int, message: str) -> None:
    """Every client must go on until it succeeds."""
    with pytest.raises(ValueError, match=message):
        contend(model.lower_policy(PolicyBlock.model_validate(block)), clients)
