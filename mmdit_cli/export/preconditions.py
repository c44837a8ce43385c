"""What is checked before an export builds anything: where it goes, where the weights are, whether there is room."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmdit.config.construct import build_on_meta
from mmdit.config.model_folder import model_folder
from mmdit.layouts.fp8_weights import Fp8
from mmdit.options import ModelOptions
from mmdit.weights.checkpoints import EMA, WEIGHTS, newest_checkpoint
from mmdit.weights.places import SINGLE, is_index
from mmdit.weights.reader import WeightFiles
from mmdit.weights.shards import not_an_export
from mmdit_cli.errors import UserError
from mmdit_cli.output.units import bytes_
from mmdit_cli.request.free_memory import free_memory
from mmdit_cli.request.numbers import read_size
from mmdit_cli.request.size_limits import possible
from mmdit_cli.request.targets import check_target
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.request.weights_layout import layout_of

CPU = torch.device("cpu")
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is to be written, from what and how; what `mmdit export` is asked beside the config.

    Args:
        out: the file to write, or the folder.
        weights: a safetensors file, a folder of shards, or a train-toy run, of which the newest whole checkpoint's
            averaged weights are taken; None: fresh ones by seed.
        origin: what the weights are the copy of, as a card is to say it; None: the file is the user's own.
        raw: take a run's weights as they were trained, not their average.
        dtype: of the weights in the file; None: float32, or where they are converted that of the source.
        fp8: the blocks' matrices in e4m3fn, `fp8` or with scales `fp8-scaled`.
        lora: files of LoRAs to merge, each with what its changes are multiplied with.
        device: where the model and its copy are compared.
        force: replace an existing file or folder.
        max_shard_size: such as `5GB`; then `out` is a folder of files that hold at most so many bytes of tensors.
        on_progress: told the stage, what is done and the total (None where it is not known).
        on_message: told what a user should know, such as a damaged checkpoint that was passed over.
    """

    out: Path
    weights: Path | None = None
    origin: str | None = None
    raw: bool = False
    seed: int = 0
    dtype: torch.dtype | None = None
    fp8: Fp8 | None = None
    lora: tuple[tuple[Path, float], ...] = ()
    device: torch.device = CPU
    force: bool = False
    max_shard_size: str | None = None
    on_progress: Progress = lambda stage, done, total: None
    on_message: Callable[[str], None] = lambda message: None

    @property
    def weights_dtype(self) -> torch.dtype:
        """Of a model that is built."""
        return self.dtype or torch.float32

    @property
    def drawn(self) -> dict[str, Any]:
        """How `example_inputs` draws what is compared."""
        return {"device": self.device, "dtype": self.weights_dtype, "seed": self.seed}

    def prepared(self) -> tuple[Path | None, int | None]:
        """The file to read (`weights_file`), and the most bytes of a shard.

        Raises:
            UserError: the weights' file, or the folder of shards, could not be written.
        """
        shards = None if self.max_shard_size is None else read_size(self.max_shard_size, "--max-shard-size")
        folder = shards is not None
        check_target(self.out, "--out", force=self.force, example=SINGLE, folder=folder, other=not_an_export)
        return self.weights_file(), shards

    def weights_file(self) -> Path | None:
        """The file or the folder of shards itself, or the weights of a run's newest checkpoint.

        Raises:
            UserError: a folder holds neither; `raw` is said of something else than a run.
        """
        weights = self.weights
        if weights is not None and _is_run(weights):
            checkpoint, problems = newest_checkpoint(weights)
            if checkpoint is None:
                raise UserError(f"--weights {weights}: holds no whole checkpoint" + "".join(f"; {p}" for p in problems))
            for problem in problems:
                self.on_message(problem)
            return checkpoint.whole(WEIGHTS if self.raw else EMA)
        if self.raw:
            raise UserError(
                "--raw takes a train-toy run's weights before averaging; --weights must name the run's folder"
            )
        return weights

    def layout(self, config: ModelOptions) -> str:
        """Whose names the weights have; ours where they are fresh or a run's."""
        if self.weights is None or _is_run(self.weights):
            return "mmdit"
        return layout_of(None, self.weights, config)

    def about(self, config: ToolConfig, file: Path | None) -> dict[str, str]:
        """What the file says of where it came from."""
        source = f"seed {self.seed}" if file is None else self.origin or str(file)
        return {"config_name": config.name, "source": source}

    def told_source(self, file: Path | None) -> str:
        """What a card says of where the weights came from: of a file of the user's own its name, for the folders above
        it are nobody else's matter."""
        return self.origin or file.name if file is not None else f"seed {self.seed}"

    def names(self, parts: Sequence[Path]) -> list[str]:
        """The paths of what was written: the file's, or those of the shards."""
        return [str(self.out if self.max_shard_size is None else self.out / part.name) for part in parts]


def _is_run(path: Path) -> bool:
    """Whether this is a folder of which no weights are those to take, as those of a run are in its checkpoints'."""
    return path.is_dir() and not any(
        held.name.endswith(".safetensors") or is_index(held) for held in model_folder(path).iterdir()
    )


def check_disk(needed: int, out: Path) -> None:
    """Raises UserError where the disk has less room."""
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise UserError(f"--out {out}: needs {bytes_(needed)} on the disk and {bytes_(free)} are free")


def check_room(config: ToolConfig, out: Path, *, dtype: torch.dtype, device: torch.device, file: Path | None) -> None:
    """Refuse a model that would not fit into the memory or onto the disk, before anything is allocated.

    Args:
        file: where its weights come from; None: they are drawn.

    Raises:
        UserError: it says what is needed and what there is.
    """
    with possible(config):
        parameters = sum(p.numel() for p in build_on_meta(config.model).parameters())
    written = parameters * dtype.itemsize
    for what, needed, free in (
        ("memory", _held(parameters, dtype, device, file), free_memory(device)),
        ("space on the disk", written, shutil.disk_usage(out.parent).free),
    ):
        if free is not None and needed > free:
            raise UserError(
                f"{config.name}: the model needs {bytes_(needed)} of {what} and {bytes_(free)} are free; "
                "fewer blocks would need less, as in --set model.depth=2"
            )


def _held(parameters: int, dtype: torch.dtype, device: torch.device, file: Path | None) -> int:
    """Bytes of memory that can't be given back while the model is there; its copy comes when it is gone."""
    if device.type == "cpu" and file is not None:
        with WeightFiles(file) as files:
            if not files.quantized and all(files.spec(name).dtype == dtype for name in files.tensors):
                return 0  # mapped: the system holds what it has room for
    return parameters * dtype.itemsize
