"""Weights that are named by a repository of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmdit_cli.output.console import message

if TYPE_CHECKING:
    from mmdit.hub.repositories import Fetched


def from_hub(option: str, name: str, *, before: Callable[[], None] = lambda: None) -> Fetched | None:
    """The weights of `org/repo[@revision][/file]`, here; None where the name is a path of the user's own.

    Args:
        name: as it was given: a `Path` is without the `./` that tells a folder from a repository.
        before: what is to be checked before anything is downloaded.

    Raises:
        mmdit.weights.saved_model.CheckpointError: they can't be had; it says why.
    """
    from mmdit.hub.repositories import as_repository, fetch

    repository = as_repository(name)
    if repository is None:
        return None
    before()
    found = fetch(repository)
    asked = "" if found.online else ", from the cache, as the Hub was not reached"
    message(f"{option} {name}: {found.source}{asked}")
    return found
