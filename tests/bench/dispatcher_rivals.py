"""Celery and dramatiq as processes, in a few configurations each.

Two are as their guides show them: the default pool and sizes, the default middleware, the requests library. The
others are stripped of all that costs. Prefetch counts and the number of producer threads are plausible, not tuned.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOW_TO_INSTALL = "pip install 'hooklab[rivals]' (or into another environment, and --rivals ITS_PYTHON)"
PRODUCER_THREADS = 4


@dataclass(frozen=True)
class Rival:
    """A library, and the command of its workers."""

    name: str
    library: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    as_in_guide: bool = False

    @property
    def script(self) -> str:
        """The module with the task."""
        return f"rival_{self.library}"

    def start(self, python: str, amqp: str) -> Running:
        """Start the workers on a queue of their own."""
        return Running(self, python, amqp)


def celery(name: str, *options: str) -> Rival:
    """Celery with some options."""
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "error")
    return Rival(
        f"celery, {name}", "celery", ("-m", "celery", "-A", "rival_celery", "worker", *quiet, *options)
    )


def as_in_guide(rival: Rival) -> Rival:
    """The same with its library's usual middleware and the usual HTTP client."""
    environment = (*rival.environment, ("RIVAL_AS_IN_GUIDE", "1"))
    return replace(rival, name=f"{rival.name}, usual", environment=environment, as_in_guide=True)


def dramatiq(processes: int, threads: int) -> Rival:
    """Dramatiq with so many processes and threads."""
    size = ("--processes", str(processes), "--threads", str(threads), "--skip-logging")
    return Rival(
        f"dramatiq, {processes} × {threads} threads",
        "dramatiq",
        ("-m", "dramatiq", "rival_dramatiq", *size),
        (("dramatiq_queue_prefetch", "64"),),
    )


RIVALS = (
    celery("prefork 2", "--pool", "prefork", "--concurrency", "2"),
    celery("threads 8", "--pool", "threads", "--concurrency", "8"),
    dramatiq(1, 8),
    dramatiq(2, 8),
    as_in_guide(celery("prefork 2", "--pool", "prefork", "--concurrency", "2")),
    as_in_guide(dramatiq(2, 8)),
)


class Running:
    """The workers of a rival, and its producer."""

    def __init__(self, rival: Rival, python: str, amqp: str) -> None:
        self.rival = rival
        self.python = python
        self.environment = {
            **os.environ,
            **dict(rival.environment),
            "RIVAL_AMQP": amqp,
            "RIVAL_QUEUE": f"hooklab-rival-{secrets.token_hex(4)}",
            "PYTHONPATH": str(HERE),
            "C_FORCE_ROOT": "1",
        }
        self.process = subprocess.Popen(
            [python, *rival.command],
            cwd=HERE,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _script(self, *arguments: object) -> str:
        command = [self.python, str(HERE / f"{self.rival.script}.py"), *map(str, arguments)]
        run = subprocess.run(
            command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True, timeout=300
        )
        return run.stdout

    def post(self, url: str, total: int, first: int) -> dict[str, Any]:
        """Hand tasks in from a process of its own; what it took."""
        told: dict[str, Any] = json.loads(self._script("post", url, total, first, PRODUCER_THREADS))
        return told

    def stop(self) -> None:
        """End the workers and delete their queues."""
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)
        self._script("clear")


def importable(python: str, library: str) -> bool:
    """Whether an interpreter has a library, and what the task needs."""
    command = [python, "-c", f"import {library}, requests, standardwebhooks, urllib3"]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
