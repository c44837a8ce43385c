"""The boxes that processes hold of a weight are all of it, and each is written once."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.tensor.debug import _clear_sharding_prop_cache

import mmdit
from mmdit.parallel import MeshLayout, parallelize
from mmdit.parallel.own_pieces import own_pieces, writes
from mmdit.parallel.whole_weights import cuts_by_name
from mmdit_cli.memory.rank_estimate import fake_group
from mmdit_cli.model_parts.tensor_bytes import local
from tests.support.toy import tiny

LAYOUTS = [
    MeshLayout(shard=2, tensor=2),
    *(
        pytest.param(layout, marks=pytest.mark.slow)
        for layout in (
            MeshLayout(shard=3),
            MeshLayout(replicate=2, shard=2),
            MeshLayout(tensor=2),
            MeshLayout(context=2),
            MeshLayout(replicate=2, shard=2, context=1, tensor=2),
            MeshLayout(shard=2, context=2),
        )
    ),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_all_processes_write_is_each_weight_once(layout):
    torch.manual_seed(1)
    plain = mmdit.build(tiny(sound=True).model)
    wanted = {name: torch.randn_like(x) for name, x in plain.state_dict().items()}
    plain.load_state_dict(wanted)
    found = {name: torch.zeros_like(x) for name, x in wanted.items()}
    times = {name: torch.zeros_like(x, dtype=torch.int) for name, x in wanted.items()}
    for rank in range(layout.size):
        with fake_group(layout, rank) as mesh:
            _clear_sharding_prop_cache()  # which gives tensors the mesh of the process before
            model = mmdit.build(tiny(sound=True).model)
            model.load_state_dict(wanted)
            parallelize(model, mesh)
            cuts = cuts_by_name(model)
            for name, x in model.named_parameters():
                pieces = own_pieces(x, cuts.get(name))
                assert sum(local(x)[each.place].numel() for each in pieces) == local(x).numel()
                for each in pieces:
                    box = tuple(slice(a, a + n) for a, n in zip(each.start, each.shape, strict=True))
                    assert torch.equal(local(x)[each.place], wanted[name][box])
                    if writes(x):
                        found[name][box] = local(x).detach()[each.place]
                        times[name][box] += 1
    for name, x in wanted.items():
        assert (times[name] == 1).all(), name
        assert torch.equal(found[name], x), name
