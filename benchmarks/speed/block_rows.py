"""Rows of one joint block: dense, and padded beside padding-free."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.published.comparison import build_ours
from benchmarks.published.settings import Case, below, call
from benchmarks.published.their_process import Published
from benchmarks.speed.goals import Goal, Row
from benchmarks.speed.sides import (
    Side,
    Size,
    block_inputs,
    block_products,
    block_runs,
    check_equal,
    our_block,
    step,
    their_block,
    timed,
)
from mmdit.networks.transformer import MMDiT

FP32, BF16 = torch.float32, torch.bfloat16
NAMES = {FP32: "fp32", BF16: "bf16"}


SMALL, MIDDLE, LARGE = Size(256, 16, 48), Size(512, 64, 192), Size(1536, 154, 1024)


LARGEST, FLUX = Size(2432, 333, 4096), Size(1536, 154, 1024, flux=True)


LIMITS = {(LARGE, FP32): 1.05, (LARGE, BF16): 1.10, (MIDDLE, FP32): 1.15, (MIDDLE, BF16): 1.15}


def dense(size: Size, dtype: torch.dtype, mode: str, compiled: bool, published: Path | None) -> Row:
    with_published = published is not None and dtype == FP32 and not compiled and size in (MIDDLE, LARGE)
    worker: list[Published] = []

    def build() -> dict[str, Side]:
        torch._dynamo.reset()
        torch._dynamo.config.cache_size_limit = 64
        runs = block_runs(size, dtype, mode, compiled=compiled)
        sides = {name: timed(run) for name, run in runs.items()}
        if not compiled:
            sides["products"] = timed(block_products(size, dtype, mode))
        if not compiled and size in (MIDDLE, LARGE):
            sides["products + gelu"] = timed(with_gelu(size, dtype, mode))
        if with_published:
            assert published is not None
            options = dict(dim_text=size.dim, dim_image=size.dim, dim_cond=size.dim, heads=size.heads, dim_head=64)
            case = Case("", "block", options | dict(flash_attn=True), call=dict(skip_feedforward_text_tokens=False))
            worker.append(Published(published, torch.get_num_threads()))
            built(worker[-1], case, (size.text, size.image))
            sides["published"] = partial(worker[-1].ask, run=mode)
        return sides

    def close() -> None:
        while worker:
            worker.pop().close()

    goals = [Goal("diffusers", 1.0)]
    if (size, dtype) in LIMITS and not compiled:
        goals.append(Goal("products", LIMITS[size, dtype]))
    name = f"{'FLUX block, ' if size.flux else ''}{size}, {NAMES[dtype]}, {mode}{', compiled' if compiled else ''}"
    twice = size in (SMALL, MIDDLE) and not compiled
    return Row("dense", name, build, tuple(goals), 3.0, 2 if twice else 1, close)


def with_gelu(size: Size, dtype: torch.dtype, mode: str) -> Callable[[], None]:
    """The bare products, and the activation of both feedforwards: what eager code that computes the block must run."""
    bare = block_products(size, dtype, mode)
    hidden = [torch.randn(size.batch, n, 4 * size.dim, dtype=dtype) for n in (size.text, size.image)]
    gelus = step(lambda: [F.gelu(x, approximate="tanh") for x in hidden], mode, hidden)

    def both() -> None:
        bare()
        gelus()

    return both


def built(worker: Published, case: Case, lengths: Sequence[int]) -> Any:
    """Have the worker build a case; ours with its weights, which gives the same."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "theirs.safetensors"
        worker.ask(build=[vars(case), list(lengths), 1], file=str(file))
        saved = load_file(file)
    ours = build_ours(case, below(saved, "state."))
    given, wanted = below(saved, "given."), below(saved, "out.")
    run = partial(called, case, ours, given)
    with torch.inference_mode():
        check_equal(run(), [wanted[str(i)] for i in range(len(wanted))], FP32)
    return ours, given, run


def called(case: Case, net: Any, given: dict[str, Tensor]) -> Sequence[Tensor]:
    return [x for x in call(case, net, given) if x is not None]


def padded(mode: str, dtype: torch.dtype, *, full: bool = False) -> Row:
    """One block of SD3's at 1024 wide over four samples whose tokens are half padding: captions of 30 to 120 of 512
    tokens, pictures of three sizes beside a full one. Diffusers' block takes no mask, so it computes all of it."""
    size = Size(1024, 512, 1024, batch=4)
    texts, images = ((512,) * 4, (1024,) * 4) if full else ((30, 60, 77, 120), (1024, 768, 576, 400))

    def build() -> dict[str, Side]:
        theirs = their_block(size)
        block = our_block(size, theirs)
        stack = MMDiT(
            depth=1, dim_modalities=(size.dim, size.dim), dim_cond=size.dim, heads=size.heads, dim_head=64, bias=True,
            ff_kwargs=dict(kind="gelu_tanh"), final_norms=False,
        )  # fmt: skip
        stack.load_state_dict({f"blocks.0.{name}": x for name, x in block.state_dict().items()})
        stack.to(dtype)
        theirs.to(dtype)
        text, image, cond = block_inputs(size, dtype)
        masks = [
            torch.arange(n) < torch.tensor(valid)[:, None] for n, valid in ((size.text, texts), (size.image, images))
        ]

        def ours(varlen: bool) -> Callable[[], Sequence[Tensor]]:
            def run() -> Sequence[Tensor]:
                stack.varlen = varlen
                outs = stack(modality_tokens=(text, image), modality_masks=masks, time_cond=cond)
                return [x for x in outs if x is not None]

            return run

        with torch.no_grad():
            pairs = zip(ours(True)(), ours(False)(), masks, strict=True)
            ours_valid, theirs_valid = zip(*((a[m], b[m]) for a, b, m in pairs), strict=True)
            check_equal(ours_valid, theirs_valid, dtype)
        leaves = [text, image, cond]
        return {
            "ours": timed(step(ours(True), mode, [*leaves, *stack.parameters()])),
            "padded": timed(step(ours(False), mode, [*leaves, *stack.parameters()])),
            "diffusers": timed(step(lambda: theirs(image, text, cond), mode, [*leaves, *theirs.parameters()])),
        }

    most = 1.0 if full else 1 / 1.6
    share = sum(texts + images) / (4 * (size.text + size.image))
    name = f"{size}, {share:.0%} valid, {NAMES[dtype]}, {mode}"
    return Row("padding-free", name, build, (Goal("padded", most), Goal("diffusers", most)))
