"""A profile compared with an earlier one."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mmdit_cli.errors import UserError
from mmdit_cli.profile import fresh_processes, grid_profile
from mmdit_cli.profile.baseline import (
    compare_with_baseline,
    find_earlier,
    other_surroundings,
    parse_tolerance,
    repeated_latency,
    seems_changed,
)
from mmdit_cli.profile.fresh_processes import PROCESSES
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.request.earlier_document import read_document
from mmdit_cli.request.sweep import PointConfig
from mmdit_cli.request.tool_config import load_tool_config
from tests.support.small_configs import config


def result(median=10.0, low=9.9, high=10.1, peak=1000, parameters=50, flops=70, **more):
    latency = {"median": median, "ci_low": low, "ci_high": high}
    memory = {"peak": peak}
    figures = {"parameters": parameters, "flops": flops, "latency_ms": latency, "memory_bytes": memory}
    return {"config": "a", "mode": "forward", **figures, **more}


def verdicts(now, before, tolerance=0.05):
    return {c.figure: c.verdict for c in compare_with_baseline([now], {"results": [before]}, tolerance)}


def test_figures_within_the_tolerance_are_the_same():
    assert set(verdicts(result(10.4, 10.3, 10.5, peak=1040), result()).values()) == {"same"}


def test_a_slower_or_larger_model_is_named():
    got = verdicts(result(11, 10.9, 11.1, peak=1060, parameters=51, flops=71), result())
    assert got == dict.fromkeys(("latency", "peak memory", "parameters", "FLOPs"), "worse")


def test_a_slower_median_inside_both_intervals_is_noise():
    assert verdicts(result(11, 9, 13), result(10, 9, 12))["latency"] == "noise"


def test_a_faster_model_is_better():
    assert verdicts(result(8, 7.9, 8.1), result())["latency"] == "better"


def test_sweep_points_are_compared_with_their_own():
    earlier = [result(point={"n": 1}), result(20, 19, 21, point={"n": 2})]
    (change, *_) = compare_with_baseline([result(20, 19, 21, point={"n": 2})], {"results": earlier}, 0.05)
    assert change.verdict == "same" and change.before == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON document"),
        ("[]", "is no document of this tool"),
        ('{"results": 3}', "is no document of this tool"),
        ('{"results": [], "command": "flops"}', "is a document of 'flops', expected one of 'profile'"),
        ("[" * 100_000, "is no JSON document"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(text, message, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_document(path, "--baseline", "profile")


def test_a_config_that_the_baseline_lacks_is_named():
    with pytest.raises(UserError, match="holds no a; its configs are z"):
        compare_with_baseline([result()], {"results": [result(config="z")]}, 0.05)
    with pytest.raises(UserError, match="a was measured in mode 'train'"):
        compare_with_baseline([result()], {"results": [result(mode="train")]}, 0.05)
    with pytest.raises(UserError, match="a has no number flops"):
        compare_with_baseline([result()], {"results": [result(flops="many")]}, 0.05)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.1", 0.1), ("0", 0.0), ("150%", 1.5)])
def test_a_tolerance_is_a_share(text, share):
    assert parse_tolerance(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "five", "-1", "nan", "inf%"])
def test_what_is_no_tolerance_is_refused(text):
    with pytest.raises(UserError, match="expected a share such as 5% or 0.05"):
        parse_tolerance(text)


RUN = {"dtype": "fp32", "device": "cpu", "threads": 2, "torch_version": "2.13.0", "device_name": "EPYC"}


@pytest.mark.parametrize(
    ("run", "how", "message"),
    [
        ({"dtype": "bf16"}, {}, "a was measured in dtype 'fp32', and this run is in dtype 'bf16'; change --dtype"),
        ({"device": "cuda:1"}, {}, "device 'cpu', and this run is in device 'cuda'; change --device"),
        ({}, {"compiled": True}, "compiled False, and this run is in compiled True; change --compile"),
        ({}, {"caches": "cold"}, "change --cold"),
        ({"dtype": "fp16"}, {"mode": "train"}, "mode 'forward', dtype 'fp32', and .* change --mode, --dtype, or make"),
    ],
)
def test_a_baseline_of_other_settings_is_refused_with_what_to_change(run, how, message):
    before = RUN | {"results": [result(compiled=False, caches="warm")]}
    same = {"config": "a", "mode": "forward", "compiled": False, "caches": "warm"}
    assert find_earlier([same], before, RUN)
    with pytest.raises(UserError, match=message):
        find_earlier([same | how], before, RUN | run)


def test_cards_of_one_machine_are_one_device():
    before = RUN | {"device": "cuda", "results": [result()]}
    assert find_earlier([{"config": "a"}], before, RUN | {"device": "cuda:1"})


def test_other_surroundings_are_named_and_what_is_measured_is_not_judged():
    assert other_surroundings(RUN, RUN) == []
    threads, torch, name = other_surroundings(RUN | {"threads": 1, "torch_version": "2.6.0", "device_name": "M4"}, RUN)
    assert "with 2 threads, this run with 1 threads" in threads and "--threads 2" in threads
    assert "with torch 2.13.0, this run with torch 2.6.0" in torch and "with EPYC, this run with M4" in name
    slower = result(20, 19, 21, peak=9000, flops=71)
    changes = compare_with_baseline([slower], {"results": [result()]}, 0.05, withheld=("latency", "peak memory"))
    assert [change.verdict for change in changes] == ["withheld", "withheld", "same", "worse"]


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"batch_size": 4}, "batch_size 2, and this run is in batch_size 4; change run.batch_size"),
        (
            {"tokens": {"text": 3, "image": 4}},
            "in 4 tokens of text, and this run is in 3 tokens of text; change run.tokens,",
        ),
        (
            {"mask": {"text": 0.5}},
            "4 valid tokens of text, and this run is in 2 valid tokens of text; change run.mask,",
        ),
    ],
)
def test_another_batch_is_refused_before_anything_is_measured(run, told, monkeypatch):
    monkeypatch.setattr(grid_profile, "profile_configs", lambda *args, **more: pytest.fail("measured"))
    base, other = config({"batch_size": 2, "tokens": {"text": 4, "image": 4}}), None
    other = replace(base, run=replace(base.run, **run))
    earlier = {"results": [result(point={}, config=base.name, **grid_profile._batch(base))]}
    with pytest.raises(UserError, match=told):
        grid_profile.profile_grid([PointConfig(other, {})], Settings(), earlier=earlier)


def process(draw: random.Random, factor: float = 1.0) -> dict:
    """A process on a machine where processes differ by a tenth and more, and each knows its own median to 1 %."""
    median = 10 * factor * math.exp(draw.gauss(0, 0.13))
    return result(median, median * 0.99, median * 1.01)


def judged(draw: random.Random, factor: float) -> tuple[str, str]:
    """What one process says of `factor`, and what its repetition says."""
    (latency, *_) = compare_with_baseline([process(draw, factor)], {"results": [process(draw)]}, 0.05)
    if not seems_changed(latency):
        return latency.verdict, latency.verdict
    medians = [process(draw, factor)["latency_ms"]["median"] for _ in range(PROCESSES)]
    return latency.verdict, repeated_latency(latency, medians, 0.05).verdict


def test_an_unchanged_config_is_called_worse_at_most_once_in_twenty_times_whatever_processes_differ_by():
    draw, times = random.Random(0), 2000
    verdicts = [judged(draw, 1.0) for _ in range(times)]
    assert sum(alone == "worse" for alone, _ in verdicts) > times / 4  # as was
    assert sum(after == "worse" for _, after in verdicts) <= times / 20
    assert sum(after == "better" for _, after in verdicts) <= times / 20


def test_twice_the_time_is_told_from_the_spread_of_processes():
    draw = random.Random(1)
    assert sum(judged(draw, 2.0)[1] == "worse" for _ in range(200)) > 180


def test_a_repeated_latency_is_the_mean_of_processes_with_the_interval_of_one_more():
    (change, *_) = compare_with_baseline([result(20, 19.9, 20.1)], {"results": [result()]}, 0.05)
    medians = [12.0, 11.0, 13.0, 12.5, 11.5]
    again = repeated_latency(change, medians, 0.05)
    logs = [math.log(m / 10) for m in medians]
    reach = 2.7764451 * statistics.stdev(logs) * math.sqrt(1.2)  # Student's t for 4 degrees of freedom, from tables
    assert (again.ratio, again.processes) == (pytest.approx(math.exp(sum(logs) / 5)), 5)
    assert again.now == pytest.approx(again.ratio * 10)
    assert again.low == pytest.approx(math.exp(sum(logs) / 5 - reach)) and again.verdict == "noise"
    assert repeated_latency(change, [12.0, 12.1, 12.0, 12.1, 12.0], 0.05).verdict == "worse"
    assert repeated_latency(change, [10.1, 10.2, 10.1, 10.2, 10.1], 0.05).verdict == "same"
    assert repeated_latency(change, [8.0, 8.1, 8.0, 8.1, 8.0], 0.05).verdict == "better"


def test_only_what_seems_changed_is_repeated_and_its_own_processes_answer(monkeypatch):
    """Two configs of which the second seems slower; processes say that it is not."""
    asked = []

    def medians(configs, settings, on_progress):
        asked.append([config.name for config in configs])
        return [[30.0] * 5, [10.0, 10.1, 10.2, 10.1, 10.0]]

    grid = [PointConfig(replace(config(), name=name), {}) for name in "ab"]
    earlier = {"results": [result(point={}), result(point={}, config="b")]}

    def compare(*args, **more):
        now = [result(point={}), result(20, 19, 21, point={}, config="b")]
        return compare_with_baseline(now, earlier, 0.05)

    monkeypatch.setattr(grid_profile, "median_latencies", medians)
    monkeypatch.setattr(grid_profile, "compare_with_baseline", compare)
    monkeypatch.setattr(grid_profile, "profile_configs", lambda *args, **more: [])
    monkeypatch.setattr(grid_profile, "asdict", lambda result: result)
    done = grid_profile.profile_grid(grid, Settings(), earlier=earlier, tolerance=0.05)
    latencies = {change.config: change for change in done.changes if change.figure == "latency"}
    assert asked == [["a", "b"]]
    assert (latencies["a"].verdict, latencies["a"].processes) == ("same", 0)
    assert (latencies["b"].verdict, latencies["b"].processes) == ("same", 5)


def test_fresh_processes_measure_the_same_configs_with_the_same_settings(monkeypatch):
    commands, threads = [], []

    def run(command, env, **more):
        files = [word for before, word in itertools.pairwise(command) if before == "--config"]
        commands.append((command, [load_tool_config(file) for file in files]))
        threads.append(env["OMP_NUM_THREADS"])
        out = json.dumps({"results": [{"latency_ms": {"median": 10 * i + len(commands)}} for i in range(len(files))]})
        return SimpleNamespace(returncode=0, stdout=out.encode(), stderr=b"")

    monkeypatch.setattr(fresh_processes.subprocess, "run", run)
    configs = [replace(config(), name="ünï 😀"), config({"tokens": {"text": 3, "image": 4}}, depth=1)]
    settings = Settings(mode="train", dtype=torch.bfloat16, seed=7, repeats=4, compile=True, cold=True)
    assert fresh_processes.median_latencies(configs, settings) == [[1, 2, 3, 4, 5], [11, 12, 13, 14, 15]]
    command, loaded = commands[0]
    assert loaded == configs and set(threads) == {str(torch.get_num_threads())}
    words = " ".join(command)
    for option in ("--mode train", "--dtype bf16", "--seed 7", "--repeats 4", "--compile", "--cold", "--device cpu"):
        assert option in words
    broken = SimpleNamespace(returncode=2, stdout=b"", stderr=b"error: not enough memory")
    monkeypatch.setattr(fresh_processes.subprocess, "run", lambda *args, **more: broken)
    with pytest.raises(UserError, match="could not be repeated in a fresh process: error: not enough memory"):
        fresh_processes.median_latencies(configs, settings)
