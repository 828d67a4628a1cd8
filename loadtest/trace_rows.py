"""Reading what a dispatcher and receivers have recorded: lines of JSON into Arrow tables with times in int ns.

A dispatcher writes times as Unix seconds with nine decimals, more than a float holds; they are read as the
decimal numbers they are. What a line does not have is null.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from loadtest.api_client import ApiClient
from sim.errors import ScenarioError

LINES = 10_000
"""Lines of one page: the most that a dispatcher gives."""
ATTEMPT, DELIVERY, RESEND = "attempt", "delivery", "resend"
"""Kinds of a dispatcher's line."""
REQUEST, POLL, SWITCH = "request", "poll", "switch"
"""Kinds of a receiver's line."""
_SECONDS = pa.decimal128(20, 9)
_PER_SECOND = pa.scalar(Decimal(1_000_000_000), pa.decimal128(10, 0))


def _schema(**columns: Any) -> Any:
    return pa.schema(list(columns.items()))


_TEXT, _INT = pa.string(), pa.int64()
DISPATCHER = _schema(
    kind=_TEXT, cursor=_INT, delivery_id=_TEXT, event_id=_TEXT, endpoint=_TEXT, key=_TEXT, seq=_INT,
    created_s=_SECONDS, attempt_number=_INT, tier=_INT, due_s=_SECONDS, started_s=_SECONDS,
    finished_s=_SECONDS, outcome=_TEXT, status=_INT, wait_cause=_TEXT, producer=_TEXT, type=_TEXT,
    state=_TEXT, cause=_TEXT, attempts=_INT, settled_s=_SECONDS, delivered_s=_SECONDS,
)  # fmt: skip
"""Columns of a dispatcher's lines; in the table those that end in ``_s`` end in ``_ns``: int ns since 1970."""
RECEIVER = _schema(
    kind=_TEXT, n=_INT, endpoint=_TEXT, delivery_id=_TEXT, attempt_number=_INT, status=_INT, arrived_ns=_INT,
    answered_ns=_INT, served_ns=_INT, processed_ns=_INT, polled_ns=_INT, returned=_INT, failed=pa.bool_(),
)  # fmt: skip
"""Columns of a receiver's lines; times are int ns since T0."""


def dispatcher_rows(pages: Iterable[bytes], source: str = "the dispatcher's trace") -> Any:
    """The lines of ``GET /trace`` as an Arrow table, of all pages in order; ``source`` is what errors call it.

    Raises:
        ScenarioError: something is no line of a trace.
    """
    table = _read(pages, DISPATCHER, source)
    for name in DISPATCHER.names:
        if name.endswith("_s"):
            # exact: decimal numbers, with no decimal left after the product
            ns = pc.cast(pc.multiply(table[name], _PER_SECOND), pa.int64())
            table = table.set_column(table.schema.get_field_index(name), f"{name[:-2]}_ns", ns)
    return table


def receiver_rows(pages: Iterable[bytes], source: str = "a receiver's log") -> Any:
    """The lines of ``GET /log`` or of a log's file as an Arrow table; several receivers' one after the other.

    Raises:
        ScenarioError: something is no line of a log.
    """
    return _read(pages, RECEIVER, source)


def _read(pages: Iterable[bytes], schema: Any, source: str) -> Any:
    text = b"".join(page if page.endswith(b"\n") else page + b"\n" for page in pages if page)
    if not text.strip():
        return schema.empty_table()
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        return pa.json.read_json(io.BytesIO(text), parse_options=options)
    except pa.ArrowInvalid as error:
        raise ScenarioError(f"{source} cannot be read: {str(error).splitlines()[0]}") from None


# --------------------------------------------------------------------------- page by page


class PageReader:
    """Reads ``GET /trace`` of a dispatcher or ``GET /log`` of receivers, a page at a time.

    Plain blocking sockets: it works in threads, and under gevent.

    Args:
        url: of the dispatcher (path ``/trace``) or of the receivers' control port (``/log``).
        path: which of the two.
        cursor: name of the cursor in a line.
        token: sent as a bearer's; empty: none.
        after: the cursor to go on from.

    Raises:
        ScenarioError: the URL is none.
    """

    def __init__(
        self, url: str, path: str = "/trace", cursor: str = "cursor", token: str = "", after: int = 0
    ) -> None:
        self.after = after
        self._client = ApiClient(url, token)
        self.url = self._client.url
        self._path = path
        self._cursor = cursor

    def page(self, limit: int = LINES) -> bytes:
        """The next lines, and go on behind them; empty if there are none yet.

        Raises:
            UnreachableError: nobody answers; the same page can be asked for again.
            ScenarioError: the answer is a refusal, or no page.
        """
        body = self._client.body("GET", f"{self._path}?after={self.after}&limit={limit}")
        if body:
            self.after = self._last_cursor(body)
        return body

    def pages(self, limit: int = LINES) -> Iterator[bytes]:
        """All pages until there are no more lines."""
        while body := self.page(limit):
            yield body

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _last_cursor(self, body: bytes) -> int:
        line = body.rstrip(b"\n").rpartition(b"\n")[2]
        try:
            cursor = orjson.loads(line)[self._cursor]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            cursor = None
        if not isinstance(cursor, int) or cursor <= self.after:
            rule = f"its last line has no {self._cursor} above {self.after}: {line[:60].decode(errors='replace')}"
            raise ScenarioError(f"what {self.url}{self._path} answers is no page of it; {rule}")
        return cursor
