"""Comparing designs: what is paired with what, and the command."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from jsonschema import Draft202012Validator

from mmdit.options import FeedForwardOptions, NetworkAttentionOptions, RoutingOptions, as_written
from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.output import figures
from mmdit_cli.request.train_config import OptimizerConfig, PredictionConfig
from mmdit_cli.toy import trainer as trainer_module
from mmdit_cli.toy.comparability import as_trained, distinct, same_loss, unlike
from mmdit_cli.toy.comparison import compare_designs
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.designs import DesignRuns
from mmdit_cli.toy.run_settings import RunSettings
from mmdit_cli.toy.runs import InTurns, PlannedRun, Run
from mmdit_cli.toy.seed_plan import SeedPlan
from mmdit_cli.toy.train_result import TrainResult
from mmdit_cli.toy.trainer import Diverged, Trainer
from mmdit_cli.toy.training import train
from tests.support.fake_runs import fake_train, named
from tests.support.leftovers import models_left
from tests.support.toy import CPU, tiny

ALIKE = "can't be told apart"


# --------------------------------------------------------------------------------------------------- what is compared


RECORDS = [
    {"step": 10, "loss": 1.0, "seconds": 1.0},
    {"step": 10, "accuracy": {"image": 0.9, "audio": 0.2}},
    {"step": 20, "loss": 1.0, "seconds": 3.0},
    {"step": 20, "accuracy": {"image": 0.5, "audio": 0.7}},
]


@pytest.mark.parametrize(
    ("target", "found"), [(0.1, (10, 1.0)), (0.2, (10, 1.0)), (0.35, (15, 2.0)), (0.5, (20, 3.0)), (0.6, None)]
)
def test_a_target_is_reached_by_the_worst_modality_between_two_evaluations(target: float, found: Any) -> None:
    assert Run(SimpleNamespace(), RECORDS).to_target(target) == (found and pytest.approx(found))  # type: ignore[arg-type]


def test_designs_see_the_same_data_noise_and_timesteps_on_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    predict, seen = trainer_module.predict, []

    def spy(model: Any, x: Any, times: Any, ids: Any, mask: Any, **more: Any) -> Any:
        seen.append([*x.values(), *times.values(), ids])
        return predict(model, x, times, ids, mask, **more)

    monkeypatch.setattr(trainer_module, "predict", spy)
    for depth, seed in ((1, 5), (2, 5), (1, 6)):
        config = named("x", depth)
        trainer = Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=seed)
        trainer.step()
        trainer.step()
    one, deep, other = seen[0:2], seen[2:4], seen[4:6]
    assert all(torch.equal(x, y) for a, b in zip(one, deep, strict=True) for x, y in zip(a, b, strict=True))
    assert not torch.equal(one[0][0], one[1][0]) and not torch.equal(one[0][0], other[0][0])


def test_steps_are_counted_at_the_size_of_training() -> None:
    config = tiny(sound=True, batch_size=64)
    run = as_trained(config).run
    assert run.batch_size == 64 and run.tokens["image"] == 4 and run.tokens["audio"] == 16
    words = [len(text.split()) for text in world_of(config).batch(64, seed=0, stream=1, index=0).captions]
    assert run.tokens["text"] == max(words)


def test_what_designs_do_not_share_beside_the_model_is_said() -> None:
    base = named("a")
    assert unlike(base, named("b", depth=2)) == [] and same_loss(base, named("b", depth=2))
    (text,) = unlike(base, named("b", batch_size=8))
    assert text.startswith("b and a: seeds do not pair the same data") and "train.batch_size was 4, is 8" in text
    (text,) = unlike(base, named("b", shift=3.0))
    assert "the losses are not the same quantity" in text and not same_loss(base, named("b", shift=3.0))
    assert not same_loss(base, named("b", prediction=PredictionConfig(output="data")))
    routing, feedforward = RoutingOptions(start=0, end=1), FeedForwardOptions(dropout=0.1)
    by_muon = [named(name, optimizer=OptimizerConfig(kind="muon")) for name in "ab"]
    stacked = replace(base.model, attention=NetworkAttentionOptions(kind="adaptive", num_adaptive_weights=2))
    assert unlike(*by_muon) == [] == unlike(base, replace(base, name="b", model=stacked))
    (text,) = unlike(by_muon[0], replace(by_muon[1], model=stacked))
    shares = re.fullmatch("b and a: Muon updates (..)% and (..)% of their blocks' weights, AdamW the rest", text)
    assert shares and int(shares[1]) + 10 < int(shares[2])
    deep = [named("c", depth=depth, optimizer=OptimizerConfig(kind="muon")) for depth in (1, 8)]
    assert unlike(*deep) == []
    for key, model in (
        ("model.routing", replace(base.model, routing=routing)),
        ("model.feedforward.dropout", replace(base.model, feedforward=feedforward)),
    ):  # the loss is that of a network whose tokens skip blocks or lose features, and not of what draws
        (text,) = unlike(base, replace(base, name="b", model=model))
        assert "the losses are not the same quantity" in text and key in text
    (text,) = unlike(base, named("b", evaluation_samples=9))
    assert "accuracy is not measured alike" in text
    other = replace(tiny(sound=True), name="b")
    assert len(unlike(base, other)) == 3


def test_configs_of_one_name_are_called_by_their_files_and_then_by_number() -> None:
    def names(*pairs: tuple[str, str]) -> list[str]:
        found = distinct([named(name) for name, _ in pairs], [path for _, path in pairs])
        return [config.name for config in found]

    assert names(("a", "x.yaml"), ("b", "y.yaml")) == ["a", "b"]
    assert names(("a", "d/x.yaml"), ("a", "d/y.yaml")) == ["x", "y"]
    assert names(("a", "d/x.yaml"), ("a", "e/x.yaml"), ("b", "x-2.yaml")) == ["x", "x-2", "x-2-2"]
    assert names(("a b", "x.yaml"), ("a-b", "y.yaml")) == ["x", "y"]


def test_designs_take_turns_and_a_run_that_fails_is_a_row_of_its_own(tmp_path: Path) -> None:
    ran: list[tuple[str, int]] = []
    losses = {("a", 3): 0.5, ("a", 4): 0.6, ("a", 5): 0.7, ("b", 3): 0.4, ("b", 5): 0.8}
    results, found = compare_designs(
        [named("a"), named("b", depth=2)], SeedPlan(3, 3), folder=tmp_path, runner=InTurns(fake_train(losses, ran))
    )
    assert ran == [("a", 3), ("b", 3), ("a", 4), ("b", 4), ("a", 5), ("b", 5)]
    assert [(r.config, r.seed) for r in results] == [("a", 3), ("a", 4), ("a", 5), ("b", 3), ("b", 5)]
    a, b = found.designs
    assert (a.loss.mean, a.loss.sd) == pytest.approx((0.6, 0.1)) and a.differences == []
    assert b.seeds == [3, 5] and (b.to_target.reached, b.to_target.runs) == (2, 2)
    assert (a.to_target.steps, a.to_target.seconds, a.to_target.flops) == (30, 3.0, 30 * a.step_flops)
    assert b.step_flops > a.step_flops > 0 and b.parameters > a.parameters and a.tokens["image"] == 4
    (note,) = found.notes
    ratio = f"{b.parameters / a.parameters:.2f} times the parameters ({b.parameters / 1e3:.2g}"
    assert note.startswith(f"b does not cost what a does: {ratio}") and "times the FLOPs a step" in note
    assert "time a step" not in note and a.step_seconds == b.step_seconds == pytest.approx(0.1)
    loss = b.differences[0]  # of the seeds that both finished: 0.4 - 0.5 and 0.8 - 0.7
    assert (loss.figure, loss.n, loss.mean) == ("loss", 2, pytest.approx(0.0, abs=1e-12))
    (failed,) = found.failures
    assert (failed.config, failed.seed, failed.step) == ("b", 4, 30) and "nan at step 31" in failed.message


def test_an_accuracy_is_known_to_one_of_the_samples_that_it_is_of() -> None:
    def steps(accuracy: dict[str, float]) -> dict[str, float]:
        design = DesignRuns(named("a", evaluation_samples=12), 0.9)
        result = SimpleNamespace(loss={"last": 1.0}, accuracy=accuracy, held_out={})
        design.runs = {0: SimpleNamespace(result=result, to_target=lambda target: None)}  # type: ignore[dict-item]
        return {name: step for name, (_, step) in design._figures([0]).items()}

    modalities = steps({"image": 1.0, "audio": 1.0})
    assert modalities["accuracy, image"] == modalities["accuracy, audio"] == 1 / 12
    scenes = steps({"single": 1.0, "two": 0.0, "counting": 0.0, "sound": 1.0, "mean": 0.5})
    assert scenes["accuracy, two"] == 3 / 12 and scenes["accuracy, mean"] == scenes["accuracy, sound"] == 1 / 12


@pytest.mark.slow
def test_no_run_leaves_its_weights_in_memory_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(planned: PlannedRun, *tell: Any) -> TrainResult:
        config = planned.config
        trainer = Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=planned.seed)
        trainer.step()
        if config.name == "b":
            raise Diverged("the loss is nan")
        return fake_train({("a", planned.seed): 0.5}, [])(planned)  # type: ignore[no-any-return]

    with models_left(monkeypatch, trainer_module) as left:
        compare_designs([named("a"), named("b", depth=2)], SeedPlan(0, 2), folder=tmp_path, runner=InTurns(run))
    assert left == [0, 0, 0, 0]


@pytest.mark.slow
def test_a_target_that_some_run_missed_is_not_compared(tmp_path: Path) -> None:
    losses = {(name, seed): 0.5 for name in "ab" for seed in (0, 1, 2)}
    runner, plan = InTurns(fake_train(losses, [])), SeedPlan(0, 3)
    _, found = compare_designs([named("a"), named("b")], plan, folder=tmp_path / "x", runner=runner)
    assert found.notes == []  # one size
    assert "steps to the target" in [each.figure for each in found.designs[1].differences]
    _, found = compare_designs([named("a"), named("b")], plan, folder=tmp_path / "y", runner=runner, target=1.1)
    assert found.designs[0].to_target.reached == 0 and found.designs[0].to_target.steps is None
    assert not [each for each in found.designs[1].differences if "target" in each.figure]


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_one_design_under_two_names_differs_by_exactly_nothing(tmp_path: Path) -> None:
    runner = InTurns(RunSettings(CPU, torch.float32).train)
    _, found = compare_designs([named("a"), named("b")], SeedPlan(0, 3), folder=tmp_path, runner=runner)
    differences = found.designs[1].differences
    assert {each.figure for each in differences} >= {"loss", "accuracy, image", "held-out accuracy, image"}
    assert all((each.mean, each.sd, each.verdict) == (0.0, 0.0, ALIKE) for each in differences)
    assert found.designs[0].loss.sd > 0


# -------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def mmdit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs train-toy in a folder with two configs, and gives exit code, standard output and standard error."""
    from mmdit_cli.app import main

    for name, depth in (("a", 1), ("b", 2)):
        content = as_written(named(name, depth, evaluate_every=2))
        content |= {"name": name}
        content["model"]["depth"] = depth
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, width: int = 80) -> tuple[Any, str, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "argv", ["mmdit", "train-toy", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return stop.value.code, out, err

    return run


BOTH = ("-c", "a.yaml", "-c", "b.yaml")


@pytest.mark.usefixtures("bare_training")
def test_two_designs_of_two_seeds_end_in_runs_tables_a_picture_and_a_valid_document(mmdit: Any, tmp_path: Path) -> None:
    code, out, err = mmdit(
        *(*BOTH, "--seeds", "2", "--seed", "7", "--steps", "3", "--dtype", "bf16"),
        *("--plot", "p.png", "--report", "r.json"),
    )
    assert code == 0, err
    out = " ".join(out.split())  # notes wrap
    assert "Fewer than 3 pairs" in out and "2 of 2" in out and "b does not cost what a does" in out
    assert not re.search("better|worse|told apart", out.partition("b against a")[2].partition("b does not")[0])
    assert re.search(r"accuracy, image .* [+-]\d+\.\d pp", out) and "loss, last 3 steps" in out
    assert re.search(r"batch × tokens +4 × \(4 \+ \d+\)", out) and "tokens of image + text" in " ".join(out.split())
    assert "mixed precision: fp32 weights, bf16 autocast" in out
    document = json.loads((tmp_path / "r.json").read_text())
    Draft202012Validator(document_schema("train-toy")).validate(document)
    assert [(r["config"], r["seed"]) for r in document["results"]] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    assert document["comparison"]["seeds"] == [7, 8] and document["comparison"]["reference"] == "a"
    (folder,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        *("a-seed7", "a-seed8", "b-seed7", "b-seed8", "comparison.json", "plan.json")
    }
    assert json.loads((folder / "comparison.json").read_text()) == document
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert document["comparison"]["designs"][0]["loss"]["mean"] == pytest.approx(
        sum(r["loss"]["last"] for r in document["results"][:2]) / 2
    )


@pytest.mark.usefixtures("bare_training")
@pytest.mark.slow
def test_designs_are_tuned_and_then_compared_at_equal_flops_and_resumed_as_a_whole(mmdit: Any, tmp_path: Path) -> None:
    asked = (
        *(*BOTH, "--tune", "train.learning_rate=1e-3,1e-2", "--tune-seeds", "1", "--by", "flops"),
        *("--steps", "4", "--run-dir", "x", "--report", "r.json"),
    )
    code, out, err = mmdit(*asked, width=120)
    assert code == 0, err
    assert "a: tuned" in out and "Tuned on seed 1000" in out and "as many FLOPs as a does" in " ".join(out.split())
    document = json.loads((tmp_path / "r.json").read_text())
    Draft202012Validator(document_schema("train-toy")).validate(document)
    comparison = document["comparison"]
    a, b = comparison["designs"]
    assert (comparison["by"], a["steps"]) == ("flops", 4)
    assert b["steps"] == round(4 * a["step_flops"] / b["step_flops"]) < 4
    assert not any("train.steps" in note for note in comparison["notes"])
    for tuned, config, result in zip(
        comparison["tuning"]["designs"], document["configs"], document["results"], strict=True
    ):
        figures = [each["figure"]["mean"] for each in tuned["candidates"]]
        assert tuned["best"] == tuned["candidates"][figures.index(min(figures))]["point"]
        assert config["train"]["learning_rate"] == tuned["best"]["train.learning_rate"]
        assert result["seed"] == 0 and result["config"] == config["name"] == tuned["config"]
    before = {path: path.stat().st_mtime_ns for path in Path("x").rglob("metrics.jsonl")}
    assert len(before) == 6
    code, _, err = mmdit(*asked, "--resume", width=120)
    assert code == 0 and {path: path.stat().st_mtime_ns for path in before} == before, err  # nothing ran again
    assert json.loads((tmp_path / "r.json").read_text())["comparison"] == comparison


@pytest.mark.usefixtures("bare_training")
@pytest.mark.slow
def test_every_point_of_a_sweep_is_a_design_with_a_row(mmdit: Any) -> None:
    asked = ("-c", "a.yaml", "--sweep", "model.depth=1..2", "--steps", "2", "--seeds", "2", "--run-dir", "x")
    code, out, err = mmdit(*asked, "--report", "r.json", width=120)
    assert code == 0, err
    assert re.search(r"a depth=1 .*2 of 2", out) and re.search(r"a depth=2 .*2 of 2", out) and "against" not in out
    document = json.loads(Path("r.json").read_text())
    Draft202012Validator(document_schema("train-toy")).validate(document)
    designs = document["comparison"]["designs"]
    assert [each["point"] for each in designs] == [{"model.depth": 1}, {"model.depth": 2}]
    assert [config["model"]["depth"] for config in document["configs"]] == [1, 2]
    assert designs[0]["parameters"] < designs[1]["parameters"] and len(document["results"]) == 4
    code, out, err = mmdit(*asked, "--resume")
    assert code == 0 and "loss" not in err, err  # nothing was trained again


@pytest.mark.usefixtures("bare_training")
@pytest.mark.slow
@pytest.mark.parametrize("width", [44, 80])
def test_the_tables_fit_the_screen(width: int, mmdit: Any) -> None:
    code, out, err = mmdit(*BOTH, "--seeds", "3", "--steps", "2", "--run-dir", "x", width=width)
    assert code == 0, err
    assert Path("x/b-seed2/metrics.jsonl").exists() and Path("x/comparison.png").exists()
    tables = out[out.index("designs") : out.index("b does not cost what a does")]
    assert max(map(len, tables.splitlines())) <= width and "…" not in tables


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_a_picture_that_cannot_be_written_loses_nothing_else(mmdit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(figure: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(figures, "save_figure", full)
    code, out, err = mmdit("-c", "a.yaml", "--seeds", "2", "--steps", "2", "--run-dir", "x", "--report", "r.json")
    assert code == 2 and "--plot x/comparison.png: No space left on device" in err
    assert "2 of 2" in out
    assert json.loads(Path("x/comparison.json").read_text()) == json.loads(Path("r.json").read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_a_run_that_diverges_is_told_and_the_exit_code_is_1(mmdit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def failing(self: Trainer) -> dict[str, Any]:
        if self.config.name == "b" and self.seed == 1 and self.completed == 3:
            raise Diverged("the loss is nan at step 4")
        return step(self)

    monkeypatch.setattr(Trainer, "step", failing)
    code, out, err = mmdit(*BOTH, "--seeds", "2", "--report", "r.json")
    assert code == 1 and "1 of 4 runs failed: b, seed 1: the loss is nan at step 4" in err
    assert "b, seed 1: failed after step 3" in " ".join(out.split()) and "1 of 2" in out
    assert len(json.loads(Path("r.json").read_text())["comparison"]["failures"]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_ctrl_c_saves_the_run_under_way_and_says_which(mmdit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def interrupted(self: Trainer) -> dict[str, Any]:
        if self.config.name == "b" and self.completed == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)
    code, out, err = mmdit(*BOTH)
    assert code == 130 and out == ""
    assert "b, seed 0, run 2 of 2" in err and "interrupted at step 3" in err
    command = err.strip().splitlines()[-1].split()
    assert command[:2] == ["mmdit", "train-toy"] and command[-1] == "--resume"
    trained: list[tuple[str, int, int]] = []

    def counted(self: Trainer) -> dict[str, Any]:
        trained.append((self.config.name, self.seed, self.completed))
        return step(self)

    monkeypatch.setattr(Trainer, "step", counted)
    code, out, err = mmdit(*command[2:])
    assert code == 0 and "1 of 1" in out, err
    assert trained == [("b", 0, 3), ("b", 0, 4), ("b", 0, 5)]  # a's first stands
    (resumed,) = Path("runs").iterdir()
    assert len(json.loads((resumed / "comparison.json").read_text())["results"]) == 2
    assert "a-seed0: is one run" in mmdit(*BOTH, "--run-dir", f"{resumed}/a-seed0", "--resume", width=300)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BOTH, "--run-dir", "."], "--run-dir .: is not empty"),
        (["-c", "a.yaml", "--seeds", "0"], "--seeds"),
        (["-c", "a.yaml", "--seeds", "2", "--resume"], "pass --run-dir"),
        ([*BOTH, "--run-dir", "x", "--resume"], "--run-dir x: there is no such comparison to resume"),
        (["-c", "a.yaml", "--target", "90%"], "--target is for a comparison"),
        (["-c", "a.yaml", "--jobs", "2"], "--jobs is for a comparison"),
        (["-c", "a.yaml", "--seeds", "auto"], "--seeds auto decides between designs"),
        ([*BOTH, "--max-seeds", "4"], "--max-seeds is for --seeds auto"),
        ([*BOTH, "--by", "watts"], "--by watts: expected steps, flops, seconds"),
        (["-c", "a.yaml", "--by", "flops"], "--by is for a comparison"),
        ([*BOTH, "--tune-seeds", "2"], "--tune-seeds is for --tune"),
        ([*BOTH, "--tune", "train.learning_rate"], "--tune train.learning_rate: expected KEY=V1,V2"),
        ([*BOTH, "--tune", "train.rate=1,2"], "--tune train.rate=1: train.rate: unknown key"),
        ([*BOTH, "--tune", "train.learning_rate=1e-3,foo"], "train.learning_rate: expected a number, got 'foo'"),
        ([*BOTH, "--tune", "model.depth=1,2", "--match", "params=1M"], "--tune and --match: leave one out"),
        ([*BOTH, "--tune", "model.depth=1,2", "--sweep", "train.steps=1,2"], "--sweep and --tune: leave one out"),
        (["-c", "a.yaml", "--sweep", "train.picture_size=32,16"], "train.picture_size"),
        (["-c", "a.yaml", "--plot", "x.png"], "--plot draws a comparison"),
        ([*BOTH, "--target", "110%"], "--target 110%: expected a share"),
        ([*BOTH, "--plot", "x.gif"], "expected a name that ends in .png"),
        ([*BOTH, "--plot", "no/x.png"], "there is no folder no"),
        ([*BOTH, "--set", "train.loss_weights.audio=2"], "train.loss_weights.audio: expected image"),
    ],
)
def test_a_wrong_request_is_one_message_and_leaves_nothing(arguments: list[str], message: str, mmdit: Any) -> None:
    code, out, err = mmdit(*arguments, width=200)
    assert code == 2 and out == "" and message in err and "Traceback" not in err
    assert not list(Path("runs").glob("*/*")) if Path("runs").exists() else True


# -------------------------------------------------------------------------------------------------------- TensorBoard


@pytest.mark.usefixtures("bare_training")
def test_tensorboard_is_given_every_number_and_a_resumed_run_hides_what_it_does_again(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, folder = tiny(sound=True, evaluate_every=3), tmp_path / "run"

    def stop(now: int, *rest: Any) -> None:
        if now == 5:
            raise RuntimeError  # as a kill would: the checkpoint is of step 4

    with pytest.raises(RuntimeError):
        train(config, device=CPU, run_dir=folder, track=["tensorboard"], on_progress=stop)
    train(config, device=CPU, run_dir=folder, resume=True, track=["tensorboard"])
    found = events.EventAccumulator(str(folder))
    found.Reload()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted = [(r["step"], r["loss"]) for r in records if "loss" in r]
    got = [(event.step, event.value) for event in found.Scalars("loss")]
    assert [step for step, _ in got] == [1, 2, 3, 4, 5, 6]
    assert [x for _, x in got] == pytest.approx([x for _, x in wanted], rel=1e-6)
    assert [event.step for event in found.Scalars("accuracy/audio")] == [3, 6]
    names = {"losses/image", "losses/audio", "learning_rate", "gradient_norm", "seconds", "held_out/image"}
    assert names <= set(found.Tags()["scalars"])


@pytest.mark.slow
@pytest.mark.usefixtures("bare_training")
def test_the_seconds_of_a_resumed_run_go_on(tmp_path: Path) -> None:
    def stop(now: int, *rest: Any) -> None:
        if now == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", on_progress=stop)
    result = train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)
    records = [json.loads(line) for line in Path(result.files["metrics"]).read_text().splitlines()]
    seconds = [record["seconds"] for record in records if "loss" in record]
    assert len(seconds) == 6 and seconds == sorted(seconds) and seconds[0] > 0
