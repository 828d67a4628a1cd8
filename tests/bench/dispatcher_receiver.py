"""The receiver of ``lean_http.py`` for deliveries that are retried: it answers first attempts with 503.

Prints its port, then how many requests were answered with 200 each time a line is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

import lean_http

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class RefusingFirst(lean_http.Receiving):
    """Answers 503 to attempt 1 and 200 to all others; counts the latter."""

    first = False
    identity = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of a request."""
        if name.lower() == b"webhook-attempt":
            self.first = value == b"1"
        elif name.lower() == b"webhook-id":
            self.identity = value

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self.first:
            self.transport.write(REFUSAL)  # type: ignore[attr-defined]
        else:
            lean_http.Receiving.ids.add(self.identity)
            super().on_message_complete()


if __name__ == "__main__":
    lean_http.Receiving = RefusingFirst  # type: ignore[misc]
    uvloop.run(lean_http.receive())
