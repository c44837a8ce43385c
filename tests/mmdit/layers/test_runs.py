from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from mmdit.layers import runs
from mmdit.layers.modulation import BlockModulation
from mmdit.layers.norms import AdaptiveNorm
from mmdit.layers.residuals import PlainDepth
from mmdit.layers.runs import ConditioningRuns
from mmdit.packing import Packing
from tests.support.draws import randn

LENGTHS = {"one length": (4, 4, 4), "long runs": (5, 1, 6), "an empty run": (5, 0, 7), "one run": (12,)}
LAYERS = {  # and how many tensors of all tokens it keeps for its gradient: what came in, and what was normed
    "norm": (lambda x, out, a, b: AdaptiveNorm(nn.LayerNorm(8, elementwise_affine=False))(x, a, b), 2),
    "gate": (lambda x, out, a, b: PlainDepth()(x, out, a), 1),
}


@pytest.mark.parametrize(("layer", "most"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_a_vector_acts_on_every_token_of_its_run_and_is_kept_once(lengths, layer, most, monkeypatch):
    monkeypatch.setattr(runs, "LONG", 1)
    tokens = [randn(1, 12, 8).requires_grad_() for _ in range(2)]
    vectors = [randn(len(lengths), 1, 8).requires_grad_() for _ in range(2)]
    index = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    packing = Packing((lengths,))
    a, b = BlockModulation(*vectors).spread(packing, 0)[:2]

    kept: dict[int, int] = {}

    def note(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(note, lambda x: x):
        got = layer(*tokens, a, b)
    assert sum(size >= got.nbytes for size in kept.values()) <= most
    wanted = layer(*tokens, *(x[index, 0][None] for x in vectors))
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    inputs, weight = (*tokens, *vectors), randn(1, 12, 8)
    mine, theirs = (torch.autograd.grad(y, inputs, weight, materialize_grads=True) for y in (got, wanted))
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


class Gated(nn.Module):
    def forward(self, image, references, vectors):
        lengths = (image.shape[1], references.shape[1])
        return runs.over_runs(torch.mul, torch.cat([image, references], dim=1), ConditioningRuns(vectors, lengths))


@pytest.mark.slow
def test_lengths_may_be_unknown_to_a_program():
    from torch._dynamo.testing import CompileCounter

    net, sizes = Gated(), [{1: torch.export.Dim(name, min=2, max=99)} for name in ("own", "others")]
    given = [(randn(2, n, 4), randn(2, m, 4), randn(2, 2, 4)) for n, m in ((5, 3), (6, 6), (2, 9))]
    program = torch.export.export(net, given[0], dynamic_shapes=(*sizes, None)).module()
    counter = CompileCounter()
    compiled = torch.compile(net, backend=counter, dynamic=True, fullgraph=True)
    for each in given:
        assert torch.equal(program(*each), net(*each)) and torch.equal(compiled(*each), net(*each))
    assert counter.frame_count == 1
