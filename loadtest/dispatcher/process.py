"""The dispatcher as a process: its socket, its loop, its log, its end."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator

import uvicorn

from loadtest.dispatcher.app import Settings, build
from loadtest.dispatcher.store import Store, StoreError
from sim.errors import Problem, ScenarioError

LEVELS = ("debug", "info", "warning", "error")


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


class Server(uvicorn.Server):
    """Says where it listens once it can be called, and ends well when it is asked to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT; uvicorn's own would raise them once more after a good end."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started and sockets and not self.should_exit:
            name, port = sockets[0].getsockname()[:2]
            shown = f"[{name}]" if ":" in name else name
            sys.stderr.write(f"listening on http://{shown}:{port}\n")
            sys.stderr.flush()


def run(settings: Settings, store: Store, host: str, port: int, level: str) -> None:
    """Serve until SIGTERM or SIGINT, then end what is under way.

    Raises:
        ScenarioError: the port is taken, or the store cannot be opened.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    opened = bound(host, port)
    broken: list[StoreError] = []

    def failed(error: StoreError) -> None:
        broken.append(error)
        server.should_exit = True

    config = uvicorn.Config(
        build(settings, store, failed),
        http="httptools",
        loop="uvloop" if sys.platform != "win32" else "auto",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    server = Server(config)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with opened:
        try:
            server.run(sockets=[opened])
        except SystemExit:
            raise ScenarioError("the dispatcher could not start; the lines above say why") from None
    if broken:
        raise ScenarioError(str(broken[0]))
    if not server.started:
        raise ScenarioError("the dispatcher could not start; the lines above say why")


def bound(host: str, port: int) -> socket.socket:
    """A socket that holds the address; raises ``ScenarioError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        rule = f"cannot be listened on: {error.strerror}; choose another with --listen"
        raise ScenarioError([Problem("--listen", f"{host}:{port}", rule)]) from None
    return opened
