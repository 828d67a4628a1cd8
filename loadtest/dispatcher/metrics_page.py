"""The page of figures for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sim.policy import OUTCOMES, STATES

CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class MetricsPage:
    """Counters of this process, and gauges that are set when the page is asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._events = Counter("hooklab_events", "Events taken in.", ["result"], registry=self._registry)
        self.stored = self._events.labels("stored")
        self.repeated = self._events.labels("repeated")
        self.refused = self._events.labels("refused")
        self._deliveries = Counter(
            "hooklab_deliveries", "Deliveries of the events that were stored.", registry=self._registry
        )
        attempts = Counter("hooklab_attempts", "Attempts by outcome.", ["outcome"], registry=self._registry)
        self._attempts = {outcome: attempts.labels(outcome) for outcome in OUTCOMES}
        self._latency = Histogram(
            "hooklab_attempt_latency_seconds",
            "From the start of an attempt to its end.",
            buckets=LATENCIES_S,
            registry=self._registry,
        )
        self._backlog = Gauge(
            "hooklab_backlog", "Deliveries that wait for this attempt.", ["tier"], registry=self._registry
        )
        self._totals = Gauge(
            "hooklab_stored_deliveries",
            "Deliveries in the store by state; those in flight still wait there.",
            ["state"],
            registry=self._registry,
        )
        self._gauges = {
            "in_flight": Gauge("hooklab_in_flight", "Attempts under way.", registry=self._registry),
            "ready": Gauge("hooklab_ready", "Waiting deliveries in memory.", registry=self._registry),
        }
        self._oldest = Gauge(
            "hooklab_oldest_due_age_seconds",
            "How long ago the oldest loaded delivery was due; 0: none is overdue.",
            registry=self._registry,
        )

    def accepted(self, stored: int, repeated: int, deliveries: int) -> None:
        """Events that were taken in."""
        self.stored.inc(stored)
        self.repeated.inc(repeated)
        self._deliveries.inc(deliveries)

    def attempted(self, outcome: str, latency_s: float) -> None:
        """An attempt that has ended."""
        self._attempts[outcome].inc()
        self._latency.observe(latency_s)

    def totals(self) -> Mapping[str, float]:
        """``events`` stored, ``attempts`` and those of them that were ``failed``, by this process since it started."""
        attempts = {name: _value(counter) for name, counter in self._attempts.items()}
        total = sum(attempts.values())
        return {
            "events": _value(self.stored),
            "attempts": total,
            "failed": total - attempts["delivered"],
        }

    def page(
        self,
        backlog: Mapping[int, int],
        totals: Mapping[int, int],
        counts: Mapping[str, int | None],
        now: int,
    ) -> bytes:
        """The page in the text format of Prometheus.

        Args:
            backlog: deliveries that wait for each attempt number.
            totals: deliveries in each state, by its number.
            counts: see ``running.Running.counts``.
            now: ns since 1970.
        """
        self._backlog.clear()
        for attempt_number, count in backlog.items():
            self._backlog.labels(str(attempt_number)).set(count)
        self._totals.clear()
        for state, count in totals.items():
            self._totals.labels(STATES[state]).set(count)
        for name, gauge in self._gauges.items():
            gauge.set(counts.get(name) or 0)
        oldest = counts.get("oldest_due")
        self._oldest.set(0 if oldest is None else max(now - oldest, 0) / 1e9)
        return generate_latest(self._registry)


def _value(counter: Counter) -> float:
    """What a counter without labels of its own has come to."""
    return next(
        sample.value
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )
