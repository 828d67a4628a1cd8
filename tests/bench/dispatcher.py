"""The dispatcher from end to end: events per second and CPU per event, every event durable and delivered.

Generator, dispatcher and receiver are processes of their own on the same cores. A round hands in all events and ends
when the receiver has every one; the rows take turns, medians are given. CPU is that of three parts: handing in
(the producer's own), working (the dispatcher, or a rival's workers), and serving (database and broker on this
machine, less what they use when idle; idle databases and brokers of others disturb little, busy ones do).

With ``--rivals`` Celery and dramatiq do the same work in the same rounds: one task per event on RabbitMQ at
``--amqp``, a signed POST to the same receiver. Each is measured in several configurations, as their guides show
them ("usual") and stripped of all that costs; ratios to both kinds are given, to the fastest of each kind, and to
the one with the least CPU. What they need less than a dispatcher (no log of attempts, no ordering, no limits per
endpoint) is left in their favour.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dispatcher_processes import Dispatcher, Receiver, Server, Watch, database, load_per_core
from dispatcher_rivals import HOW_TO_INSTALL, RIVALS, Rival, importable

Row = dict[str, float]
Round = Callable[[int], Row]
WARM_UP = 500
WARM_UP_FIRST = 100_000_000
"""Number of the first event of the warm-up: apart from those that are counted."""
COLUMNS = ("rate_per_s", "cpu_ms", "handing_in_ms", "working_ms", "serving_ms", "repeats", "refused")


def our_round(store: str, extra: list[str], servers: list[Server], batch: int, refusing: bool) -> Round:
    """A way to measure the dispatcher: on a store, with requests of ``batch`` events."""
    connections = 64 if batch == 1 else 16

    def measure(total: int) -> Row:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            url = f"sqlite:{folder}/hooks.db" if store == "sqlite" else stack.enter_context(database(store))
            receiver = Receiver(refusing)
            stack.callback(receiver.stop)
            dispatcher = Dispatcher(receiver.url, url, extra)
            stack.callback(dispatcher.stop)
            return loaded(dispatcher, receiver, servers, total, batch, connections)

    return measure


def loaded(
    dispatcher: Dispatcher,
    receiver: Receiver,
    servers: list[Server],
    total: int,
    batch: int,
    connections: int,
) -> Row:
    """Warm a dispatcher up, then measure it."""
    dispatcher.post(WARM_UP, batch, connections, WARM_UP_FIRST)
    receiver.wait_for(WARM_UP)
    watch = Watch([dispatcher.process.pid], servers)
    told = dispatcher.post(total, batch, connections, 0)
    counts = receiver.wait_for(total + WARM_UP)
    return row(watch, told, counts, total)


def rival_round(rival: Rival, amqp: str, python: str, servers: list[Server]) -> Round:
    """A way to measure a rival."""

    def measure(total: int) -> Row:
        with ExitStack() as stack:
            receiver = Receiver()
            stack.callback(receiver.stop)
            running = rival.start(python, amqp)
            stack.callback(running.stop)
            running.post(receiver.url, WARM_UP, WARM_UP_FIRST)
            receiver.wait_for(WARM_UP)
            watch = Watch([running.process.pid], servers)
            told = running.post(receiver.url, total, 0)
            counts = receiver.wait_for(total + WARM_UP)
            return row(watch, told, counts, total)

    return measure


def row(watch: Watch, told: dict[str, float], counts: dict[str, int], total: int) -> Row:
    """What one round has shown."""
    took = time.monotonic() - watch.started
    time.sleep(0.3)  # what is still being stored or acknowledged counts too
    working, serving = watch.used()
    parts = (told["cpu_s"], working, serving)
    handing_in_ms, working_ms, serving_ms = (part / total * 1e3 for part in parts)
    return {
        "rate_per_s": total / took,
        "cpu_ms": sum(parts) / total * 1e3,
        "handing_in_ms": handing_in_ms,
        "working_ms": working_ms,
        "serving_ms": serving_ms,
        "repeats": counts["received"] - counts["distinct"],
        "refused": len(told["refused"]),  # type: ignore[arg-type]
        "load_per_core": load_per_core(),
    }


def rounds_of(options: argparse.Namespace) -> dict[str, Round]:
    """All rows of the table."""
    found: dict[str, Round] = {}

    def ours(name: str, store: str, extra: list[str], servers: list[Server]) -> None:
        found[f"{name}, single"] = our_round(store, extra, servers, 1, False)
        found[f"{name}, batches of 20"] = our_round(store, extra, servers, 20, False)
        if options.retries:
            found[f"{name}, each retried once"] = our_round(store, extra, servers, 20, True)

    broker = [Server(options.amqp, 5672)] if options.amqp else []
    ours("sqlite", "sqlite", [], [])
    if options.postgres:
        base = [Server(options.postgres, 5432)]
        ours("postgresql", options.postgres, [], base)
        if options.amqp:
            ours("postgresql + rabbitmq", options.postgres, ["--tiers", options.amqp], base + broker)
    if options.rivals:
        if not options.amqp:
            print("rivals are skipped: they need a broker, --amqp amqp://guest:guest@127.0.0.1/")
            return found
        for rival in RIVALS:
            if importable(options.rivals, rival.library):
                found[rival.name] = rival_round(rival, options.amqp, options.rivals, broker)
            else:
                needs = f"{rival.library}, requests, standardwebhooks, urllib3"
                print(f"{rival.name} is skipped: {options.rivals} lacks one of {needs}; {HOW_TO_INSTALL}")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--postgres",
        metavar="URL",
        help="measure PostgreSQL too, such as postgresql://postgres@127.0.0.1/postgres",
    )
    parser.add_argument("--amqp", metavar="URL", help="a RabbitMQ for --tiers and for the rivals")
    parser.add_argument(
        "--rivals",
        metavar="PYTHON",
        nargs="?",
        const=sys.executable,
        help="measure Celery and dramatiq too, from this interpreter's packages",
    )
    parser.add_argument(
        "--retries", action="store_true", help="rows whose first attempts are answered with 503"
    )
    parser.add_argument("--only", metavar="TEXT", action="append", help="only rows whose names contain this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("ended from outside")
    )  # what runs is stopped on the way
    rounds = {
        name: one
        for name, one in rounds_of(options).items()
        if not options.only or any(text in name for text in options.only)
    }
    results: dict[str, list[Row]] = {name: [] for name in rounds}
    for turn in range(options.rounds):
        for name, measure in rounds.items():
            one = measure(options.events)
            results[name].append(one)
            told = (
                f"{one['rate_per_s']:.0f} events/s, {one['cpu_ms']:.3f} ms, load {one['load_per_core']:.1f}"
            )
            print(f"round {turn + 1}: {name}: {told}", file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2))
    medians = {
        name: {key: statistics.median(one[key] for one in rows) for key in rows[0]}
        for name, rows in results.items()
    }
    show(medians)
    compared = against_rivals(results)
    if options.json:
        summary = {"medians": medians, "compared": compared, "rounds": results}
        options.json.write_text(json.dumps(summary, indent=2))


def show(medians: dict[str, Row]) -> None:
    """Print the medians."""
    print(
        f"{'':32}{'events/s':>9}  CPU ms/event = handing in + working + serving{'repeats':>9}{'refused':>9}"
    )
    for name, one in medians.items():
        rate, total, *parts, repeats, refused = (one[column] for column in COLUMNS)
        shown = "".join(f"{part:10.3f}" for part in parts)
        print(f"{name:32}{rate:9.0f}{total:12.3f}{shown}{repeats:15.0f}{refused:9.0f}")


def against_rivals(results: dict[str, list[Row]]) -> dict[str, dict[str, Row]]:
    """The ratios to the usual and to the stripped rivals, round by round, and their medians."""
    compared = {}
    for kind, usual in (("usual", True), ("stripped", False)):
        rivals = [rival.name for rival in RIVALS if rival.name in results and rival.as_in_guide == usual]
        if rivals:
            print(
                f"\nagainst the best {kind} rival of the round: rate (the fastest), CPU (the leanest); medians"
            )
            compared[kind] = against(rivals, results)
    return compared


def against(rivals: list[str], results: dict[str, list[Row]]) -> dict[str, Row]:
    """The ratios to some rivals; the best of each round in each respect."""
    turns = list(zip(*(results[one] for one in rivals), strict=True))
    fastest = [max(one["rate_per_s"] for one in turn) for turn in turns]
    leanest = [min(one["cpu_ms"] for one in turn) for turn in turns]
    compared = {}
    for name, rows in results.items():
        if "retried" in name or any(name == rival.name for rival in RIVALS):
            continue
        rate = statistics.median(one["rate_per_s"] / best for one, best in zip(rows, fastest, strict=True))
        cpu = statistics.median(one["cpu_ms"] / best for one, best in zip(rows, leanest, strict=True))
        compared[name] = {"rate": rate, "cpu": cpu}
        print(f"{name:32}{rate:8.1f} × the rate{cpu:8.3f} × the CPU (1/{1 / cpu:.1f})")
    return compared


if __name__ == "__main__":
    main()
