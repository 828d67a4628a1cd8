"""The API under requests that are made up from its own document."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core import NotSet

from loadtest.dispatcher.api_routes import OPERATIONS, Operation
from tests.api_calls import URL, Caller, Reply, dispatcher

EXAMPLES = 30
KNOWN = {"/events": "till:0", "/endpoints": "0a", "/deliveries": "till:0:0a"}
"""Names that are there, by the beginning of the path."""
UNLIKELY = frozenset(
    {"poll_events", "post_endpoint", "replay_endpoint", "resend_delivery", "cancel_delivery"}
)
"""Operations whose success takes more than a request made up from the document."""
CASES = [(operation, GenerationMode.POSITIVE) for operation in OPERATIONS] + [
    (operation, GenerationMode.NEGATIVE)
    for operation in OPERATIONS
    if operation.body is not None or operation.query is not None
]


class Threaded:
    """A dispatcher whose loop runs in a thread of its own, for callers that block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> Threaded:
        self.thread.start()
        self.context = dispatcher(self.folder)
        self.caller: Caller = self.wait(self.context.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(self.context.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(30)
        self.loop.close()

    async def send(self, case: schemathesis.Case[Any]) -> Reply:
        """A made-up request as bytes."""
        target = quote(case.formatted_path, safe="/%")
        if isinstance(case.query, dict) and case.query:
            target += "?" + urlencode(case.query, doseq=True, errors="replace")
        if isinstance(case.body, bytes):
            body = case.body
        else:
            body = b"" if isinstance(case.body, NotSet) else json.dumps(case.body).encode()
        return await self.caller(case.method, target, body=body)

    def wait(self, work: Any) -> Any:
        """What a coroutine gives."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


@pytest.fixture(scope="module")
def threaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Threaded]:
    """One dispatcher for all requests, with an endpoint and something delivered."""
    with Threaded(tmp_path_factory.mktemp("fuzz")) as running:
        call = running.caller
        running.wait(call.endpoint("0a"))
        running.wait(call.event())
        yield running


@pytest.mark.parametrize(("operation", "mode"), CASES, ids=lambda part: getattr(part, "name", None))
def test_no_request_breaks_the_api(threaded: Threaded, operation: Operation, mode: GenerationMode) -> None:
    """Whatever is sent, by the document or against it, is answered as the document says, never with a 500."""
    call = threaded.caller
    threaded.wait(call("POST", "/endpoints", {"id": "0a", "url": URL, "types": ["*"], "policy": "dreamkas"}))
    raw = threaded.wait(call("GET", "/openapi.json")).value
    described = schemathesis.openapi.from_dict(raw)[operation.path][operation.method]
    answers = raw["paths"][operation.path][operation.method.lower()]["responses"]

    made_up = described.as_strategy(generation_mode=mode)
    known = next(
        (name for start, name in KNOWN.items() if operation.path.startswith(f"{start}/{{id}}")), None
    )
    named = {"id": known}
    if operation.path.startswith("/objects/"):
        named = {"type": "order", "id": "7"}
        threaded.wait(call("PUT", "/objects/order/7", {"a": 1}))
    about_known = made_up if named["id"] is None else described.as_strategy(mode, path_parameters=named)
    seen: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(made_up, about_known))
    def ask(case: schemathesis.Case[Any]) -> None:
        reply = threaded.wait(threaded.send(case))
        seen.add(reply.status)
        assert str(reply.status) in {*answers, "404", "405"}, (case.as_curl_command(), reply)
        told = answers.get(str(reply.status), {}).get("content", {}).get("application/json")
        if told is not None:
            schema = {**told["schema"], "components": raw["components"]}
            jsonschema_rs.Draft202012Validator(schema).validate(reply.value)

    ask()
    if mode is GenerationMode.POSITIVE and operation.name not in UNLIKELY:
        assert operation.status in seen
