"""The inspector in a real browser, with a real dispatcher that sends: what people see, and what they switch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.browser import CONTRASTS, Browser
from tests.dispatchers import COMMAND, PATIENCE_S, ROOT, Dispatcher, dispatcher, until
from tests.pages import EVIL, assert_heard, assert_own, assert_readable, foreign_page

SLOWEST_S = 1
"""The timeout of the policy."""
POLICY = {"schedule": ["0s", "200ms", "400ms", "1h"], "timeout": f"{SLOWEST_S}s"}
PAGES = {
    "requests": "/",
    "filtered": "/?endpoint=e%3A0&mark=duplicate",
    "request": "/requests/1",
    "evil-request": "/requests/4",
    "faults": "/faults",
    "fault": "/faults/e%3A0",
    "missing": "/requests/12345",
}


class Stage:
    """A dispatcher, and the receivers that it sends to, with their inspector."""

    def __init__(self, served: Dispatcher, told: dict[str, Any], log: Path) -> None:
        self.served = served
        self.told = told
        self.log = log

    def at(self, path: str = "/") -> str:
        """The address of a page."""
        return f"{self.told['control']}{path}"

    def event(self, name: str, kind: str = "receipt.created", **fields: Any) -> None:
        """Post an event."""
        body = {"id": name, "type": kind, "key": "till-1", "data": {"sum": 12.5}} | fields
        status, told = self.served.call("POST", "/events", body)
        assert status == 202, told

    def delivery(self, name: str) -> dict[str, Any]:
        """A delivery as the dispatcher shows it."""
        found: dict[str, Any] = self.served.call("GET", f"/deliveries/{name}")[1]
        return found

    def switch(self, browser: Browser, name: str, fault: str, **fields: str) -> None:
        """Switch a fault by its form."""
        browser.open(self.at(f"/faults/{name}"))
        browser.choose("#fault", fault)
        for field, value in fields.items():
            browser.type(f"#{field}", value)
        browser.follow("form.form button.main")


@contextlib.contextmanager
def receiving(folder: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    """``hooklab receive --inspect`` as a process: what it told, and its log."""
    scenario, log = folder / "s.json", folder / "log"
    world = tiny.world(endpoints=tiny.endpoint(count=3), receivers=tiny.receiver("0s"), name="s")
    scenario.write_text(json.dumps(world))
    words = ["receive", str(scenario), "--json", "--log", str(log), "--inspect"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [COMMAND[0], "-W", "error", *COMMAND[1:], *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    ) as run:  # fmt: skip
        late = threading.Timer(PATIENCE_S, run.kill)
        late.start()
        try:
            assert run.stdout is not None
            printed = b""
            while not printed.endswith(b"\n}\n"):
                line = run.stdout.readline()
                assert line, run.communicate()
                printed += line
            late.cancel()
            yield json.loads(printed), log
            run.send_signal(signal.SIGTERM)
            _, problems = run.communicate(timeout=PATIENCE_S)
            assert run.returncode == 0, problems
        finally:
            late.cancel()
            run.kill()


@pytest.fixture(scope="module")
def stage(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One dispatcher and three endpoints: e:0 with things to be seen, the others for tests that change something."""
    folder = tmp_path_factory.mktemp("inspector")
    with receiving(folder) as (told, log), dispatcher(f"sqlite:{folder}/hooks.db") as served:
        made = Stage(served, told, log)
        for number in range(3):
            served.endpoint(
                told["endpoints"][f"e:{number}"], id=f"e:{number}", types=[f"for{number}.*"], policy=POLICY
            )
        for seq in range(3):
            made.event(f"shop:{seq}", "for0.receipt", seq=seq)
        until(lambda: made.delivery("shop:2:e:0").get("state"), lambda state: state == "delivered")
        made.event("evil:0", "for0.evil", key=EVIL, data=EVIL)
        until(lambda: made.delivery("evil:0:e:0").get("state"), lambda state: state == "delivered")
        yield made


def rows(browser: Browser) -> list[list[str]]:
    """The texts of the cells of the list of requests."""
    found: list[list[str]] = browser.evaluate(
        "[...document.querySelectorAll('table.requests tbody tr')].map(row => [...row.cells].map(c => c.innerText))"
    )
    return found


# --------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_read_and_heard(name: str, browser: Browser, stage: Stage) -> None:
    """In light and dark, on a phone and at a desk: text contrasts, nothing sticks out, and all has a name."""
    page = f"inspector-{name}"
    assert_readable(browser, stage.at(PAGES[name]), stage.at(), page, is_missing=name == "missing")
    assert_heard(browser)


def test_it_works_without_the_script(browser: Browser, stage: Stage) -> None:
    """With scripts switched off the list is there, its time stands beside it, and a link refreshes it."""
    browser.open(stage.at("/faults"))
    browser._call("Emulation.setScriptExecutionDisabled", value=True)
    browser.follow("nav a", scripts=False)
    assert browser.text("#live").startswith("as of ")
    before = len(rows(browser))
    stage.event("plain:0", "for0.more")
    until(lambda: stage.delivery("plain:0:e:0").get("state"), lambda state: state == "delivered")
    browser.follow("a.again", scripts=False)
    assert len(rows(browser)) == before + 1
    browser.follow("tbody a", scripts=False)
    assert "plain:0:e:0" in browser.text(".facts")


# --------------------------------------------------------------------------- what people do


def test_a_timeout_makes_a_duplicate_that_is_seen_and_understood(browser: Browser, stage: Stage) -> None:
    """Switched to answer slower than the policy waits, the delivery climbs its tiers, processed every time."""
    stage.switch(browser, "e:1", "slower", delay=f"{5 * SLOWEST_S}s")
    assert browser.text("#now") == f"answer slower by {5 * SLOWEST_S}s"
    browser.open(stage.at("/?endpoint=e%3A1"))
    browser.wait("document.querySelector('#live').textContent === 'live'")
    stage.event("slow:0", "for1.receipt")
    for attempt in (1, 2, 3):  # each appears on the page that is open
        browser.wait(f"document.querySelectorAll('table.requests tr[data-number]').length === {attempt}")
    assert [row[4] for row in rows(browser)] == ["3", "2", "1"]
    browser.wait("document.querySelectorAll('table.requests .mark.duplicate').length === 2")
    marks = [row[6] for row in rows(browser)]
    assert ["duplicate" in text for text in marks] == [True, True, False]
    assert all("switched by hand" in text for text in marks)
    attempts = until(lambda: stage.delivery("slow:0:e:1").get("log", []), lambda log: len(log) == 3)
    assert [each["outcome"] for each in attempts] == ["timed_out"] * 3
    assert_own(browser.visit(), stage.at())
    browser.picture("inspector-duplicates", 1200)

    browser.choose("#mark", "duplicate")
    browser.follow(".filters button")
    assert [row[4] for row in rows(browser)] == ["3", "2"]
    browser.follow("table.requests tbody a")
    first = browser.evaluate("document.querySelector('#of-delivery tbody tr').dataset.number")
    assert f"by #{first} at" in browser.text("#explained")
    assert browser.evaluate("document.querySelectorAll('#of-delivery tbody tr').length") == 3
    assert '"sum": 12.5' in browser.text("#body")
    assert "webhook-attempt: 3" in browser.text("pre")
    assert_own(browser.visit(), stage.at())
    browser.picture("inspector-duplicate", 1200)
    stage.switch(browser, "e:1", "scenario")
    assert browser.text("#now") == "as the scenario says"


def test_an_endpoint_is_switched_to_fail_and_back(browser: Browser, stage: Stage) -> None:
    """The next attempt fails, every page says why, the log holds it; switched back, the next one is delivered."""
    stage.switch(browser, "e:2", "status", status="99")
    assert "at least 200" in browser.text("#status-wrong")
    assert browser.evaluate("document.querySelector('#status').value") == "99"
    assert browser.evaluate(CONTRASTS)[0] >= 4.5
    browser.type("#status", "500")
    browser.follow("form.form button.main")
    assert browser.text("#now") == "answer always 500"
    for path in ("/", "/requests/1", "/faults", "/faults/e%3A2"):
        browser.open(stage.at(path))
        assert "figures no longer those of the scenario" in browser.text("#switched")
        assert "answer always 500" in browser.text("#switched")
    browser.open(stage.at("/?endpoint=e%3A2"))
    stage.event("fail:0", "for2.receipt")
    browser.wait("document.querySelectorAll('table.requests tr[data-number]').length > 0")
    row = rows(browser)[-1]
    assert (row[2], row[3], row[4], row[5]) == ("e:2", "fail:0:e:2", "1", "500")
    assert "switched by hand" in row[6]
    assert_own(browser.visit(), stage.at())
    attempts = until(lambda: stage.delivery("fail:0:e:2").get("log", []), bool)
    assert (attempts[0]["outcome"], attempts[0]["status"]) == ("rejected", 500)
    browser.picture("inspector-switched", 1200)

    stage.switch(browser, "e:2", "scenario")
    stage.event("fine:0", "for2.receipt")
    until(lambda: stage.delivery("fine:0:e:2").get("state"), lambda state: state == "delivered")
    kinds = until(
        lambda: [
            (line["endpoint"], line["to"])
            for line in map(json.loads, stage.log.read_text().splitlines())
            if line["kind"] == "switch" and line["endpoint"] == "e:2"
        ],
        lambda found: len(found) == 2,
    )
    assert kinds == [("e:2", "answer always 500"), ("e:2", "scenario")]


def test_the_keyboard_keeps_its_place_while_the_page_renews_itself(browser: Browser, stage: Stage) -> None:
    """A link that has the focus has it still when its table has been replaced."""
    browser.open(stage.at("/?endpoint=e%3A0"))
    browser.wait("document.querySelector('#live').textContent === 'live'")
    count = len(rows(browser))
    browser.evaluate("document.querySelector('tbody a[href=\"/requests/1\"]').focus()")
    stage.event("focus:0", "for0.more")
    browser.wait(f"document.querySelectorAll('table.requests tr[data-number]').length === {count + 1}")
    assert browser.evaluate("document.activeElement.getAttribute('href')") == "/requests/1"


# --------------------------------------------------------------------------- who must not do what


def test_evil_texts_do_nothing(browser: Browser, stage: Stage) -> None:
    """In keys and bodies: no dialog, no element and no script comes of them, and all is shown."""
    for path in ("/", "/requests/4"):
        visit = browser.open(stage.at(path))
        browser.wait("document.querySelector('#live').textContent === 'live'")
        assert_own(visit, stage.at())
        assert (
            browser.evaluate("document.querySelectorAll('[onerror], main img, main script, main b').length")
            == 0
        )
        assert browser.evaluate("document.scripts.length") == 1
        assert "1234321" not in browser.evaluate("document.documentElement.outerHTML")
    assert "<script>alert(2)</script>" in browser.text("#body")
    browser.picture("inspector-evil", 1200)


def test_another_origin_can_neither_switch_nor_frame(browser: Browser, stage: Stage) -> None:
    """A page of another port of this machine, which is the same site to a browser, changes and shows nothing."""
    with foreign_page() as other:
        browser.open(other)
        browser.evaluate(
            f"""(() => {{
              const form = document.createElement('form');
              form.id = 'foreign'; form.method = 'post'; form.action = {stage.at("/faults/e%3A0")!r};
              form.innerHTML = '<input name="fault" value="hang"><button>go</button>';
              document.body.append(form);
              const frame = document.createElement('iframe');
              frame.src = {stage.at()!r};
              document.body.append(frame);
            }})()"""
        )
        browser.follow("#foreign button")
        assert "pages of this inspector" in browser.text("main")
    browser.open(stage.at("/faults/e%3A0"))
    assert browser.text("#now") == "as the scenario says"
