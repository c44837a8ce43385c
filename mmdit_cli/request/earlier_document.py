"""An earlier document of the tool, which an option names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmdit.config.regular_file import read_regular
from mmdit_cli.errors import UserError

MAX_BYTES = 8_000_000  # a result takes some 10 kB


def read_document(path: Path, option: str, command: str) -> dict[str, Any]:
    """The document of an earlier `--report FILE.json` of a command.

    Args:
        option: by which it was named.

    Raises:
        UserError: the file can't be read or is no such document.
    """
    option = f"{option} {path}"
    try:
        content = read_regular(path, MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{option}: is larger than {MAX_BYTES / 1e6:.0f} MB; write one with --report FILE.json")
        document = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise UserError(f"{option}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{option}: is no JSON document ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("results"), list):
        raise UserError(f"{option}: is no document of this tool; write one with --report FILE.json")
    if document.get("command") != command:
        raise UserError(f"{option}: is a document of {document.get('command')!r}, expected one of {command!r}")
    return document
