"""The scenario file: read, checked, overridden, compressed and written back. All validation ends here.

``load`` takes a bundled name, a path or a mapping. A loaded scenario is complete: the bundled policies and
receivers it names have been merged in, so that writing it out gives a file that stands alone.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from sim import presets, scenario_checks, yamlio
from sim.blocks import SPAN, SPEED, Block
from sim.blocks_dispatcher import Dispatcher, Endpoint
from sim.blocks_policy import PolicyBlock, schedule_length
from sim.blocks_policy import schedule_runs as schedule_runs
from sim.blocks_world import Producer, ReceiverBlock
from sim.errors import Problem, ScenarioError, nearest, path_of, problem, shown, told
from sim.fields import Duration, Nanoseconds, PositiveDuration, format_duration, whole
from sim.policy import LONGEST
from sim.scenario_override import override, split

HOUR = 3_600_000_000_000
DEFAULT_EVENT_TYPE = "event"
UNDOCUMENTED = ("assumed", "from-memory")
"""Certainties of gaps that no provider's page states."""
DEEPEST, LARGEST = 30, 1_000_000
"""Levels and values of a mapping; no scenario needs more, and a file with anchors can have very many."""


class Scenario(Block):
    """Producers, endpoints, policies, receivers and a dispatcher over a horizon: one world."""

    name: Annotated[str, Field(min_length=1)] = "scenario"
    """What outputs call the scenario; default: the name of its file."""
    question: str | None = None
    """The question that the scenario answers, in words; shown with its results."""
    seed: Annotated[int, *whole(0, 2**64 - 1)] = 0
    """The seed of all luck: with the scenario it repeats a run to the last bit. Default 0; --seed replaces it."""
    kind: Literal["terminating", "steady"] = "terminating"
    """terminating (default): a span with a start and an end; steady: long-run averages, which want a warmup."""
    horizon: Annotated[PositiveDuration, SPAN]
    """How long producers emit events, such as 24h. Required."""
    drain: Annotated[Duration | None, SPAN] = None
    """How long the run goes on after the horizon at most, to settle what waits. Default: the longest schedule in
    use and 1h; required where a policy goes on forever.
    """
    warmup: Annotated[Duration, SPAN] = Nanoseconds(0)
    """Figures leave out events, and time, before this; below the horizon. Default 0s."""
    sample_every: Annotated[PositiveDuration | None, SPAN] = None
    """Time between two rows of the time series. Default: chosen from the length of the run."""
    producers: Annotated[dict[str, Producer], Field(min_length=1)]
    """Who emits events: name and block. At least one."""
    endpoints: Annotated[dict[str, Endpoint], Field(min_length=1)]
    """Who is sent to: name of a group of endpoints and block. At least one."""
    policies: dict[str, PolicyBlock] = {}
    """How deliveries are retried: name and block. Bundled ones (hooklab policies) need no block here."""
    receivers: dict[str, ReceiverBlock] = {}
    """Who answers: name and block. Bundled ones (hooklab receivers) need no block here."""
    dispatcher: Dispatcher = Dispatcher()
    """The sender: its workers and how they take what waits. Default: unlimited workers."""

    _folder: Path = PrivateAttr(default=Path())
    _replaced: frozenset[str] = PrivateAttr(default=frozenset())

    def __eq__(self, other: object) -> bool:
        """Equal if they say the same; where a file lies is no part of it."""
        return isinstance(other, Scenario) and self.to_mapping() == other.to_mapping()

    def __hash__(self) -> int:
        return hash(self.to_yaml())

    @property
    def folder(self) -> Path:
        """Where relative paths of replay files start: the folder of the scenario file."""
        return self._folder

    @property
    def unused(self) -> tuple[tuple[str, str], ...]:
        """Policies and receivers of the file that no endpoint names, as (section, name).

        Those that an override took from their endpoints are left out: they were replaced on purpose.
        """
        return tuple(
            (section, name)
            for section, used in _references(self.endpoints.values()).items()
            for name in getattr(self, section)
            if name not in used and path_of([section, name]) not in self._replaced
        )

    @property
    def drain_ns(self) -> int:
        """How long the run goes on after the horizon at most, ns."""
        return self.drain if self.drain is not None else self.longest_policy()[1] + HOUR

    def longest_policy(self) -> tuple[str, int]:
        """The policy in use that may go on for longest, and for how long, ns; no time if all endpoints poll."""
        lengths = [(name, schedule_length(self.policies[name])) for name in self._pushed()]
        return max(lengths, key=lambda item: item[1], default=("", 0))

    def _pushed(self) -> Iterator[str]:
        """Names of the policies by which endpoints are sent to."""
        for endpoint in self.endpoints.values():
            if endpoint.policy is not None and endpoint.mode is None:
                yield endpoint.policy

    @cached_property
    def undocumented(self) -> tuple[str, ...]:
        """Presets in use whose gaps nobody documents; every output names them."""
        used = {endpoint.policy for endpoint in self.endpoints.values() if endpoint.policy}
        named = {self.policies[name].preset for name in used} - {None}
        return tuple(
            name
            for name in sorted(str(n) for n in named)
            if presets.read("policies", name).get("gaps") in UNDOCUMENTED
        )

    def event_types(self, producer: str) -> tuple[str, ...]:
        """Event types that this producer emits, in order."""
        block = self.producers[producer]
        replay = block.arrivals.replay
        if replay is not None and replay.type is not None:
            from sim.workload import read_arrivals

            return read_arrivals(replay, self.folder, path_of(["producers", producer])).types
        return tuple(block.events or block.batch or (DEFAULT_EVENT_TYPE,))

    def compressed(self, factor: float) -> Scenario:
        """The same scenario with its schedule ``factor`` times faster: a scenario like any other.

        Horizon, drain, warm-up, gaps, ages, outages, breaker, disable and dedupe times are divided (with the
        lives of objects, polling periods, bursts, daily periods, ramps, given arrival times, changes in the
        number of workers, sampling, what a receiver asks for in Retry-After and limits of it given as
        durations); rates, latencies, timeouts, servers and probabilities stay. Recorded arrivals keep their
        pace and are cut at the horizon; recorded outages are played faster.

        Raises:
            ScenarioError: the factor is not a number above 0, or times become too long or too short.
        """
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise ScenarioError([Problem("compress", factor, "must be a number above 0, such as 600")])
        scaled: Scenario = _scaled(self, factor, inside=False)
        if self.drain is None and factor != 1:  # the default hour after the longest schedule shrinks as well
            scaled = scaled.model_copy(update={"drain": _divided(self.drain_ns, factor)})
        return _validated(scaled.to_mapping(), self.folder, self.name, self._replaced)

    def with_overrides(self, overrides: Iterable[str]) -> Scenario:
        """A copy with leaves replaced by ``path=value`` texts, or one, as ``--set`` takes them."""
        overrides = [overrides] if isinstance(overrides, str) else list(overrides)
        data = self.to_mapping()
        for text in overrides:
            section, *inner = split(text)[0]
            if section == "policies" and inner[1:] == ["preset"] and inner[0] in self.policies:
                _forget_preset(data["policies"], inner[0], self.policies[inner[0]])
        for text in overrides:
            override(data, text)
        named = self._replaced | _paths(_references(self.endpoints.values()))
        return _validated(_complete(data, self.name), self.folder, self.name, named)

    def to_mapping(self) -> dict[str, Any]:
        """The scenario as plain YAML values, without what equals a default."""
        data = self.model_dump(mode="python", by_alias=True, exclude_defaults=True, exclude_none=True)
        for name, block in self.policies.items():
            if block.preset is not None:  # a default that was chosen against the preset must stay
                data["policies"][name] = block.model_dump(mode="python", by_alias=True, exclude_unset=True)
        plain: dict[str, Any] = _plain(data)
        return plain

    def to_yaml(self) -> str:
        """The scenario as a file; reading it gives an equal scenario."""
        return yamlio.dump(self.to_mapping())

    def warnings(self) -> tuple[str, ...]:
        """What is legal but suspicious, each with the figures and what to do."""
        from sim.advice import warnings

        return warnings(self)


# --------------------------------------------------------------------------- reading


def load(source: str | Path | Mapping[str, Any] | Scenario, overrides: Iterable[str] = ()) -> Scenario:
    """Read a bundled scenario by name, a file by path, or a mapping; then apply ``path=value`` overrides.

    Raises:
        ScenarioError: anything wrong with it or with a file it names, all problems at once where possible.
    """
    if isinstance(source, Scenario):
        return source.with_overrides(overrides)
    if isinstance(source, Mapping):
        data, folder, name = source, Path(), "scenario"
    elif isinstance(source, str | os.PathLike):
        data, folder, name = _read_file(os.fspath(source))
    else:
        raise ScenarioError([Problem("scenario", source, "must be a name, a path or a mapping")])
    if not isinstance(data, Mapping):
        found = "is empty; it" if data is None else "is no mapping; it"
        raise ScenarioError(f"{found} must have at least horizon, producers, endpoints and receivers", name)
    plain: dict[str, Any] = _plain(data, name)
    named = frozenset(_paths(_references(_groups(plain))))
    for text in [overrides] if isinstance(overrides, str) else overrides:
        override(plain, text)
    plain.setdefault("name", Path(name).stem)
    return _validated(_complete(plain, name), folder, name, named)


def _read_file(source: str) -> tuple[Any, Path, str]:
    path = Path(source)
    try:
        if path.suffix in (".yaml", ".yml") or path.is_file():
            return yamlio.parse(path.read_text(encoding="utf-8"), source), path.parent, source
        if source and path.is_dir() and source not in presets.names("scenarios"):
            raise ScenarioError("is a folder; name a file in it", source)
    except FileNotFoundError:
        raise ScenarioError("there is no such file", source) from None
    except IsADirectoryError:
        raise ScenarioError("is a folder; name a file in it", source) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"is not UTF-8 (at byte {error.start}); save it as UTF-8", source) from None
    except OSError as error:
        raise ScenarioError(f"cannot be read: {error.strerror or error}", source) from None
    except ScenarioError:
        raise
    except ValueError:  # a path with a zero byte
        raise ScenarioError("is not a path", repr(source)) from None
    bundled = presets.names("scenarios")
    if source not in bundled:
        raise ScenarioError(
            f"there is no scenario {shown(source)}{nearest(source, bundled)} "
            f"(a path ends in .yaml; bundled: {', '.join(bundled)})"
        )
    return presets.read("scenarios", source), Path(), source


def _plain(value: Any, source: str = "") -> Any:
    """A copy of Python's own mappings, lists and texts, whatever they were; blocks stay as they are.

    Raises:
        ScenarioError: nested too deeply, or too many values.
    """
    count = 0

    def copied(item: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > DEEPEST:
            raise ScenarioError(f"is nested too deeply: more than {DEEPEST} levels", source)
        if count > LARGEST:
            raise ScenarioError(f"holds more than {LARGEST} values", source)
        if isinstance(item, Mapping):
            return {copied(key, depth + 1): copied(entry, depth + 1) for key, entry in item.items()}
        if isinstance(item, list | tuple):
            return [copied(entry, depth + 1) for entry in item]
        if isinstance(item, str | os.PathLike):
            return str(item)
        return item

    return copied(value, 0)


def _groups(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The endpoint groups of a scenario that has been read and not yet checked."""
    endpoints = data.get("endpoints")
    return [g for g in endpoints.values() if isinstance(g, dict)] if isinstance(endpoints, dict) else []


def _references(groups: Iterable[Endpoint | dict[str, Any]]) -> dict[str, list[str]]:
    """The names of policies and of receivers that endpoint groups give."""
    found: dict[str, list[str]] = {"policies": [], "receivers": []}
    for group in groups:
        policy, receiver = (
            group.get(key) if isinstance(group, dict) else getattr(group, key)
            for key in ("policy", "receiver")
        )
        found["policies"].append(str(policy))
        found["receivers"].extend(map(str, receiver if isinstance(receiver, dict) else [receiver]))
    return found


def _paths(references: dict[str, list[str]]) -> set[str]:
    return {path_of([section, name]) for section, names in references.items() for name in names}


def _complete(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Merge in the bundled policies and receivers that the scenario names."""
    groups = _groups(data)
    policies = data.get("policies") or {}
    receivers = data.get("receivers") or {}
    if not isinstance(policies, dict) or not isinstance(receivers, dict):
        return data  # the model says what is wrong with them
    bundled_policies = presets.names("policies")
    bundled_receivers = presets.names("receivers")
    for group in groups:
        name = group.get("policy")
        if isinstance(name, str) and name not in policies and name in bundled_policies:
            policies = {**policies, name: {"preset": name}}
        named = group.get("receiver")
        for name in named if isinstance(named, dict) else [named]:
            if isinstance(name, str) and name not in receivers and name in bundled_receivers:
                receivers = {**receivers, name: presets.read("receivers", name)["receiver"]}
    merged = {
        name: presets.completed_policy(block, path_of(["policies", str(name), "preset"]), source)
        if isinstance(block, dict)
        else block
        for name, block in policies.items()
    }
    result = dict(data)
    if merged:
        result["policies"] = merged
    if receivers:
        result["receivers"] = receivers
    return result


def _forget_preset(policies: dict[str, Any], name: str, block: PolicyBlock) -> None:
    """Take out of a policy about to get another preset what it has from the old one."""
    if block.preset is None:
        return
    old = PolicyBlock.model_validate(presets.read("policies", block.preset)["policy"])
    policies[name] = {
        key: value
        for key, value in policies[name].items()
        if key == "preset" or getattr(block, key) != getattr(old, key)
    }


def _validated(
    data: dict[str, Any], folder: Path, source: str, replaced: frozenset[str] = frozenset()
) -> Scenario:
    """The scenario; ``replaced`` are paths of blocks that were in use before overrides."""
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        raise ScenarioError([problem(e) for e in told(error.errors(include_url=False))], source) from None
    scenario._folder = folder
    scenario._replaced = replaced & _paths(
        {
            section: [name for _, name in group]
            for section, group in itertools.groupby(scenario.unused, lambda u: u[0])
        }
    )
    if problems := scenario_checks.problems(scenario):
        raise ScenarioError(problems, source)
    return scenario


# --------------------------------------------------------------------------- compressing


def _scaled(value: Any, factor: float, inside: bool) -> Any:
    """A copy, not yet checked, with the durations below every ``SPAN`` divided by the factor."""
    if isinstance(value, BaseModel):
        changed: dict[str, Any] = {}
        for name, field in type(value).model_fields.items():
            item = getattr(value, name)
            if any(mark is SPEED for mark in field.metadata):
                changed[name] = item * factor
            else:
                changed[name] = _scaled(item, factor, inside or any(mark is SPAN for mark in field.metadata))
        # what stayed as it was must not count as given
        return value.model_copy(update={k: v for k, v in changed.items() if v != getattr(value, k)})
    if isinstance(value, dict):
        return {key: _scaled(item, factor, inside) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_scaled(item, factor, inside) for item in value)
    return _divided(value, factor) if isinstance(value, Nanoseconds) and inside else value


def _divided(ns: int, factor: float) -> Nanoseconds:
    """A time divided and rounded to the nanosecond; only no time at all stays no time."""
    quotient = Fraction(ns) / Fraction(factor)
    if quotient > LONGEST:
        rule = f"makes {format_duration(ns)} longer than 36 years, the longest time that a run can count"
        raise ScenarioError([Problem("compress", factor, rule)])
    return Nanoseconds(max(1, round(quotient)) if ns > 0 else 0)


# --------------------------------------------------------------------------- for editors


class _Schema(GenerateJsonSchema):
    """pydantic's schema, with defaults as a file writes them."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        written = schema["schema"].get("serialization", {})
        if "default" in schema and written.get("type") == "function-plain":
            schema = {**schema, "default": written["function"](schema["default"])}
        return super().default_schema(schema)

    def encode_default(self, dft: Any) -> Any:
        return (
            dft.model_dump(exclude_defaults=True) if isinstance(dft, Block) else super().encode_default(dft)
        )


def _on_one_line(schema: Any) -> Any:
    """A copy in which no description, docstring that it was, is broken into lines."""
    if isinstance(schema, list):
        return [_on_one_line(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: " ".join(item.split()) if key == "description" and isinstance(item, str) else _on_one_line(item)
        for key, item in schema.items()
    }


def json_schema() -> dict[str, Any]:
    """JSON Schema of the scenario file, for editors."""
    schema = _on_one_line(Scenario.model_json_schema(by_alias=True, schema_generator=_Schema))
    return {"$schema": _Schema.schema_dialect, **schema, "title": "hooklab scenario"}
