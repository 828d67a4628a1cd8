"""The command ``hooklab receive``: the receivers of a scenario, for real, until it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim import cli
from sim.cli_experiment import Overrides, ScenarioName, Seed
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from loadtest.receiver import Service
    from sim.model import Model

MOST_WARNED = 10


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(receive)


def receive(
    scenario: ScenarioName,
    seed: Seed = None,
    overrides: Overrides = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    ports_from: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="First port; each endpoint has its own. Default: free ones."),
    ] = None,
    control_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Of GET /log, GET /healthz, POST /start. Default: a free one."),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Serve every N-th endpoint from the I-th on; other processes serve the others.",
        ),
    ] = "0/1",
    start: Annotated[
        str,
        typer.Option(
            metavar="NS|now|wait",
            help="When the scenario's time begins: nanoseconds since 1970, now, or at POST /start.",
        ),
    ] = "now",
    endpoints_file: Annotated[
        Path | None, typer.Option(help="JSON file to write: which endpoint has which URL.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File of what was received: JSON lines, ns.")] = None,
    dispatcher: Annotated[
        str | None, typer.Option(metavar="URL", help="Where endpoints poll and thin messages' data is.")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="HOOKLAB_TOKEN", show_envvar=True, help="Of the dispatcher's API.")
    ] = "",
    secrets: Annotated[
        Path | None, typer.Option(help="JSON file, endpoint id: secret, to verify signatures with.")
    ] = None,
    check_signatures: Annotated[
        bool, typer.Option("--check-signatures", help="Answer 401 to a wrong signature; it is logged anyway.")
    ] = False,
    inspect: Annotated[
        bool,
        typer.Option(
            "--inspect",
            help="Keep the latest requests and show them at / of the control port, with switches for faults.",
        ),
    ] = False,
    as_json: cli.AsJson = False,
) -> None:
    """Serve the receivers of a scenario over HTTP, with the luck that the simulator draws, until stopped."""
    import sim
    from sim import model

    if check_signatures and secrets is None:
        raise ScenarioError("--check-signatures needs --secrets FILE")
    if dispatcher is not None and not dispatcher.startswith(("http://", "https://")):
        raise ScenarioError(f"--dispatcher {dispatcher} must be a URL such as http://127.0.0.1:8080")
    built = model.build(sim.load(scenario, overrides or ()), seed)
    options: dict[str, Any] = {
        "host": host,
        "ports_from": _port("--ports-from", ports_from),
        "control_port": _port("--control-port", control_port),
        "log": log,
        "part": _part(part),
        "dispatcher": dispatcher or "",
        "token": token,
        "check_signatures": check_signatures,
        "inspect": inspect,
    }
    for text in _warnings(built, dispatcher is not None):
        cli.tell(f"warning: {text}")
    _serve(built, options, start, secrets, endpoints_file, as_json)


def _serve(
    model: Model,
    options: dict[str, Any],
    start: str,
    secrets: Path | None,
    endpoints_file: Path | None,
    as_json: bool,
) -> None:
    import asyncio

    from loadtest.receiver import Options, Service
    from loadtest.receiver_signature import read_secrets

    if secrets is not None:
        options["secrets"] = read_secrets(secrets, [member.name for member in model.members])
    served = Options(**options, start=_start(start))
    _raise_file_limit()
    service = Service(model, served)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_stopped(service, endpoints_file, as_json))
    cli.tell(f"stopped; {service.log.count:,} lines logged{f' to {served.log}' if served.log else ''}")


async def _until_stopped(service: Service, endpoints_file: Path | None, as_json: bool) -> None:
    import asyncio
    import signal
    import sys

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.stop)
    try:
        service.open()
        described = service.description()
        if endpoints_file is not None:
            _write_whole(endpoints_file, described)
        if as_json:
            cli.print_json(described)
            sys.stdout.flush()
        else:
            _show(described, service.options.inspect)
    except BaseException:
        service.stop()
        raise
    finally:
        await service.run()


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop


def _raise_file_limit() -> None:
    """A request that hangs holds its connection: there may be thousands."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _write_whole(path: Path, described: dict[str, Any]) -> None:
    """Write a file that nobody sees half-written."""
    import json
    import os

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ScenarioError(f"--endpoints-file {path} cannot be written: {error.strerror}") from None


def _show(described: dict[str, Any], inspect: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("endpoint")
    table.add_column("URL", overflow="fold")
    for name, url in described["endpoints"].items():
        table.add_row(name, url)
    for name in described["polling"]:
        table.add_row(name, "polls")
    table.add_row("(control)", described["control"])
    if inspect:
        table.add_row("(inspector)", f"{described['control']}/")
    Console(stderr=True).print(table)
    begins = described["start_ns"]
    cli.tell(
        f"seed {described['seed']}; T0 is {'at POST /start' if begins is None else begins}; Ctrl-C stops"
    )


def _port(option: str, number: int | None) -> int:
    if number is not None and not 1 <= number <= 65535:
        raise ScenarioError(f"{option} is {number}; it must be a port from 1 to 65535")
    return number or 0


def _part(text: str) -> tuple[int, int]:
    index, slash, of = text.partition("/")
    numbers = [int(word) for word in (index, of) if word.isascii() and word.isdigit() and len(word) < 7]
    if not slash or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise ScenarioError(f"--part is {text[:60]}; it must be I/N with I from 0 to N - 1, such as 0/2")
    return numbers[0], numbers[1]


def _start(text: str) -> int | None:
    from loadtest import clock

    if text == "wait":
        return None
    if text == "now":
        return clock.now()
    if not (text.isascii() and text.isdigit() and len(text) < 20) or clock.is_far(int(text)):
        rule = "must be now, wait, or nanoseconds since 1970 within a year of now, such as"
        raise ScenarioError(f"--start is {text[:60]}; it {rule} {clock.now()}")
    return int(text)


def _warnings(model: Model, has_dispatcher: bool) -> list[str]:
    return list(_all_warnings(model, has_dispatcher))[:MOST_WARNED]


def _all_warnings(model: Model, has_dispatcher: bool) -> Iterator[str]:
    """Where a real receiver cannot do what the simulated one does."""
    from sim.receiver import ERROR, LOST_ANSWER, REFUSE

    for name, receiver in zip(model.receiver_names, model.receivers, strict=True):
        kinds = list(receiver.fault_kind)
        if REFUSE in kinds and {ERROR, LOST_ANSWER} & set(kinds[: kinds.index(REFUSE)]):
            yield (
                f"receivers.{name}.faults: a refusing outage stands behind faults of single requests, which in a "
                "simulation still meet some while it is on; a closed port refuses all: put the outage first"
            )
    if not has_dispatcher:
        if any(member.poll_every for member in model.members):
            yield "there are endpoints that poll; without --dispatcher URL they do not"
        if model.scenario.dispatcher.message == "thin":
            yield "messages are thin; without --dispatcher URL nobody calls back for the data"
