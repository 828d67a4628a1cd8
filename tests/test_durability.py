"""What was answered 202 is delivered, whatever dies beside or below a dispatcher under load."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from loadtest.dispatcher.store import HINT_GRACE
from loadtest.dispatcher.store_postgres_sql import LEASE_S
from sim.policy import SECOND
from tests.dispatchers import Dispatcher, dispatcher, receiver, until
from tests.private_services import (
    PrivatePostgres,
    PrivateRabbit,
    Proxy,
    private_postgres,
    private_rabbit,
    proxy,
)
from tests.producers import deliveries, kept, producing

pytestmark = pytest.mark.xdist_group("private")
IN_FLIGHT = 20
STORED = b"INSERT 0 ", b"COMMIT\0"
"""What PostgreSQL says when it has stored something new."""
CHANNEL_OPEN = b"\x00\x14\x00\x0b"
"""What RabbitMQ says to a client that has come as far as to open a channel."""
PAUSES_S = {"none": 0.03, "key": 0.2}
"""Of producers: in order of its key, a producer's events are delivered one at a time."""
RETRY_AFTER = "1500ms"
"""Longer than what is kept in memory: such retries wait in the store, or for a hint."""
SCHEDULE = {"schedule": ["0s", "300ms", "300ms"], "timeout": "5s"}


@pytest.fixture(scope="module")
def postgres() -> Iterator[PrivatePostgres]:
    """A PostgreSQL that may be stopped; each test finds it empty."""
    with private_postgres() as made:
        yield made


def fails_at_first(name: str, attempt: int) -> int:
    """A receiver that refuses the first attempt of every fifth delivery."""
    return 500 if attempt == 1 and int(name.split(":")[1]) % 5 == 0 else 200


def slow(_name: str, _attempt: int) -> int:
    """A receiver that takes its time."""
    time.sleep(0.05)
    return 200


FAULTS: dict[str, Callable[[PrivatePostgres], None]] = {
    "restart": PrivatePostgres.restart,
    "kill": lambda server: (server.kill(), server.start())[1],
    "cut": PrivatePostgres.cut,
    "away": lambda server: (server.kill(), time.sleep(LEASE_S + 1), server.start())[2],
}


@pytest.mark.parametrize("fault", ["restart", "kill", "cut", pytest.param("away", marks=pytest.mark.long)])
def test_postgres_may_be_restarted_killed_and_cut_off(postgres: PrivatePostgres, fault: str) -> None:
    """Nothing is lost, and nothing comes twice: what could not be stored is stored once it can be."""
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(fails_at_first))
        served = held.enter_context(dispatcher(postgres.database()))
        served.endpoint(hook.url, id="shop:0", max_in_flight=IN_FLIGHT, policy=SCHEDULE)
        load = held.enter_context(producing(lambda: served))
        load.wait_for(100)
        FAULTS[fault](postgres)
        load.wait_for(100)
        load.end()
        assert fault == "cut" or load.told[503] > 0
        assert not kept(served, load, hook)


@pytest.mark.parametrize("ordering", ["none", pytest.param("key", marks=pytest.mark.long)])
def test_what_postgres_has_stored_and_nobody_has_heard_of_is_delivered(
    postgres: PrivatePostgres, ordering: str
) -> None:
    """Connections break between commits and their answers: under load without a pause nothing is left behind.

    The receiver is slow, so that the endpoint always has deliveries in memory and never looks idle.
    """
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(slow))
        between = held.enter_context(proxy(postgres.port, *STORED))
        served = held.enter_context(dispatcher(postgres.database(between.port)))
        served.endpoint(hook.url, id="shop:0", max_in_flight=IN_FLIGHT, policy=SCHEDULE, ordering=ordering)
        load = held.enter_context(producing(lambda: served, pause_s=PAUSES_S[ordering]))
        load.wait_for(30)
        between.lose(5)
        between.wait_until_lost()
        load.wait_for(100)  # by then what was answered 503 has been accepted the second time
        before = {f"{one}:shop:0" for one in load.accepted}
        until(lambda: before - set(hook.counts()), lambda missing: not missing)
        load.end()
        assert load.told[503] > 0
        assert not kept(served, load, hook)


@pytest.fixture(scope="module")
def rabbit() -> Iterator[PrivateRabbit]:
    """A RabbitMQ that may be stopped."""
    with private_rabbit() as made:
        yield made


BROKER_FAULTS: dict[str, Callable[[PrivateRabbit, Proxy], None]] = {
    "cut": lambda _server, between: between.cut(),
    "kill": lambda server, _between: (server.kill(), server.start())[1],
    "restart": lambda server, _between: server.restart(),
}


@pytest.mark.parametrize(
    "fault", ["kill", *(pytest.param(name, marks=pytest.mark.long) for name in ("cut", "restart"))]
)
def test_a_broker_may_be_restarted_killed_and_cut_off(
    postgres: PrivatePostgres, rabbit: PrivateRabbit, fault: str
) -> None:
    """Hints are lost with their broker, deliveries are not; when it is there again, retries come on hints again."""
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(fails_at_first))
        between = held.enter_context(proxy(rabbit.port))
        tiers = f"amqp://guest:guest@127.0.0.1:{between.port}/"
        served = held.enter_context(dispatcher(postgres.database(), "--tiers", tiers))
        policy = {"schedule": ["0s", RETRY_AFTER], "timeout": "5s"}
        served.endpoint(hook.url, id="shop:0", max_in_flight=IN_FLIGHT, policy=policy)
        load = held.enter_context(producing(lambda: served))
        load.wait_for(100)
        BROKER_FAULTS[fault](rabbit, between)
        load.wait_for(100)
        load.end()
        assert not kept(served, load, hook)
        until(lambda: hinted(served), lambda came: came)
        assert served.process.poll() is None


def test_a_broker_that_leaves_while_it_is_greeted_is_waited_for(
    postgres: PrivatePostgres, rabbit: PrivateRabbit
) -> None:
    """A connection that breaks between its beginning and the first queue is tried again."""
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(fails_at_first))
        between = held.enter_context(proxy(rabbit.port, CHANNEL_OPEN))
        between.lose(2)
        tiers = f"amqp://guest:guest@127.0.0.1:{between.port}/"
        served = held.enter_context(dispatcher(postgres.database(), "--tiers", tiers))
        served.endpoint(hook.url, id="shop:0", policy={"schedule": ["0s", RETRY_AFTER], "timeout": "5s"})
        between.wait_until_lost()
        until(lambda: hinted(served), lambda came: came)


def hinted(served: Dispatcher) -> bool:
    """Whether the retry of one more event comes before the store would have handed it out without a hint."""
    name = f"probe:{5 * time.monotonic_ns()}"
    assert served.call("POST", "/events", {"id": name, "type": "t", "key": "k", "data": 1})[0] == 202
    _, shown = until(
        lambda: served.call("GET", f"/deliveries/{name}:shop:0"), lambda answered: answered[1]["settled_at"]
    )
    retry = shown["log"][1]
    due, started = (datetime.fromisoformat(retry[f"{what}_at"]) for what in ("due", "started"))
    return (started - due).total_seconds() < HINT_GRACE / SECOND


@pytest.mark.long
def test_one_fault_after_another_loses_nothing(postgres: PrivatePostgres) -> None:
    """Whatever dies, in whatever order: only the death of the dispatcher itself makes attempts come again."""
    address = postgres.database()
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(fails_at_first))
        running = [held.enter_context(dispatcher(address))]
        running[0].endpoint(hook.url, id="shop:0", max_in_flight=IN_FLIGHT, policy=SCHEDULE)
        load = held.enter_context(producing(lambda: running[-1]))
        deaths = 0
        for fault in ("kill", "death", "cut", "restart", "death", "kill", "cut", "death", "restart"):
            load.wait_for(100)
            if fault == "death":
                deaths += 1
                running[-1].stop(signal.SIGKILL)
                running.append(held.enter_context(dispatcher(address)))
            else:
                FAULTS[fault](postgres)
        load.wait_for(100)
        load.end()
        repeated = kept(running[-1], load, hook)
        assert max(repeated.values(), default=0) <= deaths


# --------------------------------------------------------------------------- a full disk


class Disk:
    """A small disk of a test's own; only root may mount one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballast = folder / "ballast"

    def fill(self, _served: Dispatcher) -> None:
        """Leave no room on it."""
        with self.ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def free(self, _served: Dispatcher) -> None:
        """Make room again."""
        self.ballast.unlink()


class Limit(Disk):
    """A limit to how long a process's files may become: anybody may set it, and writing fails in another way."""

    def fill(self, served: Dispatcher) -> None:
        """Nothing may be written behind a file's first page."""
        pid = served.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, most))

    def free(self, served: Dispatcher) -> None:
        """Lift the limit."""
        pid = served.process.pid
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, timeout=30).returncode:
        pytest.skip("a small disk cannot be mounted: run as root, where mounting is allowed")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=30)


@pytest.fixture(params=["disk", "limit"])
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """A place where writing can be made impossible."""
    found: Disk = request.getfixturevalue("disk") if request.param == "disk" else Limit(tmp_path)
    return found


def test_a_full_disk_is_told_and_nothing_is_lost(narrow: Disk) -> None:
    """Without room events are answered 503; with room again all goes on, and nothing has come twice."""
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(fails_at_first))
        served = held.enter_context(dispatcher(f"sqlite:{narrow.folder}/hooks.db"))
        served.endpoint(hook.url, id="shop:0", max_in_flight=IN_FLIGHT, policy=SCHEDULE)
        load = held.enter_context(producing(lambda: served))
        load.wait_for(100)
        narrow.fill(served)
        until(lambda: load.told[503], lambda count: count >= 10)
        accepted = len(load.accepted)
        until(lambda: load.told[503], lambda count: count >= 20)
        assert len(load.accepted) == accepted
        assert served.call("GET", "/readyz")[0] == 503
        assert served.call("GET", "/healthz")[0] == 200
        narrow.free(served)
        load.wait_for(100)
        load.end()
        assert not kept(served, load, hook)


def test_a_dispatcher_that_dies_on_a_full_disk_repeats_only_what_it_could_not_store(disk: Disk) -> None:
    """After kill -9 and more room, what was stored is not sent again; what had no room for its result is."""
    address = f"sqlite:{disk.folder}/hooks.db"
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver())
        running = [held.enter_context(dispatcher(address))]
        running[0].endpoint(hook.url, id="shop:0", max_in_flight=IN_FLIGHT, policy=SCHEDULE)
        load = held.enter_context(producing(lambda: running[-1]))
        load.wait_for(100)
        safe = {row["id"] for row in deliveries(running[0]) if row["settled_at"]}
        disk.fill(running[0])
        until(lambda: load.told[503], lambda count: count >= 10)
        running[0].stop(signal.SIGKILL)
        disk.free(running[0])
        running.append(held.enter_context(dispatcher(address)))
        load.wait_for(100)
        load.end()
        repeated = kept(running[-1], load, hook)
        assert safe
        assert not safe & {name for name, _ in repeated}
        assert max(repeated.values(), default=1) == 1


# --------------------------------------------------------------------------- producers that go away


def test_producers_that_go_away_strand_nobody_else(tmp_path: Path) -> None:
    """Connections that end in the middle of a body, or before its answer, cost others neither events nor answers."""
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(fails_at_first))
        served = held.enter_context(dispatcher(f"sqlite:{tmp_path}/hooks.db"))
        served.endpoint(hook.url, id="shop:0", max_in_flight=IN_FLIGHT, policy=SCHEDULE)
        load = held.enter_context(producing(lambda: served))
        whole = []
        for number in range(60):
            batch = [
                {"id": f"gone:{number * 5 + place}", "type": "t", "key": "k", "data": 1} for place in range(5)
            ]
            body = json.dumps(batch).encode()
            if number % 2:
                whole.append({f"{event['id']}" for event in batch})
            go_away(served.port, body, len(body) if number % 2 else len(body) // 2)
        load.wait_for(50)
        load.end()
        for ids in whole:  # posted as a whole, with nobody left to hear of it: all of a batch or nothing
            stored = {one for one in ids if served.call("GET", f"/events/{one}")[0] == 200}
            assert stored in (set(), ids)
            load.accepted |= stored
        assert len(load.told) == 1, load.told
        assert not kept(served, load, hook)
        assert not [line for line in served.lines if "Traceback" in line]


def go_away(port: int, body: bytes, sent: int) -> None:
    """Begin to post a body, and break the connection after so many bytes of it."""
    lines = ["POST /events HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as gone:
        gone.sendall(head.encode() + body[:sent])
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
