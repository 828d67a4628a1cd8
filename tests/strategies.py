"""Hypothesis strategies for whole scenarios: mappings as a user writes them, over all of the format.

``scenarios()`` draws wide ones, to be read and written; ``scenarios(SMALL)`` draws worlds of a few hundred
attempts at most, with times on a coarse grid so that much happens at the same instant, to be run. None replays
a file. Import them as ``from tests.strategies import scenarios``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from sim import presets
from sim.fields import UNITS_NS, format_duration

SECOND = UNITS_NS["s"]
Mapping = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a world may be."""

    grid: int
    """Times are multiples of it, ns."""
    horizon: int
    least_horizon: int
    gap: int
    """The longest gap, ns."""
    latency: int
    per_s: int
    """Arrivals of one producer."""
    members: int
    entries: int
    """Entries of a schedule, and times that one repeats."""
    counts: int
    """Workers, servers, keys and other numbers of things."""

    @property
    def vast(self) -> bool:
        """Whether the shortest time goes into the horizon more often than a run could bear."""
        return self.horizon > self.grid * 10**6


SMALL = Scale(
    grid=SECOND // 2,
    horizon=40 * SECOND,
    least_horizon=20 * SECOND,
    gap=8 * SECOND,
    latency=2 * SECOND,
    per_s=4,
    members=2,
    entries=3,
    counts=4,
)
WIDE = Scale(
    grid=1,
    horizon=10**16,
    least_horizon=1,
    gap=10**15,
    latency=10**12,
    per_s=10**6,
    members=10**6,
    entries=6,
    counts=10**6,
)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
event_types = st.one_of(
    st.sampled_from(["order.paid", "order.sent", "on", "no", "404", "1e3", "a: b"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8),
)
shares = st.one_of(
    st.sampled_from(["0%", "5%", "50%", "100%", 0, 0.25, 1]),
    st.floats(0, 1).map(lambda share: round(share, 3)),
)
positive_shares = st.sampled_from(["0.1%", "20%", "70%", 0.5, 1])
statuses = st.sampled_from([400, 404, 410, 429, 500, 503])


def optional(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Mapping]:
    """Mappings with any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


def written(ns: int) -> st.SearchStrategy[Any]:
    """The spellings of a duration."""
    spellings: list[Any] = [format_duration(ns)]
    if ns == 0:
        spellings += [0, "0", "0ms"]
    elif ns % SECOND == 0 and ns > 60 * SECOND:
        spellings.append(f"{ns // (60 * SECOND)}m{ns // SECOND % 60}s")
    elif ns % (SECOND // 1000) == 0 and ns < 10**6 * SECOND:
        spellings.append(f"{ns / SECOND:.3f}s")
    return st.sampled_from(spellings)


def durations(most: int, scale: Scale, least: int = 1) -> st.SearchStrategy[Any]:
    """Durations as text, from ``least`` grid steps up to ``most`` ns."""
    steps = st.integers(least, max(most // scale.grid, least))
    return steps.flatmap(lambda step: written(step * scale.grid))


def distributions(most: int, scale: Scale, least: int = 0) -> st.SearchStrategy[Any]:
    """Random durations in every form, with a mean of at most about ``most`` ns."""
    some = durations(most, scale)
    constant = durations(most, scale, least)
    cv = st.sampled_from([0.5, 1, 2.5])
    pairs = st.tuples(st.integers(0, 9), st.integers(1, 9)).map(
        lambda pair: (format_duration(pair[0] * scale.grid), format_duration(sum(pair) * scale.grid))
    )
    ascending = st.lists(st.integers(0, max(most // scale.grid, 1)), min_size=2, max_size=4).map(
        lambda steps: [format_duration(step * scale.grid) for step in sorted(steps)]
    )
    return st.one_of(
        constant,
        constant.map(lambda at: {"constant": at}),
        st.fixed_dictionaries({"mean": some, "cv": cv}),
        st.one_of(
            st.fixed_dictionaries({"mean": some}).map(lambda form: {"exponential": form}),
            pairs.map(lambda pair: {"lognormal": {"median": format_duration(scale.grid), "p99": "1000h"}}),
            st.fixed_dictionaries({"mean": some, "cv": cv}).map(lambda form: {"lognormal": form}),
            st.fixed_dictionaries({"median": some, "sigma": cv}).map(lambda form: {"lognormal": form}),
            st.fixed_dictionaries({"mean": some}, optional={"stages": st.integers(1, 9)}).map(
                lambda form: {"erlang": form}
            ),
            st.fixed_dictionaries({"mean": some, "cv": st.sampled_from([1.5, 3])}).map(
                lambda form: {"hyperexponential": form}
            ),
            st.fixed_dictionaries({"minimum": some, "shape": st.sampled_from([1.5, 3])}).map(
                lambda form: {"pareto": form}
            ),
            pairs.map(lambda pair: {"uniform": {"low": pair[0], "high": pair[1]}}),
            ascending.map(lambda at: {"empirical": {"quantiles": at}}),
            ascending.map(
                lambda at: {"empirical": {"quantiles": dict(zip(["10%", 0.5, "99%", 1], at, strict=False))}}
            ),
        ),
    )


# --------------------------------------------------------------------------- producers


@st.composite
def arrivals(draw: st.DrawFn, scale: Scale) -> Mapping:
    """When events happen, in every way but a replay."""
    rates = st.integers(1, scale.per_s).flatmap(
        lambda n: st.sampled_from([f"{n}/s", f"{n * 60}/m", f"{n} / min"])
    )
    some = durations(scale.horizon, scale)
    ramps = st.fixed_dictionaries({"from": rates, "to": st.just("0/s"), "over": some})
    stays = distributions(scale.horizon, scale, least=1)
    if scale.vast:  # no more bursts than a run can walk through
        stays = durations(scale.horizon, scale, least=10**11)
    at = st.lists(st.integers(0, scale.horizon // scale.grid), min_size=1, max_size=20)
    return draw(
        st.one_of(
            rates.map(lambda rate: {"constant": rate}),
            rates.map(lambda rate: {"poisson": rate}),
            st.fixed_dictionaries(
                {"on": rates, "on_for": stays, "off_for": stays}, optional={"off": st.just("1/h")}
            ).map(lambda form: {"bursts": form}),
            st.lists(rates, min_size=1, max_size=4).map(lambda form: {"daily": ["0/s", *form]}),
            st.fixed_dictionaries(
                {"rates": st.lists(rates, min_size=1, max_size=2)}, optional={"period": some}
            ).map(lambda form: {"daily": form}),
            st.one_of(ramps, ramps.map(lambda ramp: {**ramp, "from": ramp["to"], "to": ramp["from"]})).map(
                lambda form: {"ramp": form}
            ),
            at.map(lambda steps: {"at": [format_duration(step * scale.grid) for step in sorted(steps)]}),
        )
    )


@st.composite
def producers(draw: st.DrawFn, scale: Scale) -> Mapping:
    """A producer, with one event a change or a batch of them."""
    kinds = draw(st.lists(event_types, min_size=1, max_size=3, unique=True))
    most = min(scale.counts, 4)
    counts = st.one_of(st.integers(0, most), st.fixed_dictionaries({"poisson": st.sampled_from([0, 0.5, 2])}))
    mix = draw(
        st.one_of(
            st.just({}),
            st.fixed_dictionaries(
                {"events": st.fixed_dictionaries({kind: st.sampled_from([0, 1, 2.5, 90]) for kind in kinds})}
            ),
            st.fixed_dictionaries({"batch": st.fixed_dictionaries(dict.fromkeys(kinds, counts))}),
        )
    )
    for section in mix.values():
        section[kinds[0]] = 1  # something must happen
    lives = distributions(scale.horizon, scale)
    rest = optional(
        keys=optional(count=st.integers(1, scale.counts), zipf=st.sampled_from([0, 0.5, 1.1, 2])),
        objects=optional(deleted_after=lives, updated_every=lives),
        body=st.sampled_from([0, 512, "512B", "2kB", "1.5MB"]),
    )
    return {"arrivals": draw(arrivals(scale)), **mix, **draw(rest)}


# --------------------------------------------------------------------------- policies


def segments(scale: Scale) -> st.SearchStrategy[Any]:
    """Entries of a schedule that end."""
    gap, any_gap = durations(scale.gap, scale), durations(scale.gap, scale, least=0)
    times = st.integers(1, scale.entries)
    return st.one_of(
        any_gap,
        st.fixed_dictionaries({"delay": any_gap}, optional={"times": times}),
        st.fixed_dictionaries(
            {"base": gap, "times": times}, optional={"factor": st.sampled_from([0.5, 1, 1.5, 3]), "cap": gap}
        ).map(lambda form: {"exponential": form}),
        st.fixed_dictionaries({"start": any_gap, "step": any_gap, "times": times}).map(
            lambda form: {"arithmetic": form}
        ),
        st.fixed_dictionaries(
            {"exponent": st.sampled_from([1, 2, 4.5]), "to": st.just(scale.entries)},
            optional={
                "from": st.integers(0, scale.entries),
                "unit": durations(SECOND, scale),
                "offsets": st.booleans(),
            },
        ).map(lambda form: {"power": form}),
        st.fixed_dictionaries(
            {"retries": times, "horizon": gap}, optional={"factor": st.sampled_from([0.5, 1, 2.5])}
        ).map(lambda form: {"fit": form}),
    )


def endless(scale: Scale) -> st.SearchStrategy[Any]:
    """Entries of a schedule that do not end."""
    gap = durations(scale.gap, scale)
    return st.one_of(
        st.fixed_dictionaries({"delay": gap, "times": st.just("forever")}),
        st.fixed_dictionaries({"base": gap, "times": st.just("forever")}, optional={"cap": gap}).map(
            lambda form: {"exponential": form}
        ),
    )


def jitters(scale: Scale) -> st.SearchStrategy[Any]:
    """Jitter in every form."""
    gap = durations(scale.gap, scale)
    return st.one_of(
        st.sampled_from(["none", "full", "equal", "decorrelated", "exponential"]),
        positive_shares.map(lambda share: {"plus_minus": share}),
        gap.map(lambda up_to: {"additive": up_to}),
        gap.map(lambda base: {"decorrelated": {"base": base}}),
        st.just({"decorrelated": {"base": format_duration(scale.grid), "cap": format_duration(scale.gap)}}),
    )


def retry_afters(scale: Scale) -> st.SearchStrategy[Any]:
    """What is made of Retry-After, in every form."""
    scope = st.sampled_from(["event", "endpoint"])
    clamps = st.sampled_from(
        [[1, 2], [0, 0.5], ["0s", format_duration(scale.gap)], [0, format_duration(scale.grid)]]
    )
    return st.one_of(
        st.sampled_from(["ignore", "honour"]),
        st.fixed_dictionaries({"clamp": clamps}, optional={"scope": scope}),
        st.fixed_dictionaries({"honour": st.just(True)}, optional={"scope": scope}),
    )


@st.composite
def policies(draw: st.DrawFn, scale: Scale) -> Mapping:
    """A policy of its own, or a bundled one with changes."""
    gap = durations(scale.gap, scale)
    count = st.integers(1, scale.counts)
    entries = draw(st.lists(segments(scale), min_size=1, max_size=scale.entries))
    if draw(st.booleans()):
        entries.append(draw(endless(scale)))
    keys = ["410", 404, "4xx", "5XX", "100-199", "timeout", "refused", "redirect"]
    rules = st.dictionaries(st.sampled_from(keys), st.sampled_from(["success", "retry", "drop", "disable"]))
    rest = optional(
        jitter=jitters(scale),
        timeout=gap,
        connect_timeout=gap,
        first_timeout=gap,
        total_budget=gap,
        success=st.sampled_from(["2xx", 200, [200], [200, "201", "3xx"], "200-299"]),
        verdicts=st.one_of(rules, rules.map(lambda table: [{key: table[key]} for key in table])),
        retry_after=retry_afters(scale),
        max_age=gap,
        max_age_from=st.sampled_from(["event", "first_attempt"]),
        max_attempts=st.integers(1, scale.entries * 3),
        budget=optional(
            ratio=st.sampled_from([0, 0.1, 1]),
            min_per_s=st.sampled_from([0, 0.5]),
            capacity=st.sampled_from([1, 3, 50]),
        ),
        breaker=st.fixed_dictionaries(
            {"failures": positive_shares}, optional={"window": gap, "min_requests": count, "open": gap}
        ),
        disable=st.one_of(
            st.fixed_dictionaries({"failing_for": gap}),
            st.fixed_dictionaries({"consecutive": count}),
            st.fixed_dictionaries(
                {"share": positive_shares}, optional={"window": gap, "min_requests": count}
            ),
        ).flatmap(lambda rule: st.sampled_from([rule, {**rule, "rest": "hold"}, {**rule, "rest": "drop"}])),
    )
    block = draw(rest)
    if draw(st.integers(0, 3)) == 0:
        return {"preset": draw(st.sampled_from(presets.names("policies"))), **block}
    return {"schedule": entries, **block}


# --------------------------------------------------------------------------- receivers


@st.composite
def outages(draw: st.DrawFn, scale: Scale) -> Mapping:
    """Times at which a receiver is away, drawn or given."""
    if draw(st.booleans()):
        length = distributions(scale.horizon, scale, least=1)
        if scale.vast:
            length = durations(scale.horizon, scale, least=10**13)
        source = {"up": draw(length), "down": draw(length)}
    else:
        edges = draw(
            st.lists(st.integers(0, scale.horizon // scale.grid), min_size=2, max_size=6, unique=True)
        )
        edges = [format_duration(edge * scale.grid) for edge in sorted(edges)]
        source = {"windows": [edges[i : i + 2] for i in range(0, len(edges) - 1, 2)]}
    how = st.one_of(
        st.sampled_from(["refuse", "hang", "pause"]),
        statuses.map(lambda status: {"status": status}),
        errors(scale).map(lambda error: {"error": error}),
    )
    return {**source, **draw(optional(how=how, scope=st.sampled_from(["each", "all together"])))}


def errors(scale: Scale) -> st.SearchStrategy[Mapping]:
    """Answers that are errors."""
    return st.fixed_dictionaries(
        {"probability": shares},
        optional={
            "status": statuses,
            "latency": distributions(scale.latency, scale),
            "retry_after": durations(scale.gap, scale, least=0),
        },
    )


@st.composite
def receivers(draw: st.DrawFn, scale: Scale) -> Mapping:
    """A receiver with faults."""
    faults = st.one_of(
        errors(scale).map(lambda error: {"error": error}),
        shares.map(lambda share: {"lost_answer": {"probability": share}}),
        outages(scale).map(lambda outage: {"outage": outage}),
    )
    backlog = st.fixed_dictionaries(
        {"size": st.integers(0, scale.counts)},
        optional={
            "beyond": st.one_of(st.just("hang"), statuses),
            "retry_after": durations(scale.gap, scale, least=0),
        },
    )
    rest = optional(
        servers=st.one_of(st.just("unlimited"), st.integers(1, scale.counts)),
        backlog=st.one_of(st.just("unlimited"), backlog),
        answers=st.sampled_from(["after_processing", "on_arrival"]),
        faults=st.lists(faults, max_size=3),
        dedupe=st.one_of(
            st.sampled_from(["off", False]),
            durations(scale.gap, scale).map(lambda window: {"window": window}),
        ),
        stale_guard=st.sampled_from([True, False, "on", "off", "yes", "no"]),
    )
    return {"latency": draw(distributions(scale.latency, scale)), **draw(rest)}


# --------------------------------------------------------------------------- the sender


@st.composite
def endpoints(
    draw: st.DrawFn, scale: Scale, sources: dict[str, Mapping], rules: list[str], answering: list[str]
) -> Mapping:
    """An endpoint group that hears at least one event type."""
    heard = draw(st.lists(st.sampled_from(sorted(sources)), min_size=1, unique=True))
    kinds = [kind for name in heard for kind in event_types_of(sources[name])]
    mix = st.dictionaries(st.sampled_from(answering), st.sampled_from(["5%", "95%", 0.5]), min_size=1)
    # * and ? mean themselves only in a pattern; an event type is free to hold them, and [ too
    plain = [kind for kind in kinds if not set(kind) & set("[]*?")]
    patterns = st.lists(st.sampled_from([*plain, "*"]), min_size=1, max_size=3)
    group = draw(
        optional(
            count=st.integers(1, scale.members),
            route=st.sampled_from(["all", "by_key"]),
            subscribes=patterns,
            max_in_flight=st.integers(1, scale.counts),
            rate_limit=st.sampled_from(["1/s", "5/s", "600/m"]),
            mode=st.one_of(
                st.just("push"), durations(scale.gap, scale).map(lambda every: {"poll": {"every": every}})
            ),
        )
    )
    if set(heard) != set(sources) or draw(st.booleans()):
        group["producers"] = heard
    if isinstance(group.get("mode"), str) or "mode" not in group or draw(st.booleans()):
        group["policy"] = draw(st.sampled_from(rules))
    return {**group, "receiver": draw(st.one_of(st.sampled_from(answering), mix))}


def event_types_of(producer: Mapping) -> list[str]:
    """What a producer emits."""
    return list(producer.get("events") or producer.get("batch") or ["event"])


@st.composite
def dispatchers(draw: st.DrawFn, scale: Scale) -> Mapping:
    """A dispatcher, with its workers in every form that goes with its discipline."""
    count = st.integers(1, scale.counts)
    rest = optional(
        ordering=st.sampled_from(["none", "key", "endpoint"]),
        queue_holds=st.sampled_from(["body", "id"]),
        message=st.sampled_from(["full", "thin"]),
        overhead=durations(scale.latency, scale, least=0),
    )
    steps = st.lists(count, min_size=1, max_size=3).map(
        lambda counts: [[format_duration(i * scale.grid), n] for i, n in enumerate(counts)]
    )
    pools = st.one_of(
        st.just({}),
        st.fixed_dictionaries({"discipline": st.just("per_tier"), "workers": count}),
        st.fixed_dictionaries(
            {"discipline": st.just("per_tier"), "workers": st.lists(count, min_size=1, max_size=3)}
        ),
        st.fixed_dictionaries({"workers": st.one_of(st.just("unlimited"), count, steps)}),
        st.fixed_dictionaries({"lanes": st.fixed_dictionaries({"first": count, "retries": count})}),
        st.fixed_dictionaries({"lanes": st.just({"first": 1, "retries": 3}), "workers": st.just(4)}),
    )
    return {**draw(rest), **draw(pools)}


# --------------------------------------------------------------------------- scenarios


@st.composite
def scenarios(draw: st.DrawFn, scale: Scale = WIDE) -> Mapping:
    """A whole scenario that loads, as a mapping."""

    def named(block: st.SearchStrategy[Mapping], most: int) -> dict[str, Mapping]:
        keys = draw(st.lists(names, min_size=1, max_size=most, unique=True))
        return {key: draw(block) for key in keys}

    sources = named(producers(scale), 2)
    rules = named(policies(scale), 2)
    answering = named(receivers(scale), 2)
    # some that are bundled, and so not in the file
    policy_names = [*rules, *presets.names("policies")[:2]]
    receiver_names = [*answering, *presets.names("receivers")[:1]]
    mapping = {
        "horizon": draw(durations(scale.horizon, scale, least=scale.least_horizon // scale.grid)),
        "drain": draw(durations(scale.horizon, scale, least=0)),
        "producers": sources,
        "endpoints": named(endpoints(scale, sources, policy_names, receiver_names), 2),
        "policies": rules,
        "receivers": answering,
    }
    rest = optional(
        name=st.one_of(names, st.sampled_from(["yes", "2026-01-01", "1:30", "über"])),
        question=st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=12)),
        seed=st.integers(0, 2**64 - 1),
        kind=st.sampled_from(["terminating", "steady"]),
        warmup=st.sampled_from([0, "0s"]),
        sample_every=durations(scale.horizon, scale),
        dispatcher=dispatchers(scale),
    )
    return mapping | draw(rest)
