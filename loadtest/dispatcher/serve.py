"""The dispatcher as a process: makes its parts, listens, and ends in good order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import uvicorn

from loadtest.dispatcher.api import Api, Settings
from loadtest.dispatcher.app import build
from loadtest.dispatcher.guard import DEFAULT_PORTS, Guard
from loadtest.dispatcher.metrics_page import MetricsPage
from loadtest.dispatcher.scheduler import Scheduler
from loadtest.dispatcher.sender import CurlSender
from loadtest.dispatcher.store import Store, StoreError
from loadtest.dispatcher.tiers_amqp import AmqpTiers, TiersError
from sim.blocks_dispatcher import Dispatcher as Rules
from sim.errors import Problem, ScenarioError

log = logging.getLogger(__name__)

REQUESTS_END_WITHIN_S = 3
"""For how long requests may end once the process is asked to stop; attempts have their own time after that."""
IDLE_CONNECTIONS_S = 75
"""How long a kept connection may be idle: a producer whose pool keeps it longer finds it closed, at the worst just as
it sends."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """What one process of the dispatcher is made of."""

    settings: Settings
    store: Store
    rules: Rules
    seed: int
    host: str
    port: int
    """0: any that is free."""
    tiers: str = ""
    """Address of a broker for the delayed queues; empty: the store keeps time."""
    allow_networks: tuple[str, ...] = ()
    allow_ports: tuple[str, ...] = DEFAULT_PORTS
    ca_file: str | None = None
    most_stored: int = 10_000_000
    log_level: str = "info"


def run(process: Process) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ScenarioError: the address cannot be listened on, the store cannot be used, or it broke.
    """
    _allow_open_files()
    with (
        logging_to_stderr(process.log_level),
        listening(process.host, process.port) as opened,
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        runner.run(_serve(process, opened))


def _allow_open_files() -> None:
    """Raise the limit of open files to the most that is allowed: connections in and out are files."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(process: Process, opened: socket.socket) -> None:
    api, scheduler, sender, tiers = assemble(process)
    config = uvicorn.Config(
        build(api),
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_CONNECTIONS_S,
        timeout_graceful_shutdown=REQUESTS_END_WITHIN_S,
    )
    server = Server(config, api)
    watching = asyncio.create_task(_end_when_broken(api, server))
    log.info("starting with seed %s", process.seed)
    try:
        if tiers is not None:
            await tiers.open(_hints_to(scheduler))
        await server.serve(sockets=[opened])
    except SystemExit:  # uvicorn's, when the lifespan could not begin
        await sender.close()
    finally:
        watching.cancel()
        if tiers is not None:
            await tiers.close()
    if api.failure is not None:
        raise ScenarioError(f"the store cannot be used: {api.failure}") from api.failure
    if not server.started:
        raise ScenarioError("the dispatcher could not start; the log says why")


class Parts(NamedTuple):
    """What one process consists of."""

    api: Api
    scheduler: Scheduler
    sender: CurlSender
    tiers: AmqpTiers | None


def assemble(process: Process) -> Parts:
    """The parts of a process, ready to be started by the application's lifespan.

    Raises:
        ScenarioError: an address or a file among the options is none.
    """
    guard = Guard(process.allow_networks, process.allow_ports)
    try:
        tiers = AmqpTiers(process.tiers) if process.tiers else None
    except TiersError as error:
        raise ScenarioError([Problem("--tiers", None, str(error))]) from error
    sender = CurlSender(guard, process.ca_file)
    metrics = MetricsPage()
    scheduler = Scheduler(
        process.store,
        sender,
        process.rules,
        process.seed,
        hint=tiers.hint if tiers is not None else None,
        observer=metrics.attempted,
        most_stored=process.most_stored,
    )
    return Parts(Api(process.settings, process.store, scheduler, guard, metrics), scheduler, sender, tiers)


def _hints_to(scheduler: Scheduler) -> Callable[[int, int], Coroutine[Any, Any, None]]:
    async def hinted(delivery: int, attempts: int) -> None:
        try:
            await scheduler.hinted(delivery, attempts)
        except StoreError as error:
            log.warning("a hint is lost, the store's own time holds: %s", error)

    return hinted


async def _end_when_broken(api: Api, server: Server) -> None:
    await api.broken.wait()
    log.critical("the store is broken: %s", api.failure)
    server.stop()


class Server(uvicorn.Server):
    """Says where it listens once it can be called, and lets nobody wait once it is to end."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    def stop(self) -> None:
        """Take nothing more in, and end."""
        self.should_exit = True
        self._api.end_waiting()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; uvicorn's own would raise them once more after a good end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell; what keeps it from starting is told by the process itself."""
        logger = logging.getLogger("uvicorn.error")
        logger.setLevel(logging.CRITICAL)
        await super().startup(sockets)
        logger.setLevel(logging.WARNING)
        if self.started and sockets:
            sys.stderr.write(f"listening on http://{shown_address(*sockets[0].getsockname()[:2])}\n")
            sys.stderr.flush()


def shown_address(host: str, port: int) -> str:
    """``host:port`` as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening(host: str, port: int) -> socket.socket:
    """A socket that holds the address.

    Raises:
        ScenarioError: it is taken, or none of this machine's.
    """
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        rule = f"cannot be listened on ({error.strerror or error}); choose another address"
        raise ScenarioError([Problem("--listen", shown_address(host, port), rule)]) from None
    return opened


class JsonLines(logging.Formatter):
    """One JSON object on each line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


@contextlib.contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log from this level on, a line each, until the block ends."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
