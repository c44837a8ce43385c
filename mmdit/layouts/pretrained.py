"""The work behind `MMDiTModel.from_pretrained`, `save_pretrained` and `push_to_hub`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mmdit.layouts.loading import load
from mmdit.networks.hub_methods import HubMethods
from mmdit.weights.hub.repositories import as_repository, fetch
from mmdit.weights.hub.tokens import checked_token
from mmdit.weights.places import INDEX, SINGLE
from mmdit.weights.saved_model import save

Network = TypeVar("Network", bound=HubMethods)

NUMBER = "[0-9]" * 5
OWN_WEIGHTS = (SINGLE, INDEX, f"model-{NUMBER}-of-{NUMBER}.safetensors")  # as globs: what `save_pretrained` writes


def read(
    name: str | Path,
    kind: type[Network],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    **options: Any,
) -> Network:
    """See `MMDiTModel.from_pretrained`."""
    repository = as_repository(name)
    if repository is not None:
        if revision is not None:
            repository = replace(repository, revision=revision)
        at_hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "force_download": force_download}
        name = fetch(repository, local_files_only=local_files_only, **at_hub).path
    model = load(name, **options)
    if not isinstance(model, kind):
        raise ValueError(f"{name}: holds a bare {type(model).__name__}, no {kind.__name__}; mmdit.load reads it")
    return model


def write(network: nn.Module, folder: str | Path, *, dtype: torch.dtype | None, max_shard_size: str | int) -> None:
    """See `MMDiTModel.save_pretrained`."""
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    save(network, folder, dtype=dtype, max_shard_size=max_shard_size)


def push(
    network: nn.Module, repo_id: str, *, dtype: torch.dtype | None, max_shard_size: str | int, **options: Any
) -> str:
    """See `MMDiTModel.push_to_hub`. Where all is uploaded, older weights in the repository go, if they are not written
    over: of an index and a file beside it, the index would be read."""
    if "token" in options:
        options["token"] = checked_token(options["token"])
    if options.get("allow_patterns") is None and options.get("ignore_patterns") is None:
        options.setdefault("delete_patterns", [*OWN_WEIGHTS])
    try:
        from mmdit.weights.hub.mixin import HubFolder
    except ImportError:
        raise ImportError("push_to_hub needs the package huggingface_hub: pip install 'mmdit-cli[hub]'") from None
    return HubFolder(network, dtype=dtype, max_shard_size=max_shard_size).push_to_hub(repo_id, **options)
