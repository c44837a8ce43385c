"""What a config says, whole: with all that it extends, and beside another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmdit.config.file import load_config
from mmdit.config.yaml_document import Document
from mmdit.config.yaml_text import to_yaml
from mmdit_cli.request.differing import differing
from mmdit_cli.request.request import config_within
from mmdit_cli.request.tool_config import ToolConfig


@dataclass(frozen=True)
class DifferingConfig:
    """The values of a config that another has otherwise, by dotted key, defaults too; null where it has no such key."""

    config: str
    differing: dict[str, Any]


def resolved(config: str) -> str:
    """The file of whatever `--config` takes, as it would be if it extended nothing.

    Raises:
        mmdit.config.ConfigError: it can't be read or is wrong.
    """
    documents: list[Document] = []
    load_config(config, ToolConfig, text=config_within(config), on_document=documents.append)
    return to_yaml(documents[0].data)


def compared(first: str, second: str, *, whole: bool = True) -> tuple[DifferingConfig, DifferingConfig]:
    """Where two configs differ beside their names; sections `whole`, or without defaults of later options.

    Raises:
        mmdit.config.ConfigError: one can't be read or is wrong.
    """
    ours, theirs = (load_config(each, ToolConfig, text=config_within(each)) for each in (first, second))
    found = [each for each in differing(ours, theirs, whole=whole) if each[0] != "name"]
    return (
        DifferingConfig(first, {key: value for key, value, _ in found}),
        DifferingConfig(second, {key: value for key, _, value in found}),
    )
