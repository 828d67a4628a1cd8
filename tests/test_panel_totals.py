"""How many deliveries have ended, by state: on the overview, with the ways to their lists, without the script."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest.dispatcher.panel_live import Live
from loadtest.dispatcher.panel_pages import ROOT, ends, parts
from loadtest.dispatcher.records import Filter, NewDelivery, NewEvent
from loadtest.dispatcher.store import StoreUnavailableError
from sim.policy import DEAD, DROPPED, EXPIRED, LOST, STATE_DELIVERED, STATES, VANISHED, WAITING
from tests.api_calls import Caller, dispatcher, run
from tests.browser import Browser
from tests.dispatchers import dispatcher as process
from tests.dispatchers import receiver

COUNTS = {STATE_DELIVERED: 4, DEAD: 3, EXPIRED: 2, VANISHED: 1}
"""How many deliveries end so; none is dropped."""
LATER = 2**61
"""In 2043."""


class Table(HTMLParser):
    """The rows of the table that has the totals, as texts, with their links, and the headings' scopes."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.scopes: list[str | None] = []
        self.caption = ""
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A row, cell or link begins."""
        given = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td", "caption"):
            self._cell = []
        if tag == "th":
            self.scopes.append(given.get("scope"))
        if tag == "a":
            self.links.append(str(given["href"]))

    def handle_endtag(self, tag: str) -> None:
        """A cell ends."""
        if tag not in ("th", "td", "caption") or self._cell is None:
            return
        text = " ".join("".join(self._cell).split())
        if tag == "caption":
            self.caption = text
        else:
            self.rows[-1].append(text)
        self._cell = None

    def handle_data(self, data: str) -> None:
        """Text of a cell."""
        if self._cell is not None:
            self._cell.append(data)


def table(html: str) -> Table:
    """The table of the totals in a page or in its part."""
    _, _, rest = html.partition('data-live="ends">')
    found = Table()
    found.feed((rest or html).partition("</table>")[0])
    return found


async def fill(call: Caller) -> None:
    """Deliveries that have ended as ``COUNTS`` says, and two that wait for long."""
    await call.endpoint(types=["*"])
    (endpoint,) = await call.api.store.endpoints()
    states = [state for state, count in COUNTS.items() for _ in range(count)] + [WAITING] * 2
    await call.api.store.add(
        [
            NewEvent(
                f"till:{number}", b"x", "receipt.created", "k", -1, 1, 1, b"{}", "", "",
                (NewDelivery(endpoint.number, LATER if state == WAITING else 1, None, state),),
            )
            for number, state in enumerate(states)
        ]
    )  # fmt: skip


async def page(call: Caller, path: str = ROOT) -> str:
    """A page that is there."""
    reply = await call("GET", path)
    assert reply.status == 200
    return reply.body.decode()


def test_the_overview_counts_deliveries_by_final_state(tmp_path: Path) -> None:
    """Each final state has its row, those without deliveries too; what waits is none of them."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await fill(call)
            found = table(await page(call))
            counts = {row[0]: row[1] for row in found.rows[1:]}
            assert counts == {
                "delivered": "4",
                "dead": "3",
                "expired": "2",
                "dropped": "0",
                "vanished": "1",
                "Given up in all": "6",
            }
            assert found.caption
            assert found.rows[0] == ["State", "Deliveries", "List"]
            assert found.scopes == ["col"] * 3 + ["row"] * 6

    run(work())


def test_each_count_leads_to_the_list_of_just_these_deliveries(tmp_path: Path) -> None:
    """As many rows stand behind a link as its count says."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await fill(call)
            found = table(await page(call))
            for (_, count, _), link in zip(found.rows[1:], found.links, strict=True):
                listed = await page(call, link)
                assert listed.count('<th scope="row">') == int(count), link

    run(work())


def test_counts_are_told_live_as_they_change(tmp_path: Path) -> None:
    """A later reading counts what has ended since; nothing else of the table differs."""

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await fill(call)
            live = Live(call.api, 0.0)
            before = table(parts(await live.reading())["ends"])
            (waiting, *_) = await call.api.store.deliveries(Filter(states=(WAITING,)))
            assert await call.api.store.cancel(waiting.number, DROPPED, 0, 2)
            after = table(parts(await live.reading())["ends"])
            changed = [row for row in after.rows if row not in before.rows]
            assert [row[:2] for row in changed] == [["dropped", "1"], ["Given up in all", "7"]]
            assert after.links == before.links

    run(work())


def test_without_its_store_the_overview_says_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No count is shown rather than a wrong one, and the page comes all the same."""

    async def away() -> None:
        raise StoreUnavailableError("the disk is full")

    async def work() -> None:
        async with dispatcher(tmp_path) as call:
            await fill(call)
            monkeypatch.setattr(call.api.store, "totals", away)
            html = await page(call)
            assert "how many have ended is not known" in html
            assert "data-total" not in html

    run(work())


def test_every_final_state_has_its_count_and_its_list() -> None:
    """Dead letters are those that were given up; what waits or is under way has not ended."""
    found = ends({WAITING: 9, **COUNTS})
    assert [each.state for each in found] == [STATES[STATE_DELIVERED], *LOST]
    assert [each.count for each in found] == [4, 3, 2, 0, 1]
    assert {each.path.partition("?")[0] for each in found if each.state in LOST} == {"/dead"}


def test_a_link_keeps_the_focus_while_the_counts_change(browser: Browser, tmp_path: Path) -> None:
    """Who is at a link with the keyboard stays there; the new counts come when the focus has left the table."""
    total = "document.querySelector('[data-total=\"delivered\"]').innerText"
    with receiver(lambda _name, _attempt: 200) as hook, process(f"sqlite:{tmp_path}/hooks.db") as served:
        served.endpoint(hook.url, id="shop:0", types=["*"])
        browser.open(f"http://127.0.0.1:{served.port}{ROOT}")
        browser.wait("document.getElementById('live').dataset.state === 'on'")
        browser.evaluate("(window.link = document.querySelector('[data-live=\"ends\"] a')).focus()")
        body = {"id": "till:1", "type": "receipt.created", "key": "till-1", "data": {"sum": 1}}
        assert served.call("POST", "/events", body)[0] == 202
        browser.wait("parseFloat(document.querySelector('[data-figure=\"attempts\"]').innerText) > 0")
        assert browser.evaluate("document.activeElement === window.link && window.link.isConnected")
        assert browser.evaluate(total) == "0"
        browser.evaluate("window.link.blur()")
        assert browser.wait(f"{total} !== '0' && {total}") == "1"
