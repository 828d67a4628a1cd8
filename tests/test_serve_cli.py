"""The command ``hooklab serve``: what it refuses, and a real process from its first line to its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TOKEN = "a-long-enough-token"
STARTS_WITHIN_S = 60
ENDS_WITHIN_S = 30


class Served(NamedTuple):
    """A running process and where it listens."""

    process: subprocess.Popen[str]
    port: int
    log: list[str]
    """Lines of stderr so far."""

    def call(self, method: str, path: str, value: Any = None, token: str = TOKEN) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        headers = {"authorization": f"Bearer {token}"}
        body = None
        if value is not None:
            body, headers["content-type"] = json.dumps(value), "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        return answer.status, json.loads(text) if text else None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(ENDS_WITHIN_S)


@contextmanager
def served(folder: Path, *options: str, token: str = TOKEN) -> Iterator[Served]:
    """``hooklab serve`` on a free port."""
    command = [sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main())", "serve"]
    store = f"sqlite:{folder / 'hooklab.db'}"
    process = subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--store", store, *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HOOKLAB_TOKEN": token},
    )
    assert process.stderr is not None
    lines: list[str] = []
    reading: threading.Thread | None = None
    begun = time.monotonic()
    try:
        while not (lines and lines[-1].startswith("listening on http://")):
            line = process.stderr.readline()
            assert line, lines
            assert time.monotonic() - begun < STARTS_WITHIN_S
            lines.append(line)
        port = int(lines[-1].rpartition(":")[2])
        reading = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        reading.start()
        yield Served(process, port, lines)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(ENDS_WITHIN_S)
        if reading is not None:
            reading.join(ENDS_WITHIN_S)
        process.stderr.close()


def test_a_process_takes_in_stops_in_good_order_and_knows_all_afterwards(tmp_path: Path) -> None:
    """What one process stored is there in the next; its log is lines of JSON, and SIGTERM ends it with 0."""
    event = {"type": "t", "key": "k", "data": 1, "id": "e:0"}
    endpoint = {"id": "pull", "types": ["*"], "mode": {"poll": {"every": "60s"}}}
    with served(tmp_path) as first:
        assert first.call("GET", "/readyz")[0] == 200
        assert first.call("GET", "/endpoints", token="wrong-token")[0] == 401
        assert first.call("POST", "/endpoints", endpoint)[0] == 201
        assert first.call("POST", "/events", event) == (202, {"id": "e:0"})
        assert first.stop() == 0
    for line in first.log:
        assert line.startswith("listening on ") or {"time", "level", "message"} <= json.loads(line).keys()
    with served(tmp_path) as second:
        status, found = second.call("GET", "/events?endpoint=pull")
        assert (status, [each["id"] for each in found["events"]]) == (200, ["e:0"])
        assert second.stop(signal.SIGINT) == 0


def test_a_waiting_poll_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Who waits for events is answered when the process is asked to end."""
    endpoint = {"id": "pull", "types": ["*"], "mode": {"poll": {"every": "60s"}}}
    with served(tmp_path) as running:
        assert running.call("POST", "/endpoints", endpoint)[0] == 201
        answers: list[tuple[int, Any]] = []
        polling = threading.Thread(
            target=lambda: answers.append(running.call("GET", "/events?endpoint=pull&wait=30"))
        )
        polling.start()
        # a second request that is answered shows that the first has been read
        time.sleep(0.5)
        begun = time.monotonic()
        assert running.stop() == 0
        took_s = time.monotonic() - begun
        polling.join(ENDS_WITHIN_S)
        assert answers == [(200, {"events": [], "next": 0})]
        assert took_s < 25  # the poll alone would have waited for 29 s more


def test_an_attempt_that_is_under_way_ends_before_the_process(tmp_path: Path) -> None:
    """After SIGTERM an attempt still gets its answer, and the next process knows that it was delivered."""
    called, go = threading.Event(), threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Answer when told to."""
            self.rfile.read(int(self.headers["content-length"]))
            called.set()
            go.wait(ENDS_WITHIN_S)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing."""

    allowed = ("--allow-network", "127.0.0.0/8")
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{receiver.server_port}/"
            with served(tmp_path, *allowed) as first:
                endpoint = {"id": "x", "url": url, "types": ["*"], "policy": "dreamkas"}
                assert first.call("POST", "/endpoints", endpoint)[0] == 201
                first.call("POST", "/events", {"type": "t", "key": "", "data": 1, "id": "e:0"})
                assert called.wait(ENDS_WITHIN_S)
                first.process.send_signal(signal.SIGTERM)
                with pytest.raises(subprocess.TimeoutExpired):
                    first.process.wait(0.5)
                go.set()
                assert first.process.wait(ENDS_WITHIN_S) == 0
        finally:
            go.set()
            receiver.shutdown()
        with served(tmp_path, *allowed) as second:
            _, shown = second.call("GET", "/deliveries/e:0:x")
            assert (shown["state"], shown["attempts"], shown["log"][0]["status"]) == ("delivered", 1, 204)
            assert second.stop() == 0


def test_the_scenarios_policies_can_be_named(tmp_path: Path) -> None:
    """With --scenario an endpoint may choose a policy of that file, as --set has changed it."""
    scenario = tmp_path / "own.yaml"
    scenario.write_text(
        "horizon: 1h\n"
        "producers: {p: {arrivals: {poisson: 1/s}}}\n"
        "endpoints: {e: {policy: ours, receiver: r}}\n"
        "policies: {ours: {schedule: [0s, 7s]}}\n"
        "receivers: {r: {latency: {constant: 0s}}}\n"
        "dispatcher: {workers: 2, ordering: key}\n"
    )
    changed = "policies.ours.schedule=[0s, 9s]"
    with served(tmp_path, "--scenario", str(scenario), "--set", changed, "--workers", "5") as running:
        body = {"id": "x", "url": "https://shop.example.com", "types": ["*"], "policy": "ours"}
        status, found = running.call("POST", "/endpoints", body)
        assert (status, found["policy"], found["ordering"]) == (201, "ours", "key")
        status, found = running.call("POST", "/endpoints", body | {"id": "y", "policy": "our"})
        assert "did you mean ours" in found["problems"][0]["rule"]
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--listen", "8080"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--listen", "::1:80"], "[::1]:8080"),
        (["--listen", "0.0.0.0:0"], "HOOKLAB_TOKEN"),
        (["--listen", "[::]:0"], "HOOKLAB_TOKEN"),
        (["--listen", "192.0.2.1:0"], "HOOKLAB_TOKEN"),
        (["--store", "mysql://x"], "sqlite:PATH"),
        (["--store", "sqlite:"], "sqlite:PATH"),
        (["--store", "sqlite:/nonexistent/folder/a.db"], "/nonexistent"),
        (["--retention", "30"], "30"),
        (["--synchronous", "fully"], "did you mean full"),
        (["--log-level", "inf"], "did you mean info"),
        (["--allow-network", "localhost"], "localhost"),
        (["--allow-port", "http"], "http"),
        (["--ca-file", "/nonexistent.pem"], "/nonexistent.pem"),
        (["--workers", "0"], "workers"),
        (["--set", "seed=1"], "--scenario"),
        (["--scenario", "dreamkass"], "dreamkas"),
        (["--tiers", "http://broker"], "amqp"),
    ],
)
def test_bad_options_are_refused(
    hooklab: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    word: str,
) -> None:
    """Exit code 2 and one clear line, without a traceback."""
    monkeypatch.delenv("HOOKLAB_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    code, out, err = hooklab(
        "serve", *(["--listen", "127.0.0.1:0"] if "--listen" not in options else []), *options
    )
    assert (code, out) == (2, "")
    assert word in err
    assert "Traceback" not in err


@pytest.mark.parametrize("token", ["short", "with a space", "ключ-от-двери"])
def test_a_token_that_cannot_be_sent_is_refused(
    hooklab: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """A token that is short or no visible ASCII is a mistake, and is not printed."""
    monkeypatch.setenv("HOOKLAB_TOKEN", token)
    code, _, err = hooklab("serve", "--listen", "127.0.0.1:0")
    assert code == 2
    assert "HOOKLAB_TOKEN" in err
    assert token not in err


def test_a_port_that_is_taken_is_told(
    hooklab: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and the address."""
    monkeypatch.delenv("HOOKLAB_TOKEN", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = hooklab("serve", "--listen", address, "--store", f"sqlite:{tmp_path / 'a.db'}")
    assert code == 2
    assert address in err


def test_help_imports_no_server() -> None:
    """``hooklab --help`` and ``hooklab serve --help`` answer without what only a running dispatcher needs."""
    heavy = ("starlette", "uvicorn", "pycurl", "prometheus_client", "orjson", "numba", "pandas", "locust")
    script = (
        "import sys; from loadtest.cli import main; main(['serve', '--help']);"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--listen" in done.stdout
    assert done.stderr.strip() == "[]"
