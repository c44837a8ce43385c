"""From a config to the arguments of a model, and to the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdit import mmdit_pytorch as two_modality
from mmdit.config.model import ModelConfig
from mmdit.networks import transformer as generalized

if TYPE_CHECKING:
    from mmdit.networks.model import MMDiTModel

BareModel = two_modality.MMDiT | generalized.MMDiT


def build_model(config: ModelConfig) -> BareModel | MMDiTModel:
    """`MMDiTModel` where the config has ends, the bare transformer otherwise. It keeps the config as `.config`."""
    if config.has_ends:
        from mmdit.networks.model import MMDiTModel

        return MMDiTModel(config)
    options = transformer_options(config)
    model: BareModel
    if config.variant == "two_modality":
        dim_text, dim_image = options.pop("dim_modalities")
        del options["modality_names"]
        model = two_modality.MMDiT(
            dim_text=dim_text,
            dim_image=dim_image,
            num_register_tokens=options.pop("num_register_tokens")[1],
            final_norm=options.pop("final_norms")[1],
            should_skip_last_feedforward=bool(options.pop("skip_last_feedforward")),
            **options,
        )
    else:
        model = generalized.MMDiT(**options)
    model.config = config  # type: ignore[assignment]
    return model


def transformer_options(config: ModelConfig) -> dict[str, Any]:
    """The arguments of the general `MMDiT` that a config stands for."""
    names = tuple(config.modalities)
    attention, residual, feedforward = config.attention, config.residual, config.feedforward
    two = config.variant == "two_modality"
    if isinstance(config.register_tokens, dict):
        registers = [config.register_tokens.get(name, 0) for name in names]
    else:
        registers = [0 if two and name == "text" else config.register_tokens for name in names]
    skipped = ("text",) if two and config.skip_last_feedforward is None else config.skip_last_feedforward or ()
    return dict(
        depth=config.depth,
        dim_modalities=[modality.dim for modality in config.modalities.values()],
        modality_names=names,
        num_register_tokens=registers,
        final_norms=[_has_final_norm(config, name) for name in names],
        discard=[names.index(name) for name in config.discard],
        skip_last_feedforward=[names.index(name) for name in skipped],
        dual_blocks=attention.dual,
        checkpoint_activations=config.checkpoint_activations,
        varlen=config.varlen,
        dim_cond=config.dim_cond,
        dim_joint_attn=config.dim_joint_attn,
        heads=config.heads,
        dim_head=config.dim_head,
        qk_rmsnorm=config.qk_rmsnorm,
        qk_norm_shared=attention.qk_norm_scale == "shared",
        qk_layernorm=attention.qk_layernorm,
        softclamp=attention.softclamp is not None,
        softclamp_value=attention.softclamp or 50.0,
        num_adaptive_weights=attention.num_adaptive_weights,
        gating=attention.gating,
        bias=attention.bias,
        unused_weights=config.unused_weights,
        single_stream_depth=0 if config.single_stream is None else config.single_stream.depth,
        single_stream="parallel" if config.single_stream is None else config.single_stream.kind,
        shared_modulation=config.modulation.shared,
        modulation_bias=config.modulation.bias,
        rotary_axes=None if config.rotary is None else config.rotary.axes,
        rotary_theta=10_000.0 if config.rotary is None else config.rotary.theta,
        num_residual_streams=residual.streams,
        residual=residual.kind,
        dynamic_residual=residual.dynamic,
        ff_kwargs=dict(mult=feedforward.mult, dim_hidden=feedforward.dim, kind=feedforward.kind, bias=feedforward.bias),
        adaln=config.adaln,
        norm_eps=config.norm_eps,
    )


def _has_final_norm(config: ModelConfig, name: str) -> bool:
    """An output head has a norm of its own; of two bare modalities only the image is normed, as published."""
    if config.final_norm is None:
        if config.modalities[name].output is not None:
            return False
    elif not config.final_norm:
        return False
    return config.variant == "generalized" or name == "image"
