"""What a run drew for the same captions and noise as it went on: kept at each evaluation, and one picture of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mmdit.weights.atomic import write_atomic
from mmdit_cli.toy.data import Batch
from mmdit_cli.toy.evaluation import Samples

FOLDER, PREFIX = "progress", "step-"


def place_of(run_dir: Path, step: int, suffix: str) -> Path:
    """Where what was drawn after a step is kept."""
    return run_dir / FOLDER / f"{PREFIX}{step:08d}{suffix}"


def keep(run_dir: Path, step: int, samples: Samples) -> None:
    """Keep what was drawn after a step, beside its picture.

    Raises:
        OSError: it can't be written.
    """
    path = place_of(run_dir, step, ".safetensors")
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, save({name: x.contiguous() for name, x in samples.data.items()}))


def kept(run_dir: Path, batch: Batch, *, until: int) -> dict[int, Samples]:
    """By step, what was kept of the captions of a batch; what is damaged, or of other captions, is left out."""
    found = {}
    for path in sorted((run_dir / FOLDER).glob(f"{PREFIX}*.safetensors")):
        step = path.stem.removeprefix(PREFIX)
        if step.isdigit() and int(step) <= until and (data := _loaded(path, batch.data)):
            found[int(step)] = Samples(batch, data)
    return found


def _loaded(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, or none where they are not shaped as `like`."""
    try:
        data = load_file(path)
    except (OSError, SafetensorError):
        return {}
    same = data.keys() == like.keys() and all(data[name].shape == x.shape for name, x in like.items())
    return {name: x.clone() for name, x in data.items()} if same else {}  # the file's own memory is mapped
