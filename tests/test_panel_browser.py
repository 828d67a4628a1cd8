"""The panel in a real browser: what people do with it, what they see, and what evil texts must not do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.browser import CONTRASTS, Browser
from tests.dispatchers import Dispatcher, Receiver, dispatcher, receiver, until
from tests.pages import EVIL, WIDTHS, assert_heard, assert_own, assert_readable, foreign_page

TOKEN = "a-long-enough-token"
PATIENT = {"schedule": ["0s", "200ms", "500ms", "1s", "1h"], "timeout": "5s"}
PAGES = {
    "overview": "",
    "endpoints": "/endpoints",
    "endpoint": "/endpoints/shop:0",
    "new-endpoint": "/new-endpoint",
    "edit-endpoint": "/endpoints/shop:0/edit",
    "delete-endpoint": "/endpoints/shop:0/delete",
    "replay": "/endpoints/shop:0/replay",
    "deliveries": "/deliveries",
    "waiting-delivery": "/deliveries/till:1:shop:1",
    "delivered-delivery": "/deliveries/good:0:shop:1",
    "dead-letters": "/dead",
    "disabled-endpoints": "/endpoints?status=disabled",
    "missing": "/nowhere",
}


class Stage:
    """A dispatcher and a receiver that fails for all but ``good`` events, until it is told to be good."""

    def __init__(self, served: Dispatcher, hook: Receiver, good: threading.Event) -> None:
        self.served = served
        self.hook = hook
        self.good = good

    def at(self, path: str = "") -> str:
        """The address of a page."""
        return f"http://127.0.0.1:{self.served.port}/panel{path}"

    def event(self, name: str, **fields: Any) -> None:
        """Post an event."""
        body = {"id": name, "type": "receipt.created", "key": "till-1", "data": {"sum": 12.5}} | fields
        status, told = self.served.call("POST", "/events", body)
        assert status == 202, told

    def state(self, name: str) -> Any:
        """The state of a delivery."""
        return self.served.call("GET", f"/deliveries/{quote(name)}")[1].get("state")


@pytest.fixture(scope="module")
def stage(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One dispatcher with things to be seen; tests that change something use names of their own."""
    good = threading.Event()

    def answer(name: str, _attempt: int) -> int:
        return 200 if name.startswith("good") or good.is_set() else 503

    folder = tmp_path_factory.mktemp("panel")
    with receiver(answer) as hook, dispatcher(f"sqlite:{folder}/hooks.db") as served:
        made = Stage(served, hook, good)
        served.endpoint(
            hook.url,
            id="shop:0",
            types=["receipt.*"],
            description="The till of the first shop.",
            rate_limit="50/s",
        )
        served.endpoint(hook.url, id="shop:1", policy=PATIENT)
        once = {"schedule": ["0s"], "timeout": "5s", "disable": {"consecutive": 1, "rest": "hold"}}
        served.endpoint(hook.url, id="billing", types=["order.paid"], policy=once)
        served.endpoint(hook.url, id="archive", policy="dreamkas")
        served.call("POST", "/endpoints/archive/pause")
        kinds = ("receipt.created", "shift.closed", "order.paid")
        for number in range(12):
            made.event(f"good:{number}", type=kinds[number % 3], seq=number)
        for number in range(6):
            made.event(f"till:{number}", type=kinds[number % 3], seq=number)
        until(
            lambda: served.call("GET", "/endpoints/billing")[1]["status"], lambda status: status == "disabled"
        )
        until(lambda: served.call("GET", "/deliveries?state=dead")[1]["deliveries"], bool)
        until(lambda: served.call("GET", "/deliveries/till:1:shop:1")[1]["attempts"], lambda n: n == 4)
        until(lambda: made.state("good:0:shop:1"), lambda state: state == "delivered")
        yield made


# --------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_read(name: str, browser: Browser, stage: Stage) -> None:
    """In light and dark, on a phone and at a desk: text contrasts, and nothing sticks out or is too small."""
    assert_readable(browser, stage.at(PAGES[name]), stage.at(), name, is_missing=name == "missing")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_heard(name: str, browser: Browser, stage: Stage) -> None:
    """What assistive technology is told has a name, and headings begin with one of the first level."""
    browser.open(stage.at(PAGES[name]))
    assert {"main", "navigation", "heading"} <= assert_heard(browser)


def test_the_keyboard_goes_everywhere_and_is_seen(browser: Browser, stage: Stage) -> None:
    """The first key leads over the navigation, every stop has an outline, and none is left out."""
    browser.open(stage.at("/endpoints"))
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    stops = browser.evaluate(
        "document.querySelectorAll('a, button, input, select, [tabindex=\"0\"], summary').length"
    )
    seen = set()
    for number in range(stops):
        outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", browser.evaluate("document.activeElement.outerHTML")
        browser.evaluate(f"document.activeElement.dataset.stop ??= {number}")
        seen.add(browser.evaluate("document.activeElement.dataset.stop"))
        browser.press("Tab", 9)
    assert len(seen) == stops


def test_pages_work_without_the_script(browser: Browser, stage: Stage) -> None:
    """With scripts switched off the overview shows its figures, and says of when they are."""
    browser.open(stage.at("/nowhere"))
    browser._call("Emulation.setScriptExecutionDisabled", value=True)
    browser.follow("nav a", scripts=False)
    assert browser.text("h1") == "Overview"
    assert browser.text("#live").startswith("as of ")
    assert int(browser.text('[data-figure="waiting"]')) > 0
    assert "shop:1" not in browser.text("#tiers-heading")


# --------------------------------------------------------------------------- what people do


def figures(browser: Browser) -> dict[str, int]:
    """Deliveries of each tier, as the overview shows them now."""
    rows = browser.evaluate(
        "[...document.querySelectorAll('.tiers tbody tr')].map(row => [row.cells[0].innerText, row.cells[1].innerText])"
    )
    return {tier: int(count.replace(",", "")) for tier, count in rows}


def test_a_failing_delivery_is_watched_as_it_climbs(browser: Browser, stage: Stage) -> None:
    """The overview, open all the while, shows the delivery in one tier after the other, and the delivery its axis."""
    slow = {"schedule": ["0s", "3s", "3s", "1h"], "timeout": "5s"}
    stage.served.endpoint(stage.hook.url, id="climb:0", types=["climb"], policy=slow)
    browser.open(stage.at())
    browser.wait("document.querySelector('#live').textContent === 'live'")
    before = figures(browser)
    stage.event("bad:0", type="climb")
    for tier in ("2", "3", "4"):
        row = f"[...document.querySelectorAll('.tiers tbody tr')].find(row => row.cells[0].innerText === '{tier}')"
        browser.wait(f"+({row}?.cells[1].innerText ?? 0) === {before.get(tier, 0) + 1}")
    assert_own(browser.visit(), stage.at())
    browser.picture("climbing", 1200)
    visit = browser.open(stage.at("/deliveries/bad:0:climb:0"))
    assert browser.evaluate("document.querySelectorAll('.timeline g.bad').length") == 3
    assert browser.evaluate("document.querySelectorAll('.timeline g.due').length") == 1
    places = browser.evaluate(
        "[...document.querySelectorAll('.timeline g')].map(g => g.getBoundingClientRect().x)"
    )
    assert places == sorted(places)
    assert_own(visit, stage.at())
    stage.served.call("DELETE", "/endpoints/climb:0")


def test_an_endpoint_is_made_tested_changed_and_removed(browser: Browser, stage: Stage) -> None:
    """From the form to a delivered test event, all with mouse and keyboard."""
    browser.open(stage.at("/endpoints"))
    browser.follow('a[href$="/new-endpoint"]')
    browser.type("#id", "made:0")
    browser.type("#url", "ftp://127.0.0.1/")
    browser.type("#patterns", "made.*")
    browser.choose("#policy", "timepad")
    browser.click('input[name="types"][value="shift.closed"]')
    browser.follow("form.form button.main")
    assert "must begin with http:// or https://" in browser.text("#url-wrong")
    assert browser.evaluate("document.querySelector('#id').value") == "made:0"
    assert browser.evaluate("document.querySelector('input[value=\"shift.closed\"]').checked")
    browser.picture("wrong-field", 1200)
    browser.type("#url", f"{stage.hook.url}good")
    browser.follow("form.form button.main")
    assert browser.text("h1") == "made:0"
    secret = browser.text("#secret")
    assert secret.startswith("whsec_")
    browser.picture("secret", 1200)
    address = browser.evaluate("location.href")
    browser.open(address)
    assert secret not in browser.evaluate("document.documentElement.outerHTML")
    assert stage.served.call("GET", "/endpoints/made:0")[1]["types"] == ["shift.closed", "made.*"]

    stage.good.set()
    try:
        browser.follow('form[action$="/test"] button')
        name = browser.text("h1")
        assert name.endswith(":made:0")
        until(lambda: stage.state(name), lambda state: state == "delivered")
    finally:
        stage.good.clear()
    browser.open(stage.at(f"/deliveries/{quote(name, safe='')}"))
    assert browser.text(".head .state") == "delivered"

    browser.open(stage.at("/endpoints/made:0/edit"))
    browser.type("#rate_limit", "5/s")
    browser.click('input[value="shift.closed"]')
    browser.follow("form.form button.main")
    assert "5/s" in browser.text(".facts")
    assert "shift.closed" not in browser.text(".facts")
    browser.follow('form[action$="/pause"] button')
    assert browser.text(".head .state") == "paused"
    browser.follow('form[action$="/resume"] button')
    assert browser.text(".head .state") == "enabled"
    browser.follow('form[action$="/rotate-secret"] button')
    assert browser.text("#secret") != secret
    browser.follow('a[href$="/delete"]')
    browser.follow('form[action$="/delete"] button')
    assert "made:0 has been deleted" in browser.text(".notice")
    assert stage.served.call("GET", "/endpoints/made:0")[0] == 404


def test_a_dead_letter_is_resent(browser: Browser, stage: Stage) -> None:
    """Found by its filters, ticked, sent once more, and delivered with the next attempt number."""
    short = {"schedule": ["0s", "50ms"], "timeout": "5s"}
    stage.served.endpoint(stage.hook.url, id="resent:0", types=["resent"], policy=short)
    stage.event("gone:0", type="resent")
    until(lambda: stage.state("gone:0:resent:0"), lambda state: state == "dead")
    browser.open(stage.at("/dead"))
    browser.choose("#state", "dead")
    browser.type("#endpoint", "resent:0")
    browser.follow(".filters button")
    assert browser.evaluate("document.querySelectorAll('tbody tr').length") == 1
    stage.good.set()
    try:
        browser.click('tbody input[type="checkbox"]')
        browser.follow(".actions button.main")
        assert "1 of 1" in browser.text(".notice")
        until(lambda: stage.state("gone:0:resent:0"), lambda state: state == "delivered")
    finally:
        stage.good.clear()
    browser.open(stage.at("/deliveries/gone:0:resent:0"))
    assert browser.evaluate("[...document.querySelectorAll('tbody th')].map(th => th.innerText)") == [
        "3", "2", "1",
    ]  # fmt: skip
    browser.follow('form[action$="/resend"] button')
    until(lambda: stage.served.call("GET", "/deliveries/gone:0:resent:0")[1]["attempts"], lambda n: n == 4)


def test_deliveries_are_filtered(browser: Browser, stage: Stage) -> None:
    """The fields keep what was chosen, and the list holds only what fits."""
    browser.open(stage.at("/deliveries"))
    browser.choose("#state", "delivered")
    browser.type("#endpoint", "shop:1")
    browser.type("#type", "shift.closed")
    browser.follow(".filters button")
    rows = browser.evaluate(
        "[...document.querySelectorAll('tbody tr')].map(row => row.innerText.split('\\t'))"
    )
    assert len(rows) == 4
    assert {(row[1], row[2], row[3]) for row in rows} == {("delivered", "shop:1", "shift.closed")}
    kept = browser.evaluate("['state', 'endpoint', 'type'].map(id => document.getElementById(id).value)")
    assert kept == ["delivered", "shop:1", "shift.closed"]
    assert_own(browser.visit(), stage.at())


def test_a_disabled_endpoint_says_why_and_is_taken_back(browser: Browser, stage: Stage) -> None:
    """The reason stands on the overview, in the list and on its page."""
    browser.open(stage.at())
    assert "billing" in browser.text("[data-live=disabled]")
    assert "503" in browser.text("[data-live=disabled]")
    browser.open(stage.at("/endpoints?status=disabled"))
    assert browser.text("nav a[aria-current]") == "Disabled"
    assert "503" in browser.text("tbody")
    browser.follow("tbody a")
    assert "503" in browser.text(".notice")


def test_a_replay_is_written_in_the_form(browser: Browser, stage: Stage) -> None:
    """The proposed hour holds what was sent a moment ago."""
    stage.served.endpoint(stage.hook.url, id="replayed:0", types=["none"])
    stage.served.call("PATCH", "/endpoints/replayed:0", {"types": ["shift.closed"]})
    browser.open(stage.at("/endpoints/replayed:0"))
    browser.follow('a[href$="/replay"]')
    browser.follow("form.form button.main")
    assert "Replayed: 6 that it never got, 0 that were settled" in browser.text(".notice")
    stage.served.call("DELETE", "/endpoints/replayed:0")


# --------------------------------------------------------------------------- who must not do what


def test_evil_texts_do_nothing(browser: Browser, stage: Stage) -> None:
    """In names, types, keys, data and answers: no dialog, no element and no script comes of them, and all is shown."""
    name = EVIL.replace("/", "|")
    stage.served.endpoint(stage.hook.url, id=name, types=["evil.*", EVIL], description=EVIL, policy=PATIENT)
    stage.event(name, type=EVIL, key=EVIL, data=EVIL)
    both = quote(f"{name}:{name}", safe="")
    until(lambda: stage.state(f"{name}:{name}"), lambda state: state is not None)
    paths = ["", "/endpoints", "/deliveries", f"/deliveries?type={quote(EVIL)}", f"/deliveries/{both}"]
    paths += [f"/endpoints/{quote(name, safe='')}{page}" for page in ("", "/edit", "/delete", "/replay")]
    for path in paths:
        visit = browser.open(stage.at(path))
        assert_own(visit, stage.at())
        outside = "document.querySelectorAll('[onerror], main img, main script, main b').length"
        assert browser.evaluate(outside) == 0, path
        assert browser.evaluate("document.scripts.length") == (1 if path == "" else 0)
        html = browser.evaluate("document.documentElement.outerHTML")
        assert "1234321" not in html
        if path and "type=" not in path:
            assert name in browser.evaluate(
                "document.body.innerText + [...document.querySelectorAll('input, textarea')].map(i => i.value)"
            ), path
    browser.open(stage.at(f"/deliveries/{both}"))
    assert "<script>alert(2)</script>" in browser.text("pre.wrap")
    browser.picture("evil", 1200)
    browser.open(stage.at())
    browser.wait("document.querySelector('#live').textContent === 'live'")
    stage.served.call("DELETE", f"/endpoints/{quote(name, safe='')}")


def test_another_origin_can_neither_send_forms_nor_frame_the_panel(browser: Browser, stage: Stage) -> None:
    """A page of another port of this machine, which is the same site to a browser, changes and shows nothing."""
    stage.served.endpoint(stage.hook.url, id="victim:0", types=["none"])
    with foreign_page() as other:
        browser.open(other)
        browser.evaluate(
            f"""(() => {{
              const form = document.createElement('form');
              form.id = 'foreign'; form.method = 'post'; form.action = {stage.at("/endpoints/victim:0/delete")!r};
              form.innerHTML = '<button>go</button>';
              document.body.append(form);
              const frame = document.createElement('iframe');
              frame.src = {stage.at()!r};
              document.body.append(frame);
            }})()"""
        )
        browser.follow("#foreign button")
        assert "pages of this panel" in browser.text("main")
    assert stage.served.call("GET", "/endpoints/victim:0")[0] == 200
    assert any("frame-ancestors" in said or "X-Frame" in said for said in browser.visit().console)


def test_one_logs_in_and_out(browser: Browser, tmp_path: Path) -> None:
    """A wrong token, the right one, back to the page that was asked for, live figures, and out again."""
    with dispatcher(f"sqlite:{tmp_path}/hooks.db", token=TOKEN) as served:
        start = f"http://127.0.0.1:{served.port}/panel"
        visit = browser.open(f"{start}/deliveries?state=dead")
        assert visit.console == []
        assert browser.text("h1") == "Log in"
        assert browser.evaluate("document.activeElement.id") == "token"
        for width in WIDTHS:
            browser.resize(width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            browser.picture("login", width)
        browser.type("#token", "not-the-token")
        browser.press("Enter", 13)
        browser.wait("document.querySelector('#token-wrong') !== null")
        assert browser.evaluate(CONTRASTS)[0] >= 4.5
        browser.type("#token", TOKEN)
        browser.follow("main button")
        assert browser.evaluate("location.pathname + location.search") == "/panel/deliveries?state=dead"
        assert browser.evaluate("document.cookie") == ""
        browser.follow("nav a")
        browser.wait("document.querySelector('#live').textContent === 'live'")
        assert browser.evaluate("fetch('/deliveries').then(answer => answer.status)") == 401
        browser.follow('form[action$="/logout"] button')
        assert browser.text("h1") == "Log in"
        browser.open(start)
        assert browser.text("h1") == "Log in"
