"""From what comes in to the stream's width: images, sequences and token ids; timesteps and other conditions.

An input's `mask` is that of its tokens, `b n` bool: what stands at masked ones is not read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmdit.layers.feedforward import FEEDFORWARD_KINDS, FeedForward
from mmdit.layers.masks import check_mask, fill_masked
from mmdit.layers.neighbours import alone, make_neighbours
from mmdit.layers.norms import RMSNorm
from mmdit.layers.positions import Learned2D, SinCos1D, SinCos2D, ddpm_sinusoid, scaled_sinusoid, timestep_sinusoid
from mmdit.networks.patches import cut
from mmdit.networks.ragged import Given
from mmdit.options import (
    FeedForwardInput,
    FeedForwardOptions,
    LinearInput,
    MlpInput,
    NumberOptions,
    PatchInput,
    PooledOptions,
    TokenInput,
)
from mmdit.options.modalities import AnyInput

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # of inputs
    "none": alone,
    "selu": F.selu,
    **{kind: activation for kind, (activation, _) in FEEDFORWARD_KINDS.items()},
}
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # that are computed in


class SequenceEmbed(nn.Module):
    """`b n dim_in -> b n d`: an RMS norm and sine-cosine positions if asked for, around a linear."""

    def __init__(self, options: LinearInput, dim: int, *, eps: float) -> None:
        super().__init__()
        self.dim_in = options.dim
        eps = eps if options.norm_eps is None else options.norm_eps
        self.norm = RMSNorm(options.dim, eps=eps) if options.norm == "rms" else nn.Identity()
        self.linear = nn.Linear(options.dim, dim, bias=options.bias)
        self.positions = SinCos1D() if options.positions == "sincos" else nn.Identity()

    def forward(self, x: Tensor, name: str, mask: Tensor | None = None) -> Tensor:
        """`x`: b n dim_in -> b n d. Raises ValueError, with `name`, where it has another shape."""
        _check_sequence(x, self.dim_in, name)
        return self.positions(self.linear(self.norm(_entered(x, name, mask))))


class MlpEmbed(nn.Module):
    """`b n dim_in -> b n d`: linears with an activation between them, a layer norm before or behind if asked for."""

    def __init__(self, options: MlpInput, dim: int) -> None:
        super().__init__()
        self.dim_in = options.dim
        widths = (options.dim, *options.hidden, dim)

        def norm(kind: str, width: int) -> nn.Module:
            return nn.LayerNorm(width, eps=options.norm_eps) if kind == "layer" else nn.Identity()

        self.norm, self.norm_out = norm(options.norm, options.dim), norm(options.norm_out, dim)
        self.linears = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        self.activation, _ = FEEDFORWARD_KINDS[options.activation]

    def forward(self, x: Tensor, name: str, mask: Tensor | None = None) -> Tensor:
        """`x`: b n dim_in -> b n d. Raises ValueError, with `name`, where it has another shape."""
        _check_sequence(x, self.dim_in, name)
        first, *rest = self.linears
        x = first(self.norm(_entered(x, name, mask)))
        for linear in rest:
            x = linear(self.activation(x))
        return self.norm_out(x)


class FeedForwardEmbed(nn.Module):
    """`b n dim_in -> b n d`: a linear or convolution, an activation and a feedforward, as MMAudio's inputs come in.

    Beside them it keeps what the options ask for: `empty`, learned tokens in place of a sequence that is not given, and
    `mean` and `deviation` of its channels, which no training changes.
    """

    def __init__(self, options: FeedForwardInput, dim: int, feedforward: FeedForwardOptions) -> None:
        super().__init__()
        self.dim_in = options.dim
        self.places = nn.Parameter(torch.zeros(options.period, options.dim)) if options.period else None
        self.empty = nn.Parameter(torch.zeros(options.empty, options.dim)) if options.empty else None
        self.mean = self.deviation = None
        if options.statistics:
            self.mean = nn.Parameter(torch.zeros(options.dim), requires_grad=False)
            self.deviation = nn.Parameter(torch.ones(options.dim), requires_grad=False)
        self.beside = make_neighbours(options.kernel)
        self.linear = nn.Linear(options.kernel * options.dim, dim)
        self.activation = ACTIVATIONS[options.activation]
        self.feedforward = FeedForward(dim, options.feedforward or feedforward)

    def forward(self, x: Tensor, name: str, mask: Tensor | None = None) -> Tensor:
        """`x`: b n dim_in -> b n d. Raises ValueError, with `name`, where it has another shape."""
        _check_sequence(x, self.dim_in, name)
        x = _entered(x, name, mask)
        if self.places is not None:
            x = x + self.places[torch.arange(x.shape[1], device=x.device) % len(self.places)].to(x.dtype)
        return self.feedforward(self.activation(self.linear(self.beside(x, mask))), mask)


class PatchEmbed(nn.Module):
    """`b c (h p) (w q) -> b (h w) d`: a linear (or two) on each patch, and a table of positions if asked for.

    Of a video `b c (f o) (h p) (w q) -> b (f h w) d`.
    """

    def __init__(self, options: PatchInput, dim: int) -> None:
        super().__init__()
        self.channels, self.sizes = options.channels, options.sizes
        widths = [options.channels * math.prod(self.sizes), *([options.bottleneck] if options.bottleneck else []), dim]
        linears = [nn.Linear(a, b, bias=options.bias) for a, b in itertools.pairwise(widths)]
        self.linear = linears[0] if len(linears) == 1 else nn.Sequential(*linears)
        self.positions: nn.Module = nn.Identity()
        if options.positions in ("sincos", None):
            self.positions = SinCos2D(dim, max_size=options.max_size, base_size=options.base_size)
        elif options.positions == "learned":
            self.positions = Learned2D(dim, max_size=options.max_size)

    def forward(self, x: Tensor, name: str, mask: Tensor | None = None) -> Tensor:
        """`x`: b c h w (b c f h w) -> b n d, a token a patch. Raises ValueError, with `name`, where it has another
        shape."""
        sides = ("frames", "height", "width")[-len(self.sizes) :]
        if x.ndim != 2 + len(sides) or x.shape[1] != self.channels:
            wanted = ", ".join(sides)
            raise ValueError(f"{name} must have the shape (batch, {self.channels}, {wanted}), got {tuple(x.shape)}")
        if any(not length or length % p for length, p in zip(x.shape[2:], self.sizes, strict=True)):
            multiples = ", ".join(map(str, self.sizes if len({*self.sizes}) > 1 else self.sizes[:1]))
            lengths = "a height and width" if len(sides) == 2 else "frames, height and width"
            raise ValueError(f"{name} must have {lengths} that are multiples of {multiples}, got {tuple(x.shape)}")
        patches = cut(x, self.sizes)
        if mask is not None:
            check_mask(mask, x, name, (x.shape[0], math.prod(patches.shape[1:-1])))
            patches = fill_masked(patches, mask.view(patches.shape[:-1]))
        return self.positions(self.linear(patches)).flatten(1, -2)


class TokenEmbed(nn.Module):
    """`b n` integer ids `-> b n d`: an embedding, and learned positions."""

    def __init__(self, options: TokenInput, dim: int) -> None:
        super().__init__()
        self.max_length = options.max_length
        self.embedding = nn.Embedding(options.vocabulary, dim)
        self.positions = nn.Parameter(torch.randn(options.max_length, dim) * 0.02)

    def forward(self, x: Tensor, name: str, mask: Tensor | None = None) -> Tensor:
        """`x`: ids b n -> b n d. Raises ValueError, with `name`, where they are no integers or too many."""
        if x.ndim != 2 or x.is_floating_point() or x.shape[1] > self.max_length:
            raise ValueError(
                f"{name} must be integer ids of shape (batch, length up to {self.max_length}), "
                f"got {x.dtype} {tuple(x.shape)}"
            )
        return self.embedding(_entered(x, name, mask)) + self.positions[: x.shape[1]]


class NoEmbed(nn.Module):
    """Tokens that come at the stream's width already."""

    def forward(self, x: Tensor, name: str, mask: Tensor | None = None) -> Tensor:
        """`x`: b n d -> the same."""
        return _entered(x, name, mask)


class VectorEmbed(nn.Module):
    """`linear -> silu -> linear`, from a vector to the conditioning."""

    def __init__(self, dim_in: int, dim: int, *, hidden: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.dim_in, hidden = dim_in, hidden or dim
        self.linear_in, self.linear_out = nn.Linear(dim_in, hidden, bias=bias), nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`x`: b dim_in -> b dim, computed in `dtype`; None: in its own."""
        return self.linear_out(F.silu(self.linear_in(x if dtype is None else x.to(dtype))))


class NumbersEmbed(VectorEmbed):
    """Some numbers of a sample, the sinusoids of each, through a `VectorEmbed` (SDXL's sizes of the picture)."""

    def __init__(self, count: int, frequencies: int, dim: int) -> None:
        super().__init__(count * frequencies, dim)
        self.dim_in, self.frequencies = count, frequencies

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`x`: b count -> b dim."""
        waves = timestep_sinusoid(x, self.frequencies).flatten(1)
        return super().forward(waves, own_dtype(self) if dtype is None else dtype)


class TimestepEmbed(VectorEmbed):
    """A timestep's sinusoid through a `VectorEmbed` (DiT, section 3.2, with the cosines first as in SD3)."""

    def __init__(self, options: NumberOptions, dim: int) -> None:
        super().__init__(options.frequencies, options.dim or dim, hidden=options.hidden, bias=options.bias)
        self.frequencies, self.scale = options.frequencies, options.scale
        self.waves: Callable[[Tensor, int], Tensor] = ddpm_sinusoid if options.waves == "ddpm" else timestep_sinusoid
        if options.fastest is not None:
            self.scale, self.waves = 1.0, partial(scaled_sinusoid, fastest=options.scale * options.fastest)
        self.narrowed: nn.Module = nn.Identity()
        if options.dim is not None:
            self.narrowed = nn.Sequential(nn.Linear(options.dim, dim, bias=options.bias), nn.SiLU())

    def forward(self, timestep: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """`timestep`: b -> b dim, b n -> b n dim, computed in `dtype`; None: see `own_dtype`."""
        # scaled after widening: 0.7 * 1000 in bfloat16 is rounded to a multiple of 4
        waves = self.waves(timestep.float() * self.scale, self.frequencies)
        vector: Tensor = self.narrowed(super().forward(waves.to(own_dtype(self) if dtype is None else dtype)))
        return vector


def own_dtype(module: nn.Module, otherwise: torch.dtype | None = None) -> torch.dtype:
    """What a module computes in where no activation tells: the type of its first parameter that is not stored as
    something else (float8, say), or else torch's default."""
    return next((p.dtype for p in module.parameters() if p.dtype in FLOATS), otherwise or torch.get_default_dtype())


def _entered(x: Tensor, name: str, mask: Tensor | None) -> Tensor:
    """`x`: b n ... with masked places filled."""
    if mask is not None:
        check_mask(mask, x, name)
    return fill_masked(x, mask)


class MeansEmbed(nn.Module):
    """The means of some modalities' embedded tokens, each through a linear, and their sum through a feedforward."""

    def __init__(self, dims: Mapping[str, int], dim_cond: int, feedforward: FeedForwardOptions) -> None:
        super().__init__()
        self.linears = nn.ModuleDict({name: nn.Linear(dim, dim_cond) for name, dim in dims.items()})
        self.feedforward = FeedForward(dim_cond, replace(feedforward, kernel=1))

    def forward(self, tokens: Mapping[str, Tensor], valid: Mapping[str, Tensor | None]) -> Tensor:
        """`tokens`: b n_i d_i by name; `valid`: b n_i or None -> b dim_cond."""
        means = [linear(mean_of(tokens[name], valid[name])) for name, linear in self.linears.items()]
        return self.feedforward(torch.stack(means).sum(0))


def mean_of(given: Given, mask: Tensor | None) -> Tensor:
    """`b n d -> b d`: the mean over each sample's valid tokens, summed in float32 at least; 0 of none."""
    x = given if isinstance(given, Tensor) else pad_sequence(list(given), batch_first=True)
    wide = torch.promote_types(x.dtype, torch.float32)
    if mask is None:
        return (x.sum(1, dtype=wide) / max(x.shape[1], 1)).to(x.dtype)
    valid = mask.unsqueeze(-1)
    return (x.masked_fill(~valid, 0).sum(1, dtype=wide) / valid.sum(1).clamp(min=1)).to(x.dtype)


def stretched(x: Tensor, length: int, mask: Tensor | None = None, mask_out: Tensor | None = None) -> Tensor:
    """`b m d -> b n d`: of each of `length` tokens the nearest of the `m` in time, both sequences lasting as long.

    A masked sequence lasts until its last valid token; zeros stand for those before it that are masked, and for all
    where none is valid. Rounded as the "nearest-exact" of torch's `interpolate` is, so that a tie falls to the same
    side.
    """

    def last(mask: Tensor | None, n: int) -> Tensor:
        if mask is None:
            return torch.full((1, 1), n, dtype=torch.float32, device=x.device)
        places = torch.arange(n + 1, device=x.device) * F.pad(mask, (1, 0))
        return places.amax(dim=1, keepdim=True).float()

    have, wanted = last(mask, x.shape[1]), last(mask_out, length).clamp(min=1)
    middles = torch.arange(length, dtype=torch.float64, device=x.device) + 0.5
    nearest = ((middles * (have / wanted) - 0.5).float() + 0.5).floor().long().clamp(max=x.shape[1] - 1).clamp(min=0)
    x = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)
    return F.pad(x, (0, 0, 0, 1)).gather(1, nearest.unsqueeze(-1).expand(x.shape[0], -1, x.shape[-1]))


def make_embed(options: AnyInput | None, dim: int, *, eps: float, feedforward: FeedForwardOptions) -> nn.Module:
    """`feedforward`: that of an input which does not say its own."""
    match options:
        case FeedForwardInput():
            return FeedForwardEmbed(options, dim, feedforward)
        case LinearInput():
            return SequenceEmbed(options, dim, eps=eps)
        case MlpInput():
            return MlpEmbed(options, dim)
        case PatchInput():
            return PatchEmbed(options, dim)
        case TokenInput():
            return TokenEmbed(options, dim)
        case _:
            return NoEmbed()


def _check_sequence(x: Tensor, dim: int, name: str) -> None:
    if x.ndim != 3 or x.shape[-1] != dim:
        raise ValueError(f"{name} must have the shape (batch, length, {dim}), got {tuple(x.shape)}")


def make_pooled_embed(options: PooledOptions | None, dim_cond: int | None) -> VectorEmbed | None:
    if options is None or dim_cond is None:
        return None
    if options.frequencies is not None:
        return NumbersEmbed(options.dim, options.frequencies, dim_cond)
    return VectorEmbed(options.dim, dim_cond)


def make_timestep_embed(options: NumberOptions | None, dim_cond: int | None) -> TimestepEmbed | None:
    return None if options is None or dim_cond is None else TimestepEmbed(options, dim_cond)
