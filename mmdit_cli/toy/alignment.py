"""Alignment of a network's early tokens with its own later ones, without another network."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdit.networks.model import MMDiTModel
from mmdit_cli.errors import UserError
from mmdit_cli.model_parts.processes import Group
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.request.train_config import AlignmentConfig


class LayerSync:
    """How far the tokens behind an early block point another way than those behind a later one, which take no gradient
    from that (Haghighi et al. 2025, arXiv 2510.12581): `1 - cosine`, the mean over tokens, of the modalities that are
    drawn. Nothing is added to the network.

    Args:
        model: its blocks are followed as they are called.
        config: which blocks, and the weight of this beside the loss.
    """

    def __init__(self, model: MMDiTModel, config: AlignmentConfig) -> None:
        stack, self.weight = model.transformer, config.weight
        self.drawn = [i for i, name in enumerate(model.modality_names) if name in model.outputs]
        self.reduce: Any = stack.reduce_streams
        self.seen: dict[str, Any] = {}
        for name, index in (("early", config.early), ("late", config.late)):
            stack.blocks[index].register_forward_hook(self._keeping(name))

    def _keeping(self, name: str) -> Any:
        def keep(block: nn.Module, given: Any, tokens: Any) -> None:
            self.seen[name] = tokens

        return keep

    def __call__(self) -> Tensor:
        """Of the last call of the model."""
        early, late = self.seen.pop("early"), self.seen.pop("late")
        each = [
            1 - F.cosine_similarity(self.reduce(early[i]).float(), self.reduce(late[i]).detach().float(), dim=-1).mean()
            for i in self.drawn
        ]
        return torch.stack(each).mean()


def make_alignment(model: nn.Module, config: AlignmentConfig | None) -> LayerSync | None:
    """That of a model that is trained, if it is aligned."""
    return None if config is None else LayerSync(cast(MMDiTModel, model), config)


def check_alignment(config: ToolConfig, group: Group) -> None:
    """Raises UserError where a network is called so that its blocks can't be followed."""
    if config.train.alignment is None:
        return
    if config.train.compile:
        raise UserError("train.alignment follows single blocks; leave train.compile out")
    if group.shards:
        raise UserError(
            "train.alignment is for processes that hold whole weights and samples; train with --parallel ddp"
        )
