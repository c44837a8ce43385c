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
from mmdit.options.fields import Number, Text, Whole
from mmdit_cli.request.train_config import TrainConfig

DEFAULT_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """What profile, flops and shape-check feed the model."""

    batch_size: Whole = option(1, "Samples of a call.", gt=0)
    tokens: dict[Text, Annotated[Whole, Gt(0)]] = option(
        {}, f"Tokens of a sample, by modality; {DEFAULT_TOKENS} where it says nothing."
    )
    mask: dict[Text, Annotated[Number, Ge(0), Le(1)]] = option({}, "Share of valid tokens, by masked modality.")


@dataclass(frozen=True, kw_only=True)
class ToolConfig(Config):
    """A whole config file."""

    run: RunConfig = option(RunConfig(), "What profile, flops and shape-check feed the model.")
    train: TrainConfig = option(TrainConfig(), "How train-toy trains it.")

    def check(self) -> None:
        super().check()
        for key in ("tokens", "mask"):
            for name in getattr(self.run, key):
                if name not in self.model.modalities:
                    message = f"{name!r} is no modality of the model; they are {', '.join(self.model.modalities)}"
                    raise OptionError(("run", key, name), message)
        for name, modality in self.model.modalities.items():
            count, end, at = self.tokens_of(name), modality.input, ("run", "tokens", name)
            if isinstance(end, TokenInput) and count > end.max_length:
                raise OptionError(at, f"{count} tokens exceed the input's max_length of {end.max_length}")
            if isinstance(end, PatchInput):
                height, width = patch_grid(count)
                if end.positions != "none" and width > end.max_size:
                    message = f"{count} patches are {height} x {width}, but positions reach max_size {end.max_size}"
                    raise OptionError(at, message)

    def tokens_of(self, name: str) -> int:
        """Tokens of one sample in the modality."""
        end = self.model.modalities[name].input
        default = min(DEFAULT_TOKENS, end.max_length) if isinstance(end, TokenInput) else DEFAULT_TOKENS
        return self.run.tokens.get(name, default)

    def valid_tokens_of(self, name: str) -> int:
        """Those of them that are no padding."""
        return round(self.tokens_of(name) * self.run.mask.get(name, 1.0))


def patch_grid(tokens: int) -> tuple[int, int]:
    """Rows and columns of the most square image of so many patches, rows <= columns."""
    rows = next(rows for rows in range(int(tokens**0.5), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows


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
