"""The whole network: ends of each modality, timestep and pooled conditioning, and the transformer between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmdit import mmdit_generalized_pytorch as generalized
from mmdit import mmdit_pytorch as two_modality
from mmdit.config import ModelConfig
from mmdit.ends import make_embed, make_head
from mmdit.positions import sinusoid

BareModel = two_modality.MMDiT | generalized.MMDiT


class VectorEmbed(nn.Module):
    """`linear -> silu -> linear`, from a vector to the conditioning."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear_in, self.linear_out = nn.Linear(dim_in, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """`x`: b dim_in -> b dim."""
        return self.linear_out(F.silu(self.linear_in(x)))


class TimestepEmbed(VectorEmbed):
    """A timestep's sinusoid through a `VectorEmbed` (DiT, section 3.2, with the cosines first as in SD3)."""

    def __init__(self, frequencies: int, dim: int, *, scale: float = 1.0) -> None:
        super().__init__(frequencies, dim)
        self.frequencies, self.scale = frequencies, scale

    def forward(self, timestep: Tensor) -> Tensor:
        """`timestep`: b -> b dim."""
        # scaled after widening: 0.7 * 1000 in bfloat16 is rounded to a multiple of 4
        waves = sinusoid(timestep.double() * self.scale, self.frequencies, cos_first=True)
        return super().forward(waves.to(self.linear_in.weight.dtype))


class MMDiTModel(nn.Module):
    """A network from its inputs' own forms to its outputs' (Esser et al. 2024, Figure 2a), built from a config.

    Timestep and pooled vector become the conditioning; each input is embedded to tokens; the transformer runs; each
    modality with an output head is brought back to its form.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.modality_names = tuple(config.modalities)
        self.inputs = nn.ModuleDict({name: make_embed(modality) for name, modality in config.modalities.items()})
        time, pooled, dim_cond = config.timestep, config.pooled, config.dim_cond
        self.time_embed = (
            None if time is None or dim_cond is None else TimestepEmbed(time.frequencies, dim_cond, scale=time.scale)
        )
        self.pooled_embed = None if pooled is None or dim_cond is None else VectorEmbed(pooled.dim, dim_cond)
        self.transformer = generalized.MMDiT(**_transformer_options(config))
        heads = {
            name: make_head(modality, dim_cond=dim_cond, eps=config.norm_eps, zero=config.adaln == "zero")
            for name, modality in config.modalities.items()
        }
        self.outputs = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        timestep: Tensor | Mapping[str, Tensor] | None = None,
        pooled: Tensor | None = None,
        masks: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Run the network.

        Args:
            inputs: by modality: an image `b c h w`, a sequence `b n d`, token ids `b n`.
            timestep: `b`, or one such tensor for each modality (each may be noised by its own amount).
            pooled: `b dim`, where the config has `pooled`.
            masks: by modality, `b n` bool, True = valid; modalities may be left out.

        Returns:
            By modality what its output head gives, tokens where it has none; discarded modalities are absent.

        Raises:
            ValueError: a modality is missing or unknown, or a shape is wrong; it names the modality, got and wanted.
        """
        self._check_names(inputs, "inputs", complete=True)
        self._check_names(masks or {}, "masks", complete=False)
        ordered = [inputs[name] for name in self.modality_names]
        conds = self._conditioning(timestep, pooled, ordered[0].shape[0])

        tokens = [embed(x, name) for x, (name, embed) in zip(ordered, self.inputs.items(), strict=True)]
        token_masks = None if not masks else [masks.get(name) for name in self.modality_names]
        outs = self.transformer(
            modality_tokens=tokens, modality_masks=token_masks, time_cond=None if conds[0] is None else conds
        )

        result = {}
        for name, x, cond, given in zip(self.modality_names, outs, conds, ordered, strict=True):
            if x is not None:
                result[name] = self.outputs[name](x, cond, given) if name in self.outputs else x
        return result

    def _conditioning(
        self, timestep: Tensor | Mapping[str, Tensor] | None, pooled: Tensor | None, batch: int
    ) -> list[Tensor | None]:
        """One `b dim_cond` vector for each modality."""
        if self.time_embed is None:
            if timestep is not None or pooled is not None:
                raise ValueError(
                    "this model has no timestep in its config, so neither timestep nor pooled may be passed"
                )
            return [None] * len(self.modality_names)
        if timestep is None:
            raise ValueError("timestep is missing: this model is conditioned on it; pass a tensor of shape (batch,)")
        if (pooled is None) != (self.pooled_embed is None):
            wanted = "needs" if self.pooled_embed else "was built without"
            raise ValueError(
                f"this model {wanted} a pooled vector, got {'none' if pooled is None else tuple(pooled.shape)}"
            )
        if isinstance(timestep, Mapping):
            self._check_names(timestep, "timestep", complete=True)
        for t in timestep.values() if isinstance(timestep, Mapping) else (timestep,):
            if t.shape != (batch,):
                raise ValueError(f"timestep must have the shape (batch,) = ({batch},), got {tuple(t.shape)}")
        extra = self._pooled(pooled, batch)
        if isinstance(timestep, Mapping):
            return [self.time_embed(timestep[name]) + extra for name in self.modality_names]
        return [self.time_embed(timestep) + extra] * len(self.modality_names)

    def _pooled(self, pooled: Tensor | None, batch: int) -> Tensor | int:
        if pooled is None or self.pooled_embed is None:
            return 0
        wanted = (batch, self.pooled_embed.linear_in.in_features)
        if pooled.shape != wanted:
            raise ValueError(f"pooled must have the shape (batch, dim) = {wanted}, got {tuple(pooled.shape)}")
        return self.pooled_embed(pooled)

    def _check_names(self, given: Mapping[str, Any], argument: str, *, complete: bool) -> None:
        unknown = [name for name in given if name not in self.modality_names]
        missing = [name for name in self.modality_names if name not in given] if complete else []
        if unknown or missing:
            wanted = ", ".join(self.modality_names)
            raise ValueError(f"{argument} must be named {wanted}, got {', '.join(given) or 'none'}")


def build_model(config: ModelConfig) -> BareModel | MMDiTModel:
    """`MMDiTModel` where the config has ends, the bare transformer otherwise. It keeps the config as `.config`."""
    if config.has_ends:
        return MMDiTModel(config)
    options = _transformer_options(config)
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


def _transformer_options(config: ModelConfig) -> dict[str, Any]:
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
        dim_cond=config.dim_cond,
        dim_joint_attn=config.dim_joint_attn,
        heads=config.heads,
        dim_head=config.dim_head,
        qk_rmsnorm=config.qk_rmsnorm,
        qk_norm_shared=attention.qk_norm_scale == "shared",
        softclamp=attention.softclamp is not None,
        softclamp_value=attention.softclamp or 50.0,
        num_adaptive_weights=attention.num_adaptive_weights,
        gating=attention.gating,
        bias=attention.bias,
        unused_queries=attention.unused_queries,
        num_residual_streams=residual.streams,
        residual=residual.kind,
        dynamic_residual=residual.dynamic,
        ff_kwargs=dict(mult=feedforward.mult, kind=feedforward.kind, bias=feedforward.bias),
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
