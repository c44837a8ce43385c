from __future__ import annotations

import pytest
import torch
from torch import nn

from mmdit_cli.memory.measured import Phase, highest, measure_memory, optimizer_bytes
from mmdit_cli.model_parts.tensor_bytes import model_bytes

CPU = torch.device("cpu")
ROWS, WIDE = 64, 512


def test_peak_memory_is_what_the_formula_says():
    net = nn.Sequential(nn.Linear(32, WIDE), nn.GELU(), nn.Linear(WIDE, 8)).requires_grad_(False)
    use = measure_memory(net, lambda begins: net(torch.ones(ROWS, 32)), CPU)
    weights = 4 * (32 * WIDE + WIDE + WIDE * 8 + 8)
    assert use.weights == weights == model_bytes(net)
    given, hidden = 4 * ROWS * 32, 4 * ROWS * WIDE
    assert use.peak - use.weights == use.temporaries == given + 2 * hidden  # the GELU's input and output
    assert (use.activations, use.gradients, use.optimizer, use.peak_phase) == (0, 0, 0, "forward")


def step(net, x, optimizer):
    def call(begins):
        begins("forward")
        loss = net(x).sum()
        begins("backward")
        loss.backward()
        begins("optimizer")
        optimizer.step()
        optimizer.zero_grad()

    return call


def test_a_training_steps_parts_are_what_the_formulas_say():
    net, x = nn.Sequential(nn.Linear(64, WIDE), nn.GELU(), nn.Linear(WIDE, 8)), torch.ones(ROWS, 64)
    optimizer = torch.optim.AdamW(net.parameters())
    call = step(net, x, optimizer)
    call(lambda phase: None)
    use = measure_memory(net, call, CPU, optimizer=optimizer)
    numbers = 64 * WIDE + WIDE + WIDE * 8 + 8
    assert use.weights == use.gradients == 4 * numbers
    assert use.optimizer == optimizer_bytes(optimizer) == 2 * 4 * numbers + 4 * 4  # two moments, and a count of steps
    assert use.activations == 2 * 4 * ROWS * WIDE + 4  # the GELU's input and output; the loss
    held = use.gradients if use.peak_phase == "optimizer" else max(use.gradients, use.activations)
    assert use.peak == pytest.approx(use.weights + use.optimizer + held + use.temporaries, abs=4)  # the loss


def test_the_first_step_has_the_peak_of_the_ones_after_it_or_more():
    net, x = nn.Linear(64, 64), torch.ones(4, 64)
    optimizer = torch.optim.AdamW(net.parameters())
    first, second = (measure_memory(net, step(net, x, optimizer), CPU, optimizer=optimizer) for _ in range(2))
    assert first.optimizer == second.optimizer > 0
    # the state that a first step makes counts once, not as what was held and again as what was allocated
    assert first.peak == pytest.approx(second.peak, rel=0.2)


def test_the_peaks_phase_says_what_was_temporary():
    phases = [Phase("forward", 0, 50, 40), Phase("backward", 40, 70, 30), Phase("optimizer", 30, 60, 0)]
    top = highest(phases)
    assert (top.name, top.temporaries) == ("backward", 30)


def test_reserved_memory_is_the_calls_own_and_of_its_highest_phase(monkeypatch):
    """A made-up allocator that had kept 900 bytes of buffers given back before; the weights are 100 of 128."""
    state = {"reserved": 1028, "most": 1028}
    happened = []

    def hold(size):
        state["reserved"], state["most"] = size, max(state["most"], size)

    def empty():
        happened.append("emptied")
        hold(128)

    cuda = {
        "synchronize": lambda device: None,
        "empty_cache": empty,
        "memory_allocated": lambda device: 100,
        "max_memory_allocated": lambda device: 100,
        "max_memory_reserved": lambda device: state["most"],
        "reset_peak_memory_stats": lambda device: state.update(most=state["reserved"]),
        "mem_get_info": lambda device: (0, 5000),
    }
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)

    def call(begins):
        happened.append("called")
        hold(600)
        hold(300)
        begins("backward")
        hold(400)

    use = measure_memory(nn.Linear(1, 1), call, torch.device("cuda"))
    assert use.reserved == 600 and happened == ["emptied", "called"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_says_what_the_allocator_and_the_card_hold():
    device = torch.device("cuda")
    net = nn.Linear(1024, 1024, device=device)
    optimizer = torch.optim.AdamW(net.parameters())
    call = step(net, torch.ones(4, 1024, device=device), optimizer)
    call(lambda phase: None)
    use = measure_memory(net, call, device, optimizer=optimizer)
    assert use.peak <= use.allocated <= use.reserved <= use.process
    assert use.gradients == use.weights == 4 * 1024 * 1025
