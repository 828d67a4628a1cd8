"""Logs of attempts and histories of receivers, read into one form: whoever wrote them, and in whatever format.

Three kinds are told apart by their columns: **attempts** (``started_s``, ``finished_s`` or ``latency_s``,
``outcome`` or ``status``), **checks** (``checked_s``, and ``status`` up or down) and **outages** (``down_start``,
``down_end``). A column map gives columns of other names these names. Times are seconds, ISO times, or epoch
seconds, ms, us or ns, told apart by their size; inside they are seconds from the earliest time of the log.
"""

from __future__ import annotations

import difflib
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sim.errors import Problem, ScenarioError, nearest
from sim.meta import REAL

TIMES = ("started_s", "finished_s", "created_s", "due_s", "processed_s", "served_s")
COLUMNS = (
    *TIMES,
    *("latency_s", "outcome", "status", "endpoint", "attempt_number", "delivery_id", "event_id"),
    *("key", "type", "producer", "wait_cause", "tier", "retry_after_s"),
    *("checked_s", "down_start", "down_end", "right_censored"),
)
"""Names that a column map may give to columns."""
ALIASES = {"timestamp": "checked_s", "response_time_ms": "latency_s"}
"""Names that need no column map."""
_UNITS = {"_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9}
"""Ends of the names of columns with durations that are not in seconds."""
_SCALES = ((1e11, 1_000_000_000), (1e14, 1_000_000), (1e17, 1_000), (np.inf, 1))
"""Numbers below the first are times of which one is so many ns: seconds, ms, us, ns since 1970 (or a start)."""
_ZONE = re.compile(r"(?:Z|[+-]\d\d(?::?\d\d)?)$", re.IGNORECASE)
_SPELLINGS = {
    "delivered": ("ok", "success", "succeeded", "true", "up"),
    "rejected": ("error", "failed", "failure", "false"),
    "timed_out": ("timeout", "timedout", "time_out", "hang"),
    "refused": ("connection_refused", "unreachable", "connect_error"),
    "gone": (),
}
"""Outcomes, and other words that logs have for them."""
_WORDS = {word: outcome for outcome, others in _SPELLINGS.items() for word in (outcome, *others)}
_KNOWN_WORDS = (
    "; ".join(f"{outcome}{''.join(f', {word}' for word in others)}" for outcome, others in _SPELLINGS.items())
    + "; in capitals or not"
)
_UP = {"up": True, "ok": True, "true": True, "1": True, "down": False, "false": False, "0": False}
FORMATS = ".csv, .tsv, .parquet, .ndjson or .jsonl (.gz too, but for Parquet)"
NANOSECOND = 1e-9
MOST_STATUS = 10_000
"""Above the codes that servers make up for themselves, such as 999."""
ALIKE = 0.6
"""How alike two names must be for one to be taken for what was meant."""
_OFTEN = {
    "started_s": ("start", "ts", "timestamp", "time"),
    "finished_s": ("end", "ended", "stop"),
    "latency_s": ("duration", "elapsed", "response_time"),
    "status": ("code", "http_code", "status_code"),
}
"""What others call these columns: for telling which one is probably meant, and never taken for it."""


@dataclass(frozen=True)
class Log:
    """A log in one form; times are s from ``origin_s``, NaN for none, and rows keep the numbers of the file."""

    kind: str
    """attempts, checks or outages."""
    frame: pd.DataFrame
    name: str
    origin_s: float = 0.0
    """Time 0 of the frame: s since 1970, or since the start of a run."""
    clock: str = "run"
    """utc, or run: s from a start that nobody tells."""
    window_s: tuple[float, float] | None = None
    """When the log was kept, if that is known and not read off its rows."""
    deliveries: pd.DataFrame | None = None
    warnings: tuple[str, ...] = field(default=())
    real: bool = False
    """Whether a real sender made its attempts, as its metadata say."""

    def has(self, column: str) -> bool:
        """Whether the log has a column and at least one value in it."""
        return column in self.frame and bool(self.frame[column].notna().any())


def read(
    source: Any, columns: str | Mapping[str, str] | None = None, where: Mapping[str, str] | None = None
) -> Log:
    """Read a log: a file, a folder written by ``hooklab run --out``, a frame, or the result of a run.

    ``columns`` maps our names to those of the log (``started_s=ts,status=code``, or a mapping); ``where`` keeps
    the rows that have these values.

    Raises:
        ScenarioError: the log cannot be read, lacks columns, or holds rows that cannot be true; says which.
    """
    frame, deliveries, meta, name = _load(source)
    _require_distinct(frame.columns, name)
    frame = _chosen(frame, where or {}, name)
    frame, present = _renamed(frame, columns, name)
    kind = _kind(frame, present, name)
    if frame.empty:
        raise ScenarioError("has no rows", name)
    log = _timed(kind, frame, name)
    if kind == "attempts":
        _require_forward(log.frame, "started_s", "finished_s", name)
        log.frame["outcome"] = _outcomes(log.frame, name)
    window = (0.0, float(meta["horizon_s"])) if "horizon_s" in meta else None
    if window is not None:
        window = (window[0] - log.origin_s, window[1] - log.origin_s)
    return Log(
        kind,
        log.frame.reset_index(drop=True),
        name,
        log.origin_s,
        log.clock,
        window,
        deliveries,
        log.warnings,
        meta.get("engine") == REAL,
    )


def read_map(text: str | Mapping[str, str] | None) -> dict[str, str]:
    """A column map, ``started_s=ts,status=code`` or a mapping: our names to those of the log.

    Raises:
        ScenarioError: not in that form, or a name that is none of ours.
    """
    if text is None:
        return {}
    pairs: Iterable[Sequence[str]]
    if isinstance(text, Mapping):
        pairs = [(str(key), str(value)) for key, value in text.items()]
    else:
        pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    found: dict[str, str] = {}
    for pair in pairs:
        if len(pair) != 2 or not pair[1].strip():
            rule = "must be pairs such as started_s=ts,finished_s=end,status=code"
            raise ScenarioError([Problem("columns", "=".join(pair), rule)])
        ours, theirs = pair[0].strip(), pair[1].strip()
        if ours not in COLUMNS:
            rule = f"is no column that fit knows{nearest(ours, COLUMNS)} (known: {', '.join(COLUMNS)})"
            raise ScenarioError([Problem("columns", ours, rule)])
        found[ours] = theirs
    return found


# --------------------------------------------------------------------------- files


def _load(source: Any) -> tuple[pd.DataFrame, pd.DataFrame | None, dict[str, Any], str]:
    """The rows as they stand, what else a run tells, and what to call it in messages."""
    if isinstance(source, pd.DataFrame):
        return _numbered(source, 0), None, {}, "log"
    if hasattr(source, "attempts") and hasattr(source, "deliveries"):
        trace = getattr(source, "trace", source)
        return _numbered(source.attempts, 0), source.deliveries, dict(trace.meta), "log"
    path = Path(source)
    name = str(source)
    try:
        if path.is_dir():
            return _load_folder(path, name)
        return _load_file(path, name), None, {}, name
    except FileNotFoundError:
        raise ScenarioError("there is no such file or folder", name) from None
    except OSError as error:
        raise ScenarioError(f"cannot be read: {error.strerror or error}", name) from None


def _load_folder(path: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame | None, dict[str, Any], str]:
    tables = {
        table: next((file for end in ("parquet", "csv") if (file := path / f"{table}.{end}").is_file()), None)
        for table in ("attempts", "deliveries")
    }
    if tables["attempts"] is None:
        rule = (
            "has no attempts.parquet or attempts.csv; name a folder that hooklab run --out wrote, or a file"
        )
        raise ScenarioError(rule, name)
    deliveries = None if tables["deliveries"] is None else _load_file(tables["deliveries"], name)
    meta: dict[str, Any] = {}
    if (path / "meta.json").is_file():
        try:
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ScenarioError(f"meta.json is no JSON: {error}", name) from None
    return _load_file(tables["attempts"], name), deliveries, meta, name


def _load_file(path: Path, name: str) -> pd.DataFrame:
    """The rows of a file, numbered as an editor numbers its lines (Parquet: from 1)."""
    stem = path.name.removesuffix(".gz")
    suffix = Path(stem).suffix.lower()
    if path.stat().st_size == 0:
        raise ScenarioError("is empty", name)
    try:
        if suffix in (".parquet", ".pq"):
            return _numbered(pd.read_parquet(path), 1)
        if suffix in (".csv", ".tsv", ".txt"):
            return _load_csv(path, name)
        if suffix in (".ndjson", ".jsonl"):
            return _load_ndjson(path, name)
    except ScenarioError:
        raise
    except pd.errors.EmptyDataError:
        raise ScenarioError("is empty", name) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"is not UTF-8 (at byte {error.start}); save it as UTF-8", name) from None
    except (ValueError, EOFError, OSError) as error:  # pyarrow's and gzip's errors are among them
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        what = {"parquet": "Parquet", "pq": "Parquet"}.get(suffix[1:], suffix[1:].upper())
        raise ScenarioError(f"cannot be read as {what}: {str(error).splitlines()[0]}", name) from None
    raise ScenarioError(f"is in no format that fit reads; its name must end in {FORMATS}", name)


def _open(path: Path) -> Any:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig")


def _load_csv(path: Path, name: str) -> pd.DataFrame:
    with _open(path) as text:
        header = text.readline().rstrip("\n")
    if "\0" in header:
        raise ScenarioError("is no text, though its name says so; name a log in " + FORMATS, name)
    as_text: Any = {
        "sep": max(",;\t", key=header.count),
        "dtype": str,
        "keep_default_na": False,
        "skip_blank_lines": False,
        "index_col": False,
        "encoding": "utf-8-sig",
    }
    # pandas gives a second column of one name another name, so the names are looked at as they stand
    _require_distinct(pd.read_csv(path, header=None, nrows=1, **as_text).iloc[0].tolist(), name)
    frame = pd.read_csv(path, **as_text)
    frame = _numbered(frame, 2)  # the header is row 1
    blank = (frame.drop(columns="row") == "").all(axis=1)
    return frame[~blank]


def _load_ndjson(path: Path, name: str) -> pd.DataFrame:
    rows, numbers = [], []
    with _open(path) as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise ScenarioError(f"row {number} is no JSON object", name) from None
            if not isinstance(row, dict):
                raise ScenarioError(f"row {number} is no JSON object", name)
            rows.append(row)
            numbers.append(number)
    frame = pd.DataFrame(rows)
    return frame.assign(row=numbers)


def _require_distinct(columns: Iterable[Any], name: str) -> None:
    """Refuse two columns of one name: which of them is meant cannot be told."""
    counts = Counter(str(column) for column in columns)
    twice = [column for column, count in counts.items() if count > 1 and column]
    if twice:
        rule = (
            f"has more than one column {' and more than one '.join(twice)}; rename or leave out all but one"
        )
        raise ScenarioError(rule, name)


def _numbered(frame: pd.DataFrame, first: int) -> pd.DataFrame:
    return frame.assign(row=np.arange(first, first + len(frame)))


# --------------------------------------------------------------------------- columns


def _chosen(frame: pd.DataFrame, where: Mapping[str, str], name: str) -> pd.DataFrame:
    """The rows that have these values."""
    for column, value in where.items():
        if column not in frame:
            present = [str(known) for known in frame.columns if known != "row"]
            rule = f"is no column of the log{nearest(column, present)} (it has {_listed(present)})"
            raise ScenarioError([Problem("where", column, rule)], name)
        kept = frame[frame[column].astype(str) == str(value)]
        if kept.empty:
            values = sorted(frame[column].astype(str).unique())
            rule = f"matches no row{nearest(value, values)} (it has {_listed(values)})"
            raise ScenarioError([Problem(f"where.{column}", value, rule)], name)
        frame = kept
    return frame


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _renamed(
    frame: pd.DataFrame, columns: str | Mapping[str, str] | None, name: str
) -> tuple[pd.DataFrame, list[str]]:
    """The frame with our names, durations in seconds; columns that nobody asks for are left out. And all there were."""
    asked = read_map(columns)
    present = [str(column) for column in frame.columns if column != "row"]
    problems = []
    for ours, theirs in asked.items():
        if theirs not in present:
            rule = f"is no column of the log{nearest(theirs, present)} (it has {_listed(present)})"
            problems.append(Problem(f"columns.{ours}", theirs, rule))
    if problems:
        raise ScenarioError(problems, name)
    names = {ours: ours for ours in COLUMNS if ours in present}
    names |= {ours: theirs for theirs, ours in ALIASES.items() if theirs in present and ours not in names}
    names |= asked
    made = pd.DataFrame({"row": frame["row"]})
    for ours, theirs in names.items():
        made[ours] = frame[theirs]
        if ours in ("latency_s", "retry_after_s"):
            unit = next((scale for end, scale in _UNITS.items() if theirs.lower().endswith(end)), 1.0)
            made[ours] = _durations(made[ours], made["row"], theirs, name) * unit
    return made, present


def _kind(frame: pd.DataFrame, present: list[str], name: str) -> str:
    """What the log is, by its columns; ``present`` are those of the file.

    Raises:
        ScenarioError: it is nothing of the kind; names what is missing, and the columns that look like it.
    """
    have = set(frame.columns)
    if have & {"down_start", "down_end"}:
        _require_columns(have, present, ("down_start", "down_end"), name)
        return "outages"
    if "started_s" in have:
        problems = [
            Problem("", None, _missing(choice, present))
            for choice in (("finished_s", "latency_s"), ("status", "outcome"))
            if not have & set(choice)
        ]
        if problems:
            raise ScenarioError(problems, name)
        return "attempts"
    if "checked_s" in have:
        _require_columns(have, present, ("status",), name)
        return "checks"
    wanted = (("started_s",), ("finished_s", "latency_s"), ("status", "outcome"))
    problems = [Problem("", None, _missing(c, present)) for c in wanted if not have & set(c)]
    rule = (
        "a log of attempts has started_s, finished_s or latency_s, and outcome or status; a history has down_start "
        f"and down_end, or checked_s and status. This one has {_listed(present) or 'no columns'}"
    )
    raise ScenarioError([*problems, Problem("", None, rule)], name)


def _require_columns(have: set[str], present: list[str], wanted: Iterable[str], name: str) -> None:
    problems = [Problem("", None, _missing((column,), present)) for column in wanted if column not in have]
    if problems:
        raise ScenarioError(problems, name)


def _missing(choice: Sequence[str], present: list[str]) -> str:
    """What to say of a column that is not there: which of those that are looks most like it."""
    words = [word for column in choice for word in (column.removesuffix("_s"), *_OFTEN.get(column, ()))]
    looks = [
        (difflib.SequenceMatcher(None, word, column.lower()).ratio(), column)
        for word in words
        for column in present
    ]
    near = max((look for look in looks if look[0] > ALIKE), default=(0.0, ""))[1]
    said = f" (the nearest is {near})" if near else ""
    return f"has no column {' or '.join(choice)}{said}; map yours with --columns {choice[0]}={near or 'NAME'}"


# --------------------------------------------------------------------------- values


def _bad_row(rows: pd.Series[int], bad: Any, rule: str, name: str) -> ScenarioError:
    """An error about rows that are wrong: the first ones by number, and how many there are."""
    wrong = rows[np.asarray(bad)].tolist()
    first = ", ".join(str(row) for row in wrong[:3]) + (
        f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
    )
    return ScenarioError(f"row{'s' if len(wrong) > 1 else ''} {first}: {rule}", name)


def _durations(column: pd.Series[Any], rows: pd.Series[int], theirs: str, name: str) -> pd.Series[float]:
    numbers = pd.to_numeric(column, errors="coerce")
    given = column.notna() & (column.astype(str).str.strip() != "")
    bad = given & ~np.isfinite(numbers.astype(float))
    if bad.any():
        rule = f"{theirs} is {column[bad].iloc[0]!r}; it must be a number (s, unless its name ends in _ms, _us, _ns)"
        raise _bad_row(rows, bad, rule, name)
    if (numbers < 0).any():
        rule = f"{theirs} is {numbers[numbers < 0].iloc[0]:g}; a duration cannot be negative: leave such rows out"
        raise _bad_row(rows, numbers < 0, rule, name)
    return numbers.astype(float)


def _timed(kind: str, frame: pd.DataFrame, name: str) -> Log:
    """The frame with its times as s from the earliest."""
    required = {"attempts": ("started_s",), "checks": ("checked_s",), "outages": ("down_start",)}[kind]
    columns = [c for c in (*TIMES, "checked_s", "down_start", "down_end") if c in frame]
    times: dict[str, Any] = {}
    zones: dict[str, str] = {}
    for column in columns:
        times[column], zones[column] = _times_ns(frame[column], frame["row"], column, name)
        if column in required and (times[column] == _NO_TIME).any():
            raise _bad_row(frame["row"], times[column] == _NO_TIME, f"{column} is missing", name)
    kinds = {zone for zone in zones.values() if zone != "none"}
    if len(kinds) > 1:
        said = ", ".join(f"{column} {_ZONES[zone]}" for column, zone in zones.items() if zone != "none")
        rule = f"mixed time zones: {said}; write all times with a zone, or all without"
        raise ScenarioError(rule, name)
    origin = min(
        int(values[values != _NO_TIME].min()) for values in times.values() if (values != _NO_TIME).any()
    )
    clock = "run" if kinds == {"run"} else "utc"
    if clock == "run" and origin >= 0:
        origin = 0
    made = frame.copy()
    for column, values in times.items():
        made[column] = np.where(values == _NO_TIME, np.nan, (values - origin) / 1e9)
    if "latency_s" in made and kind == "attempts" and "finished_s" not in made:
        made["finished_s"] = made["started_s"] + made["latency_s"]
    for column in ("endpoint", "key", "type", "producer", "delivery_id", "event_id", "wait_cause"):
        if column in made:
            made[column] = made[column].astype(str)
    warnings = []
    if kinds == {"naive"}:
        warnings.append("times have no zone: they are taken for UTC, and a change of clocks would shift them")
    return Log(kind, made, name, origin / 1e9, clock, warnings=tuple(warnings))


_NO_TIME = np.iinfo(np.int64).min
_ZONES = {
    "zoned": "with a zone",
    "naive": "without one",
    "epoch": "as epoch numbers",
    "run": "as seconds of a run",
}


def _times_ns(column: pd.Series[Any], rows: pd.Series[int], what: str, name: str) -> tuple[Any, str]:
    """Times as ns, ``_NO_TIME`` where there is none, and how they were given (see ``_ZONES``, or none)."""
    if isinstance(column.dtype, pd.DatetimeTZDtype) or column.dtype.kind == "M":
        zone = "zoned" if isinstance(column.dtype, pd.DatetimeTZDtype) else "naive"
        moments = pd.to_datetime(column, utc=True).dt.as_unit("ns")
        return np.where(moments.isna(), _NO_TIME, moments.astype("int64")), zone
    text = column.astype(str).str.strip()
    blank = column.isna() | text.isin(("", "nan", "NaN", "None", "null", "NaT"))
    if blank.all():
        return np.full(len(column), _NO_TIME), "none"
    numbers = pd.to_numeric(column.where(~blank), errors="coerce").astype(float)
    if numbers.notna().sum() * 2 >= (~blank).sum():
        return _epoch_ns(column, numbers, blank, rows, what, name)
    moments = pd.to_datetime(text.where(~blank), utc=True, format="ISO8601", errors="coerce")
    moments = moments.where(
        (moments > pd.Timestamp("1700", tz="UTC")) & (moments < pd.Timestamp("2250", tz="UTC"))
    )
    bad = moments.isna() & ~blank
    if bad.any():
        rule = f"{what} is {text[bad].iloc[0]!r}; it must be seconds, epoch ms or an ISO time like the others"
        raise _bad_row(rows, bad, rule, name)
    zoned = text.str.contains(_ZONE)
    if zoned[~blank].any() and not zoned[~blank].all():
        rule = f"mixed time zones: {what} has no zone here and one elsewhere; write all of them with one"
        raise _bad_row(rows, ~zoned & ~blank, rule, name)
    values = moments.dt.as_unit("ns").astype("int64")
    return np.where(blank, _NO_TIME, values), "zoned" if zoned[~blank].any() else "naive"


def _epoch_ns(
    column: pd.Series[Any],
    numbers: pd.Series[float],
    blank: pd.Series[bool],
    rows: pd.Series[int],
    what: str,
    name: str,
) -> tuple[Any, str]:  # fmt: skip
    """Numbers as ns: seconds, ms, us or ns since 1970 by their size, or seconds of a run."""
    bad = ~blank & ~np.isfinite(numbers)
    if bad.any():
        rule = f"{what} is {str(column[bad].iloc[0])!r}; it must be a number or an ISO time, like the others"
        raise _bad_row(rows, bad, rule, name)
    size = float(numbers.abs().median())
    per = next(scale for limit, scale in _SCALES if size < limit)
    outside = ~blank & (numbers.abs() * per >= 2**33 * 1e9)
    if outside.any():
        rule = f"{what} is {numbers[outside].iloc[0]:g}, in another unit than the other rows; use one unit"
        raise _bad_row(rows, outside, rule, name)
    filled = numbers.fillna(0)
    whole = np.floor(filled)
    exact = (
        pd.to_numeric(column.where(~blank, 0)).astype("int64")
        if (filled == whole).all()
        else whole.astype("int64")
    )
    values = exact * per + np.round((filled - whole) * per).astype("int64")
    return np.where(blank, _NO_TIME, values), "run" if per == _SCALES[0][1] and size < 1e8 else "epoch"


def _require_forward(frame: pd.DataFrame, start: str, end: str, name: str) -> None:
    """Refuse rows that end before they start: no latency is negative."""
    back = frame[end] < frame[start] - NANOSECOND
    if back.any():
        worst = float((frame[start] - frame[end]).max())
        rule = (
            f"{end} is earlier than {start}, by {worst:.3g} s at most; no latency is negative: take both times from "
            "one clock, or leave such rows out"
        )
        raise _bad_row(frame["row"], back, rule, name)


def _outcomes(frame: pd.DataFrame, name: str) -> pd.Series[str]:
    """The outcome of each attempt; missing for one that has not finished."""
    open_ = frame["finished_s"].isna()
    if "outcome" in frame:
        words = frame["outcome"].astype(str).str.strip().str.lower().replace({"nan": "", "none": ""})
        found = words.map(_WORDS)
        bad = found.isna() & (words != "")
        if bad.any():
            near = nearest(words[bad].iloc[0], _WORDS)
            rule = f"outcome is {words[bad].iloc[0]!r}{near} (known: {_KNOWN_WORDS})"
            raise _bad_row(frame["row"], bad, rule, name)
        blank = (words == "") & ~open_
        if not blank.any():
            _write_codes(frame, name)
            return found
    words = (
        frame["status"].astype(str).str.strip().str.lower()
        if "status" in frame
        else pd.Series("", frame.index)
    )
    codes = pd.to_numeric(words, errors="coerce").fillna(0)
    spoken = words.map(_WORDS)
    bad = (
        spoken.isna()
        & ~words.isin(("", "nan", "none", "null", "<na>"))
        & pd.to_numeric(words, errors="coerce").isna()
    )
    bad |= (codes != 0) & ((codes < 100) | (codes > 599) | (codes % 1 != 0))
    if bad.any():
        rule = (
            f"status is {words[bad].iloc[0]!r}; it must be an HTTP status, 0 or nothing where there was no answer, or "
            f"a word ({_KNOWN_WORDS})"
        )
        raise _bad_row(frame["row"], bad, rule, name)
    answered = codes.between(100, 599)
    made = pd.Series(np.where(codes.between(200, 299), "delivered", "rejected"), frame.index, dtype=object)
    lasted = frame["finished_s"] - frame["started_s"]
    longest = lasted[~answered].max()
    # without an answer: what lasted as long as anything did was a timeout, the rest was refused
    made[~answered] = np.where(lasted[~answered] >= 0.99 * longest, "timed_out", "refused")
    made = spoken.where(spoken.notna(), made)
    if "outcome" in frame:
        made = found.where(found.notna(), made)
    frame["status"] = codes.astype("int64")
    return made.where(~open_)


def _write_codes(frame: pd.DataFrame, name: str) -> None:
    """Write statuses as whole numbers, 0 for none and for words: what came of an attempt is known."""
    codes = (
        pd.to_numeric(frame["status"], errors="coerce") if "status" in frame else pd.Series(0, frame.index)
    )
    codes = codes.fillna(0)
    bad = ~(codes.abs() < MOST_STATUS) | (codes % 1 != 0)
    if bad.any():
        rule = f"status is {str(frame['status'][bad].iloc[0])!r}; it must be an HTTP status, or nothing"
        raise _bad_row(frame["row"], bad, rule, name)
    frame["status"] = codes.astype("int64")


def ups(frame: pd.DataFrame, name: str) -> Any:
    """Whether each check found its receiver up."""
    words = frame["status"].astype(str).str.strip().str.lower()
    found = words.map(_UP)
    if found.isna().any():
        rule = f"status is {words[found.isna()].iloc[0]!r}; a check says up or down"
        raise _bad_row(frame["row"], found.isna(), rule, name)
    return found.to_numpy(dtype=bool)


def bad_row(frame: pd.DataFrame, bad: Any, rule: str, name: str) -> ScenarioError:
    """An error about some rows of a log."""
    return _bad_row(frame["row"], bad, rule, name)
