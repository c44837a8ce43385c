"""Which models the schema admits, and the words in which it refuses the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from mmdit.config import ConfigError, as_config, build
from mmdit.config.sections import Config
from mmdit.config.yaml_document import parse
from mmdit.options import ModelOptions, PatchInput, as_data
from mmdit.options.values import Reading, alternatives, hints_of, types_of
from tests.support.paths import CONFIGS as SHIPPED

CONFIGS = sorted(SHIPPED.glob("*.yaml"))

BARE = {"depth": 2, "dim_cond": 8, "modalities": {"text": {"dim": 8}, "image": {"dim": 12}}}
PATCHES = {"kind": "patches", "channels": 3, "patch": 2}
LINEAR = {"kind": "linear", "dim": 5}


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        as_config(BARE | changes)
    return str(error.value)


def model(**changes: Any) -> ModelOptions:
    return as_config(BARE | changes).model


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_named_as_their_file(path: Path) -> None:
    assert as_config(path).name == path.stem


def test_a_config_is_a_path_a_mapping_a_model_section_or_an_object(tmp_path: Path) -> None:
    config = as_config({"name": "small", "model": BARE})
    file = tmp_path / "small.yaml"
    file.write_text("name: small\nmodel: {depth: 2, dim_cond: 8, modalities: {text: {dim: 8}, image: {dim: 12}}}\n")
    assert as_config(config) is config
    assert as_config(file) == as_config(str(file)) == config
    assert as_config(BARE).model == as_config(config.model).model == config.model


def test_sections_of_the_tool_pass_through_the_library_unread() -> None:
    config = as_config({"model": BARE, "run": {"batch_size": 2}, "train": {"x": [1]}})
    assert (config.run, config.train) == ({"batch_size": 2}, {"x": [1]})


def test_defaults_are_the_plain_block_of_the_paper() -> None:
    config = as_config({"depth": 1, "modalities": {"text": {"dim": 8}}}).model
    assert (config.variant, config.dim_cond, config.adaln, config.register_tokens) == ("generalized", None, "zero", 0)
    assert (config.attention.kind, config.attention.num_adaptive_weights) == ("standard", 1)
    assert (config.residual.kind, config.residual.streams) == ("plain", 1)
    assert (config.feedforward.kind, config.feedforward.mult) == ("gelu", 4)
    assert not config.is_whole_network


def test_kind_chooses_the_end_of_a_modality() -> None:
    image = {"dim": 12, "input": PATCHES, "output": {"kind": "patches", "channels": 3}}
    config = model(modalities={"text": {"dim": 8}, "image": image}, timestep={})
    assert isinstance(config.modalities["image"].input, PatchInput)
    assert config.is_whole_network


def test_a_config_can_be_written_out_and_read_again() -> None:
    config = as_config(CONFIGS[0])
    assert as_config(as_data(config)) == config


def test_a_config_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        as_config(BARE).model.depth = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": True}, "depth: expected a whole number, got true"),
        ({"depth": 2.0}, "depth: expected a whole number, got 2.0"),
        ({"depth": 0}, "depth: there would be no block at all; set depth > 0, or single_stream"),
        ({"depth": -1}, "depth: expected a number >= 0, got -1"),
        ({"norm_eps": float("inf")}, "norm_eps: expected a finite number, got .inf"),
        ({"norm_eps": True}, "norm_eps: expected a number, got true"),
        ({"qk_rmsnorm": 1}, "qk_rmsnorm: expected true or false, got 1"),
        ({"modalities": {}}, "modalities: expected 1 or more entries, got 0"),
        (
            {"adaln": "zeros"},
            "adaln: expected one of zero, identity, got 'zeros'; did you mean zero?",
        ),
        (
            {"modalities": {"text": {"dim": 8, "input": {"kind": "patch"}}}},
            "modalities.text.input.kind: expected one of linear, mlp, feedforward, patches, tokens, got 'patch'; "
            "did you mean patches?",
        ),
        (
            {"modalities": {"text": {"dim": 8, "output": {"dim": 8}}}},
            "modalities.text.output.kind: missing; expected one of linear, patches, as in kind: linear",
        ),
        (
            {"modalities": {"text": {"dim": 8, "input": {**LINEAR, "patch": 2}}}},
            "modalities.text.input.patch: unknown key. Valid keys are kind, dim, norm, bias, positions, norm_eps",
        ),
        (
            {"modalities": {"image": {"dim": 8, "output": {"kind": "patches", "channels": 3}}}},
            "modalities.image.output.kind: output 'patches' puts an image together, so it needs input kind 'patches'",
        ),
        (
            {"modalities": {"image": {"dim": 10, "input": PATCHES}}},
            "modalities.image.dim: sine-cosine positions need a dim that is a multiple of 4, got 10",
        ),
        (
            {"modalities": {"text": {"dim": 9, "input": {**LINEAR, "positions": "sincos"}}}},
            "modalities.text.dim: sine-cosine positions need a dim that is a multiple of 2, got 9",
        ),
        (
            {"attention": {"kind": "adaptive"}},
            "attention.num_adaptive_weights: kind 'adaptive' mixes at least 2 weights; set num_adaptive_weights >= 2",
        ),
        (
            {"attention": {"num_adaptive_weights": 2}},
            "attention.num_adaptive_weights: kind 'standard' has 1 weight; set kind: adaptive to mix several",
        ),
        ({"attention": {"gating": "sample"}}, "attention.gating: gating is a setting of kind 'adaptive'"),
        (
            {"attention": {"kind": "adaptive", "num_adaptive_weights": 2, "gating": "sample"}, "dim_cond": None},
            "attention.gating: gating 'sample' comes from the conditioning vector, so set dim_cond",
        ),
        ({"attention": {"dual": [0, 2]}}, "attention.dual[1]: block 2 does not exist; depth is 2"),
        ({"attention": {"dual": [-1]}}, "attention.dual[0]: expected a number >= 0, got -1"),
        ({"attention": {"dual": [True]}}, "attention.dual[0]: expected a whole number, got true"),
        ({"attention": {"softclamp": 0}}, "attention.softclamp: expected a number > 0 or null, got 0"),
        (
            {"residual": {"streams": 4}},
            "residual.streams: kind 'plain' has 1 stream, got 4; set kind: hyper_connections",
        ),
        (
            {"residual": {"kind": "hyper_connections"}},
            "residual.streams: kind 'hyper_connections' needs at least 2 streams, got 1",
        ),
        ({"rotary": {"axes": [3]}}, "rotary.axes[0]: expected a multiple of 2, got 3"),
        ({"rotary": {"axes": []}}, "rotary.axes: expected 1 or more entries, got 0"),
        ({"final_norm": 3}, "final_norm: expected true or false or a mapping or null, got 3"),
        (
            {"variant": "two_modality", "final_norm": {"text": True}},
            "final_norm.text: two_modality has a final norm of the image alone",
        ),
        ({"timestep": {"frequencies": 7}}, "timestep.frequencies: expected a multiple of 2, got 7"),
        (
            {"variant": "two_modality", "modalities": {"image": {"dim": 8}, "text": {"dim": 8}}},
            "modalities: two_modality needs exactly text, image in this order, got image, text",
        ),
        ({"register_tokens": -1}, "register_tokens: expected a number >= 0 or a mapping, got -1"),
        ({"register_tokens": {"image": "x"}}, "register_tokens.image: expected a whole number, got 'x'"),
        (
            {"register_tokens": {"video": 1}},
            "register_tokens.video: 'video' is no modality; the modalities are text, image",
        ),
        ({"discard": "text"}, "discard: expected a list, got 'text'"),
        ({"discard": [1]}, "discard[0]: expected text, got 1"),
        ({"discard": ["video"]}, "discard[0]: 'video' is no modality; the modalities are text, image"),
        (
            {"discard": ["text", "image"]},
            "discard: every modality is discarded, so nothing would come out; keep at least one",
        ),
        (
            {"skip_last_feedforward": ["txt"]},
            "skip_last_feedforward[0]: 'txt' is no modality; the modalities are text, image",
        ),
        (
            {"variant": "two_modality", "skip_last_feedforward": ["image"]},
            "skip_last_feedforward: two_modality can skip the last feedforward of text alone",
        ),
        (
            {"variant": "two_modality", "register_tokens": {"text": 1}},
            "register_tokens.text: two_modality has register tokens before the image alone",
        ),
        (
            {"heads": 3, "dim_head": 5, "dim_joint_attn": 16},
            "dim_joint_attn: dim_joint_attn must be heads * dim_head = 3 * 5 = 15, got 16",
        ),
        ({"heads": 3, "dim_joint_attn": 16}, "dim_joint_attn: dim_joint_attn must be a multiple of heads=3, got 16"),
        (
            {"pooled": {"dim": 4}},
            "pooled: pooled is added to the timestep embedding; set timestep as well",
        ),
        (
            {"timestep": {}, "dim_cond": None},
            "timestep: timestep conditions the blocks through dim_cond, which is null; set it",
        ),
        (
            {"modalities": {"text": {"dim": 8, "input": LINEAR}}},
            "timestep: missing: a model with inputs makes its conditioning vector of the timestep, as timestep: {}",
        ),
        (
            {
                "modalities": {"text": {"dim": 8, "input": LINEAR, "output": LINEAR}, "image": {"dim": 8}},
                "timestep": {},
                "discard": ["text"],
            },
            "modalities.text.output: 'text' is discarded, so it can have no output head",
        ),
    ],
)
def test_a_model_that_can_not_be_is_refused_by_key(changes: Mapping[str, Any], message: str) -> None:
    assert refusal(**changes).splitlines()[0] == f"config: model.{message}"  # and what else is then missing


def test_a_cross_check_between_keys_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "model:\n  depth: 2\n  modalities:\n    text: {dim: 8}\n  attention:\n    dual:\n      - 0\n      - 5\n"
    )
    with pytest.raises(ConfigError) as error:
        build(file)
    assert str(error.value) == f"{file}:8:9: model.attention.dual[1]: block 5 does not exist; depth is 2"


def test_build_refuses_what_is_no_config() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        build("nowhere.yaml")
    with pytest.raises(ConfigError, match=r"model\.depth: missing"):
        build({"modalities": {"text": {"dim": 8}}})


def test_config_errors_are_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("name", ["a.b", "", "two words", "keys", "training", "forward"])
def test_a_modality_has_a_name_that_a_module_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match="can't name a modality; take a word such as audio"):
        as_config({"depth": 1, "modalities": {name: {"dim": 64}}})


@pytest.mark.parametrize("name", ["глубина", "camera_2"])
def test_a_modality_may_have_any_word_for_a_name(name: str) -> None:
    assert name in as_config({"depth": 1, "modalities": {name: {"dim": 64}}}).model.modalities


def required(part: Any, seen: set[Any]) -> Iterator[tuple[Any, Any]]:
    """Every part below one, and its fields without a default."""
    for each in fields(part):
        yield part, each
        for kind in types_of(part)[each.name]:
            members = alternatives(get_args(kind)[1]) if get_origin(kind) is dict else [kind]
            for member in members:
                if is_dataclass(member) and member not in seen:
                    seen.add(member)
                    yield from required(member, seen)


def test_what_is_missing_is_told_with_a_line_that_could_be_written() -> None:
    found = [(p, f) for p, f in required(Config, set()) if f.default is MISSING and f.default_factory is MISSING]
    assert len(found) >= 15
    for part, each in found:
        reading = Reading(repr, plain=True)
        value = parse(each.metadata["example"].encode(), "example").data
        reading.read(value, hints_of(part)[each.name], each.metadata, (each.name,))
        assert not reading.problems, each.name
    with pytest.raises(ConfigError, match="model.depth: missing, and it has no default; write it as in depth: 24"):
        as_config({"heads": 2})
