"""Repositories of the Hugging Face Hub: the files of one that are a network's weights, from its cache or downloaded.

`huggingface_hub` (the extra `hub`) does it, with its own cache, its token and its environment: `HF_ENDPOINT`,
`HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_TOKEN`.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mmdit.config.model_folder import PIPELINE, TRANSFORMER
from mmdit.weights.atomic import replacing
from mmdit.weights.header import CheckpointError, named
from mmdit.weights.hub.failures import explained, is_unreached
from mmdit.weights.hub.heads import NotThisWayError, write_heads
from mmdit.weights.hub.tokens import checked_token
from mmdit.weights.places import STEMS, chosen_file, is_index
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
    in a folder that is there, or that ends as a file's name does. A `Path` is none: `./org/repo` has become `org/repo`
    in it."""
    match = _NAME.fullmatch(name) if isinstance(name, str) and len(name) <= LONGEST else None
    if match is None or os.path.lexists(name) or os.path.isdir(match[1].partition("/")[0]):
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
    heads: Path | None = None,
) -> Fetched:
    """A repository's weights in the Hub's cache. What is not there is downloaded; where the Hub can't be reached, what
    is there is taken. Of a folder that is the file that `weights_file` would take, with the config beside it.

    Args:
        token: None or True: the one that `hf auth login` keeps, or `HF_TOKEN`; False: none.
        cache_dir: None: `HF_HUB_CACHE`.
        force_download: download once more what is there.
        local_files_only: ask nobody, and take what is there.
        heads: an empty folder, for who asks what the weights are: if the cache has them not, files come to lie in it
            that have headers, and a hole in the place of the tensors. A server that sends no ranges sends all.

    Raises:
        CheckpointError: the package is missing, there is no such repository, revision or file, it is gated, or a
            download broke off; what came of it stays in the cache, and goes on from there the next time.
        ValueError: the token can't be one.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        raise CheckpointError(
            f"{repository.name}: is no file or folder here; to look for it on the Hub: pip install 'mmdit-cli[hub]'"
        ) from None
    token = checked_token(token)

    where: dict[str, Any] = {"token": token, "cache_dir": cache_dir}

    def snapshot(revision: str | None, patterns: Sequence[str], **options: Any) -> Path:
        patterns = [glob.escape(each) for each in patterns]
        found = hub.snapshot_download(repository.name, revision=revision, allow_patterns=patterns, **where, **options)
        return Path(str(found))

    with explained(hub, repository.name, repository.revision):
        unreached: Exception | None = None
        if not local_files_only:
            try:
                about = hub.HfApi(token=token).model_info(repository.name, revision=repository.revision)
            except Exception as error:
                if not is_unreached(error):
                    raise
                unreached = error
        if local_files_only or unreached is not None:
            try:
                folder = snapshot(repository.revision, [], local_files_only=True)
            except hub.errors.LocalEntryNotFoundError:
                if unreached is not None:
                    raise unreached from None
                raise CheckpointError(
                    f"{repository.name}: is no file or folder here, and not in the Hub's cache, which alone was to be "
                    "asked"
                ) from None
            _check_cached(folder, repository)
        else:
            # all of one commit, whatever is uploaded meanwhile
            commit, names = str(about.sha), [each.rfilename for each in about.siblings or ()]

            def download(wanted: Sequence[str]) -> Path:
                return snapshot(commit, wanted, force_download=force_download)

            def cached(wanted: Sequence[str]) -> Path:
                try:
                    return snapshot(commit, wanted, local_files_only=True)
                except hub.errors.LocalEntryNotFoundError:
                    raise NotThisWayError from None

            def ask_heads(wanted: Sequence[str]) -> Path:
                assert heads is not None
                write_heads(hub, repository.name, wanted, heads, commit=commit, token=token)
                return heads

            ways = [download] if heads is None else [cached, ask_heads, download]
            folder = _brought(ways, _wanted(names, repository))
            if folder != heads:
                _keep_commit(folder, repository.revision or hub.constants.DEFAULT_REVISION)
    inside = f"/{repository.inside}" if repository.inside else ""
    source = f"{repository.name}@{(folder.name if folder != heads else commit)[:12]}{inside}"
    return Fetched(folder / repository.inside, source, not local_files_only and unreached is None)


def _brought(ways: Sequence[Callable[[Sequence[str]], Path]], wanted: Sequence[str]) -> Path:
    """The folder into which the first of some ways brings the files, and the shards where the first is their index.

    Raises:
        ConnectionError: the last way does not bring one of them.
    """
    lost: list[str] = []
    for way in ways:
        try:
            folder, names = way(wanted), list(wanted)
            if is_index(Path(wanted[0])) and (folder / wanted[0]).is_file():
                names += _shards(folder, wanted[0])
                folder = way(names)
        except NotThisWayError:
            continue
        lost = [name for name in names if not (folder / name).is_file()]
        if not lost:
            return folder
    raise ConnectionError(f"{lost[0]} did not come")


def _shards(folder: Path, index: str) -> list[str]:
    """The files that an index names, beside it."""
    return [str(PurePosixPath(index).with_name(shard)) for shard in sorted(set(read_index(folder / index)[0].values()))]


def _keep_commit(folder: Path, revision: str) -> None:
    """Note in the cache which commit a branch or a tag is, for who reads it offline; `snapshot_download` does where it
    is asked for the branch."""
    ref = folder.parent.parent / "refs" / revision
    if revision != folder.name and not (ref.is_file() and ref.read_text(encoding="utf-8") == folder.name):
        ref.parent.mkdir(parents=True, exist_ok=True)
        with replacing(ref) as temporary:
            temporary.write_text(folder.name, encoding="utf-8")


def _check_cached(folder: Path, repository: Repository) -> None:
    """Refuse what the cache holds in part, or holds of the repository beside the weights that it would give.

    Raises:
        CheckpointError: it says what is there.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    online = "reading it online downloads the rest"
    inside = PurePosixPath(repository.inside)
    held = [name for name in names if PurePosixPath(name).is_relative_to(inside)]
    weighty = (".safetensors", ".gguf", ".index.json")
    if repository.inside not in names and not any(name.endswith(weighty) for name in held):
        of = f"{named(repository.inside)} is not in" if repository.inside else "no weights of it are in"
        raise CheckpointError(f"{repository.name}: {of} the Hub's cache, at {folder}; {online}")
    try:
        weights = _wanted(names, repository)[0]
    except CheckpointError:  # they are in a folder further down
        weights = next(name for name in held if name.endswith(weighty))
        own = False
    else:
        own = weights == repository.inside or PurePosixPath(weights).name.partition(".")[0] in STEMS
    if not own:
        raise CheckpointError(
            f"{repository.name}: of it the cache holds {_some(held)}, which need not be its weights; name the file, as "
            f"in {repository.name}/{named(weights)}, or read it online"
        )
    missing = [name for name in _shards(folder, weights) if name not in names] if is_index(Path(weights)) else []
    if missing:
        raise CheckpointError(
            f"{repository.name}: its download is incomplete: {named(missing[0])} is not in the Hub's cache; {online}"
        )


def _wanted(names: Sequence[str], repository: Repository) -> list[str]:
    """Of a repository's files the one with the weights, or their index, and then what says more of them."""
    inside = repository.inside
    if inside in names:
        folder, wanted = PurePosixPath(inside).parent, [inside]
    else:
        folder, wanted = PurePosixPath(inside), []
        if not any(PurePosixPath(name).is_relative_to(folder) for name in names):
            of = f"has no {named(inside)}; it has" if inside else "has"
            raise CheckpointError(f"{repository.name}: {of} {_some(names)}")
        if str(folder / PIPELINE) in names:
            wanted, folder = [str(folder / PIPELINE)], folder / TRANSFORMER
        held = sorted(path.name for path in map(PurePosixPath, names) if path.parent == folder)
        wanted = [str(folder / chosen_file(held, f"{repository.name}/{inside}".rstrip("/"))), *wanted]
    return [*wanted, *(str(folder / name) for name in BESIDE if str(folder / name) in names)]


def _some(names: Sequence[str]) -> str:
    weights = [name for name in sorted(names) if name.endswith((".safetensors", ".gguf"))] or sorted(names)
    return ", ".join(map(named, weights[:5])) + (", ..." if len(weights) > 5 else "") if weights else "no files"
