"""How far float32, bfloat16 and float16 are from float64, for every variant and up to 48 layers.

    python benchmarks/numerics.py                            what was measured, beside the bounds
    python benchmarks/numerics.py --write docs/numerics.md   the same as a document

Each network is run in float64 with the weights and inputs that the narrow dtype holds, so that only its arithmetic
differs. The tests hold every row to the same bounds (`tests/test_numerics.py`).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdit import mmdit_pytorch as two_modality
from mmdit.networks import transformer as generalized

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DIM, COND, BATCH = 64, 32, 2
LENGTHS = (9, 24, 7)
SIZES: dict[str, Any] = dict(heads=2, dim_head=32)
SEEDS = 5
DEEP = 48

# Float32 rounds every term of a product's sum; the narrow dtypes add up in float32 and round once.
SLOPES = {torch.float32: 3.0, torch.bfloat16: 1.0, torch.float16: 1.0}

VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "unconditioned": dict(dim_cond=None),
    "adaln identity": dict(adaln="identity"),
    "qk norm": dict(qk_rmsnorm=True),
    "shared qk norm, biases": dict(qk_rmsnorm=True, qk_norm_shared=True, bias=True),
    "qk layer norm": dict(qk_layernorm=True),
    "adaptive by token": dict(num_adaptive_weights=3),
    "adaptive by sample": dict(num_adaptive_weights=3, gating="sample", bias=True),
    "explicit attention": dict(flash_attn=False),
    "soft clamp": dict(softclamp=True, softclamp_value=5.0),
    "registers": dict(num_register_tokens=4),
    "hyper-connections": dict(num_residual_streams=4, residual="hyper_connections"),
    "static hyper-connections": dict(num_residual_streams=4, residual="hyper_connections", dynamic_residual=False),
    "manifold": dict(num_residual_streams=4),
    "static manifold": dict(num_residual_streams=4, dynamic_residual=False),
    "nested residual": dict(residual="nested"),
    "dual attention, discard": dict(dual_blocks=(0,), discard=(0,)),
    "parallel single stream": dict(single_stream="parallel"),
    "sequential single stream": dict(single_stream="sequential"),
    "shared modulation": dict(single_stream="parallel", shared_modulation=True),
    "rotary": dict(rotary_axes=(8, 12, 12)),
    "swiglu": dict(ff_kwargs=dict(kind="swiglu", mult=2)),
    "geglu": dict(ff_kwargs=dict(kind="geglu", mult=2)),
    "masks": {},
    "masks, packed": dict(varlen=True),
    "two modalities": dict(two=True, qk_rmsnorm=True, num_register_tokens=4),
    "two modalities, streams": dict(two=True, num_residual_streams=2),
    "all together": dict(
        num_adaptive_weights=2,
        num_residual_streams=2,
        qk_rmsnorm=True,
        softclamp=True,
        num_register_tokens=2,
        rotary_axes=(8, 12, 12),
        ff_kwargs=dict(kind="swiglu"),
        single_stream="sequential",
        varlen=True,
    ),
}
MASKED = ("masks", "masks, packed", "all together")


def bound(variant: str, depth: int, dtype: torch.dtype) -> float:
    """Of the relative error of a stack's outputs: about twice what was measured, or more.

    A sublayer's result is rounded to within `eps` of its size, whatever that is. The residual adds up `depth` of them,
    as random as roundings are, so they grow as the root of the depth; what happens once does not grow: the inputs'
    first norm, the last norm. Streams mixed by unconstrained matrices amplify what the layers before have rounded,
    which is why manifold hyper-connections were made.
    """
    amplified = 1 + depth / 16 if VARIANTS[variant].get("residual") == "hyper_connections" else 1
    return SLOPES[dtype] * amplified * torch.finfo(dtype).eps * (1 + depth**0.5)


def build(variant: str, depth: int, modalities: int = 3) -> nn.Module:
    """In float64, its weights away from where they start; half the blocks are single-stream ones where it has such."""
    options = dict(dim_cond=COND) | SIZES | VARIANTS[variant]
    if options.pop("two", False):
        return realistic(two_modality.MMDiT(depth=depth, dim_text=DIM, dim_image=DIM, **options).double())
    single = max(depth // 2, 1) if "single_stream" in options else 0
    net = generalized.MMDiT(
        depth=max(depth - single, 1), single_stream_depth=single, dim_modalities=[DIM] * modalities, **options
    )
    return realistic(net.double())


@torch.no_grad()
def realistic(net: nn.Module, noise: float = 0.3) -> nn.Module:
    """Matrices keep a vector's size, gates are about 0.6; norms, biases and stream coefficients stay near the start."""
    for name, parameter in net.named_parameters():
        if name.rsplit(".", 1)[-1] in ("pre", "mix", "post", "scales"):
            parameter.add_(torch.randn_like(parameter), alpha=noise / 3)
        elif parameter.ndim > 1 and "norm" not in name:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=noise)
    return net


def arguments(variant: str, dtype: torch.dtype) -> dict[str, Any]:
    """Those of a call, drawn in `dtype`."""
    options = VARIANTS[variant]
    tokens = [torch.randn(BATCH, n, DIM).to(dtype) for n in LENGTHS]
    given: dict[str, Any] = (
        {} if options.get("dim_cond", COND) is None else dict(time_cond=torch.randn(BATCH, COND).to(dtype))
    )
    if options.get("two"):
        return given | dict(text_tokens=tokens[0], image_tokens=tokens[1])
    if variant in MASKED:
        valid = (torch.tensor([n // 2, n])[:, None] for n in LENGTHS)
        given["modality_masks"] = [torch.arange(n) < count for n, count in zip(LENGTHS, valid, strict=True)]
    if "rotary_axes" in options:
        given["modality_positions"] = [None, *(torch.rand(n, 3) * 50 for n in LENGTHS[1:])]
    return given | dict(modality_tokens=tokens)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Tokens and conditioning in another dtype; masks and positions as they are."""
    if isinstance(value, dict):
        return {k: v if k.endswith(("masks", "positions")) else cast(v, dtype) for k, v in value.items()}
    return [cast(v, dtype) for v in value] if isinstance(value, list) else value.to(dtype)


def valid_outputs(outs: Sequence[Tensor | None], given: dict[str, Any]) -> Tensor:
    masks = given.get("modality_masks") or [None] * len(outs)
    return torch.cat(
        [
            (x if mask is None else x[mask]).double().flatten()
            for x, mask in zip(outs, masks, strict=True)
            if x is not None
        ]
    )


@torch.no_grad()
def relative_error(variant: str, depth: int, dtype: torch.dtype, seed: int) -> float:
    """Norm of the difference from float64 over the norm of the output; nan where something overflowed."""
    torch.manual_seed(seed)
    narrow = build(variant, depth).to(dtype)
    exact = copy.deepcopy(narrow).double()
    given = arguments(variant, dtype)
    got, wanted = (
        valid_outputs(net(**cast(given, kind)), given) for net, kind in ((narrow, dtype), (exact, torch.float64))
    )
    return float((got - wanted).norm() / wanted.norm())


ABOUT = """# How exact it is

Written by `python benchmarks/numerics.py --write docs/numerics.md` with torch {version} on the CPU;
`tests/test_numerics*.py` hold the bounds and what is said below them.

The relative error of a stack's outputs is the norm of the difference over the norm of the output: the largest of
{seeds} seeds, beside the bound. Each network ({dim} wide, {tokens} tokens, weights away from where they start) is run
in float64 with the very weights and inputs that the narrow dtype holds, so that only its arithmetic differs.

The bound is `c * eps * (1 + sqrt(layers))`, with c = 1 in bfloat16 and float16 and 3 in float32, whose products also
round every term of a sum. Roundings are random, and the residual adds up one for each layer. Unconstrained
hyper-connections amplify what earlier layers have rounded, so their bound also grows by `1 + layers / 16`; manifold
ones don't.
"""

ELSE = """
Beside these:

- Logits of 10,000 give the value of the largest, in every dtype. In float16 logits themselves end at 65,504: the fused
  attention keeps them in float32, the explicit one (`flash_attn=False`) needs a qk norm or a soft clamp beyond that.
- With 65,536 keys for one block of queries, masked or not, attention stays within the bound of one layer.
- A modality of no tokens, or masked whole, is as if it were not there; a sample masked whole changes no other; a batch
  of 0 gives a batch of 0. Gradients are finite in all of these.
- The same seed on the same machine gives the same bits, and nothing needs an operator that is not deterministic.
- Gradients are the numerical ones for every kind of block, and so are second derivatives where attention is explicit;
  torch's fused attention on the CPU has none and says so.
"""


@dataclass(frozen=True)
class Row:
    """The largest relative error of several seeds, by dtype."""

    variant: str
    depth: int
    errors: dict[str, float]


def measure(variants: Sequence[str] = tuple(VARIANTS), seeds: int = SEEDS) -> list[Row]:
    """At two layers, and at 48."""
    return [
        Row(
            variant,
            depth,
            {
                name: max(relative_error(variant, depth, dtype, s) for s in range(seeds))
                for name, dtype in DTYPES.items()
            },
        )
        for depth in (2, DEEP)
        for variant in variants
    ]


def document(rows: Sequence[Row]) -> str:
    """The rows as Markdown, between what was done and what holds beside it."""
    lines = [ABOUT.format(version=torch.__version__, seeds=SEEDS, dim=DIM, tokens=sum(LENGTHS), deep=DEEP)]
    lines += ["| variant | layers | " + " | ".join(f"{name} | bound" for name in DTYPES) + " |"]
    lines += ["| --- " * (2 + 2 * len(DTYPES)) + "|"]
    for row in rows:
        cells = (
            f"{row.errors[name]:.1e} | {bound(row.variant, row.depth, dtype):.1e}" for name, dtype in DTYPES.items()
        )
        lines.append(f"| {row.variant} | {row.depth} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + ELSE


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a document instead of printing it")
    path = parser.parse_args().write
    text = document(measure())
    print(text) if path is None else path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
