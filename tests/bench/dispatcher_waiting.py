"""The dispatcher with a million waiting deliveries beside one with none: memory, rate and CPU, in turns.

The backlog is made through the store's own port, as the dispatcher would: events with one delivery each to the very
endpoint that is then measured, and the result of a failed first attempt for each, whose next is due in a year. It is
made once; every round works on a fresh copy. What is not shown: the burst in which a million become due at once.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dispatcher import WARM_UP, Row, loaded
from dispatcher_processes import Dispatcher, Receiver, load_per_core, memory_mb

from loadtest import clock
from loadtest.dispatcher.records import Attempt, NewDelivery, NewEvent, Result
from loadtest.dispatcher.store import StoreError
from loadtest.dispatcher.store_sqlite import SqliteStore
from sim.policy import REJECTED, SECOND, WAITING

YEAR = 365 * 24 * 3600 * SECOND
AT_ONCE = 1000
SHAPES = {"single": (1, 64), "batches of 20": (20, 16)}


class Deaf:
    """Hears what a store announces and does nothing."""

    def endpoints_changed(self) -> None:
        """Nothing."""

    def due_changed(self, endpoint: int, due: int) -> None:
        """Nothing."""

    def owned_changed(self) -> None:
        """Nothing."""

    def failed(self, error: StoreError) -> None:
        """The file cannot be made."""
        raise error


def old_event(number: int, endpoint: int, now: int) -> NewEvent:
    """An event as the dispatcher would have stored it."""
    identity = f"old:{number}"
    data = json.dumps({"n": number, "text": "x" * 200}).encode()
    digest = hashlib.sha256(identity.encode()).digest()
    delivery = NewDelivery(endpoint, now, None)
    return NewEvent(
        identity, digest, "order.changed", str(number % 97), -1, now, now, data, "", "", (delivery,)
    )


async def fill(path: Path, count: int) -> None:
    """Let ``count`` deliveries wait for their second attempt in a store that has the endpoint."""
    store = SqliteStore(path, synchronous="NORMAL")
    await store.open(Deaf())
    try:
        (endpoint,) = [one.number for one in await store.endpoints()]
        await store.register(["order.changed"])
        for first in range(0, count, AT_ONCE):
            now = clock.now()
            numbers = range(first, min(first + AT_ONCE, count))
            accepted = await store.add([old_event(number, endpoint, now) for number in numbers])
            tried = Attempt(1, 1, now, now, now, REJECTED, 503, 0, b"", "")
            await store.record(
                [
                    Result(one.deliveries[0], endpoint, 1, WAITING, 0, now + YEAR, YEAR, now, now, tried)
                    for one in accepted
                ]
            )
    finally:
        await store.close()


def made(path: Path, count: int) -> float:
    """Make a store with the endpoint and a backlog; how long that took, s."""
    started = time.monotonic()
    Dispatcher("http://127.0.0.1:9000/", f"sqlite:{path}", []).stop()
    asyncio.run(fill(path, count))
    return time.monotonic() - started


def measure(template: Path, total: int, batch: int, connections: int) -> Row:
    """One round on a copy of a store."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "hooks.db"
        shutil.copy(template, path)
        with path.open("rb") as file:
            os.fsync(
                file.fileno()
            )  # or the copy would still be written while the dispatcher waits for its disk
        receiver = Receiver()
        stack.callback(receiver.stop)
        dispatcher = Dispatcher(receiver.url, f"sqlite:{path}", [])
        stack.callback(dispatcher.stop)
        begun, _ = memory_mb(dispatcher.process.pid)
        found = loaded(dispatcher, receiver, [], total, batch, connections)
        _, highest = memory_mb(dispatcher.process.pid)
        return {**found, "ready_s": dispatcher.ready_s, "begun_mb": begun, "highest_mb": highest}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        templates = {count: Path(folder) / f"{count}.db" for count in (0, options.waiting)}
        for count, path in templates.items():
            took = made(path, count)
            print(
                f"{count:,} deliveries wait: made in {took:.0f} s, a file of {path.stat().st_size / 1e6:.0f} MB"
            )
        results: dict[str, dict[int, list[Row]]] = {
            name: {count: [] for count in templates} for name in SHAPES
        }
        for turn in range(options.rounds):
            for name, (batch, connections) in SHAPES.items():
                for count in list(templates)[:: 1 if turn % 2 else -1]:
                    one = measure(templates[count], options.events, batch, connections)
                    results[name][count].append(one)
    summary = {name: show(name, found, options.waiting) for name, found in results.items()}
    print(f"load per core in the last minute: {load_per_core():.1f}; {WARM_UP} events of warm-up each")
    if options.json:
        options.json.write_text(json.dumps({"summary": summary, "rounds": results}, indent=2))


def show(name: str, found: dict[int, list[Row]], waiting: int) -> dict[str, float]:
    """Print and return what one shape of intake has shown."""
    print(
        f"\n{name:16}{'events/s':>12}{'CPU ms/event':>14}{'ready, s':>10}{'MB at start':>13}{'MB highest':>12}"
    )
    for count, rows in found.items():
        rate, cpu, ready, begun, highest = (
            statistics.median(one[column] for one in rows)
            for column in ("rate_per_s", "working_ms", "ready_s", "begun_mb", "highest_mb")
        )
        print(f"{count:10,} wait{rate:13.0f}{cpu:14.3f}{ready:10.1f}{begun:13.0f}{highest:12.0f}")
    pairs = list(zip(found[0], found[waiting], strict=True))
    ratios = {
        column: statistics.median(full[column] / empty[column] for empty, full in pairs)
        for column in ("rate_per_s", "working_ms")
    }
    print(f"pairs of rounds: {ratios['rate_per_s']:.2f} × the rate, {ratios['working_ms']:.2f} × the CPU")
    return ratios


if __name__ == "__main__":
    main()
