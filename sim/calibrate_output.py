"""What ``fit`` leaves behind: a YAML file and a picture, written whole or not at all.

A file is made beside its place and moved there. One that is there already is replaced only if hooklab wrote it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sim import presets, yamlio
from sim.calibrate_arrivals import rate_text
from sim.calibrate_durations import plain
from sim.errors import Problem, ScenarioError, nearest
from sim.shown import MISSING, shown_duration, shown_share

if TYPE_CHECKING:
    from sim.calibrate import FitResult

MARK = "Written by hooklab fit"
PICTURES = {".png": "Software", ".svg": "Creator"}
"""Formats of a picture, and the field of its metadata that says who made it."""
_HEAD = 4096
"""Bytes at the beginning of a file in which the mark is looked for."""


def save(result: FitResult, path: Path, policy: str | None = None) -> None:
    """Write the fitted blocks (with a policy: a scenario that runs) with the table and the warnings as comments.

    Raises:
        ScenarioError: the file must not be replaced, cannot be made, or the policy is unknown.
    """
    require_policy(policy)
    require_replaceable("out", path)
    value = result.blocks() if policy is None else result.scenario(policy)
    comments = "".join(f"# {line}".rstrip() + "\n" for line in _comments(result))
    _write(path, (comments + yamlio.dump(value)).encode())


def save_picture(result: FitResult, path: Path) -> None:
    """Write the picture of a fit, as PNG or SVG by the name of the file.

    Raises:
        ScenarioError: the file must not be replaced, cannot be made, or is to be of another format.
    """
    require_picture(path)
    from sim.calibrate_picture import picture
    from sim.plots_style import png, svg

    kind = path.suffix.lower()
    _write(path, (svg if kind == ".svg" else png)(picture(result), {PICTURES[kind]: MARK}))


def require_policy(policy: str | None) -> None:
    """Refuse a policy that is not bundled."""
    names = presets.names("policies")
    if policy is not None and policy not in names:
        rule = f"is no bundled policy{nearest(policy, names)} (hooklab policies lists them)"
        raise ScenarioError([Problem("policy", policy, rule)])


def require_picture(path: Path) -> None:
    """Refuse a picture that could not be written."""
    if path.suffix.lower() not in PICTURES:
        raise ScenarioError([Problem("picture", str(path), f"must end in {' or '.join(PICTURES)}")])
    require_replaceable("picture", path)


def require_replaceable(option: str, path: Path) -> None:
    """Refuse a file that hooklab did not write, or that cannot be made where it is. Leaves nothing behind."""
    name = f"{option} {path}"
    try:
        if path.is_dir():
            raise ScenarioError([Problem(name, None, "is a folder; name a file")])
        if path.exists():
            with path.open("rb") as file:
                if MARK.encode() not in file.read(_HEAD):
                    rule = "is there already and was not written by hooklab fit; name another file"
                    raise ScenarioError([Problem(name, None, rule)])
        if not path.resolve().parent.is_dir():
            raise ScenarioError([Problem(name, None, f"cannot be written: there is no folder {path.parent}")])
        # permission bits do not tell what root, quotas and read-only mounts allow: trying does
        tempfile.TemporaryFile(dir=path.resolve().parent).close()
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ScenarioError([Problem(name, None, f"cannot be written: {reason}")]) from None


def _write(path: Path, content: bytes) -> None:
    target = path.resolve()
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=".hooklab-", ignore_cleanup_errors=True
    ) as place:
        new = Path(place, "new")
        new.write_bytes(content)
        new.replace(target)


# --------------------------------------------------------------------------- numbers for people


def shown_value(value: float, unit: str) -> str:
    """A fitted number in the unit that suits it."""
    if value != value or value in (float("inf"), float("-inf")):
        return MISSING
    if unit == "s":
        return shown_duration(value)
    if unit == "share":
        return shown_share(value)
    if unit == "1/s":
        return rate_text(value) if value > 0 else "0/s"
    return f"{value:,.0f}" if value == int(value) and value >= 1 else plain(value, 4)


def table_rows(result: FitResult) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, interval and number of observations of each parameter, as text."""
    for name, value, low, high, unit, observations in result.table.itertuples(index=False, name=None):
        interval = f"{shown_value(low, unit)} … {shown_value(high, unit)}"
        yield name, shown_value(value, unit), interval, f"{observations:,}"


def goodness_rows(result: FitResult) -> Iterator[tuple[str, str, str, str]]:
    """What was tested, how, the statistic and its p value, as text."""
    for what, test, statistic, p_value, _ in result.goodness.itertuples(index=False, name=None):
        yield what, test, f"{statistic:.4g}", f"{p_value:.2g}"


def _comments(result: FitResult) -> Iterator[str]:
    yield f"{MARK}: parameters with 95 % intervals"
    for name, value, interval, count in table_rows(result):
        yield f"  {name}: {value} ({interval}; {count})"
    for what, test, statistic, p_value in goodness_rows(result):
        yield f"  {what}: {test}: {statistic}, p = {p_value}"
    for text in result.warnings:
        yield f"warning: {text}"
