"""Commands use of a config what they need: the rest is no error, and what someone set in vain is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mmdit
from mmdit.config import ConfigError
from mmdit_cli.request.request import READS, Request, make_request
from mmdit_cli.request.tool_config import as_tool_config, tokens_by_default
from mmdit_cli.toy.checkpoints import save_checkpoint
from tests.support.paths import CONFIGS

SMALL = """
name: small
model:
  depth: 1
  modalities:
    text: {dim: 16}
    image: {dim: 16, input: {kind: patches, channels: 4, patch: 2, positions: sincos, max_size: 10}}
  heads: 1
  dim_head: 16
"""


def asked(command: str, tmp_path: Path, text: str, *overrides: str) -> Request:
    (tmp_path / "small.yaml").write_text(text)
    return make_request(command, [str(tmp_path / "small.yaml")], list(overrides), "cpu", "fp32", 0, False, None)


@pytest.mark.parametrize("command", READS)
def test_the_default_of_tokens_is_what_the_input_can_place(command, tmp_path):
    (config,) = asked(command, tmp_path, SMALL).load_configs()
    assert (config.tokens_of("text"), config.tokens_of("image")) == (256, 100)
    assert tokens_by_default([config]) == "run.tokens by default: text 256, image 100"


@pytest.mark.parametrize("command", READS)
def test_tokens_beyond_the_positions_are_refused_where_they_are_used(command, tmp_path):
    request = asked(command, tmp_path, SMALL, "run.tokens.image=400")
    if "run" in READS[command]:
        message = (
            "--set run.tokens.image=400: run.tokens.image: 400 patches are 20 x 20, but positions reach max_size 10"
        )
        with pytest.raises(ConfigError, match=message):
            request.load_configs()
    else:
        assert request.load_configs()


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("flops", "train.steps (FILE:10:9), train.batch_size (--set train.batch_size=3); run.batch_size is"),
        ("train-toy", "run.mask (FILE:11:7)"),
        ("export", "train.steps (FILE:10:9), train.batch_size (--set train.batch_size=3)"),
    ],
)
def test_what_someone_set_and_the_command_does_not_use_is_named_once(command, wanted, tmp_path, capsys):
    text = SMALL + "train: {steps: 3}\nrun: {mask: {text: 0.5}}\n"
    request = asked(command, tmp_path, text, "train.batch_size=3")
    request.load_configs()
    request.say_unused()
    request.say_unused()
    said = f"not used by {command}: {wanted}\n".replace("FILE", str(tmp_path / "small.yaml"))
    assert capsys.readouterr().err == said


def test_of_a_shipped_config_only_what_was_set_is_named(capsys):
    for path in ("toy-two-modality", str(CONFIGS / "toy-two-modality.yaml")):
        request = make_request("train-toy", [path], ["run.batch_size=3"], "cpu", "fp32", 0, False, None)
        request.load_configs()
        request.say_unused()
        assert capsys.readouterr().err == (
            "not used by train-toy: run.batch_size (--set run.batch_size=3); train.batch_size is\n"
        )


def test_of_a_runs_own_config_nothing_is_named(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(SMALL + "run: {mask: {text: 0.5}}\n")
    (tmp_path / "run.json").write_text("{}")
    overrides = ["run.batch_size=3"]
    request = make_request("train-toy", [f"{tmp_path}/config.yaml"], overrides, "cpu", "fp32", 0, False, None)
    request.load_configs()
    request.say_unused()
    assert "run.batch_size (--set" in (said := capsys.readouterr().err) and "mask" not in said


def test_what_is_extended_is_for_all_commands_and_not_named(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text(SMALL + "train: {steps: 3}\nrun: {batch_size: 4}\n")
    request = asked("train-toy", tmp_path, "extends: base.yaml\nrun: {mask: {text: 0.5}}\n")
    request.load_configs()
    request.say_unused()
    assert capsys.readouterr().err == f"not used by train-toy: run.mask ({tmp_path}/small.yaml:2:7)\n"


def test_what_was_taken_by_default_stands_in_the_header(tmp_path, capsys):
    request = asked("flops", tmp_path, SMALL, "run.tokens.text=4")
    configs = request.load_configs()
    request.show([], lambda width: [], configs=configs)
    assert capsys.readouterr().out.splitlines()[1:] == ["run.tokens by default: image 100"]


ROTARY = {"depth": 1, "dim_cond": 16, "heads": 1, "dim_head": 16, "rotary": {"axes": [8, 8]}}
PATCHES = {"kind": "patches", "channels": 4, "patch": 2}


def problems(model: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        as_tool_config({"model": model})
    return str(error.value).splitlines()


def test_what_a_rotary_config_lacks_is_said_at_once_and_in_a_form_that_works():
    found = problems(ROTARY | {"modalities": {"text": {"dim": 16}, "image": {"dim": 16}}})
    assert len(found) == 2 and "as in image: {dim: 64, input: {kind: patches" in found[0] and "timestep: {}" in found[1]
    image = {"dim": 16, "rotary": {"axes": [0, 1]}}
    found = problems(ROTARY | {"dim_head": 8, "modalities": {"text": {"dim": 16}, "image": image}})
    assert len(found) == 3 and all(
        word in "".join(found) for word in ("has no input", "timestep: {}", "8 features of a head")
    )
    as_tool_config({"model": ROTARY | {"timestep": {}, "modalities": {"image": image | {"input": PATCHES}}}})


WRONG = {  # of the section below rotary, and of what the rest of the config says beside it
    "rotary": {"axes": [3, 1, 32], "theta": -1},
    "dim_head": 64,
    "modalities": {"image": {"dim": 16, "rotary": {"axes": [0, 7, 7], "start": [1], "after": "sound", "scale": 0}}},
}


def test_what_is_wrong_with_a_section_does_not_hide_what_is_wrong_beside_it():
    found = "\n".join(problems(ROTARY | WRONG))
    for line in (
        "rotary.axes[0]: expected a multiple of 2, got 3",
        "rotary.axes[1]: expected a number >= 2 and a multiple of 2, got 1",
        "rotary.theta: expected a number > 0, got -1",
        "image.rotary.scale: expected a number > 0, got 0",
        "image.rotary.axes: its axes must be one or more, all different, got [0, 7, 7]",
        "image.rotary.axes[1]: axis 7 does not exist; there are 3",
        "image.rotary.start: there are 3 axes, got 1 numbers",
        "image.rotary.after: 'sound' is no modality with a rotary place of its own",
    ):
        assert line in found


@pytest.mark.parametrize(
    ("changes", "only"),
    [
        ({"dim_con": 16, "dim_cond": None, "timestep": {}}, "unknown key; did you mean dim_cond?"),  # so not "set it"
        ({"rotary": {"axis": [4, 4]}}, "rotary.axes: missing"),  # so no sum of them
        ({"rotary": 3}, "rotary: expected a mapping or null, got 3"),  # so not "the model has none"
    ],
)
def test_no_rule_is_broken_by_what_could_not_be_read(changes, only):
    image = {"dim": 16, "rotary": {"axes": [0, 1]}, "input": PATCHES}
    found = problems(ROTARY | {"timestep": {}, "modalities": {"image": image}} | changes)
    assert any(only in line for line in found) and all("unknown key" in line or only in line for line in found)


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ({}, "sincos"),
        ({"rotary": {"axes": [0, 1]}}, "none"),
        ({"rotary": {"axes": [0, 1]}, "input": PATCHES | {"positions": "sincos"}}, "sincos"),
    ],
)
def test_rotary_and_sine_cosine_positions_are_not_both_on_unless_asked(image, wanted):
    text = {"dim": 16, "input": {"kind": "linear", "dim": 4}, "rotary": {"axes": [0]}}
    modalities = {"text": text, "image": {"dim": 16, "input": PATCHES} | image}
    config = as_tool_config({"model": ROTARY | {"timestep": {}, "modalities": modalities}})
    assert config.model.modalities["image"].input.positions == wanted


def test_a_run_and_a_file_of_weights_are_configs_and_a_run_can_be_loaded(tmp_path):
    (config,) = asked("flops", tmp_path, SMALL, "train.steps=3").load_configs()
    net, run = mmdit.build(config.model), tmp_path / "run"
    mmdit.save(net, tmp_path / "m.safetensors", metadata={"config_name": "small"})
    mmdit.save(net, tmp_path / "shards", max_shard_size="1KB")
    run.mkdir()
    for step, scale in ((8, 1), (12, 3)):
        average = mmdit.build(config.model)
        average.load_state_dict({name: x * scale for name, x in net.state_dict().items()})
        save_checkpoint(run, step, net, average, {"0.step": torch.tensor(1.0)}, averaged=1)
    (run / "config.yaml").write_text(SMALL)
    for path in (run, tmp_path / "m.safetensors", tmp_path / "shards"):
        request = make_request("flops", [str(path)], ["run.batch_size=3"], "cpu", "fp32", 0, False, None)
        (found,) = request.load_configs()
        assert found.model == config.model and found.run.batch_size == 3
        assert found.name == ("shards" if path.name == "shards" else "small")
    loaded = mmdit.load(run).state_dict()
    assert all(torch.equal(loaded[name], 3 * x) for name, x in net.state_dict().items())
