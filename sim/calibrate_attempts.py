"""A log of attempts taken apart: outages, errors, lost answers, latency and capacity, and the events behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from sim import calibrate_outages
from sim.calibrate_arrivals import FOR_RATE, ArrivalFit, fit_arrivals
from sim.calibrate_durations import (
    FOR_A_FAMILY,
    Fit,
    Goodness,
    Parameter,
    duration,
    fit_duration,
    proportion,
    share_text,
)
from sim.calibrate_families import sample
from sim.calibrate_log import NANOSECOND, Log
from sim.calibrate_outages import OutageFit, Period
from sim.errors import ScenarioError

FEWEST_ERRORS = 5
"""Errors of one status below which its share is a guess, and said to be one."""
OWN_LATENCY = 30
"""Errors from which their latency is compared with that of successes."""
DIFFERENT = 0.001
"""A chance of two samples of latency being alike so small says that they differ."""
FEWEST_LATENCIES = 3


@dataclass
class Findings:
    """What has been fitted so far."""

    faults: list[dict[str, Any]] = field(default_factory=list)
    parameters: list[tuple[str, Parameter]] = field(default_factory=list)
    goodness: list[Goodness] = field(default_factory=list)
    durations: list[Fit] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def take(self, fit: Fit, path: str) -> None:
        """Add a fitted duration, whose parameters stand at a path of the blocks."""
        self.durations.append(fit)
        self.parameters += [(f"{path}.{fit.family}", parameter) for parameter in fit.parameters]
        self.goodness += fit.goodness
        self.warnings += fit.warnings


def take_outage(fitted: OutageFit, path: str, found: Findings) -> None:
    """Add the fault of fitted outages, whose numbers stand at a path of the blocks."""
    found.faults.append(fitted.fault)
    found.take(fitted.up, f"{path}.up")
    found.take(fitted.down, f"{path}.down")


def fit_attempts(log: Log, found: Findings) -> tuple[dict[str, Any], ArrivalFit | None, dict[str, Period]]:
    """Latency, capacity, faults and arrivals of a log of attempts."""
    frame = log.frame if "endpoint" in log.frame else log.frame.assign(endpoint="")
    open_ = frame["outcome"].isna() | frame["finished_s"].isna()
    if open_.any():
        found.warnings.append(f"{int(open_.sum()):,} attempts had not finished when the log ended; left out")
    frame = frame[~open_].reset_index(drop=True)
    if frame.empty:
        raise ScenarioError("has no finished attempt", log.name)
    history, inside = _fit_detected(frame, log, found)
    calm = frame[~inside]
    lost = _lost(calm, found)
    _fit_errors(calm, lost, found)
    latency, unanswered = _fit_latency(calm, lost, found)
    receiver: dict[str, Any] = {"latency": latency} | _capacity(calm, found)
    if lost is not None and lost.any():
        known = int((calm["outcome"] == "delivered").sum() + lost.sum())
        unanswered = proportion("probability", int(lost.sum()), known)
    if unanswered is not None:
        found.parameters.append(("receiver.lost_answer", unanswered._replace(name="probability")))
        found.faults.append({"lost_answer": {"probability": share_text(unanswered.value)}})
    if found.faults:
        receiver["faults"] = found.faults
    elif not (frame["outcome"] == "delivered").any():
        raise _nothing_delivered(frame, log.name)
    return receiver, _fit_events(log, found), history


def _nothing_delivered(frame: pd.DataFrame, name: str) -> ScenarioError:
    """An error about a log that shows no receiver at work."""
    counts = ", ".join(f"{outcome} {count:,}" for outcome, count in frame["outcome"].value_counts().items())
    rule = (
        f"none of its {len(frame):,} attempts was delivered ({counts}), so it shows neither when receivers are up nor "
        "how fast; take a longer log, or write the outage by hand"
    )
    return ScenarioError(rule, name)


def _fit_detected(frame: pd.DataFrame, log: Log, found: Findings) -> tuple[dict[str, Period], Any]:
    """Fit the outages of each kind that has enough of them; rare kinds are counted with the commonest.

    Gives the history of each endpoint too, and marks of the attempts that fell into an outage. Where nothing was
    delivered and nothing refused, receivers were never seen up: their errors are errors, and no outage.
    """
    named = {
        str(name): Period(float(own.min()), float(own.max()), np.empty((0, 2)))
        for name, own in frame.groupby("endpoint", sort=False)["started_s"]
    }
    if not (frame["outcome"] == "delivered").any():
        if (frame["outcome"] == "refused").any():
            raise _nothing_delivered(frame, log.name)
        found.warnings.append(
            f"outage: none of the {len(frame):,} attempts was delivered, so receivers that always fail cannot be told "
            "from one long outage; errors and lost answers are given, and their latency"
        )
        return named, np.zeros(len(frame), bool)
    outages = calibrate_outages.detect(frame, log.window_s)
    histories = outages.histories
    lone = int(outages.inside.sum())
    if not histories and lone:
        found.warnings.append(
            f"outage: {lone:,} failed attempt{'s' if lone > 1 else ''} left out: the endpoint was tried at no other "
            "time, so how long it was down is unknown; take a longer log, or write an outage by hand"
        )
        return named, outages.inside
    if not histories:
        found.warnings.append(
            f"outage: no connection was refused, and no {outages.shortest_run} attempts in a row failed (the rule: so "
            "many as independent failures would hardly reach), so none is given"
        )
        return named, outages.inside
    counts = {how: sum(len(p.outages) for p in history.values()) for how, history in histories.items()}
    main = max(counts, key=counts.__getitem__)
    kinds = [how for how, count in counts.items() if how == main or count >= 10]
    rare = {how: count for how, count in counts.items() if how not in kinds}
    if rare:
        told = ", ".join(f"{how} {count}" for how, count in rare.items())
        found.warnings.append(f"outage: rare kinds are counted with {main} ({told})")
    joined = {how: _joined([histories[how], *(histories[r] for r in rare if how == main)]) for how in kinds}
    for how in sorted(kinds, key=lambda how: -counts[how]):
        name = "outage" if len(kinds) == 1 else f"outage {how}"
        attempts = sum(outages.attempts[kind] for kind in (how, *(rare if how == main else ())))
        fitted, warnings = calibrate_outages.fit_outages(joined[how], how, name, attempts=attempts)
        found.warnings += warnings
        if fitted is not None:
            take_outage(fitted, f"receiver.{name}", found)
            found.warnings += calibrate_outages.coarse(outages, fitted, name)
    return _joined(list(histories.values())), outages.inside


def _joined(histories: list[dict[str, Period]]) -> dict[str, Period]:
    """Histories of the same watches with the outages of all."""
    made = {}
    for name, period in histories[0].items():
        rows = np.concatenate([history[name].outages for history in histories])
        made[name] = Period(period.start_s, period.end_s, rows[np.argsort(rows[:, 0], kind="stable")])
    return made


def _lost(calm: pd.DataFrame, found: Findings) -> Any:
    """Marks of attempts that were processed in time although the sender saw no answer; None: unknown."""
    timed_out = (calm["outcome"] == "timed_out").to_numpy()
    processed = "processed_s" in calm and bool(calm["processed_s"].notna().any())
    if not processed:
        if timed_out.any():
            found.warnings.append(
                "lost answers: the log does not say what receivers processed (processed_s), so "
                f"{int(timed_out.sum()):,} timed-out attempts may be slow, hanging or processed with the answer lost; "
                "those that the tail of the latency does not account for are given as lost answers"
            )
        return None
    return timed_out & (calm["processed_s"] <= calm["finished_s"] + NANOSECOND).to_numpy()


def _fit_errors(calm: pd.DataFrame, lost: Any, found: Findings) -> None:
    """Error share by status, of requests that no earlier error of the list has met."""
    status = calm["status"].to_numpy()
    rejected = (~calm["outcome"].isin(["delivered", "timed_out", "refused"])).to_numpy()
    left = int(rejected.sum() + (calm["outcome"] == "delivered").sum() + (0 if lost is None else lost.sum()))
    values, counts = np.unique(status[rejected], return_counts=True)
    for value, count in sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
        code = value if 300 <= value <= 599 else 500
        share = proportion("probability", count, left)
        found.parameters.append((f"receiver.error {code}", share))
        error: dict[str, Any] = {"probability": share_text(share.value), "status": code}
        own = calm[rejected & (status == value)]
        if code != value:
            found.warnings.append(
                f"error: {count:,} rejected attempts have the status {value or 'none'}; {code} is given"
            )
        if count < FEWEST_ERRORS:
            found.warnings.append(
                f"error {code}: {count} of them are too few to know the share ({FEWEST_ERRORS} are needed)"
            )
        if "retry_after_s" in own and own["retry_after_s"].notna().any():
            asked = own["retry_after_s"].dropna()
            error["retry_after"] = duration(float(asked.median()))
            if asked.nunique() > 1:
                found.warnings.append(
                    f"error {code}: Retry-After lies between {asked.min():g} s and {asked.max():g} s; its median "
                    "is given"
                )
        if latency := _own_latency(calm, own, code, found):
            error["latency"] = latency
        found.faults.append({"error": error})
        left -= count


def _own_latency(calm: pd.DataFrame, own: pd.DataFrame, code: int, found: Findings) -> Any:
    """The latency of errors if it clearly differs from that of successes, else nothing."""
    took = _took(own)
    usual = _took(calm[calm["outcome"] == "delivered"])
    if min(len(took), len(usual)) < OWN_LATENCY:
        return None
    step = len(usual) // 20_000 + 1
    if float(stats.ks_2samp(took, usual[::step], method="asymp").pvalue) >= DIFFERENT:
        return None
    fitted = fit_duration(sample(took), f"latency of {code}")
    found.take(fitted, f"receiver.error {code}.latency")
    return fitted.block


def _took(frame: pd.DataFrame) -> Any:
    """How long the receiver worked on each: from when it took the request up, if that is known, s."""
    begun = frame["started_s"]
    if "served_s" in frame:
        begun = frame["served_s"].where(frame["served_s"].notna(), begun)
    took = (frame["finished_s"] - begun).to_numpy()
    # two clocks may disagree by a little; a nanosecond is the noise of subtraction
    return np.maximum(np.round(took, 9), 0.0)


def _fit_latency(calm: pd.DataFrame, lost: Any, found: Findings) -> tuple[Any, Parameter | None]:
    """The latency of requests, and the share of timeouts that its tail does not account for.

    Timeouts cut it off, unless the log says when they were processed.
    """
    errors_apart = {
        int(fault["error"]["status"]) for fault in found.faults if "latency" in fault.get("error", {})
    }
    answered = ~calm["outcome"].isin(["timed_out", "refused"]).to_numpy()
    kept = ~calm["status"].isin(errors_apart).to_numpy() & (calm["outcome"] != "refused").to_numpy()
    took = _took(calm)
    ended = answered.copy()
    limits = np.full(len(calm), np.inf)
    if lost is not None and "served_s" in calm:
        done = (calm["processed_s"] - calm["served_s"]).to_numpy()
        if _on_arrival(calm):
            answered = answered & np.isfinite(done)
        known = np.isfinite(done)
        took = np.where(known, np.round(done, 9), took)
        ended = answered | known
    elif lost is not None:
        kept &= ~lost  # how long the work took is not known, and it was no timeout of it
    if (~ended).any():
        limits[:] = float(np.median(took[~ended]))
        limits[~ended] = took[~ended]
    whole = sample(took[kept], ended[kept], np.maximum(limits, took)[kept])
    if whole.complete < FEWEST_LATENCIES:
        found.warnings.append(
            f"latency: {whole.complete} answered attempts are too few ({FOR_A_FAMILY} are needed for a family, "
            f"{FEWEST_LATENCIES} for anything), so 0s is given"
        )
        timeouts = int((calm["outcome"] == "timed_out").sum())
        known = lost is not None or not timeouts
        return "0s", None if known else proportion("probability", timeouts, int(kept.sum()))
    fitted = fit_duration(whole, "latency", unanswered=lost is None)
    found.durations.insert(0, fitted)
    found.parameters[:0] = [
        (f"receiver.latency.{fitted.family}", parameter)
        for parameter in fitted.parameters
        if parameter is not fitted.unanswered
    ]
    found.goodness[:0] = list(fitted.goodness)
    found.warnings += fitted.warnings
    return fitted.block, fitted.unanswered


def _on_arrival(calm: pd.DataFrame) -> bool:
    """Whether receivers answer before they have processed."""
    if "processed_s" not in calm:
        return False
    delivered = calm[calm["outcome"] == "delivered"]
    after = delivered["processed_s"] > delivered["finished_s"] + NANOSECOND
    return bool(len(delivered) and after.mean() > 0.5)


def _capacity(calm: pd.DataFrame, found: Findings) -> dict[str, Any]:
    """Servers and when it answers, where the log says when requests were taken up and processed."""
    block: dict[str, Any] = {}
    if _on_arrival(calm):
        block["answers"] = "on_arrival"
    if not ("served_s" in calm and calm["served_s"].notna().any()):
        found.warnings.append(
            "servers: the log does not say when receivers took requests up (served_s), so the latency includes "
            "waiting at the receiver, and servers are unlimited"
        )
        return block
    wait = (calm["served_s"] - calm["started_s"]).to_numpy()
    if np.nanmax(wait) <= np.nanmedian(wait) + 1e-6:
        return block
    most = 0
    for _, own in calm[calm["served_s"].notna()].groupby("endpoint", sort=False):
        starts = own["served_s"].to_numpy()
        ends = own["processed_s"].fillna(own["finished_s"]).to_numpy()
        order = np.lexsort(
            (np.repeat([1, 0], len(own)), np.concatenate((starts, ends)))
        )  # an end frees its server
        most = max(most, int(np.cumsum(np.repeat([1, -1], len(own))[order]).max()))
    block["servers"] = max(most, 1)
    return block


# --------------------------------------------------------------------------- events


def _fit_events(log: Log, found: Findings) -> ArrivalFit | None:
    """The producer: arrivals, types, batches and keys of the events that the log shows."""
    events = _events(log, found)
    offset = log.origin_s % 86_400.0
    arrivals = fit_arrivals(events, log.window_s, offset)
    if arrivals is None:
        found.warnings.append(f"producer: fewer than {FOR_RATE} events, so none is given")
    elif "daily" in arrivals.block["arrivals"]:
        since = "UTC" if log.clock == "utc" else "counted from the start of the log's clock"
        found.warnings.append(f"arrivals: the first rate is that of the hour from midnight, {since}")
    return arrivals


def _events(log: Log, found: Findings) -> pd.DataFrame:
    """One row for each event: created_s, and type and key where they are known."""
    if log.deliveries is not None:
        made = log.deliveries.drop_duplicates("event_id")
        events = pd.DataFrame({"created_s": made["created_s"].astype(float) - log.origin_s})
        for column in ("type", "key"):
            events[column] = made[column].astype(str)
        if made["producer"].nunique() > 1:
            found.warnings.append("producer: several producers are fitted as one")
        return events
    frame = log.frame
    order = frame.sort_values("started_s", kind="stable")
    if log.has("event_id"):
        first = order.drop_duplicates("event_id")
    elif log.has("delivery_id"):
        first = order.drop_duplicates("delivery_id")
    elif log.has("attempt_number"):
        first = order[pd.to_numeric(order["attempt_number"], errors="coerce") == 1]
    else:
        first = order
        if (frame["outcome"] != "delivered").any():
            found.warnings.append(
                "producer: the log tells retries from first attempts by nothing (event_id, delivery_id or "
                "attempt_number), so retries count as events"
            )
    created = first["created_s"] if log.has("created_s") else first["started_s"]
    if not log.has("created_s"):
        found.warnings.append("producer: events are taken to happen when they are first tried (no created_s)")
    events = pd.DataFrame({"created_s": created.astype(float)}).dropna()
    for column in ("type", "key"):
        if log.has(column):
            events[column] = first[column]
    if "key" not in events:
        found.warnings.append("keys: the log has no column key, so the scenario's default stands")
    return events
