"""Gates of a load test: how they are written, what is refused before a run, and how they are judged after it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sim
from loadtest import gate, gate_baseline
from loadtest.gate_baseline import Baseline
from loadtest.gate_syntax import Figure, Gate, Limit, known_figures
from sim.errors import ScenarioError
from sim.metrics import metrics, metrics_by, part_of
from sim.trace import Trace
from tests import tiny

SECOND = 10**9
MIXED: dict[str, Any] = {
    "name": "mixed",
    "seed": 3,
    "horizon": "2m",
    "drain": "1m",
    "producers": {"p": {"arrivals": {"poisson": "10/s"}, "events": {"order.paid": 3, "x, y": 1}}},
    "endpoints": {
        "slow": {"policy": "m", "receiver": "r"},
        "type": {"policy": "m", "receiver": "q"},  # named like a word of the syntax
    },
    "policies": {"m": {"schedule": ["0s", "1s"], "timeout": "5s"}},
    "receivers": {
        "r": {
            "latency": {"exponential": {"mean": "500ms"}},
            "faults": [{"error": {"probability": "30%"}}],
        },
        "q": {"latency": "10ms"},
    },
}


@pytest.fixture(scope="module")
def mixed() -> Trace:
    """A run in which one endpoint loses a part and another nothing."""
    return sim.run(MIXED).trace


def judged(text: str, made: Any, **others: Any) -> gate.Judged:
    """One gate judged by a run."""
    return gate.judge(gate.read(text), made, **others)[0]


def refusal(text: Any) -> str:
    """Why a text is no gate."""
    with pytest.raises(ScenarioError) as caught:
        gate.read([text])
    return str(caught.value)


# --------------------------------------------------------------------------- how they are written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("delivery_latency_s_p99<2", "delivery_latency_s_p99<2"),
        ("  lost_share\t== \n 0 ", "lost_share==0"),  # blanks of any kind
        ("lost_share ≤ 1 %", "lost_share<=1%"),
        ("lost_share≠0", "lost_share!=0"),
        ("delivery_latency_s_p99 < 2.31 s", "delivery_latency_s_p99<2.31s"),  # as outputs show it
        ("within_share{ 30s } >= 99.9%", "within_share{30s}>=99.9%"),
        ("lost_share [ endpoint = slow ] == 0", "lost_share[endpoint=slow]==0"),
        ("late_share[type=order.*]<0.01", "late_share[type=order.*]<0.01"),
        ("lost_share[type=a,endpoint=type]<1", "lost_share[endpoint=type,type=a]<1"),
        ('lost_share[type="a, b] \\" <= c"]<1', 'lost_share[type="a, b] \\" <= c"]<1'),
        ("delivery_latency_s_p99[30 s..90]<2", "delivery_latency_s_p99[30s..90s]<2"),
        ("lost_share[..1m,endpoint=sim]==0", "lost_share[endpoint=sim,..1m]==0"),
        ("lost_share[0..]==0", "lost_share[0s..]==0"),
        ("lost_share<=baseline", "lost_share<=baseline"),
        ("lost_share <= baseline * 1.1", "lost_share<=baseline*1.1"),
        ("lost_share>=sim - 10 %", "lost_share>=sim-10%"),
        ("queue_wait_s_p99<=baseline + 250 ms", "queue_wait_s_p99<=baseline+250ms"),
        ("goodput_per_s==sim+-10%", "goodput_per_s==sim±10%"),
        ("goodput_per_s>=50/s", "goodput_per_s>=50/s"),
        ("requests>=1e3", "requests>=1e3"),
        ("request_latency_s_p999<250ms", "request_latency_s_p999<250ms"),
    ],
)
def test_a_gate_is_written_back_in_one_form(text: str, written: str) -> None:
    """However it was spaced, a gate has one spelling, which reads as the same gate."""
    (read,) = gate.read(text)
    assert str(read) == written
    assert gate.read(written) == (read,)


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("delivery_latency_s_p99<2", Fraction(2)),
        ("delivery_latency_s_p99<2m", Fraction(120)),
        ("delivery_latency_s_p99<250ms", Fraction(1, 4)),
        ("lost_share<1%", Fraction("0.01")),
        ("attempts_per_delivery<150%", Fraction(3, 2)),
        ("attempts_per_s<300/m", Fraction(5)),
        ("backlog_bytes_max<2kB", Fraction(2000)),
        ("egress_bytes_per_s<2kB/s", Fraction(2000)),
        ("dropped<=3", Fraction(3)),
    ],
)
def test_a_limit_is_in_the_unit_of_its_figure(text: str, offset: Fraction) -> None:
    """Durations become seconds, per cent shares, rates per second and sizes bytes."""
    assert gate.read(text)[0].limit.offset == offset


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "FIGURE OPERATOR LIMIT"),
        ("lost_share", "an operator is one of"),
        ("lost_share=0", "equal is written =="),
        ("lost_share=<0", "the sign comes first"),
        ("lost_share<0<1", "FIGURE OPERATOR LIMIT"),
        ("lost_share<", "nothing to compare with"),
        ("lost_sahre<1%", "did you mean lost_share?"),
        ("request_latency_p99<1", "did you mean request_latency_s_p99?"),
        ("within_share>=99%", "write within_share{30s}"),
        ("within_share{}>=99%", "nothing in braces"),
        ("within_share{0s}>=99%", "must be above 0s"),
        ("within_share{30}>=99%", "30 in braces"),
        ("lost_share<2", "between 0% and 100%"),
        ("lost_share<nan", "neither a number"),
        ("lost_share<-1", "limits are at least 0"),
        ("deliveries<1e99", "above 10¹⁵"),
        ("deliveries<" + "9" * 400, "must be a number"),
        ("deliveries<" + "9" * 4000, "longer than 1000"),
        ("deliveries<1%", "must be a number"),
        ("delivery_latency_s_p99<2 parsecs", "must be a duration"),
        ("delivery_latency_s_p99<٣", "must be a duration"),  # digits that are not ASCII
        ("lost_share<simm", "did you mean sim?"),
        ("lost_share<=sim*", "has the factor empty"),
        ("lost_share<=sim±1%", "has ± after <="),
        ("lost_share<=sim+", "nothing to compare with"),
        ("lost_share[]<1%", "nothing in brackets"),
        ("lost_share[..]<1%", "write one such as 30s..60s"),
        ("lost_share[60s..30s]<1%", "ends before it has begun"),
        ("lost_share[30s..30s]<1%", "ends before it has begun"),
        ("lost_share[30s...60s]<1%", "in its window"),
        ("lost_share[1s..2s..3s]<1%", "write one such as"),
        ("lost_share[endpont=a]<1%", "did you mean endpoint?"),
        ("lost_share[endpoint=]<1%", "without a name"),
        ("lost_share[endpoint=a,endpoint=b]<1%", "two of endpoint"),
        ("lost_share[1s..2s,3s..4s]<1%", "two of window"),
        ('lost_share[type="a]<1%', "FIGURE OPERATOR LIMIT"),
        ('lost_share[type="\\q"]<1%', "no text in quotes"),
        ("lost_share[slow]<1%", "must be endpoint=GROUP"),
        ("requests[endpoint=a]>1", "the whole load generator"),
        ("drain_s[1s..2s]<1", "leave it out"),
        (3, "must be a text"),
    ],
)
def test_what_is_no_gate_is_refused_with_a_way_out(text: Any, told: str) -> None:
    """A message names the gate and what to write instead."""
    message = refusal(text)
    assert told in message
    assert message.startswith("gate")


def test_gates_that_the_readme_shows_are_gates() -> None:
    """Every example of the table in ``loadtest/README.md`` can be read."""
    text = (Path(gate.__file__).parent / "README.md").read_text("utf-8").partition("## Gates")[2]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    shown = [code for cell in cells for code in re.findall("`([^`…]+)`", cell) if "=" in code or "<" in code]
    assert len(gate.read(shown)) == len(shown) >= 10


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Two wrong gates are two problems; the right one between them is none."""
    with pytest.raises(ScenarioError) as caught:
        gate.read(["lost_share=0", "lost_share==0", "nonsense<1"])
    assert [problem.value for problem in caught.value.problems] == ["lost_share=0", "nonsense<1"]


def test_the_same_gate_twice_is_one() -> None:
    """However they are spaced, equal gates are judged once."""
    assert len(gate.read(["lost_share==0", " lost_share == 0"])) == 1


NAMES = st.text(min_size=1, max_size=12)
EDGES = st.one_of(st.none(), st.integers(0, 10**6).map(lambda ms: ms * 1_000_000))


@st.composite
def figures(draw: st.DrawFn) -> Figure:
    """Any figure of any deliveries."""
    metric = draw(st.sampled_from([name for name in known_figures() if name != "drain_s"]))
    if metric.startswith(("request", "dropped", "lateness")):
        return Figure(metric=metric)
    start, end = draw(EDGES), draw(EDGES)
    if end is not None and (start or 0) >= end:
        end = (start or 0) + SECOND
    named = {"endpoint": draw(st.none() | NAMES), "event_type": draw(st.none() | NAMES)}
    return Figure(metric=metric, start_ns=start, end_ns=end, **named)


@given(
    figure=figures(),
    operator=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    limit=st.sampled_from(["0", "0.5", "1e-2", "baseline", "sim*1.1", "sim*110%", "baseline-5%", "sim+0.5"]),
)
def test_whatever_is_written_reads_back(figure: Figure, operator: str, limit: str) -> None:
    """A gate built from any figure, of a group or type of any name, survives being written and read."""
    (read,) = gate.read(f"{figure}{operator}{limit}")
    assert (read.figure, read.operator) == (figure, operator)
    assert gate.read(str(read)) == (read,)


WORDS = [
    "lost_share",
    "within_share{30s}",
    "[",
    "]",
    "endpoint=",
    "type=",
    '"',
    "\\",
    "..",
    ",",
    "<",
    "==",
    "=",
]
NUMBERS = ["1", "%", "s", "sim", "baseline", "*", "±", "+", "-", " ", "\n", "1e9", "٣", "\ud800"]
PIECES = st.lists(st.sampled_from(WORDS + NUMBERS), max_size=14).map("".join)


@given(text=st.text(max_size=40) | PIECES)
@example(text='lost_share[type="\\ud800"]==0')
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    """Any text is a gate that reads back, or a caller's mistake; never another error."""
    try:
        (read,) = gate.read(text)
    except ScenarioError:
        return
    assert gate.read(str(read)) == (read,)


# --------------------------------------------------------------------------- before the run


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lost_share[endpoint=slwo]==0", "did you mean slow? (known: slow, type)"),
        ("lost_share[type=order]==0", "did you mean order.paid?"),
        ("lost_share[type=ORDER.*]==0", "matches no event type"),
        ("lost_share[30s..3m]==0", "0s to 2m"),
        ("lost_share[3m..]==0", "0s to 2m"),
        ("lost_share<=baseline*2", "needs a baseline"),
    ],
)
def test_what_a_scenario_lacks_is_refused_before_the_run(text: str, told: str) -> None:
    """Groups, types and windows are compared with the scenario, and a baseline must be there."""
    with pytest.raises(ScenarioError, match="gate is") as caught:
        gate.check(gate.read(text), sim.load(MIXED))
    assert told in str(caught.value)


def test_what_a_scenario_has_is_not_refused() -> None:
    """Groups named like words of the syntax, types with commas, patterns and open windows are fine."""
    texts = [
        "lost_share[endpoint=type]==0",
        'lost_share[type="x, y"]==0',
        "lost_share[type=*.paid]==0",
        "lost_share[..2m]==0",
        "lost_share<=sim*2",
    ]
    gate.check(gate.read(texts), sim.load(MIXED))


def test_a_window_within_the_warm_up_is_refused() -> None:
    """Figures leave the warm-up out, so a window must not reach into it."""
    scenario = sim.load(MIXED, ["warmup=30s"])
    gate.check(gate.read("lost_share[30s..40s]==0"), scenario)
    with pytest.raises(ScenarioError, match="30s to 2m"):
        gate.check(gate.read("lost_share[20s..40s]==0"), scenario)


# --------------------------------------------------------------------------- after it


def test_figures_of_parts_are_those_of_metrics(mixed: Trace) -> None:
    """A group's figures are those of ``metrics_by``, and of a type with a comma too."""
    by_group, by_type = metrics_by(mixed, "endpoint"), metrics_by(mixed, "type")
    for metric in ("lost_share", "delivery_latency_s_p99", "attempts_per_s", "deliveries", "events"):
        own = judged(f"{metric}[endpoint=slow]>=0", mixed).value
        assert own == by_group.loc["slow", metric]
        assert judged(f'{metric}[type="x, y"]>=0', mixed).value == by_type.loc["x, y", metric]


def test_a_pattern_means_every_type_that_matches(mixed: Trace) -> None:
    """``*`` is all deliveries; the parts add up to it."""
    counts = [judged(f"deliveries[type={t}]>0", mixed).value for t in ("*", "order.*", '"x, y"')]
    assert counts[0] == counts[1] + counts[2] == len(mixed.deliveries)
    assert min(counts) > 0


def test_a_type_of_this_very_name_comes_before_patterns() -> None:
    """Brackets are a pattern, unless an event type is called so."""
    producers = {"p": {**tiny.producer("0s"), "batch": {"a[1]": 2, "a1": 3}}}
    made = sim.run(tiny.world(producers=producers)).trace
    assert judged('deliveries[type="a[1]"]>0', made).value == 2
    assert judged('deliveries[type="a[1-9]"]>0', made).value == 3
    gate.check(gate.read('deliveries[type="a[1]"]>0'), sim.load(tiny.world(producers=producers)))


def test_a_window_is_a_run_with_other_ends(mixed: Trace) -> None:
    """Deliveries are those created in it, its end excluded, and rates are over its length."""
    created = mixed.deliveries["created_s"]
    inside = ((created >= 30) & (created < 60)).to_numpy()
    assert judged("deliveries[30s..60s]>0", mixed).value == inside.sum()
    expected = metrics(part_of(mixed, inside, None))["lost_share"]
    assert judged("lost_share[30s..60s]>=0", mixed).value == expected
    started = mixed.attempts["started_s"]
    per_s = ((started >= 30) & (started < 60)).sum() / 30
    assert judged("attempts_per_s[30s..60s]>0", mixed).value == per_s
    both = inside & mixed.deliveries["endpoint"].astype(str).str.startswith("slow:").to_numpy()
    assert judged("deliveries[endpoint=slow,30s..60s]>0", mixed).value == both.sum()


def test_an_event_at_the_edge_belongs_to_the_later_window() -> None:
    """Windows that touch share no delivery and lose none."""
    made = sim.run(tiny.world("0s", "10s", "20s")).trace
    texts = [f"deliveries[{window}]>=0" for window in ("..10s", "10s..20s", "20s..")]
    assert [g.value for g in gate.judge(gate.read(texts), made)] == [1.0, 1.0, 1.0]


ONE_SECOND = tiny.world("0s", "10s")
"""Two deliveries, each processed a second after its event."""


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("delivery_latency_s_p50==1s", True),
        ("delivery_latency_s_p50!=1s", False),
        ("delivery_latency_s_p50<1s", False),
        ("delivery_latency_s_p50<=1s", True),
        ("delivery_latency_s_p50>1s", False),
        ("delivery_latency_s_p50>=1s", True),
        ("delivery_latency_s_p50<1001ms", True),
        ("within_share{1s}==100%", True),
        ("within_share{999ms}==0", True),
        ("lost_share==0", True),
        ("lost_share>0", False),
    ],
)
def test_comparisons_are_exact(text: str, ok: bool) -> None:
    """At the limit itself ``<`` fails and ``<=`` holds: times are whole nanoseconds."""
    assert judged(text, sim.run(ONE_SECOND).trace).ok is ok


@pytest.mark.parametrize(
    ("text", "ok", "limit"),
    [
        ("delivery_latency_s_p50<=baseline", False, 0.9),
        ("delivery_latency_s_p50<=baseline*1.2", True, 1.08),
        ("delivery_latency_s_p50<=baseline+11%", False, 0.999),
        ("delivery_latency_s_p50<=baseline+100ms", True, 1.0),
        ("delivery_latency_s_p50>=baseline-5%", True, 0.855),
        ("delivery_latency_s_p50==baseline±12%", True, 0.9),
        ("delivery_latency_s_p50==baseline±11%", False, 0.9),
        ("delivery_latency_s_p50!=baseline±11%", True, 0.9),
        ("delivery_latency_s_p50==baseline±100ms", True, 0.9),
        ("delivery_latency_s_p50<=baseline*0", False, 0.0),
    ],
)
def test_a_baseline_gives_the_limit(text: str, ok: bool, limit: float) -> None:
    """Factors, per cent and amounts start from the earlier figure, 0.9 s here; the run has 1 s."""
    baseline = Baseline(source="old.json", scenario=None, figures={"delivery_latency_s_p50": 0.9})
    found = judged(text, sim.run(ONE_SECOND).trace, baseline=baseline)
    assert (found.ok, found.limit) == (ok, limit)


@pytest.mark.parametrize(("base", "percent"), [(1.0, 10), (3.0, 30), (0.7, 7)])
def test_what_lies_at_the_edge_of_a_tolerance_is_within_it(base: float, percent: int) -> None:
    """The sum that is met exactly on paper is met, on either side; a nanosecond beyond it is not."""
    baseline = Baseline(source="old.json", scenario=None, figures={"request_latency_s_p99": base})
    made = sim.run(ONE_SECOND).trace
    edges = [float(Fraction(repr(base)) * (100 + way * percent) / 100) for way in (1, -1)]
    for value, ok in [*((edge, True) for edge in edges), (edges[0] + 1e-9, False), (edges[1] - 1e-9, False)]:
        text = f"request_latency_s_p99==baseline±{percent}%"
        assert judged(text, made, requests={"request_latency_s_p99": value}, baseline=baseline).ok is ok


def test_a_miss_beyond_a_tolerance_is_counted_from_its_edge() -> None:
    """1 s is 10 ms more than the 10 % around 0.9 s allow."""
    baseline = Baseline(source="old.json", scenario=None, figures={"delivery_latency_s_p50": 0.9})
    found = judged("delivery_latency_s_p50==baseline+-10%", sim.run(ONE_SECOND).trace, baseline=baseline)
    assert found.by == (
        "delivery_latency_s_p50 is 1 s; it must be within 90 ms of 900 ms (baseline±10%, and baseline is 900 ms): "
        "1.01 % too much"
    )
    assert found.tolerance == 0.09


@given(st.floats(0, 1e6).filter(lambda base: base == 0 or base > 1e-6), st.integers(0, 300))
def test_a_factor_and_its_per_cent_give_the_same_limit(base: float, percent: int) -> None:
    """``*1.1`` and ``+10%`` agree to the last bit, and are the decimal's own product."""
    texts = (f"lost_share<=sim+{percent}%", f"lost_share<=sim*{percent + 100}%")
    limits = [gate.read(text)[0].limit.of(base)[0] for text in texts]
    assert limits == [float(Fraction(repr(base)) * (100 + percent) / 100)] * 2


def test_the_simulation_gives_the_limit(mixed: Trace) -> None:
    """``sim`` is the same figure, of the same part, of the prediction."""
    other = sim.run(MIXED, seed=99).trace
    text = "lost_share[endpoint=slow,30s..60s]<=sim*1.5"
    found = judged(text, mixed, prediction=other)
    assert found.limit == pytest.approx(1.5 * judged(text.replace("sim*1.5", "1"), other).value, rel=1e-12)
    with pytest.raises(ScenarioError, match="needs a simulation"):
        judged(text, mixed)
    with pytest.raises(ScenarioError, match="no load generator"):
        judged("requests>=sim", mixed, requests={"requests": 1.0}, prediction=other)


def test_what_is_needed_is_known_before() -> None:
    """A run that no gate compares with the simulation need not be simulated."""
    gates = gate.read(["lost_share==0", "lost_share<=sim"])
    assert gate.needs(gates, "sim")
    assert not gate.needs(gates, "baseline")


def test_figures_of_the_load_generator_are_given_by_name(mixed: Trace) -> None:
    """They come from the mapping; a simulation, which has none, refuses them."""
    assert judged("requests>=5", mixed, requests={"requests": 5}).ok
    with pytest.raises(ScenarioError, match="this run has none"):
        judged("dropped==0", mixed)


def test_a_failed_gate_says_by_how_much(mixed: Trace) -> None:
    """Value, limit and miss in words, in the unit of the figure."""
    requests = {"request_latency_s_p99": 2.31, "requests": 5.0, "dropped": 3.0, "lateness_s_p99": 2.0000001}
    told = {
        "request_latency_s_p99<2": "request_latency_s_p99 is 2.31 s; it must be < 2 s: 15.5 % too much",
        "requests>=20": "requests is 5; it must be >= 20: 75 % too little",
        "dropped==0": "dropped is 3; it must be == 0: 3 too much",
        "request_latency_s_p99<1ms": "request_latency_s_p99 is 2.31 s; it must be < 1 ms: 2,310 times the limit",
        "requests<5": "requests is 5; it must be < 5: the limit itself is not <",
        "requests!=5": "requests is 5; it must be != 5: that is what it is",
        # what looks alike when rounded is shown with more digits
        "lateness_s_p99<=2": "lateness_s_p99 is 2.0000001 s; it must be <= 2.0 s: 5e-06 % too much",
    }
    found = gate.judge(gate.read(list(told)), mixed, requests=requests)
    assert [g.by for g in found] == list(told.values())
    assert not any(g.ok for g in found)


def test_a_share_is_told_with_its_counts_and_in_points() -> None:
    """One of two deliveries lost: half, and how many that is."""
    made = sim.run(tiny.world("0s", "10s", receivers=tiny.failing("0s", "5s"))).trace
    assert judged("lost_share<=10%", made).by == (
        "lost_share is 50 % (1 of 2 deliveries); it must be <= 10 %: 40 points too much"
    )


def test_a_backlog_that_never_drains_is_told() -> None:
    """What the outage has left waits until the run ends, and nothing waited before."""
    receivers = tiny.receiver("1s", tiny.outage("49s", "51s"))
    world = tiny.world("0s", "50s", drain="5s", policies=tiny.policy("0s", "200s"), receivers=receivers)
    found = judged("drain_s>=0", sim.run(world).trace)
    assert not found.ok
    assert "never came down" in found.by


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("delivery_latency_s_p99<2", "nothing was processed"),
        ("delivery_latency_s_p99!=2", "nothing was processed"),
        ("delivery_latency_s_p99>=0", "nothing was processed"),
        ("worker_utilization<1", "workers are unlimited"),
        ("drain_s<1", "no outage ended in the run"),
        ("empty_poll_share<1", "nothing was polled"),
        ("lost_share[50s..60s]==0", "no such delivery was created"),
        ("request_latency_s_p99<1", "made no request"),
    ],
)
def test_a_figure_that_does_not_exist_fails_its_gate(text: str, reason: str) -> None:
    """Whatever the comparison, NaN passes none, and the reason is told."""
    world = tiny.world("0s", receivers=tiny.failing("0s", "5000s"))
    made = sim.run(world).trace
    found = judged(text, made, requests={"request_latency_s_p99": math.nan})
    assert not found.ok
    assert reason in found.by
    assert found.to_json()["value"] is None


def test_an_empty_run_fails_every_gate_about_deliveries() -> None:
    """A trace without a row is judged, not crashed on; counts are 0, all else does not exist."""
    made = sim.run(tiny.world("99s"), overrides=["producers.p.arrivals={poisson: 0.0000001/s}"]).trace
    assert not len(made.deliveries)
    texts = [f"{metric}>=0" for metric in known_figures() if metric in made.metrics]
    texts += [f"{text[:-3]}[endpoint=e,1s..2s]>=0" for text in texts if not text.startswith("drain")]
    for found in gate.judge(gate.read(texts), made):
        assert found.ok is not math.isnan(found.value)
    assert judged("deliveries==0", made).ok
    assert not judged("lost_share==0", made).ok


def test_a_streamed_run_has_figures_and_no_parts() -> None:
    """Gates about all deliveries are judged; others say what to do."""
    made = sim.run(MIXED, stream=True).made
    assert judged("lost_share<50%", made).ok
    with pytest.raises(ScenarioError, match="stream=False"):
        judged("lost_share[endpoint=slow]<50%", made)


def test_a_type_that_did_not_occur_is_no_mistake(mixed: Trace) -> None:
    """A load test knows its types from what happened: the gate fails, and the run is not thrown away."""
    found = judged("lost_share[type=never]==0", mixed)
    assert not found.ok
    assert "no such delivery" in found.by


# --------------------------------------------------------------------------- baselines


def saved(folder: Path, content: Any) -> Path:
    """A file with this as JSON, or as it is."""
    path = folder / "old.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_what_a_run_prints_is_a_baseline(tmp_path: Path, mixed: Trace) -> None:
    """The JSON of ``hooklab run``, and the gates of a load test with the figures of their parts."""
    result = sim.run(MIXED)
    scoped = judged("lost_share[endpoint=slow]<=50%", mixed)
    path = saved(tmp_path, result.to_json() | {"gates": [scoped.to_json()]})
    baseline = gate_baseline.read(path)
    gates = gate.read(["lost_share[endpoint=slow]<=baseline", "delivery_latency_s_p99<=baseline*1.1"])
    gate.check(gates, result.scenario, baseline)
    assert [g.ok for g in gate.judge(gates, result.trace, baseline=baseline)] == [True, True]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no baseline"),
        ({"metrics": []}, "is no baseline"),
        ({"metrics": {"lost_share": "0"}}, "no number"),
        ({"metrics": {"lost_share": True}}, "no number"),
        ('{"metrics": {"lost_share": NaN}}', "no number"),
        ('{"metrics": {"lost_share": 1e999}}', "no number"),
        ({"metrics": {"lost_share": 10**400}}, "no number"),
        ({"metrics": {}, "gates": [3]}, "has gates that are none"),
        ({"metrics": {}, "gates": 3}, "has gates that are none"),
        ({"metrics": {"late_share": 0}}, "has no figure lost_share"),
        ({"metrics": {"lost_share": None}}, "nothing to count"),
        ({"metrics": {"lost_share": 0}, "scenario": "other"}, "of the scenario other, not of mixed"),
    ],
)
def test_a_bad_baseline_is_told_with_its_file(tmp_path: Path, content: Any, told: str) -> None:
    """Whatever is wrong with the file, the message has its path and comes before the run."""
    path = saved(tmp_path, content)
    with pytest.raises(ScenarioError) as caught:
        gate.check(gate.read("lost_share<=baseline"), sim.load(MIXED), gate_baseline.read(path))
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_baseline_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing file, and a folder without figures."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ScenarioError, match="there is no such file"):
            gate_baseline.read(path)


def test_a_part_that_the_baseline_was_not_judged_by_is_told(tmp_path: Path) -> None:
    """The message says how to get it."""
    baseline = gate_baseline.read(saved(tmp_path, {"metrics": {"lost_share": 0}}))
    with pytest.raises(ScenarioError, match="that has a gate about this"):
        gate.check(gate.read("lost_share[endpoint=slow]<=baseline"), sim.load(MIXED), baseline)


def test_gates_are_plain_values() -> None:
    """They can be hashed, compared and changed by copy."""
    one = Gate(figure=Figure(metric="lost_share"), operator="==", limit=Limit(text="0", offset=Fraction(0)))
    assert gate.read("lost_share==0") == (one,)
    assert str(dataclasses.replace(one, operator="<=")) == "lost_share<=0"
