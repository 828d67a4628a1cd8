"""The panel over a store with a million deliveries: how large each kind of page is, and how long the server takes.

The store is filled through its own port, as a dispatcher would: endpoints and types with skewed shares, deliveries in
every state, attempts in the log. A dispatcher is then started on it, and each page asked for again and again on one
connection. The time is from the request to the last byte of the answer, so it holds a little more than the server's.
What is above 50 ms (median) or 100 kB is marked. An empty answer counts too: a filter that nothing fits is the
hardest one.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

sys.path.insert(0, str(Path(__file__).parent))

from dispatcher_processes import SERVE, database, load_per_core
from dispatcher_waiting import YEAR, Deaf

from loadtest import clock
from loadtest.dispatcher.records import DISABLED, ENABLED, Attempt, Endpoint, NewDelivery, NewEvent, Result
from loadtest.dispatcher.store import Store
from loadtest.dispatcher.store_postgres import PostgresStore
from loadtest.dispatcher.store_sqlite import SqliteStore
from sim import policy
from sim.policy import DEAD, DROPPED, EXPIRED, REJECTED, STATE_DELIVERED, VANISHED, WAITING

MOST_MS, MOST_KB = 50.0, 100.0
AT_ONCE = 500
"""Events per call of the store."""
FAN_OUT = 4
ENDPOINTS = [f"group-of-integrators:shop-{number:03}" for number in range(200)]
BUSIEST, QUIET = ENDPOINTS[0], ENDPOINTS[-1]
"""One gets every event but those of ``ELSEWHERE``, the other only those of ``RARE``."""
DISABLED_COUNT = 60
TYPES = [f"shop.document-{number:02}.changed" for number in range(30)]
COMMON, ELSEWHERE, SETTLED, RARE = TYPES[0], TYPES[1], TYPES[2], TYPES[-1]
"""Half of all events; common, but not at the busiest endpoint; common, and always delivered; a handful."""
NEVER = "shop.nothing-yet.changed"
ANSWER = b"<html><body>the shop is closed for stocktaking</body></html>"

ENDS = {
    (STATE_DELIVERED, 0): 80,
    (WAITING, 0): 8,
    (DEAD, policy.BY_ATTEMPTS): 5,
    (EXPIRED, policy.BY_AGE): 3,
    (DROPPED, policy.BY_VERDICT): 2,
    (VANISHED, policy.BY_OBJECT): 2,
}
"""States and causes of the deliveries, by weight."""


class Page(NamedTuple):
    """One kind of page."""

    name: str
    path: str
    pause_s: float = 0.0
    """Between two requests: what is remembered for a while must be read anew."""


# --------------------------------------------------------------------------- filling the store


def an_endpoint(number: int, now: int) -> Endpoint:
    """An endpoint with a name and an address as people give them; the last ones but ``QUIET`` are disabled."""
    off = len(ENDPOINTS) - 1 - DISABLED_COUNT <= number < len(ENDPOINTS) - 1
    return Endpoint(
        id=ENDPOINTS[number],
        url=f"https://integrations.shop-{number:03}.example/webhooks/incoming/documents?account={number}",
        types=("shop.*",),
        policy='{"schedule": ["0s", "1m", "15m", "3h", "24h"], "timeout": "5s"}',
        secret="whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
        status=DISABLED if off else ENABLED,
        reason="every attempt of the last 120 h has failed; the last one with status 503" if off else "",
        created=now,
        changed=now,
    )


def chosen_type(number: int, dice: random.Random) -> str:
    """The type of an event: half are ``COMMON``, and the further ones are the rarer."""
    if number % 50_000 == 7:
        return RARE
    return TYPES[min(int(dice.expovariate(0.7)), len(TYPES) - 2)]


def chosen_ends(type_: str, dice: random.Random) -> tuple[int, int]:
    """State and cause that one delivery comes to."""
    if type_ == SETTLED:
        return STATE_DELIVERED, 0
    return dice.choices(list(ENDS), list(ENDS.values()))[0]


def an_event(number: int, endpoints: list[int], now: int, dice: random.Random) -> NewEvent:
    """An event with its deliveries, all of them waiting still."""
    type_ = chosen_type(number, dice)
    identity = f"shop-documents:{number:08}"
    places = dice.sample(range(1, len(endpoints) - 1), FAN_OUT)
    if type_ != ELSEWHERE:
        places[0] = 0
    if type_ == RARE:
        places[1] = len(endpoints) - 1
    deliveries = tuple(NewDelivery(endpoints[place], now, None) for place in places)
    data = json.dumps({"n": number, "text": "x" * 200}).encode()
    digest = hashlib.sha256(identity.encode()).digest()
    return NewEvent(
        identity, digest, type_, str(number % 997), -1, now, now, data, "", "", deliveries
    )  # fmt: skip


def what_became(event: NewEvent, numbers: tuple[int, ...], now: int, dice: random.Random) -> Iterator[Result]:
    """What the deliveries of an event have come to."""
    for number, new in zip(numbers, event.deliveries, strict=True):
        state, cause = chosen_ends(event.type, dice)
        attempt = None
        if state not in (EXPIRED, VANISHED):
            good = state == STATE_DELIVERED
            outcome, status = (policy.DELIVERED, 200) if good else (REJECTED, 503)
            attempt = Attempt(1, 1, now, now, now, outcome, status, 0, ANSWER, "")
        due = now + YEAR if state == WAITING else now
        made = int(attempt is not None)
        yield Result(number, new.endpoint, made, state, cause, due, due - now, now, now, attempt)


async def fill(store: Store, count: int) -> None:
    """Put about ``count`` deliveries into an empty store."""
    dice = random.Random(7)
    await store.open(Deaf())
    try:
        begun = clock.now()
        await store.register([*TYPES, NEVER])
        numbers = [
            (await store.put_endpoint(an_endpoint(each, begun))).number for each in range(len(ENDPOINTS))
        ]
        total = count // FAN_OUT
        for first in range(0, total, AT_ONCE):
            now = clock.now()
            events = [
                an_event(each, numbers, now, dice) for each in range(first, min(first + AT_ONCE, total))
            ]
            accepted = await store.add(events)
            results = [
                result
                for event, one in zip(events, accepted, strict=True)
                for result in what_became(event, one.deliveries, now, dice)
            ]
            await store.record(results)
    finally:
        await store.close()


# --------------------------------------------------------------------------- asking for pages


def pages(count: int) -> list[Page]:
    """All kinds of pages over ``count`` deliveries."""

    def listed(name: str, path: str = "deliveries", **filters: str | int) -> Page:
        return Page(name, f"/panel/{path}?{urlencode(filters)}")

    one = quote(f"shop-documents:{7:08}:{BUSIEST}", safe="")
    return [
        Page("overview", "/panel", 1.05),
        Page("endpoints", "/panel/endpoints"),
        Page("endpoints, found by name", "/panel/endpoints?find=shop-19"),
        Page("disabled endpoints", "/panel/endpoints?status=disabled"),
        Page("endpoint, busiest", f"/panel/endpoints/{quote(BUSIEST, safe='')}"),
        Page("endpoint, quiet", f"/panel/endpoints/{quote(QUIET, safe='')}"),
        Page("endpoint, its form", f"/panel/endpoints/{quote(BUSIEST, safe='')}/edit"),
        Page("one delivery", f"/panel/deliveries/{one}"),
        listed("deliveries"),
        listed("deliveries, half way down", after=count // 2),
        listed("deliveries, last page", after=30),
        *(listed(f"state {state}", state=state) for state in policy.STATES if state != "in_flight"),
        listed("state dead, half way down", state="dead", after=count // 2),
        listed("endpoint", endpoint=BUSIEST),
        listed("endpoint, half way down", endpoint=BUSIEST, after=count // 2),
        listed("endpoint that is not there", endpoint="nobody"),
        listed("endpoint and state", endpoint=BUSIEST, state="vanished"),
        listed("type, common", type=COMMON),
        listed("type, common, last page", type=COMMON, after=count // 1000),
        listed("type, rare", type=RARE),
        listed("type without events", type=NEVER),
        listed("type and state, common", type=COMMON, state="delivered"),
        listed("type and state, rare", type=RARE, state="delivered"),
        listed("type and state, none", type=SETTLED, state="vanished"),
        listed("type and state, none of two heaps", type=SETTLED, state="waiting"),
        listed("endpoint and type, common", endpoint=BUSIEST, type=COMMON),
        listed("endpoint and type, rare", endpoint=BUSIEST, type=RARE),
        listed("endpoint and type, none", endpoint=BUSIEST, type=ELSEWHERE),
        listed("endpoint, type and state", endpoint=BUSIEST, type=COMMON, state="dead"),
        listed("endpoint, type and state, none", endpoint=BUSIEST, type=ELSEWHERE, state="delivered"),
        listed("endpoint, type, state, half way", endpoint=BUSIEST, type=COMMON, state="dead", after=count // 2),
        listed("dead letters", "dead"),
        listed("dead letters, half way down", "dead", after=count // 2),
        listed("dead letters, last page", "dead", after=count // 1000),
        listed("dead letters, one state", "dead", state="expired"),
        listed("dead letters of an endpoint", "dead", endpoint=BUSIEST),
        listed("dead letters of a type", "dead", type=COMMON),
        listed("dead letters of a type, none", "dead", type=SETTLED),
        listed("dead letters of endpoint and type", "dead", endpoint=BUSIEST, type=ELSEWHERE),
    ]  # fmt: skip


class Visitor:
    """A dispatcher on a store, and somebody who is logged in at its panel."""

    def __init__(self, store: str) -> None:
        token = secrets.token_urlsafe(32)
        command = [*SERVE, "--listen", "127.0.0.1:0", "--store", store]
        environment = os.environ | {"HOOKLAB_TOKEN": token}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            self.port = self._port()
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            self.cookie = self._login(token)
        except BaseException:
            self.stop()
            raise

    def _port(self) -> int:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                return int(found[1])
        raise SystemExit("the dispatcher did not start")

    def _login(self, token: str) -> str:
        headers = {
            "origin": f"http://127.0.0.1:{self.port}",
            "content-type": "application/x-www-form-urlencoded",
        }
        self.connection.request("POST", "/panel/login", urlencode({"token": token}), headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.headers["set-cookie"].partition(";")[0]

    def ask(self, path: str) -> tuple[int, float]:
        """Bytes of a page, and how long it took, s."""
        started = time.perf_counter()
        self.connection.request("GET", path, headers={"cookie": self.cookie})
        answer = self.connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - started
        if answer.status != 200:
            raise SystemExit(f"{path} is answered with {answer.status}")
        return len(body), took

    def stop(self) -> None:
        """End the dispatcher."""
        self.process.terminate()
        self.process.communicate(timeout=60)


def measured(visitor: Visitor, page: Page, requests: int) -> dict[str, float]:
    """Size, median and worst time of a page; the first request is not counted."""
    size, _ = visitor.ask(page.path)
    times = []
    for _ in range(requests):
        time.sleep(page.pause_s)
        times.append(visitor.ask(page.path)[1] * 1e3)
    return {"kb": size / 1e3, "median_ms": statistics.median(times), "worst_ms": max(times)}


@contextmanager
def filled(postgres: str | None, count: int, kept: Path | None) -> Iterator[str]:
    """The address of a store with so many deliveries; with ``kept``, a file that is made once and stays."""
    with tempfile.TemporaryDirectory() as folder:
        if postgres:
            with database(postgres) as url:
                asyncio.run(fill(PostgresStore(url), count))
                yield url
            return
        path = kept or Path(folder) / "hooks.db"
        if not path.exists():
            asyncio.run(fill(SqliteStore(path, synchronous="NORMAL"), count))
        yield f"sqlite:{path}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deliveries", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=20, help="of each page")
    parser.add_argument("--postgres", metavar="URL", help="on this server instead of SQLite")
    parser.add_argument("--keep", metavar="FILE", type=Path, help="fill this SQLite file, or use it as it is")
    parser.add_argument("--only", metavar="TEXT", help="only pages whose names contain this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    with filled(options.postgres, options.deliveries, options.keep) as store:
        print(
            f"{options.deliveries:,} deliveries, ready after {time.monotonic() - started:.0f} s", flush=True
        )
        visitor = Visitor(store)
        try:
            found = {
                page.name: measured(visitor, page, options.requests)
                for page in pages(options.deliveries)
                if not options.only or options.only in page.name
            }
        finally:
            visitor.stop()
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


def show(found: dict[str, dict[str, float]]) -> None:
    """Print what each page has shown."""
    print(f"{'page':38}{'kB':>8}{'median, ms':>12}{'worst, ms':>12}")
    above = 0
    for name, row in found.items():
        marks = [
            word
            for word, wrong in (("slow", row["median_ms"] > MOST_MS), ("large", row["kb"] > MOST_KB))
            if wrong
        ]
        above += bool(marks)
        line = f"{name:38}{row['kb']:8.1f}{row['median_ms']:12.1f}{row['worst_ms']:12.1f}  {', '.join(marks)}"
        print(line.rstrip())
    print(
        f"{above} of {len(found)} above {MOST_MS:.0f} ms or {MOST_KB:.0f} kB; load per core {load_per_core():.1f}"
    )


if __name__ == "__main__":
    main()
