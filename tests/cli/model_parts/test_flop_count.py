"""FLOPs against torch's own counter and against what can be written down by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdit.config import build
from mmdit_cli.model_parts.components import Component
from mmdit_cli.model_parts.counting import Counts
from mmdit_cli.model_parts.flop_count import FlopsResult, component_flops, count_flops
from mmdit_cli.model_parts.follower import BACKWARD
from mmdit_cli.model_parts.operator_counter import OpRecorder
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig, load_tool_config
from tests.support.configs import with_two_blocks
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS
from tests.support.small_configs import BATCH, COND, IMAGE, TEXT, VARIANTS, D, config

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
QUICK = [CONFIGS / "flux.1-dev.yaml"]


# ----------------------------------------------------------------------------------------------------- torch's counter


def holds_against_torch(config: ToolConfig) -> None:
    with torch.device("meta"):
        net = build(config.model)
    with FlopCounterMode(display=False) as forward:
        outs = net(**example_inputs(config, device="meta").kwargs)
    with FlopCounterMode(display=False) as backward:
        sum(x.sum() for x in (outs.values() if isinstance(outs, dict) else outs) if x is not None).backward()
    result = count_flops(config)
    assert result.forward_flops == forward.get_total_flops() > 0
    assert result.backward_flops == backward.get_total_flops() > 0
    assert result.parameters == sum(p.numel() for p in net.parameters())
    adds_up(result)


def adds_up(result: FlopsResult) -> None:
    for rows, forward in ((result.components, "flops"), (result.modalities, "forward_flops")):
        assert sum(getattr(row, forward) for row in rows) == result.forward_flops
        assert sum(row.backward_flops for row in rows) == result.backward_flops
        assert sum(row.parameters for row in rows) == result.parameters
        assert sum(row.share for row in rows) == pytest.approx(1)
    assert result.linear_flops + result.attention_flops == result.forward_flops
    assert result.backward_linear_flops + result.backward_attention_flops == result.backward_flops
    assert result.step_flops == result.forward_flops + result.backward_flops


@pytest.mark.parametrize("path", slow_but(SHIPPED, *QUICK), ids=lambda path: path.stem)
def test_two_blocks_of_a_shipped_config_count_as_torch_counts(path):
    holds_against_torch(with_two_blocks(path))


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_counts_as_torch_counts(path):
    holds_against_torch(load_tool_config(path))


# ------------------------------------------------------------------------------------------------------- attribution


def test_every_component_costs_twice_its_forward_in_backward_but_those_that_read_the_inputs_cost_once():
    ends = {
        "text": {"dim": D[0], "input": {"kind": "linear", "dim": 5}, "output": {"kind": "linear", "dim": 3}},
        "image": {"dim": D[1], "input": {"kind": "linear", "dim": 5}, "output": {"kind": "linear", "dim": 3}},
    }
    result = count_flops(config(modalities=ends, timestep={"frequencies": 8}))
    for row in result.components:
        first_of = {"embedding": 1}.get(row.kind, 2)
        if row.kind == "conditioning":  # 8 to 6 reads the timestep, 6 to 6 does not
            assert row.backward_flops == 2 * BATCH * 8 * COND + 2 * 2 * BATCH * COND * COND
        else:
            assert row.backward_flops == first_of * row.flops, row.name
    assert {"embedding", "attention", "feedforward", "output head"} <= {r.kind for r in result.components if r.flops}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(dict(discard=["text"], unused_weights="all"), marks=pytest.mark.slow),
        pytest.param(dict(attention={"kind": "adaptive", "num_adaptive_weights": 2}), marks=pytest.mark.slow),
        pytest.param(
            dict(residual={"kind": "manifold_hyper_connections", "streams": 2}, register_tokens={"image": 3}),
            marks=pytest.mark.slow,
        ),
        pytest.param(dict(attention={"dual": [0, 1, 2]}), marks=pytest.mark.slow),
        pytest.param(dict(checkpoint_activations=True), marks=pytest.mark.slow),
        pytest.param(
            dict(
                modulation={"shared": True},
                single_stream={"depth": 5, "kind": "sequential"},
                modalities={"text": {"dim": 12}, "image": {"dim": 12}},
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_blocks_that_are_alike_are_counted_once_and_nothing_changes(changes):
    chosen = config(**({"depth": 6} | changes))
    fast, slow = (count_flops(chosen, elementwise=True, whole=whole) for whole in (False, True))
    assert fast == slow


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_count_the_same_by_their_blocks_and_as_a_whole(path):
    chosen = load_tool_config(path)
    assert count_flops(chosen) == count_flops(chosen, whole=True)


def test_a_modality_is_all_that_works_on_its_tokens():
    result = count_flops(config(discard=["text"]))
    rows = {row.name: row for row in result.modalities}
    assert list(rows) == ["text", "image", "joined"]
    modulation = 2 * BATCH * COND * D[1] * 6
    tokens = 2 * BATCH * IMAGE * D[1] * (3 * 8 + 8 + 2 * 4 * D[1])
    assert rows["image"].forward_flops == 2 * (modulation + tokens)
    assert rows["image"].flops_per_token == rows["image"].forward_flops / (BATCH * IMAGE)
    assert rows["joined"].forward_flops == result.attention_flops
    assert rows["joined"].tokens == TEXT + IMAGE


def test_what_no_component_did_becomes_a_row_of_its_own():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).to("meta")
    first = [Component("first", None, [net[0]])]
    with OpRecorder(first) as recorder, FlopCounterMode(display=False):
        out = net(torch.ones(3, 4, device="meta")).sum()
        recorder.follower.start(BACKWARD)
        out.backward()
    counts = Counts(192 + 96, 192 + 2 * 96, 0, recorder.flops, recorder.work, recorder.operators)
    rows = component_flops(first, counts, 58)
    assert [(row.name, row.flops, row.backward_flops, row.parameters) for row in rows] == [
        ("first", 192, 192, 40),
        ("other", 96, 192, 18),
    ]


@pytest.mark.slow
def test_checkpointed_activations_execute_the_blocks_forward_once_more():
    plain, checkpointed = count_flops(config()), count_flops(config(checkpoint_activations=True))
    assert checkpointed.step_flops == plain.step_flops
    assert checkpointed.executed_step_flops - plain.executed_step_flops == plain.forward_flops
    assert plain.executed_step_flops - plain.step_flops == plain.attention_flops // 2


def test_a_blocks_elementwise_work_lies_in_its_components_and_in_no_total():
    plain, result = count_flops(config()), count_flops(config(), elementwise=True)
    assert (plain.step_flops, plain.attention_flops) == (result.step_flops, result.attention_flops)
    assert plain.elementwise is None and all(row.elementwise is None for row in plain.components)
    work = {row.name: row.elementwise for row in result.components}
    numbers = BATCH * IMAGE * D[1]
    # two in each of two blocks: a layer norm, `1 + scale`, `shift + x * scale`
    norms = 2 * 2 * (5 * numbers + BATCH * D[1] + 2 * numbers)
    # and the norm at the end, `x * rsqrt(mean(x * x) + eps) * weight`
    assert work["norm, image"] == norms + 4 * numbers + 2 * BATCH * IMAGE
    assert work["residual, image"] == 2 * 2 * 2 * numbers
    assert work["feedforward, image"] == 2 * 4 * numbers
    assert work["modulation, image"] == 2 * BATCH * COND
    assert sum(work.values()) == result.elementwise.forward_flops
    assert sum(kind.backward_flops for kind in result.elementwise.kinds) == result.elementwise.backward_flops > 0
    assert {"gelu", "addcmul", "native_layer_norm"} <= set(result.uncounted_operators)


@pytest.mark.parametrize("variant", slow_but(VARIANTS, "adaptive by token", "discard"))
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
