"""Which file of a folder holds its weights: one file, or the index of shards."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mmdit.config.model_folder import model_folder
from mmdit.weights.header import CheckpointError

__all__ = ["INDEX", "SINGLE", "chosen_file", "is_index", "left_over", "weights_file"]

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
STEMS = ("model", "diffusion_pytorch_model")  # the hub's names, in the order in which they are taken
_SHARD = r"-\d{5,}-of-(?!0+1\b)\d{5,}"  # of several
# x.safetensors, x.fp16.safetensors, x-00001-of-00002.fp16.safetensors; x.safetensors.index.json, .index.fp16.json
_HELD = re.compile(
    rf"(?P<stem>.+?)(?P<shard>{_SHARD})?(\.(?P<variant>\w+))?(?P<of_variant>{_SHARD})?\.safetensors"
    r"(?P<index>\.index(\.(?P<indexed>\w+))?\.json)?",
    re.ASCII,
)
_PICKLED = (".bin", ".bin.index.json", ".pt", ".pth", ".ckpt")


def is_index(path: Path) -> bool:
    """Whether a file is an index of shards, by its name."""
    return re.search(r"\.index(\.\w+)?\.json$", path.name, re.ASCII) is not None


def weights_file(path: Path) -> Path:
    """The file or the index that a path means. Of a folder (a pipeline's, one in the Hub's cache) an index comes before
    a file, and what has no variant, such as `.fp16`, before what has one.

    Raises:
        CheckpointError: a folder holds none, or several of which none has the hub's name.
    """
    if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
        return path
    folder = model_folder(path)
    try:
        names = sorted(item.name for item in folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be read: {error.strerror or error}") from None
    return folder / chosen_file(names, folder)


def chosen_file(names: Sequence[str], folder: object) -> str:
    """Which of a folder's files holds its weights.

    Args:
        names: of the files, sorted.
        folder: what a message calls it.

    Raises:
        CheckpointError: as `weights_file`.
    """
    held = {name: found for name in names if (found := _HELD.fullmatch(name))}
    whole = [name for name, found in held.items() if not (found["shard"] or found["of_variant"])]
    ranks = {
        name: (STEMS.index(stem), bool(held[name]["variant"] or held[name]["indexed"]), not held[name]["index"])
        for name in whole
        if (stem := held[name]["stem"]) in STEMS
    }
    first = [name for name in whole if ranks.get(name) == min(ranks.values(), default=None)]
    if len(first or whole) == 1:
        return (first or whole)[0]
    raise CheckpointError(f"{folder}: {_problem(names, list(held), first or whole)}; expected a safetensors file")


def left_over(index: Path, used: Sequence[Path]) -> list[str]:
    """Safetensors files beside an index that are none of its shards, such as those of an older export."""
    names = {path.name for path in used}
    return sorted(item.name for item in index.parent.glob("*.safetensors") if item.name not in names)


def _problem(names: Sequence[str], held: Sequence[str], several: Sequence[str]) -> str:
    if "state.json" in names and any("-of-" in name for name in held):
        return "holds pieces of a training run's weights; give the run's folder"
    if several:
        return f"holds {len(several)} of them; name one, such as {several[0]}"
    if held:
        return f"holds shards, such as {held[0]}, without their index, which says what is where; download that as well"
    if pickled := [name for name in names if name.endswith(_PICKLED)]:
        return f"holds pickles, such as {pickled[0]}, which are not read"
    return f"is a folder without {SINGLE} or {INDEX}"
