"""The speed benchmark's own parts, on tiny sizes: no time is measured here."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from benchmarks.families.diffusers_networks import BY_NAME
from benchmarks.published.peak_bytes import peak_bytes
from benchmarks.speed import cuda, cuda_networks, document
from benchmarks.speed.family_blocks import BLOCKS, at_its_width, family_runs
from benchmarks.speed.goals import Goal, Line, is_met, shown
from benchmarks.speed.sides import Size, block_products, block_runs, check_equal, our_block, timed
from mmdit_cli.profile import ceilings
from mmdit_cli.profile.statistics import compare
from mmdit_cli.request.tool_config import load_tool_config
from tests.support.marks import slow_but


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("size", [Size(128, 3, 8), Size(256, 3, 8, batch=2, flux=True)], ids=str)
def test_both_sides_compute_the_same_with_the_same_weights(size, mode):
    runs = block_runs(size, torch.float32, mode)  # raises where they differ
    assert set(runs) == {"ours", "diffusers"}
    for run in (*runs.values(), block_products(size, torch.float32, mode)):
        assert timed(run)() > 0


@pytest.mark.parametrize("block", slow_but(BLOCKS, "Z-Image, 3840 wide"))
def test_blocks_of_later_networks_compute_what_those_of_diffusers_do(block):
    name, index = BLOCKS[block]
    runs = family_runs(BY_NAME[name], index, torch.float32, "train")  # small; raises where they differ
    assert set(runs) == {"ours", "diffusers"}
    assert all(timed(run)() > 0 for run in runs.values())


def test_blocks_of_later_networks_are_timed_at_their_own_widths():
    for name, width in {"z-image": 3840, "lumina-image-2.0": 2304, "hunyuan-video": 3072}.items():
        network = at_its_width(name).small_config().model
        assert {modality.dim for modality in network.modalities.values()} == {width}
        assert (network.depth, network.single_stream.depth) == (int(name == "hunyuan-video"), 1)


def test_sides_that_differ_are_not_timed():
    x = torch.randn(2, 3)
    check_equal([x], [x + 1e-6], torch.float32)
    with pytest.raises(RuntimeError, match="the sides do not compute the same"):
        check_equal([x], [x + 0.01], torch.float32)
    with pytest.raises(RuntimeError, match="nan apart"):
        check_equal([x * torch.nan], [x], torch.float32)


def test_the_bare_products_are_the_blocks_own():
    from torch.utils.flop_counter import FlopCounterMode

    size = Size(128, 3, 8)
    block = our_block(size).to("meta")
    with torch.device("meta"), FlopCounterMode(display=False) as ours:
        tokens = [torch.randn(1, n, 128) for n in (3, 8)]
        block(modality_tokens=tokens, time_cond=torch.randn(1, 128))
    bare = block_products(size, torch.float32, "forward", device="meta")
    with FlopCounterMode(display=False) as theirs:
        bare()
    assert ours.get_total_flops() == theirs.get_total_flops() > 0


def test_the_peak_is_what_is_held_at_once():
    x = torch.zeros(100)

    def call():
        y = x + 1  # 400 bytes
        z = torch.cat([y, y])  # and 800
        del y
        return z.sum() + torch.zeros(300).sum()  # 800 and 1200, and two sums

    assert peak_bytes(call, x) == 800 + 1200 + 2 * 4


def ratio(*times):
    return compare(times, [1.0] * len(times), to="other")


def test_a_goal_of_one_is_missed_only_where_noise_does_not_explain_it():
    assert is_met(ratio(*[0.9] * 8), 1.0) and is_met(ratio(*[0.95, 1.1] * 4), 1.0)
    assert not is_met(ratio(*[1.02, 1.03] * 4), 1.0)
    assert is_met(ratio(1.01, 1.01), 1.0) and not is_met(ratio(1.05, 1.05), 1.0)
    assert is_met(ratio(*[1.09] * 8), 1.1) and not is_met(ratio(*[1.11] * 8), 1.1)


def test_a_line_of_the_document_shows_goal_figure_and_verdict(monkeypatch):
    monkeypatch.setattr(document, "about", lambda: "a machine")
    figure, goal = shown(Goal("diffusers", 1.0), ratio(*[0.5] * 8), {"ours": 12.345})
    assert figure == "0.500 (0.500 to 0.500) of diffusers, 12.35 ms" and goal == "≤ 1 of diffusers"
    text = document.markdown([Line("a block", figure, goal, False, "dense")])
    assert (
        f"| a block | {figure} | {goal} | **no** |" in text
        and "Written by `python -m benchmarks.speed --write docs/reports/benchmarks.md` on a machine." in text
    )


@pytest.mark.slow
def test_the_gpu_script_runs_to_its_end_on_the_cpu_with_tiny_sizes(monkeypatch):
    """So that it does not rot where there is no GPU. Compilers are left out: they take longer than all the rest."""
    monkeypatch.setattr(torch, "compile", lambda net, **options: net)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **options: None)
    monkeypatch.setattr(ceilings, "GEMM_SHAPES", ((64, 64, 64),))
    monkeypatch.setitem(ceilings.STREAM_BYTES, "cpu", (3 << 10,))
    monkeypatch.setitem(ceilings.TIMED_BYTES, "cpu", 1 << 12)
    monkeypatch.setattr(
        cuda, "rounds", lambda calls, device: {name: [timed(call)()] * 2 for name, call in calls.items()}
    )
    names = " ".join(line.name for line in cuda.lines("cpu"))
    for section in (
        "tiny",
        "tiny flux",
        "the network",
        "sampling by",
        "reduce-overhead",
        "varlen",
        "attention,",
        "train",
    ):
        assert section in names
    assert "left out" not in names


def test_what_the_time_is_not_enough_for_is_named_as_left_out(monkeypatch):
    sections = [("slow", lambda: iter([Line("slow", "done")])), ("late", lambda: iter([Line("late", "done")]))]
    monkeypatch.setattr(cuda, "sections", lambda device, flops: sections)
    monkeypatch.setattr(cuda, "measure_ceilings", lambda *_, **__: mock.Mock(gemm_flops_per_s=1e12))
    clock = iter([0.0, 10.0, 500.0])
    monkeypatch.setattr(cuda.time, "perf_counter", lambda: next(clock))
    assert [(line.name, line.figure) for line in cuda.lines("cpu", 390.0)][1:] == [
        ("slow", "done"),
        ("left out after 390 s", "late"),
    ]


def test_weights_of_the_gpu_script_are_drawn():
    """Closed gates would hide what a block does."""
    net, _ = cuda_networks._built(load_tool_config("toy-two-modality", []), "cpu")
    assert all(parameter.any() for parameter in net.parameters())
