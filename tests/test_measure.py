from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdit.config import build
from mmdit_cli.inputs import example_inputs
from mmdit_cli.measure.attribution import Attribution
from mmdit_cli.measure.components import Component, find_components
from mmdit_cli.measure.flops import count_flops
from mmdit_cli.measure.profile import profile_configs
from mmdit_cli.measure.shapes import check_model, check_shapes
from mmdit_cli.measure.timing import repeat, summarize, warm_up
from mmdit_cli.schema import ToolConfig

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
    return ToolConfig.model_validate({"name": "small", "model": base | model, "run": run})


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


def test_an_unknown_part_of_a_model_becomes_a_row_of_its_own():
    from mmdit_cli.measure.flops import component_flops

    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with FlopCounterMode(display=False) as counter:
        net(torch.ones(3, 4))
    rows = component_flops(
        net, [Component("first", None, [net[0]])], counter.get_flop_counts(), counter.get_total_flops()
    )
    assert [(row.name, row.flops, row.parameters) for row in rows] == [("first", 192, 40), ("other", 96, 18)]


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


# ------------------------------------------------------------------------------------------------------------- timing


def fake_stopwatch(times):
    iterator = iter(times)
    return lambda call: next(iterator)


def test_quantiles_and_the_medians_interval_are_order_statistics():
    latency = summarize([t / 1e3 for t in range(1, 102)])
    assert (latency.median, latency.p10, latency.p90, latency.runs) == pytest.approx((51, 11, 91, 101))
    assert (latency.ci_low, latency.ci_high) == pytest.approx((41, 62))  # ranks 50.5 -+ 9.85
    with pytest.raises(ValueError, match="at least one"):
        summarize([])


def test_measuring_stops_when_the_median_is_known():
    assert repeat(print, fake_stopwatch([1.0] * 100), max_seconds=1e9).runs == 5
    noisy = [1.0, 2.0] * 500
    assert repeat(print, fake_stopwatch(noisy), max_seconds=20).runs == 14  # 20 s are up
    assert repeat(print, fake_stopwatch(noisy), repeats=7).runs == 7


def test_warming_up_ends_when_two_runs_agree():
    assert warm_up(print, fake_stopwatch([9.0, 3.0, 1.0, 1.02, 1.0]), max_seconds=100) == [9.0, 3.0, 1.0, 1.02]
    assert len(warm_up(print, fake_stopwatch([1.0, 2.0] * 50), max_seconds=1e9)) == 20
    assert len(warm_up(print, fake_stopwatch([50.0, 20.0, 1.0]), max_seconds=1)) == 2


class Ticking(nn.Module):
    """Takes a known time forward, and backward, on a fake clock."""

    def __init__(self, clock: list[int], forward: int, backward: int) -> None:
        super().__init__()
        self.clock, self.ticks = clock, (forward, backward)

    def forward(self, x):
        return _Tick.apply(x, self.clock, *self.ticks)


class _Tick(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, clock, forward, backward):
        ctx.clock, ctx.ticks = clock, backward
        clock[0] += forward
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.clock[0] += ctx.ticks
        return grad, None, None, None


def test_every_moment_belongs_to_one_component_forward_and_backward():
    clock = [0]
    a, b, between = Ticking(clock, 3, 30), Ticking(clock, 5, 50), Ticking(clock, 2, 20)
    x = torch.ones(2, requires_grad=True)
    components = [Component("a", None, [a]), Component("b", None, [b])]
    with Attribution(components, CPU, clock=lambda: clock[0] * 10**9) as attribution:
        attribution.start()
        y = b(between(a(x))) + a(x)  # a residual and a module called twice
        attribution.start("backward: ")
        y.sum().backward()
        times = attribution.finish()
    assert attribution.calls == {"a": 2, "b": 1}
    forward = {"a": 6.0, "b": 5.0, "other": 2.0}
    assert {name: times.get(name, 0.0) for name in forward} == forward
    assert times["backward: b"] == 50.0
    assert times["backward: a"] == 60.0
    assert times["backward: other"] == 20.0


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


# ------------------------------------------------------------------------------------------------------------ profile


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_a_profile_adds_up(mode):
    chosen = config(run={"tokens": {"text": 64, "image": 256}}, modalities={"text": {"dim": 64}, "image": {"dim": 64}})
    stages = []
    (result,) = profile_configs(
        [chosen], mode=mode, device=CPU, repeats=3, max_seconds=1, on_progress=lambda stage, *_: stages.append(stage)
    )
    assert sum(row.share for row in result.components) == pytest.approx(1)
    assert sum(row.parameters for row in result.components) == result.parameters
    assert sum(row.flops for row in result.components) == pytest.approx(result.flops, rel=0.01)
    assert result.latency_ms.runs == 3
    assert result.utilization == pytest.approx(result.achieved_flops_per_s / result.ceiling.gemm_flops_per_s)
    assert result.samples_per_s == pytest.approx(BATCH / (result.latency_ms.median / 1e3))
    assert any(row.backward_ms > 0 for row in result.components) == (mode == "train")
    assert {"ceilings", "small: warming up", "small: measuring", "small: memory"} <= set(stages)


def test_profiling_leaves_the_weights_as_they_were():
    from mmdit_cli.measure.profile import Call

    chosen = config()
    net = build(chosen.model)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    Call(net, example_inputs(chosen), chosen, "train", compile=False)()
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
