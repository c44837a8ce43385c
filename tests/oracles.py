"""The formulas written out plainly, without any of the library's code: loops over heads, weights and modalities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu


def layer_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, clamp: float | None = None) -> Tensor:
    """b n h d each; mask b n."""
    logits = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    if clamp is not None:
        logits = clamp * torch.tanh(logits / clamp)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", logits.softmax(-1), v)


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = torch.einsum("bne,oe->bno", x, weight)
    return y if bias is None else y + bias


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1)


def joint_attention(
    inputs: list[Tensor],
    qkv: list[tuple[Tensor, Tensor | None]],
    out: list[tuple[Tensor, Tensor | None]],
    heads: int,
    masks: list[Tensor | None] | None = None,
    norms: list[tuple[Tensor, Tensor]] | None = None,
    clamp: float | None = None,
) -> list[Tensor]:
    """Every input projected for itself, attention over all of them joined, projected back."""
    qs, ks, vs = [], [], []
    for index, (x, (weight, bias)) in enumerate(zip(inputs, qkv, strict=True)):
        q, k, v = (split_heads(part, heads) for part in project(x, weight, bias).chunk(3, dim=-1))
        if norms is not None:
            q, k = rms_norm(q, norms[index][0]), rms_norm(k, norms[index][1])
        qs.append(q), ks.append(k), vs.append(v)
    return _attend_and_split(inputs, qs, ks, vs, masks, clamp, lambda i, o: project(o.flatten(2), *out[i]))


def token_adaptive(
    inputs: list[Tensor], qkv: list[Tensor], out: list[Tensor], gates: list[Tensor], heads: int, **options
) -> list[Tensor]:
    """qkv: w (3 h d) e; out: w e (h d); gates: (h w) e. Gate, per head and token, mixes the results of all weights."""
    shares = [
        project(x, gate).reshape(*x.shape[:2], heads, -1).softmax(-1) for x, gate in zip(inputs, gates, strict=True)
    ]
    return _adaptive(inputs, qkv, out, shares, heads, **options)


def sample_adaptive(
    inputs: list[Tensor], qkv: list[Tensor], out: list[Tensor], shares: list[Tensor], heads: int, **options
) -> list[Tensor]:
    """shares: b h w, the same for all tokens of a sample."""
    spread = [share[:, None].expand(-1, x.shape[1], -1, -1) for x, share in zip(inputs, shares, strict=True)]
    return _adaptive(inputs, qkv, out, spread, heads, **options)


def _adaptive(inputs, qkv, out, shares, heads, masks=None, clamp=None):
    qs, ks, vs = [], [], []
    for x, weight, share in zip(inputs, qkv, shares, strict=True):
        every = torch.stack([project(x, w) for w in weight], -1)  # b n (3 h d) w
        every = every.reshape(*x.shape[:2], 3, heads, -1, weight.shape[0])
        q, k, v = torch.einsum("bnphdw,bnhw->pbnhd", every, share)
        qs.append(q), ks.append(k), vs.append(v)

    def back(i: int, o: Tensor) -> Tensor:
        weight = out[i].reshape(out[i].shape[0], out[i].shape[1], heads, -1)  # w e h d
        return torch.einsum("bnhd,wehd,bnhw->bne", o, weight, shares[i])

    return _attend_and_split(inputs, qs, ks, vs, masks, clamp, back)


def _attend_and_split(inputs, qs, ks, vs, masks, clamp, back):
    mask = None
    if masks is not None:
        mask = torch.cat(
            [torch.ones(x.shape[:2], dtype=torch.bool) if m is None else m for x, m in zip(inputs, masks, strict=True)],
            1,
        )
    joined = attention(torch.cat(qs, 1), torch.cat(ks, 1), torch.cat(vs, 1), mask, clamp)
    pieces = joined.split([x.shape[1] for x in inputs], dim=1)
    return [back(i, o) for i, o in enumerate(pieces)]


def feedforward(x: Tensor, state: dict[str, Tensor], kind: str) -> Tensor:
    hidden = project(x, state["proj_in.weight"], state["proj_in.bias"])
    if kind in ("swiglu", "geglu"):
        value, gate = hidden.chunk(2, dim=-1)
        hidden = value * (silu(gate) if kind == "swiglu" else gelu(gate))
    else:
        hidden = {"gelu": gelu, "silu": silu, "gelu_tanh": lambda h: gelu(h, approximate="tanh")}[kind](hidden)
    return project(hidden, state["proj_out.weight"], state["proj_out.bias"])


def sinkhorn(logits: Tensor, iterations: int = 20) -> Tensor:
    matrix = logits.exp()
    for _ in range(iterations):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    return matrix
