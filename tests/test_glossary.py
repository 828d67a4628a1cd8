"""The glossary has every word that a run can print, and policies for newcomers are what their page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import sim
from sim import catalogue, policy, shown
from sim.blocks_policy import PolicyBlock
from sim.policy import FOREVER
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = (ROOT / "sim/GLOSSARY.md").read_text(encoding="utf-8")
COMING_FROM = (ROOT / "loadtest/COMING-FROM.md").read_text(encoding="utf-8")


def entries(section: str) -> list[str]:
    """Words that the section of this heading explains, in order."""
    (body,) = re.findall(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", GLOSSARY, re.DOTALL | re.MULTILINE)
    return re.findall(r"^- [`*]+(.+?)[`*]+(?: \(\S+\))?: \S", body, re.MULTILINE)


def test_every_outcome_state_and_cause_is_explained() -> None:
    """The words of the code, each once, and no other."""
    assert entries("Outcomes of an attempt") == list(policy.OUTCOMES)
    assert entries("States of a delivery") == list(policy.STATES)
    ends = [word for word in policy.END_CAUSES if word]
    assert sorted(entries("Causes of an end")) == sorted(ends)
    waits = {word for word in policy.WAIT_CAUSES if word} - set(ends)
    assert sorted(entries("Causes of a wait, from due to start")) == sorted(waits)


def test_every_figure_is_explained() -> None:
    """Those that ``hooklab figures`` tells, with the same unit and meaning."""
    told = dict(re.findall(r"^- `(.+?)` \((.+)\.$", GLOSSARY, re.MULTILINE))
    assert told == {name: f"{shown.unit(name)}): {meaning}" for name, meaning in shown.MEANINGS.items()}


def pages_blocks() -> list[Any]:
    """Examples of the page: what their comment says, and the block."""
    found = re.findall(r"```yaml\n# ([\w-]+): ([^\n]+)\n(.*?)```", COMING_FROM, re.DOTALL)
    assert len(found) == COMING_FROM.count("```yaml")
    return [pytest.param(*one, id=f"{one[0]}-{number}") for number, one in enumerate(found)]


def gaps(block: PolicyBlock) -> list[int]:
    """Seconds of all gaps, one by one; an endless tail counts once."""
    return [
        gap // policy.SECOND
        for entry in block.schedule
        for gap, times in entry.runs()
        for _ in range(1 if times >= FOREVER else times)
    ]


@pytest.mark.parametrize(("name", "told", "text"), pages_blocks())
def test_blocks_for_newcomers_have_the_gaps_that_their_comments_tell(name: str, told: str, text: str) -> None:
    """Each block loads as a policy, with those gaps; of a preset that is not rewritten, with the preset's rules."""
    loaded = sim.load(tiny.world(policies={"m": yaml.safe_load(text)}))
    block = loaded.policies["m"]
    assert gaps(block) == [int(word.removesuffix("s")) for word in told.split()]
    known = {entry.name: entry.block for entry in catalogue.entries()}
    if name in known and "preset:" not in text:
        assert block.model_dump(exclude={"success"}) == known[name].model_dump(exclude={"success"})


def test_presets_for_newcomers_exist_and_are_as_sure_as_the_page_says() -> None:
    """Names in the table are bundled, and gaps called documented are."""
    known = {entry.name: entry for entry in catalogue.entries()}
    rows = re.findall(
        r"^\|[^|]+\| `([\w-]+)` \| (documented|assumed|read by third)", COMING_FROM, re.MULTILINE
    )
    assert len(rows) == 7
    for name, sure in rows:
        assert known[name].file["gaps"] == sure.replace("read by third", "third-party"), name
