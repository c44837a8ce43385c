"""Which component runs when: fake clocks that modules turn themselves, forward and backward, and torch's profiler."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmdit_cli.model_parts.components import Component
from mmdit_cli.profile.breakdown import mean_parts
from mmdit_cli.profile.clock import Attribution, cost_of_marks

CPU = torch.device("cpu")


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


def parts_of(run, *named: tuple[str, nn.Module], clock: list[int]):
    components = [Component(name, None, [module]) for name, module in named]
    with Attribution(components, clock=lambda: clock[0]) as attribution:
        run(attribution.start)
        return {part: ticks for part, ticks in attribution.finish().items() if ticks}, attribution.calls


def test_every_moment_belongs_to_one_component_forward_and_backward():
    clock = [0]
    a, b, between = Ticking(clock, 3, 30), Ticking(clock, 5, 50), Ticking(clock, 2, 20)
    x = torch.ones(2, requires_grad=True)

    def run(start):
        start()
        y = b(between(a(x))) + a(x)  # a residual and a module called twice
        start("backward")
        y.sum().backward()
        start("optimizer")
        clock[0] += 7

    parts, calls = parts_of(run, ("a", a), ("b", b), clock=clock)
    assert calls == {"a": 2, "b": 1}
    assert parts == {
        ("forward", "a"): 6,
        ("forward", "b"): 5,
        ("forward", "other"): 2,
        ("backward", "a"): 60,
        ("backward", "b"): 50,
        ("backward", "other"): 20,
        ("optimizer", "other"): 7,
    }


def test_a_component_without_inputs_that_need_gradients_has_a_backward_too():
    clock = [0]
    a, b = nn.Sequential(nn.Linear(2, 2), Ticking(clock, 3, 30)), Ticking(clock, 5, 50)

    def run(start):
        start()
        y = b(a(torch.ones(1, 2)))
        start("backward")
        y.sum().backward()

    parts, _ = parts_of(run, ("a", a), ("b", b), clock=clock)
    assert parts == {("forward", "a"): 3, ("forward", "b"): 5, ("backward", "a"): 30, ("backward", "b"): 50}


def test_what_checkpointing_recomputes_is_the_components_backward_and_no_call():
    clock = [0]
    a, b = Ticking(clock, 3, 30), Ticking(clock, 5, 50)

    def run(start):
        start()
        y = checkpoint(lambda x: b(a(x).exp()).exp(), torch.ones(2, requires_grad=True), use_reentrant=False)
        start("backward")
        y.sum().backward()

    parts, calls = parts_of(run, ("a", a), ("b", b), clock=clock)
    assert calls == {"a": 1, "b": 1}
    assert parts == {("forward", "a"): 3, ("forward", "b"): 5, ("backward", "a"): 33, ("backward", "b"): 55}


def test_shares_are_of_the_middle_runs_and_add_up_to_one():
    runs = [{("forward", "a"): 9.0 * t, ("forward", "b"): 1.0 * t} for t in (1, 2, 3)] + [{("forward", "b"): 1e9}]
    assert mean_parts(runs) == pytest.approx({("forward", "a"): 0.9, ("forward", "b"): 0.1})
    assert sum(mean_parts(runs).values()) <= 1


@pytest.mark.parametrize("train", [False, True])
def test_marks_cost_what_a_followed_chain_takes_more_than_the_same_alone(train):
    """A clock that moves by 1 whenever it is read: alone it is read twice, and followed once more for each mark."""
    count = [0]

    def clock() -> int:
        count[0] += 1
        return count[0]

    assert cost_of_marks(train=train, clock=clock) == pytest.approx(1.0, abs=0.01)
