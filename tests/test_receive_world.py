"""One endpoint of ``hooklab receive`` without sockets: what the simulator says, request by request."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from loadtest.receiver_log import ForgottenError, ReceiverLog
from loadtest.receiver_remembered import Remembered
from loadtest.receiver_world import EndpointWorld, Request
from sim import model, receiver
from sim.policy import SECOND
from tests import tiny

BUSY = {
    "busy": {  # queues, lost answers, errors with a latency of their own, repeats and late events
        **tiny.world(),
        "seed": 5,
        "horizon": "300s",
        "producers": {"p": {"arrivals": {"poisson": "3/s"}, "keys": {"count": 5}}},
        "policies": tiny.policy("0s", "1s", "5s", timeout="400ms"),
        "receivers": tiny.receiver(
            {"exponential": {"mean": "300ms"}},
            {"error": {"probability": 0.2, "status": 500, "latency": "20ms"}},
            {"lost_answer": {"probability": 0.1}},
            tiny.outage("60s", "70s", "pause"),
            tiny.outage("100s", "110s", {"status": 503}),
            tiny.outage("150s", "160s", "hang"),
            tiny.outage("200s", "210s", "refuse"),
            servers=2,
            backlog={"size": 6, "beyond": 429},
            dedupe={"window": "10s"},
            stale_guard=True,
        ),
    },
    "on arrival": {
        **tiny.world(),
        "seed": 6,
        "horizon": "300s",
        "producers": {"p": {"arrivals": {"poisson": "3/s"}, "keys": {"count": 5}}},
        "policies": tiny.policy("0s", "1s", "5s"),
        "receivers": tiny.receiver(
            {"lognormal": {"median": "200ms", "p99": "3s"}},
            {"error": {"probability": 0.2, "latency": {"exponential": {"mean": "1s"}}}},
            servers=1,
            answers="on_arrival",
            dedupe={"window": "1s"},
        ),
    },
}


def records_of(built: model.Model, trace: pd.DataFrame) -> pd.DataFrame:
    """What the worlds log when they are sent the attempts of a simulated run, in the order of their starts."""
    records: list[dict[str, Any]] = []
    worlds = {m.name: EndpointWorld(built, i, records.append) for i, m in enumerate(built.members)}
    for row in trace.itertuples():
        request = Request(str(row.delivery_id), int(row.attempt_number), str(row.key), int(row.seq))
        worlds[str(row.endpoint)].receive(round(row.started_s * SECOND), request)
    for world in worlds.values():
        world.finish()
    frame = pd.DataFrame(records)
    return frame.set_index(["delivery_id", "attempt_number"])


@pytest.mark.parametrize(
    ("scenario", "overrides"),
    [
        (BUSY["busy"], ()),
        (BUSY["on arrival"], ()),
        ("slow-receiver-duplicates", ("horizon=10m",)),
        ("outage-day", ("horizon=1h",)),
        ("dreamkas", ("horizon=4h",)),
    ],
    ids=["busy", "on arrival", "slow-receiver-duplicates", "outage-day", "dreamkas"],
)
def test_requests_meet_what_the_simulator_met(scenario: Any, overrides: tuple[str, ...]) -> None:
    """Processing, service, repeats, order and effects of every attempt of a run are those of the simulated one."""
    loaded = sim.load(scenario, overrides)
    result = sim.run(loaded, engine="simpy", stream=False)
    built = model.build(loaded)
    attempts = result.attempts
    found = records_of(built, attempts)
    assert found.index.is_unique
    assert len(found) == len(attempts) > 100
    expected = attempts.set_index(["delivery_id", "attempt_number"])
    found = found.loc[expected.index]
    for theirs, ours in (("processed_s", "processed_ns"), ("served_s", "served_ns")):
        seconds = found[ours].astype(float) / 1e9
        assert (expected[theirs].isna() == seconds.isna()).all()
        assert (expected[theirs].dropna() * 1e9).round().tolist() == found[ours].dropna().tolist()
    answered = expected["status"] > 0
    assert answered.any()
    assert (expected["status"][answered] == found["status"][answered]).all()

    deliveries = result.deliveries.set_index("delivery_id")
    by_delivery = found.groupby("delivery_id")
    assert (by_delivery["duplicate"].sum() == deliveries["duplicates"].loc[list(by_delivery.groups)]).all()
    assert (by_delivery["late"].any() == deliveries["late"].loc[list(by_delivery.groups)]).all()
    if loaded.warmup == 0:
        repeats = (by_delivery["effect"].sum() - 1).clip(lower=0).sum()
        per_delivery = result.metrics["effect_duplicates_per_delivery"]
        assert math.isclose(repeats / len(deliveries), per_delivery, rel_tol=1e-9)


def world_of(**more: Any) -> tuple[EndpointWorld, list[dict[str, Any]]]:
    """A world with one receiver, and the records that it emits."""
    latency, faults = more.pop("latency", "1s"), more.pop("faults", ())
    scenario = tiny.world(receivers=tiny.receiver(latency, *faults, **more))
    records: list[dict[str, Any]] = []
    return EndpointWorld(model.build(sim.load(scenario)), 0, records.append), records


def test_one_server_takes_requests_in_order() -> None:
    """Each request is served when the one before it is done."""
    world, records = world_of(servers=1)
    for i in range(3):
        world.receive(i, Request(f"p:{i}:e:0", 1))
    world.finish()
    assert [record["served_ns"] for record in records] == [0, SECOND, 2 * SECOND]
    assert [record["processed_ns"] for record in records] == [SECOND, 2 * SECOND, 3 * SECOND]


def test_a_record_comes_when_all_is_over_and_not_before() -> None:
    """A lost answer is in the log from its processing on, though nobody will ever be answered."""
    world, records = world_of(faults=[{"lost_answer": {"probability": 1}}])
    world.receive(0, Request("p:0:e:0", 1))
    world.advance(SECOND - 1)
    assert not records
    world.advance(SECOND)
    assert (records[0]["answered_ns"], records[0]["processed_ns"], records[0]["status"]) == (None, SECOND, 0)


def test_dedupe_forgets_after_its_window_and_repeats_do_not_renew_it() -> None:
    """Of processings at 0, 4, 9 and 12 s with a window of 10 s, the first and the last have an effect."""
    world, records = world_of(latency="0s", dedupe={"window": "10s"})
    for attempt, at in enumerate((0, 4, 9, 12), start=1):
        world.receive(at * SECOND, Request("p:0:e:0", attempt))
    assert [record["duplicate"] for record in records] == [False, True, True, True]
    assert [record["effect"] for record in records] == [True, False, False, True]


@given(
    steps=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40), st.booleans())),
    window=st.integers(0, 100),
)
def test_what_is_known_is_what_a_plain_book_says(steps: list[tuple[int, int, bool]], window: int) -> None:
    """Hooklab's ids on both sides of a chunk's edge, another endpoint's, and foreign ones."""
    ids = (
        [f"p:{250 + n}:e:0" for n in range(12)]
        + [f"p:{n}:e:1" for n in range(8)]
        + [f"x{n}" for n in range(11)]
    )
    known, book, now = Remembered(window), dict[str, int](), 0
    for which, later, effective in steps:
        now += later
        until = book.get(ids[which])
        assert (ids[which] in known) == (until is not None)
        assert (now < known.until(ids[which], now)) == (until is not None and now < until)
        known.add(ids[which], now, effective)
        book[ids[which]] = now + window if effective else max(-1, until if until is not None else -1)


def test_a_million_deliveries_are_known_in_a_few_megabytes() -> None:
    """A dictionary of their ids would take over a hundred; a tenth of them is measured."""
    tracemalloc.start()
    try:
        known = Remembered(0)
        for index in range(100_000):
            known.add(f"shop:{index}:one:0", index, effective=True)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 500_000, "a tenth of a million takes more than half a megabyte"
    assert "shop:99999:one:0" in known
    assert "shop:100000:one:0" not in known


@pytest.mark.parametrize("guard", [True, False])
def test_a_stale_guard_ignores_what_is_late(guard: bool) -> None:
    """An event behind a later one of its key is late; with the guard it has no effect. Other keys do not matter."""
    world, records = world_of(latency="0s", stale_guard=guard)
    for index, (key, seq) in enumerate([("p/1", 2), ("p/1", 1), ("p/2", 1), ("p/1", 3)]):
        world.receive(index, Request(f"p:{index}:e:0", 1, key, seq))
    assert [record["late"] for record in records] == [False, True, False, False]
    assert [record["stale"] for record in records] == [False, guard, False, False]
    assert [record["effect"] for record in records] == [True, not guard, True, True]


def test_the_first_outage_of_the_list_says_whether_connections_are_refused() -> None:
    """A hang before the refusing outage in the list has its way while both are on."""
    faults = [tiny.outage("20s", "30s", "hang"), tiny.outage("10s", "40s", "refuse")]
    world, _ = world_of(faults=faults)
    changes = world.changes()
    assert changes == [second * SECOND for second in (10, 20, 30, 40)]
    assert [world.refusing(at) for at in [0, *changes]] == [False, True, False, True, False]
    assert world_of()[0].changes() == []


@pytest.mark.parametrize(
    ("late", "guarded", "now", "known_until", "expected"),
    [
        (False, False, 5, -1, receiver.EFFECTIVE),  # new
        (False, False, 5, 6, receiver.REPEATED),  # still known
        (False, False, 6, 6, receiver.EFFECTIVE),  # forgotten at the very end of the window
        (True, True, 5, -1, receiver.IGNORED),  # late, and it minds
        (True, False, 5, -1, receiver.EFFECTIVE),  # late, and it does not
    ],
)
def test_effect_of_a_processing(late: bool, guarded: bool, now: int, known_until: int, expected: int) -> None:
    """The stale guard comes first, then what is known."""
    assert receiver.effect(late, guarded, now, known_until) == expected


def test_a_log_in_memory_says_when_it_has_forgotten(tmp_path: Any) -> None:
    """Readers get lines after a cursor, or are told that they come too late; the file has all."""
    path = tmp_path / "log"
    with ReceiverLog(path, most_kept=2) as log:
        for i in range(4):
            log.add({"i": i})
        assert log.after(2, 1) == b'{"n":3,"i":2}\n'
        assert log.after(4, 10) == b""
        with pytest.raises(ForgottenError, match="lines up to 2"):
            log.after(1, 10)
        assert path.read_bytes() == b""
        log.flush()
        assert len(path.read_bytes().splitlines()) == 4
        log.add({"i": 4})
    assert len(path.read_bytes().splitlines()) == 5
