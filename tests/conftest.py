"""What several test files need: the reference data, the command, and a browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtest.cli import main
from tests.browser import Browser, chromium
from tests.stores import home, homes

__all__ = ["home", "homes"]  # fixtures

ROOT = Path(__file__).resolve().parent.parent


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
