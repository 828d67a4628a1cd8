"""The scheduler in real time over the real store: what is attempted, when, and what is written down."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import sim
from loadtest import clock
from loadtest.dispatcher import store_sqlite_results
from loadtest.dispatcher.records import Accepted, Endpoint, Filter, NewDelivery, NewEvent
from loadtest.dispatcher.request import Answer, OutgoingRequest
from loadtest.dispatcher.scheduler import TURN, Scheduler
from loadtest.dispatcher.store_sqlite import SqliteStore
from sim import dice, model, policy, receiver
from sim.blocks_dispatcher import Dispatcher as Rules

SECOND = policy.SECOND
Answering = Callable[[OutgoingRequest, int, str], Awaitable[Answer]]


class Scripted:
    """A sender whose answers a test decides; it keeps what it was asked to send."""

    def __init__(self, answer: Answering) -> None:
        self.answer = answer
        self.sent: list[tuple[str, int]] = []
        self.at: list[int] = []
        self.under_way: dict[str, int] = {}
        self.most_under_way: dict[str, int] = {}

    async def send(self, request: OutgoingRequest) -> Answer:
        """Note a request and give the test's answer."""
        headers = dict(line.split(": ", 1) for line in request.headers)
        name, attempt = headers["webhook-id"], int(headers["webhook-attempt"])
        self.sent.append((name, attempt))
        self.at.append(clock.now())
        self.under_way[request.url] = self.under_way.get(request.url, 0) + 1
        self.most_under_way[request.url] = max(
            self.most_under_way.get(request.url, 0), self.under_way[request.url]
        )
        try:
            return await self.answer(request, attempt, name)
        finally:
            self.under_way[request.url] -= 1

    async def close(self) -> None:
        """Nothing is under way below."""


async def ok(_request: OutgoingRequest, _attempt: int, _name: str) -> Answer:
    """Every request is answered 200 at once."""
    return Answer(200)


async def failing(_request: OutgoingRequest, _attempt: int, _name: str) -> Answer:
    """Every request is answered 500 at once."""
    return Answer(500)


def endpoint(name: str = "group:0", **changes: Any) -> Endpoint:
    """An endpoint with a short schedule."""
    block = {"schedule": ["0s", "50ms", "100ms"], "timeout": "5s"} | changes.pop("policy", {})
    now = clock.now()
    fields: dict[str, Any] = {
        "id": name,
        "url": f"http://{name.replace(':', '-')}/",
        "types": ("*",),
        "policy": json.dumps(block),
        "secret": "",
        "signature": "none",
        "created": now,
        "changed": now,
    }
    return Endpoint(**(fields | changes))


class Running:
    """A scheduler with its store, and what tests do with both."""

    def __init__(self, store: SqliteStore, scheduler: Scheduler) -> None:
        self.store = store
        self.scheduler = scheduler
        self.endpoints: list[Endpoint] = []
        self.index = 0

    async def add(self, *endpoints: Endpoint) -> None:
        """Register endpoints."""
        for one in endpoints:
            self.endpoints.append(await self.store.put_endpoint(one))
        await self.scheduler.refresh()

    async def post(self, count: int = 1, *, key: str = "k", now: int | None = None) -> list[Accepted]:
        """Accept events for all endpoints."""
        at = clock.now() if now is None else now
        events = []
        for _ in range(count):
            name = f"p:{self.index}"
            out = tuple(self.scheduler.fan_out(name, key, one, at) for one in self.endpoints)
            events.append(NewEvent(name, b"d", "t", key, self.index, at, at, b"{}", "", "", out))
            self.index += 1
        accepted = await self.store.add(events)
        self.scheduler.accept(events, accepted)
        return accepted

    async def settled(self, count: int, within_s: float = 20.0) -> list[Any]:
        """Wait until so many deliveries are settled, and give all."""
        for _ in range(int(within_s / 0.02)):
            listed = await self.store.deliveries(Filter(limit=1000))
            done = [one for one in listed if one.settled >= 0]
            if len(done) >= count:
                return done
            await asyncio.sleep(0.02)
        raise AssertionError(f"{len(done)} of {count} settled: {listed[:5]}")


@asynccontextmanager
async def running(path: Path, sender: Scripted, rules: Rules | None = None, seed: int = 1) -> Any:
    """A scheduler over a SQLite file."""
    store = SqliteStore(path / "hooks.db")
    scheduler = Scheduler(store, sender, rules or Rules(), seed)
    await store.open(scheduler)
    await scheduler.start()
    try:
        yield Running(store, scheduler)
    finally:
        await scheduler.stop(2.0)
        await store.close()


def test_a_delivery_climbs_its_schedule_and_ends_dead(tmp_path: Path) -> None:
    """Three failures with the gaps of the schedule between them, all logged, then a dead letter."""

    async def body() -> None:
        sender = Scripted(failing)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint())
            await run.post()
            (one,) = await run.settled(1)
            assert (one.state, one.cause, one.attempts) == (policy.DEAD, policy.BY_ATTEMPTS, 3)
            assert sender.sent == [("p:0:group:0", n) for n in (1, 2, 3)]
            log = (await run.store.delivery(one.id)).log
            assert [a.attempt_number for a in log] == [1, 2, 3]
            gaps = [later.due - earlier.finished for earlier, later in itertools.pairwise(log)]
            assert [round(gap / 1e8, 1) for gap in gaps] == [0.5, 1.0]
            assert all(a.started >= a.due for a in log)

    asyncio.run(body())


@pytest.mark.parametrize("count", [1, 5_000])
def test_everything_accepted_is_delivered_once(tmp_path: Path, count: int) -> None:
    """Many more than one endpoint's share of memory come out of the store again, each once."""

    async def body() -> None:
        sender = Scripted(ok)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint())
            for _ in range(max(count // 500, 1)):
                await run.post(min(count, 500))
            for _ in range(1000):
                if len(sender.sent) >= count:
                    break
                await asyncio.sleep(0.02)
            assert sorted(sender.sent) == sorted((f"p:{i}:group:0", 1) for i in range(count))
            assert run.scheduler.feed.loaded_count <= 1_000

    asyncio.run(body())


def test_what_is_found_in_the_store_before_it_is_announced_is_sent_once(tmp_path: Path) -> None:
    """Between a commit and the word of it the feed may come by: the delivery is in memory once."""

    async def body() -> None:
        go = asyncio.Event()

        async def held(_request: OutgoingRequest, _attempt: int, _name: str) -> Answer:
            await go.wait()
            return Answer(200)

        sender = Scripted(held)
        async with running(tmp_path, sender) as made:
            await made.add(endpoint())
            (one,) = made.endpoints
            now = clock.now()
            out = (made.scheduler.fan_out("p:0", "k", one, now),)
            event = NewEvent("p:0", b"d", "t", "k", 0, now, now, b"{}", "", "", out)
            accepted = await made.store.add([event])
            made.scheduler.due_changed(one.number, now)
            async with asyncio.timeout(20):
                while not sender.sent:
                    await asyncio.sleep(0.01)
            made.scheduler.accept([event], accepted)
            await asyncio.sleep(0.05)
            go.set()
            await made.settled(1)
            assert sender.sent == [("p:0:group:0", 1)]

    asyncio.run(body())


def test_a_limit_on_attempts_in_flight_is_never_exceeded(tmp_path: Path) -> None:
    """Two at a time, whatever waits."""

    async def slow(_r: OutgoingRequest, _a: int, _n: str) -> Answer:
        await asyncio.sleep(0.01)
        return Answer(200)

    async def body() -> None:
        sender = Scripted(slow)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint(max_in_flight=2))
            await run.post(50)
            await run.settled(50)
            assert list(sender.most_under_way.values()) == [2]

    asyncio.run(body())


def test_a_dead_endpoint_does_not_delay_another(tmp_path: Path) -> None:
    """One customer never answers, with thousands waiting; the other's events are all delivered meanwhile."""

    async def hanging(request: OutgoingRequest, _a: int, _n: str) -> Answer:
        if "dead" in request.url:
            await asyncio.sleep(3600)
        return Answer(200)

    async def body() -> None:
        sender = Scripted(hanging)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint("dead:0", max_in_flight=5), endpoint("good:0"))
            for _ in range(6):
                await run.post(500)
            for _ in range(500):
                good = [name for name, _ in sender.sent if name.endswith("good:0")]
                if len(good) == 3000:
                    break
                await asyncio.sleep(0.02)
            assert len(good) == len(set(good)) == 3000
            assert len(sender.sent) - len(good) == 5

    asyncio.run(body())


@pytest.mark.parametrize("ordering", ["key", "endpoint"])
def test_order_is_kept_through_failures(tmp_path: Path, ordering: str) -> None:
    """No event of a key (or endpoint) is sent before its predecessor is final."""

    async def flaky(_r: OutgoingRequest, attempt: int, name: str) -> Answer:
        await asyncio.sleep(0.001)
        return Answer(200 if attempt > 1 or int(name.split(":")[1]) % 3 else 500)

    async def body() -> None:
        sender = Scripted(flaky)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint(ordering=ordering))
            for key in ("a", "b") * 10:
                await run.post(1, key=key)
            await run.settled(20)
            order = [int(name.split(":")[1]) for name, _ in sender.sent]
            for part in (0, 1) if ordering == "key" else (None,):
                own = [i for i in order if part is None or i % 2 == part]
                assert own == sorted(own)

    asyncio.run(body())


@pytest.mark.parametrize("discipline", ["shared", "per_tier"])
def test_who_waits_for_a_predecessor_says_so(tmp_path: Path, discipline: str) -> None:
    """Four events of one endpoint in order, 30 ms each: all but the first wait, and none for a worker or a head."""
    rules = Rules.model_validate({"discipline": discipline, "workers": 4})

    async def slow(_r: OutgoingRequest, _attempt: int, _name: str) -> Answer:
        await asyncio.sleep(0.03)
        return Answer(200)

    async def body() -> None:
        async with running(tmp_path, Scripted(slow), rules) as run:
            await run.add(endpoint(ordering="endpoint"))
            await run.post(4)
            await run.settled(4)
            attempts = [(await run.store.delivery(f"p:{i}:group:0")).log[0] for i in range(4)]
            assert [policy.WAIT_CAUSES[one.wait_cause] for one in attempts] == ["", "order", "order", "order"]
            for before, after in itertools.pairwise(attempts):
                assert after.due < before.finished <= after.started

    asyncio.run(body())


@pytest.mark.parametrize("discipline", ["shared", "per_tier"])
def test_who_starts_when_due_has_waited_for_nothing(tmp_path: Path, discipline: str) -> None:
    """First attempts and retries, one at a time with workers to spare: the lateness of timers is no wait."""
    rules = Rules.model_validate({"discipline": discipline, "workers": 4})

    async def body() -> None:
        async with running(tmp_path, Scripted(failing), rules) as run:
            await run.add(endpoint())
            for index in range(4):
                await run.post(1)
                await run.settled(index + 1)
            logs = [(await run.store.delivery(f"p:{index}:group:0")).log for index in range(4)]
            assert [len(log) for log in logs] == [3] * 4
            quick = [one for log in logs for one in log if one.started - one.due < TURN]
            assert {policy.WAIT_CAUSES[one.wait_cause] for one in quick} == {""}

    asyncio.run(body())


@pytest.mark.parametrize("discipline", ["shared", "per_tier"])
def test_what_waits_survives_a_restart(tmp_path: Path, discipline: str) -> None:
    """Deliveries that were waiting when the process ended go on where they were."""
    rules = Rules.model_validate({"discipline": discipline, "workers": 4})

    async def first() -> None:
        async with running(tmp_path, Scripted(failing), rules) as run:
            await run.add(endpoint(policy={"schedule": ["0s", "1500ms"]}))
            await run.post(20)
            for _ in range(200):
                if sum(one.attempts for one in await run.store.deliveries(Filter())) == 20:
                    break
                await asyncio.sleep(0.02)

    async def second() -> None:
        sender = Scripted(ok)
        async with running(tmp_path, sender, rules) as run:
            done = await run.settled(20)
            assert {one.state for one in done} == {policy.STATE_DELIVERED}
            assert sorted(sender.sent) == sorted((f"p:{i}:group:0", 2) for i in range(20))

    asyncio.run(first())
    asyncio.run(second())


@pytest.mark.parametrize("rest", ["drop", "hold"])
def test_a_policy_disables_an_endpoint(tmp_path: Path, rest: str) -> None:
    """After its third failure in a row nothing is sent, and what waits is dropped or held."""
    block = {"schedule": ["0s", "300ms", "60s"], "disable": {"consecutive": 3, "rest": rest}}

    async def body() -> None:
        sender = Scripted(failing)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint(policy=block, max_in_flight=1))
            await run.post(10)
            await asyncio.sleep(0.8)
            (now,) = await run.store.endpoints()
            assert now.status == "disabled"
            assert "500" in now.reason
            assert len(sender.sent) == 3
            states = {one.state for one in await run.store.deliveries(Filter())}
            assert states == {policy.DROPPED if rest == "drop" else policy.WAITING}

    asyncio.run(body())


@pytest.mark.parametrize("discipline", ["shared", "per_tier"])
@pytest.mark.parametrize("removed", [False, True], ids=["disabled", "removed"])
def test_a_drop_that_a_crash_cut_short_goes_on_after_the_restart(
    tmp_path: Path, discipline: str, removed: bool
) -> None:
    """What still waits for an endpoint that was disabled with ``rest: drop``, or removed, is dropped then."""
    rules = Rules(discipline=discipline, workers=4)
    block = {"disable": {"consecutive": 3, "rest": "drop"}}

    async def before() -> None:
        store = SqliteStore(tmp_path / "hooks.db")
        async with contextlib.AsyncExitStack() as stack:
            await store.open(Scheduler(store, Scripted(ok), rules, 1))
            stack.push_async_callback(store.close)
            to = (await store.put_endpoint(endpoint(policy=block))).number
            new = [NewDelivery(to, clock.now(), "s" if n % 2 else None) for n in range(12)]
            await store.add([
                NewEvent(f"p:{n}", b"d", "t", "k", n, 1, 1, b"{}", "", "", (one,)) for n, one in enumerate(new)
            ])  # fmt: skip
            if removed:
                await store.remove_endpoint(to)
            else:
                (spec,) = await store.endpoints()
                await store.put_endpoint(dataclasses.replace(spec, status="disabled"))
            part = (to, policy.DROPPED, policy.BY_DISABLING, clock.now(), frozenset[int](), 4)
            assert await store._write(store_sqlite_results.settle_waiting, part) == 4

    async def after() -> None:
        sender = Scripted(ok)
        async with running(tmp_path, sender, rules) as run:
            done = await run.settled(12)
            assert {(one.state, one.cause) for one in done} == {(policy.DROPPED, policy.BY_DISABLING)}
            assert await run.store.backlog() == {}
            assert sender.sent == []

    asyncio.run(before())
    asyncio.run(after())


def test_a_verdict_of_gone_disables_at_once(tmp_path: Path) -> None:
    """410 by a verdict of disable: the delivery is dropped and the endpoint is off."""

    async def gone(_r: OutgoingRequest, _a: int, _n: str) -> Answer:
        return Answer(410)

    async def body() -> None:
        async with running(tmp_path, Scripted(gone)) as run:
            await run.add(endpoint(policy={"verdicts": {"410": "disable"}}))
            await run.post()
            (one,) = await run.settled(1)
            assert (one.state, one.cause) == (policy.DROPPED, policy.BY_VERDICT)
            for _ in range(100):
                (now,) = await run.store.endpoints()
                if now.status == "disabled":
                    break
                await asyncio.sleep(0.02)
            assert now.status == "disabled"

    asyncio.run(body())


def test_pause_holds_and_resume_goes_on(tmp_path: Path) -> None:
    """A paused endpoint gets nothing; when it is resumed it gets all."""

    async def body() -> None:
        sender = Scripted(ok)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint(status="paused"))
            await run.post(5)
            await asyncio.sleep(0.2)
            assert sender.sent == []
            await run.store.put_endpoint(dataclasses.replace(run.endpoints[0], status="enabled"))
            await run.scheduler.refresh()
            await run.settled(5)

    asyncio.run(body())


def test_an_endpoint_that_begins_to_poll_is_not_sent_to(tmp_path: Path) -> None:
    """From push to poll: what comes afterwards waits to be fetched."""

    async def body() -> None:
        sender = Scripted(ok)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint())
            await run.post()
            await run.settled(1)
            polling = dataclasses.replace(run.endpoints[0], mode="poll", url="")
            run.endpoints = [await run.store.put_endpoint(polling)]
            await run.scheduler.refresh()
            await run.post(3)
            await asyncio.sleep(1.3)
            assert len(sender.sent) == 1
            assert len(await run.store.poll(polling.number, 0, 10)) == 4

    asyncio.run(body())


def test_an_object_that_is_gone_is_not_sent(tmp_path: Path) -> None:
    """An id in the queue whose object was deleted: vanished, no attempt; one that is there is sent as it is now."""

    async def body() -> None:
        sender = Scripted(ok)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint())
            await run.store.put_object("order", "1", b'{"v":2}', clock.now())
            at = clock.now()
            events = []
            for name, target in (("p:0", "1"), ("p:1", "2")):
                out = (run.scheduler.fan_out(name, "k", run.endpoints[0], at),)
                events.append(NewEvent(name, b"d", "t", "k", 0, at, at, b"", "order", target, out))
            run.scheduler.accept(events, await run.store.add(events))
            done = {one.event_id: one for one in await run.settled(2)}
            assert done["p:0"].state == policy.STATE_DELIVERED
            assert (done["p:1"].state, done["p:1"].attempts) == (policy.VANISHED, 0)
            assert sender.sent == [("p:0:group:0", 1)]

    asyncio.run(body())


def test_per_tier_a_worker_holds_the_head_until_it_is_due(tmp_path: Path) -> None:
    """Two retries in one tier of one worker: the second is due long before the first, and waits behind it."""
    rules = Rules.model_validate({"discipline": "per_tier", "workers": 1})
    block = {"schedule": ["0s", "50ms"], "retry_after": "honour"}

    async def asking(_request: OutgoingRequest, attempt: int, name: str) -> Answer:
        if attempt == 2:
            return Answer(200)
        return Answer(503, asked=600_000_000 if name.startswith("p:0:") else -1)

    async def body() -> None:
        sender = Scripted(asking)
        async with running(tmp_path, sender, rules) as run:
            await run.add(endpoint(policy=block))
            await run.post(2)
            await run.settled(2)
            first, second = [(await run.store.delivery(f"p:{i}:group:0")).log[1] for i in (0, 1)]
            assert second.due < first.due <= first.started <= second.started
            assert policy.WAIT_CAUSES[second.wait_cause] == "head_of_line"

    asyncio.run(body())


def test_what_is_in_flight_when_its_endpoint_is_removed_ends_dropped(tmp_path: Path) -> None:
    """A failed attempt of a removed endpoint is its last one; the delivery has a final state."""
    go = asyncio.Event()

    async def slow(_r: OutgoingRequest, _a: int, _n: str) -> Answer:
        await go.wait()
        return Answer(500)

    async def body() -> None:
        sender = Scripted(slow)
        async with running(tmp_path, sender) as run:
            await run.add(endpoint())
            await run.post()
            while not sender.sent:
                await asyncio.sleep(0.01)
            await run.store.remove_endpoint(run.endpoints[0].number)
            await run.scheduler.refresh()
            assert await run.scheduler.drop(run.endpoints[0].number, policy.DROPPED, policy.BY_DISABLING) == 0
            go.set()
            (one,) = await run.settled(1)
            assert (one.state, one.cause, one.attempts) == (policy.DROPPED, policy.BY_DISABLING, 1)
            assert len(sender.sent) == 1

    asyncio.run(body())


def test_a_request_that_cannot_be_made_is_a_failed_attempt(tmp_path: Path) -> None:
    """Whatever goes wrong in making it, the delivery goes on to its end and keeps the reason."""

    async def broken(_r: OutgoingRequest, _a: int, _n: str) -> Answer:
        raise ValueError("no such thing")

    async def body() -> None:
        async with running(tmp_path, Scripted(broken)) as run:
            await run.add(endpoint())
            await run.post()
            (one,) = await run.settled(1)
            assert (one.state, one.attempts) == (policy.DEAD, 3)
            log = (await run.store.delivery(one.id)).log
            assert {policy.OUTCOMES[a.outcome] for a in log} == {"refused"}
            assert "no such thing" in log[0].error

    asyncio.run(body())


WORLD = """
name: fates
horizon: 20s
drain: 60s
producers: {p: {arrivals: {constant: 10/s}, keys: {count: 20}}}
endpoints:
  a: {count: 3, policy: climbing, receiver: flaky}
  b: {policy: jittered, receiver: flaky}
policies:
  climbing:
    schedule: [0s, 10ms, 20ms, 40ms]
    timeout: 100ms
    verdicts: {"410": drop}
  jittered: {schedule: [0s, {exponential: {base: 10ms, factor: 2, cap: 50ms, times: 4}}], jitter: full, timeout: 100ms}
receivers:
  flaky:
    latency: {lognormal: {median: 20ms, p99: 300ms}}
    faults:
      - error: {probability: 30%, status: 500}
      - error: {probability: 5%, status: 410}
      - lost_answer: {probability: 5%}
"""


def test_fates_are_those_of_the_simulation(tmp_path: Path) -> None:
    """The same seed, luck by address: every delivery takes the same attempts to the same outcomes and states."""
    scenario_file = tmp_path / "fates.yaml"
    scenario_file.write_text(WORLD)
    simulated = sim.run(str(scenario_file), seed=11, engine="simpy")
    built = model.build(sim.load(str(scenario_file)), 11)
    members = {member.name: member for member in built.members}

    async def receiving(_r: OutgoingRequest, attempt: int, name: str) -> Answer:
        event, word = dice.delivery_words(name)
        member = members[":".join(name.split(":")[2:])]
        spec = built.receivers[member.receiver]
        books = receiver.new_books(spec)
        reply = receiver.receive(spec, member.outages, *books, 0, built.seed, event, word, attempt)
        code, _, asked = policy.heard(
            built.policies[member.policy], attempt, 0, reply.code, reply.answered, reply.retry_after
        )
        return Answer(code, asked)

    async def body() -> None:
        async with running(tmp_path, Scripted(receiving), seed=11) as run:
            for name, member in members.items():
                block = built.scenario.policies[built.policy_names[member.policy]]
                await run.add(
                    dataclasses.replace(endpoint(name), policy=block.model_dump_json(exclude_none=True))
                )
            await run.post(200)
            done = {one.id: one for one in await run.settled(800)}
            expected = simulated.deliveries.set_index("delivery_id")
            assert set(done) == set(expected.index)
            assert {name: policy.STATES[one.state] for name, one in done.items()} == expected[
                "state"
            ].to_dict()
            attempts = simulated.attempts.groupby("delivery_id")["outcome"].agg(list).to_dict()
            for name in done:
                log = (await run.store.delivery(name)).log
                assert [policy.OUTCOMES[a.outcome] for a in log] == attempts[name], name

    asyncio.run(body())
