"""A config file's sections as the library reads them: the model's, and what the tool may add beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmdit.options import ModelOptions, OptionError, Options, option
from mmdit.options.fields import Text

# The largest published model has 60 for each of two modalities. Thousands would overflow the stack: torch frees a
# graph by recursion.
MAX_BLOCKS = 512


@dataclass(frozen=True, kw_only=True)
class Config(Options):
    """A config file. What the tool feeds and how it trains a model (`run`, `train`) belongs to the tool, which narrows
    the two; here they pass through unread, so that `build("file.yaml")` works on any config file."""

    name: Text = option("model", "What tables and reports call it.", min_length=1)
    extends: Text | None = option(
        None,
        "A shipped config's name, or a file from this one's folder: its keys hold here, changed by this one's. "
        "Mappings merge, lists and values replace, null leaves a key out.",
        later=True,
    )
    model: ModelOptions = option(sentence="What the model is.", example="{depth: 2, modalities: {image: {dim: 512}}}")
    run: Any = option(None, "What profile, flops and shape-check feed it.")
    train: Any = option(None, "How train-toy trains it.")

    def check(self) -> Iterator[OptionError]:
        """What a file may not ask for, though a constructor builds it."""
        if self.extends is not None:  # those that may are read with what they extend, which leaves none here
            yield OptionError(("extends",), "only a config file, or the mapping given to build, extends another")
        model, single = self.model, self.model.single_stream
        joint = model.depth * len(model.modalities)
        further = 0 if single is None else single.depth
        if (blocks := joint + further) > MAX_BLOCKS:  # each is built, though without memory
            count = f"{model.depth} x {len(model.modalities)} modalities" + (f" + {further}" if further else "")
            at = ("model", "single_stream", "depth") if further > joint else ("model", "depth")
            yield OptionError(at, f"expected at most {MAX_BLOCKS} blocks of a modality in all, got {count} = {blocks}")
        for name in model.modalities:
            if not name.isidentifier() or name in _taken_names():
                message = f"{name!r} can't name a modality; take a word such as audio"
                yield OptionError(("model", "modalities", name), message)
        if model.rotary is not None and all(modality.rotary is None for modality in model.modalities.values()):
            message = (
                "no modality has a place on its axes; give one to each that turns, and an input, as in image: "
                "{dim: 64, input: {kind: patches, channels: 16, patch: 2}, rotary: {axes: [0, 1]}}"
            )
            yield OptionError(("model", "rotary"), message)
            if model.dim_cond is not None and model.timestep is None:
                yield OptionError(
                    ("model", "timestep"), "missing: with inputs it makes the conditioning, as timestep: {}"
                )


@cache
def _taken_names() -> frozenset[str]:
    """What a `ModuleDict` of modalities has by itself."""
    from torch import nn

    return frozenset(dir(nn.ModuleDict()))
