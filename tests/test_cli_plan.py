"""The command ``hooklab plan``: what goes where, exit codes, folders, and reports of all kinds of experiments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim import execution, report

SCENARIO = """\
name: tiny
question: How many <b>workers</b>?
seed: 7
horizon: 2m
producers:
  shop: {arrivals: {poisson: 5/s}, keys: {count: 5}}
endpoints:
  shops: {policy: mine, receiver: flaky}
policies:
  mine: {schedule: [0s, 1s, 5s], timeout: 1s}
receivers:
  flaky:
    latency: {exponential: {mean: 200ms}}
    servers: 8
    faults:
      - error: {probability: 20%}
dispatcher: {workers: 4}
"""
Hooklab = Callable[..., tuple[int, str, str]]
SLO = ("--slo", "delivery_latency_s_p99<=8s", "--slo", "lost_share<=5%")
FEW = ("--replications", "3", "--jobs", "1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a scenario that runs in an instant."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return str(path)


def test_the_answer_is_printed_with_its_headroom_and_how_to_repeat_it(tiny: str, hooklab: Hooklab) -> None:
    """What is claimed, which objective binds, what was tried; the command goes to stderr."""
    code, out, err = hooklab("plan", tiny, *SLO, "--vary", "dispatcher.workers=1..6", *FEW)
    assert code == 0
    answer = re.search(r"^smallest: dispatcher.workers=(\d)$", out, re.M)
    assert answer is not None
    assert "with 95 % confidence, in 3 runs that the search had not seen" in out
    assert "the one-sided 95 % limit of each mean lies within its objective" in out
    assert re.search(
        r"^binding: (delivery_latency_s_p99<=8s|lost_share<=5%), [\d.]+ % of what it allows", out, re.M
    )
    assert re.search(rf"^{answer[1]} .* yes$", out, re.M)
    assert err.endswith(
        f"repeat with: hooklab plan {tiny} --seed 7 --slo 'delivery_latency_s_p99<=8s' --slo 'lost_share<=5%' "
        "--vary dispatcher.workers=1..6 --replications 3\n"
    )


def test_json_is_one_object_with_the_answer(tiny: str, hooklab: Hooklab) -> None:
    """Everything else goes to stderr."""
    code, out, _ = hooklab("plan", tiny, *SLO, "--vary", "dispatcher.workers=2,3,4", *FEW, "--json")
    told = json.loads(out)
    assert code == 0
    assert set(told["answer"]) == {"dispatcher.workers"}
    assert [row["expr"] for row in told["slo"]] == ["delivery_latency_s_p99<=8s", "lost_share<=5%"]
    assert [row["values"]["dispatcher.workers"] for row in told["tried"]] == [2, 3, 4]


def test_a_range_in_which_nothing_meets_fails_and_says_what_came_closest(tiny: str, hooklab: Hooklab) -> None:
    """Exit code 1; the objective that is missed stands there with its figure."""
    words = (
        "--slo",
        "delivery_latency_s_p99<=1ms",
        "--slo",
        "lost_share<=50%",
        "--vary",
        "dispatcher.workers=3,4",
    )
    code, out, err = hooklab("plan", tiny, *words, *FEW)
    assert code == 1
    assert "no setting tried meets every objective with 95 % confidence (2 of 2 tried)" in out
    assert re.search(r"^closest: dispatcher.workers=[34]$", out, re.M)
    assert re.search(
        r"^  delivery_latency_s_p99<=1ms: delivery_latency_s_p99 is .* s .* over by [\d,]+ %", out, re.M
    )
    assert "  lost_share<=50%:" not in out
    assert "repeat with" in err
    code, out, _ = hooklab("plan", tiny, *words, *FEW, "--json")
    assert (code, json.loads(out)["answer"]) == (1, None)


def test_the_cheapest_is_printed_with_its_cost(tiny: str, hooklab: Hooklab) -> None:
    """Per million deliveries, of every setting."""
    words = (
        "--vary",
        "dispatcher.workers=3,4",
        "--vary",
        "policies.mine.timeout=1s,2s",
        "--cost",
        "worker_hour=0.05",
    )
    code, out, _ = hooklab("plan", tiny, *SLO, *words, *FEW)
    assert code == 0
    assert re.search(
        r"^cheapest: dispatcher.workers=3, policies.mine.timeout=\ds, [\d.]+ per million deliveries$",
        out,
        re.M,
    )
    assert "per million" in out.splitlines()[-5]


def test_what_it_recovers_from_is_a_range(tiny: str, hooklab: Hooklab) -> None:
    """Both edges, how sure, and the runs behind them."""
    code, out, _ = hooklab("plan", tiny, "--find", "outage=1s..80s/9log", *FEW)
    assert code == 0
    assert re.search(
        r"^surely recovers up to: .*\(all 3 runs did: with 95 % confidence at least 36.8 %", out, re.M
    )
    assert re.search(r"^surely does not from: ", out, re.M) or "even from the largest size tried" in out
    assert "by the horizon of 2 min" in out
    assert re.search(r"^1 s +3 of 3 ", out, re.M)


def test_what_breaks_first_is_a_table_of_loads(tiny: str, hooklab: Hooklab) -> None:
    """A row each, the broken resources marked."""
    code, out, err = hooklab("plan", tiny, "--load", "1,10", *FEW)
    assert code == 0
    assert re.search(r"^10× .* !.* (workers|receiver|order)$", out, re.M)
    assert "--load 1,10" in err


BAD = {
    "nothing asked": ((), "nothing is asked"),
    "two questions": (("--find", "outage", "--load", "1,2"), "--find and --load together"),
    "a price without objectives": (("--find", "outage", "--cost", "worker_hour=1"), "--cost goes with --slo"),
    "a duration without a find": (("--load", "1,2", "--during", "1m"), "--during goes with --find"),
    "room without a load": (("--find", "rate", "--storage", "1GB"), "--storage goes with --load"),
    "objectives without settings": (SLO, "nothing is varied"),
    "settings without objectives": (("--vary", "dispatcher.workers=1..3"), "nothing to meet"),
    "an unknown figure": (("--slo", "p99<=3", "--vary", "dispatcher.workers=1..3"), "names no figure"),
    "contradictions": (
        ("--slo", "drain_s<=1", "--slo", "drain_s>=2", "--vary", "dispatcher.workers=1..3"),
        "no setting meets both",
    ),
    "a format without a folder": (
        (*SLO, "--vary", "dispatcher.workers=1..3", "--format", "csv"),
        "needs --out",
    ),
    "a size that is none": (("--load", "1,2", "--storage", "big"), "storage is big; must be a size"),
}


@pytest.mark.parametrize(("words", "rule"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_with_what_to_do(
    words: tuple[str, ...], rule: str, tiny: str, hooklab: Hooklab
) -> None:
    """Exit code 2, nothing on stdout, no traceback."""
    code, out, err = hooklab("plan", tiny, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert rule in err
    assert "Traceback" not in err


# --------------------------------------------------------------------------- folders and reports

KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plan": (
        ("plan", *SLO, "--vary", "dispatcher.workers=2,3,4"),
        ("Smallest that meets every objective: dispatcher.workers=",),
    ),
    "costs": (
        (
            "plan",
            *SLO,
            "--vary",
            "dispatcher.workers=3,4",
            "--vary",
            "policies.mine.timeout=1s,2s",
            "--cost",
            "gb_egress=1",
        ),
        ("cost per million deliveries",),
    ),
    "nothing meets": (
        ("plan", "--slo", "delivery_latency_s_p99<=1ms", "--vary", "policies.mine.schedule=[0s],[0s,1s]"),
        ("No setting tried meets every objective; closest:",),
    ),
    "find": (("plan", "--find", "errors=20%..100%/3"), ("Surely recovers up to", "runs that recovered")),
    "load": (("plan", "--load", "1,5"), ("First to break: order", "worker_utilization")),
    "replicate": (("replicate",), ("attempts_per_delivery", "Means and intervals")),
    "compare": (("compare", "--variant", "dispatcher.workers=2"), ("Who wins", "dispatcher.workers=2")),
    "sweep": (("sweep", "--vary", "dispatcher.workers=2..4"), ('<th scope="row">3</th>', "backlog_max by")),
    "sweep of words": (("sweep", "--vary", "policies.mine.jitter=none,full"), ('<th scope="row">full</th>',)),
}


@pytest.mark.parametrize(("words", "said"), KINDS.values(), ids=KINDS.keys())
def test_every_kind_of_experiment_has_a_report(
    words: tuple[str, ...], said: tuple[str, ...], tiny: str, hooklab: Hooklab, tmp_path: Path
) -> None:
    """One file that fetches nothing, with question, scenario, tables and pictures told in words."""
    command, *rest = words
    out = tmp_path / "out"
    assert hooklab(command, tiny, *rest, *FEW, "--out", str(out))[0] in (0, 1)
    code, _, err = hooklab("report", str(out))
    assert code == 0, err
    text = (out / "report.html").read_text(encoding="utf-8")
    for piece in (
        *said,
        '<p class="question">How many &lt;b&gt;workers&lt;/b&gt;?</p>',
        "hooklab run scenario.yaml --seed 7",
    ):
        assert piece in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "<script" not in text
    assert " nan" not in text.lower()
    assert all(len(alt) > 20 for alt in re.findall(r'alt="([^"]*)"', text))
    assert hooklab(command, tiny, *rest, *FEW, "--out", str(out))[0] in (0, 1)  # the report is not in the way


@pytest.mark.parametrize("broken", ["result.json", "curve.png", "scenario.yaml"])
def test_a_broken_folder_of_a_plan_is_told(broken: str, tiny: str, hooklab: Hooklab, tmp_path: Path) -> None:
    """No traceback, and no half of a report."""
    out = tmp_path / "out"
    hooklab("plan", tiny, *SLO, "--vary", "dispatcher.workers=3,4", *FEW, "--out", str(out))
    (out / broken).unlink()
    code, _, err = hooklab("report", str(out))
    assert code == 2
    assert err.startswith("error: ")
    assert not (out / report.NAME).exists()


def test_a_report_of_what_was_cut_short_says_how_to_go_on(
    tiny: str, hooklab: Hooklab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C the folder has runs and no result: no file that is missing is blamed."""
    out = tmp_path / "out"
    words = ("plan", tiny, *SLO, "--vary", "dispatcher.workers=3,4", *FEW, "--out", str(out))
    original, left = execution.simulate, iter(range(2))

    def cut_short(job: execution.Job) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(job)

    with monkeypatch.context() as patch:
        patch.setattr(execution, "simulate", cut_short)
        assert hooklab(*words)[0] == 130
    code, _, err = hooklab("report", str(out))
    assert code == 2
    assert "holds an experiment (plan) that has not finished; the command that began it" in err
    assert hooklab(*words)[0] == 0
    assert hooklab("report", str(out))[0] == 0


def test_a_folder_of_another_question_is_left_alone(tiny: str, hooklab: Hooklab, tmp_path: Path) -> None:
    """A plan does not continue a search for a breaking point."""
    out = tmp_path / "out"
    assert hooklab("plan", tiny, "--find", "errors=20%,90%", *FEW, "--out", str(out))[0] == 0
    before: dict[str, Any] = {path.name: path.read_bytes() for path in out.iterdir()}
    code, _, err = hooklab("plan", tiny, *SLO, "--vary", "dispatcher.workers=3,4", *FEW, "--out", str(out))
    assert code == 2
    assert "holds a breaking point, and this is a plan" in err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_leaf_is_not_set_and_varied(tiny: str, hooklab: Hooklab) -> None:
    """At no setting would the value that is set remain."""
    words = ("--set", "dispatcher.workers=3", "--vary", "dispatcher.workers=1..2")
    code, out, err = hooklab("plan", tiny, *SLO, *words)
    assert (code, out) == (2, "")
    assert "--set dispatcher.workers is undone by --vary dispatcher.workers" in err
