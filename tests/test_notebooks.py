"""The notebooks: they run, they hold no logic, and what they conclude is what they print."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from sim import notebook as helpers
from tests.run_notebooks import FOLDER, METADATA, NOTEBOOKS, execute

LONGEST_CELL = 15
"""Lines; what needs more belongs into ``sim`` or ``loadtest``."""
LOGIC = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.Try)
NUMBER = re.compile(r"\d[\d,.]*\d|\d")
NOISE = re.compile(r"/(home|root|work|tmp|Users)/|\.venv|site-packages|0x[0-9a-f]{6,}|Traceback")
"""What tells of a machine: paths, addresses of objects, tracebacks."""

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    """A notebook as it is stored."""
    return nbformat.read(path, as_version=4)


def code(notebook: Any) -> list[Any]:
    """The cells that are run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: Any) -> str:
    """All text that a notebook shows, line by line."""
    texts = []
    for output in (output for cell in code(notebook) for output in cell.outputs):
        texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def unquoted(conclusion: str, shown: str) -> set[str]:
    """Numbers of a conclusion that the notebook does not print."""
    return set(NUMBER.findall(conclusion)) - set(NUMBER.findall(shown))


def test_the_notebooks_are_found() -> None:
    """A moved folder does not make the other tests pass for lack of files."""
    assert {path.stem[:2] for path in NOTEBOOKS} >= {"01", "02", "03", "04", "05"}


@every
def test_a_notebook_runs(path: Path) -> None:
    """Every cell runs on a short horizon without an error or a warning, and every picture is drawn."""
    stored, made = code(read(path)), code(execute(path, short=True))
    for before, after in zip(stored, made, strict=True):
        outputs = [
            output for output in after.outputs if output.output_type == "stream" and output.name == "stderr"
        ]
        assert outputs == [], after.source
        pictures = [
            sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in (before, after)
        ]
        assert pictures[0] == pictures[1], after.source


@every
def test_a_conclusion_quotes_what_the_notebook_prints(path: Path) -> None:
    """One question is the title, a conclusion follows, and every number in it stands in the stored outputs."""
    notebook = read(path)
    title, _, conclusion = notebook.cells[0].source.partition("\n")
    assert re.fullmatch(r"# [A-Z][^\n]*\?", title)
    assert len(conclusion.split()) > 30
    assert NUMBER.search(conclusion)
    assert unquoted(conclusion, printed(notebook)) == set()


def test_a_number_that_is_not_printed_is_found() -> None:
    """A figure that differs in one digit does not pass."""
    assert unquoted("lost 0.44 % of 1,200", "lost: 0.44 % (of 1,200)") == set()
    assert unquoted("lost 0.4 % of 1,200", "lost: 0.44 % (of 1,201)") == {"0.4", "1,200"}


@every
def test_a_notebook_holds_no_logic(path: Path) -> None:
    """Cells are short, branch and loop nowhere, define nothing, and import from hooklab alone."""
    for cell in code(read(path)):
        assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.source
        nodes = list(ast.walk(ast.parse(cell.source)))
        assert not [node for node in nodes if isinstance(node, LOGIC)], cell.source
        for node in nodes:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name.partition(".")[0] for name in names} <= {"sim", "loadtest"}, cell.source


@every
def test_a_stored_notebook_was_run_and_tells_of_no_machine(path: Path) -> None:
    """Cells have run once from top to bottom; no path, version, time or error is in the file."""
    notebook = read(path)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert notebook.metadata == METADATA
    assert all("execution" not in cell.metadata for cell in notebook.cells)
    shown = [output for cell in code(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
    text = "\n".join(cell.source for cell in notebook.cells) + printed(notebook)
    assert not NOISE.search(text), NOISE.search(text)


# --------------------------------------------------------------------------- helpers


@pytest.mark.parametrize(("value", "expected"), [("1", "short"), ("0", "full"), ("", "full"), (None, "full")])
def test_the_environment_makes_notebooks_short(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: str
) -> None:
    """1 is short; nothing, an empty text and 0 are full."""
    monkeypatch.delenv(helpers.SHORT, raising=False)
    if value is not None:
        monkeypatch.setenv(helpers.SHORT, value)
    assert helpers.length(full="full", short="short") == expected


def test_facts_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """What is said of what, in columns."""
    helpers.facts({"lost": "1 %", "late, all": "2 %"})
    assert capsys.readouterr().out == "lost       1 %\nlate, all  2 %\n"


def test_recordings_are_beside_the_checkout(tmp_path: Path) -> None:
    """Found from any folder of the checkout; None without them, or outside of one."""
    inside = tmp_path / "checkout" / "notebooks"
    inside.mkdir(parents=True)
    assert helpers.recordings(inside) is None
    (inside.parent / "pyproject.toml").touch()
    assert helpers.recordings(inside) is None
    folder = tmp_path / "shared" / "data" / "receivers"
    folder.mkdir(parents=True)
    assert helpers.recordings(inside) == folder


def test_the_folder_has_nothing_else() -> None:
    """No checkpoints, data or pictures lie among the notebooks."""
    assert [
        path for path in FOLDER.iterdir() if path.suffix != ".ipynb" and not path.name.startswith(".")
    ] == []
