"""What becomes of a request: the compiled receiver, a naive queue beside it, faults, outages in steady state."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sim
from sim import dice, jit, model, receiver
from sim.blocks_world import ReceiverBlock
from sim.policy import CONNECTION_REFUSED, NO_ANSWER
from sim.receiver import NEVER, Answer, Outages, Receiver

SECOND = 1_000_000_000
SEED = 2**63 + 12_345  # beyond a signed word: half of all seeds are
ENDPOINT = dice.endpoint_word("shop", 3)
NO_OUTAGES = Outages((0,), (), ())


def lowered(**block: Any) -> Receiver:
    """A receiver of the file as numbers."""
    return model.lower_receiver(ReceiverBlock.model_validate({"latency": "1s", **block}))


def windows(spec: Receiver, *by_fault: list[tuple[float, float]]) -> Outages:
    """Outages in seconds, one list for each fault."""
    assert len(by_fault) in (0, len(spec.fault_kind))
    by_fault = by_fault or tuple([] for _ in spec.fault_kind)
    first = [0, *itertools.accumulate(map(len, by_fault))]
    flat = [window for own in by_fault for window in own]
    return Outages(
        tuple(first),
        tuple(round(start * SECOND) for start, _ in flat),
        tuple(round(end * SECOND) for _, end in flat),
    )


class Asked:
    """A receiver in plain Python with its books, asked in seconds."""

    def __init__(self, spec: Receiver, outages: Outages | None = None, seed: int = SEED) -> None:
        self.spec, self.seed = spec, seed
        self.outages = windows(spec) if outages is None else outages
        self.books = receiver.new_books(spec)

    def at(self, seconds: float, event: int = 0, attempt: int = 1) -> Answer:
        """What becomes of a request at this time."""
        return self.at_ns(round(seconds * SECOND), event, attempt)

    def at_ns(self, now: int, event: int, attempt: int) -> Answer:
        """What becomes of a request at this time, ns."""
        return receiver.receive(
            self.spec, self.outages, *self.books, now, self.seed, event, ENDPOINT, attempt
        )


LOGNORMAL = {"lognormal": {"median": "200ms", "p99": "3s"}}
ERROR = {"error": {"probability": 0.2, "status": 502, "retry_after": "3s"}}
OWN_LATENCY = {"error": {"probability": 0.2, "latency": {"erlang": {"mean": "1s", "stages": 5}}}}
MEASURED = {
    "error": {"probability": 0.1, "latency": {"empirical": {"quantiles": {"50%": "1s", "90%": "2s"}}}}
}
LOST = {"lost_answer": {"probability": 0.1}}


def outage(how: Any) -> dict[str, Any]:
    """An outage fault whose windows the test gives."""
    return {"outage": {"windows": [["0s", "1s"]], "how": how}}


SPECS = {
    "plain": lowered(latency=LOGNORMAL),
    "one server": lowered(latency=LOGNORMAL, servers=1),
    "servers": lowered(latency=LOGNORMAL, servers=7),
    "backlog": lowered(latency=LOGNORMAL, servers=2, backlog={"size": 3, "retry_after": "9s"}),
    "no backlog": lowered(latency=LOGNORMAL, servers=2, backlog={"size": 0, "beyond": 429}),
    "hang beyond": lowered(latency=LOGNORMAL, servers=1, backlog={"size": 2, "beyond": "hang"}),
    "faults": lowered(latency=LOGNORMAL, servers=3, faults=[ERROR, MEASURED, LOST, OWN_LATENCY]),
    "at the door": lowered(
        latency=LOGNORMAL, servers=2, answers="on_arrival", faults=[ERROR, OWN_LATENCY, LOST]
    ),
    "refuse": lowered(servers=2, faults=[LOST, outage("refuse"), ERROR]),
    "hang": lowered(latency={"exponential": {"mean": "1s"}}, faults=[outage("hang"), ERROR]),
    "pause": lowered(
        latency={"pareto": {"minimum": "100ms", "shape": 1.5}},
        servers=2,
        backlog={"size": 4},
        faults=[outage("pause"), outage("pause"), ERROR],
    ),
    "pause without servers": lowered(backlog={"size": 3}, faults=[outage("pause")]),
    "status": lowered(servers=1, faults=[outage({"status": 503}), outage({"error": {"probability": 0.5}})]),
    "hyperexponential": lowered(latency={"hyperexponential": {"mean": "1s", "cv": 3.0}}, servers=2),
    "zero": lowered(latency="0s", servers=1, backlog={"size": 0}),
}


def requests(chance: random.Random, count: int) -> Iterator[tuple[int, int, int]]:
    """(now, event, attempt): many at one instant, words of all sizes."""
    now = 0
    for _ in range(count):
        now += chance.choice([0, 0, SECOND // 4, SECOND // 2, chance.randrange(SECOND)])
        yield now, chance.getrandbits(64), chance.choice([1, 1, 2, 3, 2**40])


def random_windows(spec: Receiver, chance: random.Random) -> Outages:
    """Up to six windows for every outage, on a grid on which requests fall too; some touch."""
    lists = []
    for kind in spec.fault_kind:
        cuts = sorted(chance.sample(range(240), 12))
        pairs = [(cuts[i] / 2, cuts[i + 1] / 2) for i in range(0, 12, 2)]
        lists.append([] if kind in (receiver.ERROR, receiver.LOST_ANSWER) else pairs)
    return windows(spec, *lists)


@pytest.mark.parametrize("name", SPECS)
def test_compiled_receiver_equals_the_python_one(name: str) -> None:
    """The same requests get the same five numbers, ties, pauses and full backlogs included."""
    spec = SPECS[name]
    for round_ in range(4):
        chance = random.Random(f"{name} {round_}")
        outages = random_windows(spec, chance)
        python = Asked(spec, outages)
        compiled = jit.receiver_of(spec, outages, SEED, ENDPOINT)
        for now, event, attempt in requests(chance, 250):
            assert tuple(compiled(now, event, attempt)) == tuple(python.at_ns(now, event, attempt))


def test_two_compiled_receivers_keep_books_of_their_own() -> None:
    """A request at one leaves the queue of the other alone."""
    spec = lowered(servers=1)
    one, other = (jit.receiver_of(spec, NO_OUTAGES, SEED, ENDPOINT) for _ in range(2))
    assert [one(0, 1, 1)[2], one(0, 2, 1)[2], other(0, 3, 1)[2]] == [0, SECOND, 0]


# --------------------------------------------------------------------------- a naive queue


class NaiveQueue:
    """First come, first served by servers, event after event: who waits, who is busy, nothing foreseen."""

    def __init__(self, servers: int, room: int, pauses: list[tuple[int, int]]) -> None:
        self.servers, self.room, self.pauses = servers, room, pauses
        self.busy: list[int] = []
        self.queue: list[tuple[int, int]] = []
        self.times: dict[int, tuple[int, int]] = {}

    def paused(self, now: int) -> bool:
        """Whether no work is taken up now."""
        return any(start <= now < end for start, end in self.pauses)

    def take_up(self, now: int) -> None:
        """Free the servers that are done and give them who waits."""
        self.busy = [end for end in self.busy if end > now]
        while self.queue and len(self.busy) < self.servers and not self.paused(now):
            number, work = self.queue.pop(0)
            self.times[number] = now, now + work
            if work:
                self.busy.append(now + work)

    def advance(self, now: int) -> None:
        """Let happen what happens until now: ends of work and ends of pauses, in order."""
        while self.queue:
            following = [t for t in (*self.busy, *(end for _, end in self.pauses)) if t > self.last]
            if not following or min(following) > now:
                break
            self.last = min(following)
            self.take_up(self.last)
        self.last = now
        self.take_up(now)

    last = -1

    def arrive(self, now: int, number: int, work: int) -> bool:
        """Take a request; False: there is no room for it."""
        self.advance(now)
        full = len(self.busy) >= self.servers or self.paused(now)
        if full and len(self.queue) >= self.room:
            return False
        self.queue.append((number, work))
        self.take_up(now)
        return True


@pytest.mark.parametrize("seed", range(12))
def test_foreseen_service_is_what_a_naive_queue_does(seed: int) -> None:
    """Servers, backlog and pauses of a random receiver: the same starts, ends and refusals, one by one."""
    chance = random.Random(seed)
    servers = chance.choice([1, 2, 5])
    room = chance.choice([0, 1, 4, 1000])
    latency = chance.choice(["1s", {"exponential": {"mean": "1s"}}, "0s", "500ms"])
    spec = lowered(latency=latency, servers=servers, backlog={"size": room}, faults=[outage("pause")])
    cuts = sorted(chance.sample(range(100), 6))
    pauses = [(float(cuts[i]), float(cuts[i + 1])) for i in (0, 2, 4)]
    asked = Asked(spec, windows(spec, pauses))
    naive = NaiveQueue(servers, room, [(round(a * SECOND), round(b * SECOND)) for a, b in pauses])
    answers = {}
    now = 0
    for number in range(300):
        now += chance.choice([0, SECOND // 2, SECOND // servers, chance.randrange(SECOND)])
        work = dice.sample(spec.latency, SEED, receiver.LATENCY, number, ENDPOINT, 1, 0)
        answers[number] = asked.at_ns(now, number, 1)
        taken = naive.arrive(now, number, work)
        assert (answers[number].code == 200) == taken
        if not taken:
            assert answers[number] == Answer(503, now, NEVER, NEVER, -1)
    naive.advance(NEVER)
    assert naive.times == {n: (a.served, a.processed) for n, a in answers.items() if a.code == 200}
    assert all(a.answered == a.processed for a in answers.values() if a.code == 200)


# --------------------------------------------------------------------------- answers, one by one


def test_answers_of_every_fault() -> None:
    """Code, answer, service, processing and Retry-After of each way to fail, at 2 s with a latency of 1 s."""
    at, done = 2 * SECOND, 3 * SECOND
    always = {"probability": 1.0, "status": 500, "retry_after": "9s"}
    table: list[tuple[dict[str, Any], Answer]] = [
        ({}, Answer(200, done, at, done, -1)),
        ({"error": always}, Answer(500, done, at, NEVER, 9 * SECOND)),
        ({"error": always | {"latency": "5s"}}, Answer(500, at + 5 * SECOND, at, NEVER, 9 * SECOND)),
        ({"error": always | {"probability": 0.0}}, Answer(200, done, at, done, -1)),
        ({"lost_answer": {"probability": 1.0}}, Answer(NO_ANSWER, NEVER, at, done, -1)),
        (outage("refuse"), Answer(CONNECTION_REFUSED, at, NEVER, NEVER, -1)),
        (outage("hang"), Answer(NO_ANSWER, NEVER, NEVER, NEVER, -1)),
        (outage("pause"), Answer(200, 6 * SECOND, 5 * SECOND, 6 * SECOND, -1)),
        (outage({"status": 503}), Answer(503, done, at, NEVER, -1)),
        (outage({"error": always}), Answer(500, done, at, NEVER, 9 * SECOND)),
    ]
    for fault, expected in table:
        spec = lowered(faults=[fault] if fault else [])
        out = windows(spec, [(1, 5)]) if "outage" in fault else None
        assert Asked(spec, out).at(2) == expected, fault


def test_errors_at_the_door_take_no_server() -> None:
    """Where the answer comes on arrival an error answers for itself, after its own latency if it has one."""
    always = {"probability": 1.0, "status": 500}
    spec = lowered(servers=1, answers="on_arrival", faults=[{"error": always}])
    assert Asked(spec).at(2) == Answer(500, 2 * SECOND, NEVER, NEVER, -1)
    spec = lowered(servers=1, answers="on_arrival", faults=[{"error": always | {"latency": "3s"}}])
    assert Asked(spec).at(2) == Answer(500, 5 * SECOND, NEVER, NEVER, -1)
    assert Asked(lowered(servers=1, answers="on_arrival")).at(2) == Answer(
        200, 2 * SECOND, 2 * SECOND, 3 * SECOND, -1
    )


def test_windows_hold_their_start_and_not_their_end() -> None:
    """Out from the first nanosecond to the last but one; touching windows leave no gap."""
    spec = lowered(faults=[outage("refuse")])
    outages = windows(spec, [(1, 2), (2, 3), (5, 6)])
    edges = {
        SECOND - 1: 0,
        SECOND: 1,
        2 * SECOND: 1,
        3 * SECOND - 1: 1,
        3 * SECOND: 0,
        5 * SECOND: 1,
        6 * SECOND: 0,
    }
    assert {at: int(receiver.out(outages, 0, at)) for at in edges} == edges
    asked = Asked(spec, outages)
    assert [asked.at_ns(at, 0, 1).code for at in edges] == [
        CONNECTION_REFUSED if down else 200 for down in edges.values()
    ]


def test_pauses_of_two_faults_add_up() -> None:
    """Work begins when no pause of any fault is on: one may lead into another and back."""
    spec = lowered(faults=[outage("pause"), outage("pause")])
    outages = windows(spec, [(1, 3), (5, 7)], [(2, 5), (9, 10)])
    assert [Asked(spec, outages).at(at).served / SECOND for at in (0.5, 1, 4, 7, 9)] == [0.5, 7, 7, 7, 10]


def test_faults_strike_with_their_probability_in_their_order() -> None:
    """Of 20,000 requests 30 % meet the first fault and 30 % of the rest the second, whoever asks in what order."""
    spec = lowered(faults=[{"error": {"probability": 0.3}}, {"lost_answer": {"probability": 0.3}}])
    compiled = jit.receiver_of(spec, windows(spec), SEED, ENDPOINT)
    codes = [compiled(0, event, 1)[0] for event in range(20_000)]
    counts = Counter(codes)
    for code, share in ((500, 0.3), (NO_ANSWER, 0.21), (200, 0.49)):
        assert abs(counts[code] - 20_000 * share) < 4 * math.sqrt(20_000 * share * (1 - share))
    again = jit.receiver_of(spec, windows(spec), SEED, ENDPOINT)
    assert [again(0, event, 1)[0] for event in reversed(range(20_000))] == codes[::-1]


def test_attempts_have_luck_of_their_own() -> None:
    """The second attempt of a delivery draws anew; asked again, the first draws the same."""
    spec = lowered(latency=LOGNORMAL)
    draws = [[Asked(spec).at(0, event, attempt).answered for event in range(200)] for attempt in (1, 2, 1)]
    assert draws[0] == draws[2]
    assert not set(draws[0]) & set(draws[1])
    assert abs(np.corrcoef(np.log(draws[0]), np.log(draws[1]))[0, 1]) < 4 / math.sqrt(200)


# --------------------------------------------------------------------------- outages over time


def timelines(count: int, fault: dict[str, Any], horizon: str = "40000s") -> list[Outages]:
    """Outages of many members over a run."""
    scenario = sim.load(
        {
            "seed": 77,
            "horizon": horizon,
            "drain": "0s",
            "producers": {"p": {"arrivals": {"at": ["0s"]}}},
            "endpoints": {"shop": {"count": count, "policy": "m", "receiver": "r"}},
            "policies": {"m": {"schedule": ["0s"]}},
            "receivers": {"r": {"latency": "1s", "faults": [{"outage": fault}]}},
        }
    )
    return [member.outages for member in model.build(scenario).members]


SHAPES = {
    "exponential": ({"exponential": {"mean": "900s"}}, {"exponential": {"mean": "100s"}}, 0.1),
    "heavy tail": ({"exponential": {"mean": "1500s"}}, {"lognormal": {"mean": "500s", "cv": 2.0}}, 0.25),
    "regular": ("700s", "300s", 0.3),
    "erlang": ({"erlang": {"mean": "500s", "stages": 4}}, {"uniform": {"low": "200s", "high": "800s"}}, 0.5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_random_outages_are_in_steady_state_from_the_start(name: str) -> None:
    """At any time, the very start included, each of 1,500 members is down with the long-run share of time."""
    up, down, share = SHAPES[name]
    members = timelines(1500, {"up": up, "down": down})
    deviation = math.sqrt(share * (1 - share) / len(members))
    for at in (0, 1, 250, 1000, 3333, 30_000):
        out = sum(receiver.out(outages, 0, at * SECOND) for outages in members) / len(members)
        assert abs(out - share) < 4 * deviation, at


def test_random_outages_alternate_and_last_as_they_should() -> None:
    """Windows are in order and apart; whole ups and downs have their means; what is left at the start has more."""
    members = timelines(
        1500, {"up": {"exponential": {"mean": "900s"}}, "down": {"erlang": {"mean": "100s", "stages": 2}}}
    )
    downs, ups, left = [], [], []
    for outages in members:
        edges = list(zip(outages.start, outages.end, strict=True))
        assert all(start < end for start, end in edges)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(edges))
        ups += [(other[0] - one[1]) / SECOND for one, other in itertools.pairwise(edges[:20])]
        downs += [(end - start) / SECOND for start, end in edges[1:20]]
        left += [end / SECOND for start, end in edges[:1] if start == 0]
    # Only windows that begin within the run are kept, so that long ups at its end are missing: first ones only.
    assert abs(np.mean(downs) - 100) < 4 * 100 / math.sqrt(2 * len(downs))
    assert abs(np.mean(ups) - 900) < 4 * 900 / math.sqrt(len(ups))
    # an Erlang-2 met at random has E[X²] / (2 E[X]) = 75 s left, with E[X³] / (3 E[X]) = 10,000 s² as second moment
    assert abs(np.mean(left) - 75) < 4 * math.sqrt((10_000 - 75**2) / len(left))


def test_members_have_outages_of_their_own_unless_they_go_down_together() -> None:
    """Scope ``each`` gives every member its own timeline, ``all together`` one to all."""
    drawn = {"up": {"exponential": {"mean": "900s"}}, "down": {"exponential": {"mean": "100s"}}}
    assert len(set(timelines(20, drawn))) == 20
    assert len(set(timelines(20, drawn | {"scope": "all together"}))) == 1
    given = {"windows": [["1h", "2h"]]}
    assert set(timelines(3, given)) == {Outages((0, 1), (3600 * SECOND,), (7200 * SECOND,))}


def test_longer_run_only_adds_outages() -> None:
    """A member's outages do not depend on the horizon."""
    drawn = {"up": {"exponential": {"mean": "900s"}}, "down": {"exponential": {"mean": "100s"}}}
    for short, long in zip(timelines(20, drawn, "9000s"), timelines(20, drawn), strict=True):
        assert long.start[: len(short.start)] == short.start
        assert long.end[: len(short.end)] == short.end
        assert all(start >= 9000 * SECOND for start in long.start[len(short.start) :])


def test_outages_too_many_to_hold_are_refused() -> None:
    """Cycles of a microsecond over hours are a mistake, told with the figures."""
    with pytest.raises(sim.ScenarioError, match=r"receivers\.r\.faults\.0\.outage\.up.*5,000,000"):
        timelines(1, {"up": "1us", "down": "1us"})
