"""The one thread that writes into the embedded store, and how calls of many tasks share its commits.

While a commit waits for the disk, jobs gather in the queue; the next group takes them all. Each job has a
savepoint of its own, so that a bad one fails alone. Jobs of a kind that can be done together (``TOGETHER``) share
one savepoint, and are done one by one only where that fails. Nobody hears of a result before its commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.dispatcher.store import Changes, StoreError, StoreUnavailableError
from loadtest.dispatcher.store_sqlite_ledger import Effects, Ledger
from loadtest.dispatcher.store_sqlite_schema import BrokenError, translated

Work = Callable[[Ledger, Any], Any]

LOOK_S = 0.25
"""How often it is looked whether the thread still lives: one that dies tells so itself, if it still can."""
GROUP = 1000
"""Most jobs of one commit: it bounds how long the first of them waits."""


class Job(NamedTuple):
    """One call of the store that writes."""

    work: Work
    argument: Any
    future: asyncio.Future[Any]


Outcome = tuple[Job, Any, BaseException | None]


class Writer:
    """Runs jobs in its thread; every method is called in the event loop."""

    def __init__(
        self, ledger: Ledger, path: Path, changes: Changes, together: dict[Work, Callable[..., list[Any]]]
    ) -> None:
        self.dead: StoreError | None = None
        self.totals = ledger.totals()
        self._ledger = ledger
        self._path = path
        self._changes = changes
        self._together = together
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._open: set[asyncio.Future[Any]] = set()
        """What callers wait for."""
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()
        self._guarding = self._loop.create_task(self._guard())

    async def do(self, work: Work, argument: Any) -> Any:
        """What ``work(ledger, argument)`` returns, once it is committed; what it raises, if nothing was stored."""
        if self.dead is not None:
            raise self.dead
        future = self._loop.create_future()
        self._open.add(future)
        self._queue.put(Job(work, argument, future))
        try:
            return await future
        finally:
            self._open.discard(future)

    async def close(self) -> None:
        """Finish all jobs so far and end the thread."""
        closed = StoreError("the store is closed")
        self.dead = self.dead or closed
        self._queue.put(None)
        self._guarding.cancel()
        await asyncio.to_thread(self._thread.join)
        self._fail_open()  # nothing, unless the thread has died

    def fail(self, error: StoreError) -> None:
        """Accept no more, fail what waits, and say so; in the event loop, as ``do``: nobody slips in between."""
        if isinstance(self.dead, BrokenError):
            return
        self.dead = error if isinstance(error, BrokenError) else BrokenError(str(error))
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._queue.get_nowait()
                if job is not None:
                    settle(job.future, None, self.dead)
        self._queue.put(None)  # the thread, if it lives, ends; ``close`` may have said so before
        self._changes.failed(self.dead)

    async def _guard(self) -> None:
        """Fail everybody if the thread has ended and could not say so."""
        while self._thread.is_alive():
            await asyncio.sleep(LOOK_S)
        self.fail(BrokenError("the writer ended without a word"))
        self._fail_open()

    def _fail_open(self) -> None:
        for future in self._open:
            settle(future, None, self.dead)

    # ----------------------------------------------------------------- in the thread

    def _run(self) -> None:
        jobs: list[Job] = []
        try:
            while self._take(jobs):
                self._commit(jobs)
        except BaseException as error:  # whatever it was, callers must not wait for ever
            lost = error if isinstance(error, BrokenError) else BrokenError(f"the writer ended: {error!r}")
            self._call(self._report, [(job, None, lost) for job in jobs], None)
            self._call(self.fail, lost)

    def _take(self, jobs: list[Job]) -> bool:
        """Replace ``jobs`` by the next group; False: there are none, and there will be none."""
        jobs.clear()
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            try:
                job = self._queue.get_nowait() if len(jobs) < GROUP else None
            except queue.Empty:
                return True
        if len(jobs) < GROUP:
            self._queue.put(None)  # the end has been seen; it is to be seen again, after this group
        return bool(jobs)

    def _commit(self, jobs: Sequence[Job]) -> None:
        """Do a group of jobs in one transaction and tell their callers."""
        effects = Effects()
        try:
            self._ledger.begin()
            outcomes = self._do_all(jobs, effects)
            self._ledger.keep_totals(effects)
            self._ledger.commit()
        except sqlite3.Error as error:
            self._ledger.rollback()
            meaning = translated(error, self._path)
            if not isinstance(meaning, StoreUnavailableError):
                raise meaning from error
            outcomes = [(job, None, meaning) for job in jobs]
            effects = Effects()
        self._call(self._report, outcomes, effects)

    def _do_all(self, jobs: Sequence[Job], effects: Effects) -> list[Outcome]:
        """Those jobs first that can be done together, then the others in the order of their calls."""
        alike: dict[Work, list[Job]] = defaultdict(list)
        outcomes: list[Outcome] = []
        alone: list[Job] = []
        for job in jobs:
            (alike[job.work] if job.work in self._together else alone).append(job)
        for work, some in alike.items():
            try:
                results = self._ledger.atomically(
                    self._together[work], [job.argument for job in some], effects
                )
            except Exception as error:
                self._raise_if_common(error)
                alone[:0] = some
            else:
                outcomes += [(job, result, None) for job, result in zip(some, results, strict=True)]
        outcomes += [self._do_alone(job, effects) for job in alone]
        return outcomes

    def _do_alone(self, job: Job, effects: Effects) -> Outcome:
        try:
            return job, self._ledger.atomically(job.work, job.argument, effects), None
        except sqlite3.Error as error:
            self._raise_if_common(error)
            meaning = translated(error, self._path)
            meaning.__cause__ = error
            return job, None, meaning
        except Exception as error:  # it is its caller's
            return job, None, error

    def _raise_if_common(self, error: Exception) -> None:
        """Raise what is no fault of one job: the file cannot be used, now or at all."""
        if isinstance(error, sqlite3.Error):
            meaning = translated(error, self._path)
            if isinstance(meaning, StoreUnavailableError | BrokenError):
                raise error

    def _call(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop is closed: there is nobody left to tell
            return

    # ----------------------------------------------------------------- in the event loop again

    def _report(self, outcomes: Sequence[Outcome], effects: Effects | None) -> None:
        if effects is not None:
            for place, change in effects.totals.items():
                self.totals[place] += change
        for job, result, error in outcomes:
            settle(job.future, result, error)
        if effects is None:
            return
        if effects.endpoints_changed:
            self._changes.endpoints_changed()
        for released in effects.due:
            self._changes.due_changed(released.endpoint, released.due)


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Resolve a future, unless its task has been cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # no future takes one
        future.set_exception(RuntimeError(f"a job of the store ended with {error!r}"))
    else:
        future.set_exception(error)
