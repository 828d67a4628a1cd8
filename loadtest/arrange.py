"""Before the first event: endpoints at the dispatcher for every member of a scenario, and T0 for all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtest import offered
from loadtest.api_client import ApiClient
from sim.errors import ScenarioError
from sim.fields import format_duration
from sim.model import Member, Model

MOST_SUBSCRIPTIONS = 1000
"""Patterns of types that the dispatcher takes for one endpoint."""


def endpoints(model: Model, urls: Mapping[str, str]) -> list[dict[str, Any]]:
    """What to post to ``/endpoints``, one for each member that subscribes to anything.

    Args:
        model: the scenario.
        urls: of the members that are pushed to.

    Raises:
        ScenarioError: a member has no URL, or needs more subscriptions than an endpoint can have.
    """
    made = []
    for member, types in subscribed(model):
        if len(types) > MOST_SUBSCRIPTIONS:
            raise ScenarioError(
                f"endpoint {member.name} would need {len(types):,} subscriptions; the dispatcher takes "
                f"{MOST_SUBSCRIPTIONS:,}: give the groups that are routed by key counts with a common multiple"
            )
        if not member.poll_every and member.name not in urls:
            raise ScenarioError(f"no receiver has a URL for endpoint {member.name}; is it the same scenario?")
        made.append(_endpoint(model, member, types, urls.get(member.name, "")))
    return made


def subscribed(model: Model) -> Iterator[tuple[Member, tuple[str, ...]]]:
    """The members that subscribe to anything, with what they do."""
    for member, types in zip(model.members, offered.subscriptions(model), strict=True):
        if types:
            yield member, types


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
        self.controls = [ApiClient(url) for url in controls]

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


def arrange(model: Model, api: ApiClient, urls: Mapping[str, str]) -> None:
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


def begin(api: ApiClient, receivers: Receivers, at_ns: int) -> None:
    """Begin the scenario's time at the dispatcher and at the receivers, ns since 1970.

    Raises:
        ScenarioError: it has begun before.
    """
    api.call("POST", f"/start?at={at_ns}")
    receivers.start(at_ns)


def begun_at(api: ApiClient) -> int | None:
    """When the scenario's time began, as the dispatcher was told; None: this process was not.

    Raises:
        ScenarioError: it cannot be asked.
    """
    told: int | None = api.call("GET", "/healthz")["start_ns"]
    return told


def wait_ready(api: ApiClient, path: str, patience_s: float) -> None:
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
