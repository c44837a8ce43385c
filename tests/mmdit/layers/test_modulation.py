from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from mmdit.layers.modulation import (
    ATTENTION_PARTS,
    DUAL_PARTS,
    FEEDFORWARD_PARTS,
    BlockModulation,
    Modulation,
    NoModulation,
)
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


def test_without_conditioning_there_is_none():
    assert NoModulation()(None) == BlockModulation()
