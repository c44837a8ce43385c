"""Repositories of the Hugging Face Hub: the files of one that are a network's weights, from its cache or downloaded.

`huggingface_hub` (the extra `hub`) does it, with its own cache, its token and its environment: `HF_ENDPOINT`,
`HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_TOKEN`.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmdit.config.model_folder import PIPELINE, TRANSFORMER
from mmdit.weights.header import CheckpointError, named
from mmdit.weights.places import chosen_file, is_index
from mmdit.weights.reader import read_index

__all__ = ["Fetched", "Repository", "as_repository", "fetch"]

LONGEST = 400  # characters of a name
_NAME = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?", re.ASCII)
_OF_FILES = (".safetensors", ".gguf", ".json", ".yaml", ".yml", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".pt2")
BESIDE = ("config.json", "adapter_config.json")  # what says more of the weights in their folder


@dataclass(frozen=True)
class Repository:
    """`org/repo`, with `@revision` and with a file or folder inside, as a name says it."""

    name: str
    revision: str | None = None
    inside: str = ""


@dataclass(frozen=True)
class Fetched:
    """What of a repository lies in the cache now: the `path` that is meant, and what it is the copy of, `source`, such
    as `org/repo@1a2b3c4d5e6f/model.safetensors`; `online`: the Hub was asked whether that is the newest."""

    path: Path
    source: str
    online: bool


def as_repository(name: str | Path) -> Repository | None:
    """What a name means on the Hub; None where it is that of a file or folder: one that is there, or one that would be
    in a folder that is there, or that ends as a file's name does."""
    text = str(name)
    match = _NAME.fullmatch(text) if len(text) <= LONGEST else None
    if match is None or os.path.lexists(text) or os.path.isdir(text.partition("/")[0]):
        return None
    repo, revision, inside = match.groups("")
    if any(part in ("", ".", "..") for part in inside.split("/") if inside):
        return None
    if not inside and not revision and repo.endswith(_OF_FILES):
        return None
    return Repository(repo, revision or None, inside)


def fetch(
    repository: Repository,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Fetched:
    """A repository's weights in the Hub's cache. What is not there is downloaded; where the Hub can't be reached, what
    is there is taken. Of a folder that is the file that `weights_file` would take, with the config beside it.

    Args:
        token: None or True: the one that `hf auth login` keeps, or `HF_TOKEN`; False: none.
        cache_dir: None: `HF_HUB_CACHE`.
        force_download: download once more what is there.
        local_files_only: ask nobody, and take what is there.

    Raises:
        CheckpointError: the package is missing, there is no such repository, revision or file, it is gated, or a
            download broke off; what came of it stays in the cache, and goes on from there the next time.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise CheckpointError(
            f"{repository.name}: is no file or folder here; to look for it on the Hub: pip install 'mmdit-cli[hub]'"
        ) from None
    revision = repository.revision

    def download(patterns: Sequence[str], offline: bool = False) -> Path:
        snapshot = hub.snapshot_download(
            repository.name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download and not offline,
            local_files_only=offline,
            allow_patterns=[glob.escape(each) for each in patterns],
        )
        return Path(snapshot)

    with _explained(hub, repository):
        try:
            asked = not local_files_only
            names = hub.HfApi(token=token).list_repo_files(repository.name, revision=revision) if asked else None
        except Exception as unreached:
            if isinstance(unreached, (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError)):
                raise
            names, reason = None, unreached
        if names is None:
            try:
                folder = download([], offline=True)
            except hub.errors.LocalEntryNotFoundError:
                raise (hub.errors.LocalEntryNotFoundError("") if local_files_only else reason) from None
        else:
            wanted = _wanted(names, repository)
            folder = download(wanted)
            if is_index(Path(wanted[0])):
                shards = set(read_index(folder / wanted[0])[0].values())
                folder = download([*wanted, *(str(PurePosixPath(wanted[0]).with_name(shard)) for shard in shards)])
    path = folder / repository.inside
    if not path.exists():
        raise CheckpointError(f"{repository.name}: {named(repository.inside)} is not in the Hub's cache, at {folder}")
    inside = f"/{repository.inside}" if repository.inside else ""
    return Fetched(path, f"{repository.name}@{folder.name[:12]}{inside}", names is not None)


def _wanted(names: Sequence[str], repository: Repository) -> list[str]:
    """Of a repository's files the one with the weights, or their index, and then what says more of them."""
    inside = repository.inside
    if inside in names:
        folder, wanted = PurePosixPath(inside).parent, [inside]
    else:
        folder, wanted = PurePosixPath(inside), []
        if not any(PurePosixPath(name).is_relative_to(folder) for name in names):
            raise CheckpointError(f"{repository.name}: has no {named(inside)}; it has {_some(names)}")
        if str(folder / PIPELINE) in names:
            wanted, folder = [str(folder / PIPELINE)], folder / TRANSFORMER
        held = sorted(path.name for path in map(PurePosixPath, names) if path.parent == folder)
        wanted = [str(folder / chosen_file(held, f"{repository.name}/{inside}".rstrip("/"))), *wanted]
    return [*wanted, *(str(folder / name) for name in BESIDE if str(folder / name) in names)]


def _some(names: Sequence[str]) -> str:
    weights = [name for name in sorted(names) if name.endswith((".safetensors", ".gguf"))] or sorted(names)
    return ", ".join(map(named, weights[:5])) + (", ..." if len(weights) > 5 else "") if weights else "no files"


@contextmanager
def _explained(hub: Any, repository: Repository) -> Iterator[None]:
    """What the package raises as one error, and nothing that it logs."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # those of its HTTP client have other names in each version
        raise CheckpointError(f"{repository.name}: {_reason(hub, repository, error)}") from None
    finally:
        logger.setLevel(level)


def _reason(hub: Any, repository: Repository, error: Exception) -> str:
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return f"is gated; agree to its terms at {endpoint}/{repository.name}, then sign in by hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"is no file or folder here, and {endpoint} has no such repository, or a private one (hf auth login)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {named(str(repository.revision))}"
    if isinstance(error, errors.HFValidationError):
        return "is no file or folder here, and no name of a repository"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "is no file or folder here, and not in the Hub's cache, which alone was to be asked"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "is no file or folder here, and not in the Hub's cache; HF_HUB_OFFLINE is set, so nobody was asked"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        return f"can't be kept in the cache {hub.constants.HF_HUB_CACHE}: {error.strerror}"
    return f"{endpoint} gave no whole answer ({_told(error)}); what came is kept, try again"


def _told(error: Exception) -> str:
    said = next(iter(str(error).splitlines()), "")
    return named(f"{type(error).__name__}: {said}" if said else type(error).__name__)
