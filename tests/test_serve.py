"""``hooklab serve`` as a real process, over real sockets and every store."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.dispatchers import Dispatcher, dispatcher, receiver, until
from tests.producers import kept, producing
from tests.services import AMQP, lacking, postgres_database

STORES = ("sqlite", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres")))


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store."""
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path}/hooks.db"
    else:
        with postgres_database() as address:
            yield address


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """One dispatcher with a token, for requests that change little."""
    with dispatcher(f"sqlite:{tmp_path_factory.mktemp('serve')}/hooks.db", token="secret-token") as made:
        yield made


def test_an_event_is_delivered_signed_and_shown(store: str) -> None:
    """From POST to receiver to log, with a signature that the library of the standard verifies."""
    with receiver() as hook, dispatcher(store) as served:
        made = served.endpoint(hook.url, id="shop:0", types=["order.*"], hook_fields=True)
        status, answered = served.call(
            "POST", "/events", [{"id": "p:0", "type": "order.paid", "key": "7", "seq": 3, "data": {"sum": 1}}]
        )
        assert (status, answered) == (202, [{"id": "p:0"}])
        assert served.call("POST", "/events", {"type": "other", "key": "k", "data": 1})[0] == 202
        (done,) = served.settled(1)
        assert (done["id"], done["state"], done["attempts"]) == ("p:0:shop:0", "delivered", 1)
        assert Webhook(made["secret"]).verify(hook.bodies[0], hook.headers[0])["data"] == {"sum": 1}
        assert hook.headers[0]["webhook-key"] == "7"
        assert hook.headers[0]["webhook-seq"] == "3"
        _, shown = served.call("GET", "/deliveries/p:0:shop:0")
        assert [entry["status"] for entry in shown["log"]] == [200]
        assert served.call("GET", "/events/p:0")[1]["deliveries"] == ["p:0:shop:0"]
        assert len(hook.requests) == 1


def test_a_failing_delivery_climbs_ends_dead_and_is_sent_again(store: str) -> None:
    """Three attempts, a dead letter, then a resend that goes on counting and succeeds."""
    good = threading.Event()
    with receiver(lambda *_: 200 if good.is_set() else 500) as hook, dispatcher(store) as served:
        served.endpoint(hook.url, id="shop:0")
        served.call("POST", "/events", {"id": "p:0", "type": "t", "key": "k", "data": 1})
        (done,) = served.settled(1)
        assert (done["state"], done["cause"], done["attempts"]) == ("dead", "attempts", 3)
        assert [one["id"] for one in served.call("GET", "/deliveries?state=dead")[1]["deliveries"]] == [
            "p:0:shop:0"
        ]
        good.set()
        assert served.call("POST", "/deliveries/p:0:shop:0/resend")[0] == 202
        until(
            lambda: served.call("GET", "/deliveries/p:0:shop:0")[1]["state"],
            lambda state: state == "delivered",
        )
        assert [attempt for _, attempt in hook.requests] == [1, 2, 3, 4]


def test_pause_rotate_test_event_and_removal(store: str) -> None:
    """What an operator does with an endpoint."""
    with receiver() as hook, dispatcher(store) as served:
        old = served.endpoint(hook.url, id="shop:0")
        assert served.call("POST", "/endpoints/shop:0/pause")[1]["status"] == "paused"
        served.call("POST", "/events", {"id": "p:0", "type": "t", "key": "k", "data": 1})
        _, rotated = served.call("POST", "/endpoints/shop:0/rotate-secret")
        assert rotated["secret"] != old["secret"]
        assert hook.requests == []
        served.call("POST", "/endpoints/shop:0/resume")
        served.settled(1)
        for secret in (old["secret"], rotated["secret"]):
            Webhook(secret).verify(hook.bodies[0], hook.headers[0])
        _, test = served.call("POST", "/endpoints/shop:0/test")
        until(hook.counts, lambda counts: counts[test["delivery_id"]] == 1)
        served.call("POST", "/endpoints/shop:0/pause")
        served.call("POST", "/events", {"id": "p:1", "type": "t", "key": "k", "data": 1})
        assert served.call("DELETE", "/endpoints/shop:0")[0] == 204
        assert served.call("GET", "/endpoints/shop:0")[0] == 404
        states = {one["event_id"]: one["state"] for one in served.call("GET", "/deliveries")[1]["deliveries"]}
        assert states["p:1"] == "dropped"


def test_a_polling_endpoint_fetches_what_waits(store: str) -> None:
    """A cursor over what waits; what was returned counts as delivered and can be read again."""
    with dispatcher(store) as served:
        served.call("POST", "/endpoints", {"id": "puller", "types": ["*"], "mode": {"poll": {"every": "1s"}}})
        served.call(
            "POST", "/events", [{"id": f"p:{i}", "type": "t", "key": "k", "data": i} for i in range(5)]
        )
        _, first = served.call("GET", "/events?endpoint=puller&limit=3")
        assert [one["data"] for one in first["events"]] == [0, 1, 2]
        _, rest = served.call("GET", f"/events?endpoint=puller&after={first['next']}")
        assert [one["id"] for one in rest["events"]] == ["p:3", "p:4"]
        assert served.call("GET", "/events?endpoint=puller")[1]["events"][0]["id"] == "p:0"
        assert {one["state"] for one in served.call("GET", "/deliveries")[1]["deliveries"]} == {"delivered"}


def test_a_deleted_object_vanishes_from_the_queue(store: str) -> None:
    """Ids in the queue: what is sent is the object as it is, and nothing once it is deleted."""
    with receiver() as hook, dispatcher(store) as served:
        served.endpoint(hook.url, id="shop:0", policy={"schedule": ["300ms"], "timeout": "5s"})
        served.call("PUT", "/objects/order/1", {"v": 1})
        served.call("PUT", "/objects/order/2", {"v": 1})
        named = [
            {"id": f"p:{i}", "type": "t", "key": "k", "object": {"type": "order", "id": str(i)}}
            for i in (1, 2)
        ]
        assert served.call("POST", "/events", named)[0] == 202
        served.call("PUT", "/objects/order/1", {"v": 2})
        served.call("DELETE", "/objects/order/2")
        states = {one["event_id"]: one["state"] for one in served.settled(2)}
        assert states == {"p:1": "delivered", "p:2": "vanished"}
        assert b'"data":{"v":2}' in hook.bodies[0]


def test_replay_sends_a_time_range_again(store: str) -> None:
    """All events of a range once more, to one endpoint."""
    with receiver() as hook, dispatcher(store) as served:
        served.endpoint(hook.url, id="shop:0")
        served.call(
            "POST", "/events", [{"id": f"p:{i}", "type": "t", "key": "k", "data": i} for i in range(3)]
        )
        served.settled(3)
        span = {"since": "2020-01-01T00:00:00Z", "until": "2099-01-01T00:00:00Z"}
        assert served.call("POST", "/endpoints/shop:0/replay", span) == (202, {"added": 0, "resent": 3})
        until(lambda: sorted(hook.counts().values()), lambda counts: counts == [2, 2, 2])


def test_nothing_accepted_is_lost_when_the_process_is_killed(store: str) -> None:
    """Kill -9 three times under load: what was answered 202 ends delivered, and only unstored attempts come again."""
    with receiver(
        lambda name, attempt: 500 if attempt == 1 and int(name.split(":")[1]) % 5 == 0 else 200
    ) as hook:
        running = [Dispatcher(store).ready()]
        try:
            running[0].endpoint(hook.url, id="shop:0", max_in_flight=20)
            with producing(lambda: running[-1]) as load:
                for _ in range(3):
                    load.wait_for(50)
                    running[-1].stop(signal.SIGKILL)
                    running.append(Dispatcher(store).ready())
                load.wait_for(50)
            repeated = kept(running[-1], load, hook)
            assert max(repeated.values(), default=0) <= 3
        finally:
            codes = [one.stop() for one in running]
        assert codes[-1] == 0


@pytest.mark.xdist_group("postgres")
def test_two_processes_share_the_work_and_one_takes_over() -> None:
    """Events posted to either are delivered once; when one is killed the other delivers what it had."""
    with contextlib.ExitStack() as held:
        address, hook = held.enter_context(postgres_database()), held.enter_context(receiver())
        first, second = (held.enter_context(dispatcher(address)) for _ in range(2))
        for member in range(8):
            first.endpoint(hook.url, id=f"shop:{member}")
        for number, served in enumerate((first, second) * 10):
            assert (
                served.call("POST", "/events", {"id": f"p:{number}", "type": "t", "key": "k", "data": 1})[0]
                == 202
            )
        until(hook.counts, lambda counts: len(counts) == 160)
        assert set(hook.counts().values()) == {1}
        first.stop(signal.SIGKILL)
        for number in range(100, 110):
            assert (
                second.call("POST", "/events", {"id": f"p:{number}", "type": "t", "key": "k", "data": 1})[0]
                == 202
            )
        until(hook.counts, lambda counts: len(counts) == 240)


@pytest.mark.xdist_group("postgres")
def test_a_broker_says_when_retries_are_due() -> None:
    """With RabbitMQ tiers a retry comes on its hint, well before the store would find it by itself."""
    with contextlib.closing(socket.socket()) as probe:
        if probe.connect_ex(("127.0.0.1", 5672)):
            lacking(f"no RabbitMQ at {AMQP}: start one (docker run -p 5672:5672 rabbitmq)")
    with contextlib.ExitStack() as held:
        address = held.enter_context(postgres_database())
        hook = held.enter_context(receiver(lambda _n, attempt: 500 if attempt == 1 else 200))
        served = held.enter_context(dispatcher(address, "--tiers", AMQP))
        served.endpoint(hook.url, id="shop:0", policy={"schedule": ["0s", "2s"], "timeout": "5s"})
        served.call(
            "POST", "/events", [{"id": f"p:{i}", "type": "t", "key": "k", "data": 1} for i in range(20)]
        )
        served.settled(20)
        assert sorted(hook.counts().values()) == [2] * 20
        _, one = served.call("GET", "/deliveries/p:0:shop:0")
        first, second = one["log"]
        assert second["started_at"] > second["due_at"] > first["finished_at"]


BAD = [
    ("POST", "/events", b"{oops", 400, "JSON"),
    ("POST", "/events", [], 422, "from 1 to 1,000"),
    ("POST", "/events", {"type": "t", "kez": 1}, 422, "kez"),
    ("POST", "/events", {"type": "t", "id": "a:b"}, 422, "name:number"),
    ("POST", "/events", {"type": "t", "key": "k", "data": 1, "seq": -1}, 422, "seq"),
    ("POST", "/events", {"type": "t", "key": "k", "data": 1, "occurred_at": "yesterday"}, 422, "RFC 3339"),
    ("POST", "/events", [{"type": "t", "key": "k", "data": 1}] * 1001, 422, "1,000"),
    ("POST", "/events", {"type": "t", "key": "k", "data": "x" * 300_000}, 413, "bytes"),
    ("POST", "/events", b" " * 1_100_000, 413, "bytes"),
    ("POST", "/endpoints", {"url": "ftp://127.0.0.1/", "types": ["*"], "policy": "timepad"}, 422, "url"),
    ("POST", "/endpoints", {"url": "http://10.0.0.1/", "types": ["*"], "policy": "timepad"}, 422, "public"),
    ("POST", "/endpoints", {"types": ["*"]}, 422, "url"),
    (
        "POST",
        "/endpoints",
        {"url": "http://127.0.0.1/", "types": ["*"], "policy": "drimkas"},
        422,
        "dreamkas",
    ),
    (
        "POST",
        "/endpoints",
        {"url": "http://127.0.0.1/", "types": ["*"], "policy": {"schedule": ["5"]}},
        422,
        "policy",
    ),
    ("POST", "/endpoints", {"url": "http://127.0.0.1/", "types": ["*"], "secret": "short"}, 422, "whsec_"),
    ("POST", "/endpoints", {"url": "http://127.0.0.1/", "types": ["*"], "rate_limit": "fast"}, 422, "rate"),
    ("GET", "/events?endpoint=nobody", None, 404, "nobody"),
    ("GET", "/deliveries?state=lost", None, 422, "waiting"),
    ("GET", "/deliveries?limit=many", None, 422, "limit"),
    ("GET", "/deliveries/none", None, 404, "delivery"),
    ("POST", "/deliveries/none/resend", None, 404, "delivery"),
    ("GET", "/nowhere", None, 404, "/nowhere"),
    ("DELETE", "/events", None, 405, "not allowed"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "said"), BAD)
def test_bad_input_is_answered_with_its_rule(
    serving: Dispatcher, method: str, path: str, body: Any, status: int, said: str
) -> None:
    """The status, and words that lead to the mistake; never a 5xx."""
    got, answered = serving.call(method, path, body)
    assert got == status, answered
    assert said in str(answered)


def test_the_same_event_twice_is_one_and_other_content_a_conflict(serving: Dispatcher) -> None:
    """Repeats are safe, contradictions are told."""
    event = {"id": "same:1", "type": "t", "key": "k", "data": {"a": 1}}
    assert (
        serving.call("POST", "/events", event)
        == serving.call("POST", "/events", event)
        == (202, {"id": "same:1"})
    )
    assert serving.call("POST", "/events", {**event, "data": {"a": 2}})[0] == 409
    batch = [{"type": "t", "key": "k", "data": 1, "id": "fresh:1"}, {**event, "data": 3}]
    assert serving.call("POST", "/events", batch)[0] == 409
    assert serving.call("GET", "/events/fresh:1")[0] == 404


def test_a_token_a_host_and_json_are_asked_for(serving: Dispatcher) -> None:
    """No token, a wrong one, a foreign host, another content type: each refused; health needs no token."""
    assert serving.call("GET", "/deliveries", authorization="Bearer wrong")[0] == 401
    assert serving.call("GET", "/metrics", authorization="")[0] == 401
    assert serving.call("GET", "/deliveries", host="evil.example")[0] == 421
    assert serving.call("POST", "/events", b"type=t", **{"content-type": "text/plain"})[0] == 415
    assert serving.call("GET", "/healthz", authorization="")[0] == 200
    assert "hooklab_backlog" in serving.call("GET", "/metrics")[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "0.0.0.0:0"], "HOOKLAB_TOKEN"),
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--store", "mysql://x"], "--store"),
        (["--store", "sqlite:/nowhere/at/all.db"], "nowhere"),
        (["--store", "postgresql://127.0.0.1:1/x"], "127.0.0.1"),
        (["--tiers", "amqp://x"], "PostgreSQL"),
        (["--allow-network", "300.0.0.0/8"], "300.0.0.0/8"),
        (["--retention", "soon"], "--retention"),
        (["--log-level", "loud"], "--log-level"),
        (["--set", "dispatcher.workers=3"], "--scenario"),
        (["--scenario", "drimkas"], "dreamkas"),
    ],
)
def test_bad_options_end_with_2_and_a_reason(tmp_path: Path, options: list[str], said: str) -> None:
    """Exit 2, the option named, no traceback."""
    made = Dispatcher(f"sqlite:{tmp_path}/x.db", *options)
    try:
        assert made.process.wait(30) == 2
    finally:
        made.stop(signal.SIGKILL)
    text = "".join(made.lines)
    assert said in text
    assert "Traceback" not in text


def test_a_taken_port_is_told(serving: Dispatcher, tmp_path: Path) -> None:
    """Exit 2 and which address."""
    made = Dispatcher(f"sqlite:{tmp_path}/x.db", listen=f"127.0.0.1:{serving.port}")
    assert made.process.wait(30) == 2
    made.stop(signal.SIGKILL)
    assert str(serving.port) in "".join(made.lines)
