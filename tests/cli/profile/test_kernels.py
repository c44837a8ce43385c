"""Kernels belong to the components that launched them."""

from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from mmdit.config import build
from mmdit_cli.model_parts.components import find_components
from mmdit_cli.model_parts.timed_call import Call
from mmdit_cli.profile import kernels, measurement, subject
from mmdit_cli.profile.breakdown import device_parts
from mmdit_cli.profile.conditions import judge
from mmdit_cli.profile.kernels import kernel_seconds, profiled, write_trace
from mmdit_cli.profile.profile_settings import Settings
from mmdit_cli.request.inputs import example_inputs
from tests.support.marks import slow_but
from tests.support.small_configs import VARIANTS, config

CPU = torch.device("cpu")


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


def test_calls_of_the_runtime_and_kernels_before_a_call_are_no_part_of_it():
    """An unlinked call of the runtime has a number that is also an operator's, and so its kernels a second time; the
    kernel that flushes the caches begins in no phase."""
    forward = event("forward", 10, 100)
    ff = event("forward: ff", 20, 40, forward)
    events = [
        event("aten::add_", 2, 3, None, [("flush", 8e6)]),
        forward,
        ff,
        event("aten::mm", 21, 30, ff, [("gemm", 3e6)]),
        event("cudaLaunchKernel", 22, 23, ff, [("gemm", 3e6)]),
        event("cuLaunchKernelEx", 50, 51, None, [("gemm", 3e6)]),
        event("cudaDeviceSynchronize", 60, 90, forward, [("gemm", 3e6)]),
    ]
    assert kernel_seconds(events, ["ff"]) == {("forward", "ff"): 3}


def test_cold_calls_are_profiled_cold(monkeypatch):
    happened: list[str] = []
    kernels.kernel_parts(
        lambda start: happened.append("call"), [], CPU, runs=2, before=lambda: happened.append("flush")
    )
    assert happened == ["call", "flush", "call", "flush", "call"]


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "by"), [({}, None), ({("forward", "attention"): 1e-9}, "kernels")])
def test_without_a_kernel_nothing_is_said_of_components(seconds, by, monkeypatch, quick_ceilings):
    """The attribution of CUDA, on the CPU: what `kernel_parts` finds is made up."""
    monkeypatch.setattr(subject, "kernel_parts", lambda *args, before: seconds)
    monkeypatch.setattr(measurement, "attribution_of", lambda settings: "kernels")
    (result,) = measurement.profile_configs([config()], Settings(repeats=1))
    assert (result.attributed_by, bool(result.components)) == (by, by is not None)
    watch = SimpleNamespace(taken_by_others=lambda: 0.0, load_average=0.0, cores=[0])
    notices = " ".join(judge([result], watch, on_cpu=False).notices)
    assert ("torch's profiler recorded no kernel" in notices) == (by is None)


def test_what_kernels_leave_of_the_latency_the_device_waited():
    part = ("forward", "ff")
    assert device_parts({part: 3.0}, 4.0) == {part: 0.75, ("forward", "device idle"): 0.25}
    assert device_parts({part: 5.0}, 4.0) == {part: 1.0}


@pytest.mark.parametrize("mode", slow_but(["forward", "train"], "train"))
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
    big = config({"tokens": {"text": 256, "image": 4096}, "batch_size": 4}, heads=16, dim_head=64)
    (result,) = measurement.profile_configs([big], Settings(mode=mode, device=torch.device("cuda"), max_seconds=1))
    assert result.attributed_by == "kernels"
    assert 0.95 <= sum(row.time_ms for row in result.components) / result.latency_ms.median <= 1.0
    by_name = {row.name: row for row in result.components}
    for name in ("attention", "feedforward, image", "qkv projection, image"):
        assert by_name[name].forward_ms > 0 and (by_name[name].backward_ms > 0) == (mode == "train")
    assert (by_name["optimizer"].time_ms > 0) if mode == "train" else "optimizer" not in by_name
