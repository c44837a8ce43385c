from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdit.config import build
from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config
from mmdit_cli.shape_check.shapes import check_model, check_shapes

CPU = torch.device("cpu")
D, COND, TEXT, IMAGE, BATCH = (12, 20), 6, 7, 9, 2
HEADS, DIM_HEAD = 2, 4


def config(run: dict | None = None, **model) -> ToolConfig:
    base = {
        "variant": "generalized",
        "depth": 2,
        "modalities": {"text": {"dim": D[0]}, "image": {"dim": D[1]}},
        "dim_cond": COND,
        "heads": HEADS,
        "dim_head": DIM_HEAD,
    }
    run = {"batch_size": BATCH, "tokens": {"text": TEXT, "image": IMAGE}} | (run or {})
    return as_tool_config({"name": "small", "model": base | model, "run": run})


VARIANTS = {
    "standard": {},
    "discard": {"discard": ["text"]},
    "registers": {"register_tokens": {"image": 3}},
    "adaptive by token": {"attention": {"kind": "adaptive", "num_adaptive_weights": 3}},
    "adaptive by sample": {"attention": {"kind": "adaptive", "num_adaptive_weights": 3, "gating": "sample"}},
    "soft-clamped": {"attention": {"softclamp": 5.0}},
    "hyper-connections": {"residual": {"kind": "hyper_connections", "streams": 3}},
}


def closed_form(variant: str) -> int:
    """FLOPs of one forward pass, 2 a multiply-add, written out."""
    inner, ff, total = HEADS * DIM_HEAD, 4, 0
    lengths = [TEXT, IMAGE + (3 if variant == "registers" else 0)]
    joined = sum(lengths)
    for block in range(2):
        last = block == 1
        for i, (n, d) in enumerate(zip(lengths, D, strict=True)):
            discarded = variant == "discard" and last and i == 0
            rows = BATCH * n
            total += 2 * BATCH * COND * d * (2 if discarded else 6)  # modulation
            weights = 3 if variant == "adaptive by token" else 1
            total += weights * 2 * rows * d * inner * (2 if discarded else 3)  # q, k, v
            if variant == "adaptive by token":
                total += 2 * rows * d * HEADS * 3  # gate
            if variant == "adaptive by sample":
                total += 2 * BATCH * COND * HEADS * 3
            if variant == "hyper-connections":
                streams = 3
                per_read = streams * d * (2 + streams) + (1 + streams) * streams * d
                total += 2 * 2 * rows * per_read
            if not discarded:
                total += weights * 2 * rows * inner * d  # out projection
                total += 2 * 2 * rows * d * d * ff
        queries = lengths[1] if variant == "discard" and last else joined
        total += 2 * 2 * BATCH * HEADS * queries * joined * DIM_HEAD
    return total


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_are_the_closed_form_and_components_add_up(variant):
    result = count_flops(config(**VARIANTS[variant]))
    assert result.forward_flops == closed_form(variant)
    assert sum(row.flops for row in result.components) == result.forward_flops
    assert sum(row.parameters for row in result.components) == result.parameters
    assert result.linear_flops + result.attention_flops == result.forward_flops
    assert result.step_flops == result.forward_flops + result.backward_flops


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_are_those_of_torchs_counter(variant):
    chosen = config(**VARIANTS[variant])
    with torch.device("meta"):
        net = build(chosen.model)
    with FlopCounterMode(display=False) as counter:
        outs = net(**example_inputs(chosen, device="meta").kwargs)
        sum(o.sum() for o in outs if o is not None).backward()
    result = count_flops(chosen)
    assert counter.get_total_flops() == result.step_flops


def test_masks_and_recomputed_activations_change_no_model_flops():
    plain = count_flops(config())
    assert count_flops(config(run={"mask": {"text": 0.5}})).forward_flops == plain.forward_flops
    assert count_flops(config(checkpoint_activations=True)).step_flops == plain.step_flops


def test_a_fused_kernel_executes_half_a_forward_more_in_backward_and_the_explicit_one_does_not():
    fused, explicit = count_flops(config()), count_flops(config(attention={"softclamp": 5.0}))
    assert fused.executed_backward_flops - fused.backward_flops == fused.attention_flops // 2
    assert explicit.executed_backward_flops == explicit.backward_flops


# ------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_of_sound_models_are_right(variant):
    result = check_shapes(config(**VARIANTS[variant]))
    assert result.ok and not result.problems and not result.notes
    assert result.outputs["image"] == [BATCH, IMAGE, D[1]]
    assert ("text" in result.outputs) == (variant != "discard")
    assert any(layer.name == "blocks.1.joint_attn" for layer in result.layers)


def test_a_layer_that_breaks_is_named():
    chosen = config()
    with torch.device("meta"):
        net = build(chosen.model)
        net.blocks[1].feedforwards[0].proj_out = nn.Linear(4 * D[0], D[0] + 1)
    result = check_model(net, chosen)
    assert not result.ok
    (problem,) = result.problems
    assert problem.startswith("blocks.1.ff_residuals.0.depth: ")


def test_a_modality_of_the_wrong_shape_is_named_with_got_and_wanted():
    chosen = config()
    with torch.device("meta"):
        net = build(chosen.model)
        net.final_norms[1] = nn.Linear(D[1], 5)
    result = check_model(net, chosen)
    assert result.problems == [f"the last block, image: got [{BATCH}, {IMAGE}, 5], wanted [{BATCH}, {IMAGE}, {D[1]}]"]


def test_parameters_without_a_gradient_are_noted():
    result = check_shapes(config(discard=["text"], qk_rmsnorm=True, unused_weights="queries"))
    assert result.ok
    assert result.notes == ["no gradient reaches blocks.1.joint_attn.q_norms.0.weight"]


# --------------------------------------------------------------------------------------------------------- components


def test_components_cover_a_model_without_overlap():
    net = build(config(qk_rmsnorm=True, **VARIANTS["adaptive by token"]).model)
    components = find_components(net)
    modules = [m for component in components for m in component.modules]
    inside = {id(child) for m in modules for child in m.modules() if child is not m}
    assert len({id(m) for m in modules}) == len(modules)
    assert not any(id(m) in inside for m in modules)
    assert {"feedforward, text", "qkv projection, image", "attention", "adaptive gate, text"} <= {
        c.name for c in components
    }
