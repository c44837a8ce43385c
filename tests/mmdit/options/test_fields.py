"""An option is written once: a field appears in the schema, the docs, the errors and the constructor by itself."""

from __future__ import annotations

import gc
import inspect
import pickle
import weakref
from dataclasses import FrozenInstanceError, dataclass, replace

import numpy as np
import pytest
from pydantic import TypeAdapter
from torch import nn

from mmdit import JointAttention, MMDiT, MMDiTBlock
from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.config import ConfigError
from mmdit.config.file import validate_mapping
from mmdit.mmdit_generalized_pytorch import MMDiT as GeneralMMDiT
from mmdit.mmdit_generalized_pytorch import MMDiTBlock as GeneralBlock
from mmdit.options import (
    AttentionOptions,
    BlockOptions,
    FeedForwardOptions,
    ModalityOptions,
    ModelOptions,
    OptionError,
    Options,
    ResidualOptions,
    as_data,
    option,
)
from mmdit.options.fields import Number, takes
from mmdit.options.values import Reading
from mmdit_cli.commands.option_tables import key_table, keyword_table


@dataclass(frozen=True, kw_only=True)
class HotAttention(AttentionOptions):
    temperature: Number = option(1.0, "Divides the logits.", gt=0)


@dataclass(frozen=True, kw_only=True)
class HotBlock(BlockOptions):
    attention: HotAttention = option(HotAttention(), "What the attention is made of.")


@dataclass(frozen=True, kw_only=True)
class HotFile(Options):
    model: HotBlock = option(sentence="What the model is.")


@takes(HotBlock)
class Hot(nn.Module):
    def __init__(self, options: HotBlock | None = None, **keywords: object) -> None:
        super().__init__()
        self.options = HotBlock.of(options, keywords, type(self).__name__)


def test_a_new_field_is_a_keyword_of_the_constructor():
    assert inspect.signature(Hot).parameters["temperature"].default == 1.0
    assert Hot(temperature=2.0, heads=3).options.attention.temperature == 2.0
    assert Hot(HotBlock(attention=HotAttention(temperature=3.0))).options.attention.temperature == 3.0


def test_a_new_field_is_a_key_of_the_config_with_its_bounds():
    read = validate_mapping({"model": {"attention": {"temperature": 0.5}}}, HotFile, source="c.yaml")
    assert read.model.attention.temperature == 0.5
    for wrong, text in ((0, "a number > 0, got 0"), ("hot", "a number, got 'hot'"), (True, "a number, got true")):
        with pytest.raises(ConfigError, match=f"^c.yaml: model.attention.temperature: expected {text}$"):
            validate_mapping({"model": {"attention": {"temperature": wrong}}}, HotFile, source="c.yaml")
    with pytest.raises(ConfigError, match="unknown key; did you mean temperature"):
        validate_mapping({"model": {"attention": {"temperatur": 1}}}, HotFile, source="c.yaml")


def test_a_new_field_is_in_the_schema_and_in_both_tables():
    schema = TypeAdapter(HotFile).json_schema()["$defs"]["HotAttention"]["properties"]["temperature"]
    assert (schema["exclusiveMinimum"], schema["default"], schema["description"]) == (0, 1.0, "Divides the logits.")
    assert "| `model.attention.temperature` | number > 0 | 1.0 | Divides the logits. |" in key_table(HotFile)
    assert "| `temperature` | `1.0` | Divides the logits. |" in keyword_table(HotBlock)


def test_a_new_field_is_refused_in_python_by_its_name():
    with pytest.raises(OptionError, match=r"^temperature: expected a number > 0, got -1$"):
        Hot(temperature=-1)
    with pytest.raises(TypeError, match=r"Hot\(\) got an unexpected keyword argument 'temperatur'"):
        Hot(temperatur=1)


def test_every_option_has_a_sentence():
    for schema in (key_table(HotFile), keyword_table()):
        rows = [line for line in schema.splitlines()[2:] if ").kind`" not in line]
        assert rows and not [line for line in rows if line.endswith("|  |")]


# ------------------------------------------------------------------------------------------------------ constructors


def test_keywords_and_options_make_the_same_module():
    keywords = dict(dim_cond=8, heads=2, dim_head=4, qk_rmsnorm=True, softclamp=True, num_residual_streams=2)
    options = BlockOptions(
        dim_cond=8,
        heads=2,
        dim_head=4,
        qk_rmsnorm=True,
        attention=AttentionOptions(softclamp=50.0),
        residual=ResidualOptions(kind="hyper_connections", streams=2),
    )
    by_keywords = MMDiTBlock(dim_text=6, dim_image=8, **keywords)
    by_options = MMDiTBlock(options, dim_text=6, dim_image=8)
    assert repr(by_keywords) == repr(by_options)
    assert by_keywords.state_dict().keys() == by_options.state_dict().keys()


def test_options_and_keywords_together_are_refused():
    with pytest.raises(TypeError, match="takes options or keywords, got both: heads"):
        MMDiTBlock(BlockOptions(), dim_text=6, dim_image=8, heads=2)


@pytest.mark.parametrize("missing", ["dim_text", "dim_image", "depth"])
def test_a_missing_size_is_named(missing):
    sizes = dict(dim_text=6, dim_image=8, depth=1)
    del sizes[missing]
    with pytest.raises(TypeError, match=missing):
        MMDiT(**sizes)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (dict(adaln=True), "adaln: expected one of zero, identity, got True"),
        (dict(single_stream="bogus"), "single_stream: expected one of parallel, sequential, got 'bogus'"),
        (dict(depth=2.5), "depth: expected a whole number, got 2.5"),
        (dict(varlen="no"), "varlen: expected true or false, got 'no'"),
        (dict(norm_eps=float("nan")), "norm_eps: expected a finite number, got nan"),
        (dict(heads=1 << 40), "heads: expected a number <= 4294967296, got 1099511627776"),
        (dict(rotary_axes=(3,)), "rotary_axes.0: expected a number >= 2, .*|rotary_axes.0: expected a multiple of 2"),
        (dict(rotary_axes=(2, 2), rotary_theta=-1), "rotary_theta: expected a number > 0, got -1"),
        (dict(single_stream_depth=-1), "single_stream_depth: expected a number >= 1, got -1"),
        (dict(softclamp=True, softclamp_value=-1), "softclamp_value: expected a number > 0, got -1"),
        (dict(dual_blocks=[-1]), "dual_blocks.0: expected a number >= 0, got -1"),
        (dict(dim_text=0), "dim_text: expected a number > 0, got 0"),
        (dict(final_norm="x"), "final_norm: expected true or false, got 'x'"),
        (dict(should_skip_last_feedforward="no"), "should_skip_last_feedforward: expected true or false, got 'no'"),
        (dict(num_register_tokens=2.5), "num_register_tokens: expected a whole number, got 2.5"),
        (dict(discard=0), "discard: expected a list, got 0"),
        (dict(dual_blocks=3), "dual_blocks: expected a list, got 3"),
        (dict(rotary_axes=16), "rotary_axes: expected a list or null, got 16"),
        (dict(ff_kwargs=[1]), "ff_kwargs: expected a mapping or FeedForwardOptions or null, got"),
        (dict(num_adaptive_weights="2"), "num_adaptive_weights: expected a whole number, got '2'"),
        (dict(num_residual_streams="2"), "num_residual_streams: expected a whole number, got '2'"),
        (dict(softclamp_value="x"), "softclamp_value: expected a number, got 'x'"),
        (dict(softclamp="no"), "softclamp: expected true or false, got 'no'"),
        (dict(qk_norm_shared=2), "qk_norm_shared: expected true or false, got 2"),
        (dict(rotary_theta=-1), "rotary_theta: expected a number > 0, got -1"),
        # accepted, they would change nothing
        (dict(rotary_theta=3.0), "rotary_theta: there are no axes that it is of; set rotary_axes as well, got 3.0"),
        (dict(single_stream="sequential"), "single_stream: there are no such blocks; set single_stream_depth as well"),
        (dict(dynamic_residual=False), "dynamic_residual: kind 'plain' mixes no streams"),
    ],
)
def test_a_wrong_keyword_is_named_with_what_was_wanted(keywords, message):
    with pytest.raises(OptionError, match=f"^({message})"):
        MMDiT(**(dict(depth=1, dim_text=8, dim_image=8) | keywords))


def test_numbers_of_other_libraries_become_pythons_own():
    options = BlockOptions(heads=np.int64(3), norm_eps=np.float32(0.5), qk_rmsnorm=1)
    assert [type(x) for x in (options.heads, options.norm_eps, options.qk_rmsnorm)] == [int, float, bool]
    assert ModelOptions(depth=1, modalities={"a": ModalityOptions(dim=4)}, discard=[]).discard == ()


@pytest.mark.parametrize("given", [4, {"depth": 1}, BlockOptions()])
def test_something_else_than_its_options_is_refused(given):
    with pytest.raises(TypeError, match="takes ModelOptions, or keywords alone; got"):
        GeneralMMDiT(given)
    with pytest.raises(OptionError, match="^modalities.a: expected ModalityOptions, got {'dim': 8}"):
        ModelOptions(depth=1, modalities={"a": {"dim": 8}})


@pytest.mark.parametrize("name", ["dim_modalities", "modality_names", "final_norms", "skip_last_feedforward"])
def test_two_modalities_are_not_told_by_their_places(name):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        MMDiT(depth=1, dim_text=8, dim_image=8, **{name: (4, 4)})


def test_options_of_two_modalities_are_of_text_and_image():
    options = ModelOptions(depth=1, modalities={"a": ModalityOptions(dim=4), "b": ModalityOptions(dim=4)})
    with pytest.raises(ValueError, match="two modalities are called text and image, got a, b"):
        MMDiT(options)
    with pytest.raises(TypeError, match="num_register_tokens"):
        MMDiT(
            replace(options, modalities=dict.fromkeys(("text", "image"), ModalityOptions(dim=4))), num_register_tokens=4
        )


def test_a_subclass_has_the_signature_of_its_own_constructor():
    class Mine(MMDiTBlock):
        def __init__(self, extra, *, width):
            super().__init__(dim_text=width, dim_image=width)
            self.extra = extra

    assert list(inspect.signature(Mine).parameters) == ["extra", "width"]
    assert "Width of the conditioning vector" in MMDiTBlock.__doc__


def test_the_signature_tells_every_keyword():
    known = inspect.signature(MMDiT).parameters
    assert {"depth", "dim_text", "dim_image", "dim_joint_attn", "qk_rmsnorm", "softclamp_value", "ff_kwargs"} <= set(
        known
    )
    assert not {"dim_modalities", "final_norms", "keywords"} & set(known)


# -------------------------------------------------------------------------------------------------------------- data


def test_options_do_not_change_and_can_be_replaced_and_pickled():
    options = ModelOptions.of(None, ModelOptions.keywords() | dict(depth=1, dim_modalities=(4, 6)), "MMDiT")
    with pytest.raises(FrozenInstanceError):
        options.depth = 2  # type: ignore[misc]
    assert replace(options, depth=2).depth == 2
    assert pickle.loads(pickle.dumps(options)) == options
    error = pickle.loads(pickle.dumps(OptionError(("a", 1), "is wrong")))
    assert (error.at, str(error)) == (("a", 1), "a.1: is wrong")


def test_what_is_replaced_is_checked_again():
    with pytest.raises(OptionError, match="streams: kind 'plain' has 1 stream, got 3"):
        replace(ResidualOptions(), streams=3)


def test_options_are_plain_data_and_back():
    options = BlockOptions(feedforward=FeedForwardOptions(kind="swiglu"), dim_cond=4)
    assert validate_mapping(as_data(options), BlockOptions, source="config") == options


def test_a_value_of_one_of_several_types_keeps_nothing_of_those_who_asked() -> None:
    class Large:
        pass

    def ask() -> weakref.ref[Large]:
        large = Large()
        assert Reading(repr, plain=False).read(None, int | None, {}) is None
        assert Reading(repr, plain=False).read(("a",), tuple[int, ...] | tuple[str, ...], {}) == ("a",)
        return weakref.ref(large)

    gc.collect()
    gc.disable()
    try:
        assert ask()() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneralMMDiT(depth=1, dim_modalities=16), "dim_modalities: expected a list, got 16"),
        (lambda: GeneralMMDiT(depth=1, dim_modalities=(8, 0)), "dim_modalities.1: expected a number > 0, got 0"),
        (lambda: GeneralMMDiT(depth=1, dim_modalities=(8, 8), modality_names="ab"), "modality_names: expected a list"),
        (
            lambda: GeneralMMDiT(depth=1, dim_modalities=(8,), skip_last_feedforward="a"),
            "skip_last_feedforward: expected",
        ),
        (
            lambda: GeneralMMDiT(depth=1, dim_modalities=(8,), final_norms="yes"),
            "final_norms: expected true or false or",
        ),
        (lambda: GeneralBlock(dim_modalities=(-1, 8)), "dim_modalities.0: expected a number > 0, got -1"),
        (lambda: GeneralBlock(dim_modalities=(8, 8), skip_feedforward=5), "skip_feedforward: expected a list, got 5"),
        (lambda: MMDiTBlock(dim_text=8, dim_image="8"), "dim_image: expected a whole number, got '8'"),
        (lambda: JointAttention(dim_inputs=16), "dim_inputs: expected a list, got 16"),
        (lambda: AdaptiveAttention(dim=8, unused_weights="all"), "unused_weights: .* discarded modality; set discard"),
        (lambda: GeneralBlock(dim_modalities=(8,), unused_weights="all"), "unused_weights: .* modality; set discard"),
        (
            lambda: AdaptiveAttention(dim=8, dim_cond=8, gating="sample"),
            "gating: gating is a setting of kind 'adaptive'",
        ),
        (lambda: AdaptiveAttention(dim=0), "^dim: expected a number > 0, got 0"),
    ],
)
def test_sizes_and_places_of_modalities_are_checked_where_they_are_given(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_kind_of_list_is_one():
    for dims in ([8, 6], (8, 6), np.array([8, 6]), dict.fromkeys((8, 6)).keys()):
        net = GeneralMMDiT(depth=1, dim_modalities=dims, heads=1, dim_head=4, discard={1}, dual_blocks=range(0))
        assert net.dim_modalities == (8, 6) and net.discarded == {1}
