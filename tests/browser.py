"""A real headless Chromium for tests, driven through its DevTools protocol over a pipe: no driver, no port.

``chromium()`` finds it; ``Browser`` opens pages, uses them with mouse and keyboard, and tells what they said, asked
for and hold. With ``HOOKLAB_SCREENSHOTS=FOLDER`` it keeps pictures of them there. The protocol is JSON with a zero
byte after each message (``--remote-debugging-pipe``); the commands used are in its stable part.
"""

from __future__ import annotations

import base64
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

SCREENSHOTS = "HOOKLAB_SCREENSHOTS"
"""Names a folder for pictures of pages."""
_MESSAGES = {
    "Runtime.consoleAPICalled": "args",
    "Runtime.exceptionThrown": "exceptionDetails",
    "Log.entryAdded": "entry",
    "Page.javascriptDialogOpening": "message",
}
"""What a page says, and which part of it is the message."""

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


CONTRASTS = """
(() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const bright = text => {
    const [r, g, b] = parts(text);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const ground = one => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  for (const one of document.body.querySelectorAll('*')) {
    const words = [...one.childNodes].filter(n => n.nodeType === 3 && n.data.trim()).length;
    if (!words && !['INPUT', 'TEXTAREA'].includes(one.tagName)) continue;
    if (!one.getClientRects().length) continue;
    const style = getComputedStyle(one);
    const [ink, paper] = [one.closest('svg') ? style.fill : style.color, ground(one)].map(bright);
    found.push([(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), one.outerHTML.slice(0, 80)]);
  }
  return found.sort((a, b) => a[0] - b[0])[0];
})()
"""
"""For ``Browser.evaluate``: the least contrast of any text with what lies behind it, and where that is."""


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
    """Messages on its console, errors of scripts, dialogs, and what the browser refused to do for it."""
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
        self._target = ""

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
        before, self._target = self._target, self._call("Target.createTarget", url="about:blank")["targetId"]
        if before:  # or else its streams would go on
            self._call("Target.closeTarget", targetId=before)
        self._session = self._call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self._call("Emulation.setEmulatedMedia", features=features)
        self._events.clear()
        self._call("Page.navigate", url=address)
        self._loaded(0)
        return self.visit()

    def visit(self) -> Visit:
        """What the open tab has done since it was opened, the pages that it went on to included."""
        visit = Visit()
        for event in self._events:
            method, said = event["method"], event["params"]
            if method in _MESSAGES:
                visit.console.append(str(said[_MESSAGES[method]]))
            elif method == "Network.requestWillBeSent":
                visit.requests.append(said["request"]["url"])
        return visit

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """Evaluate until the value is true, and give it; fails when that takes too long."""
        end = time.monotonic() + PATIENCE_S
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, (script, self.evaluate("document.body.innerText"))
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        x, y = self.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const box = one.getClientRects()[0]; return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def follow(self, selector: str, *, scripts: bool = True) -> None:
        """Click what leads to another page, and wait until that is there (without ``scripts``: loaded, at least)."""
        since = len(self._events)
        self.click(selector)
        self._loaded(since, scripts)

    def type(self, selector: str, text: str) -> None:
        """Write a text into a field, instead of what stands there."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self._call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose an entry of a list."""
        chosen = self.evaluate(
            f"(() => {{ const list = document.querySelector({json.dumps(selector)});"
            f" list.value = {json.dumps(value)}; list.dispatchEvent(new Event('change')); return list.value; }})()"
        )
        assert chosen == value

    def text(self, selector: str = "main") -> str:
        """The text of an element as it is shown."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def picture(self, name: str, width: int) -> None:
        """Keep a picture of the whole page in the folder for them, if there is one."""
        folder = os.environ.get(SCREENSHOTS)
        if folder:
            self.resize(width)
            self.resize(width, max(int(self.evaluate("document.documentElement.scrollHeight")), 400))
            data = self._call("Page.captureScreenshot", format="png")["data"]
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, f"{name}-{width}.png").write_bytes(base64.b64decode(data))

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
        text = {"text": "\r"} if key == "Enter" else {}
        for kind, more in (("keyDown", text), ("keyUp", {})):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more
            )

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

    def _loaded(self, since: int, scripts: bool = True) -> None:
        """Wait until a page has been loaded, and drawn once."""
        while not any(event["method"] == "Page.loadEventFired" for event in self._events[since:]):
            self._next()
        if scripts:
            self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = self._ask(method, **parameters)
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _ask(self, method: str, **parameters: Any) -> int:
        """Send a command; its number."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        if method.startswith("Target."):
            message.pop("sessionId", None)
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._number

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
            if answer["method"] == "Page.javascriptDialogOpening":  # or else the page would stand still
                self._ask("Page.handleJavaScriptDialog", accept=True)
        return answer
