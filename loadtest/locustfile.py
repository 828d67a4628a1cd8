"""Locust on a scenario: ``locust -f loadtest/locustfile.py --scenario dreamkas --receivers http://127.0.0.1:9000``.

The dispatcher (``--host``) and the receivers (``hooklab receive``) run already; ``hooklab loadtest`` starts all of it.
One generator runs in each worker process, or in the only one; the events are split between them by key.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import gevent
from gevent.event import AsyncResult
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from loadtest.capacity import CAPACITY
from loadtest.conductor import BEGIN, SENT, Conductor, Plan
from loadtest.follow import Processed, Record, Settled
from loadtest.generator import Sent as Request
from loadtest.part import Part
from loadtest.posted import too_late
from loadtest.shapes import UntilSettled
from sim import jit
from sim.errors import ScenarioError
from sim.policy import LOST

DEFAULT_HOST = "http://127.0.0.1:8080"
FOLLOW_EVERY_S = 1.0
FOLLOWER_NICE = 10
DONE, FAILED, BAD_INPUT = 0, 1, 2
"""Exit codes: what was planned was sent in time, it was not, or it could not begin."""

log = logging.getLogger(__name__)
jit.prepare()  # before there are heartbeats to miss: the first time it compiles


class RequestFailedError(Exception):
    """The dispatcher has not taken a request."""


class DeliveryLostError(Exception):
    """A delivery has ended and was not delivered."""


class Here:
    """What this process does in a load test; Locust knows only functions and classes."""

    conductor: Conductor | None = None
    part: AsyncResult[Part] = AsyncResult()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _options(parser: LocustArgumentParser) -> None:
    add = parser.add_argument
    add("--scenario", env_var="HOOKLAB_SCENARIO", default="", help="A bundled scenario or a path.")
    add("--seed", env_var="HOOKLAB_SEED", type=int, help="Default: the scenario's.")
    add(
        "--receivers",
        env_var="HOOKLAB_RECEIVERS",
        default="",
        help="Control URLs of hooklab receive --start wait, with commas between; none: send events only.",
    )
    add(
        "--closed-loop",
        env_var="HOOKLAB_CLOSED_LOOP",
        type=int,
        default=0,
        metavar="USERS",
        help="So many users that wait for answers, for comparison.",
    )
    add(
        "--shape",
        env_var="HOOKLAB_SHAPE",
        default="",
        help="ramp, spike or soak, instead of the scenario's arrivals.",
    )
    add("--capacity", type=int, default=CAPACITY, help="Requests under way at once, of each process.")
    add(
        "--posts-to",
        default="",
        metavar="FOLDER",
        help="Where to write what was sent.",
        include_in_web_ui=False,
    )


def _plan(environment: Environment) -> Plan:
    options: Any = environment.parsed_options
    if not options.scenario:
        raise ScenarioError("--scenario is missing; it must name a scenario (hooklab scenarios lists them)")
    return Plan(
        scenario=options.scenario,
        dispatcher=environment.host or DEFAULT_HOST,
        receivers=tuple(filter(None, options.receivers.split(","))),
        token=os.environ.get("HOOKLAB_TOKEN", ""),
        seed=options.seed,
        closed_loop=options.closed_loop,
        shape=options.shape,
        capacity=options.capacity,
        folder=Path(options.posts_to) if options.posts_to else None,
    )


# --------------------------------------------------------------------------- the master, or the only process


@events.init.add_listener  # type: ignore[untyped-decorator]
def _register(environment: Environment, runner: Any, **_: object) -> None:
    if isinstance(runner, WorkerRunner | LocalRunner):
        runner.register_message(BEGIN, _begin_part)
    if isinstance(runner, MasterRunner) and hasattr(os, "nice"):
        os.nice(FOLLOWER_NICE)  # what follows and shows must not make those late that send
    if isinstance(runner, MasterRunner | LocalRunner):
        runner.register_message(SENT, _heard)
        UntilSettled.users = lambda: _users(environment)
        UntilSettled.over = lambda: _over(environment)


def _workers(runner: Any) -> list[str]:
    if isinstance(runner, LocalRunner):
        return ["local"]
    return [client.id for client in runner.clients.ready + runner.clients.spawning + runner.clients.running]


def _users(environment: Environment) -> tuple[int, type[User]]:
    closed: int = getattr(environment.parsed_options, "closed_loop", 0)
    workers = len(_workers(environment.runner)) if Here.conductor is None else Here.conductor.generators
    if not closed:
        return workers, OpenLoopUser
    wanted = round(closed * (1.0 if Here.conductor is None else Here.conductor.load_factor))
    return max(wanted, workers), ClosedLoopUser


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _start(environment: Environment, **_: object) -> None:
    runner = environment.runner
    if isinstance(runner, WorkerRunner) or runner is None:
        return
    try:
        conductor = Conductor(_plan(environment))
        messages = conductor.begin(_workers(runner))
    except ScenarioError as error:
        environment.process_exit_code = BAD_INPUT
        log.error("%s", error)
        gevent.spawn(runner.quit)
        return
    Here.conductor = conductor
    for worker, message in messages:
        if isinstance(runner, LocalRunner):
            gevent.spawn(runner.send_message, BEGIN, message)
        else:
            runner.send_message(BEGIN, message, worker)
    gevent.spawn(_follow, environment, conductor)


def _follow(environment: Environment, conductor: Conductor) -> None:
    """Show deliveries beside the requests, as they come, until the test is over."""
    while Here.conductor is conductor:
        _show(environment, conductor.follow())
        gevent.sleep(FOLLOW_EVERY_S)


def _show(environment: Environment, records: list[Record]) -> None:
    for record in records:
        group = record.endpoint.rpartition(":")[0]
        if isinstance(record, Processed):
            kind = "DUPLICATE" if record.duplicate else "DELIVERY"
            _fire(environment, kind, group, record.latency / 1e6)
            if record.late:
                _fire(environment, "LATE", group, record.latency / 1e6)
        elif isinstance(record, Settled) and record.state in LOST:
            _fire(environment, "LOST", group, None, DeliveryLostError(record.state))


def _fire(
    environment: Environment, kind: str, name: str, milliseconds: float | None, error: Exception | None = None
) -> None:
    environment.events.request.fire(  # type: ignore[no-untyped-call]
        request_type=kind,
        name=name,
        response_time=milliseconds,
        response_length=0,
        exception=error,
        context={},
    )


def _heard(environment: Environment, msg: Any, **_: object) -> None:
    if Here.conductor is not None:
        Here.conductor.heard(msg.data)


def _over(environment: Environment) -> bool:
    conductor = Here.conductor
    if conductor is None:
        return True
    if not conductor.sent_all and len(_workers(environment.runner)) < conductor.generators:
        conductor.fail("a worker of Locust is lost")
    return conductor.over()


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def _stop(environment: Environment, **_: object) -> None:
    Here.part = AsyncResult()  # not at the start: a worker may have been told its part before it starts
    conductor, Here.conductor = Here.conductor, None
    if conductor is None:
        return
    if not conductor.over():
        conductor.fail("stopped before all was sent and settled")
    _show(environment, conductor.follow())
    figures = conductor.finish().metrics
    why = conductor.failure or too_late(figures)
    if figures["requests"]:
        log.info(
            "%.0f requests, %.0f failed, %.0f dropped; latency from the intended start p50 %.4g s, p99 %.4g s; "
            "lateness p99 %.4g s",
            *(figures[name] for name in ("requests", "request_failures", "dropped")),
            *(figures[name] for name in ("request_latency_s_p50", "request_latency_s_p99", "lateness_s_p99")),
        )
    if why:
        log.error("the run is not valid: %s", why)
    environment.process_exit_code = FAILED if why else DONE


# --------------------------------------------------------------------------- generators


def _begin_part(environment: Environment, msg: Any, **_: object) -> None:
    runner = environment.runner
    assert runner is not None

    def fire(sent: Request) -> None:
        error = RequestFailedError(f"{sent.status} {sent.error}") if sent.failed else None
        name = sent.post.path if sent.post.ids else "/objects"
        _fire(environment, sent.post.method, name, sent.latency_s * 1000, error)

    part = Part(
        msg.data,
        os.environ.get("HOOKLAB_TOKEN", ""),
        fire,
        lambda data: runner.send_message(SENT, data),
    )
    try:
        part.prepare()
    except ScenarioError as error:
        part.report(done=True, error=str(error))
    else:
        Here.part.set(part)


class OpenLoopUser(User):
    """Sends this process's share of the events at their times. One for each process."""

    @task
    def offer(self) -> None:
        """All of it; then nothing more."""
        _part().run_open()
        _idle()


class ClosedLoopUser(User):
    """Sends an event once the one before is answered."""

    @task
    def offer(self) -> None:
        """As long as there are events."""
        _part().run_closed()
        _idle()


def _part() -> Part:
    """What this process has to do, once the master has said it."""
    part = Here.part.get()
    assert part is not None
    return part


def _idle() -> None:
    """Wait until Locust ends the user: a task that returns is begun again."""
    gevent.sleep(10**9)


class LoadShape(UntilSettled):
    """The shape of this file's tests."""
