"""A network as `huggingface_hub` wants one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin
from torch import nn

from mmdit.weights.saved_model import save


class HubFolder(ModelHubMixin):
    """The mixin around a network, rather than the network's base class, so that the package is imported only where
    something is uploaded. It writes its files and card, and the mixin makes the repository and the commit.

    Args:
        options: of `mmdit.save`.
    """

    def __init__(self, network: nn.Module, **options: Any) -> None:
        self.network, self.options = network, options

    def save_pretrained(self, save_directory: str | Path, **about: Any) -> None:
        """Without what the mixin would write beside the files: a folder of ours has its config and its card."""
        Path(save_directory).parent.mkdir(parents=True, exist_ok=True)
        self._save_pretrained(Path(save_directory))

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.network, save_directory, **self.options)
