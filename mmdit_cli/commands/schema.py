"""`mmdit schema`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from mmdit_cli.request.options import common_options
from mmdit_cli.request.request import Request

NAME = "schema"


@common_options(NAME, config=None, only=("debug",))
def command(
    request: Request,
    document: Annotated[
        Literal["profile", "flops", "shape-check", "train-toy", "export", "configs"] | None,
        typer.Option("--document", metavar="COMMAND", help="The schema of that command's --json instead."),
    ] = None,
) -> None:
    """Print the JSON Schema of the config file, or of a command's JSON document.

    Example: mmdit schema > schema.json
    """
    import json

    from mmdit_cli.commands.json_schemas import config_schema, document_schema

    schema = config_schema() if document is None else document_schema(document)
    sys.stdout.write(json.dumps(schema, indent=2) + "\n")
