"""A real headless Chromium for tests, driven through its DevTools protocol over a pipe: no driver, no port.

``chromium()`` finds it; ``Browser`` opens pages and tells what they said, asked for and hold. The protocol is
JSON with a zero byte after each message (``--remote-debugging-pipe``); the commands used are in its stable part.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
PATIENCE_S = 60.0
"""How long a browser may take for anything: only a broken one takes so long."""
_LAUNCH = """
import os, sys
read, write, *command = sys.argv[1:]
os.dup2(int(read), 3)
os.dup2(int(write), 4)
os.execv(command[0], command)
"""
"""The browser reads from its descriptor 3 and writes to its descriptor 4."""

PICTURES = "[...document.images].map(i => i.complete && i.naturalWidth > 100)"
"""For ``Browser.evaluate``: for every picture of a page, whether it is drawn."""
CONTRAST = """
(() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const bright = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const ground = bright(getComputedStyle(document.body).backgroundColor);
  const inks = ['h1', 'td', 'caption', 'figcaption', 'footer', 'a']
    .map(tag => bright(getComputedStyle(document.querySelector(tag)).color));
  return [ground, Math.min(...inks.map(ink =>
    (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05)))];
})()
"""
"""For ``Browser.evaluate``: the brightness of a page's ground, and the least contrast of its text with it."""


def chromium() -> str:
    """The path of a Chromium; without one the test is skipped, or fails where services are required."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    message = f"there is no Chromium here (none of {', '.join(NAMES)}); on Debian: apt install chromium"
    if os.environ.get("HOOKLAB_REQUIRE_SERVICES") == "1":
        pytest.fail(message)
    pytest.skip(message)


@dataclass
class Visit:
    """What a page did while it was opened."""

    console: list[str] = field(default_factory=list)
    """Messages on its console, errors of scripts, and what the browser refused to do for it."""
    requests: list[str] = field(default_factory=list)
    """Addresses that it asked for, its own included."""


def assert_quiet(visit: Visit, address: str) -> None:
    """A page said nothing on its console, and asked for nothing but itself and what it holds."""
    assert visit.console == []
    assert address in visit.requests
    assert all(url == address or url.startswith("data:") for url in visit.requests)


class Browser:
    """A browser with a fresh profile in a folder; a context manager."""

    def __init__(self, path: str, profile: Path) -> None:
        ours_read, theirs_write = self._pipe()
        theirs_read, ours_write = self._pipe()
        command = [path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}"]
        command += ["--remote-debugging-pipe", "about:blank"]
        launch = [sys.executable, "-c", _LAUNCH, str(theirs_read), str(theirs_write), *command]
        self._process = subprocess.Popen(
            launch, pass_fds=(theirs_read, theirs_write), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_read)
        os.close(theirs_write)
        self._from, self._to = ours_read, ours_write
        self._received = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session = ""

    @staticmethod
    def _pipe() -> tuple[int, int]:
        """A pipe whose descriptors are above those that the browser gets."""
        low = os.pipe()
        high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
        for end in low:
            os.close(end)
        return high[0], high[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (self._from, self._to):
            os.close(end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    # ------------------------------------------------------------------ what tests ask for

    def open(self, address: str, **media: str) -> Visit:
        """Open an address in a new tab, with media features such as ``prefers_color_scheme="dark"``."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self._call("Emulation.setEmulatedMedia", features=features)
        self._events.clear()
        self._call("Page.navigate", url=address)
        self._until("Page.loadEventFired")
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        visit = Visit()
        for event in self._events:
            said = event["params"]
            if event["method"] == "Runtime.consoleAPICalled":
                visit.console.append(str(said["args"]))
            elif event["method"] == "Runtime.exceptionThrown":
                visit.console.append(str(said["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                visit.console.append(str(said["entry"]))
            elif event["method"] == "Network.requestWillBeSent":
                visit.requests.append(said["request"]["url"])
        return visit

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 800) -> None:
        """Give the window a size, px."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def accessibility(self) -> list[dict[str, Any]]:
        """The page as assistive technology sees it: nodes with role and name."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            {"role": node["role"]["value"], "name": node.get("name", {}).get("value", "")}
            for node in nodes
            if not node["ignored"]
        ]

    def pdf(self) -> bytes:
        """The page as it is printed, as base64."""
        return str(self._call("Page.printToPDF", printBackground=False)["data"]).encode()

    # ------------------------------------------------------------------ the protocol

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        if method.startswith("Target."):
            message.pop("sessionId", None)
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _until(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._next()

    def _next(self) -> dict[str, Any]:
        """The next message; events of the open tab are kept."""
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(end - time.monotonic(), 0))
            assert ready, f"the browser has said nothing for {PATIENCE_S:g} s"
            part = os.read(self._from, 2**20)
            assert part, "the browser has ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        if "method" in answer and answer.get("sessionId") == self._session:
            self._events.append(answer)
        return answer
