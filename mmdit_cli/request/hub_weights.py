"""Weights that are named by a repository of the Hugging Face Hub."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from mmdit_cli.output.console import message

if TYPE_CHECKING:
    from mmdit.weights.hub.repositories import Fetched, Repository

Result = TypeVar("Result")


def from_hub(option: str, name: str, *, before: Callable[[], None] = lambda: None) -> Fetched | None:
    """The weights of `org/repo[@revision][/file]`, here; None where the name is a path of the user's own.

    Args:
        name: as it was given: a `Path` is without the `./` that tells a folder from a repository.
        before: what is to be checked before anything is downloaded.

    Raises:
        mmdit.weights.saved_model.CheckpointError: they can't be had; it says why.
    """
    from mmdit.weights.hub.repositories import as_repository, fetch

    repository = as_repository(name)
    if repository is None:
        return None
    before()
    found = fetch(repository)
    _say(option, name, found)
    return found


@dataclass(frozen=True)
class Headers:
    """Weights of which the headers are here, at `path`. Where these are stand-ins of a repository, `standing_in` is
    what their paths begin with before its name, and texts about them are to be `told`."""

    path: Path
    standing_in: str = ""
    repository: Repository | None = None

    def possible(self, command: str) -> str:
        """A command on these weights, or that which has to come first: a repository gives weights, and no config."""
        if self.repository is None or not self._names_a_path(shlex.split(command)):
            return command
        revision = f" --revision {self.repository.revision}" if self.repository.revision else ""
        return f"hf download {self.repository.name}{revision} --local-dir FOLDER"

    def _names_a_path(self, words: Sequence[str]) -> bool:
        """Whether the repository stands where a command takes a path of the user's own: as a config, or a LoRA."""
        assert self.repository is not None
        asked = [value for option, value in pairwise(words) if option in ("-c", "--config", "--lora")]
        return any(value.startswith(self.repository.name) for value in asked)

    def told(self, about: Result) -> Result:
        """A text, or a result with its texts, as they are of the repository."""
        given: Any = about
        if not self.standing_in:
            return about
        if isinstance(given, str):
            given = given.replace(self.standing_in, "")
        elif isinstance(given, (list, tuple)):
            given = type(given)(self.told(each) for each in given)
        elif hasattr(given, "__dataclass_fields__"):
            given = replace(given, **{each.name: self.told(getattr(given, each.name)) for each in fields(given)})
        return given


@contextmanager
def headers_of(option: str, name: str) -> Iterator[Headers]:
    """What `--weights` are, for who reads no more than their headers: a path, or a repository of the Hub, of which no
    tensor is downloaded where its server sends parts of files.

    Raises:
        mmdit.weights.saved_model.CheckpointError: they can't be had or read; it says why.
    """
    from mmdit.config import ConfigError
    from mmdit.weights.header import CheckpointError
    from mmdit.weights.hub.repositories import as_repository, fetch

    repository = as_repository(name)
    if repository is None:
        yield Headers(Path(name))
        return
    with TemporaryDirectory(prefix="mmdit-") as folder:
        heads = Path(folder, repository.name + (f"@{repository.revision}" if repository.revision else ""))
        standing_in = folder + os.sep
        try:
            found = fetch(repository, heads=heads)
            _say(option, name, found)
            here = not found.path.is_relative_to(heads)
            yield Headers(found.path) if here else Headers(found.path, standing_in, repository)
        except (CheckpointError, ConfigError) as error:
            raise type(error)(Headers(heads, standing_in).told(str(error))) from None


def _say(option: str, name: str, found: Fetched) -> None:
    asked = "" if found.online else ", from the cache, as the Hub was not reached"
    message(f"{option} {name}: {found.source}{asked}")
