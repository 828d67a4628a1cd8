"""What receivers did, line by line: the last part in memory, all of it in a file.

A line is one JSON object. ``n`` counts lines from 1 and is the cursor of readers; times are int nanoseconds since
T0 and end in ``_ns``; null stands for what does not happen.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson

MOST_KEPT = 50_000
"""Lines in memory, about 18 MB."""


class ForgottenError(LookupError):
    """A reader asks for lines that are no longer in memory."""


class ReceiverLog:
    """A log of records.

    Args:
        path: the file, written anew; None: the log is in memory only.
        most_kept: lines in memory.

    Raises:
        OSError: the file cannot be written; also by ``flush`` and ``close``.
    """

    def __init__(self, path: Path | None = None, most_kept: int = MOST_KEPT) -> None:
        self.count = 0
        self._kept: deque[bytes] = deque(maxlen=most_kept)
        self._pending: list[bytes] = []
        self._path = path
        self._file: BinaryIO | None = path.open("wb") if path is not None else None

    def __enter__(self) -> ReceiverLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, record: dict[str, Any]) -> None:
        """Number a record and keep it."""
        self.count += 1
        # a copy: orjson's own bytes lie in buffers far too large to keep many of
        line = orjson.dumps({"n": self.count, **record}) + b"\n"
        self._kept.append(line)
        if self._file is not None:
            self._pending.append(line)

    def after(self, cursor: int, limit: int) -> bytes:
        """Up to ``limit`` lines with ``n`` above ``cursor``.

        Raises:
            ForgottenError: some of them have left the memory.
        """
        oldest = self.count - len(self._kept)
        if cursor < oldest:
            where = f"read {self._path}" if self._path else "give a file with --log"
            raise ForgottenError(f"lines up to {oldest} are no longer in memory; {where}")
        first = cursor - oldest
        return b"".join(islice(self._kept, first, first + limit))

    def flush(self) -> None:
        """Write to the file what it has not got yet."""
        if self._file is not None and self._pending:
            lines, self._pending = self._pending, []
            try:
                self._file.write(b"".join(lines))
                self._file.flush()
            except OSError as error:
                # an error of writing does not say to what
                raise OSError(error.errno, error.strerror, str(self._path)) from None

    def close(self) -> None:
        """Write the rest and close the file."""
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None
