"""Which component runs when: fake clocks that modules turn themselves, forward and backward, and torch's profiler."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.utils.checkpoint import checkpoint

from mmdit.config import build
from mmdit_cli.model_parts.components import Component, find_components
from mmdit_cli.model_parts.timed_call import Call
from mmdit_cli.profile.breakdown import device_parts, mean_parts
from mmdit_cli.profile.clock import Attribution
from mmdit_cli.profile.kernels import kernel_seconds, profiled, write_trace
from mmdit_cli.request.inputs import example_inputs
from tests.cli.model_parts.test_measure import VARIANTS, config

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


# ----------------------------------------------------------------------------------------------------------- profiler


def event(name, start=0.0, end=0.0, above=None, kernels=(), device=DeviceType.CPU):
    return SimpleNamespace(
        name=name,
        device_type=device,
        cpu_parent=above,
        time_range=SimpleNamespace(start=start, end=end),
        kernels=[SimpleNamespace(name=n, duration=us) for n, us in kernels],
    )


def test_a_kernel_belongs_to_the_innermost_range_around_what_launched_it():
    forward, backward = event("forward", 0, 100), event("backward", 100, 200)
    ff = event("forward: ff", 10, 20, forward)
    linear = event("aten::linear", 11, 19, ff)
    events = [
        forward,
        backward,
        ff,
        linear,
        event("aten::mm", 12, 18, linear, [("gemm", 3e6), ("forward: ff", 99e6)]),  # the second: the range's shadow
        event("aten::add", 30, 31, forward, [("add", 1e6)]),
        event("aten::mm", 150, 151, event("backward: ff", 149, 152), [("gemm", 6e6)]),  # autograd's own thread
        event("aten::copy_", 160, 161, None, [("Memcpy", 2e6)]),
        event("gemm", 0, 50, device=DeviceType.CUDA),
    ]
    assert kernel_seconds(events, ["ff"]) == {
        ("forward", "ff"): 3,
        ("forward", "other"): 1,
        ("backward", "ff"): 6,
        ("backward", "other"): 2,
    }


def test_what_kernels_leave_of_the_latency_the_device_waited():
    part = ("forward", "ff")
    assert device_parts({part: 3.0}, 4.0) == {part: 0.75, ("forward", "device idle"): 0.25}
    assert device_parts({part: 5.0}, 4.0) == {part: 1.0}


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_the_profilers_ranges_are_the_components_in_each_phase(mode):
    chosen = config(**VARIANTS["adaptive by token"])
    net = build(chosen.model)
    components = find_components(net)
    call = Call(net, example_inputs(chosen), chosen, mode)
    names = [e.name for e in profiled(call, components, CPU).events()]
    phases = ["forward", "backward", "optimizer"] if mode == "train" else ["forward"]
    assert [names.count(phase) for phase in ("forward", "backward", "optimizer")] == [
        int(phase in phases) for phase in ("forward", "backward", "optimizer")
    ]
    for component in components:
        assert names.count(f"forward: {component.name}") >= 1
        assert (f"backward: {component.name}" in names) == (mode == "train")


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_trace_is_chromes_json_with_the_components_in_it(name, tmp_path):
    chosen = config()
    net = build(chosen.model)
    write_trace(Call(net, example_inputs(chosen), chosen, "train"), find_components(net), CPU, tmp_path / name)
    raw = (tmp_path / name).read_bytes()
    names = {e.get("name") for e in json.loads(gzip.decompress(raw) if name.endswith("gz") else raw)["traceEvents"]}
    assert {"forward", "backward", "optimizer", "forward: attention", "backward: feedforward, image"} <= names


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["forward", "train"])
def test_kernel_times_cover_every_component_and_no_more_than_the_latency(mode):
    from mmdit_cli.profile.measurement import Settings, profile_configs

    big = config({"tokens": {"text": 256, "image": 4096}, "batch_size": 4}, heads=16, dim_head=64)
    (result,) = profile_configs([big], Settings(mode=mode, device=torch.device("cuda"), max_seconds=1))
    assert result.attributed_by == "kernels"
    assert 0.95 <= sum(row.time_ms for row in result.components) / result.latency_ms.median <= 1.0
    by_name = {row.name: row for row in result.components}
    for name in ("attention", "feedforward, image", "qkv projection, image"):
        assert by_name[name].forward_ms > 0 and (by_name[name].backward_ms > 0) == (mode == "train")
    assert (by_name["optimizer"].time_ms > 0) if mode == "train" else "optimizer" not in by_name
