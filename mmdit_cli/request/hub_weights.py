"""Weights that are named by a repository of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mmdit_cli.output.console import message

if TYPE_CHECKING:
    from mmdit.hub.repositories import Fetched


def from_hub(option: str, path: Path, *, before: Callable[[], None] = lambda: None) -> Fetched | None:
    """The weights of `org/repo[@revision][/file]`, here; None where the path is one of the user's own.

    Args:
        before: what is to be checked before anything is downloaded.

    Raises:
        mmdit.weights.saved_model.CheckpointError: they can't be had; it says why.
    """
    from mmdit.hub.repositories import as_repository, fetch

    repository = as_repository(path)
    if repository is None:
        return None
    before()
    found = fetch(repository)
    asked = "" if found.online else ", from the cache, as the Hub was not reached"
    message(f"{option} {path}: {found.source}{asked}")
    return found
