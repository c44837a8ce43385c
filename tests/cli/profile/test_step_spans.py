"""Spans of a timeline, against every nanosecond of it counted by itself; and what a profiler's events are."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from mmdit_cli.profile.step_spans import STEP, length, mean_split, split, split_events, union, without


def drawn(rng: random.Random, count: int) -> list[tuple[int, int]]:
    starts = [rng.randrange(100) for _ in range(count)]
    return [(start, start + rng.randrange(12)) for start in starts]


def moments(spans) -> set[int]:
    return {moment for start, end in spans for moment in range(start, end)}


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_the_moments_in_them(seed):
    rng = random.Random(seed)
    ours, others = drawn(rng, rng.randrange(30)), drawn(rng, rng.randrange(30))
    assert moments(union(ours)) == moments(ours) and len(union(ours)) <= len(ours)
    assert moments(without(ours, others)) == moments(ours) - moments(others)
    assert length(ours) == len(moments(ours))
    joined = union(ours)
    assert all(end < start for (_, end), (start, _) in pairwise(joined))


@pytest.mark.parametrize("seed", range(10))
def test_a_steps_parts_add_up_to_it_and_exposed_is_what_no_computing_hides(seed):
    rng = random.Random(seed)
    computing, sending = drawn(rng, 20), drawn(rng, 8)
    parts, step = split((20, 90), computing, sending), set(range(20, 90))
    exposed = (moments(sending) - moments(computing)) & step
    assert parts.exposed == pytest.approx(len(exposed) / 1e6)
    assert parts.hidden == pytest.approx(len(moments(sending) & moments(computing) & step) / 1e6)
    assert parts.communication == pytest.approx(parts.hidden + parts.exposed)
    assert parts.wall == pytest.approx(parts.computing + parts.exposed + parts.neither) == 70 / 1e6
    assert mean_split([parts, split((0, 30), [], [])]).wall == pytest.approx(50 / 1e6)


def event(name, start, end, *, device=DeviceType.CPU, thread=1, annotation=False):
    return SimpleNamespace(
        name=lambda: name,
        start_ns=lambda: start,
        end_ns=lambda: end,
        device_type=lambda: device,
        start_thread_id=lambda: thread,
        is_user_annotation=lambda: annotation,
    )


def test_on_the_cpu_waiting_within_an_operator_and_other_threads_compute_nothing():
    events = [
        event(STEP, 0, 100),
        event("aten::mm", 0, 30),
        event("aten::empty", 1, 2),
        event("aten::add", 40, 60),  # of a sharded tensor
        event("_c10d_functional::wait_tensor", 45, 55),
        event("aten::copy_", 60, 90, thread=2),  # gloo's own
        event("gloo:all_gather", 20, 55, thread=2),
        event("gloo:all_reduce", 120, 140),  # after the step
        event("aten::mm", -20, -10),
    ]
    parts = split_events(events, cuda=False)
    assert [round(1e6 * getattr(parts, name)) for name in ("computing", "communication", "hidden", "exposed")] == [
        40,
        35,
        15,
        20,
    ]
    assert round(1e6 * parts.neither) == 40


def test_on_cuda_kernels_of_nccl_are_communication_and_ranges_are_no_work():
    cuda = {"device": DeviceType.CUDA}
    events = [
        event(STEP, 0, 100),
        event(STEP, 5, 95, annotation=True, **cuda),  # the range's shadow
        event("nccl:all_gather", 5, 95, annotation=True, **cuda),
        event("aten::mm", 0, 90),
        event("gemm", 10, 40, **cuda),
        event("Memcpy DtoD", 40, 50, **cuda),
        event("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 30, 70, **cuda),
        event("ncclKernel_ReduceScatter", 80, 90, **cuda),
    ]
    parts = split_events(events, cuda=True)
    assert [round(1e6 * getattr(parts, name)) for name in ("computing", "communication", "hidden", "exposed")] == [
        40,
        50,
        20,
        30,
    ]
    assert round(1e6 * parts.neither) == 30
