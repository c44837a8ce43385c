"""The norms of a block's branches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mmdit.options.fields import OptionError, Options, option


@dataclass(frozen=True, kw_only=True)
class NormOptions(Options):
    """The norms of a block's branches: of the attention and of the feedforward."""

    kind: Literal["layer", "rms"] = option("layer", "Layer norm, or RMS norm.", keywords={})
    weights: Literal["none", "plain", "zero_centred"] | None = option(
        None,
        "What they learn; zero_centred: what is added to 1. Unset: plain, but none where the conditioning scales.",
        keywords={},
    )
    place: Literal["before", "around"] = option(
        "before",
        "around: what a branch gives is normed too, before its gate (sandwich norms: CogView, Ding et al. 2021; "
        "Lumina-Image, Z-Image).",
        keywords={},
    )

    def check(self) -> Iterator[OptionError]:
        if self.kind == "layer" and self.weights == "zero_centred":
            yield OptionError(("weights",), "zero_centred are weights of RMS norms; set kind: rms")
