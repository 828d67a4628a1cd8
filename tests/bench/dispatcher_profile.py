"""Where the dispatcher's CPU time goes while it takes in and delivers: shares of its parts, and the top functions.

py-spy samples the process from outside, threads and C code included (``--native``), while it takes a thread to run:
threads of a pool that wait for work can pass for running, and stand under "other". A sample belongs
to the innermost frame that is one of the parts below. Without py-spy the command says how to get it.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dispatcher import WARM_UP, WARM_UP_FIRST
from dispatcher_processes import Dispatcher, Receiver, Watch

PARTS = (
    (
        "intake: HTTP (uvicorn, starlette)",
        r"uvicorn/|starlette/|httptools|dispatcher/app\.py|api_routes|answers",
    ),
    ("intake: events (checks, fan-out)", r"pydantic|api_events|api_models|api\.py|access\.py|hashlib"),
    ("intake: store, its thread", r"store_sqlite_intake"),
    ("results: store, its thread", r"store_sqlite_results"),
    ("commit and the writer's queue", r"store_sqlite|sqlite"),
    (
        "deciding (scheduler, sim)",
        r"dispatcher/scheduler|dispatcher/live|dispatcher/feed|sim/|realtime|clock",
    ),
    ("message and signature", r"dispatcher/message|standardwebhooks|hmac|orjson"),
    ("sending (pycurl, libcurl)", r"sender|transfer|guard|resolver|request\.py|curl|libcurl"),
    ("event loop (asyncio, uvloop)", r"asyncio/|uvloop|libuv|running\.py|metrics_page|prometheus"),
)
"""Names of parts and the frames that are theirs; the first that fits has the frame."""
FRAME = re.compile(r"^(?P<function>.*?) \((?P<place>.*)\)$")


def part_of(frames: list[str]) -> str:
    """The part that a stack's CPU time belongs to; frames from the outermost to the innermost."""
    for frame in reversed(frames):
        for name, pattern in PARTS:
            if re.search(pattern, frame):
                return name
    return "other"


def sampled(pid: int, seconds: int, native: bool) -> Counter[tuple[str, ...]]:
    """Samples by stack."""
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        raise SystemExit("the profile needs py-spy: pip install py-spy")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks"
        command = [spy, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", "200"]
        command += ["--full-filenames", "--format", "raw", "--output", str(out), *["--native"] * native]
        subprocess.run(command, check=True, capture_output=True)
        stacks: Counter[tuple[str, ...]] = Counter()
        for line in out.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            stacks[tuple(stack.split(";"))] += int(count)
    return stacks


def own_function(frames: tuple[str, ...]) -> str:
    """The innermost function with its file, without the path to it and the line."""
    frame = FRAME.match(frames[-1])
    if frame is None:
        return frames[-1]
    place = re.sub(r":\d+$", "", frame["place"])
    return f"{frame['function']} ({'/'.join(place.split('/')[-2:])})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--events", type=int, default=200_000, help="made beforehand; more than come in these seconds"
    )
    parser.add_argument("--native", action="store_true", help="see into C code; slows the process down")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        receiver = Receiver()
        stack.callback(receiver.stop)
        dispatcher = Dispatcher(receiver.url, f"sqlite:{folder}/hooks.db", [])
        stack.callback(dispatcher.stop)
        connections = 64 if options.batch == 1 else 16
        dispatcher.post(WARM_UP, options.batch, connections, WARM_UP_FIRST)
        receiver.wait_for(WARM_UP)
        watch = Watch([dispatcher.process.pid], [])
        producer = subprocess.Popen(dispatcher.posting(options.events, options.batch, connections, 0))
        try:
            stacks = sampled(dispatcher.process.pid, options.seconds, options.native)
        finally:
            producer.terminate()
            producer.wait(timeout=10)
        used, _ = watch.used()
        received = receiver.counts()["distinct"] - WARM_UP
    show(stacks, used / received * 1e3, options.json)


def show(stacks: Counter[tuple[str, ...]], cpu_ms: float, json_to: Path | None) -> None:
    """Print which parts and which functions the samples were in."""
    total = stacks.total()
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for frames, count in stacks.items():
        parts[part_of(list(frames))] += count
        functions[own_function(frames)] += count
    print(f"{total} samples, {cpu_ms:.3f} ms of CPU per event\n")
    for name, count in parts.most_common():
        print(f"{count / total:7.1%}{cpu_ms * count / total:9.3f} ms  {name}")
    print("\nfunctions by their own time")
    for name, count in functions.most_common(12):
        print(f"{count / total:7.1%}  {name}")
    if json_to:
        shares = {"parts": parts, "functions": functions}
        json_to.write_text(json.dumps({"cpu_ms": cpu_ms, "samples": total, **shares}, indent=2))


if __name__ == "__main__":
    main()
