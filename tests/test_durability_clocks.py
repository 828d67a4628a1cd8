"""What must hold of real processes whose clock is set, whose lease runs out, and whose limits are low."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from loadtest.clock import ANCHOR, ANCHOR_VARIABLE
from sim.policy import SECOND
from tests import dispatchers
from tests.dispatchers import Dispatcher, dispatcher, receiver, until
from tests.producers import deliveries, trace
from tests.services import postgres_database

HOUR = 3600 * SECOND
LOOKS_S = 1.5
"""For how long nothing may happen that a gap of 300 ms would have led to."""


def post(served: Dispatcher, producer: str, count: int = 5) -> list[str]:
    """Post some events; the names of their deliveries."""
    events = [{"id": f"{producer}:{n}", "type": "t", "key": "k", "data": 1} for n in range(count)]
    assert served.call("POST", "/events", events)[0] == 202
    return [f"{event['id']}:shop:0" for event in events]


def states(served: Dispatcher) -> dict[str, str]:
    """Every delivery's state."""
    return {row["id"]: row["state"] for row in deliveries(served)}


# --------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("shift", [-HOUR, HOUR], ids=["behind", "ahead"])
def test_a_restart_with_another_time_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    """Due times are points in time: a clock ahead brings them at once, one behind lets them wait for as long.

    What is new is delivered at once by either clock, and with the right time what has waited is, too: each once.
    """
    address = f"sqlite:{tmp_path}/hooks.db"
    with contextlib.ExitStack() as held:
        hook = held.enter_context(
            receiver(lambda name, attempt: 500 if name[0] == "a" and attempt == 1 else 200)
        )
        with dispatcher(address) as first:
            first.endpoint(hook.url, id="shop:0", policy={"schedule": ["0s", "3s"], "timeout": "5s"})
            old = post(first, "a")
            until(lambda: [row["attempts"] for row in deliveries(first)], lambda made: made == [1] * 5)
            assert first.stop() == 0
            assert set(hook.counts().values()) == {1}
        monkeypatch.setenv(ANCHOR_VARIABLE, str(ANCHOR + shift))
        with dispatcher(address) as second:
            new = post(second, "b")
            expected = dict.fromkeys(new, "delivered") | dict.fromkeys(
                old, "waiting" if shift < 0 else "delivered"
            )
            until(lambda: states(second), lambda seen: seen == expected)
            assert second.stop() == 0
        monkeypatch.setenv(ANCHOR_VARIABLE, str(ANCHOR))
        with dispatcher(address) as third:
            until(lambda: states(third), lambda seen: seen == dict.fromkeys(old + new, "delivered"))
        assert sorted(hook.requests) == sorted(
            [(name, attempt) for name in old for attempt in (1, 2)] + [(name, 1) for name in new]
        )


SET = """
import signal, sys, time
shift = 0
def change(*_):
    global shift
    shift = {shift}
def shifted(real):
    return lambda: real() + shift
def shifted_s(real):
    return lambda: real() + shift / 1e9
time.time_ns, time.time = shifted(time.time_ns), shifted_s(time.time)
signal.signal(signal.SIGUSR1, change)
from loadtest.cli import main
sys.exit(main())
"""
"""The command, whose wall clock is set by so many ns on a signal."""


@pytest.mark.parametrize(
    "shift", [pytest.param(-HOUR, id="back"), pytest.param(HOUR, id="forward", marks=pytest.mark.long)]
)
def test_setting_the_clock_changes_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    """A gap of a second lasts a second, whatever somebody does to the wall clock in between."""
    monkeypatch.setattr(dispatchers, "COMMAND", [dispatchers.COMMAND[0], "-c", SET.format(shift=shift)])
    came: dict[tuple[str, int], float] = {}

    def answer(name: str, attempt: int) -> int:
        came[name, attempt] = time.monotonic()
        return 500 if attempt == 1 else 200

    with receiver(answer) as hook, dispatcher(f"sqlite:{tmp_path}/hooks.db") as served:
        served.endpoint(hook.url, id="shop:0", policy={"schedule": ["0s", "1s"], "timeout": "5s"})
        before = post(served, "a")
        until(hook.counts, lambda counts: len(counts) == len(before))
        served.process.send_signal(signal.SIGUSR1)
        after = post(served, "b")
        served.settled(len(before + after))
    assert set(came) == {(name, attempt) for name in before + after for attempt in (1, 2)}
    assert min(came[name, 2] - came[name, 1] for name in before + after) >= 1


# --------------------------------------------------------------------------- leases


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("answered", ["after", pytest.param("before", marks=pytest.mark.long)])
def test_a_process_that_lost_its_lease_leaves_the_retry_to_its_heir(answered: str) -> None:
    """One that slept beyond its lease with an attempt in flight stores what that brought, and tries no more.

    The attempt is made by both, as must be: nobody can know whether the sleeper's came through. Its answer comes after
    the sleeper has woken and found its lease gone, or before, so that it finds both at once.
    """
    answer = threading.Event()
    with contextlib.ExitStack() as held:
        hook = held.enter_context(receiver(lambda *_: held_back(answer, len(hook.requests))))
        held.callback(answer.set)
        address = held.enter_context(postgres_database())
        sleeper = held.enter_context(dispatcher(address))
        sleeper.endpoint(
            hook.url, id="shop:0", policy={"schedule": ["0s", "300ms", "300ms", "300ms"], "timeout": "60s"}
        )
        (name,) = post(sleeper, "a", 1)
        until(lambda: list(hook.requests), lambda came: came == [(name, 1)])
        heir = held.enter_context(dispatcher(address))
        sleeper.process.send_signal(signal.SIGSTOP)
        until(lambda: states(heir), lambda seen: seen == {name: "delivered"})
        assert hook.requests == [(name, 1), (name, 1), (name, 2)]
        steps = [lambda: sleeper.process.send_signal(signal.SIGCONT), answer.set]
        for step in steps if answered == "after" else reversed(steps):
            step()
            time.sleep(LOOKS_S)
        until(
            lambda: [row["attempt_number"] for row in trace(heir) if row["kind"] == "attempt"],
            lambda made: made == [1, 2, 1],
        )
        time.sleep(LOOKS_S)
        assert len(hook.requests) == 3
        assert states(heir) == {name: "delivered"}


def held_back(answer: threading.Event, number: int) -> int:
    """The first request is answered late, and it and the next are refused."""
    if number == 1:
        answer.wait(60)
    return 500 if number < 3 else 200


# --------------------------------------------------------------------------- limits


def test_serve_may_open_as_many_files_as_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises the limit it is started with to the most that it may have."""
    low = ["sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh"]
    monkeypatch.setattr(dispatchers, "COMMAND", [*low, *dispatchers.COMMAND])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with dispatcher(f"sqlite:{tmp_path}/hooks.db") as served:
        assert resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE) == (most, most)
