"""Forms of the panel: reading them, and turning that of an endpoint into what the API takes, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from loadtest.dispatcher.answers import RefusedError, read_body
from loadtest.dispatcher.records import POLL, Endpoint
from sim.errors import Problem
from sim.fields import Nanoseconds, format_duration, format_rate
from sim.policy import SECOND

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 2_000
MOST_TYPES = 200
MOST_TYPE_BYTES = 12_000
"""Registered types that a page offers, and how long they may be together; others have to be written."""
OWN_POLICY = ""
"""The choice that leaves the policy as it is."""
PARTS = {"mode": "every", "types": "patterns"}
"""Where the field of the form that a rule is about is not called as in the API."""

Values = Mapping[str, Any]
"""What stands in the fields of a form: texts, but for ``types`` (a set of texts) and ``hook_fields`` (a bool)."""


class Form:
    """A form as it was sent."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in pairs:
            self._fields.setdefault(name, []).append(value)

    def one(self, name: str) -> str:
        """The text of a field; empty where it is missing."""
        return self._fields.get(name, [""])[0]

    def many(self, name: str) -> list[str]:
        """All texts of a field that may stand there several times."""
        return self._fields.get(name, [])


async def read_form(request: Request, most: int) -> Form:
    """The form in the body of a request.

    Raises:
        RefusedError: it is no form, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise RefusedError(415, f"content-type is {kind or 'missing'}; it must be {FORM}")
    body = await read_body(request, most)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise RefusedError(400, "the body is no form, or has too many fields") from None
    return Form(pairs)


def offered(types: Sequence[str]) -> list[str]:
    """The types that a page offers: the first ones, as long as there is room."""
    room = accumulate(len(each.encode()) for each in types)
    return [each for each, size in zip(types, room, strict=True) if size <= MOST_TYPE_BYTES][:MOST_TYPES]


# --------------------------------------------------------------------------- endpoints


def endpoint_given(form: Form, new: bool) -> dict[str, Any]:
    """What the form of an endpoint gives, as the body of POST /endpoints or of PATCH."""
    patterns = form.one("patterns").replace("\r", "").split("\n")
    types = [*form.many("types"), *(line for line in patterns if line)]
    polls = form.one("mode") == POLL
    given: dict[str, Any] = {
        "url": form.one("url"),
        "types": list(dict.fromkeys(types)),
        "signature": form.one("signature"),
        "hook_fields": bool(form.one("hook_fields")),
        "max_in_flight": _whole(form.one("max_in_flight")),
        "rate_limit": form.one("rate_limit") or None,
        "ordering": form.one("ordering") or None,
        "mode": {"poll": {"every": form.one("every")}} if polls else "push",
        "description": form.one("description").replace("\r\n", "\n"),
    }
    if form.one("policy") != OWN_POLICY:
        given["policy"] = form.one("policy")
    if new:
        given |= {name: form.one(name) for name in ("id", "secret") if form.one(name)}
    return given


def _whole(text: str) -> int | str | None:
    """A number if it is one; what else it is, the rules of the field say."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else text or None


def endpoint_values(endpoint: Endpoint, known_types: Iterable[str]) -> Values:
    """The form of an endpoint as it is."""
    ticked = set(endpoint.types) & set(known_types)
    return {
        "url": endpoint.url,
        "types": ticked,
        "patterns": "\n".join(each for each in endpoint.types if each not in ticked),
        "policy": endpoint.policy_name,
        "signature": endpoint.signature,
        "hook_fields": endpoint.hook_fields,
        "max_in_flight": str(endpoint.max_in_flight or ""),
        "rate_limit": format_rate(endpoint.rate_limit) if endpoint.rate_limit else "",
        "ordering": endpoint.ordering,
        "mode": endpoint.mode,
        "every": format_duration(Nanoseconds(round(endpoint.poll_every * SECOND)))
        if endpoint.poll_every
        else "",
        "description": endpoint.description,
    }


def blank_values(ordering: str) -> Values:
    """The form of a new endpoint before anything is written."""
    return {
        "id": "", "url": "", "types": set(), "patterns": "*", "policy": "", "signature": "standard",
        "hook_fields": False, "max_in_flight": "", "rate_limit": "", "ordering": ordering, "mode": "push",
        "every": "", "description": "", "secret": "",
    }  # fmt: skip


def sent_values(form: Form) -> Values:
    """The form as it was sent, to be shown once more; a secret is to be given again."""
    names = (
        "id", "url", "patterns", "policy", "signature", "max_in_flight", "rate_limit", "ordering", "mode", "every",
        "description",
    )  # fmt: skip
    texts = {name: form.one(name) for name in names}
    return {
        **texts,
        "secret": "",
        "types": set(form.many("types")),
        "hook_fields": bool(form.one("hook_fields")),
    }


def problems_of(refused: RefusedError, others: Mapping[str, str] = PARTS) -> dict[str, str]:
    """What is wrong by the field of the form it is about; empty: about none in particular."""
    found: dict[str, str] = {}
    for each in refused.problems or (Problem("", None, refused.error),):
        part = each.path.partition(".")[0]
        found.setdefault(others.get(part, part), each.rule)
    return found
