"""Bundled scenarios made to run for real in half a minute or so: what ``make agree`` goes through.

Compressing a scenario divides its horizon and keeps its rates, so that little is left to happen; each case therefore
names rates, too, and where the time of a scenario lies in timeouts, which are not compressed, shorter ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.scenario import Scenario, load


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bundled scenario, what is changed in it, and by how much it is compressed then."""

    scenario: str
    compress: float
    overrides: tuple[str, ...] = ()
    """``path=value``, of the scenario before it is compressed."""

    def load(self) -> Scenario:
        """The scenario as it is to be simulated and run."""
        return load(self.scenario, self.overrides).compressed(self.compress)


CASES: tuple[Case, ...] = (
    # no timing decides fates
    Case(
        scenario="hot-key-ordering",
        compress=240,
        overrides=("producers.shops.arrivals={poisson: 80/s}", "dispatcher.workers=48"),
    ),
    Case(scenario="fifo-endpoint", compress=720, overrides=("producers.platform.arrivals={poisson: 2/s}",)),
    Case(
        scenario="slow-receiver-duplicates",
        compress=2880,
        overrides=(
            "producers.platform.arrivals={poisson: 30/s}",
            "receivers.slow.latency={lognormal: {median: 200ms, p99: 2s}}",
            "receivers.slow-deduped.latency={lognormal: {median: 200ms, p99: 2s}}",
            "receivers.slow-forgetful.latency={lognormal: {median: 200ms, p99: 2s}}",
            "policies.waits-5s.timeout=500ms",
            "policies.waits-30s.timeout=3s",
        ),
    ),
    # outages
    Case(
        scenario="github-no-retry",
        compress=86_400,
        overrides=(
            "producers.pushes.arrivals={poisson: 60/s}",
            "drain=10d",
        ),
    ),
    Case(
        scenario="standard-webhooks",
        compress=95_040,
        overrides=("producers.platform.arrivals={poisson: 60/s}", "drain=20d"),
    ),
    Case(
        scenario="thin-versus-full",
        compress=2880,
        overrides=("producers.catalogue.arrivals={poisson: 20/s}",),
    ),
    Case(
        scenario="polling-versus-push",
        compress=2880,
        overrides=("producers.platform.arrivals={poisson: 3/s}", "endpoints.polling.mode.poll.every=30m"),
    ),
    Case(
        scenario="noisy-neighbour",
        compress=80,
        overrides=(
            "producers.platform.arrivals={poisson: 40/s}",
            "producers.big-customer.arrivals={poisson: 20/s}",
            "policies.retries.timeout=3s",
        ),
    ),
    # queues at receivers
    Case(
        scenario="timepad",
        compress=4320,
        overrides=(
            "producers.orders.arrivals={poisson: 20/s}",
            "drain=60h",
        ),
    ),
    Case(scenario="metastable-storm", compress=5),
    Case(
        scenario="answer-first-receiver",
        compress=720,
        overrides=(
            "producers.platform.arrivals={bursts: {on: 25/s, off: 4/s, on_for: 24m, off_for: 2h}}",
            "receivers.after.latency={lognormal: {median: 80ms, p99: 600ms}}",
            "receivers.before.latency={lognormal: {median: 80ms, p99: 600ms}}",
            "policies.waits-5s.timeout=500ms",
        ),
    ),
    # objects that vanish, and tiers with workers of their own
    Case(
        scenario="id-versus-body",
        compress=1440,
        overrides=(
            "producers.products.arrivals={poisson: 40/s}",
            "producers.deletions.arrivals={poisson: 5/s}",
        ),
    ),
    Case(
        scenario="dreamkas",
        compress=4320,
        overrides=(
            "drain=60h",
            "producers.tills.arrivals={poisson: 30/s}",
            "producers.catalogue.arrivals={poisson: 10/s}",
            "policies.dreamkas.timeout=1s",
            "dispatcher.workers=[32, 8, 8, 8, 8]",
        ),
    ),
)
"""Every kind of reason why timing matters is among them, and scenarios without any."""
