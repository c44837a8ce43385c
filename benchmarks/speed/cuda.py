"""The block on a GPU, in bf16 at 1024 x 1024 pixels: beside diffusers, and beside the machine's matrix products.

    python -m benchmarks.speed.cuda --write docs/reports/benchmarks-cuda.md

One call of under 8 minutes: the joint blocks of SD3-medium, SD3.5-large and FLUX, eager, compiled, forward and train;
whole networks, sampling, and training with compiled blocks; a block replayed (`mode="reduce-overhead"`); which
attention kernel is fastest; the padding-free run; whether a block waits for the host, and whether it can be captured in
a CUDA graph; two devices where there are two. What does not begin within `--seconds` is left out, and the document says
so. `--device cpu` runs the same on tiny sizes, to see that the script works: its figures mean nothing. Exit code: 0, or
1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.speed.cuda_networks import network, sampling, two_devices
from benchmarks.speed.document import table
from benchmarks.speed.goals import Line
from benchmarks.speed.sides import Size, block_inputs, block_products, block_runs, draw, our_block, step, timed
from mmdit.networks.transformer import MMDiT
from mmdit_cli.profile.ceilings import measure_ceilings
from mmdit_cli.profile.statistics import compare
from mmdit_cli.profile.timing import run_rounds

BF16 = torch.bfloat16
SIZES = {
    "sd3-medium": Size(1536, 333, 4096),
    "sd3.5-large": Size(2432, 333, 4096),
    "flux.1-dev": Size(3072, 512, 4096, flux=True),
}
TINY = {"tiny": Size(128, 8, 24), "tiny flux": Size(256, 8, 24, flux=True)}
LARGE = "sd3.5-large"  # whose goals are named
KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
SECONDS = {"cuda": 2.0, "cpu": 0.02}  # a side
BUDGET = 390.0  # seconds within which a section may begin; the longest takes less than the rest of 8 minutes
Section = tuple[str, Callable[[], Iterator[Line]]]


def flops_of(size: Size) -> float:
    """A forward pass's, 2 a multiply-add."""
    tokens, dim = size.text + size.image, size.dim
    return size.batch * (2 * tokens * 12 * dim**2 + 4 * tokens**2 * dim + 2 * 2 * 6 * dim**2)


def rounds(calls: dict[str, Callable[[], None]], device: str) -> dict[str, list[float]]:
    sides = [timed(call, device) for call in calls.values()]
    for side in sides:
        for _ in range(3):
            side()
    times = run_rounds(sides, lambda side: side(), max_seconds=SECONDS[torch.device(device).type], tolerance=0.004)  # type: ignore[arg-type,return-value]
    return dict(zip(calls, times, strict=True))


def dense(name: str, size: Size, mode: str, ceiling: float, device: str) -> Iterator[Line]:
    eager = block_runs(size, BF16, mode, device=device)
    compiled = block_runs(size, BF16, mode, device=device, compiled=True)
    calls = {
        "ours": eager["ours"],
        "diffusers": eager["diffusers"],
        "ours, compiled": compiled["ours"],
        "diffusers, compiled": compiled["diffusers"],
        "products": block_products(size, BF16, mode, device),
    }
    times = rounds(calls, device)
    work = flops_of(size) * (1 if mode == "forward" else 3)
    for ours, others in (("ours", ("diffusers", "products")), ("ours, compiled", ("diffusers, compiled", "products"))):
        seconds = median(times[ours])
        share = work / seconds / ceiling
        goal = {"forward": 0.7, "train": 0.6}[mode] if name == LARGE and ours != "ours" else 0.0
        wanted = f"≥ {goal:.0%}" if goal else ""
        yield Line(
            f"{name}, {size}, {mode}, {ours}",
            f"{seconds * 1e3:.3f} ms, {share:.1%} of the ceiling",
            wanted,
            share >= goal,
        )
        for other in others:
            ratio = compare(times[other], times[ours], to=other)
            most = 1.05 if other == "diffusers, compiled" and name == LARGE else 1.0
            checked = other != "products"
            spread = "" if ratio.low is None else f" ({ratio.low:.3f} to {ratio.high:.3f})"
            yield Line(
                f"{name}, {mode}, {ours}",
                f"{other}: {ratio.ratio:.3f}{spread} times our time",
                f"≥ {most:g}" if checked else "",
                not checked or ratio.ratio >= most or (most == 1.0 and (ratio.high or ratio.ratio) >= 1.0),
            )


def chosen_by_torch(qkv: list[Any]) -> list[torch.Tensor]:
    return [torch.nn.functional.scaled_dot_product_attention(*qkv)]


def kernels(name: str, size: Size, device: str) -> Iterator[Line]:
    """The fused attention kernels on the joint sequence, forward and backward."""
    shape = (size.batch, size.heads, size.text + size.image, size.dim // size.heads)
    for mode in ("forward", "train"):
        calls: dict[str, Callable[[], None]] = {}
        for kernel in KERNELS if device != "cpu" else (SDPBackend.FLASH_ATTENTION,):
            qkv = [torch.randn(shape, device=device, dtype=BF16) for _ in range(3)]

            def run(qkv: list[Any] = qkv, kernel: Any = kernel) -> list[torch.Tensor]:
                with sdpa_kernel(kernel):
                    return chosen_by_torch(qkv)

            call = step(run, mode, qkv)
            try:
                call()
            except RuntimeError as error:
                yield Line(f"attention, {name}, {mode}", f"{kernel.name}: {str(error).splitlines()[0]}")
            else:
                calls[kernel.name] = call
        qkv = [torch.randn(shape, device=device, dtype=BF16) for _ in range(3)]
        calls["torch's choice"] = step(partial(chosen_by_torch, qkv), mode, qkv)
        for kernel_name, taken in rounds(calls, device).items():
            yield Line(f"attention, {name}, {mode}", f"{kernel_name}: {median(taken) * 1e3:.3f} ms")


def padding_free(size: Size, device: str) -> Iterator[Line]:
    """Half of four samples' tokens are padding."""
    dims: dict[str, Any] = dict(
        dim_modalities=(size.dim, size.dim), dim_cond=size.dim, heads=size.heads, dim_head=size.dim // size.heads
    )
    net = MMDiT(depth=1, **dims, bias=True, final_norms=False)
    draw(net).to(device, BF16)
    batch = Size(size.dim, size.text, size.image, batch=4)
    text, image, cond = block_inputs(batch, BF16, device)
    masks = [
        torch.arange(n, device=device) < (torch.tensor(shares, device=device) * n).long()[:, None]
        for n, shares in ((size.text, (0.1, 0.2, 0.3, 0.4)), (size.image, (1.0, 0.6, 0.4, 0.3)))
    ]
    for mode in ("forward", "train"):

        def call(varlen: bool, mode: str = mode) -> Callable[[], None]:
            def run() -> list[torch.Tensor]:
                net.varlen = varlen
                outs = net(modality_tokens=(text, image), modality_masks=masks, time_cond=cond)
                return [x for x in outs if x is not None]

            return step(run, mode, [text, image, cond, *net.parameters()])

        times = rounds({"varlen": call(True), "padded": call(False)}, device)
        ratio = compare(times["padded"], times["varlen"], to="varlen")
        share = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        what = f"varlen, {batch}, {share:.0%} valid, {mode}"
        yield Line(what, f"padded: {ratio.ratio:.2f} times our time", "≥ 1.6", ratio.ratio >= 1.6)


def host(size: Size) -> Iterator[Line]:
    """Whether a block waits for the host, and can be captured and replayed."""
    block = draw(our_block(size)).to("cuda", BF16)
    text, image, cond = block_inputs(size, BF16, "cuda")
    given = dict(modality_tokens=(text, image), time_cond=cond)
    with torch.inference_mode():
        wanted = block(**given)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            block(**given)
            yield Line("a block waits for the host", "never", "never")
        except RuntimeError as error:
            yield Line("a block waits for the host", str(error).splitlines()[0], "never", False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.stream(stream):
            block(**given)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            out = block(**given)
        graph.replay()
        torch.cuda.synchronize()
        same = all(torch.equal(a, b) for a, b in zip(out, wanted, strict=True))
        yield Line(
            "captured in a CUDA graph, its replay gives", "the same" if same else "something else", "the same", same
        )


def replayed(name: str, size: Size, mode: str, device: str) -> Iterator[Line]:
    """The block as `mode="reduce-overhead"` replays it, beside the block as it is."""
    block = draw(our_block(size)).to(device, BF16)
    text, image, cond = block_inputs(size, BF16, device)
    fast = torch.compile(block, mode="reduce-overhead", dynamic=False)
    leaves = [text, image, cond, *block.parameters()]

    def run(net: Any) -> list[torch.Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # what it gave before is no longer needed
        return list(net(modality_tokens=(text, image), time_cond=cond))

    calls = {name: step(partial(run, net), mode, leaves) for name, net in (("eager", block), ("fast", fast))}
    times = rounds(calls, device)
    ratio = compare(times["eager"], times["fast"], to="eager")
    fast_ms = median(times["fast"]) * 1e3
    yield Line(f"{name}, {mode}, reduce-overhead", f"{fast_ms:.3f} ms; eager takes {ratio.ratio:.2f} times as long")


def sections(device: str, flops: float) -> Iterator[Section]:
    """What is measured, the most telling first."""
    real = device != "cpu"
    sizes = SIZES if real else TINY
    large = LARGE if real else "tiny"
    networks = ("sd3-medium", "flux.1-dev") if real else ("toy-two-modality",)
    small = networks[0]
    rest = {name: size for name, size in sizes.items() if name != large}
    yield f"{large}, forward", partial(dense, large, sizes[large], "forward", flops, device)
    if real:
        yield "the host", partial(host, sizes[large])
    for name in networks:
        yield f"the network {name}, forward", partial(network, name, "forward", flops, device, rounds)
    yield f"sampling by {small}", partial(sampling, small, device, rounds)
    yield f"the network {small}, train", partial(network, small, "train", flops, device, rounds)
    yield f"{large}, train", partial(dense, large, sizes[large], "train", flops, device)
    for mode in ("forward", "train"):
        name = next(iter(sizes))
        yield f"{name}, {mode}, reduce-overhead", partial(replayed, name, sizes[name], mode, device)
    yield "padding-free", partial(padding_free, next(iter(sizes.values())), device)
    yield f"attention, {large}", partial(kernels, large, sizes[large], device)
    if real and torch.cuda.device_count() > 1:
        yield "two devices", two_devices
    for name, size in rest.items():
        for mode in ("forward", "train"):
            yield f"{name}, {mode}", partial(dense, name, size, mode, flops, device)
    for name, size in rest.items():
        yield f"attention, {name}", partial(kernels, name, size, device)


def lines(device: str, budget: float = BUDGET) -> Iterator[Line]:
    began = time.perf_counter()
    sizes = SIZES if device != "cpu" else TINY
    torch.backends.cuda.matmul.allow_tf32 = False
    shapes = [(size.text + size.image, size.dim, 4 * size.dim) for size in sizes.values()]
    seconds = 6.0 if device != "cpu" else 0.02
    ceiling = measure_ceilings(torch.device(device), BF16, gemms=shapes, seconds=seconds)
    flops = ceiling.gemm_flops_per_s
    yield Line("the best matrix product, bf16", f"{flops / 1e12:.4g} TFLOP/s at {ceiling.gemm_shape}")
    left_out = []
    for name, measure in sections(device, flops):
        if time.perf_counter() - began > budget:
            left_out.append(name)
            continue
        try:
            yield from measure()
        except torch.cuda.OutOfMemoryError:
            yield Line(name, "more memory than this device has")
        finally:
            torch._dynamo.reset()
            if device != "cpu":
                torch.cuda.empty_cache()
    if left_out:
        yield Line(f"left out after {budget:.0f} s", ", ".join(left_out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--seconds", type=float, default=BUDGET, help="Nothing begins after this; default: %(default)s."
    )
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("torch sees no CUDA device", file=sys.stderr)
        sys.exit(2)
    device_name = (
        torch.cuda.get_device_name() if options.device != "cpu" else "CPU, tiny sizes: no figure means anything"
    )
    text = [
        "# How fast on a GPU",
        "",
        "Written by `python -m benchmarks.speed.cuda --write docs/reports/benchmarks-cuda.md` on "
        f"{device_name}, torch {torch.__version__}, Python {platform.python_version()}.",
        "",
    ]
    began, found = time.perf_counter(), []
    for line in lines(options.device, options.seconds):
        found.append(line)
        print(line, flush=True)
    text += [*table(found), "", f"It took {time.perf_counter() - began:.0f} s."]
    if options.write:
        options.write.write_text("\n".join(text) + "\n", encoding="utf-8")
    sys.exit(not all(line.met for line in found))


if __name__ == "__main__":
    main()
