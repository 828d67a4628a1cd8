"""What the writer of the embedded store works on: its connection, its numbers, and what a job brings about."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from loadtest.dispatcher.records import Released
from sim.policy import WAITING

ADD_TO_TOTALS = """
INSERT INTO totals (state, tier, count) VALUES (?, ?, ?)
ON CONFLICT (state, tier) DO UPDATE SET count = count + excluded.count
"""
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class NotTogetherError(Exception):
    """Jobs that were tried together have to be done one by one."""


@dataclass
class Effects:
    """What a job, or a group of them, changes beside the file once it is committed."""

    totals: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many more deliveries there are, by state and, of those that wait, by their next attempt number (else 0)."""
    due: list[Released] = field(default_factory=list)
    """What waits from now on and is to be announced."""
    endpoints_changed: bool = False

    def move(self, old: int, state: int, attempts: int, now: int) -> None:
        """A delivery of state ``old`` after so many ``attempts`` is in another state, or has made ``now``."""
        self.totals[old, attempts + 1 if old == WAITING else 0] -= 1
        self.totals[state, now + 1 if state == WAITING else 0] += 1

    def take(self, other: Effects) -> None:
        """Add the effects of a job to those of its group."""
        for place, change in other.totals.items():
            self.totals[place] += change
        self.due += other.due
        self.endpoints_changed |= other.endpoints_changed


class Ledger:
    """A connection in one transaction at a time, and the numbers it gives out.

    Numbers that a transaction took and did not keep are lost: they rise, and are never given twice.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.effects = Effects()
        """Of the job that runs."""
        self.event = self._last("events", "number")
        self.delivery = self._last("deliveries", "number")
        self.cursor = self._last("log", "cursor")
        streams = "SELECT DISTINCT endpoint FROM deliveries WHERE settled IS NULL AND stream IS NOT NULL"
        self.ordered = {endpoint for (endpoint,) in self.execute(streams)}
        """Endpoints that may hold deliveries; too many of them cost time, too few would strand some."""
        self.removed = {
            number for (number,) in self.execute("SELECT number FROM endpoints WHERE removed = 1")
        }
        """Endpoints that may have been removed; too many of them cost time."""

    def _last(self, table: str, column: str) -> int:
        """The highest number that was ever given, those included that were pruned."""
        (last,) = self.execute(
            f"SELECT max(coalesce((SELECT max({column}) FROM {table}), 0),"
            " coalesce((SELECT value FROM counters WHERE name = ?), 0))",
            (table,),
        ).fetchone()
        return int(last)

    def keep_numbers(self) -> None:
        """Remember the highest numbers in the file, because their rows may be deleted now."""
        self.executemany(
            "INSERT OR REPLACE INTO counters (name, value) VALUES (?, ?)",
            [("events", self.event), ("deliveries", self.delivery), ("log", self.cursor)],
        )

    def totals(self) -> Counter[tuple[int, int]]:
        """How many deliveries there are, as ``Effects.totals`` has changed it since there were none."""
        rows = self.execute("SELECT state, tier, count FROM totals")
        return Counter({(state, tier): count for state, tier, count in rows})

    def keep_totals(self, effects: Effects) -> None:
        """Write what a group has changed of the totals, with the group."""
        rows = [(*place, change) for place, change in effects.totals.items() if change]
        self.executemany(ADD_TO_TOTALS, rows)

    def is_removed(self, endpoint: int) -> bool:
        """Whether nobody would send for this endpoint; a removal that was undone is still in ``removed``."""
        if endpoint not in self.removed:
            return False
        query = "SELECT 1 FROM endpoints WHERE number = ? AND removed = 1"
        return bool(self.execute(query, (endpoint,)).fetchall())

    def begin(self) -> None:
        """Begin the transaction of a group."""
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Return when the group is on the disk."""
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the group, unless SQLite has done so itself."""
        if self.connection.in_transaction:
            self.execute("ROLLBACK")

    def atomically(
        self, work: Callable[[Ledger, Argument], Result], argument: Argument, effects: Effects
    ) -> Result:
        """Do a job in a savepoint; if it raises, nothing of it is left, and ``effects`` are as before."""
        self.effects = Effects()
        self.execute("SAVEPOINT job")
        try:
            result = work(self, argument)
        except BaseException:
            if self.connection.in_transaction:
                self.execute("ROLLBACK TO job")
                self.execute("RELEASE job")
            raise
        self.execute("RELEASE job")
        effects.take(self.effects)
        return result
