"""The command ``hooklab serve``. What is heavy is imported when it runs."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.errors import Problem, ScenarioError, nearest

if TYPE_CHECKING:
    from loadtest.dispatcher.store import Store
    from sim.blocks_dispatcher import Dispatcher
    from sim.blocks_policy import PolicyBlock

TOKEN_VARIABLE = "HOOKLAB_TOKEN"
SHORTEST_TOKEN = 8
WORKERS = 256
"""Attempts under way at once if nothing is said: each holds a connection."""
LEVELS = ("debug", "info", "warning", "error")
STORES = "must be sqlite:PATH or postgresql://USER@HOST/DATABASE"


def add_to(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command()(serve)


def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Port 0: any that is free.")
    ] = "127.0.0.1:8080",
    store: Annotated[str, typer.Option(help="sqlite:PATH or postgresql://…")] = "sqlite:hooklab.db",
    tiers: Annotated[
        str, typer.Option(help="amqp://…: a broker whose delayed queues tell what is due.")
    ] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Of the jitter; default: random.")] = None,
    scenario: Annotated[
        str | None, typer.Option(help="A scenario whose dispatcher block and policies are used.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a leaf of the scenario; repeatable."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help=f"Attempts under way at once; default: the scenario's, else {WORKERS}."),
    ] = None,
    allow_network: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="A network that is not public but may be sent to; repeatable."),
    ] = None,
    allow_port: Annotated[
        list[str] | None,
        typer.Option(metavar="PORT", help="A port or range to send to, besides the usual; repeatable."),
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="PEM certificates to trust instead.")] = None,
    host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name it may be called by; repeatable.")
    ] = None,
    retention: Annotated[
        str, typer.Option(help="How long settled deliveries are kept; 0: for ever.")
    ] = "30d",
    synchronous: Annotated[
        str, typer.Option(help="full, or normal: a power cut may then undo the last moment (sqlite).")
    ] = "full",
    max_stored: Annotated[
        int, typer.Option(min=1, help="Waiting deliveries from which on new events are refused.")
    ] = 10_000_000,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the dispatcher: events in by HTTP, deliveries out by their policies.

    $HOOKLAB_TOKEN is the bearer token that callers must send; without one it listens on loopback only.
    """
    address, port = _address(listen)
    token = _token(address)
    if overrides and scenario is None:
        raise ScenarioError("--set overrides a leaf of a scenario: it needs --scenario NAME")
    _require("--log-level", log_level, LEVELS)
    _require("--synchronous", synchronous, ("full", "normal"))
    keep = _duration("--retention", retention)

    try:
        from loadtest.dispatcher import serve as serving
        from loadtest.dispatcher.api import LOCAL_HOSTS, Settings
        from loadtest.dispatcher.guard import DEFAULT_PORTS
    except ModuleNotFoundError as error:
        raise ScenarioError(f"serve needs {error.name}: pip install 'hooklab[loadtest]'") from None
    policies, rules = _rules(scenario, overrides or (), workers)
    _check_tiers(tiers, store, rules)
    settings = Settings(
        token=token,
        hosts=LOCAL_HOSTS | {address.lower()} | {name.lower().strip("[]") for name in host or ()},
        policies=policies,
        holds_id=rules.queue_holds == "id",
        ordering=rules.ordering,
        retention=keep,
        message=rules.message,
    )
    serving.run(
        serving.Process(
            settings=settings,
            store=_store(store, synchronous),
            rules=rules,
            seed=secrets.randbits(63) if seed is None else seed,
            host=address,
            port=port,
            tiers=tiers,
            allow_networks=tuple(allow_network or ()),
            allow_ports=(*DEFAULT_PORTS, *(allow_port or ())),
            ca_file=None if ca_file is None else str(ca_file),
            most_stored=max_stored,
            log_level=log_level,
        )
    )


def _check_tiers(tiers: str, store: str, rules: Dispatcher) -> None:
    """Refuse a broker beside a store or a discipline that it does not go with."""
    if tiers and not store.startswith("postgres"):
        raise ScenarioError(
            [Problem("--tiers", tiers, "needs PostgreSQL as --store: over amqp come only hints")]
        )
    if tiers and rules.discipline == "per_tier":
        rule = "does not go with discipline: per_tier, where a worker holds the head: a delayed queue lets nobody"
        raise ScenarioError([Problem("--tiers", tiers, rule)])


def _address(listen: str) -> tuple[str, int]:
    """Host (an IPv6 address without brackets) and port."""
    host, _, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host and not bracketed) or not port.isdecimal() or int(port) > 65_535:
        rule = "must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"
        raise ScenarioError([Problem("--listen", listen, rule)])
    return host.strip("[]"), int(port)


def _token(host: str) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and (
        len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token
    ):
        rule = f"must be at least {SHORTEST_TOKEN} visible ASCII characters"
        raise ScenarioError([Problem(f"${TOKEN_VARIABLE}", None, rule)])
    if not token and not _is_loopback(host):
        rule = f"can be reached by others: set ${TOKEN_VARIABLE}, or listen on 127.0.0.1"
        raise ScenarioError([Problem("--listen", host, rule)])
    return token


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _rules(
    scenario: str | None, overrides: Iterable[str], workers: int | None
) -> tuple[dict[str, PolicyBlock], Dispatcher]:
    """Policies that may be named, and how the dispatcher works."""
    from sim.blocks_dispatcher import Dispatcher

    if scenario is None:
        return {}, Dispatcher(workers=WORKERS if workers is None else workers)
    import sim

    more = [] if workers is None else [f"dispatcher.workers={workers}"]
    loaded = sim.load(scenario, [*overrides, *more])
    return dict(loaded.policies), loaded.dispatcher


def _require(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        rule = f"must be {', '.join(known[:-1])} or {known[-1]}{nearest(value, known)}"
        raise ScenarioError([Problem(option, value, rule)])


def _duration(option: str, text: str) -> int:
    from sim.fields import parse_duration

    try:
        return int(parse_duration(text))
    except ValueError as error:
        raise ScenarioError([Problem(option, text, str(error))]) from None


def _store(address: str, synchronous: str) -> Store:
    kind, _, path = address.partition(":")
    if kind == "sqlite" and path:
        from loadtest.dispatcher.store_sqlite import SqliteStore

        return SqliteStore(path, synchronous=synchronous.upper())
    if kind in ("postgresql", "postgres") and path.startswith("//"):
        from loadtest.dispatcher.store_postgres import PostgresStore

        return PostgresStore(address)
    raise ScenarioError([Problem("--store", address, STORES)])
