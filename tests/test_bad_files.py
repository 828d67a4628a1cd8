# ruff: noqa: E501
"""Files that are no scenario, and recordings that cannot be replayed: told by name, line and row."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from sim import workload, yamlio
from sim.blocks_world import ReplayArrivals
from sim.errors import ScenarioError
from sim.scenario import load
from tests.worlds import WORLD, world

# --------------------------------------------------------------------------- files

BAD_FILES = [
    # (name, content, what is said)
    ("empty.yaml", b"", "is empty; it must have at least horizon, producers, endpoints and receivers"),
    ("comment.yaml", b"# later\n", "is empty; it must have at least"),
    ("list.yaml", b"- a\n", "is no mapping; it must have at least"),
    ("word.yaml", b"hello", "is no mapping; it must have at least"),
    ("tab.yaml", b"producers:\n\tp: 1\n", "line 2, column 1: a tab; indent with spaces"),
    ("latin.yaml", "name: caf\xe9".encode("latin-1"), "is not UTF-8 (at byte 9); save it as UTF-8"),
    ("wide.yaml", "name: x".encode("utf-16"), "is not UTF-8 (at byte 0)"),
    ("control.yaml", b"a: 1\nname: \x07\n", "line 2: holds the character '\\x07', which a text file may not hold"),
    ("twice.yaml", b"seed: 1\nname: x\nseed: 2\n", "line 3, column 1: the key seed stands twice; remove one of them"),
    ("twice_below.yaml", b"a: {b: 1, b: 2}\n", "line 1, column 11: the key b stands twice"),
    ("open.yaml", b"a: {b: 1\n", "line 2, column 1: a comma or } is missing: the { of line 1, column 4 is still open"),
    ("colon.yaml", b"name: a: b\n", "line 1, column 8: a second colon in one line; put text with a colon in quotes"),
    ("brackets.yaml", b"a: [b, 1\nc: 2\n", "a comma or ] is missing: the [ of line 1, column 4 is still open"),
    # a key and its value in one word: the parser stumbles over the line after it
    ("word_first.yaml", b"horizon:24h\nseed: 1\n", "line 1: 'horizon:24h' has no space after the colon"),
    ("word_later.yaml", b"name: x\n# how long\nhorizon:24h\nseed: 1\n", "line 3: 'horizon:24h' has no space after the colon"),
    ("word_last.yaml", b"seed: 1\nhorizon:24h\n", "line 2: 'horizon:24h' has no space after the colon"),
    ("word_below.yaml", b"a:\n  - policy:m\n    count: 1\n", "line 2: 'policy:m' has no space after the colon"),
    ("no_colon.yaml", b"seed: 1\nhorizon\nkind: steady\n", "line 2: 'horizon' has no colon after its key"),
    # indentation
    ("more.yaml", b"e:\n  r: 1\n    p: 2\n", "line 3: 'p: 2' does not fit the lines before it; check the indentation"),
    ("less.yaml", b"e:\n    r: 1\n  p: 2\n", "line 3: 'p: 2' does not fit the lines before it; check the indentation"),
    ("top.yaml", b"  seed: 1\nhorizon: 2h\n", "line 2: 'horizon: 2h' does not fit the lines before it; check the"),
    ("item.yaml", b"s:\n    - 0s\n   - 1m\n", "line 3: '- 1m' does not fit the lines before it; check the indentation"),
    ("quote.yaml", b"name: 'a\n", "line 2, column 1: the quote of line 1, column 7 is still open"),
    ("at.yaml", b"name: @a\n", "line 1, column 7: found character '@' that cannot start any token; put text that begins"),
    ("two.yaml", b"a: 1\n---\nb: 2\n", "line 2, column 1: a second document starts; a file holds one"),
    ("tag.yaml", b"a: !!python/object:os.system x\n", "the tag !!python/object:os.system has no meaning here; remove it"),
    ("local.yaml", b"a: !env HOME\n", "line 1, column 4: the tag !env has no meaning here"),
    ("bool.yaml", b"a: !!bool x\n", "x is not of the kind bool that is written before it"),
    ("int.yaml", b"a: !!int ''\n", "'' is not of the kind int that is written before it"),
    ("map.yaml", b"a: !!map [1, 2]\n", "a mapping was announced, but something else follows"),
    ("null_key.yaml", b"~: 1\n", "a key must be a word or a number; put others in quotes"),
    ("true_key.yaml", b"true: 1\n", "a key must be a word or a number"),
    ("list_key.yaml", b"? [a]\n: 1\n", "a key must be a word or a number"),
    ("self.yaml", b"a: &a [*a]\n", "found unconstructable recursive node"),
    ("alias.yaml", b"a: *b\n", "found undefined alias 'b'"),
    ("deep.yaml", b"{a: " * 3000, "is nested too deeply"),
    ("deeper.yaml", b"{a: " * 40 + b"1" + b"}" * 40, "is nested too deeply: more than 30 levels"),
    ("digits.yaml", b"seed: " + b"9" * 5000, "has 5000 digits, too many to count with"),
    (
        "laughs.yaml",
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
        "holds more than 1000000 values",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BAD_FILES, ids=[name for name, _, _ in BAD_FILES])
def test_a_file_that_is_no_scenario_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """What is no YAML, no text or no mapping is told with the file's name, and the place where there is one."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ScenarioError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """An editor's mark at the start of a file is no mistake."""
    (tmp_path / "mine.yaml").write_text(yamlio.dump(WORLD), encoding="utf-8-sig")
    assert load(tmp_path / "mine.yaml").to_mapping() == load(WORLD | {"name": "mine"}).to_mapping()


def test_a_source_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, an unknown name and a thing that is no name are told apart."""
    (tmp_path / "folder.yaml").mkdir()
    cases: list[tuple[Any, str]] = [
        (tmp_path / "no.yaml", "there is no such file"),
        (tmp_path / "folder.yaml", "is a folder; name a file in it"),
        (tmp_path, "is a folder; name a file in it"),
        (
            "dreamkass",
            "there is no scenario dreamkass; did you mean dreamkas? (a path ends in .yaml; bundled: ",
        ),
        ("", "there is no scenario ''"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("a\0.yaml", "is not a path"),
        (None, "scenario must be a name, a path or a mapping"),
        (5, "scenario is 5; must be a name, a path or a mapping"),
        ([WORLD], "must be a name, a path or a mapping"),
    ]
    for source, said in cases:
        with pytest.raises(ScenarioError, match=re.escape(said)):
            load(source)


BAD_RECORDINGS = [
    # (file, content, what is said)
    ("missing.csv", None, "does not exist (paths start at the scenario's folder)"),
    ("empty.csv", b"", "is empty"),
    ("header.csv", b"t\n", "has no rows"),
    ("column.csv", b"a,b\n1,2\n", "has no column 't' (it has a, b)"),
    ("semicolons.csv", b"t;k\n1;a\n", "has one column, 't;k'; columns must be separated by commas"),
    ("tabs.csv", b"t\tk\n1\ta\n", "columns must be separated by commas"),
    (
        "longer.csv",
        b"k,t\n1,2,3\n1,2,3\n",
        "row 2 has 3 columns and the header 2; name them all, and put text with a",
    ),
    ("longer.csv.gz", gzip.compress(b"k,t\n1,2,3\n"), "row 2 has 3 columns and the header 2"),
    (
        "milliseconds.csv",
        b"t\n1767225600000\n",
        "row 2 has the time '1767225600000'; it must be Unix seconds or an ISO time, and this looks like milliseconds: divide the column by 1000",
    ),
    (
        "nanoseconds.csv",
        b"t\n1767225600000000000\n",
        "looks like nanoseconds: divide the column by 1000000000",
    ),
    ("unsorted.csv", b"t\n1\n3\n2\n", "row 4 is earlier than the row before it; sort the file by time"),
    ("word.csv", b"t\n1\nsoon\n", "row 3 has the time 'soon'; it must be Unix seconds or an ISO time"),
    ("blank.csv", b"t,k\n1,a\n,b\n", "row 3 has the time ''"),
    ("nan.csv", b"t\n1\nnan\n", "row 3 has the time 'nan'"),
    ("inf.csv", b"t\n1\ninf\n", "row 3 has the time 'inf'"),
    ("ancient.csv", b"t\n2026-01-01\n1000-01-01\n", "row 3 has the time '1000-01-01'"),
    ("mixed.csv", b"t\n1\n2\n2026-01-01\n", "row 4 has the time '2026-01-01'"),
    ("plain.csv.gz", b"t\n1\n", "cannot be read as CSV: Not a gzipped file"),
    ("cut.csv.gz", gzip.compress(b"t\n1\n" * 1000)[:20], "cannot be read as CSV: Compressed file ended"),
    ("quote.csv", b't\n"1\n2\n', "cannot be read as CSV: "),
    ("", b"", "must be the path of a CSV file"),
    ("a\0.csv", None, "must be the path of a CSV file"),
]


@pytest.mark.parametrize(
    ("name", "content", "said"), BAD_RECORDINGS, ids=[repr(name) for name, _, _ in BAD_RECORDINGS]
)
def test_a_bad_recording_is_refused_when_loading(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    """A file of arrivals that cannot be replayed is told by path, file and row before anything runs."""
    if content is not None and name:
        (tmp_path / name).write_bytes(content)
    mapping = world("producers/p/arrivals", {"replay": {"file": name, "time": "t"}})
    (tmp_path / "mine.yaml").write_text(yamlio.dump(mapping), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "mine.yaml")
    (problem,) = caught.value.problems
    assert problem.path == "producers.p.arrivals.replay.file"
    assert said in problem.rule


def test_a_row_with_a_comma_at_its_end_is_read_as_without(tmp_path: Path) -> None:
    """Nothing after the last comma is no column, and moves no value into another one."""
    (tmp_path / "plain.csv").write_text("t,k\n1,a,\n2,b,\n", encoding="utf-8")
    replay = {"file": str(tmp_path / "plain.csv"), "time": "t", "key": "k"}
    recorded = workload.read_arrivals(ReplayArrivals.model_validate(replay), tmp_path, "producers.p")
    assert recorded.times == (0, 10**9)
    assert recorded.keys == ("a", "b")


def test_bad_recordings_are_told_at_once(tmp_path: Path) -> None:
    """All files that a scenario names are read, and what is wrong with each is told."""
    (tmp_path / "outages.csv").write_text("a,b\n5,3\n", encoding="utf-8")
    mapping = world("producers/p/arrivals", {"replay": {"file": "no.csv", "time": "t"}})
    mapping["receivers"]["r"]["faults"] = [
        {"outage": {"replay": {"file": "outages.csv", "start": "a", "end": "b"}}},
        {"outage": {"replay": {"file": "outages.csv", "start": "a", "end": "b", "where": {"a": "7"}}}},
        {"outage": {"replay": {"file": "outages.csv", "start": "a", "end": "a", "origin": "then"}}},
    ]
    (tmp_path / "mine.yaml").write_text(yamlio.dump(mapping), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "mine.yaml")
    said = [
        (problem.path.rpartition("replay.")[2], problem.rule.split(" (")[0])
        for problem in caught.value.problems
    ]
    assert said == [
        ("file", "does not exist"),
        ("file", "row 2 ends before it starts"),
        ("where", "matches no row of outages.csv"),
        ("origin", "must be Unix seconds or an ISO time such as 2026-01-01T00:00:00Z"),
    ]
