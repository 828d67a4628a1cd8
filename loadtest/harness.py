"""A load test of a scenario from start to end: dispatcher, receivers and Locust as processes, and one trace of it all.

Everything runs on this machine, on loopback, by one clock (``loadtest.clock``) and one T0. Whatever happens, what
was started is stopped; what was recorded until then is kept and marked as partial.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest import clock, posted, processes
from loadtest.api_client import ApiClient
from loadtest.arrange import endpoints, subscribed, wait_ready
from loadtest.capacity import CAPACITY
from loadtest.collect import collect
from loadtest.conductor import END, POSTS, START
from loadtest.dispatcher.records import DISABLED
from loadtest.load_result import INTERRUPTED, LoadResult, Recorded
from loadtest.processes import HOOKLAB, Child, Children
from loadtest.trace_rows import PageReader, dispatcher_rows, receiver_rows
from sim import jit, yamlio
from sim import model as models
from sim.errors import Problem, ScenarioError
from sim.model import Model
from sim.output import replays
from sim.policy import SECOND
from sim.scenario import Scenario, load

READY_S = 60.0
"""How long a process may take to be ready: the first one of a machine compiles."""
OVERTIME_S = 60.0
"""How long a run may take beyond its drain."""
LOOK_EVERY_S = 0.2
USAGE_EVERY_S = 1.0
LISTED = 1000
REFUSED = 2
"""Exit code of a Locust that could not begin."""
LOCUSTFILE = Path(__file__).with_name("locustfile.py")

Progress = Callable[[str, float | None], None]
"""What is being done, and the share of it; None: not known."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a load test is run."""

    processes: int = 1
    """Of Locust that send."""
    receivers: int = 1
    """Processes that serve the endpoints."""
    store: str = ""
    """Of the dispatcher, an empty one; default: a SQLite file that goes with the run."""
    tiers: str = ""
    """A broker for the dispatcher's delayed queues."""
    closed_loop: int = 0
    """Users that wait for answers; 0: an open loop, which is what a scenario means."""
    capacity: int = CAPACITY
    """Requests under way at once, of each process that sends."""

    def __post_init__(self) -> None:
        limits = {
            "processes": (1, 64),
            "receivers": (1, 64),
            "closed_loop": (0, 100_000),
            "capacity": (1, 100_000),
        }
        problems = [
            Problem(name.replace("_", "-"), getattr(self, name), f"must be from {least} to {most:,}")
            for name, (least, most) in limits.items()
            if not least <= getattr(self, name) <= most
        ]
        if problems:
            raise ScenarioError(problems)


def run(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    seed: int | None = None,
    overrides: Iterable[str] = (),
    progress: Progress | None = None,
    **options: Any,
) -> LoadResult:
    """Run a scenario for real and give its trace; ``options`` are those of ``Options``.

    On Ctrl-C (``KeyboardInterrupt``) the run ends and its result is marked as partial.

    Raises:
        ScenarioError: the scenario cannot be run, or a process does not start.
    """
    built = models.build(load(scenario, overrides), seed)
    return LoadTest(built, Options(**options), progress or (lambda _what, _share: None)).run()


class LoadTest:
    """One run.

    Args:
        model: the scenario.
        options: how.
        progress: told what is being done.
    """

    def __init__(self, model: Model, options: Options, progress: Progress) -> None:
        self.model = model
        self.options = options
        self.progress = progress
        self.recorded = Recorded()
        self._token = secrets.token_urlsafe(24)
        names = {member.name: f"http://127.0.0.1/{member.name}" for member in model.members}
        endpoints(model, names)  # refuses what the dispatcher could not be told

    def run(self) -> LoadResult:
        """Run it, and judge nothing."""
        begun = time.monotonic()
        self.progress("compiling (once)", None)
        jit.prepare()  # in one process: Locust's would compile at once, and miss their heartbeats meanwhile
        with tempfile.TemporaryDirectory(prefix="hooklab-loadtest-", ignore_cleanup_errors=True) as made:
            folder = Path(made)
            with Children() as children:
                try:
                    self._go(folder, children)
                except KeyboardInterrupt:
                    self._fail(INTERRUPTED)
                finally:
                    self._read_files(folder)
            self._read_files(folder)
        self.progress("working out figures", None)
        return self._result(time.monotonic() - begun)

    # ----------------------------------------------------------------- processes

    def _go(self, folder: Path, children: Children) -> None:
        """Start everything, wait for the end, and read what the dispatcher has stored."""
        path = _written(self.model.scenario, self.model.seed, folder)
        self.progress("starting", None)
        api = self._start_dispatcher(path, folder, children)
        controls = self._start_receivers(path, api.url, folder, children)
        locust = self._start_locust(path, api.url, controls, folder, children)
        try:
            self._watch(locust, folder, children)
            self.progress("reading the trace", None)
            receivers = [child for child in children.all if child.name.startswith("receivers")]
            for child in receivers:
                child.stop()
        finally:
            self.recorded.ended_ns = clock.now()
            self._read_dispatcher(api)

    def _environment(self) -> dict[str, str]:
        own = {"HOOKLAB_CLOCK_ANCHOR": str(clock.ANCHOR), "HOOKLAB_TOKEN": self._token}
        root = str(Path(__file__).resolve().parent.parent)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
        return {
            **inherited,
            **own,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, inherited.get("PYTHONPATH")))),
        }

    def _start_dispatcher(self, path: Path, folder: Path, children: Children) -> ApiClient:
        options = self.options
        command = [
            *(*HOOKLAB, "serve", "--listen", "127.0.0.1:0", "--scenario", str(path)),
            *("--seed", str(self.model.seed), "--allow-network", "127.0.0.0/8", "--allow-port", "1024-65535"),
            *("--store", options.store or f"sqlite:{folder / 'hooks.db'}", "--retention", "0"),
            *(("--tiers", options.tiers) if options.tiers else ()),
        ]
        child = children.start("dispatcher", command, folder, self._environment())
        child.wait_for(lambda: "listening on http://" in child.text, "did not listen", READY_S)
        url = child.text.partition("listening on ")[2].split()[0]
        api = ApiClient(url, self._token)
        wait_ready(api, "/readyz", READY_S)
        return api

    def _start_receivers(self, path: Path, dispatcher: str, folder: Path, children: Children) -> list[str]:
        count = min(self.options.receivers, len(self.model.members))
        started = []
        for index in range(count):
            found = folder / f"endpoints-{index}.json"
            command = [
                *(*HOOKLAB, "receive", str(path), "--seed", str(self.model.seed)),
                *("--part", f"{index}/{count}", "--start", "wait", "--endpoints-file", str(found)),
                *("--dispatcher", dispatcher, "--log", str(folder / f"receivers-{index}.ndjson")),
            ]
            started.append(
                (children.start(f"receivers-{index}", command, folder, self._environment()), found)
            )
        for child, found in started:
            child.wait_for(found.exists, "did not say where they listen", READY_S)
        return [orjson.loads(found.read_bytes())["control"] for _, found in started]

    def _start_locust(
        self, path: Path, dispatcher: str, controls: Sequence[str], folder: Path, children: Children
    ) -> Child:
        port = str(_free_port())
        command = [
            *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"),
            *("--host", dispatcher, "--scenario", str(path), "--seed", str(self.model.seed)),
            *("--receivers", ",".join(controls), "--posts-to", str(folder)),
            *("--capacity", str(self.options.capacity), "--closed-loop", str(self.options.closed_loop)),
            *("--processes", str(self.options.processes), "--master-port", port, "--master-bind-port", port),
            *("--master-bind-host", "127.0.0.1", "--html", str(folder / "locust.html")),
            *("--csv", str(folder / "locust")),
        ]
        return children.start("locust", command, folder, self._environment())

    def _watch(self, locust: Child, folder: Path, children: Children) -> None:
        """Wait until Locust ends; a process that ends before it spoils the run."""
        started, looked = folder / START, 0.0
        while locust.code is None:
            if not self.recorded.start_ns and started.exists():
                self.recorded.start_ns = int(orjson.loads(started.read_bytes())["start_ns"])
            now = self._now()
            lost = next((one for one in children.all if one is not locust and one.code is not None), None)
            if lost is not None:
                self._fail(f"{lost.told()} in mid-run")
                return
            if now > (self.model.end / SECOND) + OVERTIME_S:
                self._fail("the run did not end with its drain")
                return
            if now >= 0 and time.monotonic() - looked >= USAGE_EVERY_S:
                looked = time.monotonic()
                self.recorded.usage += [(now, c.name, *processes.usage(c)) for c in children.all]
            self._tell(now)
            time.sleep(LOOK_EVERY_S)
        ended = folder / END
        failure = orjson.loads(ended.read_bytes())["failure"] if ended.exists() else locust.told()
        if locust.code == REFUSED:
            raise ScenarioError(failure)
        self._fail(failure)

    def _now(self) -> float:
        """Seconds since T0; below 0 before it."""
        return (clock.now() - self.recorded.start_ns) / SECOND if self.recorded.start_ns else -1.0

    def _tell(self, now: float) -> None:
        share = now / (self.model.horizon / SECOND)
        self.progress("sending" if share < 1 else "draining", min(max(share, 0.0), 1.0))

    def _fail(self, why: str) -> None:
        """Note why the run is not a whole one, unless that is known; empty: it is."""
        self.recorded.failure = self.recorded.failure or why

    # ----------------------------------------------------------------- what they recorded

    def _read_dispatcher(self, api: ApiClient) -> None:
        recorded = self.recorded
        try:
            recorded.dispatcher.extend(PageReader(api.url, token=self._token).pages())
            unsettled = _listed(api, "deliveries", "state=waiting,in_flight&")
            recorded.unsettled.update((one["id"], one) for one in unsettled)
            recorded.touched = tuple(_touched(self.model, _listed(api, "endpoints")))
        except ScenarioError as error:
            self._fail(str(error))

    def _read_files(self, folder: Path) -> None:
        recorded = self.recorded
        if (path := folder / START).exists():
            recorded.start_ns = int(orjson.loads(path.read_bytes())["start_ns"])
        if (path := folder / POSTS).exists():
            with path.open("rb") as file:
                recorded.sent = posted.read(file)
        recorded.receivers = [_whole_lines(path) for path in sorted(folder.glob("receivers-*.ndjson"))]
        for pattern in ("*.log", "locust.html", "locust_*.csv"):
            recorded.files |= {path.name: path.read_bytes() for path in folder.glob(pattern)}

    def _result(self, wall_s: float) -> LoadResult:
        recorded = self.recorded
        ended = max(recorded.ended_ns, recorded.start_ns)
        collected = collect(
            self.model,
            dispatcher_rows(recorded.dispatcher),
            receiver_rows(recorded.receivers, "the receivers' log"),
            start_ns=recorded.start_ns or ended,  # no T0: nothing was sent
            ended_ns=ended,
            posted=recorded.sent.accepted,
            unsettled=recorded.unsettled,
        )
        return LoadResult(model=self.model, collected=collected, recorded=recorded, wall_s=wall_s)


def _whole_lines(path: Path) -> bytes:
    """A file of lines without one that was cut off."""
    text = path.read_bytes()
    return text[: text.rfind(b"\n") + 1]


def _listed(api: ApiClient, what: str, chosen: str = "") -> Iterator[dict[str, Any]]:
    """All of a list of the dispatcher, page by page."""
    after = 0
    while True:
        page = api.call("GET", f"/{what}?{chosen}limit={LISTED}&after={after}")
        yield from page[what]
        after = page["next"]
        if not after:
            return


def _touched(model: Model, listed: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What somebody has done to endpoints in mid-run; that one is disabled may be its policy's doing."""
    found = {one["id"]: one for one in listed}
    for member, _ in subscribed(model):
        one = found.get(member.name)
        if one is None:
            yield f"endpoint {member.name} was removed by hand in mid-run"
        elif one["changed_at"] != one["created_at"] and one["status"] != DISABLED:
            yield f"endpoint {member.name} was changed by hand in mid-run"


def _written(scenario: Scenario, seed: int, folder: Path) -> Path:
    """The scenario as a file that all processes read; recordings stay where they are."""
    mapping = scenario.to_mapping() | {"name": scenario.name, "seed": seed}
    for replay in replays(mapping):
        replay["file"] = str((scenario.folder / replay["file"]).resolve())
    path = folder / "scenario.yaml"
    path.write_text(yamlio.dump(mapping), encoding="utf-8")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
