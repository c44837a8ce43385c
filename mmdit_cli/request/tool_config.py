"""The tool's config: the library's model section, and what the tool runs and trains with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from mmdit.config.file import load_config
from mmdit.config.model import Config, ModelConfig, PatchInput, Section, TokenInput, wrong
from mmdit_cli.request.train_config import TrainConfig

DEFAULT_TOKENS = 256


class RunConfig(Section):
    """What profile, flops and shape-check feed the model."""

    batch_size: PositiveInt = 1
    tokens: dict[str, PositiveInt] = Field(default_factory=dict)  # by modality; DEFAULT_TOKENS where it says nothing
    mask: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)  # share of valid tokens


class ToolConfig(Config):
    """A whole config file."""

    model: ModelConfig
    run: RunConfig = RunConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _run_fits_model(self) -> ToolConfig:
        for key in ("tokens", "mask"):
            for name in getattr(self.run, key):
                if name not in self.model.modalities:
                    known = ", ".join(self.model.modalities)
                    raise wrong(("run", key, name), f"{name!r} is no modality of the model; they are {known}")
        for name, modality in self.model.modalities.items():
            count, end = self.tokens_of(name), modality.input
            if isinstance(end, TokenInput) and count > end.max_length:
                raise wrong(
                    ("run", "tokens", name), f"{count} tokens exceed the input's max_length of {end.max_length}"
                )
            if isinstance(end, PatchInput):
                height, width = patch_grid(count)
                if end.positions != "none" and width > end.max_size:
                    raise wrong(
                        ("run", "tokens", name),
                        f"{count} patches are {height} x {width}, but positions reach max_size {end.max_size}",
                    )
        return self

    def tokens_of(self, name: str) -> int:
        """Tokens of one sample in the modality."""
        end = self.model.modalities[name].input
        default = min(DEFAULT_TOKENS, end.max_length) if isinstance(end, TokenInput) else DEFAULT_TOKENS
        return self.run.tokens.get(name, default)


def patch_grid(tokens: int) -> tuple[int, int]:
    """Rows and columns of the most square image of so many patches, rows <= columns."""
    rows = next(rows for rows in range(int(tokens**0.5), 0, -1) if tokens % rows == 0)
    return rows, tokens // rows


def load_tool_config(path: str | Path, overrides: Sequence[str] = ()) -> ToolConfig:
    """Read a config file (`-`: standard input) with `KEY=VALUE` overrides applied.

    Raises:
        mmdit.config.model.ConfigError: it can't be read or is wrong; the message names the place.
    """
    return load_config(path, ToolConfig, overrides=overrides)
