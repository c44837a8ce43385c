"""`mmdit schema`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from mmdit_cli.request.flags import common_options
from mmdit_cli.request.request import Request

NAME = "schema"


@common_options(NAME, config=None, only=("debug",))
def command(
    request: Request,
    document: Annotated[
        Literal["profile", "flops", "plan", "shape-check", "train-toy", "sample", "export", "configs"] | None,
        typer.Option("--document", metavar="COMMAND", help="The schema of that command's --json instead."),
    ] = None,
    table: Annotated[
        Literal["keys", "keywords"] | None,
        typer.Option("--table", metavar="WHICH", help="keys of a config or keywords of the library, as Markdown."),
    ] = None,
) -> None:
    """Print the JSON Schema of the config file, or of a command's JSON document; or a table of all options.

    Example: mmdit schema > schema.json
    """
    import json

    from mmdit_cli.errors import UserError

    if document is not None and table is not None:
        raise UserError("--document and --table: give one of them")
    if table is not None:
        from mmdit_cli.commands.option_tables import key_table, keyword_table
        from mmdit_cli.request.tool_config import ToolConfig

        sys.stdout.write(key_table(ToolConfig) if table == "keys" else keyword_table())
        return
    from mmdit_cli.commands.json_schemas import config_schema, document_schema

    schema = config_schema() if document is None else document_schema(document)
    sys.stdout.write(json.dumps(schema, indent=2) + "\n")
