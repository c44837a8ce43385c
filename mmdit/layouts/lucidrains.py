"""The package `mmdit` 0.2 and 0.3: its names."""

from __future__ import annotations

from collections.abc import Iterator

from mmdit.layouts.block_lines import below
from mmdit.layouts.language import LayoutError
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


def lucidrains(config: ModelOptions) -> Iterator[str]:
    """The lines of a bare transformer, with the tokens at the streams' widths.

    Raises:
        LayoutError: the package has no such transformer.
    """
    two = config.variant == "two_modality"
    if config.is_whole_network:
        raise LayoutError("its networks are bare: no input, output or timestep")
    if config.without_last_feedforward:
        raise LayoutError(
            "its last block holds a feedforward for every modality, and this config skips one; "
            "set skip_last_feedforward: []"
        )
    if config.discard:
        raise LayoutError("its last block holds all weights of every modality; leave discard empty")
    block = list(_two_modalities(config) if two else _any_modalities(config))
    for n in range(config.depth):
        yield from below(f"blocks.{n}", f"blocks.{n}", block)
    if two:
        yield from ("final_norms.1.weight = norm.g", "registers.1.tokens = register_tokens")
        yield "no_tokens() = register_tokens"  # which it stores all the same
    else:
        yield from (f"final_norms.{i}.weight = norms.{i}.g" for i in range(len(config.modalities)))


def _of_modality(config: ModelOptions, i: int, *, norm: str, residual: str, ff: str) -> Iterator[str]:
    """What both of its blocks have for modality `i`, below their own names, with `{}` for attn or ff."""
    yield f".joint_attn.to_qkv.{i}.linear = .joint_attn.to_qkv.{i}"
    yield f".joint_attn.to_out.{i}.linear = .joint_attn.to_out.{i}"
    gated = config.feedforward.kind in ("geglu", "geglu_tanh", "swiglu")
    yield f".feedforwards.{i}.proj_in = {ff}.ff.0.{'proj' if gated else '0'}"
    yield f".feedforwards.{i}.proj_out = {ff}.ff.2"
    lines = MANIFOLD if config.residual.kind == "manifold_hyper_connections" else HYPER_CONNECTIONS
    for sublayer in ("attn", "ff"):
        yield f".{sublayer}_norms.{i}.norm = {norm.format(sublayer)}"
        if config.residual.kind != "plain":
            yield from below(f".{sublayer}_residuals.{i}", residual.format(sublayer), lines)


def _two_modalities(config: ModelOptions) -> Iterator[str]:
    gammas, betas = [], []
    for i, side in enumerate(config.modalities):
        norm, residual = f".{side}_{{}}_layernorm", f".{side}_{{}}_residual_fn"
        yield from _of_modality(config, i, norm=norm, residual=residual, ff=f".{side}_ff")
        # of shift, scale and gate, twice: all gammas of a side (before and after each branch), then all its betas
        m = f".modulations.{i}.linear"
        gammas += [f"gamma({m}[1/6])", f"{m}[2/6]", f"gamma({m}[4/6])", f"{m}[5/6]"]
        betas += [f"{m}[0/6]", f"{m}[3/6]"]
    yield f"{' + '.join(gammas + betas)} = .to_cond.2"


def _any_modalities(config: ModelOptions) -> Iterator[str]:
    count = len(config.modalities)
    for i in range(count):
        m = f".modulations.{i}.linear"
        norm, residual = f".{{}}_layernorms.{i}.ln", f".{{}}_residual_fns.{i}"
        yield from _of_modality(config, i, norm=norm, residual=residual, ff=f".feedforwards.{i}")
        yield f"gamma({m}[1/6]) + {m}[0/6] = .attn_layernorms.{i}.to_cond.2"
        yield f"gamma({m}[4/6]) + {m}[3/6] = .ff_layernorms.{i}.to_cond.2"
    gates = [f".modulations.{i}.linear[{place}/6]" for place in (2, 5) for i in range(count)]
    yield f"{' + '.join(gates)} = .to_post_branch_gammas.2"
