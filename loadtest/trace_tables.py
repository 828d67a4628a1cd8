"""The dispatcher's side of a trace as tables: what it knows by itself, of whatever scenario, or of none.

The columns are those of ``sim.trace``. Times are Unix seconds: in CSV with all nine decimals, in Parquet as floats,
which tell times of today apart to about a quarter of a microsecond. What only receivers know is empty: when an
attempt was processed, duplicates, lateness.

``attempts`` (sorted by started, delivery, attempt) has a row for each attempt with a result. ``deliveries`` (in order
of creation) has one for each delivery that was attempted or settled; one that is not settled waits, and its type is
empty, as nothing but its attempts tells of it. Read from a cursor on, both have what came after it; the number of
attempts of a delivery counts earlier ones too.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from loadtest import trace_rows
from sim import meta, output

ATTEMPTS = (
    *("delivery_id", "event_id", "endpoint", "key", "seq", "attempt_number", "tier", "created_s", "due_s"),
    *("started_s", "finished_s", "outcome", "status", "processed_s", "wait_cause", "served_s"),
)
DELIVERIES = (
    *(
        "delivery_id",
        "event_id",
        "producer",
        "endpoint",
        "type",
        "key",
        "seq",
        "created_s",
        "state",
        "attempts",
    ),
    *("first_processed_s", "delivered_s", "duplicates", "late", "settled_s", "cause"),
)
_UNKNOWN = {
    **dict.fromkeys(("processed_s", "served_s", "first_processed_s"), pa.float64()),
    "duplicates": pa.int64(),
    "late": pa.bool_(),
}
"""Columns of which a dispatcher knows nothing."""
_NANOSECOND = pa.scalar(Decimal("1e-9"), pa.decimal128(10, 9))


def save(rows: Any, folder: Path, table_format: str) -> dict[str, int]:
    """Write both tables and ``meta.json`` into a folder, whole or not at all; how many rows each table has.

    The metadata say that a real sender made the attempts, as those of a load test do.

    Args:
        rows: as ``trace_rows.dispatcher_rows`` gives them.
        folder: one that hooklab wrote earlier is replaced.
        table_format: ``parquet`` or ``csv``.

    Raises:
        ScenarioError: the folder must not be replaced, or cannot be made.
        OSError: writing failed.
    """
    tables = {"attempts": attempts(rows), "deliveries": deliveries(rows)}
    with output.replacing(folder.resolve()) as new:
        (new / output.MARKER).write_text(output.MARKED, encoding="utf-8")
        (new / "meta.json").write_text(json.dumps({"engine": meta.REAL}) + "\n", encoding="utf-8")
        for name, table in tables.items():
            _write(table, new / f"{name}.{table_format}", table_format)
    return {name: len(table) for name, table in tables.items()}


def attempts(rows: Any) -> Any:
    """The table of attempts; times in columns ``_ns``, ns since 1970."""
    made = rows.filter(pc.equal(rows["kind"], trace_rows.ATTEMPT))
    order = [(name, "ascending") for name in ("started_ns", "delivery_id", "attempt_number")]
    return _chosen(made.sort_by(order), ATTEMPTS)


def deliveries(rows: Any) -> Any:
    """The table of deliveries; times in columns ``_ns``, ns since 1970."""
    rows = rows.filter(pc.is_in(rows["kind"], pa.array([trace_rows.ATTEMPT, trace_rows.DELIVERY])))
    number = rows["delivery_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    is_end = pc.equal(rows["kind"], trace_rows.DELIVERY).to_numpy()
    # of each delivery the last line that settles it, or else its last attempt
    last = np.unique(number[::-1], return_index=True)[1]
    chosen = len(number) - 1 - last
    ends = np.flatnonzero(is_end)
    chosen[number[ends]] = ends
    table = rows.take(pa.array(chosen))
    settled = is_end[chosen]
    producer = (
        pc.extract_regex(table["event_id"], "^(?:(?P<producer>.*):)?").combine_chunks().field("producer")
    )
    filled = {
        "producer": producer,
        "type": pc.fill_null(table["type"], ""),
        "cause": pc.fill_null(table["cause"], ""),
        "state": pc.fill_null(table["state"], "waiting"),
        "attempts": pc.if_else(pa.array(settled), table["attempts"], table["attempt_number"]),
    }
    for name, column in filled.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return _chosen(table.sort_by([("created_ns", "ascending"), ("delivery_id", "ascending")]), DELIVERIES)


def _chosen(table: Any, names: tuple[str, ...]) -> Any:
    """The columns of a table, empty ones where a dispatcher knows nothing."""
    columns = {}
    for name in names:
        if name in _UNKNOWN:
            columns[name] = pa.nulls(len(table), _UNKNOWN[name])
        elif name.endswith("_s"):
            columns[f"{name[:-2]}_ns"] = table[f"{name[:-2]}_ns"]
        else:
            columns[name] = table[name]
    return pa.table(columns)


def _write(table: Any, path: Path, table_format: str) -> None:
    in_seconds = pa.float64() if table_format == "parquet" else pa.decimal128(20, 9)
    for place, name in enumerate(table.column_names):
        if name.endswith("_ns"):
            table = table.set_column(place, f"{name[:-3]}_s", _seconds(table[name], in_seconds))
    if table_format == "parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.csv.write_csv(table, path)


def _seconds(ns: Any, kind: Any) -> Any:
    if pa.types.is_floating(kind):
        return pc.divide(pc.cast(ns, pa.float64(), safe=False), 1e9)
    return pc.cast(pc.multiply(pc.cast(ns, pa.decimal128(19, 0)), _NANOSECOND), kind)
