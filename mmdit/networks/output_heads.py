"""From the stream's tokens to what goes out: an adaptive final norm and a projection."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.layers.modulation import in_parts
from mmdit.layers.neighbours import Valid, make_neighbours
from mmdit.layers.norms import AdaptiveNorm
from mmdit.networks.patches import together
from mmdit.options import LinearOutput, ModalityOptions, ModelOptions, PatchInput, PatchOutput

ShiftScale = tuple[Tensor | None, Tensor | None]


class SequenceHead(nn.Module):
    """Adaptive final norm and projection: `b n d -> b n dim_out` (DiT, section 3.2, "transformer decoder").

    The modulation starts at zero, with `adaln="zero"` the projection too.
    """

    def __init__(self, dim: int, dim_out: int, options: LinearOutput | PatchOutput, network: ModelOptions) -> None:
        super().__init__()
        conditioned = network.dim_cond is not None
        cond = None if options.parts == "none" else network.dim_cond
        eps = network.norm_eps if options.norm_eps is None else options.norm_eps
        norm = nn.LayerNorm(dim, eps=eps, elementwise_affine=not conditioned) if options.norm else nn.Identity()
        self.parts = options.parts.split("_")
        width = dim * len(self.parts)
        self.modulation = None if cond is None else nn.Linear(cond, width, bias=network.modulation.bias)
        self.norm = AdaptiveNorm(norm)
        kernel = options.kernel if isinstance(options, LinearOutput) else 1
        self.beside = make_neighbours(kernel)
        self.linear = nn.Linear(kernel * dim, dim_out, bias=options.bias)
        for linear in (self.modulation, self.linear if network.adaln == "zero" else None):
            for parameter in () if linear is None else linear.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None,
        like: Tensor,
        modulation: ShiftScale | None = None,
        valid: Valid = None,
    ) -> Tensor:
        """`x`: b n d; `cond`: b dim_cond; `like`: what came in at the other end; `modulation`: what `modulate` gave;
        `valid`: which tokens are."""
        shift, scale = self.modulate(cond) if modulation is None else modulation
        return self.formed(self.linear(self.beside(self.norm(x, shift, scale), valid)), like)

    def formed(self, x: Tensor, like: Tensor) -> Tensor:
        """The projected tokens in the form of what goes out."""
        return x

    def modulate(self, cond: Tensor | None) -> ShiftScale:
        """Shift and scale, `b 1 d`, of the conditioning `b dim_cond` (`b n d` of one for each token); None of none."""
        if self.modulation is None or cond is None:
            return None, None
        named = dict(zip(self.parts, in_parts(self.modulation(F.silu(cond)), len(self.parts)), strict=True))
        return named.get("shift"), named["scale"]


class PatchHead(SequenceHead):
    """The same for an image, `b (h w) d -> b c (h p) (w q)`, or a video."""

    def __init__(self, dim: int, sizes: tuple[int, ...], options: PatchOutput, network: ModelOptions) -> None:
        super().__init__(dim, options.channels * math.prod(sizes), options, network)
        self.sizes = sizes

    def formed(self, x: Tensor, like: Tensor) -> Tensor:
        """`like`: the image b c' h' w' or video that came in, whose size the output takes."""
        return together(x, self.sizes, like)


def make_head(modality: ModalityOptions, network: ModelOptions) -> nn.Module | None:
    """A modality's output head; None where its tokens go out as they are."""
    match modality.output, modality.input:
        case LinearOutput() as out, _:
            return SequenceHead(modality.dim, out.dim, out, network)
        case PatchOutput() as out, PatchInput() as end:
            return PatchHead(modality.dim, end.sizes, out, network)
        case _:
            return None
