"""What the commands that run a scenario for real have in common: options, reading the scenario, being stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.scenario import Scenario

Compress = Annotated[
    float | None,
    typer.Option(metavar="K", help="Make the scenario K times faster: horizon, gaps, outages; not rates."),
]
Processes = Annotated[int, typer.Option(help="Of Locust that send.")]
Receivers = Annotated[int, typer.Option(help="Processes that serve the endpoints.")]
Store = Annotated[
    str,
    typer.Option(help="Of the dispatcher, an empty one: sqlite:PATH or postgresql://…; default: a new file."),
]
Tiers = Annotated[str, typer.Option(help="amqp://…: a broker whose delayed queues tell what is due.")]


def read_scenario(name: str, overrides: Iterable[str], compress: float | None) -> Scenario:
    """The scenario to run for real.

    Raises:
        ScenarioError: it cannot be read or compressed, or the parts that run for real are not installed.
    """
    import sim

    for needed in ("locust", "uvicorn", "pycurl", "standardwebhooks"):
        if find_spec(needed) is None:  # not imported: locust would change this process's sockets
            raise ScenarioError(f"a load test needs {needed}: pip install 'hooklab[loadtest]'")
    loaded = sim.load(name, overrides)
    return loaded if compress is None else loaded.compressed(compress)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: what was started is stopped, and what was recorded is kept."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
