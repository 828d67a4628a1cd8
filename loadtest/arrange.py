"""Before the first event: endpoints at the dispatcher for every member of a scenario, and T0 at the receivers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import urllib3

from loadtest import offered
from sim.errors import ScenarioError
from sim.fields import format_duration
from sim.model import Member, Model

MOST_SUBSCRIPTIONS = 1000
"""Patterns of types that the dispatcher takes for one endpoint."""
CALL_TIMEOUT_S = 30.0
NO_RETRIES = urllib3.Retry(0, redirect=0)


class Api:
    """A JSON API: the dispatcher's, or the control port of receivers.

    Args:
        url: such as ``http://127.0.0.1:8080``.
        token: bearer token; empty: none.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        self.token = token
        self._pool = urllib3.PoolManager(retries=NO_RETRIES, timeout=CALL_TIMEOUT_S)

    def call(self, method: str, path: str, body: object = None, good: Sequence[int] = (200,)) -> Any:
        """The JSON that a request is answered with.

        Raises:
            ScenarioError: nobody answers, or with another status than the good ones.
        """
        headers = {"content-type": "application/json"}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        data = None if body is None else orjson.dumps(body)
        try:
            answer = self._pool.request(method, self.url + path, body=data, headers=headers)
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ScenarioError(f"{self.url} cannot be reached: {_reason(error)}") from None
        if answer.status not in good:
            raise ScenarioError(
                f"{method} {self.url}{path} was answered {answer.status}: {_text(answer.data)}"
            )
        return orjson.loads(answer.data) if answer.data else None

    def close(self) -> None:
        """Close its connections."""
        self._pool.clear()


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _text(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:300].decode("utf-8", "replace")


def endpoints(model: Model, urls: Mapping[str, str]) -> list[dict[str, Any]]:
    """What to post to ``/endpoints``, one for each member that subscribes to anything.

    Args:
        model: the scenario.
        urls: of the members that are pushed to.

    Raises:
        ScenarioError: a member has no URL, or needs more subscriptions than an endpoint can have.
    """
    made = []
    for member, types in zip(model.members, offered.subscriptions(model), strict=True):
        if not types:
            continue
        if len(types) > MOST_SUBSCRIPTIONS:
            raise ScenarioError(
                f"endpoint {member.name} would need {len(types):,} subscriptions; the dispatcher takes "
                f"{MOST_SUBSCRIPTIONS:,}: give the groups that are routed by key counts with a common multiple"
            )
        if not member.poll_every and member.name not in urls:
            raise ScenarioError(f"no receiver has a URL for endpoint {member.name}; is it the same scenario?")
        made.append(_endpoint(model, member, types, urls.get(member.name, "")))
    return made


def _endpoint(model: Model, member: Member, types: tuple[str, ...], url: str) -> dict[str, Any]:
    group = model.scenario.endpoints[member.group]
    body: dict[str, Any] = {"id": member.name, "types": types}
    if member.poll_every:
        return body | {"mode": {"poll": {"every": format_duration(member.poll_every)}}}
    body |= {"url": url, "policy": model.policy_names[member.policy]}
    if group.max_in_flight is not None:
        body["max_in_flight"] = group.max_in_flight
    if group.rate_limit is not None:
        body["rate_limit"] = group.rate_limit
    return body


class Receivers:
    """The processes that serve a scenario's receivers, by their control ports.

    Raises:
        ScenarioError: one cannot be reached.
    """

    def __init__(self, controls: Sequence[str]) -> None:
        self.controls = [Api(url) for url in controls]

    def start(self, at_ns: int) -> None:
        """Begin the scenario's time, ns since 1970.

        Raises:
            ScenarioError: it has begun before.
        """
        for control in self.controls:
            control.call("POST", f"/start?at={at_ns}")

    def urls(self) -> dict[str, str]:
        """Where each endpoint is pushed to."""
        found: dict[str, str] = {}
        for control in self.controls:
            found |= control.call("GET", "/endpoints")["endpoints"]
        return found


def arrange(model: Model, api: Api, urls: Mapping[str, str]) -> None:
    """Make the endpoints of a scenario at a dispatcher that has none.

    Raises:
        ScenarioError: the dispatcher has endpoints of an earlier run, or refuses one.
    """
    if api.call("GET", "/endpoints?limit=1")["endpoints"]:
        raise ScenarioError(
            f"the dispatcher at {api.url} has endpoints already: events would not be new to it; "
            "start it with an empty store"
        )
    for body in endpoints(model, urls):
        api.call("POST", "/endpoints", body, good=(201,))


def wait_ready(api: Api, path: str, patience_s: float) -> None:
    """Wait until a process answers.

    Raises:
        ScenarioError: it does not within the patience.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            api.call("GET", path)
        except ScenarioError as error:
            if time.monotonic() > end:
                raise ScenarioError(f"{error} (waited {patience_s:g} s)") from None
            time.sleep(0.05)
        else:
            return
