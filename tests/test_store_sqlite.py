"""The embedded store beyond the port: its file, its one process, its disk, and the death of either."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from loadtest.dispatcher import store_sqlite_due as waiting
from loadtest.dispatcher import store_sqlite_queries as queries
from loadtest.dispatcher.records import Filter, NewDelivery
from loadtest.dispatcher.store import StoreError, StoreUnavailableError
from loadtest.dispatcher.store_sqlite import SqliteStore
from loadtest.dispatcher.store_sqlite_ledger import Ledger
from loadtest.dispatcher.store_sqlite_schema import APPLICATION, FIRST, MIGRATIONS, BrokenError
from loadtest.dispatcher.store_sqlite_writer import Writer
from sim.policy import DEAD, FOREVER, STATE_DELIVERED, WAITING
from tests.dispatchers import PATIENCE_S, Dispatcher
from tests.stores import START, Heard, Home, delivered, endpoint, event, failed, one

PART_OF_A_LIFE = """
import asyncio, itertools, sys
from loadtest.dispatcher.store_sqlite import SqliteStore
from tests.stores import Heard, NewDelivery, START, delivered, endpoint, event

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open(Heard())
    to = (await store.put_endpoint(endpoint())).number
    numbers = itertools.count()
    async def produce():
        for number in numbers:
            (answer,) = await store.add([event(f"e{number}", NewDelivery(to, START, None))])
            print("added", number, flush=True)
            if number % 2:
                await store.record([delivered(answer.deliveries[0], to)])
                print("delivered", number, flush=True)
    await asyncio.gather(*(produce() for _ in range(50)))

asyncio.run(main())
"""


def home_of(path: Path, synchronous: str = "FULL") -> Home:
    """A home in this file."""
    return Home("sqlite", lambda: SqliteStore(path, synchronous=synchronous))


def refused(path: Path) -> str:
    """What is said where this file cannot be opened; it can be tried again afterwards, by the same words."""

    async def main() -> str:
        store = SqliteStore(path)
        with pytest.raises(StoreError) as caught:
            await store.open(Heard())
        return str(caught.value)

    said = asyncio.run(main())
    assert asyncio.run(main()) == said
    return said


# --------------------------------------------------------------------------- the file


@pytest.mark.parametrize("content", [b"This is a letter, and a long one." * 100, b"x"], ids=["long", "short"])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """Its content is left as it was."""
    path = tmp_path / "letter.txt"
    path.write_bytes(content)
    assert "is no SQLite database" in refused(path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """Tables are not put beside those of others."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    assert "another program" in refused(path)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """A version that this program does not know is named."""
    path = tmp_path / "new.db"
    home_of(path).run(lambda store, _heard: store.check())
    newer = len(MIGRATIONS) + 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
        connection.execute(f"PRAGMA user_version = {newer}")
    assert f"version {newer}" in refused(path)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """The message tells which file could not be made."""
    assert str(tmp_path / "none") in refused(tmp_path / "none" / "store.db")


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(ValueError, match="synchronous is 'OFF'; it must be one of FULL, NORMAL"):
        SqliteStore(tmp_path / "store.db", synchronous="OFF")


def test_less_durable_commits_work_as_well(tmp_path: Path) -> None:
    """With NORMAL, everything is there after an orderly end."""
    home = home_of(tmp_path / "normal.db", "NORMAL")
    home.run(lambda store, _heard: one(store, "e"))
    assert home.run(lambda store, _heard: store.event("e")) is not None


def test_a_damaged_file_ends_the_store_rather_than_accept_more(tmp_path: Path) -> None:
    """Whoever waits gets an error, the dispatcher is told once, and later calls are refused at once."""
    path = tmp_path / "store.db"
    home = home_of(path)

    async def fill(store: SqliteStore, _heard: Heard) -> None:
        await store.add([event(f"e{number}", data=b"x" * 2000) for number in range(500)])

    home.run(fill)
    with closing(sqlite3.connect(path)) as connection:
        # The index of ids: it is read where an event comes in, and not where the file is opened.
        query = "SELECT pageno FROM dbstat WHERE name = 'sqlite_autoindex_events_1'"
        pages = [page for (page,) in connection.execute(query)]
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * 4096)
            file.write(b"\x5a" * 4096)

    async def use(store: SqliteStore, heard: Heard) -> None:
        ended = await asyncio.gather(*(one(store, f"e{n}x") for n in range(100)), return_exceptions=True)
        assert any(isinstance(error, StoreError) and "damaged" in str(error) for error in ended)
        assert all(isinstance(error, StoreError) for error in ended)
        with pytest.raises(StoreError, match="damaged"):
            await store.check()
        with pytest.raises(StoreError, match="damaged"):
            await store.types()
        assert len(heard.errors) == 1

    home.run(use)


def test_a_file_that_is_damaged_all_over_is_refused(tmp_path: Path) -> None:
    """It is told apart from one that never was a database."""
    path = tmp_path / "store.db"
    home_of(path).run(lambda store, _heard: one(store, "e"))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x5a" * (path.stat().st_size - 4096))
    assert "is damaged" in refused(path)


# --------------------------------------------------------------------------- processes and threads


def test_a_second_process_is_refused_and_may_take_over(tmp_path: Path) -> None:
    """While one has the file, another is told so; after the first is gone, however it went, it may open it."""
    path = tmp_path / "store.db"
    with running(path) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        assert "used by another process" in refused(path)
    home_of(path).run(lambda store, _heard: store.check())


class running:  # noqa: N801  reads as a verb
    """A process that adds and delivers until it is killed."""

    def __init__(self, path: Path) -> None:
        root = Path(__file__).resolve().parent.parent
        self.child = subprocess.Popen(
            [sys.executable, "-c", PART_OF_A_LIFE, str(path)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self.child

    def __exit__(self, *_error: object) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(timeout=30)
        assert self.child.stdout is not None
        self.child.stdout.close()


def test_all_that_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """A process killed in mid-write leaves every event it had accepted and every delivery it had recorded."""
    path = tmp_path / "store.db"
    with running(path) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(1500)]
        child.kill()
        lines += child.stdout.readlines()
    told = [line.split() for line in lines if line.endswith("\n")]
    assert len(told) >= 1500

    async def after(store: SqliteStore, _heard: Heard) -> None:
        for what, number in told:
            shown = await store.delivery(f"e{number}:shop")
            assert shown is not None, (what, number)
            if what == "delivered":
                assert shown.state == STATE_DELIVERED
                assert len(shown.log) == 1
        waiting_ = (await store.backlog()).get(1, 0)
        rows, _ = await store.due(1, FOREVER, 10**6, set())
        assert len(rows) == waiting_

    home_of(path).run(after)


def test_a_dead_writer_fails_everyone_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw ends the store: no caller waits for ever, before or after."""

    async def use(store: SqliteStore, heard: Heard) -> None:
        await one(store, "before")

        def broken(_ledger: Ledger) -> None:
            raise MemoryError("out of luck")

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "commit", broken)
            ended = await asyncio.wait_for(
                asyncio.gather(*(one(store, f"e{n}") for n in range(2500)), return_exceptions=True), 30
            )
        assert all(isinstance(error, StoreError) and "out of luck" in str(error) for error in ended)
        with pytest.raises(StoreError, match="out of luck"):
            await store.add([event("late")])
        assert len(heard.errors) == 1

    home = home_of(tmp_path / "store.db")
    home.run(use)

    async def after(store: SqliteStore, _heard: Heard) -> None:
        assert await store.event("before") is not None
        assert await store.event("e0") is None

    home.run(after)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("stage", ["commit", "report", "start"])
def test_a_writer_that_dies_without_a_word_strands_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Whenever its thread ends, and even where it cannot tell: who waits and who comes hears that it is over."""

    def die(*_arguments: object) -> None:
        raise SystemExit

    async def use(store: SqliteStore, heard: Heard) -> None:
        await one(store, "before")
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "_call", die)
            if stage == "commit":
                patch.setattr(Ledger, "commit", die)
            if stage == "start":
                patch.setattr(Writer, "_commit", die)
            calls = (one(store, f"e{n}") for n in range(2500))
            ended = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
        assert {type(error) for error in ended} == {BrokenError}
        with pytest.raises(StoreError, match="without a word"):
            await store.add([event("late")])
        with pytest.raises(StoreError, match="without a word"):
            await store.types()
        assert len(heard.errors) == 1

    home = home_of(tmp_path / "store.db")
    home.run(use)
    assert home.run(lambda store, _heard: store.event("before")) is not None


def test_any_error_of_a_job_reaches_its_caller_alone(tmp_path: Path) -> None:
    """Even one that no future takes fails its own caller; the others of its group get their results."""

    def exhausted(_ledger: Ledger, _argument: None) -> None:
        next(iter(()))

    async def use(store: SqliteStore, heard: Heard) -> None:
        calls = [one(store, "e"), store._write(exhausted, None), one(store, "f")]
        first, failed_, last = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
        assert isinstance(failed_, RuntimeError)
        assert not isinstance(first, BaseException)
        assert not isinstance(last, BaseException)
        assert heard.errors == []

    home_of(tmp_path / "store.db").run(use)


DYING = """
import sys
from loadtest.dispatcher.store_sqlite_writer import Writer
from loadtest.cli import main

commit = Writer._commit

def die(*_arguments):
    raise SystemExit

def dying(self, jobs):
    if any(job.work.__name__ == "add" for job in jobs):
        self._call = die
        raise SystemExit
    commit(self, jobs)

Writer._commit = dying
sys.exit(main())
"""


def test_a_process_whose_writer_died_refuses_and_ends(tmp_path: Path) -> None:
    """The event that met the death is answered with an error, and the process ends by itself, and says why."""
    served = Dispatcher(f"sqlite:{tmp_path / 'store.db'}", command=[sys.executable, "-c", DYING]).ready()
    try:
        status, _ = served.call("POST", "/events", {"type": "t", "key": "k", "data": 1})
        assert status == 503
        code = served.process.wait(PATIENCE_S)
    finally:
        served.stop(signal.SIGKILL)
    assert code not in (0, -signal.SIGKILL)
    assert any("the writer ended without a word" in line for line in served.lines)


def test_a_value_that_cannot_be_stored_fails_its_caller_alone(tmp_path: Path) -> None:
    """Of calls at once, one with an impossible value raises; the others are stored, and the store goes on."""

    async def use(store: SqliteStore, heard: Heard) -> None:
        calls = [one(store, f"e{n}", seq=2**70 if n == 7 else n) for n in range(20)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [n for n, error in enumerate(ended) if isinstance(error, Exception)] == [7]
        assert [await store.event(f"e{n}") is not None for n in range(20)] == [n != 7 for n in range(20)]
        assert heard.errors == []

    home_of(tmp_path / "store.db").run(use)


# --------------------------------------------------------------------------- the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; skipped where none can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system can be mounted: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=30)


def test_a_full_disk_refuses_and_loses_nothing(small_disk: Path) -> None:
    """While there is no room calls say so; what was acknowledged stays, and with room all works again."""
    path = small_disk / "store.db"
    home = home_of(path)
    ballast = small_disk / "ballast"
    acknowledged: list[str] = []

    async def use(store: SqliteStore, heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number

        async def fill(name: str) -> None:
            await one(store, name, NewDelivery(to, START, None), data=b"x" * 3000)
            acknowledged.append(name)

        await fill("first")
        ballast.write_bytes(b"x" * 800_000)
        refusals: list[BaseException] = []
        for turn in range(40):
            calls = (fill(f"{turn}-{number}") for number in range(20))
            ended = await asyncio.gather(*calls, return_exceptions=True)
            refusals += [error for error in ended if isinstance(error, BaseException)]
        assert refusals
        assert all(isinstance(error, StoreUnavailableError) for error in refusals)
        with pytest.raises(StoreUnavailableError):
            await store.add([event("big", data=b"x" * 1_500_000)])
        assert await store.backlog() == {1: len(acknowledged)}
        ballast.unlink()
        await store.check()
        await fill("last")
        assert heard.errors == []

    home.run(use)

    async def after(store: SqliteStore, _heard: Heard) -> None:
        assert await store.backlog() == {1: len(acknowledged)}
        for name in acknowledged:
            assert await store.event(name) is not None

    home.run(after)


def test_a_locked_file_is_unavailable_for_that_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program holds the file calls are refused; afterwards they work."""
    monkeypatch.setattr("loadtest.dispatcher.store_sqlite_schema.BUSY_SECONDS", 0.05)
    path = tmp_path / "store.db"

    async def use(store: SqliteStore, _heard: Heard) -> None:
        await store.check()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailableError, match="locked"):
                await one(store, "e")
            with pytest.raises(StoreUnavailableError, match="locked"):
                await store.check()
            other.execute("ROLLBACK")
        await one(store, "e")

    home_of(path).run(use)


# --------------------------------------------------------------------------- the plans


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a store with settled and waiting deliveries."""
    path = tmp_path / "store.db"

    async def fill(store: SqliteStore, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        answers = await store.add([event(f"e{n}", NewDelivery(to, START + n, None)) for n in range(100)])
        await store.record([delivered(answer.deliveries[0], to) for answer in answers[:50]])

    home_of(path).run(fill)
    with closing(sqlite3.connect(path)) as connection:
        yield connection


@pytest.mark.parametrize(
    ("query", "values", "plan"),
    [
        # What is due lies in its index in the order in which it is wanted.
        (waiting.READY, (1,), ["SEARCH deliveries USING COVERING INDEX deliveries_ready"]),
        (waiting.TIER, (1, 0), ["SEARCH deliveries USING INDEX deliveries_tier"]),
        # One look-up for each endpoint.
        (waiting.NEXT, (), ["SCAN endpoints", "SEARCH deliveries USING COVERING INDEX deliveries_ready"]),
        (waiting.ONE, (1,), ["SEARCH d USING INTEGER PRIMARY KEY", "SEARCH e USING INTEGER PRIMARY KEY"]),
        (queries.TRACE, (0, 9), ["SEARCH l USING INTEGER PRIMARY KEY", "SEARCH d USING INTEGER PRIMARY KEY"]),
    ],
    ids=["due", "tier", "next_due", "one", "trace"],
)
def test_what_is_asked_often_walks_an_index(
    filled: sqlite3.Connection, query: str, values: tuple[int, ...], plan: list[str]
) -> None:
    """No scan of the deliveries, no sorting: the time does not grow with what waits or has been."""
    steps = [row[3] for row in filled.execute(f"EXPLAIN QUERY PLAN {query}", values)]
    for step in plan:
        assert any(found.startswith(step) for found in steps), steps
    assert not any("TEMP B-TREE" in step or step.startswith(("SCAN d", "SCAN l")) for step in steps), steps


LISTS = [
    Filter(),
    Filter(states=(WAITING,)),
    Filter(states=(STATE_DELIVERED, DEAD)),
    Filter(endpoint="shop"),
    Filter(states=(WAITING,), endpoint="shop"),
    Filter(type="order.paid"),
    Filter(type="order.paid", states=(WAITING,)),
    Filter(type="order.paid", endpoint="shop"),
    Filter(type="order.paid", states=(WAITING,), endpoint="shop"),
]


@pytest.mark.parametrize("chosen", LISTS, ids=str)
def test_a_list_reads_what_it_shows(filled: sqlite3.Connection, chosen: Filter) -> None:
    """Whatever is listed is found from new to old along an index: nothing is sorted, and no backlog passed over."""
    found = list(queries.walks(filled, chosen))
    assert found
    for query, values in found:
        steps = [row[3] for row in filled.execute(f"EXPLAIN QUERY PLAN {query}", (*values, FOREVER, 9))]
        assert not any("TEMP B-TREE" in step for step in steps), steps
        assert steps[0].startswith("SEARCH d USING "), steps
        columns = ["endpoint=?"] * bool(chosen.endpoint) + ["type=?"] * bool(chosen.type)
        columns += ["state=?"] * bool(chosen.states or columns)
        assert steps[0].endswith(f"({' AND '.join([*columns, 'rowid<?'])})"), steps


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """What it holds is counted once, and is listed, settled and counted on as if it had been new."""
    path = tmp_path / "old.db"

    async def fill(store: SqliteStore, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        answers = await store.add([event(f"e{n}", NewDelivery(to, START + n, None)) for n in range(9)])
        numbers = [answer.deliveries[0] for answer in answers]
        await store.record([delivered(numbers[0], to), failed(numbers[1], to, due=START)])

    async def use(store: SqliteStore, _heard: Heard) -> None:
        assert await store.totals() == {WAITING: 8, STATE_DELIVERED: 1}
        assert await store.backlog() == {1: 7, 2: 1}
        assert len(await store.deliveries(Filter(states=(WAITING,), endpoint="shop"))) == 8
        (kind,) = {each.type for each in await store.deliveries(Filter())}
        assert len(await store.deliveries(Filter(states=(WAITING,), type=kind))) == 8
        assert len(await store.deliveries(Filter(endpoint="shop", type=kind))) == 9
        await one(store, "new", NewDelivery(1, START, None))
        assert await store.totals() == {WAITING: 9, STATE_DELIVERED: 1}

    home = home_of(path)
    home.run(fill)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        tables = ["counters", "types", "endpoints", "masks", "events", "deliveries", "log", "objects"]
        rows = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        for table in [*tables, "totals"]:
            connection.execute(f"DROP TABLE {table}")
        connection.executescript(FIRST)
        for table, content in rows.items():
            width = len(connection.execute(f"PRAGMA table_info({table})").fetchall())
            insert = f"INSERT INTO {table} VALUES ({', '.join('?' * width)})"
            connection.executemany(insert, [row[:width] for row in content])
        connection.execute("PRAGMA user_version = 1")
    home.run(use)
    home.run(lambda store, _heard: store.check())
