"""What two configs have in common beside the model, so that a comparison of their runs says something of the models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmdit.options import PatchInput, as_data
from mmdit_cli.model_parts.hidden_matrices import share_of_muon
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.run_folder import differences, safe_name
from mmdit_cli.toy.trainer import TRAINING

# What two designs must share, beside the modalities, for one seed to mean the same data, noise and timesteps; for their
# losses to be the same quantity (an output that is turned into another has its error held down at one end of t; tokens
# skip blocks, and features are dropped, in training alone, so that the loss is not that of the network that draws); and
# for their samples to be judged alike.
DATA = ("train.data", "train.picture_size", "train.batch_size", "train.caption_dropout", "train.timesteps.per_modality")
LOSS = (
    "model.feedforward.dropout",
    "model.routing",
    "train.data",
    "train.picture_size",
    "train.loss_weights",
    "train.caption_dropout",
    "train.timesteps",
    "train.shift",
    "train.prediction",
)
RULER = (
    "train.data",
    "train.picture_size",
    "train.steps",
    "train.sampler",
    "train.evaluation_samples",
    "train.evaluate_every",
)

MUON_ALIKE = 0.1  # a difference between the shares of weights that Muon updates that goes without saying


def as_trained(config: ToolConfig) -> ToolConfig:
    """The config whose `run` is a batch of its training, for counting: captions as long as the first batch's."""
    world = world_of(config)
    batch = world.batch(config.train.batch_size, seed=0, stream=TRAINING, index=0)
    tokens = {"text": world.encode(batch.captions)[0].shape[1]}
    for name, x in batch.data.items():
        end = config.model.modalities[name].input
        tokens[name] = x[0, 0].numel() // math.prod(end.sizes) if isinstance(end, PatchInput) else x.shape[1]
    run = replace(config.run, batch_size=config.train.batch_size, tokens=tokens)
    return replace(config, run=run)


def unlike(first: ToolConfig, other: ToolConfig) -> list[str]:
    """What two designs do not share beside the model, in words."""
    kinds = (
        (DATA, "seeds do not pair the same data, noise and timesteps"),
        (LOSS, "the losses are not the same quantity, and are not compared"),
        (RULER, "accuracy is not measured alike"),
    )
    texts = {meaning: "; ".join(_unlike(first, other, keys)) for keys, meaning in kinds}
    notes = [f"{other.name} and {first.name}: {meaning} ({text})" for meaning, text in texts.items() if text]
    if first.train.optimizer.kind == other.train.optimizer.kind == "muon":
        shares = [share_of_muon(config.model) for config in (other, first)]
        if abs(shares[0] - shares[1]) > MUON_ALIKE:
            both = " and ".join(f"{share:.0%}" for share in shares)
            notes.append(f"{other.name} and {first.name}: Muon updates {both} of their blocks' weights, AdamW the rest")
    return notes


def distinct(configs: Sequence[ToolConfig], files: Sequence[str]) -> list[ToolConfig]:
    """The configs with names that differ, also as folders: where two are alike, their files' names, then numbers."""
    names = [config.name for config in configs]
    if len({safe_name(name) for name in names}) < len(names):
        names = [Path(file).stem if file != "-" else name for file, name in zip(files, names, strict=True)]
    taken: set[str] = set()
    for index, name in enumerate(names):
        number, unique = 1, name
        while safe_name(unique) in taken:
            number, unique = number + 1, f"{name}-{number + 1}"
        taken.add(safe_name(unique))
        names[index] = unique
    return [replace(config, name=name) for config, name in zip(configs, names, strict=True)]


def same_loss(first: ToolConfig, other: ToolConfig) -> bool:
    """Whether both minimize the same quantity."""
    return not _unlike(first, other, LOSS)


def _unlike(first: ToolConfig, other: ToolConfig, keys: Sequence[str]) -> list[str]:
    """The settings under `keys`, and the modalities, in which two configs differ."""
    saved, wanted = ({"modalities": sorted(c.model.modalities), **as_data(c)} for c in (first, other))
    kept = tuple(f"{key}{end}" for key in ("modalities", *keys) for end in (" ", "."))
    return [text for text in differences(saved, wanted) if text.startswith(kept)]
