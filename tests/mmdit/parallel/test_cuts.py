"""Which rows of a weight a process has, and how they come together again."""

from __future__ import annotations

import pytest
import torch

from mmdit.parallel.cuts import Cut

Q, KV, WIDTH = 8, 4, 3  # rows of queries, and of keys and of values


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_parts_of_all_processes_are_the_whole_again(processes, dim):
    weight = torch.randn(Q + 2 * KV, WIDTH).movedim(0, dim)
    cut = Cut(dim, (Q, KV, KV))
    own = [cut.own(weight, place, processes) for place in range(processes)]
    torch.testing.assert_close(cut.joined(torch.cat(own, dim), processes), weight, rtol=0, atol=0)
    torch.testing.assert_close(cut.parted(weight, processes), torch.cat(own, dim), rtol=0, atol=0)


def test_a_process_has_the_rows_of_its_heads_of_queries_keys_and_values():
    rows = torch.arange(Q + 2 * KV)
    assert Cut(0, (Q, KV, KV)).own(rows, 1, 2).tolist() == [4, 5, 6, 7, 10, 11, 14, 15]


def test_a_whole_weight_is_the_same_on_every_process():
    weight = torch.randn(5, 3)
    for cut in (Cut(), Cut(read="in_parts"), Cut(read="first")):
        assert cut.own(weight, 1, 2) is cut.joined(weight, 2) is cut.parted(weight, 2) is weight
