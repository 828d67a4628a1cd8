"""The shape of the source: who imports whom, and what stays out of where."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import sim

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sim", "loadtest")
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAY_IMPORT_LOCUST = {Path("loadtest/locustfile.py"), Path("loadtest/shapes.py")}
MAY_IMPORT_GEVENT = MAY_IMPORT_LOCUST | {
    Path(f"loadtest/{name}.py") for name in ("generator", "part", "example_open_loop")
}
STANDARD_ONLY = ("policy", "dice")
"""Modules of ``sim`` that a dispatcher imports and must not pay for: the standard library and each other."""
NAMED_LIKE_STANDARD = {Path("sim/trace.py")}
"""The contract names it so. Only the folder of a locustfile comes first on the path, and that is loadtest."""
CLOCKS_ALLOWED = {
    Path("sim/cli.py"): "time.perf_counter",
    Path("sim/execution.py"): "time.monotonic",
    Path("sim/jit.py"): "time.time",
    Path("sim/result.py"): "time.perf_counter",
}
"""Where a clock may be read, and which: how long a command took, the time left, the age of a cache, the speed of
an engine.
No result depends on them."""
CLOCKS = {
    *(
        f"time.{name}"
        for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
    ),
    *(f"datetime.{name}" for name in ("now", "utcnow", "today")),
    *("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today", "date.today"),
}


@cache
def tree(source: Path) -> ast.Module:
    """The syntax of a source file."""
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def imports(source: Path) -> Iterator[str]:
    """Full names of all that a file imports, at its top or inside functions, for types or for real."""
    package = source.parent.parts
    for node in ast.walk(tree(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def roots(source: Path) -> set[str]:
    """The packages that a file imports from."""
    return {name.partition(".")[0] for name in imports(source)}


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of an expression that is one, else an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def test_the_sources_are_found() -> None:
    """A moved folder does not make the other tests pass for lack of files."""
    assert {Path("sim/policy.py"), Path("sim/cli.py"), Path("loadtest/cli.py")} <= set(SOURCES)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_imports_point_downwards(source: Path) -> None:
    """The simulator knows nothing of loadtest, and locust and numba stay in the files meant for them."""
    used = roots(source)
    assert "tests" not in used
    if source.parts[0] == "sim":
        assert "loadtest" not in used
    if source not in MAY_IMPORT_LOCUST:
        assert "locust" not in used
    if source not in MAY_IMPORT_GEVENT:
        assert "gevent" not in used
    if source != Path("sim/jit.py"):
        assert "numba" not in used


@pytest.mark.parametrize("module", STANDARD_ONLY)
def test_decisions_and_dice_need_only_the_standard_library(module: str) -> None:
    """What the dispatcher imports, whatever that imports in turn included, is the standard library and pure modules."""
    seen: set[Path] = set()
    pending = [Path(f"sim/{module}.py")]
    while pending:
        source = pending.pop()
        seen.add(source)
        for name in imports(source):
            parts = name.split(".")
            if parts[0] == "sim":
                home = Path("sim", f"{parts[1]}.py") if len(parts) > 1 else Path("sim/__init__.py")
                assert home in SOURCES, (source, name)
                pending += [home] if home not in seen else []
            else:
                assert parts[0] in sys.stdlib_module_names, (source, name)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_no_module_is_named_like_one_of_the_standard_library(source: Path) -> None:
    """A module called queue or random would replace Python's own where its folder comes first on the path."""
    assert source in NAMED_LIKE_STANDARD or source.stem not in sys.stdlib_module_names
    assert all(folder not in sys.stdlib_module_names for folder in source.parts[:-1])


@pytest.mark.parametrize("source", [s for s in SOURCES if s.parts[0] == "sim"], ids=str)
def test_a_simulation_reads_no_clock_and_no_shared_generator(source: Path) -> None:
    """Luck is drawn at addresses and time is simulated: the same seed gives the same run anywhere."""
    names = set(imports(source))
    assert not any(name.startswith("matplotlib.pyplot") for name in names)  # global state of another kind
    assert not {"random", "secrets", "uuid"} & {name.partition(".")[0] for name in names}
    assert not any(name.startswith("numpy.random") for name in names)
    used = {dotted(node) for node in ast.walk(tree(source)) if isinstance(node, ast.Attribute)}
    assert not any(name.startswith(("np.random", "numpy.random")) for name in used)
    clocks = (used | names) & CLOCKS
    assert clocks <= {CLOCKS_ALLOWED.get(source, "")}


@pytest.mark.parametrize("package", [s for s in SOURCES if s.name == "__init__.py"], ids=str)
def test_what_a_package_exports_is_sorted_and_true(package: Path) -> None:
    """``__all__`` is sorted, and every name in it can be imported."""
    module = importlib.import_module(".".join(package.parent.parts))
    exported = list(getattr(module, "__all__", []))
    assert exported == sorted(exported)
    assert all(hasattr(module, name) for name in exported)


def test_a_lazy_export_is_not_hidden_by_a_module_of_its_name() -> None:
    """Importing ``sim.load`` as a module would replace the function ``sim.load``, whoever imports it first."""
    assert set(sim._HOMES) == set(sim.__all__)
    for name, home in sim._HOMES.items():
        assert getattr(sim, name) is getattr(importlib.import_module(home), name)
        assert Path(f"sim/{name}.py") not in SOURCES


def test_no_folder_of_tests_shadows_a_package() -> None:
    """With tests/sim there, ``import sim`` may find the tests."""
    assert not [name for name in PACKAGES if (ROOT / "tests" / name).exists()]
