"""Profiles of sampling runs: their parts add up, and a few steps stand for many."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from jsonschema import Draft202012Validator

from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.model_parts.follower import FORWARD
from mmdit_cli.model_parts.sampling_run import SETUP
from mmdit_cli.profile.early_end import EarlyEnd
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.profile.sampling_profile import TimedRun, profile_sampling, sampling_work, whole_runs
from tests.cli.model_parts.test_sampling_run import GUIDED, SMALL, toy
from tests.support.marks import slow_but

pytestmark = pytest.mark.usefixtures("quick_ceilings")
CONFIG = ["-c", "toy-two-modality", *(word for each in (*SMALL, "model.depth=1") for word in ("--set", each))]


def test_the_steps_that_are_made_stand_for_all_and_what_precedes_them_counts_once():
    now = iter([10.0, 13.0, 17.0])  # 3 s before the steps, 4 s of 2 steps of 28

    def run(phase):
        phase(SETUP)
        phase(FORWARD)

    timed = TimedRun(run, torch.device("cpu"), clock=lambda: next(now))
    timed()
    timed.seconds.append(timed.last)
    assert timed.last == (3.0, 4.0) and whole_runs(timed.seconds, 28 / 2) == [3.0 + 4.0 * 14]


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "taken"), [(0.0, 2), (1000.0, 3)])
def test_a_profile_of_runs_adds_up(seconds, taken):
    config, settings = toy(GUIDED), Settings(repeats=3, max_seconds=seconds)
    (result,) = profile_sampling([config], [sampling_work(config, settings)], settings)
    assert (result.steps, result.measured_steps, result.guidance, len(result.ways)) == (3, taken, 4.5, 4)
    for way in result.ways:
        assert sum(way.shares.values()) == pytest.approx(1) and min(way.shares.values()) > 0
        assert way.seconds_per_sample == pytest.approx(way.run_ms.median / 1e3 / 2)
        assert way.samples_per_hour == pytest.approx(3600 / way.seconds_per_sample)
        assert way.run_ms.runs == 3 and way.peak_bytes > 0
    best = result.ways[result.fastest]
    assert best.run_ms.median == min(way.run_ms.median for way in result.ways)
    assert (result.latency_ms, result.flops) == (best.run_ms, best.flops)
    assert [way.ratio and way.ratio.to for way in result.ways] == [None, *["one batch, modulation before"] * 3]


def test_what_is_known_after_a_round_can_be_shown_and_end_the_measurement():
    config, settings, shown = toy("model.depth=1"), Settings(repeats=50), []
    early = EarlyEnd(lambda: len(shown) == 2)
    work = [sampling_work(config, settings)] * 2
    results = profile_sampling(
        [config] * 2, work, settings, early=early, on_results=lambda make: shown.append(make()) or True
    )
    assert early.reason == "key" and [len(each) for each in shown] == [1, 1]
    (result,) = results
    assert [each[0].latency_ms.runs for each in shown] == [1, 2] and result.latency_ms.runs == 3
    assert "1 of 2 configs or points were not measured." in early.notices(results, 2)


@pytest.fixture
def mmdit(monkeypatch, capfd):
    from mmdit_cli.app import main

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mmdit", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, *capfd.readouterr()

    return command


@pytest.mark.parametrize(
    "command", slow_but([["profile", "--repeats", "1", "--max-seconds", "0"], ["flops"]], ["flops"]), ids=lambda c: c[0]
)
def test_a_sweep_over_steps_is_a_valid_document_and_a_row_a_point(command, mmdit, tmp_path):
    report = tmp_path / "r.json"
    given = [*command, "--mode", "sample", "--guidance", "2", *CONFIG, "--report", str(report)]
    code, out, err = mmdit(*given, "--sweep", "run.steps=2,4")
    assert code == 0, err
    document = json.loads(report.read_text())
    Draft202012Validator(document_schema(command[0])).validate(document)
    assert [(each["steps"], each["guidance"]) for each in document["results"]] == [(2, 2.0), (4, 2.0)]
    assert "steps" in out and "a sample" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "4"], "--steps is for --mode sample"),
        (["--mode", "sample", "--guidance", "nan"], "--guidance nan: expected a number > 0"),
        (["--mode", "sample", "--compile"], "--mode sample: --compile is for a forward pass or a training step"),
        (["--mode", "sample", "--estimate"], "--mode sample: --estimate is for a forward pass or a training step"),
    ],
)
def test_a_wrong_request_is_one_message(arguments, message, mmdit):
    code, _, err = mmdit("profile", *CONFIG, *arguments)
    assert code == 2 and message in err
