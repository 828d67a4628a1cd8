"""The receivers of a scenario as real HTTP services: the very luck that the simulator draws, over sockets.

What becomes of a request is decided once, when it is complete, by ``receiver_world``; from then on the service
only waits until its time comes. Every endpoint has a port of its own, so that an outage can refuse connections.
A control port tells how it stands, hands out the log, and starts the scenario's time; ``inspector`` shows there
what arrived, if that is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

import orjson
from standardwebhooks import Webhook

from loadtest import clock
from loadtest.realtime import RealClock
from loadtest.receiver_calls import Api, poll
from loadtest.receiver_http import Exchange, reply_of, reply_with
from loadtest.receiver_log import ForgottenError, ReceiverLog
from loadtest.receiver_port import Port
from loadtest.receiver_signature import is_right
from loadtest.receiver_switch import SCENARIO, Switch
from loadtest.receiver_world import EndpointWorld, Request, end_of
from sim import instant
from sim.errors import ScenarioError
from sim.model import Model
from sim.policy import CONNECTION_REFUSED, NO_ANSWER, SECOND
from sim.receiver import NEVER, Answer

if TYPE_CHECKING:
    from loadtest.inspector import Inspector

T = TypeVar("T")

FLUSH_EVERY_S = 1.0
LINES = 10_000
"""Lines of the log in one answer, if nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How receivers are served."""

    host: str = "127.0.0.1"
    ports_from: int = 0
    """First port of the endpoints; 0: free ones."""
    control_port: int = 0
    start: int | None = None
    """T0, ns since 1970; None: what ``POST /start`` says."""
    log: Path | None = None
    part: tuple[int, int] = (0, 1)
    """(i, n): of the endpoints, every n-th from the i-th on; others are served by other processes."""
    dispatcher: str = ""
    """URL of its API; empty: nobody polls or calls back."""
    token: str = ""
    secrets: Mapping[str, Webhook] = field(default_factory=dict)
    """Verifiers by endpoint."""
    check_signatures: bool = False
    """Whether a request with a wrong signature is answered 401."""
    inspect: bool = False
    """Whether requests are kept and shown, and faults can be switched by hand."""


class Endpoint:
    """An endpoint that is pushed to: its port and path, and what it makes of requests."""

    def __init__(self, service: Service, world: EndpointWorld, number: int) -> None:
        self.world = world
        self.path = f"/hooks/{world.name}"
        self._target = self.path.encode()
        self._service = service
        self._verifier = service.options.secrets.get(world.name)
        options = service.options
        self.port = Port(options.host, number, self.handle, self._verifier is not None, options.inspect)

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.port.url + self.path

    def handle(self, exchange: Exchange) -> None:
        """Take a complete request."""
        service = self._service
        problem = self._problem(exchange)
        if problem:
            self._turn_away(exchange, problem)
            return
        if not service.started:
            service.early += 1
            self._turn_away(exchange, 503)
            return
        now = service.now
        request = self._request(exchange)
        if request is None:
            self._turn_away(exchange, 400)
            return
        if service.inspector is not None:
            service.inspector.arrived(self.world, exchange, request, now)
        if request.signed is False and service.options.check_signatures:
            self.world.reject(now, request, 401)
            exchange.answer(reply_of(401))
        else:
            self._conclude(exchange, self.world.receive(now, request), now)

    def _turn_away(self, exchange: Exchange, status: int) -> None:
        """Answer what the receiver never gets to see."""
        if self._service.inspector is not None:
            self._service.inspector.turned_away(self.world, exchange, status)
        exchange.answer(reply_of(status))

    def _problem(self, exchange: Exchange) -> int:
        """Status for a request that is none of a webhook's; 0 if it is one."""
        # nearly all spell it so; the others are taken apart
        if exchange.target != self._target and exchange.path_and_query()[0] != self.path:
            return 404
        return 0 if exchange.method == b"POST" else 405

    def _request(self, exchange: Exchange) -> Request | None:
        number, seq = exchange.header(b"webhook-attempt"), exchange.header(b"webhook-seq")
        delivery_id = exchange.header(b"webhook-id")
        if not delivery_id or not _is_number(number) or int(number) == 0 or (seq and not _is_number(seq)):
            return None
        signed = None
        if self._verifier is not None:
            signed = is_right(self._verifier, exchange.headers, exchange.text)
        key = exchange.header(b"webhook-key")
        return Request(delivery_id, int(number), key, int(seq) if seq else -1, signed)

    def _conclude(self, exchange: Exchange, answer: Answer, now: int) -> None:
        """Answer when it is time, and see to it that the work ends when it ends."""
        service = self._service
        end = end_of(answer, now)
        if answer.code == CONNECTION_REFUSED:
            exchange.drop()
        elif answer.code != NO_ANSWER:  # else it is held until the client gives up
            asked = -1 if answer.retry_after < 0 else -(-answer.retry_after // SECOND)
            reply = reply_of(answer.code, asked)
            if answer.answered <= now:
                exchange.answer(reply)
            else:
                service.at(answer.answered, self._answer(exchange, reply, answer.answered))
        if now < end < NEVER - 1 and end != answer.answered:
            service.at(end, lambda _: self.world.advance(service.now))

    def _answer(self, exchange: Exchange, reply: bytes, at: int) -> Any:
        def send(_: object) -> None:
            now = self._service.now
            self._service.lag = max(self._service.lag, now - at)
            exchange.answer(reply)
            self.world.advance(now)

        return send

    def listen_or_refuse(self) -> None:
        """Do what is to be done now."""
        if self.world.refusing(self._service.now):
            self.port.refuse()
        else:
            self.port.listen()

    def follow_outages(self, _: object = None) -> None:
        """Listen or refuse as it is now and at every later change."""
        service = self._service
        changes = self.world.changes()
        position = 0

        def change(_: object = None) -> None:
            nonlocal position
            now = service.now
            self.listen_or_refuse()
            while position < len(changes) and changes[position] <= now:
                position += 1
            if position < len(changes) and changes[position] < NEVER - 1:
                service.at(changes[position], change)

        change()


class Service:
    """All receivers of a scenario. ``open``, then ``run`` until ``stop``; use it as a context.

    Args:
        model: the scenario.
        options: how it is served.

    Raises:
        OSError: the log cannot be written.
    """

    def __init__(self, model: Model, options: Options) -> None:
        self.model = model
        self.options = options
        self.early = 0
        """Requests that came before T0; they are answered 503 and not logged."""
        self.lag = 0
        """The most by which an answer came late, ns."""
        self.start = options.start
        self.log = ReceiverLog(options.log)
        self.switches = 0
        """How often a fault was switched by hand: above 0 the figures are no longer those of the scenario."""
        self.inspector = self._inspector()
        self._requests = 0
        index, of = options.part
        worlds = [EndpointWorld(model, i, self._emit) for i in range(index, len(model.members), of)]
        self.pollers = [world for world in worlds if world.poll_every]
        self._worlds = worlds
        self.endpoints: list[Endpoint] = []
        self._control: Port | None = None
        self._time: RealClock | None = None
        self._thin = bool(options.dispatcher) and model.scenario.dispatcher.message == "thin"
        self._api: Api | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Event | None = None
        self._error: BaseException | None = None

    # ----------------------------------------------------------------- time

    @property
    def started(self) -> bool:
        """Whether T0 has passed."""
        return self.start is not None and clock.now() >= self.start

    @property
    def now(self) -> int:
        """Nanoseconds since T0."""
        assert self.start is not None
        return clock.now() - self.start

    def at(self, time: int, function: Any) -> None:
        """Call a function at a time, ns since T0."""
        assert self._time is not None
        assert self.start is not None
        self._time.call(self.start + time, instant.ENDPOINT, 0, function)

    # ----------------------------------------------------------------- by hand

    def _inspector(self) -> Inspector | None:
        if not self.options.inspect:
            return None
        from loadtest.inspector import Inspector  # its templates are no matter of a load test

        return Inspector(self)

    def switch(self, endpoint: Endpoint, switch: Switch | None) -> None:
        """Switch a fault of an endpoint by hand, from now on; None: as the scenario says. It is logged."""
        now = self.now if self.start is not None else None
        endpoint.world.switch = switch
        self.switches += 1
        said = str(switch) if switch is not None else SCENARIO
        self._emit({"kind": "switch", "endpoint": endpoint.world.name, "switched_ns": now, "to": said})
        if self.started:  # before T0 nobody is refused, and then all begin
            endpoint.listen_or_refuse()

    # ----------------------------------------------------------------- life

    def open(self) -> None:
        """Bind all ports and listen, inside a running loop.

        Raises:
            ScenarioError: a port cannot be had.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._broken)
        self._time = RealClock(loop)
        self._over = asyncio.Event()
        options = self.options
        self._control = self._bind(
            partial(Port, options.host, options.control_port, self._handle, wants_all=options.inspect),
            options.control_port,
        )
        for i, world in enumerate(world for world in self._worlds if not world.poll_every):
            number = options.ports_from + i if options.ports_from else 0
            self.endpoints.append(self._bind(partial(Endpoint, self, world, number), number))
        for endpoint in self.endpoints:
            endpoint.port.listen()
        self._control.listen()
        if options.dispatcher:
            self._api = Api(options.dispatcher, options.token)
        if self.start is not None:
            self._begin()

    def description(self) -> dict[str, Any]:
        """What runs where: scenario, seed, start_ns, control and the URL of every endpoint."""
        assert self._control is not None
        return {
            "scenario": self.model.scenario.name,
            "seed": self.model.seed,
            "start_ns": self.start,
            "control": self._control.url,
            "endpoints": {endpoint.world.name: endpoint.url for endpoint in self.endpoints},
            "polling": [world.name for world in self.pollers],
        }

    async def run(self) -> None:
        """Serve until ``stop``; then close all and complete the log.

        Raises:
            OSError: the log cannot be written.
        """
        assert self._over is not None
        try:
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), FLUSH_EVERY_S)
                self.log.flush()
        finally:
            await self._close()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End ``run``."""
        if self._over is not None:
            self._over.set()

    async def _close(self) -> None:
        assert self._time is not None
        self._time.stop()
        for port in [self._control, *(endpoint.port for endpoint in self.endpoints)]:
            if port is not None:
                port.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._api is not None:
            await self._api.close()
        for world in self._worlds:
            world.finish()
        self.log.close()

    def _begin(self) -> None:
        """Follow the scenario's time from T0 on."""
        for endpoint in self.endpoints:
            if self.started:
                endpoint.follow_outages()
            else:
                self.at(0, endpoint.follow_outages)
        if self._api is not None:
            for world in self.pollers:
                self._spawn(poll(self._api, world, lambda: self.now, self._emit))

    def _bind(self, make: Callable[[], T], number: int) -> T:
        try:
            return make()
        except OverflowError:
            raise ScenarioError(f"port {number} is none: ports end at 65535") from None
        except OSError as error:
            where = f"port {number}" if number else f"a port of {self.options.host}"
            taken = error.errno == errno.EADDRINUSE
            then = "is taken; take another one, or leave the option out for free ports"
            raise ScenarioError(f"{where} {then if taken else f'cannot be had: {error.strerror}'}") from None

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Whatever goes wrong unseen ends the service: half a receiver would spoil a measurement."""
        self._error = self._error or context.get("exception") or RuntimeError(str(context.get("message")))
        self.stop()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
            self.stop()

    def _emit(self, record: dict[str, Any]) -> None:
        self.log.add(record)
        if record["kind"] != "request":
            return
        if self.inspector is not None:
            self.inspector.ended(record)
        self._requests += 1
        if self._thin and self._api is not None and record["processed_ns"] is not None and self._is_open():
            self._spawn(self._api.fetch_data(record["delivery_id"]))

    def _is_open(self) -> bool:
        return self._over is not None and not self._over.is_set()

    # ----------------------------------------------------------------- control

    def _handle(self, exchange: Exchange) -> None:
        """A request to the control port."""
        if self.inspector is not None and (reply := self.inspector.reply(exchange)) is not None:
            exchange.answer(reply)
            return
        path, query = exchange.path_and_query()
        routes = {
            ("GET", "/healthz"): self._health,
            ("GET", "/endpoints"): self._described,
            ("GET", "/log"): self._lines,
            ("POST", "/start"): self._start,
        }
        method = exchange.method.decode("latin-1")
        if (method, path) in routes:
            exchange.answer(routes[method, path](query))
        else:
            exchange.answer(reply_of(405 if any(path == known for _, known in routes) else 404))

    def _health(self, query: str) -> bytes:
        told: dict[str, Any] = {
            "started": self.started,
            "start_ns": self.start,
            "now_ns": self.now if self.start is not None else None,
            "requests": self._requests,
            "early": self.early,
            "log_lines": self.log.count,
            "answer_lag_s_max": self.lag / 1e9,
            "switches": self.switches,
        }
        if self._api is not None:
            calls = self._api.calls
            told["calls"] = {"polls": calls.polls, "data": calls.data, "failed": calls.failed}
            told["calls"]["last_error"] = calls.last_error
        return reply_with(200, orjson.dumps(told))

    def _described(self, query: str) -> bytes:
        return reply_with(200, orjson.dumps(self.description()))

    def _lines(self, query: str) -> bytes:
        said = parse_qs(query)
        after, limit = said.get("after", ["0"])[-1], said.get("limit", [str(LINES)])[-1]
        if not (_is_number(after) and _is_number(limit)):
            return _refusal(400, "after and limit must be whole numbers")
        try:
            lines = self.log.after(int(after), int(limit))
        except ForgottenError as error:
            return _refusal(410, str(error))
        return reply_with(200, lines, "application/x-ndjson")

    def _start(self, query: str) -> bytes:
        if self.start is not None:
            return _refusal(409, f"the scenario starts or has started at {self.start}")
        at = parse_qs(query).get("at")
        if at is not None and not _is_number(at[-1]):
            return _refusal(400, "at must be nanoseconds since 1970")
        start = clock.now() if at is None else int(at[-1])
        if clock.is_far(start):
            return _refusal(400, f"at is {start}; it must be nanoseconds since 1970, within a year of now")
        self.start = start
        self._begin()
        return reply_with(200, orjson.dumps({"start_ns": start}))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18 + 1


def _refusal(status: int, why: str) -> bytes:
    return reply_with(status, orjson.dumps({"error": why}))
