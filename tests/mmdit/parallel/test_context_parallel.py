"""Which tokens a process has of every modality: together all of them, once each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmdit.layers.runs import ConditioningRuns, each_token
from mmdit.parallel.context_parallel import Shares, _conditioning

LENGTHS, REGISTERS = (5, 2, 9), (0, 3, 1)


def shares(place: int = 0, size: int = 4, masks: tuple[Any, ...] = (None,) * 3) -> Shares:
    made = Shares(None, place, size, REGISTERS)  # type: ignore[arg-type]
    made.enter(LENGTHS, masks)
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_every_token_is_on_one_process_and_none_has_two_more_than_another(size):
    tokens = torch.arange(11)[None]
    own = [shares(place, size).share(tokens) for place in range(size)]
    assert torch.cat(own, dim=1).equal(tokens)
    counts = [x.shape[1] for x in own]
    assert max(counts) - min(counts) <= 1


def test_what_the_processes_have_of_some_modalities_adds_up_registers_on_the_first():
    for modalities in ([0], [1, 2], [0, 1, 2]):
        counts = shares().counts(modalities)
        assert sum(counts) == sum(LENGTHS[i] + REGISTERS[i] for i in modalities)
    assert shares().counts([1]) == [3, 1, 0, 1]


def test_the_joined_mask_is_in_the_order_of_the_processes():
    masks = (torch.rand(2, 5) < 0.5, None, torch.rand(2, 9) < 0.5)
    modalities, pieces = (0, 1, 2), []
    for place in range(4):
        own = shares(place)
        for i in modalities:
            whole = torch.ones(2, LENGTHS[i]).bool() if masks[i] is None else masks[i]
            registers = torch.ones(2, REGISTERS[i] if place == 0 else 0).bool()
            pieces.append(torch.cat([registers, own.share(whole)], dim=1))
    joined = shares(masks=masks).mask(modalities)
    assert joined is not None and joined.equal(torch.cat(pieces, dim=1))
    assert joined.shape[1] == sum(shares().counts(modalities))
    assert shares(masks=masks).mask([1]) is None  # so that attention stays with its fast kernels


def test_runs_of_conditioning_are_those_of_the_share():
    runs = ConditioningRuns(torch.randn(2, 3, 4), (1, 3, 5))
    every = each_token(runs)
    for place in range(4):
        own = shares(place)
        (got,) = _conditioning(own, runs, [9])
        assert each_token(got).equal(own.share(every))


def test_one_vector_for_all_tokens_stays_and_one_for_each_is_shared():
    vector, each = torch.randn(2, 4), torch.randn(2, 9, 4)
    assert _conditioning(shares(), vector, LENGTHS) is vector
    first, second = _conditioning(shares(1), [vector, each], [5, 9])
    assert first is vector and second.equal(each[:, 2:4])
    assert _conditioning(shares(), None, LENGTHS) is None
