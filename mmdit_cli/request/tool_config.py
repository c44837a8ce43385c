"""The tool's config: the library's model section, and what the tool runs and trains with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from mmdit.config import Config
from mmdit.config.file import load_config, validate_mapping
from mmdit.options import OptionError, Options, PatchInput, TokenInput, option
from mmdit.options.fields import Count, Number, Text, Whole
from mmdit_cli.request.train_config import TrainConfig

DEFAULT_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """What profile, flops and shape-check feed the model."""

    batch_size: Whole = option(1, "Samples of a call.", gt=0)
    tokens: dict[Text, Annotated[Whole, Gt(0)]] = option(
        {}, f"Tokens of a sample, by modality or further input; {DEFAULT_TOKENS} where it says nothing."
    )
    frames: dict[Text, Annotated[Whole, Gt(0)]] = option(
        {}, "Patches of a video along time, among which its tokens are shared, by modality; 1 where it says nothing."
    )
    mask: dict[Text, Annotated[Number, Ge(0), Le(1)]] = option({}, "Share of valid tokens, by masked modality.")
    references: dict[Text, Count] = option(
        {}, "Images given beside the one that is drawn, by modality, each of as many tokens."
    )


@dataclass(frozen=True, kw_only=True)
class ToolConfig(Config):
    """A whole config file."""

    run: RunConfig = option(RunConfig(), "What profile, flops and shape-check feed the model.")
    train: TrainConfig = option(TrainConfig(), "How train-toy trains it.")

    def check(self) -> None:
        super().check()
        inputs, modalities = self.model.inputs, tuple(self.model.modalities)
        for key, names in dict(
            tokens=tuple(inputs), mask=tuple(inputs), frames=modalities, references=modalities
        ).items():
            for name in getattr(self.run, key):
                if name not in names:
                    message = f"{name!r} is no modality of the model; they are {', '.join(names)}"
                    raise OptionError(("run", key, name), message)
        for name, frames in self.run.frames.items():
            end = inputs[name]
            if not isinstance(end, PatchInput) or len(end.sizes) < 3 or self.tokens_of(name) % frames:
                message = (
                    f"only a video's tokens are shared by frames, equally; {name!r} has {self.tokens_of(name)} tokens"
                )
                raise OptionError(("run", "frames", name), message)
        for name in self.run.references:
            if self.model.modalities[name].references is None:
                message = f"{name!r} takes no references; set model.modalities.{name}.references"
                raise OptionError(("run", "references", name), message)
        for name, end in inputs.items():
            count, at = self.tokens_of(name), ("run", "tokens", name)
            if isinstance(end, TokenInput) and count > end.max_length:
                raise OptionError(at, f"{count} tokens exceed the input's max_length of {end.max_length}")
            if isinstance(end, PatchInput):
                *_, height, width = self.patch_grid(name)
                if end.positions != "none" and width > end.max_size:
                    message = f"{count} patches are {height} x {width}, but positions reach max_size {end.max_size}"
                    raise OptionError(at, message)

    def tokens_of(self, name: str) -> int:
        """Tokens of one sample in an input."""
        end = self.model.inputs[name]
        default = min(DEFAULT_TOKENS, end.max_length) if isinstance(end, TokenInput) else DEFAULT_TOKENS
        return self.run.tokens.get(name, default)

    def all_tokens(self) -> dict[str, int]:
        """Tokens of one sample by modality, those of its further inputs and of its references included."""
        return {
            name: self.tokens_of(name) * (1 + self.run.references.get(name, 0))
            + sum(map(self.tokens_of, m.inputs or ()))
            for name, m in self.model.modalities.items()
        }

    def patch_grid(self, name: str) -> tuple[int, ...]:
        """Rows and columns of the most square image of so many patches, rows <= columns; of a video frames first."""
        end, frames = self.model.inputs[name], self.run.frames.get(name, 1)
        tokens = self.tokens_of(name) // frames
        rows = next(rows for rows in range(int(tokens**0.5), 0, -1) if tokens % rows == 0)
        sides = (frames, rows, tokens // rows)
        return sides[-len(end.sizes) :] if isinstance(end, PatchInput) else sides


def load_tool_config(path: str | Path, overrides: Sequence[str] = ()) -> ToolConfig:
    """Read a config file (`-`: standard input) with `KEY=VALUE` overrides applied.

    Raises:
        mmdit.config.ConfigError: it can't be read or is wrong; the message names the place.
    """
    return load_config(path, ToolConfig, overrides=overrides)


def as_tool_config(data: Mapping[str, Any]) -> ToolConfig:
    """A config from plain data.

    Raises:
        mmdit.config.ConfigError: a key is wrong.
    """
    return validate_mapping(data, ToolConfig, source="config")
