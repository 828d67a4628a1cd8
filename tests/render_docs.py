"""Render the docstrings of ``sim`` and ``loadtest`` into a folder; fails where pdoc warns of anything.

pdoc sees only what a module holds when it is looked at. So what is imported on first use is imported before, the
names of ``NamedTuple`` fields are resolved where they stand, and Locust comes first, as it changes ``ssl``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pkgutil
import sys
import typing
import warnings
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

import locust  # noqa: F401  before pdoc, or whatever else uses ssl
import pdoc

PACKAGES = ("sim", "loadtest")
LEFT_OUT = "loadtest.locustfile"
"""It is run by Locust, never imported by anybody, and reads its command line."""


def modules() -> Iterator[ModuleType]:
    """Every module of the packages, imported."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if found.name != LEFT_OUT:
                yield importlib.import_module(found.name)


def complete(module: ModuleType) -> None:
    """Let a package that imports its names on first use hold them, and list its modules beside them."""
    names = getattr(module, "__all__", None)
    if names is None or not hasattr(module, "__path__"):
        return
    for name in names:
        setattr(module, name, getattr(module, name))
    inner = [each.name for each in pkgutil.iter_modules(module.__path__) if not each.name.startswith("_")]
    module.__all__ = [*names, *(name for name in inner if name not in names)]  # type: ignore[attr-defined]


def resolve(module: ModuleType) -> None:
    """Let the constructors of a module's named tuples and dataclasses know what the names in their annotations mean."""
    for each in list(vars(module).values()):
        if not isinstance(each, type) or each.__module__ != module.__name__:
            continue
        made = each.__new__ if hasattr(each, "_fields") else each.__init__ if is_dataclass(each) else None
        if made is not None:
            with contextlib.suppress(NameError):  # a name for type checkers only, which pdoc looks up itself
                known = typing.get_type_hints(each)
                made.__annotations__ |= {name: known[name] for name in made.__annotations__ if name in known}


def main() -> int:
    """Render; 1 if there were warnings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    found = list(modules())
    for each in found:
        complete(each)
        resolve(each)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*PACKAGES, f"!{LEFT_OUT}", output_directory=folder)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    print(f"{len(found)} modules in {folder / 'index.html'}, {len(caught)} warnings")
    return int(bool(caught))


if __name__ == "__main__":
    sys.exit(main())
