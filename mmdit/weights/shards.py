"""Weights in one file, or in a folder, in files of a limited size, in the layout of the Hugging Face hub:
`model-00001-of-00003.safetensors` and so on, and `model.safetensors.index.json`, which says what is where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from mmdit.config.regular_file import read_regular
from mmdit.weights.atomic import replacing, replacing_folder
from mmdit.weights.checkpoints import file_digest
from mmdit.weights.header import CheckpointError, read_json
from mmdit.weights.model_card import CARD, ModelCard, is_unchanged
from mmdit.weights.syncing import Syncing
from mmdit.weights.writer import HASH_KEY, TensorSpec, Written, content_hash, layout_of, write_tensors

__all__ = ["CONFIG", "WRITER", "not_an_export", "parse_size", "split", "writing"]

CONFIG = "config.json"
WRITER = "_mmdit_version"  # a key of what we write for another program
_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}{unit}": 1000**power for power, prefix in enumerate("KMGT", 1) for unit in ("", "B")}
_UNITS |= {f"{prefix}I{unit}": 1024**power for power, prefix in enumerate("KMGT", 1) for unit in ("", "B")}
_LONGEST_CARD = 1 << 20  # bytes
_WRITTEN = re.compile(
    r"config\.json|README\.md|(diffusion_pytorch_)?model(-\d{5,}-of-\d{5,}\.safetensors|\.safetensors(\.index\.json)?)",
    re.ASCII,
)


def parse_size(size: str | int) -> int:
    """Bytes: a whole number, or a text such as `5GB` or `5G` (powers of 1000), `4.5GiB` (of 1024), `800000`.

    Raises:
        ValueError: it is no size, or less than a byte.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([a-z]*)", str(size).strip(), re.ASCII | re.IGNORECASE)
    unit = _UNITS.get(match[2].upper()) if match else None
    result = round(float(match[1]) * unit) if match and unit else 0
    if isinstance(size, bool) or result < 1:
        raise ValueError(f"a size is a number of bytes or a text such as 5GB or 500MiB, got {str(size)[:40]!r}")
    return result


def split(specs: Mapping[str, TensorSpec], max_size: int) -> list[list[str]]:
    """The names of each file's tensors: in order, each file filled until the next tensor would not fit.

    A tensor that is larger than `max_size` bytes has a file of its own.
    """
    files: list[list[str]] = []
    free = 0
    for name, spec in specs.items():
        if not files or spec.nbytes > free:
            files.append([])
            free = max_size
        files[-1].append(name)
        free -= spec.nbytes
    return files or [[]]


@contextmanager
def writing(
    target: str | Path,
    specs: Mapping[str, TensorSpec],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    *,
    order: Sequence[str] | None = None,
    max_shard_size: int | None,
    stem: str = "model",
    beside: Mapping[str, bytes] | None = None,
    card: ModelCard | None = None,
    hashed: bool = True,
    force: bool = True,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Path, Written]]:
    """Write tensors to a file or, with `max_shard_size`, to a folder, which takes `target`'s place when the block ends.

    Gives where it lies until then, so that it can be read back, and what was written, under the names it will have.
    Whatever stops the block, the target stays as it was. The rest is as in `write_tensors`.

    Args:
        order: in which the tensors are made; None: that of the files.
        max_shard_size: bytes of tensors in each of a folder's files; where all fit into one, there is no index.
        stem: what a folder's files begin with; the hub's pipelines look for `diffusion_pytorch_model`.
        beside: further files for a folder, by name.
        card: for a folder.
        hashed: each file's metadata holds the hash of its own content, the index that of the whole.
        force: replace an existing file, or a folder that holds an export and nothing else.

    Raises:
        OSError: the target can't be written or is not to be replaced.
    """
    if max_shard_size is None:
        place, shards = replacing(target, force=force), [list(specs)]
    else:
        place, shards = replacing_folder(target, force=force, other=not_an_export), split(specs, max_shard_size)
    places: dict[str, str] = {}

    def told(done: int, _: int) -> None:
        on_tensor(len(places) + done, len(specs))

    with place as temporary, Syncing() as syncing:
        digests: dict[str, str] = {}
        names, size = [], 0
        for number, held in enumerate(shards, 1):
            chosen = {name: specs[name] for name in held}
            suffix = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
            names.append("" if max_shard_size is None else f"{stem}{suffix}.safetensors")
            written = write_tensors(
                temporary / names[-1],
                chosen,
                read,
                metadata,
                order=None if order is None else [name for name in order if name in chosen],
                hashed=hashed,
                syncing=syncing,
                on_tensor=told,
            )
            places.update(dict.fromkeys(held, names[-1]))
            digests |= written.digests
            size += written.bytes
        sha256 = content_hash(layout_of(specs), digests)
        others = {} if max_shard_size is None else dict(beside or {})
        if len(shards) > 1:
            about: dict[str, object] = {"total_size": sum(spec.nbytes for spec in specs.values())}
            if hashed:
                about[HASH_KEY] = sha256
            index = json.dumps({"metadata": about, "weight_map": places}, indent=2, sort_keys=True).encode() + b"\n"
            others = {f"{stem}.safetensors.index.json": index} | others
        if card is not None and max_shard_size is not None:
            others[CARD] = card.text({name: file_digest(temporary / name) for name in names})
        for name, content in others.items():
            size += (temporary / name).write_bytes(content)
        yield temporary, Written(tuple(Path(target) / name for name in (*names, *others)), size, digests, sha256)


def not_an_export(folder: Path) -> str | None:
    """The name of something in a folder that `mmdit.save` did not write there; None where all of it is an export.

    What `mmdit.weights.atomic.replacing_folder` is not to replace.
    """
    for path in sorted(folder.iterdir()):
        if not _WRITTEN.fullmatch(path.name) or not path.is_file() or not _IS_OURS.get(path.name, bool)(path):
            return path.name
    return None


def _is_our_config(path: Path) -> bool:
    """Other programs' weights have a config.json, too; that which we write for them says so."""
    try:
        content = read_json(path)
        return isinstance(content.get("model"), dict) or WRITER in content
    except CheckpointError:
        return False


def _is_our_card(path: Path) -> bool:
    """And neither another's nor one that somebody has written on."""
    try:
        return is_unchanged(read_regular(path, _LONGEST_CARD))
    except OSError:
        return False


_IS_OURS: dict[str, Callable[[Path], bool]] = {CONFIG: _is_our_config, CARD: _is_our_card}
