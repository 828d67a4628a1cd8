"""The processes of the dispatcher's benchmarks: what they are, when they are ready, and the CPU that each has used."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

HERE = Path(__file__).parent
LEAN = [sys.executable, str(HERE / "lean_http.py")]
SERVE = [sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main())", "serve"]
ENDPOINT = {"id": "group:0", "types": ["*"], "policy": {"schedule": ["0s", "3s", "10s"], "timeout": "5s"}}
LOCAL = ("127.0.0.1", "localhost", "::1", "", None)
IDLE_S = 3.0


def cpu_s(process: psutil.Process | None) -> float:
    """User and system time of a process and all below it, those that have ended included; s."""
    if process is None:
        return 0.0
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += sum(one.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process now and at its highest, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, highest = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, highest


class Server:
    """A database or broker on this machine, found by the port it listens on, and what it uses while it is idle."""

    def __init__(self, url: str, port: int) -> None:
        parts = urlsplit(url)
        self.process = listening_on(parts.port or port) if parts.hostname in LOCAL else None
        """None: it is elsewhere, or not visible; its CPU is then missing in the table."""
        before = cpu_s(self.process)
        time.sleep(IDLE_S)
        self.idle = (cpu_s(self.process) - before) / IDLE_S
        """CPU seconds per second."""


def listening_on(port: int) -> psutil.Process | None:
    """The process that listens on a TCP port, the parent of all that do."""
    found = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid
    }
    return psutil.Process(min(found)) if found else None


class Watch:
    """CPU from a moment on: of what sends and serves, and of its servers less what they use when idle."""

    def __init__(self, pids: list[int], servers: list[Server]) -> None:
        self.processes = [psutil.Process(pid) for pid in pids]
        self.servers = servers
        self.started = time.monotonic()
        self.before = self._used()

    def _used(self) -> tuple[float, float]:
        return sum(map(cpu_s, self.processes)), sum(cpu_s(one.process) for one in self.servers)

    def used(self) -> tuple[float, float]:
        """CPU seconds of the processes, and of the servers."""
        own, theirs = self._used()
        idle = sum(one.idle for one in self.servers) * (time.monotonic() - self.started)
        return own - self.before[0], max(theirs - self.before[1] - idle, 0.0)


class Receiver:
    """A receiver process; with ``refusing`` it answers first attempts with 503."""

    def __init__(self, refusing: bool = False) -> None:
        command = [sys.executable, str(HERE / "dispatcher_receiver.py")] if refusing else [*LEAN, "receive"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/"

    def counts(self) -> dict[str, int]:
        """Requests that were answered with 200: ``received``, and ``distinct`` among them."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found

    def wait_for(self, distinct: int, within_s: float = 120) -> dict[str, int]:
        """Wait until so many different deliveries have come."""
        until = time.monotonic() + within_s
        while (counts := self.counts())["distinct"] < distinct:
            if time.monotonic() > until:
                raise SystemExit(f"only {counts} of {distinct} came")
            time.sleep(0.02)
        return counts

    def stop(self) -> None:
        """End it."""
        self.process.communicate(timeout=10)


class Dispatcher:
    """A dispatcher process with one endpoint, which is made, or led to another URL if it is there."""

    def __init__(self, url: str, store: str, extra: list[str]) -> None:
        command = [*SERVE, "--listen", "127.0.0.1:0", "--store", store, "--allow-network", "127.0.0.0/8"]
        started = time.monotonic()
        self.process = subprocess.Popen([*command, *extra], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        told = []
        for line in self.process.stderr:
            told.append(line)
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise SystemExit(f"the dispatcher did not start: {''.join(told)}")
        self.ready_s = time.monotonic() - started
        try:
            if any(one["id"] == ENDPOINT["id"] for one in self.call("GET", "/endpoints")["endpoints"]):
                self.call("PATCH", f"/endpoints/{ENDPOINT['id']}", {"url": url})
            else:
                self.call("POST", "/endpoints", {**ENDPOINT, "url": url})
        except BaseException:
            self.stop()
            raise

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call its API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data,
            {"content-type": "application/json"},
            method=method,
        )
        return json.loads(urllib.request.urlopen(request, timeout=60).read())

    def posting(self, total: int, batch: int, connections: int, first: int) -> list[str]:
        """The command that posts events."""
        return [*LEAN, "post", *map(str, (self.port, total, batch, connections, first))]

    def post(self, total: int, batch: int, connections: int, first: int) -> dict[str, Any]:
        """Post events from a process of its own; what it took."""
        run = subprocess.run(
            self.posting(total, batch, connections, first), check=True, capture_output=True, text=True
        )
        told: dict[str, Any] = json.loads(run.stdout)
        return told

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate(timeout=60)


@contextmanager
def database(url: str) -> Iterator[str]:
    """A database of one's own on the server of ``url``, dropped at the end."""
    import psycopg

    name = f"hooklab_bench_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create database {name} template template0 encoding 'UTF8'")  # type: ignore[call-overload]
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"drop database {name} with (force)")  # type: ignore[call-overload]


def load_per_core() -> float:
    """How busy the machine has been in the last minute: 1 is all cores."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)
