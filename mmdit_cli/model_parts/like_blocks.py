"""Blocks that are alike: what they cost is counted once and multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from mmdit.networks.transformer import MMDiT


@dataclass(frozen=True)
class LikeBlocks:
    """Consecutive blocks of `owner.name` with the same structure and sizes, and where the first one stands."""

    owner: nn.Module
    name: str
    start: int
    blocks: list[nn.Module]


def like_blocks(model: nn.Module) -> list[LikeBlocks]:
    """A model's blocks, in the order in which they run."""
    found: list[LikeBlocks] = []
    for owner in [module for module in model.modules() if isinstance(module, MMDiT)]:
        for name in ("blocks", "single_blocks"):
            kind: str | None = None
            for index, block in enumerate(getattr(owner, name)):
                parts = [(key, tuple(p.shape), p.requires_grad) for key, p in block.named_parameters()]
                short = owner.training and getattr(block, "routed", False)  # of fewer tokens
                before, kind = kind, f"{block} {parts} {short}"
                if kind != before:
                    found.append(LikeBlocks(owner, name, index, []))
                found[-1].blocks.append(block)
    return found


def keep_blocks(groups: Sequence[LikeBlocks], kept: Sequence[Sequence[nn.Module]]) -> None:
    """Leave only these blocks of each group in the model, in place."""
    lists: dict[tuple[int, str], list[nn.Module]] = {}
    owners: dict[tuple[int, str], nn.Module] = {}
    for group, blocks in zip(groups, kept, strict=True):
        key = (id(group.owner), group.name)
        owners[key] = group.owner
        lists.setdefault(key, []).extend(blocks)
    for (_, name), blocks in lists.items():
        setattr(owners[_, name], name, nn.ModuleList(blocks))
