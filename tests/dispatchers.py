"""Real dispatchers and receivers for tests: processes and servers on loopback, ended by their process id."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main())"]
PATIENCE_S = 30.0


class Receiver:
    """Answers webhooks on a port of its own; ``answer`` gives the status for a delivery and attempt."""

    def __init__(self, answer: Callable[[str, int], int]) -> None:
        self.requests: list[tuple[str, int]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        own = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                name, attempt = self.headers["webhook-id"], int(self.headers["webhook-attempt"])
                own.requests.append((name, attempt))
                own.headers.append({key.lower(): value for key, value in self.headers.items()})
                own.bodies.append(body)
                self.send_response(answer(name, attempt))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def counts(self) -> Counter[str]:
        """How often each delivery came."""
        return Counter(name for name, _ in self.requests)


@contextlib.contextmanager
def receiver(answer: Callable[[str, int], int] = lambda _name, _attempt: 200) -> Iterator[Receiver]:
    """A receiver for the time of a test."""
    made = Receiver(answer)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


class Dispatcher:
    """A dispatcher process."""

    def __init__(
        self,
        store: str,
        *options: str,
        token: str | None = None,
        listen: str = "127.0.0.1:0",
        command: Sequence[str] | None = None,
    ) -> None:
        self.token = token
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("HOOKLAB_TOKEN", None)
        if token is not None:
            environment["HOOKLAB_TOKEN"] = token
        self.lines: list[str] = []
        self.port = 0
        self.listening = threading.Event()
        self.process = subprocess.Popen(
            [
                *(command or COMMAND),
                "serve",
                "--listen",
                listen,
                "--store",
                store,
                "--allow-network",
                "127.0.0.0/8",
                *options,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"listening on http://[^ ]*:(\d+)", line):
                self.port = int(found[1])
                self.listening.set()
        self.listening.set()

    def ready(self) -> Dispatcher:
        """Wait until it can be called."""
        assert self.listening.wait(PATIENCE_S), self.lines
        assert self.port, self.lines
        return self

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON (or text) of a request."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json", **headers}
        if self.token is not None:
            given.setdefault("authorization", f"Bearer {self.token}")
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, read(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, read(error.read())

    def endpoint(self, url: str, **fields: Any) -> dict[str, Any]:
        """Create an endpoint that takes everything."""
        block = {"schedule": ["0s", "100ms", "200ms"], "timeout": "5s"}
        status, made = self.call(
            "POST", "/endpoints", {"url": url, "types": ["*"], "policy": block, **fields}
        )
        assert status == 201, made
        result: dict[str, Any] = made
        return result

    def settled(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many deliveries are settled, and give all that are."""
        return until(
            lambda: [
                one
                for one in self.call("GET", "/deliveries?limit=1000")[1]["deliveries"]
                if one["settled_at"]
            ],
            lambda done: len(done) >= count,
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


def read(body: bytes) -> Any:
    """JSON if it is, else text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@contextlib.contextmanager
def dispatcher(store: str, *options: str, token: str | None = None) -> Iterator[Dispatcher]:
    """A dispatcher for the time of a test."""
    made = Dispatcher(store, *options, token=token)
    try:
        yield made.ready()
    finally:
        made.stop(signal.SIGKILL)


def until(look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """Look until it is good; fail with what was seen last."""
    end = time.monotonic() + PATIENCE_S
    while not good(seen := look()):
        assert time.monotonic() < end, f"still {str(seen)[:2000]}"
        time.sleep(0.05)
    return seen
