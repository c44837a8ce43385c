"""The model card beside an exported folder: what the library knows, where the weights came from and what they cost."""

from __future__ import annotations

from mmdit.config.construct import build_on_meta
from mmdit.config.diffusers_config import CLASS
from mmdit.layouts.diffusers_files import written_config
from mmdit.weights.model_card import ModelCard
from mmdit.weights.saved_model import card_of
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.output import units as f
from mmdit_cli.request.tool_config import ToolConfig


def export_card(config: ToolConfig, source: str, layout: str = "mmdit") -> ModelCard:
    """Raises LayoutError where no class of diffusers opens what is written in its names."""
    cost = count_flops(config)
    tokens = ", ".join(f"{count:,} of {name}" for name, count in cost.tokens.items())
    facts = {
        "FLOPs of a forward pass": f"{f.flops(cost.forward_flops / cost.batch_size)} a sample, of tokens: {tokens}",
        "weights from": source,
        "names": f"the layout {layout}",
    }
    card = card_of(build_on_meta(config.model), config.model, config.name, **facts)
    if layout == "diffusers":
        name = written_config(config.model)[CLASS]
        opened = f'from diffusers import {name}\n\nmodel = {name}.from_pretrained("FOLDER_OR_REPOSITORY")'
        return ModelCard(card.title, "diffusers", opened, card.config, card.facts)
    if layout != "mmdit":  # whose folders have no config beside the weights
        opened = 'import mmdit\n\nmodel = mmdit.load("FOLDER", config="config.yaml")  # the config below, in a file'
        return ModelCard(card.title, "mmdit", opened, card.config, card.facts)
    return card
