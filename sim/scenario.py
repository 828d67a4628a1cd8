"""The scenario file: read, checked, overridden, compressed and written back. All validation ends here.

``load`` takes a bundled name, a path or a mapping. A loaded scenario is complete: the bundled policies and
receivers it names have been merged in, so that writing it out gives a file that stands alone.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from sim import presets, yamlio
from sim.blocks import (
    SPAN,
    SPEED,
    Block,
    Dispatcher,
    Endpoint,
    PolicyBlock,
    Producer,
    ReceiverBlock,
    Segment,
)
from sim.errors import Problem, ScenarioError
from sim.fields import Duration, Nanoseconds, PositiveDuration, format_duration
from sim.policy import FOREVER, LONGEST

HOUR = 3_600_000_000_000
DEFAULT_EVENT_TYPE = "event"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
UNDOCUMENTED = ("assumed", "from-memory")
"""Certainties of gaps that no provider's page states."""


class Scenario(Block):
    """Producers, endpoints, policies, receivers and a dispatcher over a horizon: one world."""

    name: str = "scenario"
    question: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    kind: Literal["terminating", "steady"] = "terminating"
    horizon: Annotated[PositiveDuration, SPAN]
    drain: Annotated[Duration | None, SPAN] = None
    warmup: Annotated[Duration, SPAN] = Nanoseconds(0)
    sample_every: Annotated[PositiveDuration | None, SPAN] = None
    producers: Annotated[dict[str, Producer], Field(min_length=1)]
    endpoints: Annotated[dict[str, Endpoint], Field(min_length=1)]
    policies: dict[str, PolicyBlock] = {}
    receivers: dict[str, ReceiverBlock] = {}
    dispatcher: Dispatcher = Dispatcher()

    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """Where relative paths of replay files start: the folder of the scenario file."""
        return self._folder

    @property
    def drain_ns(self) -> int:
        """How long the run goes on after the horizon at most, ns."""
        if self.drain is not None:
            return self.drain
        return max((schedule_length(p) for p in self._used_policies()), default=0) + HOUR

    def _used_policies(self) -> Iterator[PolicyBlock]:
        for endpoint in self.endpoints.values():
            if endpoint.policy is not None and endpoint.mode is None:
                yield self.policies[endpoint.policy]

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

            return read_arrivals(replay, self.folder, f"producers.{producer}").types
        return tuple(block.events or block.batch or (DEFAULT_EVENT_TYPE,))

    def compressed(self, factor: float) -> Scenario:
        """The same scenario with its schedule ``factor`` times faster: a scenario like any other.

        Horizon, drain, warm-up, gaps, ages, outages, breaker, disable and dedupe times are divided (with the
        lives of objects, polling periods, bursts, daily periods, given arrival times, and what a receiver
        asks for in Retry-After); rates, latencies, timeouts, servers and probabilities stay. Recorded
        arrivals keep their pace and are cut at the horizon; recorded outages are played faster.
        """
        if not factor > 0:
            raise ScenarioError([Problem("compress", factor, "must be above 0")])
        data = _scaled(self, factor, inside=False)
        if self.drain is None:  # the default hour after the longest schedule shrinks like the rest
            data["drain"] = Nanoseconds(max(1, round(self.drain_ns / factor)))
        return _validated(data, self.folder, self.name)

    def with_overrides(self, overrides: Iterable[str]) -> Scenario:
        """A copy with leaves replaced by ``path=value`` texts, as ``--set`` takes them."""
        data = self.to_mapping()
        for text in overrides:
            _override(data, text)
        return _validated(_complete(data, self.name), self.folder, self.name)

    def to_mapping(self) -> dict[str, Any]:
        """The scenario as plain YAML values, without what equals a default."""
        data = self.model_dump(mode="python", by_alias=True, exclude_defaults=True, exclude_none=True)
        for name, block in self.policies.items():
            if block.preset is not None:  # a default that was chosen against the preset must stay
                data["policies"][name] = block.model_dump(mode="python", by_alias=True, exclude_unset=True)
        return data

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
        data, folder, name = copy.deepcopy(dict(source)), Path(), "scenario"
    else:
        data, folder, name = _read_file(str(source))
    if not isinstance(data, dict):
        raise ScenarioError("must be a mapping with at least horizon, producers and endpoints", name)
    for text in overrides:
        _override(data, text)
    data.setdefault("name", Path(name).stem)
    return _validated(_complete(data, name), folder, name)


def _read_file(source: str) -> tuple[Any, Path, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return yamlio.parse(path.read_text(encoding="utf-8"), source), path.parent, source
        except FileNotFoundError:
            raise ScenarioError("there is no such file", source) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ScenarioError(f"cannot be read: {error}", source) from None
    bundled = presets.names("scenarios")
    if source not in bundled:
        near = difflib.get_close_matches(source, bundled, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ScenarioError(
            f"there is no scenario {source!r}{hint} (a path ends in .yaml; bundled: {', '.join(bundled)})"
        )
    return presets.read("scenarios", source), Path(), source


def _complete(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Merge in the bundled policies and receivers that the scenario names."""
    endpoints = data.get("endpoints")
    groups = [g for g in endpoints.values() if isinstance(g, dict)] if isinstance(endpoints, dict) else []
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
    merged = {}
    for name, block in policies.items():
        preset = block.get("preset") if isinstance(block, dict) else None
        if preset is not None and preset not in bundled_policies:
            near = difflib.get_close_matches(str(preset), bundled_policies, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            rule = f"is not a bundled policy{hint} (hooklab policies lists them)"
            raise ScenarioError([Problem(f"policies.{name}.preset", preset, rule)], source)
        base = presets.read("policies", preset)["policy"] if preset is not None else {}
        merged[name] = {**base, **block} if isinstance(block, dict) else block
    result = dict(data)
    if merged:
        result["policies"] = merged
    if receivers:
        result["receivers"] = receivers
    return result


def _override(data: dict[str, Any], text: str) -> None:
    """Replace one leaf of the raw mapping: ``a.b.c=VALUE``; a key with dots stands in quotes."""
    path, equals, value = text.partition("=") if '"' not in text else _split_quoted(text)
    keys = [quoted or plain for quoted, plain in re.findall(r'"([^"]+)"|([^."]+)', path)]
    if not equals or not keys:
        raise ScenarioError(f"--set {text!r} must be PATH=VALUE, such as policies.mine.timeout=3s")
    node: Any = data
    for depth, key in enumerate(keys[:-1]):
        if isinstance(node, dict):
            child = node.setdefault(key, _starting_point(keys[: depth + 1]))
            if child is None or isinstance(child, str | int | float):
                child = node[key] = {}
            node = child
        else:
            node = _item(node, key, text)
    leaf = yamlio.parse(value, f"--set {path}")
    if isinstance(node, dict):
        node[keys[-1]] = leaf
    else:
        _item(node, keys[-1], text)
        node[int(keys[-1])] = leaf


def _split_quoted(text: str) -> tuple[str, str, str]:
    match = re.match(r'((?:"[^"]*"|[^"=])+)(=)(.*)', text, re.DOTALL)
    return (match[1], match[2], match[3]) if match else (text, "", "")


def _starting_point(keys: list[str]) -> dict[str, Any]:
    """A policy or receiver that is not in the file yet starts from the bundled one of its name."""
    if len(keys) == 2 and keys[0] == "policies" and keys[1] in presets.names("policies"):
        return {"preset": keys[1]}
    if len(keys) == 2 and keys[0] == "receivers" and keys[1] in presets.names("receivers"):
        return dict(presets.read("receivers", keys[1])["receiver"])
    return {}


def _item(node: Any, key: str, text: str) -> Any:
    if not isinstance(node, list):
        raise ScenarioError(f"--set {text!r}: there is nothing below {key!r} to set")
    if not key.isdigit() or int(key) >= len(node):
        raise ScenarioError(f"--set {text!r}: {key!r} must be a position from 0 to {len(node) - 1}")
    return node[int(key)]


# --------------------------------------------------------------------------- checking


def _validated(data: dict[str, Any], folder: Path, source: str) -> Scenario:
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        raise ScenarioError([_problem(e) for e in error.errors(include_url=False)], source) from None
    except RecursionError:
        raise ScenarioError("is nested too deeply", source) from None
    scenario._folder = folder
    problems = list(_cross_checks(scenario)) or list(_file_checks(scenario))
    if problems:
        raise ScenarioError(problems, source)
    return scenario


def _problem(error: Any) -> Problem:
    """One pydantic error in our words."""
    keys = [str(part) for part in error["loc"] if not _is_branch(part)]
    context = error.get("ctx") or {}
    value, rule = error["input"], error["msg"]
    if "key" in context:
        keys.append(str(context["key"]))
        value = context.get("value")
    rule = rule.removeprefix("Value error, ")
    if error["type"] == "missing":
        value, rule = None, "is required"
    elif not rule.startswith(
        ("must", "is ", "has ", "excludes", "goes", "emits", "needs", "names", "start ")
    ):
        rule = rule.replace("Input should be", "must be", 1)
        rule = rule[0].lower() + rule[1:]
    if isinstance(value, dict | list | tuple | BaseModel):
        value = None
    return Problem(".".join(f'"{key}"' if "." in key else key for key in keys), value, rule)


def _is_branch(part: object) -> bool:
    """Whether a part of pydantic's path names a member of a union rather than a key of the file."""
    return isinstance(part, str) and bool(re.search(r"[\[(]|^(int|str|float|PoissonCount)$", part))


def _cross_checks(scenario: Scenario) -> Iterator[Problem]:
    """What one block says about another."""
    for section in ("producers", "endpoints", "policies", "receivers"):
        for name in getattr(scenario, section):
            if not _NAME.fullmatch(name):
                rule = "must be a name of letters, digits, '.', '_' and '-' (it becomes part of ids)"
                yield Problem(section, name, rule)
    if scenario.warmup >= scenario.horizon:
        yield Problem("warmup", format_duration(scenario.warmup), "must be below the horizon")
    for name, endpoint in scenario.endpoints.items():
        yield from _endpoint_checks(scenario, name, endpoint)
    if scenario.drain is None:
        for endpoint in scenario.endpoints.values():
            policy = scenario.policies.get(endpoint.policy or "")
            if policy is not None and endpoint.mode is None and schedule_length(policy) >= FOREVER:
                rule = (
                    f"is required: policy {endpoint.policy!r} goes on forever; "
                    "give drain, or limit the policy by max_age or max_attempts"
                )
                yield Problem("drain", None, rule)
                return
        if any(
            e.policy is not None and e.policy not in scenario.policies for e in scenario.endpoints.values()
        ):
            return  # told above
    if scenario.horizon + scenario.drain_ns > LONGEST:
        yield Problem("horizon", format_duration(scenario.horizon), "must end, with drain, within 36 years")


def _endpoint_checks(scenario: Scenario, name: str, endpoint: Endpoint) -> Iterator[Problem]:
    path = f"endpoints.{name}"
    if endpoint.policy is not None and endpoint.policy not in scenario.policies:
        yield Problem(f"{path}.policy", endpoint.policy, _unknown("policies", endpoint.policy, scenario))
    named = endpoint.receiver if isinstance(endpoint.receiver, dict) else {endpoint.receiver: 1.0}
    for receiver in named:
        if receiver not in scenario.receivers:
            yield Problem(f"{path}.receiver", receiver, _unknown("receivers", receiver, scenario))
    producers = scenario.producers if endpoint.producers is None else endpoint.producers
    missing = [p for p in producers if p not in scenario.producers]
    for producer in missing:
        near = difflib.get_close_matches(producer, scenario.producers, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield Problem(f"{path}.producers", producer, f"is not a producer of this scenario{hint}")
    if not missing:
        try:
            types = [kind for producer in producers for kind in scenario.event_types(producer)]
        except ScenarioError:
            return  # the file is at fault, and is told about by itself
        for pattern in endpoint.subscribes:
            if not fnmatch.filter(types, pattern):
                rule = f"matches no event type of its producers (they emit {', '.join(types[:8])})"
                yield Problem(f"{path}.subscribes", pattern, rule)


def _unknown(section: str, name: str, scenario: Scenario) -> str:
    known = [*getattr(scenario, section), *presets.names(section)]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"is not in {section} of this file, nor bundled{hint}"


def _file_checks(scenario: Scenario) -> Iterator[Problem]:
    """Read every file that the scenario replays, so that a bad row is found before a run starts."""
    from sim.workload import read_arrivals, read_outages

    for name, producer in scenario.producers.items():
        if producer.arrivals.replay is not None:
            try:
                read_arrivals(producer.arrivals.replay, scenario.folder, f"producers.{name}")
            except ScenarioError as error:
                yield from error.problems
    for name, receiver in scenario.receivers.items():
        for i, fault in enumerate(receiver.faults):
            if fault.outage is not None and fault.outage.replay is not None:
                try:
                    read_outages(fault.outage.replay, scenario.folder, f"receivers.{name}.faults.{i}.outage")
                except ScenarioError as error:
                    yield from error.problems


# --------------------------------------------------------------------------- schedules


def runs_of(segment: Segment) -> list[tuple[int, int]]:
    """A schedule entry as runs ``(gap_ns, times)``."""
    from sim import policy

    if segment.delay is not None:
        times = FOREVER if segment.times == "forever" else segment.times or 1
        return [(int(segment.delay), times)]
    if segment.exponential is not None:
        e = segment.exponential
        return policy.exponential_runs(e.base, e.factor, e.cap, None if e.times == "forever" else e.times)
    if segment.arithmetic is not None:
        a = segment.arithmetic
        return policy.arithmetic_runs(a.start, a.step, a.times)
    if segment.power is not None:
        p = segment.power
        return policy.power_runs(p.exponent, p.start, p.end, p.unit, p.offsets)
    assert segment.fit is not None
    f = segment.fit
    return policy.fit_runs(f.retries, f.horizon, f.factor)


def schedule_runs(policy: PolicyBlock) -> list[tuple[int, int]]:
    """The whole schedule as runs ``(gap_ns, times)``, cut at ``max_attempts``."""
    left = policy.max_attempts or FOREVER
    runs = []
    for segment in policy.schedule:
        for gap, times in runs_of(segment):
            if left > 0:
                runs.append((gap, min(times, left)))
                left = FOREVER if left == FOREVER else left - min(times, left)
    return runs


def schedule_length(policy: PolicyBlock) -> int:
    """From the event to the last attempt, jitter and attempts aside, ns; ``FOREVER`` if there is no end."""
    limit = FOREVER if policy.max_age is None else int(policy.max_age)
    runs = schedule_runs(policy)
    if any(times >= FOREVER for _, times in runs):
        return limit
    return min(limit, sum(gap * times for gap, times in runs))


# --------------------------------------------------------------------------- compressing


def _scaled(value: Any, factor: float, inside: bool) -> Any:
    """The value as plain data with the durations below every ``SPAN`` divided by the factor."""
    if isinstance(value, BaseModel):
        data: dict[str, Any] = {}
        for name, field in type(value).model_fields.items():
            marked = any(mark is SPAN or mark is SPEED for mark in field.metadata)
            if name not in value.model_fields_set and not marked:
                continue
            item = getattr(value, name)
            if any(mark is SPEED for mark in field.metadata):
                data[field.alias or name] = item * factor
            elif item is not None:
                spans = inside or any(mark is SPAN for mark in field.metadata)
                data[field.alias or name] = _scaled(item, factor, spans)
        return data
    if isinstance(value, dict):
        return {key: _scaled(item, factor, inside) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_scaled(item, factor, inside) for item in value]
    if isinstance(value, Nanoseconds) and inside and value > 0:
        return Nanoseconds(max(1, round(value / factor)))
    return value


class _Schema(GenerateJsonSchema):
    """JSON Schema with durations as they are written; JSON knows no ``Nanoseconds``."""

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, Nanoseconds) else super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """JSON Schema of the scenario file, for editors."""
    schema = Scenario.model_json_schema(by_alias=True, schema_generator=_Schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "hooklab scenario"}
