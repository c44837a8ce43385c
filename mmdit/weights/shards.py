"""Weights in one file, or in a folder, in files of a limited size, in the layout of the Hugging Face hub:
`model-00001-of-00003.safetensors` and so on, and `model.safetensors.index.json`, which says what is where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mmdit.weights.atomic import replacing, replacing_folder
from mmdit.weights.header import CheckpointError, read_json
from mmdit.weights.writer import HASH_KEY, TensorSpec, Written, content_hash, layout_of, write_tensors

__all__ = ["CONFIG", "not_an_export", "parse_size", "split", "write_shards", "writing"]

CONFIG = "config.json"
_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
_UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)}
_WRITTEN = re.compile(r"config\.json|model(-\d{5,}-of-\d{5,}\.safetensors|\.safetensors(\.index\.json)?)", re.ASCII)


def parse_size(size: str | int) -> int:
    """Bytes: a whole number, or a text such as `5GB` (powers of 1000), `4.5GiB` (of 1024), `800000`.

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
    max_shard_size: int | None,
    beside: Mapping[str, bytes] | None = None,
    hashed: bool = True,
    force: bool = True,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[Path, Written]]:
    """A file or, with `max_shard_size` (bytes), a folder of shards, which takes `target`'s place when the block ends.

    Gives where it lies until then, so that it can be read back, and what was written, under the names it will have.
    Whatever stops the block, the target stays as it was. The rest is as in `write_tensors`.

    Args:
        beside: further files for the folder, by name.
        force: replace an existing file, or a folder that holds an export and nothing else.

    Raises:
        OSError: the target can't be written or is not to be replaced.
    """
    target = Path(target)
    if max_shard_size is None:
        with replacing(target, force=force) as temporary:
            written = write_tensors(temporary, specs, read, metadata, hashed=hashed, on_tensor=on_tensor)
            yield temporary, replace(written, files=(target,))
        return
    with replacing_folder(target, force=force, other=not_an_export) as temporary:
        written = write_shards(
            temporary, specs, read, metadata, max_size=max_shard_size, hashed=hashed, on_tensor=on_tensor
        )
        size = written.bytes
        for name, content in (beside or {}).items():
            size += (temporary / name).write_bytes(content)
        names = (*(file.name for file in written.files), *(beside or {}))
        yield temporary, replace(written, files=tuple(target / name for name in names), bytes=size)


def write_shards(
    folder: str | Path,
    specs: Mapping[str, TensorSpec],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    max_size: int,
    stem: str = "model",
    hashed: bool = False,
    on_tensor: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write tensors to files of at most `max_size` bytes of tensors each, and the index; to one file without an index
    where they fit. See `write_tensors`, which has the same arguments.

    Args:
        folder: is there, and best empty: see `mmdit.weights.atomic.replacing_folder`.
        stem: what the files' names begin with; the hub's pipelines look for `diffusion_pytorch_model`.
        hashed: each file's metadata holds the hash of its own content, the index that of the whole.
    """
    folder, shards = Path(folder), split(specs, max_size)
    digests: dict[str, str] = {}
    places: dict[str, str] = {}
    files, size, sha256 = [], 0, None
    for number, names in enumerate(shards, 1):
        suffix = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        path = folder / f"{stem}{suffix}.safetensors"
        before = len(places)
        written = write_tensors(
            path,
            {name: specs[name] for name in names},
            read,
            metadata,
            hashed=hashed,
            on_tensor=lambda done, _, before=before: on_tensor(before + done, len(specs)),  # type: ignore[misc]
        )
        files.append(path)
        size += written.bytes
        digests |= written.digests
        sha256 = written.sha256
        places |= dict.fromkeys(names, path.name)
    if len(shards) > 1:
        about: dict[str, object] = {"total_size": sum(spec.nbytes for spec in specs.values())}
        if hashed:
            about[HASH_KEY] = sha256 = content_hash(layout_of(specs), digests)
        index = json.dumps({"metadata": about, "weight_map": places}, indent=2, sort_keys=True).encode() + b"\n"
        files.append(folder / f"{stem}.safetensors.index.json")
        files[-1].write_bytes(index)
        size += len(index)
    return Written(tuple(files), size, digests, sha256)


def not_an_export(folder: Path) -> str | None:
    """The name of something in a folder that `mmdit.save` did not write there; None where all of it is an export.

    What `mmdit.weights.atomic.replacing_folder` is not to replace.
    """
    for path in sorted(folder.iterdir()):
        if not _WRITTEN.fullmatch(path.name) or not path.is_file() or (path.name == CONFIG and not _is_ours(path)):
            return path.name
    return None


def _is_ours(config: Path) -> bool:
    """Other programs' weights have a config.json, too."""
    try:
        return isinstance(read_json(config).get("model"), dict)
    except CheckpointError:
        return False
