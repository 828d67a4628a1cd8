"""The dispatcher from end to end: events per second and CPU per event, every event durable and delivered.

Generator, dispatcher and receiver are processes of their own on the same cores. A round posts all events and ends
when the receiver has every one. The variants take turns; medians are given. CPU is that of the dispatcher and of the
database and broker it uses.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LEAN = [sys.executable, str(HERE / "lean_http.py")]
ENDPOINT = {"id": "group:0", "types": ["*"], "policy": {"schedule": ["0s", "1s", "10s"], "timeout": "5s"}}


def cpu_s(pids: list[int]) -> float:
    """User and system time of processes, s."""
    ticks = 0
    for pid in pids:
        try:
            parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        ticks += sum(map(int, parts[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def pids_of(name: str) -> list[int]:
    """Processes whose command begins with a name, children that have ended included by their parents."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "comm").read_text().strip()
            except OSError:
                continue
            if command.startswith(name):
                found.append(int(entry.name))
    return found


class Dispatcher:
    """A dispatcher process with one endpoint."""

    def __init__(self, url: str, store: str, extra: list[str]) -> None:
        command = [
            sys.executable,
            "-c",
            "import sys; from loadtest.cli import main; sys.exit(main())",
            "serve",
        ]
        command += ["--listen", "127.0.0.1:0", "--store", store, "--allow-network", "127.0.0.0/8", *extra]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the dispatcher did not start")
        body = json.dumps({**ENDPOINT, "url": url}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/endpoints", body, {"content-type": "application/json"}
        )
        urllib.request.urlopen(request).read()

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.communicate(timeout=30)


def round_of(
    store: str, extra: list[str], servers: list[str], total: int, batch: int, connections: int
) -> dict[str, float]:
    """One round: rate and CPU."""
    receiver = subprocess.Popen([*LEAN, "receive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert receiver.stdin is not None
    assert receiver.stdout is not None

    def received() -> dict[str, int]:
        assert receiver.stdin is not None
        assert receiver.stdout is not None
        receiver.stdin.write("\n")
        receiver.stdin.flush()
        counts: dict[str, int] = json.loads(receiver.stdout.readline())
        return counts

    dispatcher = None
    try:
        dispatcher = Dispatcher(f"http://127.0.0.1:{int(receiver.stdout.readline())}/", store, extra)
        post = [*LEAN, "post", str(dispatcher.port)]
        subprocess.run(
            [*post, "500", str(batch), str(connections), "100000000"], check=True, stdout=subprocess.DEVNULL
        )
        while received()["distinct"] < 500:
            time.sleep(0.05)
        watched = [dispatcher.process.pid, *(pid for name in servers for pid in pids_of(name))]
        before, started = cpu_s(watched), time.monotonic()
        run = subprocess.run(
            [*post, str(total), str(batch), str(connections), "0"], check=True, capture_output=True, text=True
        )
        told = json.loads(run.stdout)
        while (counts := received())["distinct"] < total + 500:
            if time.monotonic() - started > 120:
                raise SystemExit(f"only {counts} of {total} came")
            time.sleep(0.02)
        took = time.monotonic() - started
        time.sleep(0.3)  # what is still being stored counts too
        used = (
            cpu_s([*watched, *(pid for name in servers for pid in pids_of(name) if pid not in watched)])
            - before
        )
        return {
            "rate_per_s": total / took,
            "cpu_ms": used / total * 1e3,
            "repeats": counts["received"] - counts["distinct"],
            "refused": len(told["refused"]),
        }
    finally:
        if dispatcher is not None:
            dispatcher.stop()
        receiver.stdin.close()
        receiver.wait(timeout=10)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", help="a database URL to measure as well, such as postgresql:///test")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    variants: dict[str, tuple[str, int, int]] = {
        "sqlite, single": ("sqlite", 1, 64),
        "sqlite, batches of 20": ("sqlite", 20, 16),
    }
    if options.postgres:
        variants["postgresql, single"] = (options.postgres, 1, 64)
        variants["postgresql, batches of 20"] = (options.postgres, 20, 16)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, (store, batch, connections) in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                url = f"sqlite:{folder}/hooks.db" if store == "sqlite" else store
                servers = [] if store == "sqlite" else ["postgres"]
                results[name].append(round_of(url, [], servers, options.events, batch, connections))
    medians: dict[str, Any] = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in results.items()
    }
    print(f"{'':28}{'events/s':>10}{'CPU ms/event':>14}{'repeats':>9}{'refused':>9}")
    for name, row in medians.items():
        print(
            f"{name:28}{row['rate_per_s']:10.0f}{row['cpu_ms']:14.3f}{row['repeats']:9.0f}{row['refused']:9.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
