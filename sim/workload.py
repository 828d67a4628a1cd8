"""What happens in the world: arrival processes, event types, keys and batches, and recorded traces.

``fill`` makes the events of a producer in order, a chunk at a time, as a pure function of plain numbers: both
engines and the load generator call it, so all meet the same events. Arrival i of a producer draws only from
addresses (producer, i), so neither a second producer nor an endpoint changes it.
"""

from __future__ import annotations

import csv
import functools
import gzip
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sim import dice
from sim.blocks_world import ReplayArrivals, ReplayOutages
from sim.errors import Problem, ScenarioError
from sim.policy import FOREVER, rounded

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

# Kinds of arrival process.
CONSTANT, POISSON, BURSTS, DAILY, RAMP, LISTED = 0, 1, 2, 3, 4, 5


class ArrivalProcess(NamedTuple):
    """An arrival process as numbers; rates are per second, times ns."""

    kind: int
    rate: float
    """Of constant and poisson arrivals, of bursts while on, of a ramp at its start."""
    second_rate: float
    """Of bursts while off, of a ramp at its end."""
    span: int
    """Period of daily arrivals, length of a ramp."""
    rates: Sequence[float]
    """Daily arrivals: the rate in each equal part of the period."""
    times: Sequence[int]
    """Listed arrivals, ascending."""
    on_for: dice.Distribution
    off_for: dice.Distribution
    on_share: float
    """Share of time in which bursts are on."""


class EventSource(NamedTuple):
    """A producer as numbers: what ``fill`` is given."""

    word: int
    """Address of the producer's draws."""
    process: ArrivalProcess
    type_weights: Sequence[float]
    """Cumulative weights of the event types; empty when they are listed or come in batches."""
    batch_counts: Sequence[int]
    """Events of each type per change; -1: Poisson with the mean below. Empty: one event a change."""
    batch_means: Sequence[float]
    key_count: int
    key_weights: Sequence[float]
    """Cumulative weights of the keys; empty when all are alike."""
    listed_types: Sequence[int]
    listed_keys: Sequence[int]


# Positions in the clock of a source.
NEXT, LAST, ARRIVAL, PHASE, PHASE_END, CYCLE = 0, 1, 2, 3, 4, 5
UNKNOWN = -1


def exponential_amount(u: float) -> float:
    """A unit exponential: how much expected arrival passes until the next one."""
    return -math.log(u)


def _next_burst(process: ArrivalProcess, clock: Any, amount: float, seed: int, word: int, now: int) -> int:
    """Time at which ``amount`` of expected arrivals has passed, walking through the on and off phases."""
    if clock[PHASE] == UNKNOWN:  # steady state: on with the share of time that it is on
        clock[PHASE] = 1 if dice.uniform(seed, STATE, word, 0, 0, 2) < process.on_share else 0
        if clock[PHASE] == 1:
            clock[PHASE_END] = dice.residual(process.on_for, seed, STATE, word, 0, 0, 1)
        else:
            clock[PHASE_END] = dice.residual(process.off_for, seed, STATE, word, 0, 0, 0)
    while True:
        rate = process.rate if clock[PHASE] == 1 else process.second_rate
        room = rate * ((clock[PHASE_END] - now) / 1e9)
        if amount <= room:
            return int(now + rounded(amount / rate * 1e9))
        amount -= room
        now = clock[PHASE_END]
        if now >= FOREVER // 2:
            return FOREVER
        clock[CYCLE] += 1
        clock[PHASE] = 1 - clock[PHASE]
        if clock[PHASE] == 1:
            stay = dice.sample(process.on_for, seed, STATE, word, 0, clock[CYCLE], 1)
        else:
            stay = dice.sample(process.off_for, seed, STATE, word, 0, clock[CYCLE], 0)
        clock[PHASE_END] = now + stay


def _daily_time(process: ArrivalProcess, amount: float) -> int:
    """Time at which ``amount`` of expected arrivals has passed since 0, with a rate that repeats."""
    parts = len(process.rates)
    part_s = process.span / 1e9 / parts
    per_period = 0.0
    for rate in process.rates:
        per_period += rate * part_s
    periods = math.floor(amount / per_period)
    left = amount - periods * per_period
    seconds = 0.0
    for rate in process.rates:
        room = rate * part_s
        if left <= room and rate > 0:
            seconds += left / rate
            break
        left -= room
        seconds += part_s
    return min(periods, 2**32) * process.span + rounded(seconds * 1e9)


def _ramp_time(process: ArrivalProcess, amount: float) -> int:
    """Time at which ``amount`` of expected arrivals has passed since 0, the rate rising or falling."""
    length = process.span / 1e9
    total = (process.rate + process.second_rate) * length / 2
    if amount > total:
        if process.second_rate <= 0:
            return FOREVER
        return process.span + rounded((amount - total) / process.second_rate * 1e9)
    slope = (process.second_rate - process.rate) / length
    # the root of rate·t + slope·t²/2 = amount in the form that survives a slope of nearly 0
    root = math.sqrt(max(process.rate * process.rate + 2 * slope * amount, 0.0))
    return rounded(2 * amount / (process.rate + root) * 1e9)


def _next_arrival(
    process: ArrivalProcess, clock: Any, passed: Any, seed: int, word: int, now: int, u: float
) -> int:
    """Time of arrival number ``clock[ARRIVAL]``, the one before having come at ``now``; ``u``: its luck."""
    i = clock[ARRIVAL]
    if process.kind == CONSTANT:
        return rounded(i * (1e9 / process.rate))
    if process.kind == LISTED:
        return int(process.times[i]) if i < len(process.times) else FOREVER
    amount = exponential_amount(u)
    if process.kind == POISSON:
        return int(now + rounded(amount / process.rate * 1e9))
    if process.kind == BURSTS:
        return _next_burst(process, clock, amount, seed, word, now)
    passed[0] += amount
    if process.kind == DAILY:
        return _daily_time(process, passed[0])
    return _ramp_time(process, passed[0])


# Enum members are objects to a compiler; these are numbers.
ARRIVALS, STATE = int(dice.Stream.ARRIVAL), int(dice.Stream.STATE)
TYPES, KEYS, BATCHES = int(dice.Stream.TYPE), int(dice.Stream.KEY), int(dice.Stream.BATCH)


def _batch_count(source: EventSource, seed: int, i: int, position: int) -> int:
    count = source.batch_counts[position]
    if count >= 0:
        return count
    u = dice.uniform(seed, BATCHES, source.word, 0, i, position)
    return dice.poisson_count(source.batch_means[position], u)


def _key(source: EventSource, seed: int, i: int) -> int:
    if len(source.listed_keys) > 0:
        return source.listed_keys[i]
    if source.key_count == 1:
        return 0
    u = dice.sequence_uniform(seed, KEYS, source.word, i)
    if len(source.key_weights) > 0:
        return dice.pick(source.key_weights, u)
    return int(u * source.key_count)


def _type(source: EventSource, seed: int, i: int) -> int:
    if len(source.listed_types) > 0:
        return source.listed_types[i]
    if len(source.type_weights) <= 1:
        return 0
    return dice.pick(source.type_weights, dice.sequence_uniform(seed, TYPES, source.word, i))


def fill(
    source: EventSource,
    seed: int,
    horizon: int,
    clock: Any,
    passed: Any,
    seen: Any,
    times: Any,
    types: Any,
    keys: Any,
    seqs: Any,
) -> int:
    """Write the source's next events into the columns; the number written (0: no more).

    ``clock`` (six ints, see ``new_clock``), ``passed`` (one float) and ``seen`` (events so far, by key) are
    the source's state and are advanced. The columns must be longer than the largest batch.
    """
    written = 0
    room = len(times)
    held = clock[ARRIVAL] // 4
    words = dice.block(seed, ARRIVALS, source.word, 0, held, 0)  # the luck of four arrivals at a time
    while True:
        if clock[NEXT] == UNKNOWN:
            if clock[ARRIVAL] // 4 != held:
                held = clock[ARRIVAL] // 4
                words = dice.block(seed, ARRIVALS, source.word, 0, held, 0)
            u = dice.uniform_of(words[clock[ARRIVAL] % 4])
            clock[NEXT] = _next_arrival(source.process, clock, passed, seed, source.word, clock[LAST], u)
        now = clock[NEXT]
        if now >= horizon:
            return written
        i = clock[ARRIVAL]
        kinds = max(1, len(source.batch_counts))
        total = 1
        if len(source.batch_counts) > 0:
            total = 0
            for position in range(kinds):
                total += _batch_count(source, seed, i, position)
        if written + total > room:
            return written
        key = _key(source, seed, i)
        for position in range(kinds):
            count = _batch_count(source, seed, i, position) if len(source.batch_counts) > 0 else 1
            kind = position if len(source.batch_counts) > 0 else _type(source, seed, i)
            for _ in range(count):
                seen[key] += 1
                times[written] = now
                types[written] = kind
                keys[written] = key
                seqs[written] = seen[key]
                written += 1
        clock[ARRIVAL] += 1
        clock[LAST] = now
        clock[NEXT] = UNKNOWN


UPDATES = int(dice.Stream.OBJECT_UPDATED)


def data_age(
    every: dice.Distribution, seed: int, event: int, created: int, fetched: int, processed: int
) -> tuple[bool, bool]:
    """Whether data fetched then was newer than the event, and older than the object when it was processed.

    The object behind an event is updated again and again from the event's creation on; times are ns.
    """
    newer = stale = False
    at = created
    cycle = 0
    while at <= processed and not stale:
        step = dice.sample(every, seed, UPDATES, event, 0, cycle, 0)
        at += max(step, 1)  # an update every 0 s would never end
        cycle += 1
        newer = newer or at <= fetched
        stale = fetched < at <= processed
    return newer, stale


COMPILABLE = (
    exponential_amount,
    _next_burst,
    _daily_time,
    _ramp_time,
    _next_arrival,
    _batch_count,
    _key,
    _type,
    fill,
    data_age,
)


def new_clock() -> list[int]:
    """The clock of a source before its first event."""
    return [UNKNOWN, 0, 0, UNKNOWN, 0, 0]


def mean_rate_per_s(process: ArrivalProcess, horizon: int) -> float:
    """Arrivals per second over the horizon, on average."""
    seconds = horizon / 1e9
    if process.kind in (CONSTANT, POISSON):
        return process.rate
    if process.kind == BURSTS:
        return process.on_share * process.rate + (1 - process.on_share) * process.second_rate
    if process.kind == DAILY:
        part = process.span / 1e9 / len(process.rates)
        whole, rest = divmod(seconds, process.span / 1e9)
        begun = sum(rate * min(max(rest - i * part, 0.0), part) for i, rate in enumerate(process.rates))
        return (whole * part * sum(process.rates) + begun) / seconds
    if process.kind == RAMP:
        length = min(process.span / 1e9, seconds)
        end = process.rate + (process.second_rate - process.rate) * length / (process.span / 1e9)
        return ((process.rate + end) / 2 * length + process.second_rate * (seconds - length)) / seconds
    return sum(1 for at in process.times if at < horizon) / seconds


# --------------------------------------------------------------------------- recorded traces


class RecordedArrivals(NamedTuple):
    """Arrivals of a file, ns after the first; keys and types as positions in lists."""

    times: tuple[int, ...]
    key_codes: tuple[int, ...]
    keys: tuple[str, ...]
    type_codes: tuple[int, ...]
    types: tuple[str, ...]


def read_arrivals(replay: ReplayArrivals, folder: Path, path: str) -> RecordedArrivals:
    """Read recorded arrivals; ``path`` is where the scenario names the file, for errors.

    Raises:
        ScenarioError: the file is missing, empty, unsorted, lacks a column, or has a row without a time.
    """
    return _arrivals_once(replay.model_dump_json(), folder, path, _changed_ns(folder / replay.file))


# A scenario's files are wanted at every step from checking it to running it, and by every member of a group.
@functools.lru_cache(maxsize=32)
def _arrivals_once(block: str, folder: Path, path: str, changed_ns: int) -> RecordedArrivals:
    replay = ReplayArrivals.model_validate_json(block)
    where = f"{path}.arrivals.replay"
    columns = tuple(column for column in (replay.time, replay.key, replay.type) if column is not None)
    frame = _read_columns(replay.file, folder, columns, where)
    times = _times_ns(frame[replay.time], replay.file, where)
    _require_sorted(times, replay.file, where)
    key_codes, keys = _codes(frame, replay.key, replay.file, where)
    type_codes, types = _codes(frame, replay.type, replay.file, where)
    offsets = tuple((times - times[0]).tolist())
    return RecordedArrivals(offsets, key_codes, keys, type_codes, types)


def read_outages(replay: ReplayOutages, folder: Path, path: str) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Read recorded outages: for each endpoint in the file its [start, end) in ns from the origin, merged.

    Raises:
        ScenarioError: as for arrivals, and where an outage ends before it starts or nothing is left.
    """
    return _outages_once(replay.model_dump_json(), folder, path, _changed_ns(folder / replay.file))


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0  # reading it will say what is wrong


@functools.lru_cache(maxsize=32)
def _outages_once(
    block: str, folder: Path, path: str, changed_ns: int
) -> tuple[tuple[tuple[int, int], ...], ...]:
    replay = ReplayOutages.model_validate_json(block)
    where = f"{path}.replay"
    columns = [replay.start, replay.end, *replay.where]
    if replay.endpoint is not None:
        columns.append(replay.endpoint)
    frame = _read_columns(replay.file, folder, tuple(columns), where)
    for column, value in replay.where.items():
        frame = frame[frame[column] == value]
    if frame.empty:
        wanted = ", ".join(f"{column} = {value}" for column, value in replay.where.items())
        raise ScenarioError([Problem(f"{where}.where", wanted, f"matches no row of {replay.file}")])
    starts = _times_ns(frame[replay.start], replay.file, where)
    ends = _times_ns(frame[replay.end], replay.file, where)
    wrong = (ends < starts).nonzero()[0]
    if len(wrong):
        raise _bad_row(replay.file, where, frame.index[wrong[0]], "ends before it starts")
    origin = _origin_ns(replay, starts, where)
    names = frame[replay.endpoint] if replay.endpoint is not None else [""] * len(starts)
    by_name: dict[str, list[tuple[int, int]]] = {}
    for name, start, end in zip(names, starts.tolist(), ends.tolist(), strict=True):
        window = (rounded((start - origin) / replay.speed), rounded((end - origin) / replay.speed))
        by_name.setdefault(name, []).append(window)
    return tuple(merge_windows(windows) for windows in by_name.values())


def merge_windows(windows: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Windows [start, end) in order, overlapping or touching ones joined, from 0 on."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(windows):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif end > 0 and end > start:
            merged.append((max(start, 0), end))
    return tuple(merged)


def _origin_ns(replay: ReplayOutages, starts: np.ndarray[Any, Any], where: str) -> int:
    import pandas as pd

    if replay.origin is None:
        return int(starts.min())
    if isinstance(replay.origin, str):
        try:
            return int(pd.Timestamp(replay.origin, tz="UTC").as_unit("ns").value)
        except ValueError:
            rule = "must be Unix seconds or an ISO time such as 2026-01-01T00:00:00Z"
            raise ScenarioError([Problem(f"{where}.origin", replay.origin, rule)]) from None
    return round(replay.origin * 1e9)


@functools.lru_cache(maxsize=8)
def _read_cached(file: str, changed_ns: int, columns: tuple[str, ...]) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(
        file,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,  # rows keep the numbers that an editor shows
        index_col=False,  # or a first row that is longer than the header would move all values by one column
        usecols=lambda column: column in columns,
    )


def _require_named(path: Path, file: str, where: str) -> None:
    """Refuse a file whose first row has values beyond the header; those of later rows are left out."""
    if path.suffix not in (".csv", ".gz"):
        return
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
        rows = list(itertools.islice(csv.reader(text), 2))
    header, first = rows if len(rows) == 2 else ([], [])
    if any(value.strip() for value in first[len(header) :]):
        counts = f"has {len(first)} columns and the header {len(header)}"
        raise _bad_row(file, where, 0, f"{counts}; name them all, and put text with a comma in quotes")


def _read_columns(file: str, folder: Path, columns: Sequence[str], where: str) -> pd.DataFrame:
    """The named columns as text, rows numbered from 0."""
    path = folder / file

    def refuse(rule: str) -> ScenarioError:
        return ScenarioError([Problem(f"{where}.file", file, rule)])

    import pandas as pd

    try:
        frame = _read_cached(str(path), path.stat().st_mtime_ns, tuple(columns))
    except FileNotFoundError:
        raise refuse("does not exist (paths start at the scenario's folder)") from None
    except pd.errors.EmptyDataError:
        raise refuse("is empty") from None
    except (OSError, EOFError, UnicodeDecodeError, pd.errors.ParserError, ValueError) as error:
        raise refuse(f"cannot be read as CSV: {str(error).splitlines()[0]}") from None
    for column in columns:
        if column not in frame.columns:
            with path.open("rb"):
                header = list(map(str, pd.read_csv(path, nrows=0).columns))
            if len(header) == 1 and re.search(r"[;\t|]", header[0]):
                raise refuse(f"has one column, {header[0]!r}; columns must be separated by commas")
            raise refuse(f"has no column {column!r} (it has {', '.join(header[:12])})")
    if frame.empty:
        raise refuse("has no rows")
    _require_named(path, file, where)
    return frame


def _bad_row(file: str, where: str, row: Any, rule: str) -> ScenarioError:
    # the header is row 1 of the file
    return ScenarioError([Problem(f"{where}.file", file, f"row {int(row) + 2} {rule}")])


def _times_ns(column: pd.Series[str], file: str, where: str) -> np.ndarray[Any, Any]:
    """Unix seconds (whole or not) or ISO times as ns since 1970, UTC where no zone is given."""
    import pandas as pd

    text = column.str.strip()
    numeric = pd.to_numeric(text, errors="coerce")
    if numeric.notna().sum() * 2 >= len(text):
        numeric = numeric.where(numeric.abs() < 2**33)  # nan, inf and years beyond counting are no times
        whole = numeric.fillna(0).floordiv(1)
        values = whole.astype("int64") * 1_000_000_000 + ((numeric.fillna(0) - whole) * 1e9).round().astype(
            "int64"
        )
        bad = numeric.isna()
    else:
        moments = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
        moments = moments.where(
            (moments > pd.Timestamp("1700", tz="UTC")) & (moments < pd.Timestamp("2250", tz="UTC"))
        )  # what fits into ns
        bad = moments.isna()
        values = moments.dt.as_unit("ns").astype("int64")
    if bad.any():
        row = bad[bad].index[0]
        rule = f"has the time {column[row]!r}; it must be Unix seconds or an ISO time"
        raise _bad_row(file, where, row, rule + _finer_unit(text[row]))
    return values.to_numpy()


def _finer_unit(text: str) -> str:
    """What to say of a time that would be one of our days if it were counted in a finer unit."""
    match = re.fullmatch(r"(\d{12,20})(?:\.0*)?", text, re.ASCII)
    for unit, per_s in (("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)):
        if match and 10**8 <= int(match[1]) / per_s < 10**10:
            return f", and this looks like {unit}: divide the column by {per_s}"
    return ""


def _require_sorted(times: np.ndarray[Any, Any], file: str, where: str) -> None:
    falls = (times[1:] < times[:-1]).nonzero()[0]
    if len(falls):
        raise _bad_row(file, where, falls[0] + 1, "is earlier than the row before it; sort the file by time")


def _codes(
    frame: pd.DataFrame, column: str | None, file: str, where: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """A text column as positions in the list of its values, in order of first appearance."""
    if column is None:
        return (), ()
    import pandas as pd

    blank = (frame[column] == "").to_numpy().nonzero()[0]
    if len(blank):
        raise _bad_row(file, where, frame.index[blank[0]], f"has no {column}")
    codes, values = pd.factorize(frame[column])
    return tuple(codes.tolist()), tuple(map(str, values))


_LISTED_RULE = "must be times in seconds from 0, in ascending order, or (time, type, key) tuples"


def listed(items: Iterable[Any], horizon: int, path: str = "arrivals") -> RecordedArrivals:
    """Arrivals from a user's own object: times in s, or (time, type), or (time, type, key), ascending.

    It is read until the horizon, so it may be endless; ``path`` is what errors call it.

    Raises:
        ScenarioError: times that fall or are none, or types or keys given for some only.
    """
    if not isinstance(items, Iterable):
        raise ScenarioError([Problem(path, items, f"must be a list or generator; {_LISTED_RULE}")])
    times: list[int] = []
    labels: tuple[list[str], list[str]] = ([], [])
    for position, item in enumerate(items):
        parts = item if isinstance(item, tuple) else (item,)
        try:
            at_s = float(parts[0])
        except (TypeError, ValueError, IndexError):
            raise ScenarioError([Problem(f"{path}[{position}]", item, _LISTED_RULE)]) from None
        if at_s * 1e9 >= horizon:
            break
        at = round(at_s * 1e9) if at_s >= 0 else -1
        if at < 0 or (times and at < times[-1]):
            raise ScenarioError([Problem(f"{path}[{position}]", parts[0], _LISTED_RULE)])
        times.append(at)
        for column, label in zip(labels, parts[1:], strict=False):
            column.append(str(label))
    for column in labels:
        if column and len(column) != len(times):
            raise ScenarioError(f"{path} must all have a type (and a key), or none of them")
    kinds = list(dict.fromkeys(labels[0]))
    keys = list(dict.fromkeys(labels[1]))
    return RecordedArrivals(
        tuple(times),
        tuple(map({key: i for i, key in enumerate(keys)}.__getitem__, labels[1])),
        tuple(keys),
        tuple(map({kind: i for i, kind in enumerate(kinds)}.__getitem__, labels[0])),
        tuple(kinds),
    )


def largest_batch(source: EventSource) -> int:
    """More events than one change ever brings, for the length of the columns given to ``fill``."""
    largest = sum(
        count if count >= 0 else 10_000
        for count in itertools.islice(source.batch_counts, len(source.batch_counts))
    )
    return max(1, largest)
