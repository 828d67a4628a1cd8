"""The dice: their words, their shapes, and that compiled code draws the very same numbers."""

from __future__ import annotations

import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from sim import dice, jit
from sim.dice import Distribution, Stream

DRAWS = 200_000
SEED = 20_240_229
ROOT = Path(__file__).parents[1]

words = st.integers(0, dice.MASK)
addresses = st.tuples(words, st.sampled_from(Stream).map(int), words, words, words, words)
positive = st.floats(1e-6, 1e5)
probabilities = st.floats(1e-6, 1 - 1e-6)


@st.composite
def quantile_tables(draw: st.DrawFn) -> Distribution:
    """Any measured distribution, flat pieces and single knots included."""
    levels = draw(st.lists(probabilities, min_size=1, max_size=12, unique=True))
    values = draw(st.lists(st.floats(0, 1e4), min_size=len(levels), max_size=len(levels)))
    return dice.empirical(dict(zip(sorted(levels), sorted(values), strict=True)))


distributions = st.one_of(
    st.builds(dice.constant, st.floats(0, 1e10)),
    st.builds(dice.exponential, positive),
    st.builds(dice.lognormal_sigma, positive, st.floats(0, 30)),
    st.builds(dice.lognormal_mean_cv, positive, st.floats(0.01, 50)),
    st.builds(dice.erlang, positive, st.integers(1, 40)),
    st.builds(dice.hyperexponential, positive, st.floats(1.001, 1e3)),
    st.builds(dice.hyperexponential_mixture, probabilities, positive, positive),
    st.builds(dice.pareto, positive, st.floats(1.001, 50)),
    st.builds(
        lambda low, width: dice.uniform_between(low, low + width), st.floats(0, 1e5), st.floats(0, 1e5)
    ),
    quantile_tables(),
)

# One of each kind, all moments finite up to the fourth, so that the errors of the estimates are known.
SHAPES = {
    "constant": dice.constant(0.25),
    "exponential": dice.exponential(3.0),
    "lognormal": dice.lognormal(median=0.12, p99=0.4),
    "lognormal_mean_cv": dice.lognormal_mean_cv(2.0, 0.5),
    "erlang": dice.erlang(5.0, 7),
    "hyperexponential": dice.hyperexponential(2.0, 2.5),
    "mixture": dice.hyperexponential_mixture(0.3, 10.0, 0.5),
    "pareto": dice.pareto(1.5, 9.0),
    "uniform": dice.uniform_between(1.0, 4.0),
    "empirical": dice.empirical({0.0: 0.1, 0.5: 0.2, 0.9: 1.0, 0.99: 4.0, 1.0: 9.0}),
}

# The same shapes as scipy writes them.
REFERENCES: dict[str, Any] = {
    "exponential": stats.expon(scale=3.0),
    "lognormal": stats.lognorm(s=math.log(0.4 / 0.12) / stats.norm.ppf(0.99), scale=0.12),
    "lognormal_mean_cv": stats.lognorm(s=math.sqrt(math.log(1.25)), scale=2.0 / math.sqrt(1.25)),
    "erlang": stats.gamma(7, scale=5.0 / 7),
    "pareto": stats.pareto(9.0, scale=1.5),
    "uniform": stats.uniform(1.0, 3.0),
}


def _fill(kind, a, b, c, points, seed, residual, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        if residual:
            out[i] = dice.residual_ns(kind, a, b, c, points, seed, Stream.OUTAGE_START, i, 3, 1, 0)
        else:
            out[i] = dice.sample_ns(kind, a, b, c, points, seed, Stream.LATENCY, i, 3, 1, 0)


_fill_compiled = jit.compiled()(_fill)


def drawn_s(shape: Distribution, *, residual: bool = False) -> np.ndarray:
    """Many draws in seconds, at neighbouring addresses, from compiled code."""
    out = np.empty(DRAWS, dtype=np.int64)
    _fill_compiled(shape.kind, shape.a, shape.b, shape.c, jit.points_array(shape.points), SEED, residual, out)
    return out / 1e9


def standard_errors(sample: np.ndarray, expected: float) -> float:
    """How many of its standard errors the mean of a sample is off."""
    error = sample.std() / math.sqrt(len(sample))
    return abs(sample.mean() - expected) / max(error, 1e-9)


# --------------------------------------------------------------------------- words


@given(words, words, words, words, words, words)
def test_philox_is_the_one_of_numpy(k0: int, k1: int, c0: int, c1: int, c2: int, c3: int) -> None:
    """The words are those NumPy gives one count earlier, as it counts before its first block."""
    counter = ((c0 | c1 << 64 | c2 << 128 | c3 << 192) - 1) % 2**256
    limbs = np.array([counter >> 64 * i & dice.MASK for i in range(4)], dtype=np.uint64)
    reference = np.random.Philox(key=np.array([k0, k1], dtype=np.uint64), counter=limbs)
    assert tuple(int(word) for word in reference.random_raw(4)) == dice.philox(k0, k1, c0, c1, c2, c3)


def test_philox_gives_the_published_words() -> None:
    """Known answers of the authors' Random123 distribution (kat_vectors, philox4x64-10)."""
    assert dice.philox(0, 0, 0, 0, 0, 0) == (
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    )
    assert dice.philox(*[dice.MASK] * 6) == (
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    )


def test_stream_numbers_are_a_contract() -> None:
    """Numbers of streams and kinds are pinned, because every published result depends on them."""
    assert [int(stream) for stream in Stream] == list(range(1, 17))
    assert (Stream.ARRIVAL, Stream.FAULT, Stream.LATENCY, Stream.JITTER, Stream.STATE) == (1, 9, 10, 15, 16)
    assert [int(kind) for kind in dice.DistributionKind] == list(range(8))


def test_draws_are_pinned() -> None:
    """A few draws are written down: a change of the dice cannot pass unnoticed."""
    event, endpoint = dice.delivery_words("shops:3:integrators:1")
    assert (event, endpoint) == (2126902047000494842, 16084761152102338975)
    assert dice.uniform(7, Stream.FAULT, event, endpoint, 1, 0) == 0.41620182248476423
    assert dice.sample_ns(*SHAPES["lognormal"], 7, Stream.LATENCY, event, endpoint, 1, 0) == 119581937


def test_uniform_stays_inside_the_open_interval() -> None:
    """The extreme words give neither 0 nor 1, and 1 - u is exact there."""
    assert dice.uniform_of(0) == 2.0**-53
    assert dice.uniform_of(dice.MASK) == 1 - 2.0**-53
    assert 1 - dice.uniform_of(dice.MASK) == dice.uniform_of(0)


@given(addresses, st.integers(0, 5), words)
def test_every_part_of_the_address_counts(address: tuple[int, ...], part: int, other: int) -> None:
    """Changing any one part of an address changes the draw."""
    changed = list(address)
    changed[part] = other if other != address[part] else other ^ 1
    assert dice.block(*address) != dice.block(*changed)
    assert dice.uniform(*address) != dice.uniform(*changed)


@pytest.mark.parametrize("part", range(6))
def test_neighbouring_addresses_are_uncorrelated(part: int) -> None:
    """Along every part of the address, draws neither repeat nor follow their neighbours."""
    row = np.empty(20_000)
    for i in range(len(row)):
        address = [7, 1, 2, 3, 4, 5]
        address[part] += i
        row[i] = jit.uniform(*address)
    bound = 4.5 / math.sqrt(len(row))
    for lag in (1, 2, 4, 64):
        assert abs(np.corrcoef(row[:-lag], row[lag:])[0, 1]) < bound
    assert stats.kstest(row, "uniform").pvalue > 1e-4


def test_words_of_one_block_are_uncorrelated() -> None:
    """The four words of a block may be used as four independent draws."""
    table = np.array([[dice.uniform_of(w) for w in dice.block(7, 1, i, 3, 1, 0)] for i in range(20_000)])
    off_diagonal = np.corrcoef(table.T)[~np.eye(4, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4.5 / math.sqrt(len(table))


# --------------------------------------------------------------------------- identity


def test_words_depend_on_names_and_numbers_only() -> None:
    """Consecutive events have consecutive words, from a hash of the name and nothing else."""
    base = dice.name_word("shops")
    assert [dice.event_word("shops", i) for i in (0, 1, 2)] == [(base + i) % 2**64 for i in (0, 1, 2)]
    assert dice.endpoint_word("shops", 5) == (base + 5) % 2**64
    names = ["b", "a", "c"]
    forward = {name: dice.event_word(name, 1) for name in names}
    assert forward == {name: dice.event_word(name, 1) for name in reversed(names)}
    assert len(set(forward.values())) == 3


names = st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1, max_size=12)
numbers = st.integers(0, 10**12)


@given(names, numbers, names, numbers)
def test_delivery_id_round_trip(producer: str, index: int, group: str, member: int) -> None:
    """The words a simulator computes from its own numbers come back from the id on the wire."""
    expected = (dice.event_word(producer, index), dice.endpoint_word(group, member))
    assert expected == dice.delivery_words(f"{producer}:{index}:{group}:{member}")


@pytest.mark.parametrize(
    "event_id",
    [
        "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W",  # another sender's id
        "a:b:7",  # too many fields
        "shops:007",  # not how hooklab writes 7: another id, other luck
        "shops:-1",
        "shops:٣",  # a digit, but not an ASCII one
        ":5",
        "shops:" + "9" * 5000,  # longer than int() accepts
    ],
)
def test_foreign_event_at_a_known_endpoint(event_id: str) -> None:
    """Only the event part is foreign: it is hashed whole, the endpoint keeps its word."""
    expected = (dice.foreign_word(event_id), dice.endpoint_word("integrators", 4))
    assert expected == dice.delivery_words(f"{event_id}:integrators:4")


@pytest.mark.parametrize(
    "text",
    ["", ":", "::", ":::", "msg_1", "shops:1", "shops:1:integrators:x", ":integrators:4", "a:1::4", "\ud800"],
)
def test_foreign_id(text: str) -> None:
    """Any other text is one foreign id, and none is an error."""
    assert (dice.foreign_word(text), 0) == dice.delivery_words(text)


@given(st.text(max_size=40))
def test_any_id_has_words(text: str) -> None:
    """What a stranger puts into a header never breaks the dice."""
    assert all(0 <= word <= dice.MASK for word in dice.delivery_words(text))


# --------------------------------------------------------------------------- compiled = pure Python


@settings(max_examples=600, deadline=None)
@given(distributions, addresses)
def test_compiled_draws_equal_pure_python(shape: Distribution, address: tuple[int, ...]) -> None:
    """Sample, residual and uniform agree to the last bit for any parameters and any address."""
    compiled_shape = (*shape[:4], jit.points_array(shape.points))
    assert dice.sample_ns(*shape, *address) == jit.sample_ns(*compiled_shape, *address)
    assert dice.residual_ns(*shape, *address) == jit.residual_ns(*compiled_shape, *address)
    assert dice.uniform(*address) == jit.uniform(*address)


@pytest.mark.parametrize("residual", [False, True], ids=["sample", "residual"])
@pytest.mark.parametrize("name", SHAPES)
def test_compiled_loop_equals_pure_python(name: str, residual: bool) -> None:
    """Thousands of draws from inside compiled code, where integers are signed, agree too."""
    shape = SHAPES[name]
    by_python = np.empty(3_000, dtype=np.int64)
    by_machine = np.empty_like(by_python)
    _fill(*shape, SEED, residual, by_python)
    _fill_compiled(*shape[:4], jit.points_array(shape.points), SEED, residual, by_machine)
    assert by_python.tolist() == by_machine.tolist()


def _whole(shape, count):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(count):
        total ^= dice.sample(shape, 7, Stream.LATENCY, i, 1, 2, 3)
        total ^= dice.residual(shape, 7, Stream.LATENCY, i, 1, 2, 3)
    return total


@pytest.mark.parametrize("name", SHAPES)
def test_compiled_code_takes_distributions_whole(name: str) -> None:
    """A distribution in one piece draws the same, its points in an array or, not empty, in a tuple."""
    shape = SHAPES[name]
    expected = _whole(shape, 200)
    address = (7, Stream.LATENCY, 0, 1, 2, 3)
    assert dice.sample(shape, *address) == dice.sample_ns(*shape, *address)
    assert dice.residual(shape, *address) == dice.residual_ns(*shape, *address)
    assert expected == _whole_compiled(shape._replace(points=jit.points_array(shape.points)), 200)
    if shape.points:
        assert expected == _whole_compiled(shape, 200)


_whole_compiled = jit.compiled()(_whole)


def _choose(cumulative, mean, count):  # type: ignore[no-untyped-def]
    total = 0
    for i in range(count):
        u = dice.uniform(1, Stream.KEY, i, 0, 0, 0)
        total = total * 3 % 1_000_003 + dice.pick(cumulative, u) + dice.poisson_count(mean, u)
    return total


def test_compiled_choices_equal_pure_python() -> None:
    """Weighted choices and Poisson counts agree, from a tuple and from an array."""
    shares = dice.zipf_cumulative(50, 1.1)
    compiled = jit.compiled()(_choose)
    expected = _choose(shares, 12.5, 2_000)
    assert expected == compiled(tuple(shares), 12.5, 2_000)
    assert expected == compiled(np.array(shares), 12.5, 2_000)


@given(words, st.integers(0, 10**12))
@settings(deadline=None)
def test_words_of_items_wrap_in_compiled_code_too(base: int, index: int) -> None:
    """A signed index added to an unsigned word stays a word, where numba alone would make it a float."""
    expected = dice.item_word(base, index)
    assert expected == _item_word_compiled(np.uint64(base), index)


_item_word_compiled = jit.compiled()(lambda base, index: dice.item_word(base, index))


def test_sharing_twice_is_harmless() -> None:
    """A pure function is callable from compiled code after sharing, however often it was shared."""

    def doubled(x: int) -> int:
        return 2 * x

    jit.share(doubled)
    jit.share(doubled)
    assert jit.compiled()(lambda x: doubled(x) + 1)(20) == 41


# --------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("name", SHAPES)
def test_moments_of_samples(name: str) -> None:
    """Means and second moments are within five standard errors of the closed forms."""
    shape = SHAPES[name]
    sample = drawn_s(shape)
    assert standard_errors(sample, dice.mean_s(*shape)) < 5
    assert standard_errors(sample**2, dice.second_moment_s2(*shape)) < 5


@pytest.mark.parametrize("name", SHAPES)
def test_mean_residual_life(name: str) -> None:
    """What is left at a random instant lasts E[X²] / (2 E[X]) on average."""
    shape = SHAPES[name]
    expected = dice.second_moment_s2(*shape) / (2 * dice.mean_s(*shape))
    assert standard_errors(drawn_s(shape, residual=True), expected) < 5


@pytest.mark.parametrize("name", REFERENCES)
def test_samples_follow_the_distribution(name: str) -> None:
    """Samples pass a Kolmogorov-Smirnov test against scipy's distribution."""
    assert stats.kstest(drawn_s(SHAPES[name]), REFERENCES[name].cdf).pvalue > 1e-4


def _survival(shape: Distribution, x: np.ndarray) -> np.ndarray:
    """P(X > x), from the definitions, not from the code under test."""
    kind = dice.DistributionKind(shape.kind)
    if kind == dice.DistributionKind.CONSTANT:
        return np.where(x < shape.a, 1.0, 0.0)
    if kind == dice.DistributionKind.HYPEREXPONENTIAL:
        return shape.a * np.exp(-x / shape.b) + (1 - shape.a) * np.exp(-x / shape.c)
    if kind == dice.DistributionKind.EMPIRICAL:
        half = len(shape.points) // 2
        return 1 - np.interp(x, shape.points[half:], shape.points[:half])
    name = next(name for name, candidate in SHAPES.items() if candidate == shape)
    return np.asarray(REFERENCES[name].sf(x))


@pytest.mark.parametrize("name", ["hyperexponential", "mixture", "empirical"])
def test_mixtures_follow_their_survival_function(name: str) -> None:
    """Kinds scipy does not have pass the same test against their definition."""
    shape = SHAPES[name]
    assert stats.kstest(drawn_s(shape), lambda x: 1 - _survival(shape, x)).pvalue > 1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_residuals_follow_the_equilibrium_distribution(name: str) -> None:
    """The residual life has density P(X > x) / E[X], integrated here on a fine grid."""
    shape = SHAPES[name]
    sample = drawn_s(shape, residual=True)
    grid = np.linspace(0, sample.max() * 1.01, 400_001)
    cdf = integrate.cumulative_simpson(_survival(shape, grid), x=grid, initial=0) / dice.mean_s(*shape)
    assert stats.kstest(sample, lambda x: np.interp(x, grid, cdf)).pvalue > 1e-4


def test_infinite_moments() -> None:
    """A Pareto with a heavy tail says that its moments do not exist."""
    assert dice.mean_s(*dice.pareto(1.0, 1.0)) == math.inf
    assert dice.second_moment_s2(*dice.pareto(1.0, 2.0)) == math.inf


def test_durations_saturate() -> None:
    """Overflow is no error: both a float too large and an infinite one are the longest duration."""
    shapes = [dice.constant(1e300), dice.lognormal_sigma(1e9, 500.0), dice.pareto(1e9, 0.001)]
    event = next(i for i in range(100) if dice.uniform(1, 1, i, 0, 0, 0) > 0.9)
    for shape in shapes:
        assert dice.sample_ns(*shape, 1, 1, event, 0, 0, 0) == dice.LONGEST_NS
        compiled_shape = (*shape[:4], jit.points_array(()))
        assert jit.sample_ns(*compiled_shape, 1, 1, event, 0, 0, 0) == dice.LONGEST_NS


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, 0),
        (4.9999999999999994e-10, 0),  # just below a half: adding 0.5 in floats would give 1
        (5e-10, 1),  # a half goes up
        (1.5e-9, 2),
        (2.5e-9, 3),
        (1.0, 1_000_000_000),
        (4503599.627370497, 4503599627370497),  # odd and above 2**52: adding 0.5 would give 1 more
        (1e11, 2**62),
        (math.inf, 2**62),
    ],
)
def test_rounding_to_nanoseconds(seconds: float, expected: int) -> None:
    """Durations are rounded half up, once, and saturate."""
    assert expected == dice.nanoseconds(seconds)


def test_larger_uniforms_are_longer_durations() -> None:
    """Kinds of one word are monotone in it, so that two latencies compared share good and bad luck."""
    for name in ("exponential", "lognormal", "pareto", "uniform", "empirical"):
        address = [(7, 1, i, 3, 1, 0) for i in range(300)]
        by_uniform = sorted(address, key=lambda where: dice.uniform(*where))
        draws = [dice.sample_ns(*SHAPES[name], *where) for where in by_uniform]
        assert draws == sorted(draws)


def test_stages_of_an_erlang_do_not_meet_other_draws() -> None:
    """More than four stages go on in blocks 2**32 apart, and the counter wraps instead of growing."""
    assert dice.later_block(5, 2) == 5 + 2**33
    assert dice.later_block(dice.MASK, 1) == 2**32 - 1
    total = sum(
        -math.log(1 - dice.uniform_of(dice.block(1, 2, 3, 4, 5, 6 + (stage // 4) * 2**32)[stage % 4]))
        for stage in range(9)
    )
    assert dice.sample_ns(*dice.erlang(9.0, 9), 1, 2, 3, 4, 5, 6) == dice.nanoseconds(total)


# --------------------------------------------------------------------------- constructors and closed forms


def test_constructors_hit_what_they_are_named_after() -> None:
    """Means, coefficients of variation and quantiles given are those got."""
    for shape, mean, cv in [
        (dice.lognormal_mean_cv(2.0, 0.5), 2.0, 0.5),
        (dice.hyperexponential(2.0, 2.5), 2.0, 2.5),
        (dice.hyperexponential(2.0, 1e6), 2.0, 1e6),
        (dice.erlang(5.0, 7), 5.0, 1 / math.sqrt(7)),
    ]:
        assert dice.mean_s(*shape) == pytest.approx(mean, rel=1e-12)
        variance = dice.second_moment_s2(*shape) - mean**2
        assert math.sqrt(variance) / mean == pytest.approx(cv, rel=1e-9)
    shape = dice.lognormal(median=0.12, p99=2.0)
    assert dice.quantile_s(*shape, 0.5) == pytest.approx(0.12, rel=1e-14)
    assert dice.quantile_s(*shape, 0.99) == pytest.approx(2.0, rel=1e-14)


def test_balanced_means() -> None:
    """Both branches of a hyperexponential by cv carry half of the mean."""
    shape = dice.hyperexponential(2.0, 3.0)
    assert shape.a * shape.b == pytest.approx((1 - shape.a) * shape.c)


def test_empirical_extends_flat() -> None:
    """Missing ends repeat the nearest quantile given; order in the mapping does not matter."""
    assert dice.empirical({0.9: 3.0, 0.5: 1.0}).points == (0.0, 0.5, 0.9, 1.0, 1.0, 1.0, 3.0, 3.0)
    assert dice.empirical({0.0: 0.0, 1.0: 2.0}).points == (0.0, 1.0, 0.0, 2.0)
    assert dice.residual_ns(*dice.empirical({0.5: 0.0}), 1, 2, 3, 4, 5, 6) == 0


@pytest.mark.parametrize("name", REFERENCES)
def test_quantiles(name: str) -> None:
    """Quantiles, bisected ones too, are scipy's."""
    for p in (1e-9, 0.01, 0.5, 0.99, 1 - 1e-9):
        assert dice.quantile_s(*SHAPES[name], p) == pytest.approx(REFERENCES[name].ppf(p), rel=1e-7)


def test_quantiles_of_mixtures() -> None:
    """A quantile of a mixture leaves just 1 - p above it; a constant is its own quantile."""
    for name in ("hyperexponential", "mixture", "empirical"):
        for p in (0.01, 0.5, 0.999):
            x = np.array(dice.quantile_s(*SHAPES[name], p))
            assert float(_survival(SHAPES[name], x)) == pytest.approx(1 - p, rel=1e-9)
    assert dice.quantile_s(*SHAPES["constant"], 0.3) == 0.25


@pytest.mark.parametrize("name", SHAPES)
def test_capped_mean(name: str) -> None:
    """E[min(X, cap)] is the integral of the survival function up to the cap."""
    shape = SHAPES[name]
    knots = list(shape.points[len(shape.points) // 2 :]) or [shape.a, shape.b]
    for cap in (0.01, 0.15, 1.0, 2.0, 3.7, 30.0):
        edges = [knot for knot in knots if 0 < knot < cap]
        integral, _ = integrate.quad(
            lambda x: float(_survival(shape, np.array(x))), 0, cap, points=edges or None
        )
        assert dice.capped_mean_s(*shape, cap) == pytest.approx(integral, rel=1e-6)
    assert dice.capped_mean_s(*shape, math.inf) == dice.mean_s(*shape)
    assert dice.capped_mean_s(*shape, 1e6) == pytest.approx(dice.mean_s(*shape), rel=1e-6)
    assert dice.capped_mean_s(*shape, 0.0) == 0.0


def test_capped_mean_where_the_mean_is_infinite() -> None:
    """A timeout makes even the heaviest tail affordable: closed forms for shapes 1 and 1/2."""
    assert dice.capped_mean_s(*dice.pareto(1.0, 1.0), math.e) == pytest.approx(2.0)
    assert dice.capped_mean_s(*dice.pareto(1.0, 0.5), 4.0) == pytest.approx(3.0)
    assert dice.capped_mean_s(*dice.lognormal_sigma(2.0, 0.0), 1.0) == 1.0


@given(st.integers(0, dice.MASK))
def test_normal_quantile_is_the_one_of_the_standard_library(word: int) -> None:
    """The same published algorithm gives the same number, to two units in the last place."""
    p = dice.uniform_of(word)
    expected = statistics.NormalDist().inv_cdf(p)
    assert abs(dice.normal_quantile(p) - expected) <= 2 * math.ulp(expected)


@pytest.mark.parametrize("p", [2**-53, 1e-13, 1e-9, 0.075, 0.0751, 0.5, 0.925, 1 - 1e-9, 1 - 2**-53])
def test_normal_quantile_in_every_branch(p: float) -> None:
    """The middle, the tails and the far tails are right."""
    assert dice.normal_quantile(p) == pytest.approx(statistics.NormalDist().inv_cdf(p), rel=1e-15, abs=1e-300)


# --------------------------------------------------------------------------- choices and counts


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.floats(0, 1, exclude_max=True))
def test_pick_is_the_first_share_above(weights: list[float], u: float) -> None:
    """The binary search finds what a search from the front finds."""
    shares = dice.cumulative_weights(weights)
    assert next(i for i, share in enumerate(shares) if u < share) == dice.pick(shares, u)


def test_zipf() -> None:
    """Shares fall as a power of the rank; exponent 0 is uniform; the last share is exactly 1."""
    assert dice.zipf_cumulative(4, 0.0) == [0.25, 0.5, 0.75, 1.0]
    shares = np.diff([0.0, *dice.zipf_cumulative(100, 1.1)])
    assert shares[9] / shares[0] == pytest.approx(10**-1.1)
    assert dice.zipf_cumulative(1_000, 1.1)[-1] == 1.0
    assert dice.zipf_cumulative(1, 2.0) == [1.0]


@pytest.mark.parametrize("mean", [0.0, 0.3, 4.0, 90.0, 700.0])
def test_poisson_counts_are_quantiles(mean: float) -> None:
    """A count is scipy's quantile, up to the largest uniform there is."""
    levels = [dice.uniform(1, Stream.BATCH, i, 0, 0, 0) for i in range(500)]
    expected = [int(stats.poisson.ppf(u, mean)) if mean else 0 for u in levels]
    assert expected == [dice.poisson_count(mean, u) for u in levels]
    assert dice.poisson_count(mean, dice.uniform_of(dice.MASK)) <= mean + 15 * math.sqrt(mean) + 20


# --------------------------------------------------------------------------- imports and the cache


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with warnings as errors; variables may be added."""
    variables = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=variables | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


DRAW = """
from sim import dice, jit
address = (7, int(dice.Stream.FAULT), 2**63 + 1, 5, 1, 0)
assert jit.uniform(*address) == dice.uniform(*address)
print(jit.CACHE_FOLDER)
"""


def test_pure_dice_import_neither_numpy_nor_numba() -> None:
    """A dispatcher that draws jitter does not pay for numerics."""
    code = (
        "import sys, sim.dice; print([m for m in ('numpy', 'numba', 'scipy', 'pandas') if m in sys.modules])"
    )
    assert run_python(code).stdout == "[]\n"


def test_importing_jit_compiles_nothing() -> None:
    """Setting numba up takes as long as importing it; it waits for the first draw."""
    code = (
        "import sim.jit as jit; "
        "made = [f.cache_info().currsize for f in vars(jit).values() if hasattr(f, 'cache_info')]; "
        "print(len(made) >= 5, sum(made))"
    )
    assert run_python(code).stdout == "True 0\n"


@pytest.fixture(scope="module")
def saved_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for caches in which one draw has been compiled and saved."""
    folder = tmp_path_factory.mktemp("cache")
    result = run_python(DRAW, XDG_CACHE_HOME=str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    assert Path(result.stdout.strip()).parent == folder / "hooklab"
    assert list(folder.rglob("*.nbc"))
    return folder


@pytest.fixture
def warm_cache(saved_cache: Path, tmp_path: Path) -> Path:
    """A copy of such a folder, to be damaged."""
    return Path(shutil.copytree(saved_cache, tmp_path / "cache"))


def test_cache_is_used(warm_cache: Path) -> None:
    """A second process loads what the first saved, and writes nothing."""
    before = {path: path.stat().st_mtime_ns for path in warm_cache.rglob("*.nb?")}
    assert run_python(DRAW, XDG_CACHE_HOME=str(warm_cache)).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in warm_cache.rglob("*.nb?")}


def _flip_a_byte(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: b"garbage" * 9, lambda content: content[:-100], _flip_a_byte],
    ids=["empty", "garbage", "truncated", "flipped"],
)
def test_damaged_cache_is_replaced(warm_cache: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    """Whatever happened to the files, the numbers are right, nothing is said, and the cache heals."""
    for path in warm_cache.rglob(f"*{suffix}"):
        path.write_bytes(damage(path.read_bytes()))
    broken = {path: path.read_bytes() for path in warm_cache.rglob(f"*{suffix}")}
    result = run_python(DRAW, XDG_CACHE_HOME=str(warm_cache))
    assert (result.returncode, result.stderr) == (0, "")
    assert all(path.read_bytes() != content for path, content in broken.items())


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME", "NUMBA_CACHE_DIR"])
def test_cache_that_cannot_be_written(tmp_path: Path, variable: str) -> None:
    """Where no folder can be made, code is compiled in memory, with the right numbers and no complaint."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    result = run_python(DRAW, **{"XDG_CACHE_HOME": "", variable: str(blocked)})
    assert (result.returncode, result.stdout, result.stderr) == (0, "None\n", "")


def test_numba_cache_dir_is_respected(tmp_path: Path) -> None:
    """A cache folder chosen for numba holds ours, one level down."""
    result = run_python(DRAW, NUMBA_CACHE_DIR=str(tmp_path))
    assert Path(result.stdout.strip()).parent == tmp_path / "hooklab"
    assert list(tmp_path.rglob("*.nbc"))


def test_cache_stays_ours_when_the_environment_changes(tmp_path: Path) -> None:
    """Settings assigned to numba are forgotten when its variables change; ours must survive that."""
    code = (
        DRAW
        + "import os; os.environ['NUMBA_OPT'] = '3'\n"
        + "jit.sample_ns(1, 1., 0., 0., jit.points_array(()), *address)"
    )
    assert run_python(code, XDG_CACHE_HOME=str(tmp_path)).returncode == 0
    assert {path.name.split("-")[0] for path in tmp_path.rglob("*.nbc")} == {"dice.uniform", "dice.sample_ns"}


def test_changed_sources_get_another_cache_folder(tmp_path: Path) -> None:
    """A change in any module that is compiled is a change of the folder, for numba would not notice it."""
    shutil.copytree(ROOT / "sim", tmp_path / "sim", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import sim.jit; print(sim.jit.CACHE_FOLDER)"
    folders = [run_python(code, XDG_CACHE_HOME=str(tmp_path)).stdout]
    with (tmp_path / "sim" / "policy.py").open("a") as source:
        source.write("# changed\n")
    folders.append(run_python(code, XDG_CACHE_HOME=str(tmp_path)).stdout)
    assert folders[0] != folders[1]


def test_compiled_sources_are_all_known() -> None:
    """What compiled code reads is what decides the folder: nothing else of the package may be shared."""
    homes = {function.__module__ for function in jit._shared if function.__module__.startswith("sim.")}
    assert {home.removeprefix("sim.") for home in homes} <= set(jit.SOURCES)


def test_old_cache_folders_are_removed(tmp_path: Path) -> None:
    """Folders of other versions go after thirty days without use; younger ones stay."""
    old, young = tmp_path / "hooklab" / "old", tmp_path / "hooklab" / "young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    (old / "x.nbc").write_text("x")
    month_ago = time.time() - 31 * 86_400
    os.utime(old, (month_ago, month_ago))
    run_python("import sim.jit", XDG_CACHE_HOME=str(tmp_path))
    assert not old.exists()
    assert young.exists()


def test_without_compiler(tmp_path: Path) -> None:
    """With numba switched off the same calls run as Python."""
    result = run_python(DRAW, XDG_CACHE_HOME=str(tmp_path), NUMBA_DISABLE_JIT="1")
    assert (result.returncode, result.stderr) == (0, "")


def test_distant_random_addresses_agree() -> None:
    """A long run over addresses from the whole range, beyond what hypothesis visits."""
    source = random.Random(5)
    empty = jit.points_array(())
    for _ in range(5_000):
        address = [source.getrandbits(64) for _ in range(6)]
        shape = source.choice([s for s in SHAPES.values() if not s.points])
        assert dice.sample_ns(*shape, *address) == jit.sample_ns(*shape[:4], empty, *address)
        assert dice.residual_ns(*shape, *address) == jit.residual_ns(*shape[:4], empty, *address)
