"""The inspector: what arrived at the receivers, for people, and switches for faults, served by the control port.

Here stand its routes and its door. Pages are made on the server and work without the script, which only takes over
what has changed. It is there only with ``hooklab receive --inspect``: keeping requests costs memory and time. Then
the whole control port answers only requests to the names of this machine, and forms are taken only from its own pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import orjson

from loadtest.inspector_memory import DUPLICATE, LATE, MARKS, MOST_BODY, Memory, Seen
from loadtest.inspector_pages import FILES, file_reply, go, outcome, page, plain, pretty, text_of
from loadtest.page_headers import HEADERS
from loadtest.receiver_http import Exchange, reply_with
from loadtest.receiver_switch import KINDS, SCENARIO, SLOWER, STATUS, read_switch
from loadtest.receiver_world import EndpointWorld, Request
from sim.errors import ScenarioError
from sim.fields import Nanoseconds, format_duration

if TYPE_CHECKING:
    from loadtest.receiver import Endpoint, Service

PAGE = 50
"""Requests of one page."""
MOST_JSON = 1_000
"""Requests of one answer in JSON."""
MOST_FORM = 4_096
"""Bytes of a form."""
FORM = "application/x-www-form-urlencoded"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

Fields = Mapping[str, str]
"""A query or a form, the last value of each name."""


class RefusedError(Exception):
    """A request to the inspector that is not served: a status, and why in words."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Inspector:
    """The inspector of a service, and the requests that it remembers."""

    def __init__(self, service: Service) -> None:
        self.memory = Memory()
        self._service = service
        self._hosts = LOOPBACK | {service.options.host.lower()}

    # ----------------------------------------------------------------- what it is told

    def arrived(self, world: EndpointWorld, exchange: Exchange, said: Request, now: int) -> None:
        """Remember a webhook that arrives at ``now``, before it is decided what becomes of it."""
        switched = str(world.switch) if world.switch is not None else ""
        self.memory.add(self._seen(world, exchange, now, said=said, switched=switched))

    def turned_away(self, world: EndpointWorld, exchange: Exchange, status: int) -> None:
        """Remember a request that its receiver never gets to see."""
        now = self._service.now if self._service.start is not None else None
        self.memory.add(self._seen(world, exchange, now, said=None, door=status))

    def ended(self, record: dict[str, Any]) -> None:
        """Take the record of a request that has come to its end."""
        self.memory.end(record)

    def _seen(self, world: EndpointWorld, exchange: Exchange, now: int | None, **more: Any) -> Seen:
        body = exchange.text
        return Seen(
            number=self.memory.count + 1,
            endpoint=world.name,
            arrived=now,
            line=text_of(exchange.method + b" " + exchange.target),
            headers=tuple(exchange.headers.items()),
            body=body[:MOST_BODY],
            body_bytes=len(body),
            **more,
        )

    # ----------------------------------------------------------------- the door

    def reply(self, exchange: Exchange) -> bytes | None:
        """The answer to a request to the control port; None: it is none of the inspector's."""
        host = _host(f"//{exchange.header(b'host')}")
        if host not in self._hosts:  # a page of another site may have given its own name this address
            why = f"the host must be one of {', '.join(sorted(self._hosts))}"
            return reply_with(421, orjson.dumps({"error": why}), headers=HEADERS)
        try:
            if exchange.method == b"POST" and exchange.header(b"origin"):  # programs send none
                self._require_own_page(exchange)
            found = self._handler(exchange)
            return None if found is None else found()
        except RefusedError as refused:
            return self._page("error", refused.status, status=refused.status, error=str(refused))

    def _handler(self, exchange: Exchange) -> Callable[[], bytes] | None:
        path, query_text = exchange.path_and_query()
        query = _fields(query_text)
        name = path[1:]
        folder, _, rest = name.partition("/")
        get, post = exchange.method == b"GET", exchange.method == b"POST"
        if get and path == "/":
            return lambda: self._list(query)
        if get and path == "/requests.json":
            return lambda: self._json(query)
        if get and path == "/faults":
            return self._faults
        if get and name in FILES:
            return lambda: file_reply(name)
        if get and folder == "requests" and rest:
            return lambda: self._request(rest)
        if folder == "faults" and rest and get:
            return lambda: self._fault(self._endpoint(rest))
        if folder == "faults" and rest and post:
            return lambda: self._switch(self._endpoint(rest), self._form(exchange))
        return None

    def _require_own_page(self, exchange: Exchange) -> None:
        """Refuse what was not sent by a page of this very origin."""
        own = f"http://{exchange.header(b'host')}".lower()
        same = exchange.header(b"origin").lower() == own
        if not same or exchange.headers.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
            raise RefusedError(
                403, "forms are taken only from pages of this inspector: open it and try again there"
            )

    def _form(self, exchange: Exchange) -> Fields:
        """The form of a page of this very origin."""
        self._require_own_page(exchange)
        kind = exchange.header(b"content-type").partition(";")[0].strip().lower()
        if kind != FORM:
            raise RefusedError(415, f"content-type is {kind or 'missing'}; it must be {FORM}")
        body = exchange.text
        if len(body) > MOST_FORM:
            raise RefusedError(413, f"the form is too large; it may have {MOST_FORM:,} bytes")
        return _fields(body.decode("latin-1"))

    # ----------------------------------------------------------------- pages

    def _page(self, template: str, code: int = 200, **values: Any) -> bytes:
        service = self._service
        switched = {
            each.world.name: str(each.world.switch) for each in service.endpoints if each.world.switch
        }
        common = {
            "scenario": service.model.scenario.name,
            "revision": self.memory.revision,
            "now": service.now if service.start is not None else None,
            "switches": service.switches,
            "switched": switched,
        }
        return page(template, code, **common, **values)

    def _list(self, query: Fields) -> bytes:
        fits = self._filter(query)
        before = _whole(query, "before", 0)
        found = self.memory.latest(PAGE + 1, fits, before)
        return self._page(
            "list",
            requests=[(seen, outcome(seen), seen.marks()) for seen in found[:PAGE]],
            following=found[PAGE - 1].number if len(found) > PAGE else 0,
            chosen={"endpoint": query.get("endpoint", ""), "mark": query.get("mark", ""), "before": before},
            endpoints=[endpoint.world.name for endpoint in self._service.endpoints],
            marks=list(MARKS),
            count=self.memory.count,
            kept=len(self.memory),
        )

    def _json(self, query: Fields) -> bytes:
        fits = self._filter(query)
        after, limit = _whole(query, "after", 0), min(_whole(query, "limit", MOST_JSON), MOST_JSON)
        told = {
            "revision": self.memory.revision,
            "newest": self.memory.count,
            "switches": self._service.switches,
            "requests": [plain(seen) for seen in self.memory.since(after, limit, fits)],
        }
        return reply_with(200, orjson.dumps(told), headers=HEADERS)

    def _filter(self, query: Fields) -> Callable[[Seen], bool]:
        endpoint, mark = query.get("endpoint", ""), query.get("mark", "")
        if mark and mark not in MARKS:
            raise RefusedError(400, f"mark is {mark[:60]}; it must be one of {', '.join(MARKS)}")
        return lambda seen: (not endpoint or seen.endpoint == endpoint) and (not mark or mark in seen.marks())

    def _request(self, text: str) -> bytes:
        seen = self.memory.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None
        if seen is None:
            raise RefusedError(404, f"request {text[:60]} is not in memory (any more)")
        memory, marks = self.memory, seen.marks()
        return self._page(
            "request",
            seen=seen,
            outcome=outcome(seen),
            marks=marks,
            original=memory.original(seen) if DUPLICATE in marks else None,
            overtaker=memory.overtaker(seen) if LATE in marks else None,
            headers=[(text_of(name), text_of(value)) for name, value in seen.headers],
            pretty=pretty(seen),
            body=text_of(seen.body),
            of_delivery=[(one, outcome(one), one.marks()) for one in memory.of_delivery(seen)],
            of_key=[(one, outcome(one), one.marks()) for one in memory.of_key(seen)],
        )

    # ----------------------------------------------------------------- faults

    def _endpoint(self, name: str) -> Endpoint:
        for endpoint in self._service.endpoints:
            if endpoint.world.name == name:
                return endpoint
        raise RefusedError(404, f"there is no endpoint {name[:60]} that is pushed to here")

    def _faults(self) -> bytes:
        return self._page("faults", endpoints=[endpoint.world.name for endpoint in self._service.endpoints])

    def _fault(
        self, endpoint: Endpoint, code: int = 200, sent: Fields | None = None, wrong: Fields | None = None
    ) -> bytes:
        switch = endpoint.world.switch
        values = {"fault": SCENARIO, "status": "500", "delay": "10s"}
        if switch is not None:
            values["fault"] = switch.kind
            if switch.kind == STATUS:
                values["status"] = str(switch.status)
            elif switch.kind == SLOWER:
                values["delay"] = format_duration(Nanoseconds(switch.delay))
        return self._page(
            "switch",
            code,
            name=endpoint.world.name,
            values={**values, **(sent or {})},
            kinds=KINDS,
            wrong=wrong or {},
        )

    def _switch(self, endpoint: Endpoint, form: Fields) -> bytes:
        sent = {name: form.get(name, "") for name in ("fault", "status", "delay")}
        try:
            switch = read_switch(sent["fault"], sent["status"], sent["delay"])
        except ScenarioError as error:
            return self._fault(endpoint, 400, sent, {each.path: each.rule for each in error.problems})
        self._service.switch(endpoint, switch)
        self.memory.revision += 1
        return go(f"/faults/{quote(endpoint.world.name, safe='')}")


def _fields(text: str) -> Fields:
    try:
        return {name: found[-1] for name, found in parse_qs(text, True, max_num_fields=20).items()}
    except ValueError:
        raise RefusedError(400, "there are too many fields") from None


def _whole(query: Fields, name: str, missing: int) -> int:
    text = query.get(name, "")
    if not text:
        return missing
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise RefusedError(400, f"{name} is {text[:60]}; it must be a whole number")
    return int(text)


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
