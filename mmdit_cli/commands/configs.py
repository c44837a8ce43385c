"""`mmdit configs`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mmdit_cli.errors import UserError
from mmdit_cli.request import request as o

NAME = "configs"


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this config's file instead.")] = None,
    json: o.JsonOption = False,
    report: o.ReportOption = None,
    debug: o.DebugOption = False,
) -> None:
    """List the configs that come with mmdit, and how large their models are. --config takes their names.

    Example: mmdit configs sd3-medium > mine.yaml
    """
    if name is not None:
        if json or report is not None:
            raise UserError(f"{name}: its file is YAML; --json and --report are of the list")
        sys.stdout.write(_text(name))
        return
    request = o.make_request(NAME, [], None, "cpu", "fp32", 0, json, report)

    from mmdit_cli.commands.shipped_sizes import shipped_sizes
    from mmdit_cli.model_parts.meta_device import without_compiler
    from mmdit_cli.output.console import stage_progress, stdout
    from mmdit_cli.output.document import emit, make_document
    from mmdit_cli.output.tables import config_tables

    with stage_progress() as on_progress, without_compiler():
        sizes = shipped_sizes(on_progress)
    if not json:
        console = stdout()
        for table in config_tables(sizes, console.width):
            console.print(table)
    emit(request, make_document(request, sizes))


def _text(name: str) -> str:
    from difflib import get_close_matches

    from mmdit.config.shipped import shipped_configs

    found = shipped_configs()
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(found)}"
        raise UserError(f"{name}: no config of that name comes with mmdit; {hint}")
    return found[name].read_text(encoding="utf-8")
