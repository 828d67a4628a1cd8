"""Clients contending for one row under optimistic locking: what each kind of jitter costs and saves.

A client reads the row's version and writes with it; the write succeeds if nobody else has written since, else
the client backs off and reads again. Every message takes |N(10, 2)| ms. With N clients N writes succeed, and
the question is how many calls (writes tried) and how much time it takes until all have.

The model and its parameters are those of M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015. Gaps are those of a policy of ours, by the same functions that a dispatcher uses; all luck has addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from sim import dice, model, policy
from sim.blocks_policy import PolicyBlock
from sim.policy import SECOND, Policy

if TYPE_CHECKING:
    import pandas as pd

MESSAGE_MEAN_NS = 10_000_000
MESSAGE_SD_NS = 2_000_000
_GAPS: list[Any] = ["0s", {"exponential": {"base": "10ms", "cap": "2s", "times": "forever"}}]
_POLICIES: Mapping[str, Mapping[str, Any]] = {
    "at once": {"schedule": ["0s", {"delay": "0s", "times": "forever"}]},
    "none": {"schedule": _GAPS},
    "full": {"schedule": _GAPS, "jitter": "full"},
    "equal": {"schedule": _GAPS, "jitter": "equal"},
    "decorrelated": {
        "schedule": _GAPS,
        "jitter": {"decorrelated": {"base": "5ms", "cap": "2s"}},
    },
}

_PUBLISHED: Mapping[int, Mapping[str, tuple[float, float]]] = {
    10: {
        "at once": (0.38293, 51.22),
        "none": (3.52544, 50.93),
        "full": (0.46334, 39.07),
        "equal": (0.72711, 42.52),
        "decorrelated": (0.4394, 37.95),
    },
    20: {
        "at once": (0.60371, 152.83),
        "none": (14.34135, 149.32),
        "full": (1.01271, 100.15),
        "equal": (1.61765, 108.16),
        "decorrelated": (0.81992, 101.26),
    },
    50: {
        "at once": (1.13839, 689.75),
        "none": (36.43233, 624.43),
        "full": (2.83987, 332.75),
        "equal": (4.25458, 347.23),
        "decorrelated": (2.2264, 374.9),
    },
    100: {
        "at once": (2.02737, 2421.42),
        "none": (63.48829, 1855.69),
        "full": (4.90627, 796.65),
        "equal": (6.57623, 812.03),
        "decorrelated": (4.64116, 1004.51),
    },
}
"""Mean time, s, and mean calls of 400 runs of the program published with the article, aws-arch-backoff-simulator."""


@dataclass(frozen=True, kw_only=True)
class Contention:
    """How one contest went."""

    time_s: float
    """When the last client succeeded."""
    calls: int
    """Writes tried, by all clients together."""


def brooker_policies() -> dict[str, Policy]:
    """The policies that the article compares: no backoff (``at once``), and backoff by kind of jitter.

    Backoff after failure k is min(2 s, 5 ms · 2ᵏ), k from 1; decorrelated is min(2 s, U(5 ms, 3 · last)).
    """
    return {
        name: model.lower_policy(PolicyBlock.model_validate(dict(block))) for name, block in _POLICIES.items()
    }


def contend(rules: Policy, clients: int, seed: int = 0) -> Contention:
    """One contest of ``clients`` clients that all start at 0 s and retry by the policy until they succeed.

    Raises:
        ValueError: fewer than one client, or a policy that gives up.
    """
    if clients < 1:
        raise ValueError(f"clients is {clients}; it must be at least 1")
    if rules.run_ends[-1] < policy.FOREVER or rules.max_age > 0 or rules.max_attempts > 0:
        raise ValueError("the policy gives up; every client must go on until it succeeds (times: forever)")
    version = calls = last = 0
    gaps = [0] * clients  # the last one of each client, for jitter that looks back
    attempts = [1] * clients
    luck = [partial(_message, seed, client) for client in range(clients)]
    # (arrival at the row, client, version read; -1: a read)
    arrivals = [(luck[client](1, 0), client, -1) for client in range(clients)]
    heapify(arrivals)
    while arrivals:
        at, client, read = heappop(arrivals)
        message = luck[client]
        attempt = attempts[client]
        if read < 0:
            heappush(arrivals, (at + message(attempt, 1) + message(attempt, 2), client, version))
            continue
        calls += 1
        answered = at + message(attempt, 3)
        if read == version:
            version += 1
            last = max(last, answered)
            continue
        u = dice.uniform(seed, dice.Stream.JITTER, client, 0, attempt, 0)
        _, due, gaps[client] = policy.retry(rules, attempt, answered, 0, gaps[client], -1, u)
        attempts[client] = attempt + 1
        heappush(arrivals, (due + message(attempt + 1, 0), client, -1))
    return Contention(time_s=last / SECOND, calls=calls)


def contests(clients: Iterable[int] = (10, 20, 50), runs: int = 100, seed: int = 0) -> pd.DataFrame:
    """Means over ``runs`` contests for every policy of the article and number of clients.

    One row for each; columns: jitter, clients, time_s_mean, time_s_sd, calls_mean, calls_sd (sd: of one contest).
    Contest i has the seed ``seed + i``.
    """
    import pandas as pd

    rows = []
    for count in clients:
        for name, rules in brooker_policies().items():
            own = [contend(rules, count, seed + i) for i in range(runs)]
            row: dict[str, Any] = {"jitter": name, "clients": count}
            for column in ("time_s", "calls"):
                values = pd.Series([getattr(contest, column) for contest in own], dtype=float)
                row |= {f"{column}_mean": values.mean(), f"{column}_sd": values.std()}
            rows.append(row)
    return pd.DataFrame(rows)


def published() -> pd.DataFrame:
    """Means of 400 runs of the program published with the article: jitter, clients, time_s_mean, calls_mean."""
    import pandas as pd

    rows = [(name, clients, *means) for clients, own in _PUBLISHED.items() for name, means in own.items()]
    return pd.DataFrame(rows, columns=["jitter", "clients", "time_s_mean", "calls_mean"])


def _message(seed: int, client: int, attempt: int, leg: int) -> int:
    """How long a message travels, ns; legs: to read, back, to write, back."""
    u = dice.uniform(seed, dice.Stream.LATENCY, client, 0, attempt, leg)
    return policy.rounded(abs(MESSAGE_MEAN_NS + MESSAGE_SD_NS * dice.normal_quantile(u)))
