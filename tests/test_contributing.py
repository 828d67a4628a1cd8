"""CONTRIBUTING's recipes work: one policy, fault, arrival process and store is added in the way that each describes."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import sim
from loadtest.dispatcher.records import Accepted, NewEvent
from loadtest.dispatcher.store import Store
from loadtest.dispatcher.store_sqlite import SqliteStore
from sim import presets
from tests import test_store, tiny
from tests.stores import Home

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(name: str) -> str:
    """What stands under this bullet."""
    (found,) = re.findall(
        rf"^- \*\*{name}[.*](.*?)(?=^- \*\*|^## |\Z)", CONTRIBUTING, re.DOTALL | re.MULTILINE
    )
    return str(found)


# --------------------------------------------------------------------------- one of each


def test_policy_of_ones_own_is_a_block() -> None:
    """A block alone, and one over a preset, of which the leaves that it does not name are kept."""
    assert "`policies:`" in recipe("A policy")
    own = {"m": {"schedule": ["0s", "2s"], "timeout": "1s"}}
    changed = {"m": {"preset": "timepad", "timeout": "1s"}}
    receivers = tiny.receiver("0s", tiny.outage("0s", "90s"))
    done = sim.run(tiny.world(policies=own, receivers=receivers), engine="simpy")
    assert list(done.attempts["due_s"]) == [0.0, 2.0]
    kept = sim.load(tiny.world(policies=changed)).policies["m"]
    assert [entry.delay for entry in kept.schedule] == [0, 3600 * 10**9, 86400 * 10**9]
    assert kept.timeout == 10**9


def test_policy_for_everybody_has_the_keys_that_the_recipe_lists() -> None:
    """Every bundled file has exactly those keys; notes and what is not modelled may be left out."""
    listed = re.search(r"with ((?:\w+, )+\w+ and policy)", " ".join(recipe("A policy").split()))
    assert listed is not None
    keys = set(re.split(r", | and ", listed[1]))
    for file in (ROOT / "sim/presets/policies").glob("*.yaml"):
        assert set(yaml.safe_load(file.read_text(encoding="utf-8"))) <= keys, file.name
    assert set(presets.read("policies", "svix")) == keys


class Stubborn:
    """A fault that no file expresses: it refuses each delivery's first attempt and answers the second."""

    def receive(self, request: sim.Request) -> sim.Reply:
        """Answer by the number of the attempt."""
        return sim.Reply(status=503 if request.attempt_number == 1 else 200, after_s=0.5)


def test_fault_of_ones_own_is_an_object() -> None:
    """The object decides what attempts come to, in the place of the receiver that the file names."""
    done = sim.run(tiny.world("0s", "9s"), receivers={"r": Stubborn()})
    assert tiny.rows(done.attempts, "attempt_number", "outcome", "status") == [
        (1, "rejected", 503),
        (2, "delivered", 200),
        (1, "rejected", 503),
        (2, "delivered", 200),
    ]


def test_fault_in_a_file_is_an_entry_of_faults() -> None:
    """Each kind that the recipe names is taken."""
    kinds: dict[str, Any] = {
        "error": {"probability": "100%"},
        "lost_answer": {"probability": "100%"},
        "outage": {"windows": [["0s", "99s"]]},
    }
    assert set(re.findall(r"`(\w+)`", recipe("A fault").split("In Python")[0])) >= kinds.keys()
    outcomes = {
        kind: sim.run(tiny.world(receivers=tiny.receiver("1s", {kind: block})), engine="simpy").attempts
        for kind, block in kinds.items()
    }
    assert {kind: next(iter(attempts["outcome"])) for kind, attempts in outcomes.items()} == {
        "error": "rejected",
        "lost_answer": "timed_out",
        "outage": "refused",
    }


def test_arrival_process_of_ones_own_is_a_list_of_times(tmp_path: Path) -> None:
    """Times from Python, ``at`` in a file and a replayed recording are the same events."""
    times = [n**2 / 10 for n in range(1, 9)]
    (tmp_path / "log.csv").write_text("t\n" + "".join(f"{time}\n" for time in times), encoding="utf-8")
    replay = tiny.world()
    replay["producers"]["p"]["arrivals"] = {"replay": {"file": str(tmp_path / "log.csv"), "time": "t"}}
    found = [
        sim.run(tiny.world(), arrivals={"p": times}),
        sim.run(tiny.world(*(f"{time}s" for time in times))),
    ]
    for done in found:
        assert list(done.deliveries["created_s"]) == times
    assert len(sim.run(replay).deliveries) == len(times)


class Counting(SqliteStore):
    """A store of one's own: it counts what it is given."""

    added = 0

    async def add(self, events: Sequence[NewEvent]) -> list[Accepted]:
        """Count them, and store them."""
        type(self).added += len(events)
        return await super().add(events)


CONTRACT = [
    name
    for name, test in vars(test_store).items()
    if name.startswith("test_") and test.__code__.co_varnames[: test.__code__.co_argcount] == ("home",)
]
"""Tests of the contract that need one empty home and no more."""


@pytest.mark.parametrize("name", CONTRACT)
def test_store_of_ones_own_keeps_the_contract(name: str, tmp_path: Path) -> None:
    """A class with the coroutines of ``Store`` and a ``Home`` that makes it is all that the suite asks for."""
    getattr(test_store, name)(Home("counting", lambda: Counting(tmp_path / "own.db")))


def test_contract_was_run_on_the_store_of_ones_own(tmp_path: Path) -> None:
    """The suite is not empty, and events of its tests reach the class's own ``add``."""
    assert len(CONTRACT) >= 10
    assert not [name for name in vars(Store) if not name.startswith("_") and not hasattr(Counting, name)]
    before = Counting.added
    test_store.test_endpoints_are_stored_replaced_and_removed(
        Home("counting", lambda: Counting(tmp_path / "own.db"))
    )
    assert Counting.added > before


# --------------------------------------------------------------------------- what recipes name


def named() -> list[str]:
    """``module.NAME`` and files in the text."""
    return sorted(set(re.findall(r"`((?:[\w]+\.)+\w+)`", CONTRIBUTING)))


def test_recipes_are_short_and_name_what_exists() -> None:
    """Each of the four takes less than ten lines; modules, classes, functions and files in the text are there."""
    for title in ("A policy", "A fault", "An arrival process", "A store"):
        assert len(recipe(title).splitlines()) < 10, title
    for path in re.findall(r"`((?:sim|loadtest|tests|\.ci)/[\w./]+)`", CONTRIBUTING):
        assert (ROOT / path).exists(), path
    homes = {file.stem for file in (ROOT / "sim").glob("*.py")}
    checked = 0
    for name in named():
        module, _, rest = name.partition(".")
        if name.startswith("loadtest."):
            module, _, rest = name.rpartition(".")
        elif module in homes and rest != "py":
            module = f"sim.{module}"
        else:
            continue
        assert hasattr(import_module(module), rest), name
        checked += 1
    assert checked >= 12


def test_modules_can_be_documented() -> None:
    """Every module that ``make docs`` renders opens with a docstring."""
    files = [*ROOT.glob("sim/*.py"), *ROOT.glob("loadtest/*.py"), *ROOT.glob("loadtest/dispatcher/*.py")]
    assert files
    for file in files:
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file
