"""MMAudio (Cheng et al. 2024, arXiv 2412.15322), stated again for a comparison: plain formulas, the authors' names.

diffusers has no class of it. The facts are those of the authors' repository, github.com/hkchengrex/MMAudio at commit
974010a (`mmaudio/model/networks.py`, `transformer_layers.py`, `low_level.py`, `embeddings.py`), none of whose code is
here. `authors_class` reads theirs from a clone, and takes the place of this one where a path to it is given:

    python -m benchmarks.families --mmaudio PATH_OF_A_CLONE
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.families.diffusers_networks import Family

STEP = 8  # frames of a segment of synchronization features, which have places of their own
EPS = torch.finfo(torch.float32).eps  # what an RMS norm of torch without a given eps has in float32


def authors_class(clone: Path) -> Callable[..., nn.Module]:
    """The authors' `MMAudio`, from a clone of their repository.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not (clone / "mmaudio" / "model" / "networks.py").is_file():
        raise FileNotFoundError(f"{clone}: no clone of hkchengrex/MMAudio, which has mmaudio/model/networks.py")
    sys.path.insert(0, str(clone))
    made: Callable[..., nn.Module] = importlib.import_module("mmaudio.model.networks").MMAudio
    return made


class OverTime(nn.Module):
    """A convolution over tokens, `b n d -> b n e`, zeros beyond the ends: a matrix for each neighbour, summed."""

    def __init__(self, dim: int, dim_out: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim_out, dim, kernel))
        self.bias = nn.Parameter(torch.empty(dim_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        reach, n = self.weight.shape[2] // 2, x.shape[1]
        out = x.new_zeros(*x.shape[:2], len(self.weight))
        for place, matrix in enumerate(self.weight.unbind(2)):
            back, on = max(reach - place, 0), max(place - reach, 0)  # tokens at the ends without this neighbour
            out[:, back : n - on] += x[:, on : n - back] @ matrix.T
        return out if self.bias is None else out + self.bias


def over(dim: int, dim_out: int, kernel: int, *, bias: bool = True) -> nn.Module:
    return nn.Linear(dim, dim_out, bias=bias) if kernel == 1 else OverTime(dim, dim_out, kernel, bias=bias)


class Gated(nn.Module):
    """`w2(silu(w1 x) * w3 x)`, two thirds of `hidden` wide, rounded up to a multiple of 256."""

    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__()
        wide = -(-int(2 * hidden / 3) // 256) * 256
        self.w1, self.w3 = over(dim, wide, kernel, bias=False), over(dim, wide, kernel, bias=False)
        self.w2 = over(wide, dim, kernel, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Attention(nn.Module):
    """Queries, keys and values of one modality; heads, then features, then which of the three, in the rows."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv = heads, nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = (nn.RMSNorm(dim // heads, eps=EPS) for _ in range(2))

    def forward(self, x: Tensor, scale: float | None) -> list[Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (self.heads, -1, 3)).unbind(-1)
        q, k = self.q_norm(q), self.k_norm(k)
        return [x.transpose(1, 2) for x in (turned(q, scale), turned(k, scale), v)]


class Single(nn.Module):
    """A block's part for one modality: all of it, or (`last`) what the others attend to."""

    def __init__(self, dim: int, heads: int, kernel: int, *, last: bool = False) -> None:
        super().__init__()
        self.dim, self.last, self.attn = dim, last, Attention(dim, heads)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, (2 if last else 6) * dim))
        if not last:
            self.linear1, self.ffn = over(dim, dim, kernel), Gated(dim, 4 * dim, kernel)

    def before(self, x: Tensor, cond: Tensor, scale: float | None) -> tuple[list[Tensor], list[Tensor]]:
        parts = list(self.adaLN_modulation(cond).split(self.dim, dim=-1))
        return self.attn(F.layer_norm(x, [self.dim]) * (1 + parts[1]) + parts[0], scale), parts

    def behind(self, x: Tensor, attended: Tensor, parts: list[Tensor]) -> Tensor:
        if self.last:
            return x
        x = x + parts[2] * self.linear1(attended)
        return x + parts[5] * self.ffn(F.layer_norm(x, [self.dim]) * (1 + parts[4]) + parts[3])

    def forward(self, x: Tensor, cond: Tensor, scale: float | None) -> Tensor:
        qkv, parts = self.before(x, cond, scale)
        return self.behind(x, attention(*qkv), parts)


class Joint(nn.Module):
    """Three modalities in one attention."""

    def __init__(self, dim: int, heads: int, *, last: bool) -> None:
        super().__init__()
        self.latent_block = Single(dim, heads, 3)
        self.clip_block = Single(dim, heads, 3, last=last)
        self.text_block = Single(dim, heads, 1, last=last)

    def forward(self, xs: list[Tensor], conds: list[Tensor], scales: list[float | None]) -> list[Tensor]:
        sides = (self.latent_block, self.clip_block, self.text_block)
        made = [side.before(x, c, scale) for side, x, c, scale in zip(sides, xs, conds, scales, strict=True)]
        joined = (torch.cat(parts, dim=2) for parts in zip(*(qkv for qkv, _ in made), strict=True))
        pieces = attention(*joined).split([x.shape[1] for x in xs], dim=1)
        return [
            side.behind(x, piece, parts) for side, x, piece, (_, parts) in zip(sides, xs, pieces, made, strict=True)
        ]


class Final(nn.Module):
    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.conv = OverTime(dim, dim_out, 7)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(cond).chunk(2, dim=-1)
        return self.conv(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)


class Time(nn.Module):
    """Cosines and sines at frequencies from `fastest` down to its 10,000th, of a time from 0 to 1, through an MLP."""

    def __init__(self, dim: int, waves: int, fastest: float) -> None:
        super().__init__()
        self.waves, self.fastest = waves, fastest
        self.mlp = nn.Sequential(nn.Linear(waves, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        exponents = torch.arange(0, self.waves, 2, dtype=torch.float32) / self.waves
        angles = t.float()[:, None] * (self.fastest * (1 / 10_000**exponents))
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(t.dtype))


class MMAudio(nn.Module):
    """The network, of both versions; arguments as the authors' class has them, called by `call_mmaudio`."""

    def __init__(
        self,
        *,
        latent_dim: int,
        clip_dim: int,
        sync_dim: int,
        text_dim: int,
        hidden_dim: int,
        depth: int,
        fused_depth: int,
        num_heads: int,
        text_seq_len: int = 77,
        v2: bool = False,
        **_: Any,
    ) -> None:
        super().__init__()
        dim, joint = hidden_dim, depth - fused_depth

        def entry(dim_in: int, first: int, kernel: int) -> nn.Module:
            activation = [nn.SiLU()] if v2 else [nn.SELU()] if first > 1 else []
            return nn.Sequential(over(dim_in, dim, first), *activation, Gated(dim, 4 * dim, kernel))

        self.audio_input_proj = entry(latent_dim, 7, 7)
        self.clip_input_proj = entry(clip_dim, 1, 3)
        self.sync_input_proj = entry(sync_dim, 7, 3)
        self.text_input_proj = entry(text_dim, 1, 1)
        self.clip_cond_proj, self.text_cond_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.global_cond_mlp = Gated(dim, 4 * dim, 1)
        self.t_embed = Time(dim, dim, 10_000.0) if v2 else Time(dim, 256, 1.0)
        self.sync_pos_emb = nn.Parameter(torch.zeros(1, 1, STEP, sync_dim))
        self.joint_blocks = nn.ModuleList(Joint(dim, num_heads, last=i == joint - 1) for i in range(joint))
        self.fused_blocks = nn.ModuleList(Single(dim, num_heads, 3) for _ in range(fused_depth))
        self.final_layer = Final(dim, latent_dim)
        # read by what is around the network: to normalize the latents, and in place of inputs that are not given
        self.latent_mean = nn.Parameter(torch.zeros(1, 1, latent_dim), requires_grad=False)
        self.latent_std = nn.Parameter(torch.ones(1, 1, latent_dim), requires_grad=False)
        self.empty_string_feat = nn.Parameter(torch.zeros(text_seq_len, text_dim), requires_grad=False)
        self.empty_clip_feat = nn.Parameter(torch.zeros(1, clip_dim))
        self.empty_sync_feat = nn.Parameter(torch.zeros(1, sync_dim))

    def forward(self, latent: Tensor, clip_f: Tensor, sync_f: Tensor, text_f: Tensor, t: Tensor) -> Tensor:
        n, frames = latent.shape[1], clip_f.shape[1]
        places = self.sync_pos_emb[0, 0].repeat(sync_f.shape[1] // STEP, 1)
        sync = self.sync_input_proj(sync_f + places)
        clip, text = self.clip_input_proj(clip_f), self.text_input_proj(text_f)
        means = self.clip_cond_proj(clip.mean(1)) + self.text_cond_proj(text.mean(1))
        cond = (self.t_embed(t) + self.global_cond_mlp(means))[:, None]
        # of every audio token: that of the frame it falls in
        own = cond + F.interpolate(sync.mT, size=n, mode="nearest-exact").mT

        xs = [self.audio_input_proj(latent), clip, text]
        for block in self.joint_blocks:
            xs = block(xs, [own, cond, cond], [1.0, n / frames, None])
        x = xs[0]
        for block in self.fused_blocks:
            x = block(x, own, 1.0)
        return self.final_layer(x, cond)


def turned(x: Tensor, scale: float | None) -> Tensor:
    """`b n h d`, features 2i and 2i + 1 turned by `scale * n * 10000^(-2i / d)`."""
    if scale is None:
        return x
    dim = x.shape[-1]
    angles = scale * torch.arange(x.shape[1]).double()[:, None] * 10_000 ** -(torch.arange(0, dim, 2).double() / dim)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`b h n d` each -> `b n (h d)`."""
    return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


def call_mmaudio(net: Any, audio: Tensor, text: Tensor, timestep: Tensor, *, video: Tensor, sync: Tensor) -> Tensor:
    """Either class, at the lengths of what is given."""
    if hasattr(net, "update_seq_lengths"):
        net.update_seq_lengths(audio.shape[1], video.shape[1], sync.shape[1])
        net._text_seq_len = text.shape[1]
    out: Tensor = net(audio, video, sync, text, timestep)
    return out


def arguments(*, batch: int, steps: int, length: int, seed: int) -> dict[str, Any]:
    """What `mmdit.MMDiTModel` is called with: of each of `steps` stretches of time 15 latents and 4 frames, segments of
    synchronization features, and a text of `length` tokens."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    inputs = {
        "audio": draw(batch, 15 * steps, OPTIONS["latent_dim"]),
        "video": draw(batch, 4 * steps, OPTIONS["clip_dim"]),
        "text": draw(batch, length, OPTIONS["text_dim"]),
        "sync": draw(batch, STEP * (1 + batch), OPTIONS["sync_dim"]),
    }
    return {"inputs": inputs, "timestep": torch.rand(batch, generator=generator)}


AUDIO, VIDEO, TEXT = (f"model.modalities.{name}" for name in ("audio", "video", "text"))
SMALL = {
    "model.depth": 2,
    "model.single_stream.depth": 3,
    f"{AUDIO}.dim": 64,
    f"{AUDIO}.input.dim": 6,
    f"{AUDIO}.input.feedforward.dim": 256,
    f"{AUDIO}.conditions.sync.dim": 12,
    f"{AUDIO}.conditions.sync.feedforward.dim": 256,
    f"{AUDIO}.output.dim": 6,
    f"{VIDEO}.dim": 64,
    f"{VIDEO}.input.dim": 20,
    f"{VIDEO}.rotary.scale": 3.75,  # 15 latents over 4 frames
    f"{TEXT}.dim": 64,
    f"{TEXT}.input.dim": 24,
    f"{TEXT}.input.empty": 9,
    "model.timestep.frequencies": 64,
    "model.dim_cond": 64,
    "model.heads": 4,
    "model.dim_head": 16,
    "model.rotary.axes": "[16]",
    "model.feedforward.dim": 256,
}
FIRST_SMALL = {key: value for key, value in SMALL.items() if "frequencies" not in key}
LENGTHS = dict(latent_seq_len=345, clip_seq_len=64, sync_seq_len=192)
OPTIONS: dict[str, Any] = LENGTHS | dict(
    latent_dim=6,
    clip_dim=20,
    sync_dim=12,
    text_dim=24,
    hidden_dim=64,
    depth=5,
    fused_depth=3,
    num_heads=4,
    text_seq_len=9,
    v2=True,
)
PUBLISHED: dict[str, Any] = LENGTHS | dict(
    latent_dim=40,
    clip_dim=1024,
    sync_dim=768,
    text_dim=1024,
    hidden_dim=896,
    depth=21,
    fused_depth=14,
    num_heads=14,
    v2=True,
)
FIRST = dict(latent_dim=20, hidden_dim=448, depth=12, fused_depth=8, num_heads=7, v2=False)


def _family(config: str, small: dict[str, Any], v2: bool, published: dict[str, Any], parameters: int) -> Family:
    return Family(
        config, small, MMAudio, OPTIONS | {"v2": v2}, call_mmaudio, published, parameters, "mmaudio", arguments
    )


MMAUDIO = _family("video-to-audio", SMALL, True, PUBLISHED, 1_030_575_608)
SMALL_16K = _family("mmaudio-small-16k", FIRST_SMALL, False, PUBLISHED | FIRST, 157_283_644)
NETWORKS = (MMAUDIO, SMALL_16K)
