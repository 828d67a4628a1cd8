"""What every store of the dispatcher keeps and promises, whatever its kind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.dispatcher.records import Filter, NewDelivery, Released
from loadtest.dispatcher.store import HINT_GRACE, ConflictError, Store, StoreError
from sim.policy import (
    BY_DISABLING,
    BY_VERDICT,
    DEAD,
    DROPPED,
    EXPIRED,
    FOREVER,
    SECOND,
    STATE_DELIVERED,
    WAITING,
)
from tests.stores import START, Heard, Home, delivered, endpoint, event, eventually, failed, one, traced

# --------------------------------------------------------------------------- types and endpoints


def test_masks_follow_types_and_patterns(home: Home) -> None:
    """Types get positions in order; endpoints subscribe by pattern, to types that come later too, past 63 and 126."""

    async def body(store: Store, heard: Heard) -> None:
        names = [f"kind{number}" for number in range(130)]
        assert await store.register(names[:3]) == names[:3]
        all_ = await store.put_endpoint(endpoint("all"))
        some = await store.put_endpoint(endpoint("some", "kind1*", "KIND2", "kind[5]"))
        all_types = [*names[:3], "KIND2", *names[::-1][:127]]  # an endpoint that names a type makes it known
        assert await store.register([*names[::-1][:127], "kind0"]) == all_types
        assert await store.types() == all_types
        for name in names:
            wanted = (
                [all_.number, some.number] if name.startswith("kind1") or name == "kind5" else [all_.number]
            )
            assert await store.subscribers(name) == wanted, name
        assert await store.subscribers("unknown") is None
        await store.put_endpoint(replace(some, types=("kind2",)))
        assert await store.subscribers("kind1") == [all_.number]
        assert await store.subscribers("kind2") == [all_.number, some.number]
        await eventually(lambda: heard.endpoints >= 1)

    home.run(body)


def test_a_new_type_changes_nothing_that_is_known(home: Home) -> None:
    """Nobody is told of it: who gets events of other types stays as it is, and so do the endpoints."""

    async def body(store: Store, heard: Heard) -> None:
        every = await store.put_endpoint(endpoint("every"))
        await asyncio.sleep(0)  # a store that tells of what its own process did tells it by now
        told, generation = heard.endpoints, await store.generation()
        await store.register(["x", "y"])
        await store.register(["x", "z"])
        assert [await store.subscribers(name) for name in "xyz"] == [[every.number]] * 3
        assert (heard.endpoints, await store.generation()) == (told, generation)

    home.run(body)


def test_endpoints_are_stored_replaced_and_removed(home: Home) -> None:
    """An endpoint comes back as it was put; ids are unique while they are used; health changes alone."""

    async def body(store: Store, _heard: Heard) -> None:
        a = await store.put_endpoint(
            endpoint("a", "x", "y.*", rate_limit=2.5, hook_fields=True, ordering="key")
        )
        b = await store.put_endpoint(endpoint("b", health="old"))
        assert 0 < a.number < b.number
        assert await store.endpoints() == [a, b]
        with pytest.raises(ConflictError, match="'a'"):
            await store.put_endpoint(endpoint("a"))
        with pytest.raises(ConflictError, match="'a'"):
            await store.put_endpoint(replace(b, id="a"))
        changed = await store.put_endpoint(replace(a, id="c", url="", status="paused"))
        await store.save_health({b.number: '{"n": 1}'})
        assert await store.endpoints() == [changed, replace(b, health='{"n": 1}')]
        await store.register(["x"])
        (number,) = await one(store, "e", NewDelivery(b.number, START, None))
        await store.cancel(number, DROPPED, BY_DISABLING, START)
        await store.remove_endpoint(b.number)
        assert await store.endpoints() == [changed]
        assert await store.subscribers("x") == [changed.number]
        assert [row.endpoint for row in await store.deliveries(Filter(endpoint="b"))] == ["b"]
        again = await store.put_endpoint(endpoint("b"))
        assert again.number > b.number
        with pytest.raises(StoreError):
            await store.put_endpoint(replace(b, url="http://127.0.0.1/other"))

    home.run(body)


# --------------------------------------------------------------------------- intake


def test_data_of_an_object_are_stored_with_their_event_and_only_if_it_is_new(home: Home) -> None:
    """The object's new version comes with the event; a repeat or a conflict leaves it as it is, deleted too."""

    async def body(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint("a"))).number
        named = {"object_type": "order", "object_id": "7"}
        new = event("e", NewDelivery(to, START, None), data=b"1", **named)
        await store.add([new])
        assert await store.object("order", "7") == b"1"
        ((waiting,), _) = await store.due(to, START, 9, set())
        assert (waiting.data, waiting.object_type, waiting.object_id) == (b"", "order", "7")
        with pytest.raises(ConflictError):
            await store.add([event("f", data=b"2", **named), new._replace(digest=b"other", data=b"3")])
        assert await store.object("order", "7") == b"1"
        assert await store.delete_object("order", "7")
        assert not (await store.add([new]))[0].fresh
        assert await store.object("order", "7") is None

    home.run(body)


def test_an_event_is_shown_as_it_was_stored(home: Home) -> None:
    """Every field of an event and of its deliveries comes back."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b:c")]
        new = event("e:1", NewDelivery(a, START + 5, None), NewDelivery(b, START, None), object_type="order")
        (accepted,) = await store.add([new])
        assert accepted.held == (False, False)
        shown = await store.event("e:1")
        assert shown is not None
        assert [getattr(shown, name) for name in ("id", "type", "key", "seq", "occurred", "created", "data")] == [
            new.id, new.type, new.key, new.seq, new.occurred, new.created, new.data
        ]  # fmt: skip
        assert (shown.number, shown.object_type, shown.object_id) == (accepted.number, "order", "")
        assert shown.deliveries == ("e:1:a", "e:1:b:c")
        delivery = await store.delivery("e:1:b:c")
        assert delivery is not None
        assert (delivery.number, delivery.endpoint, delivery.event_id) == (
            accepted.deliveries[1],
            "b:c",
            "e:1",
        )
        assert (delivery.state, delivery.attempts, delivery.due) == (WAITING, 0, START)
        assert (delivery.delivered, delivery.settled, delivery.held, delivery.log) == (-1, -1, False, ())
        ((waiting,), _) = await store.due(a, START + 5, 9, set())
        assert (waiting.number, waiting.gap, waiting.born, waiting.released) == (
            accepted.deliveries[0],
            0,
            START,
            0,
        )
        assert (waiting.event_id, waiting.data, waiting.object_type) == ("e:1", new.data, "order")
        assert await store.event("none") is None
        assert await store.delivery("e:1") is None
        assert await store.delivery("none") is None

    home.run(body)


def test_a_repeated_event_changes_nothing_and_a_changed_one_is_refused(home: Home) -> None:
    """The same id with the same digest is no news; with another digest nothing of the call is stored."""

    async def body(store: Store, _heard: Heard) -> None:
        number = (await store.put_endpoint(endpoint())).number
        new = event("e", NewDelivery(number, START, None))
        (first,) = await store.add([new])
        other = event("f", NewDelivery(number, START, None))
        again, fresh = await store.add([new, other])
        assert (again.number, again.fresh, again.deliveries, again.held) == (first.number, False, (), ())
        assert fresh.fresh
        with pytest.raises(ConflictError, match="'e'"):
            await store.add([event("g"), event("e", digest=b"other")])
        with pytest.raises(ConflictError, match="'h'"):
            await store.add([event("h"), event("h")])
        assert await store.event("g") is None
        assert await store.event("h") is None
        assert await store.backlog() == {1: 2}
        assert await store.add([]) == []

    home.run(body)


def test_callers_at_once_fail_alone(home: Home) -> None:
    """Of hundreds of calls at once, those in conflict are refused and all others stored, each as a whole."""

    async def body(store: Store, _heard: Heard) -> None:
        number = (await store.put_endpoint(endpoint())).number
        await one(store, "taken")

        async def call(index: int) -> bool:
            batch = [event(f"{index}-{part}", NewDelivery(number, START, None)) for part in range(3)]
            if index % 7 == 0:
                batch.append(event("taken", digest=b"other"))
            try:
                answers = await store.add(batch)
            except ConflictError:
                return False
            assert all(answer.fresh for answer in answers)
            return True

        stored = await asyncio.gather(*(call(index) for index in range(300)))
        assert stored == [index % 7 != 0 for index in range(300)]
        assert await store.backlog() == {1: 3 * sum(stored)}
        for index in (0, 1, 7, 299):
            there = [await store.event(f"{index}-{part}") is not None for part in range(3)]
            assert there == [index % 7 != 0] * 3
        same = await asyncio.gather(*(store.add([event("same")]) for _ in range(50)))
        assert sum(answer.fresh for (answer,) in same) == 1
        assert len({answer.number for (answer,) in same}) == 1

    home.run(body)


def test_more_deliveries_of_an_event_leave_those_that_exist_alone(home: Home) -> None:
    """Only endpoints that have no delivery of the event get one."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b")]
        (first,) = await one(store, "e", NewDelivery(a, START, None))
        new = [NewDelivery(a, START + 9, None), NewDelivery(b, START + 9, None)]
        (second,) = await store.add_deliveries("e", new, START + 8)
        assert second > first
        assert await store.add_deliveries("e", new, START + 8) == []
        shown = await store.delivery("e:b")
        assert shown is not None
        assert (shown.number, shown.created, shown.due) == (second, START + 8, START + 9)
        kept = await store.delivery("e:a")
        assert kept is not None
        assert kept.due == START
        with pytest.raises(StoreError, match="'none'"):
            await store.add_deliveries("none", new, START)

    home.run(body)


def test_a_delivery_may_be_over_before_it_begins(home: Home) -> None:
    """One that comes with a final state never waits, and its settlement is told once."""

    async def body(store: Store, _heard: Heard) -> None:
        number = (await store.put_endpoint(endpoint())).number
        await one(store, "e", NewDelivery(number, START, "s", DROPPED, BY_DISABLING))
        (accepted,) = await store.add([event("f", NewDelivery(number, START, "s"))])
        assert accepted.held == (False,)
        (told,) = await traced(store, 1)
        assert (told.delivery.id, told.delivery.state, told.delivery.cause) == (
            "e:shop",
            DROPPED,
            BY_DISABLING,
        )
        assert (told.delivery.settled, told.attempt) == (START, None)
        assert await store.backlog() == {1: 1}

    home.run(body)


@pytest.mark.parametrize("stream", [None, "s"], ids=["no order", "ordered"])
def test_nothing_waits_for_an_endpoint_that_is_gone(home: Home, stream: str | None) -> None:
    """What was looked up before an endpoint was removed, and is stored after, is dropped at once and told so."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b")]
        await one(store, "kept", NewDelivery(b, START, None))
        await store.remove_endpoint(a)
        late = [NewDelivery(a, START, stream), NewDelivery(b, START, stream)]
        first, second = await store.add([event("e", *late), event("f", *late)])
        assert first.held == (True, False)
        assert second.held == (True, stream is not None)
        await store.add_deliveries("kept", late, START)
        assert await store.backlog() == {1: 3}
        assert await store.totals() == {WAITING: 3, DROPPED: 3}
        assert list(await store.next_due()) == [b]
        told = await traced(store, 3)
        assert {(row.delivery.endpoint, row.delivery.state, row.delivery.cause) for row in told} == {
            ("a", DROPPED, BY_DISABLING)
        }
        assert [row.delivery.held for row in told] == [False] * 3
        assert await store.resend([first.deliveries[0]], START) == []

    home.run(body)


# --------------------------------------------------------------------------- what is due


def test_what_is_due_comes_in_order_and_tells_what_follows(home: Home) -> None:
    """Order is (due, number); room, until and the loaded numbers limit it; other endpoints are not in it."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b, c = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b", "c")]
        numbers = []
        for index, due in enumerate([5, 3, 9, 3, 7]):
            numbers += await one(store, f"e{index}", NewDelivery(a, START + due, None))
        await one(store, "other", NewDelivery(b, START + 1, None))
        second, fourth, first, fifth, third = numbers[1], numbers[3], numbers[0], numbers[4], numbers[2]

        async def due(until: int, room: int, loaded: set[int]) -> tuple[list[int], int]:
            rows, following = await store.due(a, START + until, room, loaded)
            if rows:
                await store.release(a, set())
            return [row.number for row in rows], following

        assert await due(8, 9, set()) == ([second, fourth, first, fifth], START + 9)
        assert await due(8, 2, set()) == ([second, fourth], START + 5)
        assert await due(8, 1, {second}) == ([fourth], START + 5)
        assert await due(5, 9, {fourth}) == ([second, first], START + 7)
        assert await due(2, 9, set()) == ([], START + 3)
        assert await due(99, 9, {third}) == ([second, fourth, first, fifth], FOREVER)
        assert await due(99, 9, set(numbers)) == ([], FOREVER)
        assert await store.due(c, FOREVER, 9, set()) == ([], FOREVER)
        assert await store.next_due() == {a: START + 3, b: START + 1}

    home.run(body)


def test_a_tier_is_first_come_first(home: Home) -> None:
    """A tier holds what waits for one attempt number, due or not, by the time at which it came."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b, c = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b", "c")]
        numbers = []
        for index, to in enumerate((a, b, a, c, b)):
            numbers += await one(store, f"e{index}", NewDelivery(to, START, None), created=START + index)
        later = START + 100 * SECOND
        await store.record([failed(numbers[2], a, due=later, at=START + 20)])
        await store.record([failed(numbers[1], b, due=later + 9, at=START + 10)])

        async def tier(attempts: int, room: int, loaded: set[int]) -> list[int]:
            rows = await store.tier(attempts, [b, a], room, loaded)
            for to in (a, b):
                await store.release(to, set())
            return [row.number for row in rows]

        assert await tier(0, 9, set()) == [numbers[0], numbers[4]]
        assert await tier(1, 9, set()) == [numbers[1], numbers[2]]
        assert await tier(1, 1, {numbers[1]}) == [numbers[2]]
        assert await tier(2, 9, set()) == []

    home.run(body)


def test_a_hinted_delivery_waits_for_its_hint_or_the_grace(home: Home) -> None:
    """It is due on the first hint for its attempt number; without one, ``HINT_GRACE`` later."""

    async def body(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        (number,) = await one(store, "e", NewDelivery(to, START, None))
        assert await store.hint(number, 0) is None  # it was not hinted
        due = START + 10 * SECOND
        await store.record([failed(number, to, due=due, hinted=True)])
        assert await store.next_due() == {to: due + HINT_GRACE}
        assert await store.due(to, due, 9, set()) == ([], due + HINT_GRACE)
        assert await store.hint(number, 0) is None  # an old one
        assert await store.hint(number, 1) == to
        assert await store.hint(number, 1) is None  # a second one
        assert await store.hint(number + 1000, 1) is None
        ((waiting,), following) = await store.due(to, due, 9, set())
        assert (waiting.number, waiting.due, waiting.attempts, waiting.gap) == (number, due, 1, 7)
        assert following == FOREVER
        await store.record([failed(number, to, 2, due=due + SECOND, hinted=True)])
        ((late,), _) = await store.due(to, due + SECOND + HINT_GRACE, 9, set())
        assert late.due == due + SECOND

    home.run(body)


# --------------------------------------------------------------------------- results


def test_results_are_logged_and_settle(home: Home) -> None:
    """A delivery goes through its attempts, and its log, its times and the backlog tell so."""

    async def body(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        (number,) = await one(store, "e", NewDelivery(to, START, None))
        first = failed(number, to, 1, due=START + 9 * SECOND)
        assert await store.record([first]) == []
        assert await store.backlog() == {2: 1}
        last = delivered(number, to, 2, at=START + 9 * SECOND)
        assert await store.record([last]) == []
        shown = await store.delivery("e:shop")
        assert shown is not None
        assert shown.log == (first.attempt, last.attempt)
        assert (shown.state, shown.attempts) == (STATE_DELIVERED, 2)
        assert (shown.delivered, shown.settled) == (last.at, last.at)
        assert await store.backlog() == {}
        assert await store.next_due() == {}
        assert await store.due(to, FOREVER, 9, set()) == ([], FOREVER)

    home.run(body)


def test_what_was_settled_meanwhile_keeps_its_state(home: Home) -> None:
    """A result for a cancelled delivery is logged and told, and changes nothing else; others of its call count."""

    async def body(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        (number,) = await one(store, "e", NewDelivery(to, START, None))
        (other,) = await one(store, "f", NewDelivery(to, START, None))
        assert await store.cancel(number, DROPPED, BY_VERDICT, START + 1)
        assert not await store.cancel(number, DEAD, BY_VERDICT, START + 2)
        assert not await store.cancel(number + 1000, DEAD, BY_VERDICT, START + 2)
        await store.record([delivered(number, to), delivered(other, to)])
        await store.record([failed(number, to, 2, due=START)])
        assert await store.next_due() == {}
        shown = await store.delivery("e:shop")
        assert shown is not None
        assert (shown.state, shown.cause, shown.settled, shown.delivered) == (
            DROPPED,
            BY_VERDICT,
            START + 1,
            -1,
        )
        assert (shown.attempts, len(shown.log)) == (2, 2)
        kept = await store.delivery("f:shop")
        assert kept is not None
        assert kept.state == STATE_DELIVERED
        told = [(row.delivery.id, row.attempt is not None) for row in await traced(store, 4)]
        assert told == [("e:shop", False), ("e:shop", True), ("f:shop", True), ("e:shop", True)]
        assert await store.backlog() == {}

    home.run(body)


def test_a_resent_delivery_goes_on_counting(home: Home) -> None:
    """Settled deliveries wait again with their attempts; those that wait already are left alone."""

    async def body(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        (number,) = await one(store, "e", NewDelivery(to, START, None))
        (other,) = await one(store, "f", NewDelivery(to, START, None))
        await store.record([delivered(number, to)])
        later = START + 50 * SECOND
        assert await store.resend([number, other, number + 1000], later) == [Released(to, later)]
        shown = await store.delivery("e:shop")
        assert shown is not None
        assert (shown.state, shown.attempts, shown.due, shown.settled) == (WAITING, 1, later, -1)
        rows, _ = await store.due(to, later, 9, {other})
        assert [(row.number, row.attempts, row.born) for row in rows] == [(number, 1, later)]
        assert await store.backlog() == {1: 1, 2: 1}
        await store.record([delivered(number, to, 2)])
        shown = await store.delivery("e:shop")
        assert shown is not None
        assert [row.attempt_number for row in shown.log] == [1, 2]
        told = await traced(store, 3)
        assert [row.attempt and row.attempt.attempt_number for row in told] == [1, None, 2]
        assert [row.resent for row in told] == [-1, later, -1]

    home.run(body)


def test_all_that_waits_for_an_endpoint_is_settled_but_for_what_is_in_flight(home: Home) -> None:
    """Held ones too, in any number; other endpoints and flights are untouched."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b")]
        new = [
            event(f"e{index}", NewDelivery(a, START, "s" if index % 3 else None), NewDelivery(b, START, None))
            for index in range(1300)
        ]
        accepted = await store.add(new)
        flying = accepted[0].deliveries[0]
        assert await store.settle_waiting(a, DROPPED, BY_DISABLING, START + 5, {flying}) == 1299
        assert await store.settle_waiting(a, DROPPED, BY_DISABLING, START + 5, {flying}) == 0
        rows, _ = await store.due(a, FOREVER, 9, set())
        assert [row.number for row in rows] == [flying]
        assert await store.backlog() == {1: 1301}
        told = await traced(store, 1299)
        assert {(row.delivery.endpoint, row.delivery.state, row.attempt) for row in told} == {
            ("a", DROPPED, None)
        }
        assert len(told) == 1299
        (fresh,) = await store.add([event("new", NewDelivery(a, START, "s"))])
        assert fresh.held == (False,)

    home.run(body)


class Crash(BaseException):
    """Ends a call where a process would have died."""


def test_what_works_in_parts_goes_on_after_a_crash_between_two(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is whole or not at all: what is left waits, heads of streams first, is counted, and is settled next."""
    monkeypatch.setattr("loadtest.dispatcher.store_postgres._AT_ONCE", 3)
    monkeypatch.setattr("loadtest.dispatcher.store_sqlite.PART", 3)

    async def crash_after_two(store: Store, call: Coroutine[Any, Any, int]) -> None:
        write, calls = store._write, iter(range(2))  # type: ignore[attr-defined]

        async def dying(*arguments: Any) -> Any:
            if next(calls, None) is None:
                raise Crash
            return await write(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(store, "_write", dying)
            with pytest.raises(Crash):
                await call

    async def before(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        await store.add([event(f"e{n}", NewDelivery(to, START, "s" if n % 2 else None)) for n in range(20)])
        await crash_after_two(store, store.settle_waiting(to, DROPPED, BY_DISABLING, START, set()))

    async def after(store: Store, _heard: Heard) -> None:
        (shop,) = await store.endpoints()
        await eventually(lambda: store.owns(shop.number), 60)
        assert await store.totals() == {WAITING: 14, DROPPED: 6}
        waiting = await store.deliveries(Filter(states=(WAITING,)))
        ordered = [row for row in waiting if int(row.event_id[1:]) % 2]
        assert [row.number for row in ordered if not row.held] == [min(row.number for row in ordered)]
        assert list(await store.next_due()) == [shop.number]
        assert await store.settle_waiting(shop.number, DROPPED, BY_DISABLING, START, set()) == 14
        assert len(await traced(store, 20)) == 20
        assert await store.prune(START + 1, 6) == 6

    async def at_last(store: Store, _heard: Heard) -> None:
        assert await store.totals() == {DROPPED: 14}
        assert len(await store.deliveries(Filter())) == 14
        left = [await store.event(f"e{n}") for n in range(20)]
        assert sum(each is not None for each in left) == 14
        assert await store.prune(START + 1, 99) == 14
        assert await store.totals() == {}
        assert [await store.event(f"e{n}") for n in range(20)] == [None] * 20

    home.run(before)
    home.run(after)
    home.run(at_last)


def test_what_waits_for_a_removed_endpoint_is_found(home: Home) -> None:
    """Held deliveries and such that are not due count; endpoints that are used, or empty, do not."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b, c, d = [(await store.put_endpoint(endpoint(id_))).number for id_ in "abcd"]
        await one(
            store, "e", NewDelivery(a, START, "s"), NewDelivery(b, START, None), NewDelivery(d, START, None)
        )
        await one(store, "f", NewDelivery(a, FOREVER, "s"))
        for number in (a, c, d):
            await store.remove_endpoint(number)
        await store.settle_waiting(d, DROPPED, BY_DISABLING, START, set())
        assert await store.orphans() == [a]
        assert await store.settle_waiting(a, DROPPED, BY_DISABLING, START, set()) == 2
        assert await store.orphans() == []

    home.run(body)


# --------------------------------------------------------------------------- order


def test_streams_hold_and_release_exactly_the_next_one(home: Home) -> None:
    """Within an endpoint and a stream one delivery at a time may be started, in order of number."""

    async def body(store: Store, heard: Heard) -> None:
        a, b = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b")]
        batch = [
            event(f"e{index}", NewDelivery(a, START + index, "k"), NewDelivery(b, START, "k"))
            for index in range(4)
        ]
        accepted = await store.add(batch)
        assert [answer.held for answer in accepted] == [(False, False)] + [(True, True)] * 3
        (other,) = await store.add([event("x", NewDelivery(a, START, ""))])
        assert other.held == (False,)
        first, second, third, fourth = [answer.deliveries[0] for answer in accepted]
        rows, _ = await store.due(a, FOREVER, 9, set())
        assert [row.number for row in rows] == [first, other.deliveries[0]]
        assert await store.record([failed(first, a, due=START + 99)]) == []
        assert await store.record([delivered(first, a, 2)]) == [Released(a, START + 1)]
        shown = await store.delivery("e1:a")
        assert shown is not None
        assert not shown.held
        rows, _ = await store.due(a, FOREVER, 9, {other.deliveries[0], first})
        assert [(row.number, row.released) for row in rows] == [(second, 1)]
        assert await store.cancel(third, DROPPED, BY_VERDICT, START)  # a held one: nothing is released
        assert heard.due == []
        assert await store.cancel(second, DROPPED, BY_VERDICT, START)
        await eventually(lambda: Released(a, START + 3) in heard.due)
        # Resent, the first one waits behind the fourth.
        assert await store.resend([first, second], START + 500) == []
        assert await store.record([delivered(fourth, a)]) == [Released(a, START + 500)]
        again, second_again = await store.delivery("e0:a"), await store.delivery("e1:a")
        assert again is not None
        assert second_again is not None
        assert (again.held, second_again.held) == (False, True)

    home.run(body)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "deliver", "fail", "cancel", "resend"]), st.integers(0, 30), st.integers(0, 2)
    ),
    max_size=40,
)


@pytest.mark.parametrize("count", [25, pytest.param(100, marks=pytest.mark.long)])
def test_one_delivery_of_a_stream_may_be_started(homes: Callable[[], Home], count: int) -> None:
    """Whatever is added, recorded, cancelled and resent: of a stream that waits, exactly one is not held."""

    @settings(max_examples=count, deadline=None)
    @given(steps=STEPS)
    def whatever_is_done(steps: list[tuple[str, int, int]]) -> None:
        async def body(store: Store, _heard: Heard) -> None:
            to = (await store.put_endpoint(endpoint())).number
            streams: dict[int, int] = {}
            for step, pick, stream in steps:
                if step == "add":
                    new = event(f"e{len(streams)}", NewDelivery(to, START, f"s{stream}"))
                    (answer,) = await store.add([new])
                    streams[answer.deliveries[0]] = stream
                elif streams:
                    await take(store, to, step, pick, list(streams)[pick % len(streams)])
                await check_streams(store, streams, in_order=all(step[0] != "resend" for step in steps))

        home = homes()
        home.run(body)
        home.leave()

    whatever_is_done()


async def take(store: Store, to: int, step: str, pick: int, number: int) -> None:
    """Cancel or resend a delivery, or end an attempt of one that may be started."""
    if step == "cancel":
        await store.cancel(number, DROPPED, BY_VERDICT, START)
    elif step == "resend":
        await store.resend([number], START)
    else:
        rows, _ = await store.due(to, FOREVER, 99, set())
        await store.release(to, set())
        if rows:
            row = rows[pick % len(rows)]
            attempts = row.attempts + 1
            ended = failed(row.number, to, attempts, due=START)
            await store.record([delivered(row.number, to, attempts) if step == "deliver" else ended])


async def check_totals(store: Store) -> None:
    """What the store keeps of how many there are is what there is."""
    rows = await store.deliveries(Filter(limit=999))
    assert await store.totals() == Counter(row.state for row in rows)
    assert await store.backlog() == Counter(row.attempts + 1 for row in rows if row.state == WAITING)


async def check_streams(store: Store, streams: dict[int, int], in_order: bool) -> None:
    """Of each stream that waits, exactly one is not held: the first, where none was resent."""
    await check_totals(store)
    waiting = await store.deliveries(Filter(states=(WAITING,), limit=999))
    assert sum((await store.backlog()).values()) == len(waiting)
    for stream in set(streams.values()):
        of_stream = [row for row in waiting if streams[row.number] == stream]
        free = [row.number for row in of_stream if not row.held]
        assert len(free) == bool(of_stream), (stream, of_stream)
        if free and in_order:
            assert free[0] == min(row.number for row in of_stream)


# --------------------------------------------------------------------------- what is shown


def test_lists_filter_and_page_from_new_to_old(home: Home) -> None:
    """State, endpoint and type filter, alone and together; ``after`` goes on below a number."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b")]
        numbers = []
        for index in range(6):
            to, kind = (a, "odd") if index % 2 else (b, "even")
            numbers += await one(store, f"e{index}", NewDelivery(to, START, "s"), type=kind)
        await store.record([delivered(numbers[0], b)])
        await store.cancel(numbers[1], DEAD, BY_VERDICT, START)
        await store.cancel(numbers[2], EXPIRED, BY_VERDICT, START)

        async def listed(**fields: object) -> list[int]:
            return [numbers.index(row.number) for row in await store.deliveries(Filter(**fields))]  # type: ignore[arg-type]

        assert await listed() == [5, 4, 3, 2, 1, 0]
        assert await listed(limit=2) == [5, 4]
        assert await listed(limit=2, after=numbers[4]) == [3, 2]
        assert await listed(states=(WAITING,)) == [5, 4, 3]
        assert await listed(states=(WAITING,), endpoint="a") == [5, 3]
        assert await listed(states=(DEAD, EXPIRED)) == [2, 1]
        assert await listed(states=(DEAD, EXPIRED, STATE_DELIVERED), endpoint="b") == [2, 0]
        assert await listed(type="odd") == [5, 3, 1]
        assert await listed(type="odd", limit=1, after=numbers[3]) == [1]
        assert await listed(type="odd", states=(WAITING,)) == [5, 3]
        assert await listed(type="even", states=(EXPIRED, STATE_DELIVERED)) == [2, 0]
        assert await listed(type="odd", endpoint="b") == []
        assert await listed(type="odd", endpoint="a", states=(DEAD,)) == [1]
        assert await listed(type="even", endpoint="b", after=numbers[4]) == [2, 0]
        assert await listed(type="none") == []
        assert await store.add_deliveries("e0", [NewDelivery(a, START, None)], START)
        assert [row.event_id for row in await store.deliveries(Filter(type="even", endpoint="a"))] == ["e0"]
        assert await listed(endpoint="none") == []
        polled = await store.poll(b, numbers[0], 1)
        assert [row.number for row in polled] == [numbers[2]]
        assert [row.number for row in await store.poll(b, 0, 9)] == [numbers[0], numbers[2], numbers[4]]

    home.run(body)


def test_events_are_found_by_their_time(home: Home) -> None:
    """From ``since``, before ``until``, in order of number, page by page."""

    async def body(store: Store, _heard: Heard) -> None:
        for index, second in enumerate([1, 2, 4, 3, 5]):
            await one(store, f"e{index}", created=START + second)
        found = await store.events_between(START + 2, START + 5, 0, 9)
        assert [row.id for row in found] == ["e1", "e2", "e3"]
        rest = await store.events_between(START + 2, START + 5, found[0].number, 1)
        assert [row.id for row in rest] == ["e2"]

    home.run(body)


def test_the_trace_skips_nothing(home: Home) -> None:
    """Attempts and settlements come in stored order however it is paged, while many write."""

    async def body(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        accepted = await store.add([event(f"e{index}", NewDelivery(to, START, None)) for index in range(200)])
        seen: list[tuple[int, str, int]] = []
        done = asyncio.Event()

        async def reader() -> None:
            after = 0
            while True:
                last = done.is_set()
                rows = await store.trace(after, 7)
                for row in rows:
                    seen.append(
                        (row.cursor, row.delivery.id, row.attempt.attempt_number if row.attempt else 0)
                    )
                if rows:
                    after = rows[-1].cursor
                elif last and len(seen) >= 360:  # what open transactions hold back comes yet
                    return

        async def writer(index: int, number: int) -> None:
            if index % 5 == 0:
                await store.cancel(number, DROPPED, BY_VERDICT, START)
                return
            await store.record([failed(number, to, due=START)])
            await store.record([delivered(number, to, 2)])

        reading = asyncio.create_task(reader())
        await asyncio.gather(*(writer(index, answer.deliveries[0]) for index, answer in enumerate(accepted)))
        done.set()
        await reading
        assert [row[0] for row in seen] == sorted({row[0] for row in seen})
        wanted = [(f"e{i}:shop", n) for i in range(200) for n in ((0,) if i % 5 == 0 else (1, 2))]
        assert sorted((id_, number) for _, id_, number in seen) == sorted(wanted)

    home.run(body)


# --------------------------------------------------------------------------- objects and retention


def test_objects_are_stored_replaced_and_deleted(home: Home) -> None:
    """An object is what was put last."""

    async def body(store: Store, _heard: Heard) -> None:
        await store.put_object("order", "1", b"old", START)
        await store.put_object("order", "1", b"new", START + 1)
        await store.put_object("user", "1", b"u", START)
        assert await store.object("order", "1") == b"new"
        assert await store.object("order", "2") is None
        assert await store.delete_object("order", "1")
        assert not await store.delete_object("order", "1")
        assert await store.object("order", "1") is None
        assert await store.object("user", "1") == b"u"

    home.run(body)


def test_old_deliveries_are_pruned_and_numbers_not_given_again(home: Home) -> None:
    """What was settled before goes with its log and its event; what waits, and its event, stay."""

    async def body(store: Store, _heard: Heard) -> None:
        a, b = [(await store.put_endpoint(endpoint(id_))).number for id_ in ("a", "b")]
        await one(store, "lonely")
        both = await one(store, "both", NewDelivery(a, START, None), NewDelivery(b, START, None))
        late = await one(store, "late", NewDelivery(a, START, None))
        gone = [(await one(store, f"e{index}", NewDelivery(a, START, None)))[0] for index in range(3)]
        await store.record([delivered(number, a, at=START + 5) for number in [both[0], *gone]])
        await store.record([delivered(late[0], a, at=START + 10)])
        cursor = (await traced(store, 5))[-1].cursor
        assert await store.prune(START + 10, 0) == 0
        assert await store.prune(START + 10, 1) == 1
        assert await store.prune(START + 10, 99) == 3
        assert await store.prune(START + 10, 99) == 0
        assert await store.event("lonely") is None
        assert await store.event("e0") is None
        kept = await store.event("both")
        assert kept is not None
        assert kept.deliveries == ("both:b",)
        assert [row.delivery.id for row in await traced(store, 1)] == ["late:a"]
        assert await store.prune(START + 99, 99) == 1
        return max(gone), cursor

    last, cursor = home.run(body)

    async def after(store: Store, _heard: Heard) -> None:
        to = (await store.endpoints())[0].number
        (number,) = await one(store, "new", NewDelivery(to, START, None))
        assert number > last
        await store.record([delivered(number, to)])
        assert (await traced(store, 1))[0].cursor > cursor

    home.run(after)


# --------------------------------------------------------------------------- life


def test_all_is_there_after_a_restart(home: Home) -> None:
    """Types, endpoints, held and waiting deliveries, logs, objects and the backlog survive, and streams go on."""

    async def before(store: Store, _heard: Heard) -> None:
        await store.register(["x"])
        to = (await store.put_endpoint(endpoint("shop", "x", health="h"))).number
        first, *_ = [(await one(store, f"e{i}", NewDelivery(to, START + i, "s")))[0] for i in range(3)]
        await store.record([failed(first, to, due=START + 9)])
        await store.put_object("o", "1", b"1", START)

    async def after(store: Store, _heard: Heard) -> None:
        assert await store.types() == ["x"]
        (shop,) = await store.endpoints()
        assert (shop.id, shop.health, shop.types) == ("shop", "h", ("x",))
        assert await store.subscribers("x") == [shop.number]
        assert await store.backlog() == {1: 2, 2: 1}
        assert await store.object("o", "1") == b"1"
        await eventually(lambda: store.owns(shop.number), 60)
        assert await store.next_due() == {shop.number: START + 9}
        ((row,), following) = await store.due(shop.number, FOREVER, 9, set())
        assert (row.attempts, following) == (1, FOREVER)
        assert await store.record([delivered(row.number, shop.number, 2)]) == [
            Released(shop.number, START + 1)
        ]
        (answer,) = await store.add([event("e9", NewDelivery(shop.number, START, "s"))])
        assert answer.held == (True,)
        await store.check()

    home.run(before)
    home.run(after)


def test_a_cancelled_caller_strands_nobody(home: Home) -> None:
    """Callers that are cancelled in mid-call leave the others their results, and the store in order."""

    async def body(store: Store, _heard: Heard) -> None:
        to = (await store.put_endpoint(endpoint())).number
        tasks = [asyncio.create_task(one(store, f"e{i}", NewDelivery(to, START, None))) for i in range(200)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for index, result in enumerate(ended):
            if isinstance(result, asyncio.CancelledError):
                assert index % 3 == 0
            else:
                assert not isinstance(result, BaseException)
                assert await store.event(f"e{index}") is not None
        there = sum([await store.event(f"e{index}") is not None for index in range(200)])
        assert await store.backlog() == {1: there}

    home.run(body)


def test_closing_finishes_what_was_asked_for(home: Home) -> None:
    """Calls that were made before ``close`` are stored; later ones are refused."""

    async def main() -> None:
        async with home.opened() as (store, _heard):
            tasks = [asyncio.create_task(one(store, f"e{i}")) for i in range(50)]
            await asyncio.sleep(0)
            await store.close()
            await asyncio.gather(*tasks)
            with pytest.raises(StoreError):
                await store.add([event("late")])
            with pytest.raises(StoreError):
                await store.types()

    asyncio.run(main())

    async def after(store: Store, _heard: Heard) -> None:
        assert all([await store.event(f"e{i}") is not None for i in range(50)])

    home.run(after)


def test_a_store_that_is_not_open_says_so(home: Home) -> None:
    """No call waits for ever on a store that was never opened, and closing it is harmless."""

    async def main() -> None:
        store = home.make()
        with pytest.raises(StoreError):
            await store.types()
        with pytest.raises(StoreError):
            await store.add([event("e")])
        await store.close()

    asyncio.run(main())
