from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

import mmdit
from mmdit.layers.modulation import (
    ATTENTION_PARTS,
    DUAL_PARTS,
    FEEDFORWARD_PARTS,
    BlockModulation,
    Modulation,
    NoModulation,
)
from mmdit.layers.runs import ConditioningRuns
from mmdit.options import ModulationOptions
from tests.support.draws import drawn, randn

EVERY = ATTENTION_PARTS + FEEDFORWARD_PARTS + DUAL_PARTS


@pytest.mark.parametrize("parts", [EVERY, ATTENTION_PARTS, ATTENTION_PARTS[:2], ATTENTION_PARTS + DUAL_PARTS])
def test_the_parts_are_one_linear_of_the_conditioning_in_their_order(parts):
    net, cond = drawn(Modulation(5, 4, parts)), randn(2, 5)
    got = net(cond)._asdict()
    for index, part in enumerate(parts):
        rows = slice(4 * index, 4 * index + 4)
        wanted = torch.einsum("bc,dc->bd", silu(cond), net.linear.weight[rows]) + net.linear.bias[rows]
        torch.testing.assert_close(got[part], wanted[:, None])
    assert [part for part, x in got.items() if x is None] == [part for part in EVERY if part not in parts]


def test_gates_may_be_a_tanh_and_the_conditioning_may_come_as_it_is():
    options = ModulationOptions(gate="tanh", activation="none")
    net, cond = drawn(Modulation(5, 4, EVERY, options=options)), randn(2, 5)
    made = torch.einsum("bc,dc->bd", cond, net.linear.weight) + net.linear.bias
    for (part, x), wanted in zip(net(cond)._asdict().items(), made[:, None].chunk(9, -1), strict=True):
        torch.testing.assert_close(x, wanted.tanh() if part.endswith("gate") else wanted)


@pytest.mark.parametrize(("adaln", "gate"), [("zero", 0.0), ("identity", 1.0)])
def test_shifts_and_scales_start_at_zero_and_gates_where_adaln_says(adaln, gate):
    for part, x in Modulation(5, 4, EVERY, adaln=adaln)(torch.randn(2, 5))._asdict().items():
        assert torch.equal(x, torch.full((2, 1, 4), gate if part.endswith("gate") else 0.0))


def with_table(depth=2, **options):
    part = dict(table=True) | options.pop("modulation", {})
    sizes = dict(dim_cond=5, heads=2, dim_head=4, modulation=part, modalities={"a": {"dim": 8}, "b": {"dim": 8}})
    return drawn(mmdit.build({"model": dict(variant="generalized", depth=depth, **sizes | options)}))


def given():
    return dict(modality_tokens=[randn(2, 3, 8), randn(2, 4, 8)], time_cond=randn(2, 5))


def test_with_a_table_a_block_is_modulated_by_its_sum_with_the_one_modulation_of_the_network():
    net, arguments = with_table(), given()
    made = net.whole_modulation.linear(silu(arguments["time_cond"]))[:, None].unflatten(-1, (6, 8))
    x = arguments["modality_tokens"]
    for block in net.blocks:
        mods = [BlockModulation(*(made + block.modulations[i].table).unbind(2)) for i in range(2)]
        x = block(modality_tokens=x, time_cond=randn(2, 48), modulations=mods)
    for got, wanted, norm in zip(net(**arguments), x, net.final_norms, strict=True):
        torch.testing.assert_close(got, norm(wanted))


SINGLE = dict(single_stream=dict(depth=1, kind="parallel"))


@pytest.mark.parametrize("options", [{}, SINGLE, SINGLE | dict(depth=0)], ids=["joint", "both", "single"])
def test_a_table_serves_tokens_that_have_vectors_of_their_own_and_what_is_computed_before(options):
    net, arguments = with_table(modulation=dict(gate="tanh"), **options), given()
    wanted, cond = net(**arguments), arguments["time_cond"]
    each = [cond[:, None].expand(-1, n, -1) for n in (3, 4)]
    for other in (
        dict(time_cond=each),
        dict(time_cond=[cond, ConditioningRuns(each[1][:, :2], (1, 3))]),
        dict(modulation=net.modulate(cond)),
    ):
        for x, y in zip(net(**arguments | other), wanted, strict=True):
            torch.testing.assert_close(x, y)


def test_a_table_takes_what_its_block_reads_and_no_more():
    net = with_table(discard=("a",), modulation=dict(parts="scale_gate"))
    sizes = [[tuple(m.table.shape) for m in block.modulations] for block in net.blocks]
    assert sizes == [[(4, 8), (4, 8)], [(1, 8), (4, 8)]] and net.whole_modulation.linear.out_features == 32
    alone = with_table(depth=0, single_stream=dict(depth=1, kind="parallel"))
    assert alone.whole_modulation.linear.out_features == 24  # no feedforward has a modulation of its own


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(modulation=dict(shared=True)), "leave shared at false"),
        (dict(modalities={"a": {"dim": 8}, "b": {"dim": 12}}), "their widths must be equal, got a 8, b 12"),
        (dict(attention=dict(dual=[0])), "no shared modulation"),
        (dict(attention=dict(kind="adaptive", num_adaptive_weights=2, gating="sample")), "gating 'sample'"),
    ],
)
def test_a_table_is_refused_where_blocks_have_no_modulation_in_common(changed, message):
    with pytest.raises(ValueError, match=message):
        with_table(**changed)


def test_without_conditioning_there_is_none():
    assert NoModulation()(None) == BlockModulation()
