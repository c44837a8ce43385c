"""A profile compared with an earlier one."""

from __future__ import annotations

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.profile.baseline import (
    compare_with_baseline,
    find_earlier,
    load_baseline,
    other_surroundings,
    parse_tolerance,
)


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
        load_baseline(path, "profile")


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
