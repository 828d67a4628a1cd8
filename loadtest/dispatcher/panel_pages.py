"""What the pages of the panel are made of: templates, what is written in them, and the answers that carry them.

Templates escape every value, and nothing in them runs: the one script and the one style sheet are files of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from loadtest import clock
from loadtest.dispatcher import message
from loadtest.dispatcher.answers import RefusedError
from loadtest.dispatcher.api import Api
from loadtest.dispatcher.message import rfc3339
from loadtest.dispatcher.panel_live import Live, Reading
from loadtest.dispatcher.panel_session import Notices, Sessions
from loadtest.dispatcher.records import Delivery, Endpoint, Event, Waiting
from sim.policy import LOST, SECOND, STATE_DELIVERED, STATES
from sim.shown import shown_duration

ROOT = "/panel"
LATE = 5 * SECOND
"""From when on an overdue delivery is marked, ns."""
SHOWN_DISABLED = 10
"""Disabled endpoints on the overview."""
SHOWN_ENDED = 100
"""Attempts in the table of a delivery: the latest."""
SHOWN_ANSWER = 300
"""Characters of each answer."""
SHOWN_BODY = 8_000
"""Characters of a message."""
FILES = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""What pages load beside themselves."""


class Panel:
    """What all pages work with."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.sessions = Sessions(api.settings.token, ROOT)
        self.notices = Notices()
        self.live = Live(api)

    def page(self, request: Request, template: str, code: int = 200, **values: Any) -> Response:
        """A page made of its template."""
        text, secret = self.notices.take(request.query_params.get("said", ""))
        common = {"login": self.sessions.required, "notice": text, "secret": secret}
        html = _environment().get_template(f"{template}.html.j2").render(common | values)
        return HTMLResponse(html, code)

    def go(self, path: str, notice: str = "", secret: str = "") -> Response:
        """On to a page of the panel, where something may be told once."""
        said = f"?said={self.notices.keep(notice, secret)}" if notice else ""
        return RedirectResponse(f"{path}{said}", 303)

    def refused(self, request: Request, error: RefusedError) -> Response:
        """The page that tells what went wrong."""
        response = self.page(request, "error", error.status, status=error.status, error=error.error)
        response.headers.update(error.headers or {})
        return response


# --------------------------------------------------------------------------- templates


@cache
def file(name: str) -> bytes:
    """A file beside the templates."""
    return (resources.files(__package__) / "panel" / name).read_bytes()


def _address(name: str) -> str:
    """Where a file is; another content has another address, so that browsers may keep it."""
    return f"{ROOT}/{name}?v={hashlib.sha256(file(name)).hexdigest()[:12]}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loadtest.dispatcher", "panel"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"root": ROOT, "files": {name: _address(name) for name in FILES}}
    environment.globals["version"] = version("hooklab")
    environment.filters |= {
        "segment": lambda text: quote(text, safe=""),
        "query": lambda values: urlencode({name: value for name, value in values.items() if value}),
        "moment": moment,
        "rfc3339": rfc3339,
        "duration": lambda ns: shown_duration(ns / SECOND),
        "count": lambda number: f"{number:,}",
        "rate": rate,
        "cut": cut,
        "words": lambda name: name.replace("_", " "),
    }
    return environment


def moment(time: int | str) -> str:
    """A time, ns since 1970 or as RFC 3339, to the second as people read it; it is in UTC."""
    text = time if isinstance(time, str) else rfc3339(time)
    return text[:19].replace("T", " ")


def cut(text: str, most: int = 60) -> str:
    """The beginning of a text where all of it would take too much room."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def rate(per_s: float) -> str:
    """A rate with as many digits as it is worth."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}" if per_s >= 10 else f"{per_s:.2g}"


# --------------------------------------------------------------------------- the overview


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Deliveries that wait for one attempt number."""

    attempt_number: int
    count: int
    share: float
    """Of the fullest tier, in per cent."""


@dataclass(frozen=True, kw_only=True)
class End:
    """Deliveries that have come to one final state."""

    state: str
    count: int
    path: str
    """Where they are listed, below ``ROOT``."""


def ends(totals: Mapping[int, int]) -> tuple[End, ...]:
    """How many deliveries have come to each final state; those that were given up are dead letters."""
    return tuple(
        End(
            state=state,
            count=totals.get(STATES.index(state), 0),
            path=f"/{'dead' if state in LOST else 'deliveries'}?{urlencode({'state': state})}",
        )
        for state in (STATES[STATE_DELIVERED], *LOST)
    )


def overview(reading: Reading) -> dict[str, Any]:
    """What the overview shows."""
    backlog = reading.backlog or {}
    fullest = max(backlog.values(), default=0)
    tiers = [
        Tier(attempt_number=number, count=backlog[number], share=round(100 * backlog[number] / fullest, 1))
        for number in sorted(backlog)
        if backlog[number]
    ]
    return {
        "reading": reading,
        "late": reading.overdue is not None and reading.overdue > LATE,
        "tiers": tiers,
        "waiting": None if reading.backlog is None else sum(backlog.values()),
        "ends": None if reading.totals is None else ends(reading.totals),
        "line": _line(reading.history),
        "disabled": reading.disabled[:SHOWN_DISABLED],
        "more_disabled": max(len(reading.disabled) - SHOWN_DISABLED, 0),
    }


def _line(history: tuple[float, ...]) -> str:
    """Points of a line in a field of 240 by 40, the newest at the right."""
    if len(history) < 2:
        return ""
    top = max(*history, 1e-9)
    step = 240 / 59
    first = 240 - step * (len(history) - 1)
    return " ".join(f"{first + step * n:.1f},{38 - 36 * value / top:.1f}" for n, value in enumerate(history))


def parts(reading: Reading) -> Mapping[str, str]:
    """The parts of the overview that change, as HTML, and what is said to those who do not see them."""
    values = overview(reading)
    names = ("figures", "tiers", "ends", "disabled", "said")
    environment = _environment()
    return {name: environment.get_template(f"live_{name}.html.j2").render(values).strip() for name in names}


# --------------------------------------------------------------------------- one endpoint, one delivery


def policy_text(endpoint: Endpoint) -> str:
    """The policy of an endpoint, to be read."""
    return json.dumps(json.loads(endpoint.policy), indent=2, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is sent for a delivery."""

    headers: tuple[str, ...]
    body: str
    cut: bool
    """Whether the body is longer than what is shown."""
    note: str
    """What is not as it was sent."""


def message_of(api: Api, delivery: Delivery, event: Event, data: bytes, endpoint: Endpoint) -> Message:
    """The message of a delivery's latest attempt, or of its first one to come, without its signature."""
    at, number = (delivery.log[-1].started, delivery.attempts) if delivery.log else (clock.now(), 1)
    waiting = Waiting(
        delivery.number, endpoint.number, number - 1, at, 0, event.created, event.created, event.id, event.type,
        event.key, event.seq, event.occurred, data, event.object_type, event.object_id,
    )  # fmt: skip
    body = message.body(waiting, data, api.settings.message, endpoint, at)
    unsigned = replace(endpoint, signature=message.NONE)
    headers = message.headers(unsigned, delivery.id, number, event.key, event.seq, body, at)
    notes = ["The signature is left out."] if endpoint.signature != message.NONE else []
    if event.object_id:
        notes.append("Its data are those of the object as it is now.")
    text = body.decode(errors="replace")
    return Message(
        headers=tuple(headers),
        body=text[:SHOWN_BODY],
        cut=len(text) > SHOWN_BODY,
        note=" ".join(notes),
    )
