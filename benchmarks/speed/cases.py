"""The rows of the speed benchmark: what is run side by side, and the goal of each comparison."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import mmdit
from benchmarks.speed.peak_bytes import peak_bytes
from benchmarks.speed.published_mmdit import Case, below, build_ours
from benchmarks.speed.published_package import Published
from benchmarks.speed.sides import (
    Side,
    Size,
    block_inputs,
    block_products,
    block_runs,
    check_equal,
    draw,
    our_block,
    products,
    step,
    their_block,
    timed,
)
from mmdit import MMDiTModel
from mmdit.adaptive_attention import AdaptiveAttention
from mmdit.networks.transformer import MMDiT
from mmdit.sampling import timestep_grid

FP32, BF16 = torch.float32, torch.bfloat16
NAMES = {FP32: "fp32", BF16: "bf16"}


@dataclass(frozen=True)
class Goal:
    """`side` may take at most `most` times what `of` takes. A goal of 1 is met where noise can't tell the two apart."""

    of: str
    most: float
    side: str = "ours"


@dataclass(frozen=True)
class Row:
    """Sides to be timed in rounds; `build` makes them afresh: where tensors lie changes a time by some percent."""

    section: str
    name: str
    build: Callable[[], dict[str, Side]]
    goals: tuple[Goal, ...] = ()
    seconds: float = 3.0
    builds: int = 2
    close: Callable[[], None] = field(default=lambda: None)
    peaks: Callable[[], dict[str, int]] | None = None
    peak_goals: tuple[Goal, ...] = ()


# --------------------------------------------------------------------------------------------------------- dense blocks

SMALL, MIDDLE, LARGE = Size(256, 16, 48), Size(512, 64, 192), Size(1536, 154, 1024)
LARGEST, FLUX = Size(2432, 333, 4096), Size(1536, 154, 1024, flux=True)
# of the bare products; where the issue names none, None
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
    from benchmarks.speed.published_mmdit import call

    return [x for x in call(case, net, given) if x is not None]


# ------------------------------------------------------------------------------------------------------ without padding


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
            check_equal(*zip(*((a[m], b[m]) for a, b, m in pairs), strict=True), dtype)
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


# --------------------------------------------------------------------------------------------------- adaptive attention

ADAPTIVE = dict(dim=512, heads=8, dim_head=64)
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


# ---------------------------------------------------------------------------------------------------- hyper-connections


def streams(kind: str, mode: str, dtype: torch.dtype) -> Row:
    size = Size(512, 154, 870)
    made: dict[str, Any] = {}

    def build() -> dict[str, Side]:
        text, image, cond = block_inputs(size, dtype)
        sides = {}
        for name, options in (("ours", dict(num_residual_streams=4, residual=kind)), ("one stream", {})):
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


# --------------------------------------------------------------------------------------------- modulations of a sampler


def precomputed(tokens: int) -> Row:
    """Eight steps of four SD3-medium blocks with their ends, batch 1; the modulations' computation is in the time."""

    def build() -> dict[str, Side]:
        from mmdit_cli.request.inputs import example_inputs
        from mmdit_cli.request.tool_config import load_tool_config

        path = Path(__file__).resolve().parents[2] / "configs" / "sd3-medium.yaml"
        settings = ["model.depth=4", f"run.tokens.image={tokens}", "run.tokens.text=77", "run.batch_size=1"]
        config = load_tool_config(path, settings)
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


# ------------------------------------------------------------------------------------------------------------- all rows


def rows(published: Path | None, quick: bool) -> Iterator[Row]:
    sizes = (SMALL, MIDDLE) if quick else (SMALL, MIDDLE, LARGE, FLUX, LARGEST)
    for compiled in (False,) if quick else (False, True):
        for size in sizes:
            for dtype in (FP32, BF16):
                for mode in ("forward", "train"):
                    if not (compiled and size is LARGEST and dtype == FP32 and mode == "train"):  # five minutes
                        yield dense(size, dtype, mode, compiled, published)
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
