"""The two-modality face: text and image by name, over the general block. It has no mathematics of its own."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any

from torch import Tensor

from mmdit.layers.joint_attention import JointAttention
from mmdit.layers.modulation import StackModulation
from mmdit.networks import block, transformer
from mmdit.options import BlockOptions, ModelOptions
from mmdit.options.fields import Count, Flag, Size, takes
from mmdit.options.values import held
from mmdit.packing import Packing

__all__ = ["JointAttention", "MMDiT", "MMDiTBlock"]

NAMES = ("text", "image")
TEXT = 0
# what the general transformer says of modalities by their places, and this one by their names
BY_PLACE = ("dim_modalities", "modality_names", "num_register_tokens", "final_norms", "skip_last_feedforward")
BY_NAME = {
    "dim_text": MISSING,
    "dim_image": MISSING,
    "num_register_tokens": 0,
    "final_norm": True,
    "should_skip_last_feedforward": True,
}
TYPES = dict(zip(BY_NAME, (Size, Size, Count, Flag, Flag), strict=True))


def _by_place(keywords: dict[str, Any], owner: str) -> dict[str, Any]:
    """The general transformer's keywords. Raises TypeError where one is its own, or missing."""
    for name in BY_PLACE:
        if name in keywords and name not in BY_NAME:
            raise TypeError(f"{owner}() got an unexpected keyword argument {name!r}")
    own = {name: keywords.get(name, default) for name, default in BY_NAME.items()}
    if missing := [name for name, value in own.items() if value is MISSING]:
        raise TypeError(f"{owner}() missing the keyword argument {missing[0]!r}")
    own = held(own, TYPES)
    rest = {name: value for name, value in keywords.items() if name not in BY_NAME}
    return _with_residual(rest) | dict(
        dim_modalities=(own["dim_text"], own["dim_image"]),
        modality_names=NAMES,
        num_register_tokens=(0, own["num_register_tokens"]),
        final_norms=(False, own["final_norm"]),
        skip_last_feedforward=(TEXT,) if own["should_skip_last_feedforward"] else (),
    )


def _with_residual(keywords: dict[str, Any]) -> dict[str, Any]:
    """Here several streams are hyper-connections unless said otherwise, as in the published package."""
    streams, kind = keywords.get("num_residual_streams", 1), keywords.get("residual")
    return keywords | {"residual": kind or ("plain" if streams == 1 else "hyper_connections")}


@takes(BlockOptions)
class MMDiTBlock(block.MMDiTBlock):
    """The MMDiT block of Stable Diffusion 3: text and image tokens, one joint attention (Esser et al. 2024, Figure 2b).

    Args:
        dim_text, dim_image: width of the two token sequences.
        skip_feedforward_text_tokens: build the block without the text feedforward.
        num_residual_streams, residual: above 1 stream the residual is `hyper_connections` unless named otherwise.
        **keywords: see `mmdit.mmdit_generalized_pytorch.MMDiTBlock`.
    """

    def __init__(
        self,
        options: BlockOptions | None = None,
        *,
        dim_text: Size,
        dim_image: Size,
        skip_feedforward_text_tokens: Flag = False,
        **keywords: Any,
    ) -> None:
        super().__init__(
            options,
            dim_modalities=(dim_text, dim_image),
            modality_names=NAMES,
            skip_feedforward=(TEXT,) if skip_feedforward_text_tokens else (),
            **(_with_residual(keywords) if options is None else keywords),
        )

    def forward(  # type: ignore[override]
        self,
        *,
        text_tokens: Tensor,
        image_tokens: Tensor,
        text_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        time_cond: Tensor | None = None,
        skip_feedforward_text_tokens: bool | None = None,
    ) -> tuple[Tensor | None, ...]:
        """`text_tokens`: b t dim_text; `image_tokens`: b n dim_image; masks bool, True = valid; `time_cond`: b d.

        `skip_feedforward_text_tokens` leaves the text feedforward out of this call; None does as the block was built.

        Raises:
            ValueError: a shape is wrong, or a text feedforward is asked for that was not built.
        """
        return super().forward(
            modality_tokens=(text_tokens, image_tokens),
            modality_masks=_pair(text_mask, image_mask),
            time_cond=time_cond,
            skip_feedforward=_skipped(skip_feedforward_text_tokens, self.fed, "skip_feedforward_text_tokens"),
        )


@takes(ModelOptions, without=BY_PLACE, own=BY_NAME)
class MMDiT(transformer.MMDiT):
    """A stack of two-modality blocks.

    Args:
        options: what it is; or as keywords:
        depth: number of blocks.
        dim_text, dim_image: width of the two token sequences.
        num_register_tokens: learned tokens in front of the image tokens, dropped at the end.
        final_norm: an RMS norm on the image tokens that come out.
        should_skip_last_feedforward: build the last block without a text feedforward, which the image never sees.
        num_residual_streams, residual: above 1 stream the residual is `hyper_connections` unless named otherwise.
        **keywords: see `mmdit.mmdit_generalized_pytorch.MMDiT`.
    """

    def __init__(self, options: ModelOptions | None = None, **keywords: Any) -> None:
        if options is None:
            keywords = _by_place(keywords, type(self).__name__)
        elif options.names != NAMES:
            raise ValueError(f"two modalities are called text and image, got {', '.join(options.names)}")
        super().__init__(options, **keywords)

    def forward(  # type: ignore[override]
        self,
        *,
        text_tokens: Tensor,
        image_tokens: Tensor,
        text_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        time_cond: Tensor | None = None,
        text_positions: Tensor | None = None,
        image_positions: Tensor | None = None,
        should_skip_last_feedforward: bool | None = None,
        masks: Packing | None = None,
        modulation: StackModulation | None = None,
    ) -> tuple[Tensor | None, ...]:
        """`text_tokens`: b t dim_text; `image_tokens`: b n dim_image; masks bool, True = valid; `time_cond`: b d.

        With `rotary_axes`, `text_positions` (t axes) and `image_positions` (n axes) say where the tokens stand; one of
        them may be None, whose tokens then don't turn.
        `should_skip_last_feedforward` leaves the last text feedforward out of this call; None does as was built.
        `masks`: a `Packing` in place of both masks. `modulation`: what `modulate` made of the same `time_cond` before.

        Raises:
            ValueError: a shape is wrong, or a text feedforward is asked for that was not built.
        """
        if masks is not None and (text_mask is not None or image_mask is not None):
            raise ValueError("masks is a Packing in place of text_mask and image_mask; pass either")
        return super().forward(
            modality_tokens=(text_tokens, image_tokens),
            modality_masks=_pair(text_mask, image_mask) if masks is None else masks,
            time_cond=time_cond,
            modulation=modulation,
            modality_positions=_pair(text_positions, image_positions),
            skip_last_feedforward=_skipped(
                should_skip_last_feedforward,
                self.blocks[-1].fed if len(self.blocks) else (TEXT,),
                "should_skip_last_feedforward",
            ),
        )


def _pair(text: Tensor | None, image: Tensor | None) -> tuple[Tensor | None, ...] | None:
    return None if text is None and image is None else (text, image)


def _skipped(skip: bool | None, fed: Any, argument: str) -> tuple[int, ...]:
    if skip is False and TEXT not in fed:
        raise ValueError(f"{argument}=False needs a text feedforward that was not built; build with {argument}=False")
    return (TEXT,) if skip else ()
