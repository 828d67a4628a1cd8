"""Child processes of a load test: started with a log each, watched, and always stopped, by their process id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from sim.errors import ScenarioError

HOOKLAB = (sys.executable, "-c", "import sys; from loadtest.cli import main; sys.exit(main())")
"""The command ``hooklab``, of this very installation."""
STOP_S = 15.0
"""How long a process may take to end in good order."""
LOOK_EVERY_S = 0.05
TOLD = 5
"""Last lines of a log that are told when a process fails."""


class Child:
    """A process in a session of its own, so that Ctrl-C reaches only who started it.

    Args:
        name: what to call it.
        arguments: the command.
        log: file of what it prints.
        environment: of the process.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def told(self) -> str:
        """How it ended, with the last lines that it printed."""
        lines = [line for line in self.text.splitlines() if line.strip()][-TOLD:]
        return f"{self.name} ended with code {self.code}" + (": " + " | ".join(lines) if lines else "")

    def wait_for(self, ready: Callable[[], bool], what: str, patience_s: float) -> None:
        """Wait until something is so.

        Raises:
            ScenarioError: the process ended, or it was not so within the patience.
        """
        end = time.monotonic() + patience_s
        while not ready():
            if self.code is not None:
                raise ScenarioError(self.told())
            if time.monotonic() > end:
                raise ScenarioError(
                    f"{self.name} {what} within {patience_s:g} s; its log: {self.text[-500:]}"
                )
            time.sleep(LOOK_EVERY_S)

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.code is None:
            self._process.send_signal(number)

    def stop(self, patience_s: float = STOP_S) -> int:
        """End it in good order, or, after the patience, at once; whatever it has started goes with it."""
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._end_group()
        return self._process.wait()

    def _end_group(self) -> None:
        """End what is left of its session: its own children, and itself."""
        if sys.platform == "win32":
            self._process.kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class Children:
    """The processes of a load test; leaving the context stops all of them, the last first."""

    def __init__(self) -> None:
        self.all: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self.all):
            child.signal(signal.SIGTERM)
        for child in reversed(self.all):
            child.stop()

    def start(
        self, name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> Child:
        """Start one; its log is ``NAME.log`` in the folder."""
        child = Child(name, arguments, folder / f"{name}.log", environment)
        self.all.append(child)
        return child


def usage(child: Child) -> tuple[int, float]:
    """Resident memory, bytes, and processor time, s, of a process and its own children; (0, 0) once it has ended."""
    memory, cpu = 0, 0.0
    try:
        process = psutil.Process(child.pid)
        for one in (process, *process.children(recursive=True)):
            memory += one.memory_info().rss
            times = one.cpu_times()
            cpu += times.user + times.system
    except psutil.Error:
        return 0, 0.0
    return memory, cpu
