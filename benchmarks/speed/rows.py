"""The rows of the speed benchmark: what is run side by side, and the goal of each comparison."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mmdit
from benchmarks.paths import CONFIGS
from benchmarks.published.peak_bytes import peak_bytes
from benchmarks.published.settings import Case
from benchmarks.published.their_process import Published
from benchmarks.speed.block_rows import BF16, FLUX, FP32, LARGE, LARGEST, MIDDLE, NAMES, SMALL, built, dense, padded
from benchmarks.speed.family_blocks import family_rows
from benchmarks.speed.goals import Goal, Row
from benchmarks.speed.sides import Side, Size, block_inputs, check_equal, draw, products, step, timed
from mmdit import MMDiTModel
from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.networks.transformer import MMDiT
from mmdit.sampling import timestep_grid
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import load_tool_config

# of the bare products; where the issue names none, None


ADAPTIVE: dict[str, Any] = dict(dim=512, heads=8, dim_head=64)
TOKENS = 1792


def adaptive(mode: str, published: Path | None) -> Row:
    worker: list[Published] = []
    case = Case("", "adaptive", ADAPTIVE | dict(num_adaptive_weights=4))
    made: dict[str, Any] = {}

    def build() -> dict[str, Side]:
        sides: dict[str, Side] = {}
        if published is not None:
            worker.append(Published(published, torch.get_num_threads()))
            ours, given, _ = built(worker[-1], case, (TOKENS,))
            sides["published"] = partial(worker[-1].ask, run=mode)
        else:
            ours, given = draw(AdaptiveAttention(**case.options)), {"tokens.0": torch.randn(1, TOKENS, 512)}
        x = given["tokens.0"]
        run = step(lambda: [ours(x)], mode, [x, *ours.parameters()])
        linears = [((1, TOKENS, 512), 1536, False), ((1, TOKENS, 512), 512, False)] * 4
        linears.append(((1, TOKENS, 512), 8 * 4, False))
        made.update(run=run, known=(list(ours.parameters()), x), worker=worker[-1] if worker else None)
        return {"ours": timed(run), "products": timed(products(linears, (1, 8, TOKENS, 64), FP32, mode)), **sides}

    def peaks() -> dict[str, int]:
        found = {"ours": peak_bytes(made["run"], made["known"])}
        if made["worker"]:
            found["published"] = made["worker"].ask(peak=mode)
        return found

    def close() -> None:
        while worker:
            worker.pop().close()

    goals = (Goal("published", 0.5),) if published is not None else ()
    return Row(
        "adaptive attention", f"4 weights, 512 wide, {TOKENS} tokens, fp32, {mode}", build,
        (*goals, Goal("products", 1.15)), close=close, peaks=peaks,
        peak_goals=(Goal("published", 1 / 3),) if published is not None else (),
    )  # fmt: skip


def sample_gated(mode: str) -> Row:
    """A weight of its own for each sample, against one weight for all."""

    def build() -> dict[str, Side]:
        x, cond = torch.randn(1, TOKENS, 512), torch.randn(1, 256)
        gated = draw(AdaptiveAttention(**ADAPTIVE, num_adaptive_weights=4, gating="sample", dim_cond=256))
        plain = draw(AdaptiveAttention(**ADAPTIVE))
        return {
            "ours": timed(step(lambda: [gated(x, cond=cond)], mode, [x, cond, *gated.parameters()])),
            "standard": timed(step(lambda: [plain(x)], mode, [x, *plain.parameters()])),
        }

    name = f"gating: sample, 4 weights, 512 wide, {TOKENS} tokens, fp32, {mode}"
    return Row("adaptive attention", name, build, (Goal("standard", 1.15),))


def streams(kind: str, mode: str, dtype: torch.dtype) -> Row:
    size = Size(512, 154, 870)
    made: dict[str, Any] = {}

    def build() -> dict[str, Side]:
        text, image, cond = block_inputs(size, dtype)
        sides = {}
        several: dict[str, Any] = dict(num_residual_streams=4, residual=kind)
        for name, options in {"ours": several, "one stream": {}}.items():
            net = MMDiT(
                depth=2, dim_modalities=(512, 512), dim_cond=512, heads=8, dim_head=64, bias=True,
                ff_kwargs=dict(kind="gelu_tanh"), **options,
            )  # fmt: skip
            draw(net).to(dtype)
            run = step(
                partial(net, modality_tokens=(text, image), time_cond=cond),
                mode,
                [text, image, cond, *net.parameters()],
            )
            sides[name] = timed(run)
            made[name] = run, (list(net.parameters()), text, image, cond)
        return sides

    def peaks() -> dict[str, int]:
        return {name: peak_bytes(*each) for name, each in made.items()}

    name = f"{kind.replace('_', ' ')}, 4 streams, 2 blocks, 512 wide, 1024 tokens, {NAMES[dtype]}, {mode}"
    return Row("hyper-connections", name, build, (Goal("one stream", 1.10),), peaks=peaks)


def precomputed(tokens: int) -> Row:
    """Eight steps of four SD3-medium blocks with their ends, batch 1; the modulations' computation is in the time."""

    def build() -> dict[str, Side]:
        settings = ["model.depth=4", f"run.tokens.image={tokens}", "run.tokens.text=77", "run.batch_size=1"]
        config = load_tool_config(CONFIGS / "sd3-medium.yaml", settings)
        net = mmdit.build(config.model)
        assert isinstance(net, MMDiTModel)
        draw(net).eval()
        given = example_inputs(config).kwargs
        inputs, pooled = given["inputs"], given["pooled"]
        t = torch.tensor(timestep_grid(8)[:-1]) * 1000

        def each() -> list[Tensor]:
            return [net(inputs, step.expand(1), pooled)["image"] for step in t]

        def once() -> list[Tensor]:
            return [net(inputs, modulation=known)["image"] for known in net.precompute_modulation(t, pooled)]

        with torch.inference_mode():
            check_equal(once(), each(), FP32)
        return {"ours": timed(step(once, "forward", [])), "each step": timed(step(each, "forward", []))}

    return Row("modulations of a sampler", f"8 steps, 4 blocks of sd3-medium, 77 + {tokens} tokens, fp32", build,
               (Goal("each step", 1.0),))  # fmt: skip


def rows(published: Path | None, quick: bool) -> Iterator[Row]:
    sizes = (SMALL, MIDDLE) if quick else (SMALL, MIDDLE, LARGE, FLUX, LARGEST)
    for compiled in (False,) if quick else (False, True):
        for size in sizes:
            for dtype in (FP32, BF16):
                for mode in ("forward", "train"):
                    if not (compiled and size is LARGEST and dtype == FP32 and mode == "train"):  # five minutes
                        yield dense(size, dtype, mode, compiled, published)
    if not quick:
        yield from family_rows()
    for full in (False, True):
        for dtype in (FP32,) if quick or full else (FP32, BF16):
            for mode in ("forward", "train"):
                yield padded(mode, dtype, full=full)
    for mode in ("forward", "train"):
        yield adaptive(mode, published)
        yield sample_gated(mode)
    for kind in ("hyper_connections", "manifold_hyper_connections"):
        for dtype in (FP32,) if quick else (FP32, BF16):
            for mode in ("forward", "train"):
                yield streams(kind, mode, dtype)
    for tokens in (64, 256):
        yield precomputed(tokens)
