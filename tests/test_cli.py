"""The command line: what goes where, exit codes, and what each command prints."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.testing

import sim
from loadtest.cli import app
from sim import catalogue, presets, shown, tables

HOOKLAB = str(Path(sys.executable).with_name("hooklab"))
HEAVY = ("pandas", "numpy", "numba", "scipy", "pydantic", "yaml", "matplotlib", "simpy", "locust", "pyarrow")
SCENARIO = """\
name: tiny
question: Does a second attempt help?
seed: 7
horizon: 2m
producers:
  shop:
    arrivals: {poisson: 2/s}
    keys: {count: 5}
endpoints:
  shops: {policy: mine, receiver: flaky}
policies:
  mine: {schedule: [0s, 1s, 5s], timeout: 1s}
receivers:
  flaky:
    latency: {exponential: {mean: 50ms}}
    faults:
      - error: {probability: 20%}
dispatcher: {workers: 4}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """Path of a scenario that runs in an instant."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return str(path)


def process(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The installed command in a process of its own."""
    return subprocess.run(
        [HOOKLAB, *words], capture_output=True, text=True, timeout=120, check=False, **options
    )  # type: ignore[call-overload]


def as_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stderr, and not stdout, pass for a terminal."""
    stderr = sys.stderr
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(type(stderr), "isatty", lambda stream: stream is stderr)


# --------------------------------------------------------------------------- the command as a process


def test_help_imports_nothing_heavy() -> None:
    """Asking for help does not pay for pandas, numba, pydantic or any other library of the simulator."""
    script = (
        "import sys; from loadtest.cli import main; code = main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert all(command in done.stdout for command in ("run", "policies", "scenarios", "schema"))


def test_json_is_all_that_stands_on_stdout(tiny: str) -> None:
    """With --json, stdout is one JSON object; in a pipe stderr has plain lines and no progress bar."""
    done = process("run", tiny, "--json", "--set", "policies.mine.schedule=[1s, 1s]")
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert (result["scenario"], result["seed"]) == ("tiny", 7)
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    repeat, warning, took = done.stderr.splitlines()
    assert repeat.startswith("repeat with: hooklab run ")
    assert warning == f"warning: {result['warnings'][0]}"
    assert took.startswith("took ")


def test_a_misspelled_key_is_told_with_the_nearest(tmp_path: Path) -> None:
    """A typo in a scenario ends with exit code 2, a line that names path and nearest key, and no traceback."""
    path = tmp_path / "typo.yaml"
    path.write_text(SCENARIO.replace("keys:", "kees:").replace("timeout:", "timeuot:"), encoding="utf-8")
    done = process("run", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {path}: producers.shop.kees")
    assert "did you mean keys?" in first
    assert "did you mean timeout?" in second


def test_an_interrupted_run_leaves_everything_as_it_was(tiny: str, tmp_path: Path) -> None:
    """Ctrl-C ends a long run with exit code 130, nothing on stdout, and the earlier folder untouched."""
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hooklab").touch()
    (out / "metrics.json").write_text("earlier", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    # a shell may have started the tests with SIGINT ignored, which processes inherit
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from loadtest.cli import main; sys.exit(main())"
    words = ["run", tiny, "--set", "horizon=100d", "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stderr.readline().startswith("repeat with:")
        time.sleep(1)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130
        assert run.stderr.read() == "interrupted\n"
        assert run.stdout.read() == ""
    assert sorted(tmp_path.rglob("*")) == before
    assert (out / "metrics.json").read_text(encoding="utf-8") == "earlier"


def test_a_reader_that_leaves_is_no_error() -> None:
    """``hooklab schema | head -1`` ends quietly, as a process does that SIGPIPE has ended."""
    read, written = os.pipe()
    os.close(read)
    done = subprocess.run([HOOKLAB, "schema"], stdout=written, stderr=subprocess.PIPE, text=True, check=False)
    os.close(written)
    assert (done.returncode, done.stderr) == (141, "")


# --------------------------------------------------------------------------- run


def test_the_table_shows_header_and_figures(tiny: str, hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """Name, question, seed, engine and speed head the figures of delivery, load, and order."""
    code, out, err = hooklab("run", tiny)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "tiny: Does a second attempt help?"
    assert re.fullmatch(r"seed 7, [\d,]+ attempts, \w+ engine [\d.]+ m?s \([\d,]+ attempts/s\)", lines[1])
    assert [line for line in lines if line in ("delivery", "load", "order and duplicates")] == [
        "delivery",
        "load",
        "order and duplicates",
    ]
    delivered = next(line for line in lines if line.endswith("  delivered_share"))
    assert re.fullmatch(r"  delivered +[\d.]+ %  delivered_share", delivered)
    repeat, took = err.splitlines()
    assert repeat == f"repeat with: hooklab run {tiny} --seed 7"
    assert re.fullmatch(r"took [\d.]+ (ms|s|min) in all", took)
    assert "endpoint group" not in out


def test_the_printed_command_repeats_the_run(tiny: str, hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """The line on stderr, typed again, gives the same figures, overrides and seed included."""
    _, out, err = hooklab(
        "run", tiny, "--seed", "12", "--set", "receivers.flaky.faults.0.error.probability=50%", "--json"
    )
    words = shlex.split(err.splitlines()[0].removeprefix("repeat with: "))
    assert words[0] == "hooklab"
    _, again, _ = hooklab(*words[1:], "--json")
    first, second = json.loads(out), json.loads(again)
    assert first["seed"] == 12
    assert first["metrics"] == second["metrics"]
    assert first["metrics"]["lost_share"] > 0


def test_a_figure_that_does_not_exist_is_null_or_a_dash(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """The latency of nothing is null in JSON and a dash in the table, never NaN."""
    nothing = ("--set", "receivers.flaky.faults.0.error.probability=100%")
    _, out, _ = hooklab("run", tiny, *nothing, "--json")
    assert json.loads(out)["metrics"]["delivery_latency_s_p50"] is None
    assert "NaN" not in out
    _, out, _ = hooklab("run", tiny, *nothing)
    assert re.search(r"latency p50 +–  delivery_latency_s_p50", out)


def test_warnings_come_first_and_once(tiny: str, hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """Undocumented gaps and unsettled deliveries are told before the figures, each once."""
    _, out, err = hooklab("run", tiny, "--set", "endpoints.shops.policy=dreamkas", "--set", "drain=10s")
    lines = out.splitlines()
    assert lines[0].startswith("warning: policy dreamkas: its gaps are assumed")
    assert lines[1].startswith("warning: unsettled_share is ")
    assert "latency quantiles leave them out" in lines[1]
    assert lines[2].startswith("tiny:")
    assert (out + err).count("assumed") == 1


def test_several_endpoint_groups_get_a_table(tiny: str, hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """Figures stand for each endpoint group when there is more than one, a group without deliveries included."""
    second = "endpoints.quiet={policy: mine, receiver: flaky, subscribes: [event]}"
    code, out, _ = hooklab("run", tiny, "--set", second, "--set", "horizon=10s", "--set", "warmup=9999ms")
    table = out[out.index("endpoint group") :].splitlines()
    assert code == 0
    assert [line.split()[0] for line in table[1:]] == ["shops", "quiet"]


def test_a_terminal_sees_progress_on_stderr(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being done is shown on stderr if that is a terminal, and stdout stays clean."""
    as_terminal(monkeypatch)
    code, out, err = hooklab("run", tiny, "--json")
    assert code == 0
    assert json.loads(out)["scenario"] == "tiny"
    assert "working out figures" in err


def test_no_bar_stands_at_its_end(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the run drains, tables are built and figures worked out, a spinner turns instead of a full bar."""
    as_terminal(monkeypatch)
    run = sim.run

    def told(*arguments: object, progress: Callable[[float], None], **options: object) -> object:
        for share in (0.5, 0.998, 1.0):
            progress(share)
            time.sleep(0.25)  # the terminal is drawn ten times a second
        return run(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sim, "run", told, raising=False)
    _, _, err = hooklab("run", tiny, "--json")
    lines = re.split(r"[\r\n]", re.sub(r"\x1b\[[\d;?]*\w", "", err))
    assert any("simulating" in line and "50%" in line for line in lines)
    assert any("finishing" in line for line in lines)
    assert not any("%" in line for line in lines if "finishing" in line or "working out" in line)
    assert "100%" not in err


def test_progress_ends_at_the_whole(tiny: str) -> None:
    """Whichever engine runs, the last share told is 1: what follows is no part of the horizon."""
    shares: list[float] = []
    sim.run(tiny, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_first_run_says_that_it_compiles(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without machine code from an earlier run, the seconds of silence are explained."""
    as_terminal(monkeypatch)
    monkeypatch.setattr("sim.jit.CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(sim, "run", lambda *_, **__: (time.sleep(0.3), _interrupt()), raising=False)
    code, _, err = hooklab("run", tiny)
    assert code == 130
    assert "compiling (once)" in err


def _interrupt() -> None:
    raise KeyboardInterrupt


BAD_CALLS = [
    # words, what stderr says
    (["run", "no-such-scenario.yaml"], "there is no such file"),
    (["run", "{tiny}", "--engine", "simpi"], "engine is simpi; must be one of auto"),
    (["run", "{tiny}", "--set", "horizon"], "must be PATH=VALUE"),
    (["run", "{tiny}", "--set", "horizon=0s"], "horizon is 0s; must be above 0s"),
    (["run", "{tiny}", "--set", "policies.mine.timeuot=3s"], "did you mean timeout?"),
    (["run", "{tiny}", "--seed", "-1"], "seed is -1"),
    (["run", "{tiny}", "--seed", "x"], "--seed"),
    (["run", "{tiny}", "--format", "csv"], "it needs --out"),
    (["run", "{tiny}", "--format", "tsv"], "format is tsv; must be parquet or csv"),
    (["run", "{tiny}", "--format", "tsv", "--out", "{tiny}.d"], "format is tsv; must be parquet or csv"),
    (["run"], "scenario"),
    (["run", "{tiny}", "--sed", "3"], "--sed"),
    (["rum"], "run"),
    (["policies", "strpe"], "did you mean stripe?"),
    (["policies", "stripe", "more"], "more"),
    (["scenarios", "dreamcas"], "did you mean dreamkas?"),
    (["receivers", "flakey"], "did you mean flaky?"),
    (["figures", "lost_shar"], "did you mean lost_share?"),
]


@pytest.mark.parametrize(("words", "told"), BAD_CALLS)
def test_bad_input_is_exit_code_2(
    words: list[str], told: str, tiny: str, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """A caller's mistake is an ``error:`` line on stderr and nothing on stdout."""
    code, out, err = hooklab(*(word.replace("{tiny}", tiny) for word in words))
    assert (code, out) == (2, "")
    (line, *_) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told in line
    assert "repeat with" not in err  # there is nothing to repeat


def test_of_many_problems_the_first_are_told(
    tmp_path: Path, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """A file that is no scenario at all gives twenty lines and a count of the rest."""
    path = tmp_path / "other.yaml"
    path.write_text("".join(f"service{i}: {{image: web}}\n" for i in range(500)), encoding="utf-8")
    code, out, err = hooklab("run", str(path))
    *errors, rest = err.splitlines()
    assert (code, out, len(errors)) == (2, "", 20)
    assert all(line.startswith("error: ") for line in errors)
    count = re.fullmatch(r"… and (\d+) more", rest)
    assert count is not None
    assert int(count[1]) >= 480


def test_a_name_that_is_nearly_a_scenario_is_told(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """A misspelled bundled scenario names the nearest."""
    code, _, err = hooklab("run", "dreamcas")
    assert code == 2
    assert "did you mean dreamkas?" in err


def test_a_folder_of_others_is_refused_before_the_run(
    tiny: str,
    tmp_path: Path,
    hooklab: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder that hooklab did not write is refused at once, and keeps what it holds."""
    monkeypatch.setattr(sim, "run", lambda *_, **__: pytest.fail("it ran"), raising=False)
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.txt").write_text("years of work", encoding="utf-8")
    code, printed, err = hooklab("run", tiny, "--out", str(out))
    assert (code, printed) == (2, "")
    assert err.startswith(f"error: out {out} is not empty and was not written by hooklab")
    assert [path.name for path in out.iterdir()] == ["chapter1.txt"]


def test_a_folder_with_a_users_files_is_refused_before_the_run(
    tiny: str,
    tmp_path: Path,
    hooklab: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Notes in the folder of an earlier run are named at once, with what to do, and stay."""
    monkeypatch.setattr(sim, "run", lambda *_, **__: pytest.fail("it ran"), raising=False)
    out = tmp_path / "out"
    out.mkdir()
    for name in (".hooklab", "metrics.json", "notes.md"):
        (out / name).touch()
    code, printed, err = hooklab("run", tiny, "--out", str(out))
    assert (code, printed) == (2, "")
    assert err.startswith(f"error: out {out} holds what hooklab did not write (notes.md): move it elsewhere")
    assert sorted(path.name for path in out.iterdir()) == [".hooklab", "metrics.json", "notes.md"]


def test_a_disk_that_fills_up_is_told(
    tiny: str,
    tmp_path: Path,
    hooklab: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When the folder cannot be written the reason is told, with exit code 2 and nothing on stdout."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sim.trace.Trace.save", full)
    code, printed, err = hooklab("run", tiny, "--out", str(tmp_path / "out"))
    assert (code, printed) == (2, "")
    assert "error: [Errno 28] No space left on device" in err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_run_into_a_folder_says_where_it_is(
    tiny: str, tmp_path: Path, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """With --out the same figures are printed and written, and stderr names the folder."""
    out = tmp_path / "out"
    code, printed, err = hooklab("run", tiny, "--json", "--out", str(out), "--format", "csv")
    assert code == 0
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8")) == json.loads(printed)
    assert err.splitlines()[-2] == f"written to {out}"
    assert (out / "attempts.csv").is_file()


# --------------------------------------------------------------------------- which figures are shown

CONDITIONAL = ("expired_share", "backlog_bytes_max", "api_calls_per_s", "empty_poll_share", "newer_share")


def test_figures_that_say_nothing_are_left_out(
    tiny: str, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """Bytes, calls, polls, expiry and the age of data have rows only in runs that they are about."""
    _, out, _ = hooklab("run", tiny)
    assert not any(name in out for name in (*CONDITIONAL, "stale_share"))
    _, out, _ = hooklab(
        *("run", tiny, "--set", "policies.mine.max_age=2s", "--set", "dispatcher.queue_holds=id"),
        *("--set", "dispatcher.message=thin", "--set", "producers.shop.objects={updated_every: 1s}"),
        *("--set", "endpoints.pollers={receiver: flaky, mode: {poll: {every: 10s}}}"),
    )
    assert all(name in out for name in CONDITIONAL)
    assert "effects" in out[out.index("endpoint group") :].splitlines()[0]


DRAINS = [
    # the fault, what stands where the time would
    ("{error: {probability: 10%}}", "no outage"),
    ("{outage: {windows: [[60s, 10d]], how: hang}}", "no outage ended"),
    ("{outage: {windows: [[60s, 119s]], how: hang}}", "never"),
    ("{outage: {windows: [[60s, 70s]], how: refuse}}", r"[\d.]+ m?s"),
]


@pytest.mark.parametrize(("fault", "told"), DRAINS)
def test_why_there_is_no_drain_is_told(
    fault: str, told: str, tiny: str, hooklab: Callable[..., tuple[int, str, str]]
) -> None:
    """A run without an outage and one that never recovers are not the same dash."""
    _, out, _ = hooklab("run", tiny, "--set", f"receivers.flaky.faults=[{fault}]", "--set", "drain=1s")
    assert re.search(rf"drain after the last outage +{told}  drain_s", out)


def test_a_bundled_scenario_says_where_to_go_on(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """Its file has the questions to ask next, and people are told so."""
    short = ("--set", "horizon=1m")
    _, _, err = hooklab("run", "timepad", *short)
    assert "what to try next: hooklab scenarios timepad" in err.splitlines()
    _, _, err = hooklab("run", "timepad", *short, "--json")
    assert "what to try next" not in err


# --------------------------------------------------------------------------- narrow terminals


def plain(text: str) -> str:
    """What a terminal shows of a text with colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.fixture
def on_terminal(
    hooklab: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """The lines that the command shows on a terminal of so many columns."""

    def call(columns: int, *words: str) -> list[str]:
        stdout = sys.stdout
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(type(stdout), "isatty", lambda stream: stream is sys.stdout)
        code, out, _ = hooklab(*words)
        assert code == 0
        return [line.rstrip() for line in plain(out).splitlines()]

    return call


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_no_digit_of_a_run_is_cut(columns: int, tiny: str, on_terminal: Callable[..., list[str]]) -> None:
    """Every figure of the run and of each endpoint group is whole at any width, and no line is too long."""
    second = "endpoints.a-group-with-a-long-name={policy: mine, receiver: flaky}"
    lines = on_terminal(columns, "run", tiny, "--set", second)
    result = sim.run(tiny, overrides=[second])
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "…" not in text
    assert re.search(r"engine [\d.]+ m?s \([\d,]+ attempts/s\)", text)
    for names in tables.FIGURES.values():
        for label, name in names.items():
            if name not in tables.SAYS_SOMETHING and name != "drain_s":
                assert f"{label} {shown.shown(name, result.metrics[name])}" in text
    groups = result.metrics_by("endpoint").to_dict("index")
    for group in ("shops", "a-group-with-a-long-name"):
        cells = [shown.shown(name, groups[group][name]) for name in tables.GROUP_FIGURES.values()]
        pairs = [f"{head} {cell}" for head, cell in zip(tables.GROUP_FIGURES, cells, strict=True)]
        assert " ".join([group, *(cells if columns == 140 else pairs)]) in text


def test_a_label_that_goes_on_is_indented(tiny: str, on_terminal: Callable[..., list[str]]) -> None:
    """On a very narrow terminal the second line of a label does not look like a heading."""
    lines = on_terminal(36, "run", tiny)
    table = lines[lines.index("delivery") : lines.index("closed forms")]
    assert [line for line in table if re.match(r"\w", line)] == list(tables.FIGURES)
    assert any(re.fullmatch(r"  delivery +\S+|  delivery", line) for line in table)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_every_width_shows_how_certain_a_policy_is(
    columns: int, on_terminal: Callable[..., list[str]]
) -> None:
    """The list of policies keeps attempts, horizon, timeout and certainty of each at any width."""
    lines = on_terminal(columns, "policies")
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    assert "gaps are" in text
    if columns < tables.WIDE:
        assert "svix 0s 5s 5m 30m 2h 5h 10h ×2, jitter plus minus attempts 8 horizon 27.6 h timeout" in text
        assert len(re.findall(r"gaps are [a-z]", text)) == len(presets.names("policies"))
    else:
        assert re.search(r"dreamkas \* .* 5 27.3 h 30s assumed", text)


# --------------------------------------------------------------------------- policies, scenarios, schema


def test_every_policy_is_listed_and_marked_if_undocumented(
    hooklab: Callable[..., tuple[int, str, str]],
) -> None:
    """One line for each bundled policy: gaps, attempts, horizon, timeout; undocumented gaps have a star."""
    code, out, _ = hooklab("policies")
    head, *lines, note = out.splitlines()
    assert code == 0
    assert head.split()[0] == "policy"
    assert [line.split()[0] for line in lines] == presets.names("policies")
    rows = {line.split()[0]: re.sub(r" {2,}", "|", line) for line in lines}
    assert rows["svix"].startswith("svix|0s 5s 5m 30m 2h 5h 10h ×2, jitter plus minus|8|27.6 h|")
    assert rows["dreamkas"].startswith("dreamkas *|0s 1m 15m 3h 1d|5|27.3 h|30s|assumed")
    assert rows["google-pubsub-push-immediate"].startswith("google-pubsub-push-immediate|0s ×∞|∞|∞|")
    assert note.startswith("* nobody documents")


def test_policies_as_json(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """The list as JSON has numbers in seconds, and null where a schedule has no end."""
    _, out, _ = hooklab("policies", "--json")
    listed = json.loads(out)["policies"]
    assert list(listed) == presets.names("policies")
    assert listed["timepad"]["attempts"] == 3
    assert listed["timepad"]["horizon_s"] == 90_000.0
    assert listed["timepad"]["timeout_s"] == 5.0
    assert listed["timepad"]["schedule"][1] == {
        "attempt_number": 2,
        "gap_s": 3600.0,
        "times": 1,
        "offset_s": 3600.0,
    }
    endless = listed["google-pubsub-push-immediate"]
    assert (endless["attempts"], endless["horizon_s"], endless["schedule"][0]["times"]) == (None, None, None)


def test_one_policy_is_told_in_full(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """A policy's page has its title, every gap with its offset, its rules, notes, gaps of the model, and sources."""
    code, out, _ = hooklab("policies", "stripe")
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == ["stripe: Stripe (live mode)", "the policy is documented, its gaps are third-party"]
    rows = [line.split() for line in lines]
    assert ["2", "5m", "5", "min"] in rows
    assert ["8–9", "1d", "40", "h", "–", "2.67", "d"] in rows
    assert ["verdicts", "2xx", "→", "success,", "else", "→", "retry"] in rows
    assert ["max_age", "72h"] in rows
    assert ["jitter", "none"] in rows
    for part in ("notes", "not modelled", "sources"):
        assert part in lines
    assert "- https://docs.stripe.com/webhooks/process-undelivered-events (official" in out


@pytest.mark.parametrize("name", presets.names("policies"))
def test_every_policy_has_a_page(name: str, hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """No bundled policy is beyond what its page can show, as text or as JSON."""
    code, out, _ = hooklab("policies", name)
    assert code == 0
    file = presets.read("policies", name)
    assert all(note in out for note in [*file["notes"], *file["unmodelled"]])
    _, out, _ = hooklab("policies", name, "--json")
    assert json.loads(out)["policy"] == json.loads(json.dumps(file["policy"]))  # keys of JSON are text


REACH = [
    # schedule and limits, attempts, horizon in s
    ({"schedule": ["0s", "1m"]}, 2, 60),
    ({"schedule": ["0s", "1m"], "max_attempts": 1}, 1, 0),
    ({"schedule": ["0s", {"delay": "1h", "times": "forever"}]}, None, None),
    # a retry due exactly at the age is made
    ({"schedule": ["0s", {"delay": "1h", "times": "forever"}], "max_age": "3h"}, 4, 10_800),
    ({"schedule": ["0s", {"delay": "1h", "times": "forever"}], "max_age": "179m"}, 3, 7_200),
    # the age counts from the first attempt, which waits an hour
    ({"schedule": ["1h", "1h", "1h"], "max_age": "1h", "max_age_from": "first_attempt"}, 2, 7_200),
    ({"schedule": ["1h", "1h"], "max_age": "30m"}, 0, 0),
    # no gap ever reaches the age
    ({"schedule": [{"delay": "0s", "times": "forever"}], "max_age": "1d"}, None, None),
]


@pytest.mark.parametrize(("policy", "attempts", "horizon_s"), REACH)
def test_reach_of_a_policy(
    policy: dict[str, object], attempts: int | None, horizon_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts and horizon are those of a delivery that always fails at once."""
    file = {"title": "", "provider": "", "certainty": "", "gaps": "assumed", "policy": policy}
    monkeypatch.setattr(presets, "names", lambda kind: ["mine"])
    monkeypatch.setattr(presets, "read", lambda kind, name: file)
    entry = catalogue.entry("mine")
    assert (entry.attempts, entry.horizon_s) == (attempts, horizon_s)


def test_scenarios_are_listed_with_their_questions(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """Each bundled scenario has a line with its question; by name its file is printed as it is."""
    code, out, _ = hooklab("scenarios")
    assert code == 0
    lines = out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == presets.names("scenarios")
    for name, line in zip(presets.names("scenarios"), lines, strict=True):
        question = presets.read("scenarios", name)["question"]
        assert line.removeprefix(name).strip() == question
    _, out, _ = hooklab("scenarios", "--json")
    assert list(json.loads(out)["scenarios"]) == presets.names("scenarios")
    for name in presets.names("scenarios"):
        assert hooklab("scenarios", name)[1] == presets.text("scenarios", name)


def test_receivers_are_listed_and_printed(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """Each bundled receiver has a line with its title; by name its file is printed as it is, or as JSON."""
    code, out, _ = hooklab("receivers")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == presets.names("receivers")
    assert list(json.loads(hooklab("receivers", "--json")[1])["receivers"]) == presets.names("receivers")
    for name in presets.names("receivers"):
        assert hooklab("receivers", name)[1] == presets.text("receivers", name)
        assert {"name", "title", "notes", "receiver"} <= set(
            json.loads(hooklab("receivers", name, "--json")[1])
        )


def test_every_figure_has_a_meaning(tiny: str, hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """The figures of a run and the table of meanings are the same, in the same order."""
    named = [shown.entry_of(name) for name in sim.run(tiny).metrics]
    assert list(dict.fromkeys(named)) == list(shown.MEANINGS)
    assert shown.entry_of("within_share{10s}") == "within_share{…}"
    shown_names = {name for names in tables.FIGURES.values() for name in names.values()}
    assert all(shown.entry_of(name) in shown.MEANINGS for name in shown_names)
    _, out, _ = hooklab("figures")
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(shown.MEANINGS)
    listed = json.loads(hooklab("figures", "--json")[1])["figures"]
    assert {name: entry["meaning"] for name, entry in listed.items()} == shown.MEANINGS
    one = json.loads(hooklab("figures", "drain_s", "--json")[1])["figures"]
    assert one == {"drain_s": {"unit": "s", "meaning": shown.MEANINGS["drain_s"]}}
    assert "first processing" in hooklab("figures", "delivery_latency_s_p99")[1]


UNITS = [
    # name, its unit in JSON
    ("lost_share", "share"),
    ("worker_utilization", "share"),
    (f"queue_wait_s_{shown.SPREAD}", "s"),
    ("queue_wait_s_p99", "s"),
    ("drain_s", "s"),
    ("attempts_per_s_max", "1/s"),  # a rate, not a time
    ("egress_bytes_per_s", "B/s"),
    ("backlog_bytes_max", "B"),
    ("attempts_per_delivery", "ratio"),
    ("backlog_max", "count"),
]


@pytest.mark.parametrize(("name", "unit"), UNITS)
def test_figures_have_units(name: str, unit: str) -> None:
    """A unit follows from the name."""
    assert shown.unit(name) == unit


def test_version_and_short_help(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """``--version`` prints one line, and ``-h`` is ``--help``, of a command too."""
    code, out, err = hooklab("--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"hooklab \d+\.\d+\.\d+\S*\n", out)
    assert hooklab("-h") == hooklab("--help")
    assert "--seed" in hooklab("run", "-h")[1]


def test_a_closed_stdout_is_no_crash() -> None:
    """With stdout or stderr closed what would go there is lost, as it is with ``print``, and nothing breaks."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" policies >&-', HOOKLAB], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" policies no-such 2>&-', HOOKLAB],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")


def test_the_schema_is_json_with_durations_as_written(
    hooklab: Callable[..., tuple[int, str, str]],
) -> None:
    """The schema for editors is JSON on stdout, with nothing on stderr, and shows defaults as a file has them."""
    code, out, err = hooklab("schema")
    schema = json.loads(out)
    assert (code, err) == (0, "")
    assert schema["$defs"]["PolicyBlock"]["properties"]["timeout"]["default"] == "30s"
    assert {"horizon", "producers", "endpoints"} <= set(schema["required"])


def test_without_a_command_help_is_shown(hooklab: Callable[..., tuple[int, str, str]]) -> None:
    """Bare ``hooklab`` says what there is."""
    code, out, err = hooklab()
    assert (code, err) == (0, "")
    assert "scenarios" in out


def test_the_commands_run_under_typer_alone(tiny: str) -> None:
    """The application itself holds the commands, so that anyone can embed it."""
    result = typer.testing.CliRunner().invoke(app, ["run", tiny, "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["scenario"] == "tiny"


# --------------------------------------------------------------------------- figures for people

SHOWN = [
    # name, value, how it reads
    ("delivered_share", 1.0, "100 %"),
    ("delivered_share", 0.9999930491, "99.9993 %"),  # not 100: something was lost
    ("lost_share", 6.95e-06, "0.000695 %"),  # no exponents
    ("lost_share", 0.0, "0 %"),
    ("within_share{30s}", 0.5, "50 %"),
    ("worker_utilization", 0.0891768, "8.92 %"),
    ("delivery_latency_s_p50", 0.12689, "127 ms"),
    ("delivery_latency_s_p99", 960.01, "16 min"),
    ("delivery_latency_s_mean", 0.0, "0 s"),
    ("drain_s", 172_800.0, "2 d"),
    ("drain_s", math.nan, "–"),
    ("attempts_per_s_max", 43.0, "43"),  # a rate, not a time
    ("goodput_per_s", 19.962, "19.96"),
    ("deliveries", 143_865.0, "143,865"),
    ("effect_duplicates_per_delivery", 3.84e-05, "0.0000384"),
    ("attempts_per_delivery", 1.05188, "1.052"),
    ("backlog_bytes_max", 1_364_000.0, "1,364,000 B"),
    ("egress_bytes_per_s", 20_998.2, "20,998 B/s"),
]


@pytest.mark.parametrize(("name", "value", "text"), SHOWN)
def test_figures_read_well(name: str, value: float, text: str) -> None:
    """Shares are in per cent, times in their own unit, counts have commas, and nothing is rounded to all or none."""
    assert shown.shown(name, value) == text


GAPS = [
    # gap in s, how it reads
    (0, "0s"),
    (90, "90s"),
    (5400, "90m"),
    (86_400, "1d"),
    (98_160, "27.3h"),  # 1636m is exact, and says nothing
    (1.394964, "1.39s"),
    (0.0015, "1.5ms"),
]


@pytest.mark.parametrize(("gap_s", "text"), GAPS)
def test_gaps_read_as_a_scenario_writes_them(gap_s: float, text: str) -> None:
    """A gap is short: exact where that takes three digits, else rounded to three."""
    assert shown.shown_gap(round(gap_s * 1e9)) == text


def test_long_schedules_are_elided() -> None:
    """Many gaps show the first, the last, and a sign of those between; equal neighbours are counted."""
    second = 10**9
    assert shown.shown_gaps([(0, 1), (0, 1), (second, 3)]) == "0s ×2 1s ×3"
    assert shown.shown_gaps([(second * 2**k, 1) for k in range(12)]) == "1s 2s 4s 8s 16s 32s … 34.1m"
