"""The command ``hooklab serve``: the reference dispatcher as a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.errors import Problem, ScenarioError

if TYPE_CHECKING:
    from loadtest.dispatcher.store import Store

TOKEN_VARIABLE = "HOOKLAB_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(serve)


def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8080",
    store: Annotated[
        str, typer.Option(metavar="URL", help="sqlite:PATH or postgresql://….")
    ] = "sqlite:hooklab.db",
    tiers: Annotated[
        str | None,
        typer.Option(metavar="amqp://…", help="RabbitMQ whose delayed queues say when retries are due."),
    ] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Take the dispatcher block and the policies of this scenario.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="P=V", help="Override a leaf of the scenario.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Attempts under way at once. Default: the scenario's, else unlimited."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the jitter. Default: random.")] = None,
    allow_network: Annotated[
        list[str] | None, typer.Option(metavar="CIDR", help="Also send to this network, such as 127.0.0.0/8.")
    ] = None,
    allow_port: Annotated[
        list[str] | None,
        typer.Option(metavar="PORTS", help="Ports that may be sent to, such as 443 or 8000-8999."),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) to trust instead of the system's.")
    ] = None,
    host: Annotated[
        list[str] | None, typer.Option(help="Another name under which this dispatcher is called.")
    ] = None,
    retention: Annotated[str, typer.Option(help="How long settled deliveries are kept; 0 for ever.")] = "30d",
    synchronous: Annotated[
        str, typer.Option(help="full, or normal: a power cut may lose the last moments (sqlite).")
    ] = "full",
    max_stored: Annotated[
        int, typer.Option(min=1, help="Waiting deliveries beyond which events are refused with 429.")
    ] = 10_000_000,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the reference dispatcher: accepts events by HTTP and delivers them by the policies of its endpoints."""
    from loadtest.dispatcher import process
    from loadtest.dispatcher.app import Settings
    from loadtest.dispatcher.guard import DEFAULT_PORTS
    from sim.blocks_dispatcher import Dispatcher
    from sim.fields import parse_duration
    from sim.scenario import load

    name, port = address(listen)
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is None and name not in LOOPBACK:
        rule = f"is not loopback: set {TOKEN_VARIABLE} to the token that callers must send"
        raise ScenarioError([Problem("--listen", listen, rule)])
    if log_level not in process.LEVELS:
        raise ScenarioError(
            [Problem("--log-level", log_level, f"must be one of {', '.join(process.LEVELS)}")]
        )
    rules, policies = Dispatcher(), {}
    if scenario is not None:
        world = load(scenario).with_overrides(overrides or [])
        rules, policies = world.dispatcher, dict(world.policies)
    elif overrides:
        raise ScenarioError([Problem("--set", overrides[0], "needs --scenario")])
    if workers is not None:
        rules = Dispatcher.model_validate({**rules.model_dump(exclude={"lanes"}), "workers": workers})
    if tiers is not None:
        if not store.startswith("postgres"):
            raise ScenarioError(
                [Problem("--tiers", tiers, "needs --store postgresql://…, which is the truth")]
            )
        if rules.discipline == "per_tier":
            rule = "does not go with discipline: per_tier, where a worker holds the head: a delayed queue lets nobody"
            raise ScenarioError([Problem("--tiers", tiers, rule)])
    try:
        kept = int(parse_duration(retention))
    except ValueError as error:
        raise ScenarioError([Problem("--retention", retention, str(error))]) from None
    settings = Settings(
        rules=rules,
        policies=policies,
        seed=int.from_bytes(os.urandom(7), "big") if seed is None else seed,
        hosts=(*LOOPBACK, name, *(host or [])),
        token=token,
        allow_networks=tuple(allow_network or ()),
        allow_ports=tuple(allow_port or DEFAULT_PORTS),
        ca_file=None if ca_file is None else str(ca_file),
        tiers=tiers,
        most_stored=max_stored,
        retention=kept,
    )
    process.run(settings, opened(store, synchronous), name.strip("[]"), port, log_level)


def address(listen: str) -> tuple[str, int]:
    """Host and port of ``--listen``; raises ``ScenarioError``."""
    name, _, port = listen.rpartition(":")
    if not name or not port.isdigit() or int(port) > 65535:
        raise ScenarioError([Problem("--listen", listen, "must be HOST:PORT, such as 127.0.0.1:8080")])
    return name, int(port)


def opened(url: str, synchronous: str) -> Store:
    """The store of a URL; raises ``ScenarioError``."""
    if synchronous not in ("full", "normal"):
        raise ScenarioError([Problem("--synchronous", synchronous, "must be full or normal")])
    kind, _, path = url.partition(":")
    if kind == "sqlite" and path:
        from loadtest.dispatcher.store_sqlite import SqliteStore

        return SqliteStore(path, synchronous=synchronous.upper())
    if kind in ("postgresql", "postgres"):
        from loadtest.dispatcher.store_postgres import PostgresStore

        return PostgresStore(url)
    raise ScenarioError([Problem("--store", url, "must be sqlite:PATH or postgresql://USER@HOST/DATABASE")])
