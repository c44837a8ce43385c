"""The formulas written out plainly in einsum, without any of the library's code.

They read a state dict: what is in it decides what is computed (no gate: one weight; no modulation: plain norms; ...).
Written to be checked against the papers by eye, not to be fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

State = dict[str, Tensor]
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "silu": silu,
    "geglu": gelu,
    "geglu_tanh": lambda x: gelu(x, approximate="tanh"),
    "swiglu": silu,
}


def below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}


def layer_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = torch.einsum("bne,oe->bno", x, weight)
    return y if bias is None else y + bias


def sinkhorn(logits: Tensor, iterations: int = 20) -> Tensor:
    matrix = logits.exp()
    for _ in range(iterations):
        matrix = matrix / matrix.sum(-2, keepdim=True)
        matrix = matrix / matrix.sum(-1, keepdim=True)
    return matrix


# -------------------------------------------------------------------------------------------------------- attention


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, clamp: float | None = None) -> Tensor:
    """b n h d each; mask b n."""
    logits = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    if clamp is not None:
        logits = clamp * torch.tanh(logits / clamp)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, None, :], -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", logits.softmax(-1), v)


def weights_of(state: State, name: str) -> tuple[Tensor, Tensor | float]:
    """w out in, and the bias."""
    if f"{name}.linear.weight" in state:
        return state[f"{name}.linear.weight"][None], state.get(f"{name}.linear.bias", 0.0)
    return state[f"{name}.weight"], state.get(f"{name}.bias", 0.0)


def shares_of(state: State, i: int, x: Tensor, cond: Tensor | None, heads: int) -> Tensor:
    """b n h w: how much of each weight every head of every token takes."""
    batch, length, _ = x.shape
    gate, bias = state.get(f"gates.{i}.linear.weight"), state.get(f"gates.{i}.linear.bias")
    if gate is None:
        return torch.ones(batch, length, heads, 1, dtype=x.dtype)
    if bias is None:  # from the token
        return project(x, gate).reshape(batch, length, heads, -1).softmax(-1)
    assert cond is not None  # from the sample: the same for all its tokens
    logits = (silu(cond) @ gate.T + bias).reshape(batch, 1, heads, -1)
    return logits.softmax(-1).expand(-1, length, -1, -1)


def joint_attention(
    state: State,
    xs: Sequence[Tensor],
    heads: int,
    masks: Sequence[Tensor | None] | None = None,
    clamp: float | None = None,
    conds: Sequence[Tensor] | None = None,
) -> list[Tensor | None]:
    """Every input projected for itself, attention over all of them joined, projected back (None without a way back)."""
    inner = next(x.shape[-1] for name, x in state.items() if name.startswith("to_out") and name.endswith("weight"))
    qs: list[Tensor] = []
    ks: list[Tensor] = []
    vs: list[Tensor] = []
    shares: list[Tensor] = []
    for i, x in enumerate(xs):
        weights, bias = weights_of(state, f"to_qkv.{i}")
        share = shares_of(state, i, x, None if conds is None else conds[i], heads)
        every = torch.stack([project(x, weight) for weight in weights], -1)  # b n (p h d) w
        every = every.reshape(*x.shape[:2], -1, heads, inner // heads, len(weights))
        mixed = torch.einsum("bnphdw,bnhw->bnphd", every, share)
        if isinstance(bias, Tensor):
            mixed = mixed + bias.reshape(-1, heads, inner // heads)
        *query, key, value = mixed.unbind(2)
        q = query[0] if query else torch.zeros_like(key)  # whatever it asks, nobody reads the answer
        for which, parts in (("q", q), ("k", key)):
            weight = state.get(f"{which}_norms.{i}.weight")
            (qs if which == "q" else ks).append(parts if weight is None else rms_norm(parts, weight))
        vs.append(value)
        shares.append(share)

    mask = None
    if masks is not None:
        ones = [torch.ones(x.shape[:2], dtype=torch.bool) for x in xs]
        mask = torch.cat([one if m is None else m for one, m in zip(ones, masks, strict=True)], 1)
    joined = attention(torch.cat(qs, 1), torch.cat(ks, 1), torch.cat(vs, 1), mask, clamp)

    outs: list[Tensor | None] = []
    for i, piece in enumerate(joined.split([x.shape[1] for x in xs], dim=1)):
        if not below(state, f"to_out.{i}."):
            outs.append(None)
            continue
        weights, bias = weights_of(state, f"to_out.{i}")
        weights = weights.reshape(*weights.shape[:2], heads, -1)  # w e h d
        outs.append(torch.einsum("bnhd,wehd,bnhw->bne", piece, weights, shares[i]) + bias)
    return outs


# ------------------------------------------------------------------------------------------------- a block, a network


def feedforward(x: Tensor, state: State, kind: str) -> Tensor:
    hidden = project(x, state["proj_in.weight"], state.get("proj_in.bias"))
    if kind in ("swiglu", "geglu", "geglu_tanh"):
        value, gate = hidden.chunk(2, dim=-1)
        hidden = value * ACTIVATIONS[kind](gate)
    else:
        hidden = ACTIVATIONS[kind](hidden)
    return project(hidden, state["proj_out.weight"], state.get("proj_out.bias"))


def coefficients(state: State, x: Tensor, manifold: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Read, mix and write weights of the streams of ONE token, x: s d (mix and write are 0 where none are held)."""
    streams = len(x)
    pre = state["pre"][:, 0]
    mix = state.get("mix", torch.zeros(streams, streams, dtype=x.dtype))
    post = state["post"][:, 0] if "post" in state else torch.zeros(streams, dtype=x.dtype)
    if "scales" in state:
        shift = rms_norm(x, state["norm.weight"]) @ state["to_shift.weight"].T
        scales = state["scales"]
        if not manifold:
            shift = shift.tanh()
            scales = scales[[0, 0, -1]]
        pre = pre + scales[0] * shift[:, 0]
        if "mix" in state:
            mix, post = mix + scales[1] * shift[:, 1:-1], post + scales[2] * shift[:, -1]
    return (pre.sigmoid(), sinkhorn(mix), 2 * post.sigmoid()) if manifold else (pre, mix, post)


def residual(state: State, x: Tensor, manifold: bool) -> tuple[Tensor, Any]:
    """What the branch reads, and what to do with its output: x + out, or token by token for streams."""
    if "pre" not in state:
        return x, lambda out: x + out
    tokens = [[coefficients(state, x[b, n], manifold) for n in range(x.shape[1])] for b in range(x.shape[0])]
    read = [[c[0] @ x[b, n] for n, c in enumerate(row)] for b, row in enumerate(tokens)]

    def add(out: Tensor) -> Tensor:
        rows = [
            torch.stack([mix.T @ x[b, n] + torch.outer(post, out[b, n]) for n, (_, mix, post) in enumerate(row)])
            for b, row in enumerate(tokens)
        ]
        return torch.stack(rows)

    return torch.stack([torch.stack(row) for row in read]), add


def adaptive_norm(state: State, x: Tensor, shift: Tensor | None, scale: Tensor | None, eps: float) -> Tensor:
    x = norm(below(state, "norm."), x, eps)
    return x if shift is None or scale is None else x * (1 + scale) + shift


def norm(state: State, x: Tensor, eps: float) -> Tensor:
    """With a weight alone an RMS norm, else a layer norm."""
    if "weight" in state and "bias" not in state:
        return rms_norm(x, state["weight"], eps)
    x = layer_norm(x, eps)
    return x * state["weight"] + state["bias"] if state else x


def block(
    state: State,
    xs: Sequence[Tensor],
    heads: int,
    masks: Sequence[Tensor | None] | None = None,
    conds: Sequence[Tensor] | None = None,
    *,
    kind: str = "gelu",
    clamp: float | None = None,
    manifold: bool = False,
    eps: float = 1e-6,
) -> list[Tensor | None]:
    """Esser et al. 2024, Figure 2b. xs: b n d, or b n s d with streams; conds: one for each modality."""
    parts: list[dict[str, Tensor]] = []
    for i in range(len(xs)):
        names = ["shift", "scale"]
        if below(state, f"joint_attn.to_out.{i}."):
            names += ["gate"]
        if below(state, f"feedforwards.{i}."):
            names += ["ff_shift", "ff_scale", "ff_gate"]
        if below(state, f"dual_attns.{i}."):
            names += ["dual_shift", "dual_scale", "dual_gate"]
        linear = below(state, f"modulations.{i}.linear.")
        if not linear or conds is None:
            parts.append({})
            continue
        flat = silu(conds[i]) @ linear["weight"].T + linear["bias"]
        parts.append(dict(zip(names, flat[:, None].chunk(len(names), dim=-1), strict=True)))

    reads, adds = zip(
        *[residual(below(state, f"attn_residuals.{i}.width."), x, manifold) for i, x in enumerate(xs)], strict=True
    )
    norms = [below(state, f"attn_norms.{i}.") for i in range(len(xs))]
    normed = [
        adaptive_norm(n, x, p.get("shift"), p.get("scale"), eps) for n, x, p in zip(norms, reads, parts, strict=True)
    ]
    attended = joint_attention(below(state, "joint_attn."), normed, heads, masks, clamp, conds)
    outs: list[Tensor | None] = []
    for i, (out, p) in enumerate(zip(attended, parts, strict=True)):
        if out is None:
            outs.append(None)
            continue
        behind = below(state, f"attn_norms_behind.{i}.")
        out = (norm(behind, out, eps) if behind else out) * p.get("gate", 1.0)
        if dual := below(state, f"dual_attns.{i}."):
            own = adaptive_norm(norms[i], reads[i], p.get("dual_shift"), p.get("dual_scale"), eps)
            own_mask = None if masks is None else [masks[i]]
            (second,) = joint_attention(dual, [own], heads, own_mask, clamp, None if conds is None else [conds[i]])
            assert second is not None
            out = out + (norm(behind, second, eps) if behind else second) * p.get("dual_gate", 1.0)
        x = adds[i](out)
        if ff := below(state, f"feedforwards.{i}."):
            read, add = residual(below(state, f"ff_residuals.{i}.width."), x, manifold)
            y = adaptive_norm(below(state, f"ff_norms.{i}."), read, p.get("ff_shift"), p.get("ff_scale"), eps)
            y, behind = feedforward(y, ff, kind), below(state, f"ff_norms_behind.{i}.")
            x = add((norm(behind, y, eps) if behind else y) * p.get("ff_gate", 1.0))
        outs.append(x)
    return outs


def network(
    state: State,
    tokens: Sequence[Tensor],
    heads: int,
    masks: Sequence[Tensor | None] | None = None,
    conds: Sequence[Tensor] | None = None,
    *,
    depth: int,
    streams: int = 1,
    eps: float = 1e-6,
    **options: Any,
) -> list[Tensor | None]:
    """Registers in front, streams expanded, the blocks, streams added up, registers dropped, final norms."""
    xs: list[Any] = []
    masks = list(masks) if masks is not None else [None] * len(tokens)
    counts = []
    for i, x in enumerate(tokens):
        registers = state.get(f"registers.{i}.tokens", x.new_zeros(0, x.shape[-1]))
        counts.append(len(registers))
        x = torch.cat([registers.expand(len(x), -1, -1), x], 1)
        xs.append(x if streams == 1 else torch.stack([x] * streams, 2))
        if (mask := masks[i]) is not None:
            masks[i] = torch.cat([torch.ones(len(x), counts[i], dtype=torch.bool), mask], 1)
    for index in range(depth):
        xs = block(below(state, f"blocks.{index}."), xs, heads, masks, conds, eps=eps, **options)
    outs: list[Tensor | None] = []
    for i, x in enumerate(xs):
        if x is not None:
            x = (x if streams == 1 else x.sum(2))[:, counts[i] :]
            weight = state.get(f"final_norms.{i}.weight")
            x = x if weight is None else rms_norm(x, weight, eps)
        outs.append(x)
    return outs
