"""The published package's names of tensors -> ours, for every module that is compared."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.published.settings import LAYER_NORM_EPS, State, below
from mmdit.config import as_config


def under(prefix: str, state: State) -> State:
    return {prefix + name: x for name, x in state.items()}


def joint_attention(theirs: State) -> State:
    ours = {}
    for name, x in theirs.items():
        part, index, _ = name.split(".")
        if part in ("q_rmsnorms", "k_rmsnorms"):
            ours[f"{part[0]}_norms.{index}.weight"] = x.squeeze(1)  # h 1 d
        else:
            ours[f"{part}.{index}.linear.weight"] = x
    return ours


def adaptive_attention(theirs: State, heads: int, weights: int) -> State:
    dim, out = theirs["to_qkv.0.weight"].shape[1], theirs["to_out_weights"]
    qkv = theirs["to_qkv.0.weight"].unflatten(0, (-1, weights)).movedim(1, 0)  # (qkv h d w) e -> w (qkv h d) e
    out = torch.einsum("hdew->wehd", out.unflatten(-1, (dim, weights))).flatten(2)
    if weights == 1:
        return {"attention.to_qkv.0.linear.weight": qkv[0], "attention.to_out.0.linear.weight": out[0]}
    return {
        "attention.to_qkv.0.weight": qkv,
        "attention.to_out.0.weight": out,
        "attention.gates.0.linear.weight": theirs["to_gates.0.weight"],
    }


def feedforward(theirs: State) -> State:
    names = {"ff.0.0": "proj_in", "ff.0.proj": "proj_in", "ff.2": "proj_out"}
    return {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": x for name, x in theirs.items()}


def residual(theirs: State) -> State:
    """Hyper-connections of both kinds; nothing for a plain residual."""
    if not theirs:
        return {}
    alpha, shift = theirs["static_alpha"], theirs["dynamic_alpha_fn"]
    dim, columns = shift.shape[-2:]
    scales = ("dynamic_alpha_scale", "dynamic_beta_scale", "pre_branch_scale", "residual_scale", "h_post_scale")
    return {
        "width.pre": alpha[:, :1],
        "width.mix": alpha[:, 1:],
        "width.post": theirs["static_beta"].reshape(-1, 1),
        "width.norm.weight": 1 + theirs["norm.gamma"],
        "width.to_shift.weight": torch.cat(
            [shift.reshape(dim, columns), theirs["dynamic_beta_fn"].reshape(dim, 1)], 1
        ).T,
        "width.scales": torch.stack([theirs[name].reshape(()) for name in scales if name in theirs]),
    }


def modulation(parts: list[tuple[Any, Any, bool]]) -> State:
    """From (weight, bias, is a gamma of a norm) for each of our shift, scale and gate."""
    weights, biases, gammas = zip(*parts, strict=True)
    shifted = [bias - 1 if gamma else bias for bias, gamma in zip(biases, gammas, strict=True)]
    return {"linear.weight": torch.cat(weights), "linear.bias": torch.cat(shifted)}


def block(theirs: State) -> State:
    """A two-modality block."""
    ours = under("joint_attn.", joint_attention(below(theirs, "joint_attn.")))
    names = ("text", "image")
    if "to_cond.2.weight" in theirs:
        widths = [theirs[f"{name}_ff.ff.2.bias"].shape[0] for name in names]
        sizes = [w for w in widths for _ in range(4)] + [w for w in widths for _ in range(2)]
        chunks = list(zip(theirs["to_cond.2.weight"].split(sizes), theirs["to_cond.2.bias"].split(sizes), strict=True))
    for i, name in enumerate(names):
        if "to_cond.2.weight" in theirs:
            gammas, betas = chunks[4 * i : 4 * i + 4], chunks[8 + 2 * i : 10 + 2 * i]
            parts = [(*betas[0], False), (*gammas[0], True), (*gammas[1], False)]
            parts += [(*betas[1], False), (*gammas[2], True), (*gammas[3], False)]
            ours |= under(f"modulations.{i}.", modulation(parts))
        for sublayer in ("attn", "ff"):
            ours |= under(f"{sublayer}_norms.{i}.norm.", below(theirs, f"{name}_{sublayer}_layernorm."))
            ours |= under(f"{sublayer}_residuals.{i}.", residual(below(theirs, f"{name}_{sublayer}_residual_fn.")))
        ours |= under(f"feedforwards.{i}.", feedforward(below(theirs, f"{name}_ff.")))
    return ours


def general_block(theirs: State, widths: tuple[int, ...]) -> State:
    ours = under("joint_attn.", joint_attention(below(theirs, "joint_attn.")))
    conditioned = "to_post_branch_gammas.2.weight" in theirs
    for i, width in enumerate(widths):
        if conditioned:
            parts = []
            for sublayer, start in (("attn", 0), ("ff", sum(widths))):
                gate = slice(start + sum(widths[:i]), start + sum(widths[: i + 1]))
                norm = below(theirs, f"{sublayer}_layernorms.{i}.to_cond.2.")
                scale, shift = slice(0, width), slice(width, None)
                parts += [(norm["weight"][rows], norm["bias"][rows], rows is scale) for rows in (shift, scale)]
                gates = below(theirs, "to_post_branch_gammas.2.")
                parts += [(gates["weight"][gate], gates["bias"][gate], False)]
            ours |= under(f"modulations.{i}.", modulation(parts))
        for sublayer in ("attn", "ff"):
            ours |= under(f"{sublayer}_norms.{i}.norm.", below(theirs, f"{sublayer}_layernorms.{i}.ln."))
            ours |= under(f"{sublayer}_residuals.{i}.", residual(below(theirs, f"{sublayer}_residual_fns.{i}.")))
        ours |= under(f"feedforwards.{i}.", feedforward(below(theirs, f"feedforwards.{i}.")))
    return ours


def transformer_config(options: dict[str, Any]) -> Any:
    """A transformer's config; its weights are in the layout `lucidrains`."""
    widths = options.get("dim_modalities") or (options["dim_text"], options["dim_image"])
    two, streams = "dim_text" in options, options.get("num_residual_streams", 1)
    names = ("text", "image") if two else ("text", "video", "audio")
    model = dict(
        variant="two_modality" if two else "generalized",
        depth=options["depth"],
        modalities={name: {"dim": width} for name, width in zip(names, widths, strict=True)},
        dim_cond=options["dim_cond"],
        heads=options["heads"],
        dim_head=options["dim_head"],
        adaln="identity",
        norm_eps=LAYER_NORM_EPS,
        register_tokens=options.get("num_register_tokens", 0),
        skip_last_feedforward=[],
    )
    if streams > 1:
        model["residual"] = {"kind": ("" if two else "manifold_") + "hyper_connections", "streams": streams}
    return as_config(model).model
