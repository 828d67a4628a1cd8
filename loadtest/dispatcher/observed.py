"""The figures of the metrics page."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loadtest import clock
from loadtest.dispatcher.scheduler import Scheduler
from loadtest.dispatcher.store import Store


class Observed:
    """Counters that are told, and gauges that are looked at when the page is asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.accepted = Counter("hooklab_events_accepted", "Events accepted", registry=self.registry)
        self.attempts = Counter(
            "hooklab_attempts", "Attempts that have ended", ["outcome"], registry=self.registry
        )
        self.latency = Histogram(
            "hooklab_attempt_duration_seconds", "Duration of attempts", registry=self.registry
        )
        self.backlog = Gauge(
            "hooklab_backlog", "Deliveries that wait, by attempt number", ["tier"], registry=self.registry
        )
        self.in_flight = Gauge("hooklab_in_flight", "Attempts under way", registry=self.registry)
        self.loaded = Gauge("hooklab_loaded", "Waiting deliveries in memory", registry=self.registry)
        self.unstored = Gauge(
            "hooklab_results_unstored", "Results that are still to be stored", registry=self.registry
        )
        self.oldest = Gauge(
            "hooklab_oldest_due_seconds",
            "How long the oldest due delivery in memory is due",
            registry=self.registry,
        )
        self.drift = Gauge(
            "hooklab_clock_drift_seconds",
            "Wall clock less the dispatcher's own clock",
            registry=self.registry,
        )

    def attempted(self, outcome: str, duration_s: float) -> None:
        """An attempt has ended."""
        self.attempts.labels(outcome).inc()
        self.latency.observe(duration_s)

    async def look(self, store: Store, scheduler: Scheduler) -> None:
        """Bring the gauges up to date."""
        self.backlog.clear()
        for tier, count in (await store.backlog()).items():
            self.backlog.labels(str(tier)).set(count)
        counts = scheduler.counts()
        self.in_flight.set(counts["in_flight"] or 0)
        self.loaded.set(counts["ready"] or 0)
        self.unstored.set(counts["unstored"] or 0)
        oldest = counts["oldest_due"]
        self.oldest.set(max(clock.now() - oldest, 0) / 1e9 if oldest is not None else 0)
        self.drift.set(clock.drift() / 1e9)
