"""What the pages of the inspector are made of: templates, what is written in them, and the answers that carry them.

Templates escape every value, and nothing in them runs. The style is that of the dispatcher's panel, whose sheet is
read as a file; a few lines of its own follow it.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlencode

import jinja2

from loadtest.inspector_memory import MARKS, Seen
from loadtest.page_headers import HEADERS
from loadtest.receiver_http import reply_with
from sim.policy import SECOND

PANEL = "dispatcher/panel"
FILES = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""What pages load beside themselves."""
MOST_PRETTY = 256 * 1024
"""Characters of a body made readable; one that would become longer is shown as it came."""


def page(template: str, code: int = 200, **values: Any) -> bytes:
    """The bytes of an answer that is a page made of its template."""
    html = _environment().get_template(f"{template}.html.j2").render(values)
    return reply_with(code, html.encode(), "text/html; charset=utf-8", HEADERS)


def go(path: str) -> bytes:
    """The bytes of an answer that leads on to another page."""
    return reply_with(303, b"", "text/plain", {**HEADERS, "location": path})


@cache
def file(name: str) -> bytes:
    """A file that pages load."""
    folder = resources.files("loadtest")
    own = folder / "inspector" / name
    parts = [folder / PANEL / name] if name in ("style.css", "icon.svg") else []
    return b"\n".join(part.read_bytes() for part in [*parts, *([own] if own.is_file() else [])])


def file_reply(name: str) -> bytes:
    """The bytes of an answer that is a file; its address changes with its content, so browsers may keep it."""
    kept = {**HEADERS, "cache-control": "private, max-age=31536000, immutable"}
    return reply_with(200, file(name), f"{FILES[name]}; charset=utf-8", kept)


def _address(name: str) -> str:
    return f"/{name}?v={hashlib.sha256(file(name)).hexdigest()[:12]}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest", "inspector"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"files": {name: _address(name) for name in FILES}, "meanings": MARKS}
    environment.globals["version"] = version("hooklab")
    environment.filters |= {
        "segment": lambda text: quote(text, safe=""),
        "query": lambda values: urlencode({name: value for name, value in values.items() if value}),
        "moment": moment,
        "count": lambda number: f"{number:,}",
        "cut": lambda text: text if len(text) <= 60 else f"{text[:59]}…",
        "kind": lambda mark: mark.replace(" ", "-"),
    }
    return environment


def moment(time: int | None) -> str:
    """A time or a span, ns, as seconds to the millisecond."""
    return "–" if time is None else f"{time / SECOND:,.3f} s"


# --------------------------------------------------------------------------- one request


def text_of(value: bytes) -> str:
    """Bytes as text; what is none stays visible."""
    return value.decode("utf-8", "backslashreplace")


def pretty(seen: Seen) -> str | None:
    """Its body as JSON made readable; None: it is none, or not all of it was kept, or it would be too long."""
    if seen.body_bytes > len(seen.body):
        return None
    try:
        told = json.dumps(json.loads(seen.body), indent=2, ensure_ascii=False)
        told.encode()  # half a surrogate pair is JSON and no text
    except (ValueError, RecursionError):
        return None
    return told if len(told) <= MOST_PRETTY else None


def outcome(seen: Seen) -> str:
    """What the sender got, in a word or two."""
    status = seen.status
    if status:
        return str(status)
    return "not yet" if status is None else "refused" if seen.answered is not None else "never"


def plain(seen: Seen) -> dict[str, Any]:
    """A request as JSON, without headers and body."""
    said = seen.said
    return {
        "number": seen.number,
        "endpoint": seen.endpoint,
        "delivery_id": said and said.delivery_id,
        "attempt_number": said and said.attempt_number,
        "key": said and said.key,
        "seq": said.seq if said and said.seq >= 0 else None,
        "arrived_ns": seen.arrived,
        "answered_ns": seen.answered,
        "processed_ns": seen.processed,
        "status": seen.status,
        "marks": seen.marks(),
    }
