"""Designs compared over seeds: the statistics, the order of the runs, and the command."""

from __future__ import annotations

import json
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from toy_helpers import tiny

from mmdit_cli.toy import compare
from mmdit_cli.toy.compare import (
    ALIKE,
    BETTER,
    UNKNOWN,
    WORSE,
    Runs,
    compare_designs,
    difference,
    run_designs,
    steps_to,
)
from mmdit_cli.toy.task import world_of
from mmdit_cli.toy.trainer import Diverged, Trainer


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 6, 9, 19, 99, 1000])
def test_students_quantile_is_scipys(freedom):
    stats = pytest.importorskip("scipy.stats")
    assert compare.student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-3)


def test_a_difference_is_told_apart_where_its_interval_leaves_out_0():
    values = [0.1, 0.2, 0.3]
    half = 4.3027 * 0.1 / math.sqrt(3)
    found = difference(values, more_is_better=True)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert found.verdict == ALIKE
    clear = [0.2, 0.21, 0.19]
    assert difference(clear, more_is_better=True).verdict == BETTER
    assert difference(clear, more_is_better=False).verdict == WORSE
    assert difference([0.5], more_is_better=True).verdict == UNKNOWN


def test_the_interval_holds_the_truth_19_times_in_20():
    rng = torch.Generator().manual_seed(0)
    told = 0
    for _ in range(1000):
        found = difference(torch.randn(4, generator=rng).tolist(), more_is_better=True)
        told += found.verdict != ALIKE
    assert told <= 50 + 2 * math.sqrt(1000 * 0.05 * 0.95)


def test_the_target_is_reached_when_every_modality_has_it():
    records = [
        {"step": 1, "loss": 2.0},
        {"step": 10, "accuracy": {"image": 0.95, "audio": 0.2}},
        {"step": 20, "accuracy": {"image": 0.91, "audio": 0.9}},
        {"step": 30, "accuracy": {"image": 1.0, "audio": 1.0}},
    ]
    assert steps_to(records, 0.9) == 20 and steps_to(records, 0.99) == 30
    assert steps_to(records[:2], 0.9) is None


def result(loss, accuracy, rate=10.0):
    return SimpleNamespace(
        loss={"first": 1.0, "last": loss},
        accuracy={"image": accuracy},
        held_out={"image": accuracy / 2},
        steps_per_s=rate,
    )


def named(name):
    return tiny().model_copy(update={"name": name})


def test_runs_take_turns_and_one_that_diverges_stops_no_other():
    ran, said = [], []

    def train(config, seed):
        ran.append((config.name, seed))
        if (config.name, seed) == ("b", 4):
            raise Diverged("the loss is nan at step 7")
        return result(0.5, 0.9)

    designs = run_designs([named("a"), named("b")], [3, 4], train, lambda r: [], said.append)
    assert ran == [("a", 3), ("b", 3), ("a", 4), ("b", 4)]
    assert list(designs[0].results) == [3, 4] and list(designs[1].results) == [3]
    assert designs[1].failed == ["seed 4: the loss is nan at step 7"] and "b, seed 4" in said[0]


def test_designs_are_compared_on_the_seeds_that_both_have():
    config = named("a")
    records = [{"step": 10, "accuracy": {"image": 0.5}}, {"step": 30, "accuracy": {"image": 0.95}}]
    first = Runs(config, {s: result(x, 0.9) for s, x in zip((0, 1, 2), (0.5, 0.6, 0.7), strict=True)})
    second = Runs(
        named("b"), {s: result(x, 0.8) for s, x in zip((1, 2), (0.5, 0.6), strict=True)}, failed=["seed 0: x"]
    )
    for runs in (first, second):
        runs.records = {seed: records for seed in runs.results}
    a, b = compare_designs([first, second], 0.9)
    assert (a.loss.mean, a.loss.sd) == pytest.approx((0.6, statistics.stdev([0.5, 0.6, 0.7])))
    assert a.loss_difference is None and a.accuracy_difference == {}
    assert b.loss_difference.mean == pytest.approx(-0.1) and b.loss_difference.verdict == BETTER
    assert b.accuracy_difference["image"].mean == pytest.approx(-0.1)
    assert (b.runs, b.reached, b.steps_to_target, b.seconds_to_target) == (3, 2, 30, 3.0)
    assert a.flops_to_target == 30 * a.step_flops and a.step_flops > 0


def test_no_two_designs_may_have_one_name():
    from mmdit_cli.errors import UserError

    with pytest.raises(UserError, match="two configs are called a"):
        run_designs([named("a"), named("a")], [0], lambda c, s: None, lambda r: [])


def test_every_design_sees_the_same_data_noise_and_timesteps():
    a, b = tiny(), tiny()
    b = b.model_copy(update={"model": b.model.model_copy(update={"depth": 2})})
    drawn = []
    for config in (a, b):
        trainer = Trainer(config, world_of(config), device=torch.device("cpu"), dtype=torch.float32, seed=5)
        drawn.append(trainer._draw())
    for x, y in zip(*drawn, strict=True):
        for p, q in zip(x.values(), y.values(), strict=True) if isinstance(x, dict) else [(x, y)]:
            assert torch.equal(p, q)


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    import sys

    import yaml

    from mmdit_cli.app import main

    for name in "ab":
        content = tiny().model_dump(mode="json", exclude_unset=True) | {"name": name}
        content["train"] |= {"steps": 4, "evaluation_samples": 8, "evaluate_every": 2}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def command(*arguments: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["mmdit", "train-toy", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return SimpleNamespace(code=stop.value.code, out=out, err=err)

    return command


def test_identical_designs_can_not_be_told_apart(run, tmp_path):
    done = run("-c", "a.yaml", "-c", "b.yaml", "--seeds", "2", "--run-dir", "runs/x", "--report", "r.json")
    assert done.code == 0, done.err
    assert "can't be told apart" in done.out
    document = json.loads((tmp_path / "r.json").read_text())
    assert [(r["config"], r["seed"]) for r in document["results"]] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    second = document["comparison"][1]
    assert second["loss_difference"]["mean"] == 0 and second["loss_difference"]["verdict"] == ALIKE
    assert (tmp_path / "runs/x/comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "runs/x/b-seed1/metrics.jsonl").exists()


def test_tensorboard_has_every_number(run, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = run("-c", "a.yaml", "--run-dir", "r", "--tensorboard")
    assert done.code == 0, done.err
    found = events.EventAccumulator(str(tmp_path / "r"))
    found.Reload()
    records = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    losses = [(event.step, event.value) for event in found.Scalars("loss")]
    wanted = [(r["step"], r["loss"]) for r in records if "loss" in r]
    assert [step for step, _ in losses] == [step for step, _ in wanted]
    assert [x for _, x in losses] == pytest.approx([x for _, x in wanted], rel=1e-6)
    assert {"losses/image", "accuracy/image", "learning_rate", "gradient_norm"} <= set(found.Tags()["scalars"])


def test_a_missing_tensorboard_is_one_message(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = run("-c", "a.yaml", "--tensorboard")
    assert done.code == 2 and "pip install 'mmdit-cli[tensorboard]'" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "2", "--resume", "--run-dir", "x"], "--resume goes on with one run"),
        (["--resume"], "--resume needs the run's folder"),
        (["--plot", "x.png"], "--plot draws a comparison"),
        (["--seeds", "2", "--plot", "x.pdf"], "expected a name that ends in .png"),
        (["--target", "150%"], "--target 150%: expected a share"),
        (["-c", "a.yaml"], "two configs are called a"),
    ],
)
def test_a_wrong_request_is_one_message(arguments, message, run):
    done = run("-c", "a.yaml", *arguments)
    assert done.code == 2 and message in " ".join(done.err.split()), done.err
