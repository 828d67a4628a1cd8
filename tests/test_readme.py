"""What README shows is what a user gets."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sim

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def without_speed(text: str) -> str:
    """The text without what differs from machine to machine: how long the run took."""
    return re.sub(r" engine [\d.,]+ \w+ \([\d,]+ attempts/s\)", "", text)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The example's file, as README shows it."""
    path = tmp_path / "shop.yaml"
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    return path


def test_readme_is_short() -> None:
    """It can be read in five minutes."""
    assert len(README.splitlines()) < 210


def test_example_prints_what_readme_shows(shop: Path) -> None:
    """The table in README is the output of the command above it."""
    command, shown = blocks("console")[0].split("\n", 1)
    words = command.removeprefix("$ hooklab ").split()
    done = subprocess.run(
        [sys.executable, "-c", "from loadtest.cli import main; main()", *words],
        cwd=shop.parent,
        env=os.environ | {"COLUMNS": "120", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert without_speed(done.stdout).rstrip() == without_speed(shown).rstrip()


def test_sentences_below_the_example_are_true(shop: Path) -> None:
    """One in ten thousand lost, three in a hundred an hour late; with the other policy none, and five minutes."""
    timepad = sim.run(shop).metrics
    assert 0.5e-4 < timepad["lost_share"] < 1.5e-4
    assert 0.025 < 1 - timepad["within_share{59m}"] < 0.035
    standard = sim.run(shop, overrides=["endpoints.integrators.policy=standard-webhooks"]).metrics
    assert standard["lost_share"] == 0
    assert standard["delivery_latency_s_p99"] == pytest.approx(300, rel=0.05)


def test_python_example_runs() -> None:
    """The lines under 'Analyse in Python' run as they stand."""
    scope: dict[str, object] = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), scope)
    result = scope["result"]
    assert isinstance(result, sim.Result)
    assert result.metrics["lost_share"] > 0


def test_files_that_readme_names_exist() -> None:
    """Paths and counts in README are those of the project."""
    root = Path(__file__).resolve().parent.parent
    for name in re.findall(r"`((?:sim|tests|loadtest|notebooks)/[\w./]+)`", README):
        assert (root / name).exists(), name
    counted = re.search(r"lists (\d+) policies", README)
    assert counted is not None
    assert int(counted[1]) == len(list((root / "sim/presets/policies").glob("*.yaml")))


@pytest.mark.parametrize(
    "block", range(2, len(blocks("console"))), ids=lambda i: blocks("console")[i].splitlines()[0]
)
def test_later_examples_print_what_readme_shows(shop: Path, block: int) -> None:
    """Every line that is shown is printed, in that order; … stands for lines left out."""
    command, *shown = blocks("console")[block].splitlines()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from loadtest.cli import main; main()",
            *shlex.split(command.removeprefix("$ hooklab ")),
        ],
        cwd=shop.parent,
        env=os.environ | {"COLUMNS": "120", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    printed = iter(line.rstrip() for line in done.stdout.splitlines())
    for line in shown:
        assert line == "…" or line.rstrip() in printed, line


def test_russian_page_shows_the_same_example() -> None:
    """The file and its output are those of README, to the letter, and each page links to the other."""
    russian = (Path(__file__).resolve().parent.parent / "README.ru.md").read_text(encoding="utf-8")
    for block in (blocks("yaml")[0], blocks("console")[0]):
        assert block in russian
    assert "(README.md)" in russian
    assert "(README.ru.md)" in README
