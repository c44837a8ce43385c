from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from mmdit.config import build
from mmdit_cli.errors import UserError
from mmdit_cli.memory.estimate import estimate
from mmdit_cli.memory.measured import measure_memory
from mmdit_cli.memory.training import PROFILED, Training
from mmdit_cli.model_parts.timed_call import Call
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config, load_tool_config
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS

CPU = torch.device("cpu")
KINDS = [("forward", False), ("train", False), ("train", True)]


def config(run: dict | None = None, **model) -> ToolConfig:
    base = {
        "depth": 3,
        "modalities": {"text": {"dim": 96}, "image": {"dim": 128}},
        "dim_cond": 64,
        "heads": 4,
        "dim_head": 32,
    }
    run = {"batch_size": 3, "tokens": {"text": 40, "image": 256}} | (run or {})
    return as_tool_config({"name": "small", "model": base | model, "run": run})


def measured(chosen: ToolConfig, mode: str, dtype: torch.dtype, checkpoint: bool, training: Training = PROFILED):
    model, kept = replace(chosen.model, checkpoint_activations=checkpoint), training.weights_dtype(dtype)
    call = Call(build(model, dtype=kept), example_inputs(chosen, dtype=kept), chosen, mode, compile=False)
    if kept != dtype:
        call.run_model = torch.autocast("cpu", dtype)(call.model)
    if mode == "train":
        training.prepare(call.model, dtype)
    call()
    return measure_memory(call.model, call, CPU, optimizer=call.optimizer)


def agree(chosen: ToolConfig, mode: str, dtype: torch.dtype, checkpoint: bool, training: Training = PROFILED) -> None:
    guess = estimate(chosen, mode, dtype, CPU, checkpoint=checkpoint, training=training)
    use = measured(chosen, mode, dtype, checkpoint, training)
    assert guess.peak == pytest.approx(use.peak, rel=0.1)
    assert guess.activations == pytest.approx(use.activations, rel=0.1)
    assert (guess.weights, guess.gradients, guess.optimizer) == (use.weights, use.gradients, use.optimizer)


@pytest.mark.parametrize("kind", slow_but(KINDS, ("train", True)), ids=str)
@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16], torch.float32), ids=str)
def test_an_estimate_is_within_a_tenth_of_the_measured(kind, dtype):
    mode, checkpoint = kind
    agree(config(qk_rmsnorm=True), mode, dtype, checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("trainable", [None, "blocks.2.*"])
def test_mixed_precision_is_estimated_as_it_is_measured(checkpoint, trainable):
    agree(config(qk_rmsnorm=True), "train", torch.bfloat16, checkpoint, Training("mixed", trainable=trainable))


@pytest.mark.slow
def test_what_training_keeps_is_counted():
    kinds = [Training(), Training("mixed"), Training("mixed", ema=True), Training("mixed", "sgd")]
    pure, mixed, averaged, sgd = (estimate(config(), "train", torch.bfloat16, CPU, training=kind) for kind in kinds)
    assert mixed.weights == 2 * pure.weights and mixed.gradients == 2 * pure.gradients
    assert averaged.peak == mixed.peak + mixed.weights and averaged.ema == mixed.weights
    assert sgd.optimizer == mixed.gradients  # a momentum, beside AdamW's two moments
    with pytest.raises(UserError, match="--trainable attn: no weight has such a name"):
        estimate(config(), "train", torch.bfloat16, CPU, training=Training(trainable="attn"))


SIZES = {
    "many tokens": dict(run={"batch_size": 4, "tokens": {"text": 77, "image": 1024}}, depth=6),
    "wide": dict(modalities={"text": {"dim": 768}, "image": {"dim": 1024}}, heads=16, dim_head=64, depth=4),
    "masked": dict(run={"batch_size": 6, "mask": {"text": 0.5}}, depth=8),
}


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "checkpoint"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_estimates_of_larger_models_are_within_a_tenth_of_the_measured(size, mode, dtype, checkpoint):
    agree(config(**SIZES[size]), mode, dtype, checkpoint)


VARIANTS = {
    "discard": dict(discard=["text"], unused_weights="queries"),
    "adaptive": dict(attention={"kind": "adaptive", "num_adaptive_weights": 2}),
    "soft-clamped": dict(attention={"softclamp": 5.0}),
    "hyper-connections": dict(residual={"kind": "hyper_connections", "streams": 2}),
    "masked": dict(run={"mask": {"text": 0.5}}),
    "two runs of blocks": dict(
        modalities={"text": {"dim": 128}, "image": {"dim": 128}}, single_stream={"depth": 6, "kind": "parallel"}
    ),
    "routed": dict(routing={"start": 2, "end": 11, "modalities": ["image"]}, depth=16),
    "dual in the first": dict(attention={"dual": [0, 1, 2, 3, 4, 5]}, depth=13),
}


@pytest.mark.parametrize("kind", slow_but(KINDS, ("forward", False)), ids=str)
@pytest.mark.parametrize("variant", slow_but(VARIANTS, "discard"))
def test_a_shortened_model_gives_the_whole_models_figures(variant, kind):
    mode, checkpoint = kind
    chosen = config(**({"depth": 7} | VARIANTS[variant]))
    short, whole = (estimate(chosen, mode, torch.bfloat16, CPU, None, checkpoint, whole=w) for w in (False, True))
    assert short == whole


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_shortened_model_gives_the_whole_models_figures_in_mixed_precision(checkpoint):
    kinds = {"training": Training("mixed", ema=True)}
    short, whole = (
        estimate(config(depth=7), "train", torch.bfloat16, CPU, None, checkpoint, whole=w, **kinds)
        for w in (False, True)
    )
    assert short == whole


def test_a_models_blocks_are_run_four_at_most(monkeypatch):
    from mmdit.networks.block import MMDiTBlock

    calls = []
    real = MMDiTBlock.forward
    monkeypatch.setattr(MMDiTBlock, "forward", lambda self, *a, **k: calls.append(self) or real(self, *a, **k))
    estimate(config(depth=30), "forward", torch.float32, CPU)
    assert len(calls) == 4


def test_fused_attention_keeps_no_scores():
    tokens = 1024
    chosen = config(depth=1, run={"batch_size": 1, "tokens": {"text": 1, "image": tokens}})
    fused = estimate(chosen, "train", torch.float32, CPU)
    clamped = replace(chosen.model, attention=replace(chosen.model.attention, softclamp=9.0))
    explicit = estimate(replace(chosen, model=clamped), "train", torch.float32, CPU)
    scores = 4 * 4 * tokens * tokens
    assert explicit.activations - fused.activations > scores
    assert fused.peak - fused.weights - fused.optimizer < 2 * scores


@pytest.mark.slow
def test_a_batch_and_a_card_that_is_not_there_can_be_asked_for():
    one, four = (estimate(config(), "train", torch.float32, CPU, batch) for batch in (1, 4))
    assert four.weights == one.weights and four.activations > 3 * one.activations
    there = torch.cuda.is_available()
    assert estimate(config(), "train", torch.float32, torch.device("cuda")).kernels == ("cuda" if there else "cpu")


@pytest.mark.slow
def test_sd35_large_is_estimated_in_full_size():
    result = estimate(load_tool_config(CONFIGS / "sd3.5-large.yaml"), "train", torch.bfloat16, CPU)
    assert result.parameters == 8_056_627_520
    unused = 64  # the scale of the last block's text queries, which nothing reads
    assert result.gradients == 2 * (result.parameters - unused)
    assert result.optimizer == pytest.approx(2 * result.gradients, rel=1e-6)  # and a count of steps each


ADAPTED = r".*blocks\.\d+\.[a-z_]*(attn|feedforward)[a-z_]*\..*"


def with_peft(model: torch.nn.Module, rank: int, dtype: torch.dtype) -> torch.nn.Module:
    """The same as peft makes it, in place."""
    import peft  # takes seconds, which every process would spend that looks for tests

    linears = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    chosen = [name for name in linears if re.fullmatch(ADAPTED, name)]
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, target_modules=chosen), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["pure", "mixed"])
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("tokens", [256, 1024])  # of many, the adapters' inputs in float32 are what counts
def test_training_a_lora_is_estimated_as_peft_trains_one(precision, checkpoint, tokens):
    chosen = config({"tokens": {"text": 40, "image": tokens}}, qk_rmsnorm=True)
    training = Training(precision, lora_rank=8)
    guess = estimate(chosen, "train", torch.bfloat16, CPU, checkpoint=checkpoint, training=training)
    model = build(replace(chosen.model, checkpoint_activations=checkpoint), dtype=torch.bfloat16)
    with_peft(model, 8, training.weights_dtype(torch.bfloat16))
    call = Call(model, example_inputs(chosen, dtype=torch.bfloat16), chosen, "train", compile=False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    if precision == "mixed":
        call.run_model = torch.autocast("cpu", torch.bfloat16)(call.model)
    call()
    use = measure_memory(call.model, call, CPU, optimizer=call.optimizer)
    assert guess.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (guess.weights, guess.gradients, guess.optimizer) == (use.weights, use.gradients, use.optimizer)
    assert guess.peak == pytest.approx(use.peak, rel=0.01)
    assert guess.activations == pytest.approx(use.activations, rel=0.03)


@pytest.mark.slow
def test_a_lora_holds_less_than_training_all():
    def of(training: Training):
        return estimate(config(depth=8), "train", torch.bfloat16, CPU, training=training)

    whole, lora = of(Training("mixed", ema=True)), of(Training("mixed", ema=True, lora_rank=4))
    assert lora.parameters == whole.parameters == whole.trained and lora.trained * 20 < lora.parameters
    assert lora.gradients == lora.ema == 4 * lora.trained and lora.weights == 2 * lora.parameters + 4 * lora.trained
    twice = of(Training("mixed", lora_rank=8))
    assert twice.trained == 2 * lora.trained
    fewer = of(Training("mixed", lora_rank=4, trainable="*.to_qkv.1.linear.weight"))
    assert 0 < fewer.trained < lora.trained
    with pytest.raises(UserError, match="--trainable x: no linear layer's weight has such a name"):
        of(Training(lora_rank=4, trainable="x"))
