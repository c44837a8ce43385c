"""A trained run that draws: its config, its averaged weights, and the data set whose captions it knows.

run = TrainedRun("runs/mine")
samples = run.draw(["a small red square in the top left"], guidance=3.0)
run.save(samples, "square.png")
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import mmdit
from mmdit.config import ConfigError
from mmdit.options import TokenInput
from mmdit.weights.checkpoints import EMA, newest_checkpoint
from mmdit_cli.errors import UserError
from mmdit_cli.request.targets import PICTURES, check_target
from mmdit_cli.request.tool_config import as_tool_config
from mmdit_cli.request.train_config import SamplerConfig
from mmdit_cli.toy.data_fit import world_of
from mmdit_cli.toy.evaluation import Samples, draw
from mmdit_cli.toy.run_folder import described, holds_run
from mmdit_cli.toy.shown_samples import write_sounds


class TrainedRun:
    """The newest whole checkpoint of a run of `mmdit train-toy`.

    Args:
        on_problem: told of damaged checkpoints, which are passed over.

    Raises:
        UserError: the folder holds no run, or one without a whole checkpoint, or without the package of its data.
        CheckpointError: the weights can't be read.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        on_problem: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.device = Path(folder), torch.device(device)
        if not holds_run(self.folder):
            raise UserError(f"{folder}: {_no_run(self.folder)}")
        checkpoint, problems = newest_checkpoint(self.folder)
        if checkpoint is None:
            why = f"holds no whole checkpoint: {'; '.join(problems)}" if problems else "has no checkpoint yet"
            raise UserError(f"{folder}: {why}; train on by mmdit train-toy --resume --run-dir {folder}")
        for problem in problems:
            on_problem(problem)
        try:
            identity = checkpoint.state.get("identity") or described(self.folder)[0] or {}
            self.config = as_tool_config(identity["config"])
        except (ConfigError, KeyError, TypeError) as error:
            raise UserError(f"{checkpoint.path}: does not say of which config it is ({error})") from None
        self.data, self.step = world_of(self.config), checkpoint.step
        self.model = mmdit.load(checkpoint.whole(EMA), device=self.device)

    def draw(
        self,
        captions: Sequence[str],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int = 0,
    ) -> Samples:
        """A sample of every modality for each caption, each from noise of its own.

        Args:
            steps, guidance: of the sampler; None: those that the run was scored with.

        Raises:
            UserError: there is no caption, or one has no words, too many, or some that the run does not know; the steps
                are not 1 or more, or the guidance is not 0 or more.
        """
        if isinstance(captions, str) or not captions:
            raise UserError(f"captions: expected a list of one or more, got {captions!r}")
        batch = self.data.asked([self._in_known_words(caption) for caption in captions])
        settings = replace(self.config.train, sampler=self.sampler(steps, guidance))
        return draw(self.model, batch, settings, seed=seed, device=self.device)

    def sampler(self, steps: int | None = None, guidance: float | None = None) -> SamplerConfig:
        """How samples are drawn; see `draw`."""
        own = self.config.train.sampler
        steps, guidance = own.steps if steps is None else steps, own.guidance if guidance is None else guidance
        if steps < 1 or steps % 1 or not 0 <= guidance < math.inf:
            raise UserError(f"expected 1 whole step or more and a guidance of 0 or more, got {steps} and {guidance}")
        return replace(own, steps=steps, guidance=guidance)

    def save(self, samples: Samples, path: str | Path) -> dict[str, str]:
        """Write the picture of all samples (.png, .svg, .pdf), and beside it their sounds (.wav), one after the other;
        returns the files.

        Raises:
            UserError: the name is no picture's, or can't be written.
        """
        from mmdit_cli.output.figures import save_figure
        from mmdit_cli.toy.plots import sample_plot

        check_target(Path(path), "path", suffixes=PICTURES, force=True)
        files = {"picture": Path(path)}
        save_figure(sample_plot(samples, title=f"{self.config.name}, step {self.step}", reads=True), files["picture"])
        files |= write_sounds(samples, files["picture"])
        return {name: str(file) for name, file in files.items()}

    def _in_known_words(self, caption: str) -> str:
        """The caption as the data writes it: small letters, and signs apart.

        Raises:
            UserError: see `draw`.
        """
        known, text = self.data.vocabulary, self.config.model.modalities["text"].input
        assert isinstance(text, TokenInput)  # world_of has refused others
        words = re.sub(r"([,:])", r" \1 ", caption.lower()).rstrip(". ").split()
        unknown = [word for word in words if word not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            meant = f"; did you mean {near[0]}?" if near else "."
            raise UserError(
                f"caption {caption!r}: {self.config.name} does not know {', '.join(unknown)}{meant} "
                f"Its words: {' '.join(sorted(known))}"
            )
        if not 0 < len(words) <= text.max_length:
            raise UserError(f"caption {caption!r}: expected 1 to {text.max_length} words, got {len(words)}")
        return " ".join(words)


def _no_run(folder: Path) -> str:
    """What is wrong with a folder that holds no run."""
    if not folder.is_dir():
        return "is no folder" if folder.exists() else "there is no such folder"
    inside = sorted(each.name for each in folder.iterdir() if holds_run(each))
    runs = f"its runs are {', '.join(inside)}" if inside else "train one by mmdit train-toy --run-dir DIR"
    return f"is no run of mmdit train-toy; {runs}"
