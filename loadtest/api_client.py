"""Calling a dispatcher's API, or the control port of receivers: plain blocking sockets, in threads or under gevent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
import urllib3

from sim.errors import Problem, ScenarioError

TIMEOUT_S = 30.0


class UnreachableError(ScenarioError):
    """Nobody answers."""


class ApiClient:
    """A caller with kept connections. What could not be had is never asked for again silently.

    Args:
        url: of a server, without a path.
        token: sent as a bearer's; empty: none.

    Raises:
        ScenarioError: the URL is none.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url = require_url(url)
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=TIMEOUT_S))

    def body(self, method: str, path: str, sent: object = None, good: Sequence[int] = (200,)) -> bytes:
        """The body that a request is answered with; what is ``sent`` goes as JSON.

        Raises:
            UnreachableError: nobody answers.
            ScenarioError: the answer has another status than the good ones.
        """
        headers, data = self._headers, None
        if sent is not None:
            headers, data = {**headers, "content-type": "application/json"}, orjson.dumps(sent)
        try:
            answer = self._pool.request(method, self.url + path, body=data, headers=headers)
            body: bytes = answer.data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(f"{self.url} cannot be reached: {_reason(error)}") from None
        if answer.status not in good:
            where = f"{method} {self.url}{path.partition('?')[0]}"
            raise ScenarioError(f"{where} answers {answer.status}{_why(answer.status, body)}")
        return body

    def call(self, method: str, path: str, sent: object = None, good: Sequence[int] = (200,)) -> Any:
        """The JSON that a request is answered with; raises as ``body``."""
        return orjson.loads(self.body(method, path, sent, good))

    def close(self) -> None:
        """Close its connections."""
        self._pool.clear()


def require_url(text: str) -> str:
    """A URL without a path at its end.

    Raises:
        ScenarioError: it is none of a server.
    """
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        good = False
    if not good or parts.query or parts.fragment or any(each.isspace() for each in text):
        raise ScenarioError([Problem("url", text, "must be a URL such as http://127.0.0.1:8080")])
    return text.rstrip("/")


def _reason(error: Exception) -> str:
    """What an error of urllib3 says, without the address of an object."""
    text = str(error)
    return text.partition(">: ")[2] or text.rpartition("): ")[2] or text


def _why(status: int, body: bytes) -> str:
    """What to say of a refusal."""
    if status == 401:
        return ": it wants its token; give it by --token or HOOKLAB_TOKEN"
    try:
        told = orjson.loads(body).get("error", "")
    except (orjson.JSONDecodeError, AttributeError):
        told = ""
    if isinstance(told, str) and told:
        return f": {told}"
    return "; is it a hooklab dispatcher?" if status == 404 else ""
