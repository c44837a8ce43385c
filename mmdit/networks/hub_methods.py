"""What a network is read and written by, as users of the Hugging Face Hub call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import nn

Self = TypeVar("Self", bound="HubMethods")


class Hub(Protocol):
    """Who does the work: files stand above networks, so it is `mmdit.layouts.pretrained`."""

    def read(self, name: str | Path, kind: type[Self], **options: Any) -> Self: ...

    def write(
        self, network: nn.Module, folder: str | Path, *, dtype: torch.dtype | None, max_shard_size: str | int
    ) -> None: ...

    def push(
        self, network: nn.Module, repo_id: str, *, dtype: torch.dtype | None, max_shard_size: str | int, **options: Any
    ) -> str: ...


class HubMethods:
    """`from_pretrained`, `save_pretrained` and `push_to_hub`."""

    hub: ClassVar[Hub]

    @classmethod
    def from_pretrained(
        cls: type[Self],
        name: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        config: Any = None,
        layout: str | None = None,
        verify: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """A network in eval mode from a file or folder, or from a repository of the Hub: its cache or, where there is a
        network, the newest. What `mmdit.load` reads is read, with the same checks: nothing is unpickled.

        Args:
            name: a path or, as a `str` and where nothing is there, `org/repo`, `org/repo/file` or `org/repo@revision`.
                The Hub needs the extra `hub`.
            device, dtype, config, layout, verify: as in `mmdit.load`.
            revision: a branch, tag or commit; None: the one in the name, or main.
            token: for repositories that are private or gated; None: the one that `hf auth login` keeps, or `HF_TOKEN`.
            cache_dir: where downloads are kept; None: the Hub's cache.
            force_download: download once more what is there.
            local_files_only: ask nobody, and take what is in the cache.

        Raises:
            CheckpointError: as `mmdit.load`, or the repository can't be read; it says why and what to do.
            ValueError: it holds a bare transformer, which `mmdit.load` gives.
        """
        options = {"device": device, "dtype": dtype, "config": config, "layout": layout, "verify": verify}
        of_hub = {"token": token, "cache_dir": cache_dir, "force_download": force_download}
        return cls.hub.read(name, cls, revision=revision, local_files_only=local_files_only, **options, **of_hub)

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, max_shard_size: str | int = "5GB"
    ) -> None:
        """Write a folder that `from_pretrained` opens, with the config and a model card beside the weights. It appears
        whole or not at all, and replaces one that was written so.

        Args:
            folder: it is made with those above it.
            dtype: the floating-point type in the files; None: the network's own.
            max_shard_size: bytes of tensors in a file.

        Raises:
            ValueError: the network was not made by `mmdit.build`, or is no longer what its config says.
            OSError: the folder can't be written, or holds something else, which would be lost.
        """
        self.hub.write(self._network(), folder, dtype=dtype, max_shard_size=max_shard_size)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dtype: torch.dtype | None = None,
        max_shard_size: str | int = "5GB",
        **options: Any,
    ) -> str:
        """Upload what `save_pretrained` writes, by `huggingface_hub.ModelHubMixin.push_to_hub`, whose errors and whose
        options these are: `commit_message`, `private`, `token`, `branch`, `create_pr` and so on. Where neither
        `allow_patterns` nor `ignore_patterns` leaves files out, weights of the same names of an older upload go.

        Args:
            repo_id: `org/repo`; it is made where there is none.

        Returns:
            The address of the commit.

        Raises:
            ImportError: the extra `hub` is missing.
            ValueError: as `save_pretrained`.
        """
        return self.hub.push(self._network(), repo_id, dtype=dtype, max_shard_size=max_shard_size, **options)

    def _network(self) -> nn.Module:
        assert isinstance(self, nn.Module)
        return self
