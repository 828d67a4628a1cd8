"""What a task of Celery or dramatiq does in the benchmark: one signed POST on a kept connection.

The body is made before the clock runs, and there are no results and no log of attempts. The client is the requests
library, as in the guides of both, or urllib3 itself on kept connections, which burdens a rival with nothing.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import requests
import urllib3
from standardwebhooks import Webhook

AMQP = os.environ.get("RIVAL_AMQP", "amqp://guest:guest@127.0.0.1:5672/")
QUEUE = os.environ.get("RIVAL_QUEUE", "hooklab-rival")
QUEUE_TYPE = "quorum"
"""The type of queue that survives a broker's death in mid-work: what ``--tiers`` uses, too."""

AS_IN_GUIDE = bool(os.environ.get("RIVAL_AS_IN_GUIDE"))
TIMEOUT_S = 5.0
SIGNER = Webhook(base64.b64encode(b"k" * 32).decode())
CLIENT = urllib3.PoolManager(maxsize=64, timeout=TIMEOUT_S, retries=False)


class RefusedError(Exception):
    """The receiver did not answer 2xx: the task is to be tried again."""


def deliver(url: str, identity: str, body: str) -> None:
    """Sign and send one message; raises what makes the library try again."""
    now = datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "webhook-id": identity,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": SIGNER.sign(identity, now, body),
    }
    if AS_IN_GUIDE:
        status = requests.post(url, data=body.encode(), headers=headers, timeout=TIMEOUT_S).status_code
    else:
        status = CLIENT.request("POST", url, body=body.encode(), headers=headers).status
    if status >= 300:
        raise RefusedError(status)


def body_of(number: int) -> str:
    """The same bytes that the dispatcher sends for event ``number`` of ``lean_http.request``."""
    event = {
        "id": f"p:{number}",
        "type": "order.changed",
        "key": str(number % 97),
        "seq": None,
        "occurred_at": "2026-01-01T00:00:00.000000Z",
        "data": {"n": number, "text": "x" * 200},
    }
    return json.dumps(event, separators=(",", ":"))


def enqueue(send: Callable[[str, str, str], object], url: str, total: int, first: int, threads: int) -> None:
    """Send ``total`` tasks from several threads, each confirmed by the broker, and print what it took."""
    bodies = [(f"p:{n}:group:0", body_of(n)) for n in range(first, first + total)]

    def some(mine: list[tuple[str, str]]) -> None:
        for identity, body in mine:
            send(url, identity, body)

    workers = [threading.Thread(target=some, args=(bodies[at::threads],)) for at in range(threads)]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": time.monotonic() - started, "refused": [], "cpu_s": cpu_s}), flush=True)
