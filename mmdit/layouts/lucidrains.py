"""The rules for the package `mmdit` 0.2 and 0.3, in the language that `layouts.py` explains."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.families import below
from mmdit.options import ModelOptions

HYPER_CONNECTIONS = """
    .width.pre | .width.mix = .static_alpha
    .width.post = flat(.static_beta)
    .width.norm.weight = one_less(.norm.gamma)
    transposed(.width.to_shift.weight[:-1]) = .dynamic_alpha_fn
    flat(.width.to_shift.weight[-1:]) = .dynamic_beta_fn
    scalar(.width.scales[0:1]) = .dynamic_alpha_scale
    scalar(.width.scales[1:2]) = .dynamic_beta_scale
"""
MANIFOLD = """
    .width.pre | .width.mix = .static_alpha
    .width.post = cube(.static_beta)
    .width.norm.weight = one_less(.norm.gamma)
    transposed_batch(.width.to_shift.weight[:-1]) = .dynamic_alpha_fn
    column(.width.to_shift.weight[-1:]) = .dynamic_beta_fn
    .width.scales[0:1] = .pre_branch_scale
    .width.scales[1:2] = .residual_scale
    scalar(.width.scales[2:3]) = .h_post_scale
"""


def lucidrains(config: ModelOptions) -> list[str] | str:
    """The transformers of the package `mmdit` 0.2 and 0.3: bare, with the tokens at the streams' widths."""
    two = config.variant == "two_modality"
    skipped = ("text",) if two and config.skip_last_feedforward is None else config.skip_last_feedforward
    if config.has_ends:
        return "its networks have no ends: no input, output or timestep"
    if skipped:
        return (
            "its last block holds a feedforward for every modality, and this config skips one; "
            "set skip_last_feedforward: []"
        )
    if config.discard:
        return "its last block holds all weights of every modality; leave discard empty"
    lines: list[str] = []
    for n in range(config.depth):
        block = _lucidrains_two(config) if two else _lucidrains_general(config)
        lines += below(f"blocks.{n}", f"blocks.{n}", block)
    if two:
        return [*lines, "final_norms.1.weight = norm.g", "registers.1.tokens = register_tokens"]
    return [*lines, *(f"final_norms.{i}.weight = norms.{i}.g" for i in range(len(config.modalities)))]


def _lucidrains_parts(config: ModelOptions, i: int, names: dict[str, str]) -> Iterator[str]:
    """What both of its blocks have for modality `i`, below their own names of attention, feedforward and residuals."""
    yield f".joint_attn.to_qkv.{i}.linear = .joint_attn.to_qkv.{i}"
    yield f".joint_attn.to_out.{i}.linear = .joint_attn.to_out.{i}"
    gated = config.feedforward.kind in ("geglu", "swiglu")
    yield f".feedforwards.{i}.proj_in = {names['ff']}.ff.0.{'proj' if gated else '0'}"
    yield f".feedforwards.{i}.proj_out = {names['ff']}.ff.2"
    residual = MANIFOLD if config.residual.kind == "manifold_hyper_connections" else HYPER_CONNECTIONS
    for sublayer in ("attn", "ff"):
        yield f".{sublayer}_norms.{i}.norm = {names[f'{sublayer}_norm']}"
        if config.residual.kind != "plain":
            yield from below(f".{sublayer}_residuals.{i}", names[f"{sublayer}_residual"], residual)


def _lucidrains_two(config: ModelOptions) -> list[str]:
    lines: list[str] = []
    gammas, betas = [], []
    for i, side in enumerate(config.modalities):
        names = {f"{part}_norm": f".{side}_{part}_layernorm" for part in ("attn", "ff")}
        names |= {f"{part}_residual": f".{side}_{part}_residual_fn" for part in ("attn", "ff")}
        lines += _lucidrains_parts(config, i, names | {"ff": f".{side}_ff"})
        # of shift, scale and gate, twice: all gammas of a side (before and after each branch), then all its betas
        m = f".modulations.{i}.linear"
        gammas += [f"gamma({m}[1/6])", f"{m}[2/6]", f"gamma({m}[4/6])", f"{m}[5/6]"]
        betas += [f"{m}[0/6]", f"{m}[3/6]"]
    return [*lines, f"{' + '.join(gammas + betas)} = .to_cond.2"]


def _lucidrains_general(config: ModelOptions) -> list[str]:
    lines: list[str] = []
    count = len(config.modalities)
    for i in range(count):
        names = {f"{part}_norm": f".{part}_layernorms.{i}.ln" for part in ("attn", "ff")}
        names |= {f"{part}_residual": f".{part}_residual_fns.{i}" for part in ("attn", "ff")}
        lines += _lucidrains_parts(config, i, names | {"ff": f".feedforwards.{i}"})
        for part, first in (("attn", 0), ("ff", 3)):
            m = f".modulations.{i}.linear"
            lines.append(f"gamma({m}[{first + 1}/6]) + {m}[{first}/6] = .{part}_layernorms.{i}.to_cond.2")
    gates = [f".modulations.{i}.linear[{place}/6]" for place in (2, 5) for i in range(count)]
    return [*lines, f"{' + '.join(gates)} = .to_post_branch_gammas.2"]
