"""What every page for people must be, the dispatcher's and the receivers': readable, heard, and by itself."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

from tests.browser import CONTRASTS, Browser, Visit

EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'>{{1111*1111}}&lt;b&gt;"
WIDTHS = (360, 1200)
OVERFLOW = """
[...document.querySelectorAll('main *')].filter(one => !one.closest('.wide, pre, .boxes, .hidden, svg')
  && one.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(one => one.outerHTML.slice(0, 100))
"""
"""Elements that stick out of the window, but for those in a place that scrolls."""
SMALL = """
[...document.querySelectorAll('button, .button, input:not([type=hidden], [type=checkbox]), select, nav a, summary')]
  .filter(one => one.getClientRects().length && one.getBoundingClientRect().height < 24)
  .map(one => one.outerHTML.slice(0, 100))
"""
"""What a finger would miss; checkboxes are smaller, but the lines they stand in are not."""


def assert_own(visit: Visit, origin: str) -> None:
    """Nothing was said on the console, no dialog came, and nothing was asked for elsewhere."""
    assert visit.console == []
    assert all(url.startswith((origin, "data:")) for url in visit.requests), visit.requests


def assert_readable(
    browser: Browser, address: str, origin: str, name: str, *, is_missing: bool = False
) -> None:
    """In light and dark, on a phone and at a desk: text contrasts, and nothing sticks out or is too small.

    ``name``: of the pictures; ``is_missing``: the page is none, of which a browser says so on its console.
    """
    for scheme in ("light", "dark"):
        visit = browser.open(address, prefers_color_scheme=scheme)
        if not is_missing:
            assert_own(visit, origin)
        for width in WIDTHS:
            browser.resize(width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, (scheme, width)
            assert browser.evaluate(OVERFLOW) == [], (scheme, width)
            assert browser.evaluate(SMALL) == [], (scheme, width)
            browser.picture(f"{name}-{scheme}", width)
        contrast, where = browser.evaluate(CONTRASTS)
        assert contrast >= 4.5, (scheme, where)


NAMED = (
    *("button", "link", "textbox", "combobox", "checkbox", "searchbox"),
    *("image", "table", "region", "navigation", "heading"),
)
"""Roles of what assistive technology must be told a name of."""


def assert_heard(browser: Browser) -> set[str]:
    """What assistive technology is told has a name, headings begin with one of the first level, ids are no two's.

    The roles that there are.
    """
    nodes = browser.accessibility()
    for role in NAMED:
        assert all(node["name"] for node in nodes if node["role"] == role), role
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    ids = browser.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))
    return {node["role"] for node in nodes}


@contextlib.contextmanager
def foreign_page() -> Iterator[str]:
    """The address of an empty page of another port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!doctype html><title>other</title><link rel=icon href='data:,'><body>"
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
