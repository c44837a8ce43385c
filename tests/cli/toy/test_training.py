"""Training the toy: each setting matters, what is not finite is found, and the shipped configs learn their worlds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import mmdit
from mmdit.config.file import validate_mapping
from mmdit.options import as_data
from mmdit.weights.checkpoints import newest_checkpoint
from mmdit_cli.errors import UserError
from mmdit_cli.memory.demand import Demand
from mmdit_cli.memory.training import TRAINED
from mmdit_cli.request.tool_config import RunConfig, ToolConfig, load_tool_config
from mmdit_cli.toy.any_to_any import any_to_any
from mmdit_cli.toy.data import Batch
from mmdit_cli.toy.data_fit import as_fed, predict, world_of
from mmdit_cli.toy.evaluation import SEEN, draw, evaluate
from mmdit_cli.toy.resume import with_defaults
from mmdit_cli.toy.trainer import Diverged, Trainer
from mmdit_cli.toy.training import train
from mmdit_cli.toy.world import MAX_WORDS, World
from tests.support.paths import CONFIGS
from tests.support.toy import CPU, same_bits, tiny, weights


@pytest.mark.parametrize("when", ["loss", "gradient"])
@pytest.mark.usefixtures("bare_training")
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
    with pytest.raises(
        Diverged, match=rf"the {when} is .* at step 4, beginning in transformer\.blocks\.0\.feedforward"
    ):
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


def test_whether_a_step_fits_is_asked_of_what_it_is_fed_not_of_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunConfig(batch_size=1000, tokens={"image": 65536}, mask={"image": 0.5})
    config = replace(tiny(sound=True, batch_size=3), run=run)
    trainer, fed = Trainer(config, world_of(config), device=CPU, dtype=torch.float32, seed=0), as_fed(config).run
    given: list[Any] = []
    transformer = trainer.model.get_submodule("transformer")
    transformer.register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
    trainer.step()
    tokens = dict(zip(config.model.modalities, given[0]["modality_tokens"], strict=True))
    assert {len(x) for x in tokens.values()} == {fed.batch_size} and tokens.keys() == fed.tokens.keys()
    assert all(tokens[name].shape[1] == fed.tokens[name] for name in tokens if name != "text")
    assert 0.3 * fed.tokens["text"] < tokens["text"].shape[1] <= fed.tokens["text"]

    needed = Demand(as_fed(config), "train", torch.float32, CPU, TRAINED).peak()
    monkeypatch.setattr("mmdit_cli.toy.training.open_run", mock.Mock(side_effect=UserError("it fits")))
    monkeypatch.setattr("mmdit_cli.memory.precheck.free_memory", lambda device: needed)
    with pytest.raises(UserError, match="it fits"):
        train(config, device=CPU, run_dir=tmp_path / "run")


@pytest.mark.usefixtures("bare_training")
def test_training_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tiny(steps=1), device=CPU, run_dir=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("bare_training")
def test_autocast_trains_float32_weights(tmp_path: Path) -> None:
    result = train(tiny(steps=2), device=CPU, dtype=torch.bfloat16, run_dir=tmp_path / "run")
    assert {x.dtype for x in weights(result).values()} == {torch.float32}
    assert not same_bits(weights(result), weights(train(tiny(steps=2), device=CPU, run_dir=tmp_path / "other")))


@pytest.mark.usefixtures("bare_training")
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
        {"prediction": {"output": "data"}},
        {"prediction": {"loss": "noise"}},
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


def test_a_network_that_predicts_the_data_and_knows_them_draws_them() -> None:
    config = tiny(sound=True, prediction={"output": "data"}, sampler={"guidance": 2, "steps": 4})
    batch = world_of(config).batch(3, seed=0, stream=0, index=0)

    class Knowing(torch.nn.Module):
        config = tiny(sound=True).model

        def forward(self, *given: Any, **named: Any) -> dict[str, torch.Tensor]:
            return {name: x.repeat(2, *(1,) * (x.ndim - 1)) for name, x in batch.data.items()}

    samples = draw(Knowing(), batch, config.train, seed=0, device=CPU)
    for name, x in batch.data.items():
        torch.testing.assert_close(samples.data[name], x)


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
        predict(model, x, times, *batch.source.encode(batch.captions, length), per_modality=False)
        for length in (None, MAX_WORDS)
    )
    assert batch.source.encode(batch.captions)[0].shape[1] < MAX_WORDS
    for name in x:
        torch.testing.assert_close(short[name], long[name])


def test_evaluation_draws_the_same_samples_each_time_and_none_in_common_with_noise() -> None:
    config = tiny(sound=True)
    model = mmdit.build(config).eval()
    batch = world_of(config).batch(8, seed=0, stream=SEEN, index=0)
    first, again = (draw(model, batch, config.train, seed=0, device=CPU) for _ in range(2))
    assert all(torch.equal(first.data[name], again.data[name]) for name in first.data)
    shares = evaluate(model, world_of(config), config.train, seed=0, device=CPU)
    assert shares["accuracy"] == first.accuracy and shares["per_attribute"] == first.per_attribute
    assert shares["oracle_real"] == {"image": 1.0, "audio": 1.0}
    assert all(shares["oracle_noise"][name] < chance + 0.05 for name, chance in shares["chance"].items())


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
    data = as_data(tiny())
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
@pytest.mark.parametrize("name", ["toy-two-modality", "toy-generalized"])
def test_the_shipped_configs_learn_to_draw_what_they_are_asked_for(name: str, tmp_path: Path) -> None:
    config = load_tool_config(CONFIGS / f"{name}.yaml")
    result = train(config, device=CPU, seed=20240305, run_dir=tmp_path / "run")
    assert all(accuracy >= 0.95 for accuracy in result.accuracy.values()), result.accuracy
    assert result.loss["last"] < 0.1 * result.loss["first"]


# ----------------------------------------------------------------------------------------------------------- any to any


def echo_config(**settings: Any) -> ToolConfig:
    return tiny(sound=True, data="echo", evaluation_samples=64, timesteps={"per_modality": True}, **settings)


class Oracle(torch.nn.Module):
    """A network that knows the data: the velocity to the sample that goes with what it is given."""

    def __init__(self, config: ToolConfig, batch: Batch) -> None:
        super().__init__()
        self.config, self.batch, self.noise = config.model, batch, {}

    def forward(self, inputs: Any, timestep: Any, masks: Any) -> dict[str, torch.Tensor]:
        out = {}
        for name in ("image", "audio"):
            t = timestep[name].reshape(-1, *(1,) * (inputs[name].ndim - 1))
            out[name] = (inputs[name] - self.batch.data[name]) / t.clamp(min=1e-6)
        return out


def test_a_network_that_knows_the_data_is_right_at_every_task() -> None:
    config = echo_config(sampler={"guidance": 1, "steps": 4})
    world = world_of(config)
    net = Oracle(config, world.batch(64, seed=0, stream=SEEN, index=2))
    tasks = any_to_any(net, world, config.train, seed=0, device=CPU)
    assert tasks == {
        "audio from text and image": 1,
        "image from text and audio": 1,
        "image and audio from noise": 1,
        "audio from image": 1,
        "image from audio": 1,
    }


def test_a_network_that_knows_nothing_is_right_by_chance_alone() -> None:
    config = echo_config(sampler={"guidance": 1, "steps": 2})
    world = world_of(config)
    trainer = Trainer(config, world, device=CPU, dtype=torch.float32, seed=0)
    tasks = any_to_any(trainer.averaged_model, world, config.train, seed=0, device=CPU)
    assert max(tasks.values()) < 0.4


@pytest.mark.slow
def test_the_shipped_config_draws_tones_from_pictures_alone(tmp_path: Path) -> None:
    config = load_tool_config(CONFIGS / "toy-any-to-any.yaml")
    result = train(config, device=CPU, seed=20240305, run_dir=tmp_path / "run")
    assert result is not None and min(result.accuracy.values()) >= 0.95
    assert result.any_to_any["audio from image"] >= 0.8
    assert result.any_to_any["image and audio from noise"] >= 0.15  # a guesser agrees with itself once in 24


def test_tones_echo_their_pictures() -> None:
    world = World(sound=True, echo=True)
    batch = world.batch(500, seed=0, stream=0, index=0)
    read = {name: world.read(name, x) for name, x in batch.data.items()}
    assert world.belong_together(read).all()
    moved = {**read, "audio": read["audio"].roll(1, dims=0)}
    assert world.belong_together(moved).float().mean() < 0.2
    assert World(sound=True).belong_together(read) is None


@pytest.mark.parametrize("settings", [{"timesteps": {"per_modality": False}}, {}])
def test_other_configs_have_no_such_tasks(settings: dict[str, Any]) -> None:
    config = tiny(sound=settings != {}, **({"timesteps": {"per_modality": True}} | settings))
    assert any_to_any(torch.nn.Identity(), world_of(config), config.train, seed=0, device=CPU) == {}


def test_an_echo_needs_its_sound() -> None:
    with pytest.raises(UserError, match="model.modalities must be text, image and audio, got text, image"):
        world_of(tiny(data="echo"))


def test_a_run_from_before_a_new_key_goes_on() -> None:
    saved = {"seed": 0, "config": as_data(tiny())}
    older = {"seed": 0, "config": {**saved["config"], "train": dict(saved["config"]["train"])}}
    del older["config"]["train"]["data"]
    assert with_defaults(older) == saved
    assert with_defaults(None) is None
