"""The tool's config: the library's model section, and what the tool runs and trains with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
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
        {},
        f"Tokens of a sample, by modality or further input; by default {DEFAULT_TOKENS}, or as many as it can place.",
    )
    frames: dict[Text, Annotated[Whole, Gt(0)]] = option(
        {}, "Patches of a video along time, among which its tokens are shared, by modality; 1 where it says nothing."
    )
    mask: dict[Text, Annotated[Number, Ge(0), Le(1)]] = option({}, "Share of valid tokens, by masked modality.")
    references: dict[Text, Count] = option(
        {},
        "Images given beside the one that is drawn, by modality, each of as many tokens; beside a video, as a frame.",
    )
    steps: Whole = option(28, "Euler steps of a sampling run (`--mode sample`).", gt=0)
    guidance: Number = option(1.0, "Its guidance scale; 1: none, unless the network is told its scale.", gt=0)


@dataclass(frozen=True, kw_only=True)
class ToolConfig(Config):
    """A whole config file."""

    run: RunConfig = option(RunConfig(), "What profile, flops and shape-check feed the model.")
    train: TrainConfig = option(TrainConfig(), "How train-toy trains it.")

    def check(self) -> Iterator[OptionError]:
        yield from super().check()
        modalities, inputs = tuple(self.model.modalities), tuple(self.model.inputs)
        known = {"tokens": inputs, "mask": inputs, "frames": modalities, "references": modalities}
        for key, names in known.items():
            for name in getattr(self.run, key):
                if name not in names:
                    message = f"{name!r} is no modality of the model; they are {', '.join(names)}"
                    yield OptionError(("run", key, name), message)
        yield from self._check_alignment()
        for name in self.run.references:
            if name in self.model.modalities and self.model.modalities[name].references is None:
                message = f"{name!r} takes no references; set model.modalities.{name}.references"
                yield OptionError(("run", "references", name), message)

    def _check_alignment(self) -> Iterator[OptionError]:
        alignment, routing = self.train.alignment, self.model.routing
        if alignment is None:
            return
        if alignment.late >= self.model.depth:
            message = f"the joint blocks are 0 to {self.model.depth - 1}, got {alignment.late}"
            yield OptionError(("train", "alignment", "late"), message)
        inside = {routing is not None and routing.start <= i < routing.end for i in (alignment.early, alignment.late)}
        if len(inside) > 1:
            message = "with model.routing one of both blocks has fewer tokens; take both before, within or behind it"
            yield OptionError(("train", "alignment"), message)

    def tokens_of(self, name: str) -> int:
        """Tokens of one sample in an input; by default no more than it can place."""
        end = self.model.inputs[name]
        most = reach(end) or DEFAULT_TOKENS
        return self.run.tokens.get(name, min(DEFAULT_TOKENS, most**2 if isinstance(end, PatchInput) else most))

    def padded_of(self, name: str) -> int:
        """Those of them that are padding."""
        return self.tokens_of(name) - round(self.tokens_of(name) * self.run.mask.get(name, 1.0))

    def owners(self) -> dict[str, str]:
        """By the name of every input, the modality that it is of."""
        further = {name: (*(m.inputs or ()), *(m.conditions or ())) for name, m in self.model.modalities.items()}
        return {each: name for name, more in further.items() for each in (name, *more)}

    def all_tokens(self) -> dict[str, int]:
        """Tokens of one sample by modality, those of its further inputs and of its references included."""
        return {
            name: self.tokens_of(name)
            + prod(self.patch_grid(name)[-2:]) * self.run.references.get(name, 0)
            + sum(map(self.tokens_of, m.inputs or ()))
            for name, m in self.model.modalities.items()
        }

    def valid_tokens(self) -> dict[str, int]:
        """The same without padding."""
        return {
            name: count - sum(map(self.padded_of, (name, *(self.model.modalities[name].inputs or ()))))
            for name, count in self.all_tokens().items()
        }

    def patch_grid(self, name: str) -> tuple[int, ...]:
        """Rows and columns of the most square image of so many patches, rows <= columns; of a video frames first."""
        frames = (self.run.frames.get(name, 1),) if is_video(self.model.inputs[name]) else ()
        tokens = self.tokens_of(name) // prod(frames)
        rows = next(rows for rows in range(int(tokens**0.5), 0, -1) if tokens % rows == 0)
        return (*frames, rows, tokens // rows)


@dataclass(frozen=True, kw_only=True)
class FedConfig(ToolConfig):
    """A config whose model is fed what `run` says, so that its inputs must be able to place it."""

    def check(self) -> Iterator[OptionError]:
        yield from super().check()
        inputs = self.model.inputs
        for name, frames in self.run.frames.items():
            if name not in inputs:
                continue
            tokens, at = self.tokens_of(name), ("run", "frames", name)
            if not is_video(inputs[name]):
                yield OptionError(at, f"{name!r} is no video, whose patches are of three sizes (t, h, w); leave it out")
            elif tokens % frames:
                near = {tokens // frames * frames, (tokens // frames + 1) * frames} - {0}
                fit = " or ".join(map(str, sorted(near)))
                message = f"{frames} frames can't share {tokens} tokens equally; run.tokens.{name} could be {fit}"
                yield OptionError(at, message)
        for name, count in self.run.tokens.items():
            end = inputs.get(name)
            most, at = reach(end), ("run", "tokens", name)
            if most is None:
                continue
            if not isinstance(end, PatchInput) and count > most:
                yield OptionError(at, f"{count} tokens exceed the input's max_length of {most}")
            if isinstance(end, PatchInput) and (sides := self.patch_grid(name))[1] > most:
                message = f"{count} patches are {sides[0]} x {sides[1]}, but positions reach max_size {most}"
                yield OptionError(at, message)


def reach(end: Any) -> int | None:
    """Tokens of a sequence, or rows and columns of patches, that an input places at most; None: any number."""
    if isinstance(end, TokenInput):
        return end.max_length
    return end.max_size if isinstance(end, PatchInput) and end.positions not in (None, "none") else None


def is_video(end: Any) -> bool:
    """Whether what comes in has frames."""
    return isinstance(end, PatchInput) and len(end.sizes) == 3


def tokens_by_default(configs: Iterable[ToolConfig]) -> str:
    """What of `run.tokens` no config says, in words; empty where all is said."""
    taken = {
        f"{name} {config.tokens_of(name)}": None
        for config in configs
        for name in config.model.inputs
        if name not in config.run.tokens
    }
    return f"run.tokens by default: {', '.join(taken)}" if taken else ""


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
