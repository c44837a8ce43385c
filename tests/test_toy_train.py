"""Training the toy: resumed runs end with the same bits, stopped ones can be gone on with, and what breaks says where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mmdit
from mmdit.config_file import validate_mapping
from mmdit_cli.errors import UserError
from mmdit_cli.schema import ToolConfig, load_tool_config
from mmdit_cli.toy.checkpoints import newest_checkpoint
from mmdit_cli.toy.evaluate import draw, evaluate
from mmdit_cli.toy.runs import differences, resume_command
from mmdit_cli.toy.task import predict, world_of
from mmdit_cli.toy.train import Interrupted, TrainResult, train
from mmdit_cli.toy.trainer import Diverged, Trainer
from mmdit_cli.toy.world import MAX_WORDS, encode

CPU = torch.device("cpu")
CONFIGS = Path(__file__).parent.parent / "configs"


def tiny(sound: bool = False, **train_settings: Any) -> ToolConfig:
    ends = {
        "text": {"dim": 16, "input": {"kind": "tokens", "vocabulary": 64, "max_length": 24}},
        "image": {
            "dim": 16,
            "input": {"kind": "patches", "channels": 3, "patch": 8, "positions": "sincos", "max_size": 2},
            "output": {"kind": "patches", "channels": 3},
        },
        "audio": {
            "dim": 16,
            "input": {"kind": "linear", "dim": 16, "positions": "sincos"},
            "output": {"kind": "linear", "dim": 16},
        },
    }
    model = {
        "depth": 1,
        "modalities": {name: end for name, end in ends.items() if sound or name != "audio"},
        "discard": ["text"],
        "timestep": {"frequencies": 16, "scale": 1000},
        "dim_cond": 16,
        "heads": 2,
        "dim_head": 8,
        "qk_rmsnorm": True,
    }
    few = {"steps": 6, "batch_size": 4, "warmup_steps": 2, "checkpoint_every": 2, "evaluate_every": 0}
    settings = {**few, "evaluation_samples": 8, "sampler": {"steps": 2}, **train_settings}
    data = {"name": "tiny", "model": model, "run": {"tokens": {"image": 4}}, "train": settings}
    return validate_mapping(data, ToolConfig, source="test")


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(Path(result.files["checkpoint"]).with_name("weights.safetensors"))


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stop_after(step: int) -> Any:
    """A progress callback that sends Ctrl-C in the middle of a run."""

    def on_progress(now: int, steps: int, loss: float, rate: float, left: float) -> None:
        if now == step:
            signal.raise_signal(signal.SIGINT)

    return on_progress


@pytest.mark.parametrize("sound", [False, True])
def test_a_run_leaves_what_the_contract_names(sound: bool, tmp_path: Path) -> None:
    result = train(tiny(sound), device=CPU, run_dir=tmp_path / "run")
    modalities = {"image", "audio"} if sound else {"image"}
    assert result.steps == 6 and result.steps_per_s > 0
    assert set(result.loss) == {"first", "last"}
    assert set(result.accuracy) == set(result.chance) == set(result.held_out) == modalities
    assert set(result.files) == {"checkpoint", "samples", "loss_plot", "metrics"}
    assert all(Path(path).is_file() for path in result.files.values())
    assert all(accuracy == 1 for accuracy in result.oracle_real.values())


def test_the_checkpoint_is_a_model_that_load_rebuilds(tmp_path: Path) -> None:
    config = tiny()
    result = train(config, device=CPU, run_dir=tmp_path / "run")
    model = mmdit.load(result.files["checkpoint"])
    assert model.config == config.model
    assert same_bits(dict(model.state_dict()), load_file(result.files["checkpoint"]))


def test_the_folder_tells_the_whole_config_and_it_loads_again(tmp_path: Path) -> None:
    config = tiny()
    train(config, device=CPU, steps=3, run_dir=tmp_path / "run")
    assert load_tool_config(tmp_path / "run" / "config.yaml").train == config.train.model_copy(update={"steps": 3})
    assert load_tool_config(tmp_path / "run" / "config.yaml").model == config.model


def test_metrics_hold_one_line_for_each_step(tmp_path: Path) -> None:
    train(tiny(evaluate_every=4), device=CPU, run_dir=tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "accuracy" in record] == [4, 6]
    assert (tmp_path / "run" / "progress" / "step-00000004.png").is_file()


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert kept == ["checkpoint-00000004", "checkpoint-00000006"]


def test_nothing_in_a_run_is_a_pickle(tmp_path: Path) -> None:
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    kinds = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".jsonl", ".yaml", ".png"}


def test_two_runs_of_one_seed_are_the_same_to_the_bit_and_another_seed_is_not(tmp_path: Path) -> None:
    first, again, other = (
        train(tiny(), device=CPU, seed=seed, run_dir=tmp_path / name) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert same_bits(weights(first), weights(again))
    assert not same_bits(weights(first), weights(other))


@pytest.mark.parametrize("step", [1, 2, 5])
def test_an_interrupted_run_ends_with_the_bits_of_an_unbroken_one(step: int, tmp_path: Path) -> None:
    whole = train(tiny(sound=True), device=CPU, run_dir=tmp_path / "whole")
    folder = tmp_path / "broken"
    with pytest.raises(Interrupted):
        train(tiny(sound=True), device=CPU, run_dir=folder, on_progress=stop_after(step))
    checkpoint, _ = newest_checkpoint(folder)
    assert checkpoint is not None and checkpoint.step == step
    resumed = train(tiny(sound=True), device=CPU, run_dir=folder, resume=True)
    assert same_bits(weights(whole), weights(resumed))
    assert same_bits(load_file(whole.files["checkpoint"]), load_file(resumed.files["checkpoint"]))
    assert (resumed.loss, resumed.accuracy) == (whole.loss, whole.accuracy)


def test_an_interrupt_says_which_command_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match=r"mmdit train-toy --config \S+ --run-dir \S+ --resume --seed 7"):
        train(tiny(), device=CPU, seed=7, run_dir=tmp_path / "run", on_progress=stop_after(3))


def test_that_command_goes_on_with_the_config_it_names(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(tiny(), device=CPU, steps=5, run_dir=folder, on_progress=stop_after(3))
    config = load_tool_config(folder / "config.yaml")
    assert str(folder / "config.yaml") in resume_command(folder, {"seed": 0, "dtype": "fp32"}, CPU)
    assert train(config, device=CPU, run_dir=folder, resume=True).steps == 5


def test_ctrl_c_never_tears_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "whole")
    update = torch.optim.AdamW.step
    calls = []

    def interrupted_update(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)  # after the backward pass and before the update
        return update(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted_update)
    with pytest.raises(Interrupted, match="step 3"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run")
    assert same_bits(weights(train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)), weights(whole))


def test_training_works_outside_of_the_main_thread(tmp_path: Path) -> None:
    results: list[TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(train(tiny(), device=CPU, run_dir=tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].steps == 6


def test_the_handler_of_ctrl_c_is_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(name: str, tmp_path: Path) -> None:
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "run")
    wanted = weights(whole)
    damaged = tmp_path / "run" / "checkpoint-00000006" / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1 if name != "state.json" else 0x80
    damaged.write_bytes(bytes(content))
    messages: list[str] = []
    resumed = train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True, on_message=messages.append)
    assert len(messages) == 1 and "checkpoint-00000006" in messages[0]
    assert same_bits(weights(resumed), wanted)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    whole = train(tiny(), device=CPU, run_dir=tmp_path / "whole")
    folder = tmp_path / "run"
    (folder / ".checkpoint-00000002.tmp").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0, "losses": {"image": 3.0}}\n{"step": 2, "lo')
    resumed = train(tiny(), device=CPU, run_dir=folder, resume=True)
    assert same_bits(weights(resumed), weights(whole))
    assert resumed.loss == whole.loss
    assert not list(folder.glob(".*"))


def test_a_finished_run_can_be_judged_again(tmp_path: Path) -> None:
    first = train(tiny(), device=CPU, run_dir=tmp_path / "run")
    again = train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True)
    assert (again.loss, again.accuracy, again.files) == (first.loss, first.accuracy, first.files)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"steps": 9}, "config.train.steps was 6, is 9"),
        ({"dtype": torch.bfloat16}, 'dtype was "fp32", is "bf16"'),
    ],
)
def test_resuming_with_another_request_is_refused_and_says_what_differs(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    with pytest.raises(UserError, match=named):
        train(tiny(), device=CPU, run_dir=tmp_path / "run", resume=True, **change)


def test_differences_name_keys_on_either_side() -> None:
    saved, wanted = {"a": {"b": 1, "gone": 2}}, {"a": {"b": 3, "new": 4}}
    assert differences(saved, wanted) == ["a.b was 1, is 3", "a.gone was 2, is null", "a.new was null, is 4"]


def test_a_folder_with_something_in_it_is_not_trained_in(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty"):
        train(tiny(), device=CPU, run_dir=tmp_path)


def test_there_is_nothing_to_resume_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        train(tiny(), device=CPU, run_dir=tmp_path / "none", resume=True)


@pytest.mark.parametrize("when", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_at_its_step_and_layer(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def poisoned_step(self: Trainer) -> dict[str, Any]:
        if self.completed == 3:
            layer = self.model.get_submodule("transformer.blocks.0.feedforwards.1")
            if when == "loss":
                layer.register_forward_hook(lambda module, args, output: output * torch.inf)
            else:
                next(layer.parameters()).register_hook(lambda gradient: gradient * torch.nan)
        return step(self)

    monkeypatch.setattr(Trainer, "step", poisoned_step)
    with pytest.raises(Diverged, match=rf"the {when} is .* at step 4, beginning in transformer\.blocks\.0\.feedforward"):
        train(tiny(), device=CPU, run_dir=tmp_path / "run")
    checkpoint, _ = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None and checkpoint.step == 2


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    trainer = Trainer(tiny(), world_of(tiny()), device=CPU, dtype=torch.float32, seed=0)
    with torch.no_grad():
        trainer.model.time_embed.linear_in.weight[0, 0] = torch.nan
    with pytest.raises(Diverged, match="time_embed"):
        trainer.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    trainer = Trainer(tiny(steps=100, warmup_steps=9), world_of(tiny()), device=CPU, dtype=torch.float32, seed=0)
    rates = [trainer.learning_rate_factor(step) for step in range(101)]
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[0] == pytest.approx(0.1) and rates[-1] == pytest.approx(0)


def test_training_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tiny(), device=CPU, run_dir=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_trains_float32_weights(tmp_path: Path) -> None:
    result = train(tiny(), device=CPU, dtype=torch.bfloat16, run_dir=tmp_path / "run")
    assert {x.dtype for x in weights(result).values()} == {torch.float32}
    assert not same_bits(weights(result), weights(train(tiny(), device=CPU, run_dir=tmp_path / "other")))


def test_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fp32 or bf16, got float16"):
        train(tiny(), device=CPU, dtype=torch.float16, run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    "setting",
    [
        {"learning_rate": 1e-3},
        {"weight_decay": 0.5},
        {"clip_grad_norm": 0.01},
        {"caption_dropout": 0.9},
        {"shift": 3.0},
        {"loss_weights": {"image": 2.0}, "clip_grad_norm": 1000.0},
        {"timesteps": {"kind": "uniform"}},
        {"timesteps": {"per_modality": True}},
        {"warmup_steps": 0},
        {"batch_size": 5},
    ],
)
def test_each_setting_changes_what_is_learned(setting: dict[str, Any]) -> None:
    trained = []
    for settings in ({"clip_grad_norm": setting.get("clip_grad_norm", 1.0)} if len(setting) > 1 else {}, setting):
        config = tiny(sound=True, **settings)
        trainer = Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=0)
        trainer.step()
        trainer.step()
        trained.append(dict(trainer.model.state_dict()))
    assert not same_bits(*trained)


def test_with_timesteps_per_modality_a_tone_is_drawn_for_a_given_picture() -> None:
    config = tiny(sound=True, timesteps={"per_modality": True})
    world = world_of(config)
    trainer = Trainer(config, world, device=CPU, dtype=torch.float32, seed=0)
    trainer.step()
    batch = world.batch(3, seed=0, stream=0, index=0)
    samples = draw(trainer.averaged_model, batch, config.train, seed=0, device=CPU, given=["image"])
    assert set(samples.data) == {"audio"}


def test_with_one_timestep_for_all_nothing_can_be_given() -> None:
    config = tiny(sound=True)
    batch = world_of(config).batch(3, seed=0, stream=0, index=0)
    with pytest.raises(ValueError, match="per_modality"):
        draw(mmdit.build(config), batch, config.train, seed=0, device=CPU, given=["image"])


def test_longer_padding_never_changes_a_prediction() -> None:
    config = tiny(sound=True)
    torch.manual_seed(0)
    model = mmdit.build(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = world_of(config).batch(6, seed=0, stream=0, index=0)
    x = {name: torch.randn_like(value, dtype=torch.float64) for name, value in batch.data.items()}
    times = dict.fromkeys(x, torch.rand(6, dtype=torch.float64))
    short, long = (
        predict(model, x, times, *encode(batch.captions, length), per_modality=False) for length in (None, MAX_WORDS)
    )
    assert encode(batch.captions)[0].shape[1] < MAX_WORDS
    for name in x:
        torch.testing.assert_close(short[name], long[name])


def test_evaluation_draws_the_same_samples_each_time_and_none_in_common_with_noise() -> None:
    config = tiny(sound=True)
    model = mmdit.build(config).eval()
    first, again = (evaluate(model, world_of(config), config.train, seed=0, device=CPU) for _ in range(2))
    assert all(torch.equal(first.seen.data[name], again.seen.data[name]) for name in first.seen.data)
    assert first.oracle_real == {"image": 1.0, "audio": 1.0}
    assert all(first.oracle_noise[name] < first.chance[name] + 0.05 for name in first.chance)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("text", {"dim": 16, "input": {"kind": "linear", "dim": 8}}, "model.modalities.text.input"),
        ("text", {"dim": 16, "input": {"kind": "tokens", "vocabulary": 9, "max_length": 24}}, "vocabulary: "),
        ("image", {"dim": 16, "input": {"kind": "linear", "dim": 8}}, "model.modalities.image.input"),
        ("image", {"dim": 16, "input": {"kind": "patches", "channels": 3, "patch": 3}}, "divides 16"),
        ("sound", {"dim": 16, "input": {"kind": "linear", "dim": 16}}, "got text, image, sound"),
        ("audio", {"dim": 16, "input": {"kind": "linear", "dim": 8}}, "model.modalities.audio.input"),
        ("audio", {"dim": 16, "input": {"kind": "linear", "dim": 16}}, "model.modalities.audio.output"),
    ],
)
def test_a_model_that_does_not_fit_the_world_is_refused_by_key(key: str, value: dict[str, Any], named: str) -> None:
    data = tiny().model_dump(mode="json")
    data["model"]["modalities"][key] = value
    with pytest.raises(UserError, match=named):
        world_of(validate_mapping(data, ToolConfig, source="test"))


def test_a_loss_weight_of_no_modality_is_refused() -> None:
    with pytest.raises(UserError, match="loss_weights.sound"):
        world_of(tiny(loss_weights={"sound": 2.0}))


@pytest.mark.parametrize("name", ["toy-two-modality", "toy-generalized"])
def test_the_shipped_configs_fit_their_worlds(name: str) -> None:
    config = load_tool_config(CONFIGS / f"{name}.yaml")
    assert world_of(config).sound is (name == "toy-generalized")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_bits_of_an_unbroken_one(tmp_path: Path) -> None:
    """SIGKILL at several moments of one run, each time resumed."""
    config = tiny(steps=400, checkpoint_every=10)
    whole = train(config, device=CPU, run_dir=tmp_path / "whole")
    folder = tmp_path / "run"
    (tmp_path / "config.json").write_text(config.model_dump_json())
    script = textwrap.dedent(
        """
        import json, sys, torch
        from pathlib import Path
        from mmdit.config_file import validate_mapping
        from mmdit_cli.schema import ToolConfig
        from mmdit_cli.toy.train import train
        torch.set_num_threads(int(sys.argv[3]))
        config = validate_mapping(json.loads(Path(sys.argv[1]).read_text()), ToolConfig, source="test")
        run = Path(sys.argv[2])
        show = lambda step, *rest: print(step, flush=True)
        train(config, device=torch.device("cpu"), run_dir=run, resume=run.is_dir(), on_progress=show)
        """
    )
    command = [sys.executable, "-c", script, tmp_path / "config.json", folder, str(torch.get_num_threads())]
    for lines in (3, 57, 90, 24, 131):
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    resumed = train(config, device=CPU, run_dir=folder, resume=True)
    assert same_bits(weights(resumed), weights(whole))
    assert resumed.loss == whole.loss


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy-two-modality", "toy-generalized"])
def test_the_shipped_configs_learn_to_draw_what_they_are_asked_for(name: str, tmp_path: Path) -> None:
    config = load_tool_config(CONFIGS / f"{name}.yaml")
    result = train(config, device=CPU, seed=20240305, run_dir=tmp_path / "run")
    assert all(accuracy >= 0.95 for accuracy in result.accuracy.values()), result.accuracy
    assert result.loss["last"] < 0.1 * result.loss["first"]
