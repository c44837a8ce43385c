"""The settings in which the published `mmdit` 0.3.0 is right, and how a module of either side is called in them.

What differs by convention: their modulation multiplies by gamma, ours by 1 + scale (so scale = gamma - 1); their layer
norms have an eps of 1e-5 and their RMS norms one of 0; their `AdaptiveAttention` returns its heads apart (its known
fault), so they are summed before the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VERSION = "0.3.0"


LAYER_NORM_EPS, BATCH, COND = 1e-5, 2, 24


State = dict[str, Any]  # name -> tensor


@dataclass(frozen=True)
class Case:
    """One setting; `options` go to both constructors as they are."""

    name: str
    kind: str
    options: dict[str, Any]
    masked: bool = False
    call: dict[str, Any] = field(default_factory=dict)


HEADS: dict[str, Any] = dict(heads=4, dim_head=16)


TWO = dict(dim_text=48, dim_image=32, **HEADS)


THREE = dict(dim_modalities=(48, 32, 40), **HEADS)


JOINT = dict(dim_inputs=(48, 32, 40), **HEADS)


ADAPTIVE = dict(dim=48, **HEADS)


TWO_COND, THREE_COND = (sizes | dict(dim_cond=COND) for sizes in (TWO, THREE))


TWO_DEEP, THREE_DEEP = (sizes | dict(depth=3) for sizes in (TWO_COND, THREE_COND))


ONE_STREAM, STREAMS = dict(num_residual_streams=1), dict(num_residual_streams=4)


CLAMP = dict(softclamp=True, softclamp_value=2.0)


SWIGLU = dict(ff_kwargs=dict(glu=True, swish=True, mult=2))


SKIPPED = dict(should_skip_last_feedforward=True)  # the default on their side


FED, UNFED = (dict(skip_feedforward_text_tokens=skip) for skip in (False, True))


CASES = (
    Case("JointAttention", "joint", JOINT),
    Case("JointAttention, masks", "joint", JOINT, masked=True),
    Case("JointAttention, qk_rmsnorm, masks", "joint", JOINT | dict(qk_rmsnorm=True), masked=True),
    Case("JointAttention, softclamp, masks", "joint", JOINT | CLAMP, masked=True),
    Case("AdaptiveAttention, 1 weight, mask", "adaptive", ADAPTIVE, masked=True),
    Case("AdaptiveAttention, 4 weights, mask", "adaptive", ADAPTIVE | dict(num_adaptive_weights=4), masked=True),
    Case("two-modality block", "block", TWO, call=FED),
    Case("two-modality block, conditioned, mask", "block", TWO_COND, masked=True, call=FED),
    Case("two-modality block, swiglu", "block", TWO_COND | SWIGLU, call=FED),
    Case("two-modality block, text feedforward skipped", "block", TWO_COND, call=UNFED),
    Case("two-modality transformer, 1 stream, mask", "transformer", TWO_DEEP | ONE_STREAM, masked=True, call=SKIPPED),
    Case(
        "two-modality transformer, registers",
        "transformer",
        TWO_DEEP | ONE_STREAM | dict(num_register_tokens=3),
        call=SKIPPED,
    ),
    Case("two-modality transformer, 4 streams, mask", "transformer", TWO_DEEP | STREAMS, masked=True, call=SKIPPED),
    Case("generalized block, mask", "general_block", THREE, masked=True),
    Case("generalized block, conditioned, softclamp, mask", "general_block", THREE_COND | CLAMP, masked=True),
    Case("generalized transformer, 1 stream, mask", "general_transformer", THREE_DEEP | ONE_STREAM, masked=True),
    Case("generalized transformer, 4 streams, mask", "general_transformer", THREE_DEEP | STREAMS, masked=True),
)


def run(case: Case, net: Any, given: State) -> tuple[State, State]:
    """Call either side's module; its outputs, and the gradients of its inputs under a fixed weighted sum of them.

    (Not the sum of squares: that of a normed output is nearly constant, and its gradient rounding alone.)
    """
    leaves = {name: x.requires_grad_() for name, x in given.items() if x.is_floating_point()}
    out = {str(i): x for i, x in enumerate(call(case, net, given))}
    sum((x * x.new_tensor(range(x.numel())).sin().view_as(x)).sum() for x in out.values()).backward()
    return {name: x.detach() for name, x in out.items()}, {name: x.grad for name, x in leaves.items()}


def call(case: Case, net: Any, given: State) -> tuple[Any, ...]:
    """The outputs, where masked at valid places alone: elsewhere ours mean nothing."""
    tokens = [given[f"tokens.{i}"] for i in range(sum(name.startswith("tokens.") for name in given))]
    masks = [given.get(f"mask.{i}") for i in range(len(tokens))]
    outs = _call(case, net, tokens, masks, given)
    return tuple(x if mask is None else x[mask] for x, mask in zip(outs, masks, strict=True))


def _call(case: Case, net: Any, tokens: list[Tensor], masks: list[Tensor | None], given: State) -> tuple[Tensor, ...]:
    cond = {"time_cond": given["cond"]} if "cond" in given else {}
    if case.kind == "joint":
        return tuple(net(tokens, masks))
    if case.kind == "adaptive":
        x, (batch, length, dim) = net(tokens[0], mask=masks[0]), tokens[0].shape
        # theirs: b h n e for several weights, b n (h e) for one; what was meant is the sum over the heads
        return (x.sum(1) if x.ndim == 4 else x.reshape(batch, length, -1, dim).sum(2),)
    if case.kind.startswith("general"):
        return tuple(net(modality_tokens=tuple(tokens), modality_masks=tuple(masks), **cond))
    return tuple(net(text_tokens=tokens[0], image_tokens=tokens[1], text_mask=masks[0], **cond, **case.call))


def random_inputs(case: Case, lengths: tuple[int, ...], batch: int) -> State:
    """Tokens, and conditioning and a mask where the case has them."""

    options = case.options
    widths = options.get("dim_inputs") or options.get("dim_modalities")
    widths = widths or ((options["dim"],) if "dim" in options else (options["dim_text"], options["dim_image"]))
    given = {f"tokens.{i}": torch.randn(batch, n, d) for i, (n, d) in enumerate(zip(lengths, widths, strict=False))}
    if case.masked:
        given["mask.0"] = torch.arange(lengths[0]) < torch.tensor([[5], [8]])
    if "dim_cond" in options:
        given["cond"] = torch.randn(batch, options["dim_cond"])
    return given


def save_parts(file: Path, **parts: State) -> None:
    """Tensors by part and name, in one safetensors file that `below` takes apart."""
    from safetensors.torch import save_file

    save_file(
        {f"{part}.{name}": x.detach().contiguous() for part, tensors in parts.items() for name, x in tensors.items()},
        file,
    )


def below(state: State, prefix: str) -> State:
    return {name[len(prefix) :]: x for name, x in state.items() if name.startswith(prefix)}
