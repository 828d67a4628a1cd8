"""What several test files need: the reference data, the command, and a browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadtest.cli import main
from tests import services
from tests.browser import Browser, chromium
from tests.stores import home, homes

if TYPE_CHECKING:
    from sim.model import Model

__all__ = ["home", "homes"]  # fixtures

ROOT = Path(__file__).resolve().parent.parent
MANY = 1000
"""So many tests are more than those of a few files."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Before a run of the whole suite, each of two processes compiles a part of what both will need."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if len(session.items) > MANY and worker in ("gw0", "gw1"):
        from sim import engine_compiled, jit

        if worker == "gw0":
            engine_compiled.prepare(streaming=True)
        else:
            jit.prepare()
            engine_compiled.run(large_model())


def large_model() -> Model:
    """A model of the second class of sizes, for which the loop is compiled once more."""
    from sim import engine_compiled, model, scenario

    gaps = 4 * engine_compiled.SIZES["runs"]
    world = {
        "horizon": "1s",
        "producers": {"a": {"arrivals": {"at": ["0s"]}}},
        "endpoints": {"b": {"policy": "c", "receiver": "d"}},
        "policies": {"c": {"schedule": [f"{gap}s" for gap in range(gaps)]}},
        "receivers": {"d": {"latency": "0s"}},
    }
    return model.build(scenario.load(world))


def pytest_unconfigure() -> None:
    """Nothing is left in the services."""
    services.drop_databases()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; skipped without it, an error in CI."""
    folder = ROOT.parent / "shared"
    if not (folder / "oracles" / "open.json").is_file():
        message = "the reference data is not there: it belongs into ../shared, beside the checkout"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture
def hooklab(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: (exit code, stdout, stderr)."""

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium with an empty profile."""
    with Browser(chromium(), tmp_path_factory.mktemp("profile")) as running:
        yield running
