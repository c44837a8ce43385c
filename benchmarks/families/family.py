"""A published network: the shipped config of it, and the class that is the same network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from benchmarks.paths import CONFIGS
from mmdit.config import Config
from mmdit.config.file import load_config


@dataclass(frozen=True)
class Family:
    """A shipped config and the class of diffusers that is the same network.

    `small` is what makes the config small, and `options` what makes theirs small; `published` are their arguments at
    the published size, which has so many `parameters`. `call` runs theirs on what ours takes, `arguments` where that is
    no picture and a text; `layout` has their names. `image_first`: in the sequence of their single-stream blocks;
    `masked`: whether they take a mask of a text that is refined.
    """

    config: str
    small: dict[str, Any]
    theirs: Callable[..., nn.Module]
    options: dict[str, Any]
    call: Callable[..., Tensor]
    published: dict[str, Any]
    parameters: int
    layout: str = "diffusers"
    arguments: Callable[..., dict[str, Any]] | None = None
    image_first: bool = False
    masked: bool = True

    def __str__(self) -> str:
        return self.config

    @property
    def drawn(self) -> str:
        """The modality that comes out."""
        config = self.small_config().model
        return next(name for name in reversed(config.names) if name not in config.discard)

    def small_config(self) -> Config:
        overrides = [f"{key}={value}" for key, value in self.small.items()]
        return load_config(CONFIGS / f"{self.config}.yaml", Config, overrides=overrides)


def theirs(name: str) -> Callable[..., nn.Module]:
    """A class of diffusers, imported when it is made."""

    def make(**options: Any) -> nn.Module:
        import diffusers

        return getattr(diffusers, name)(**options)

    return make


def pack(image: Tensor) -> Tensor:
    return rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack(patches: Tensor, like: Tensor) -> Tensor:
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", p=2, q=2, h=like.shape[2] // 2)
