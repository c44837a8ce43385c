"""`mmdit configs`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mmdit_cli.errors import UserError
from mmdit_cli.request.completion import config_names
from mmdit_cli.request.flags import common_options
from mmdit_cli.request.request import Request

NAME = "configs"


@common_options(NAME, config=None, only=("json", "report", "debug"))
def command(
    request: Request,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Print this config's file instead.", autocompletion=config_names),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print it whole, with what it extends. NAME may be what --config takes.")
    ] = False,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option("--diff", metavar="A B", help="Print the keys in which two configs differ, defaults included."),
    ] = None,
) -> None:
    """List the configs that come with mmdit, and how large their models are. --config takes their names.

    Example: mmdit configs sd3-medium > mine.yaml
    """
    if diff is not None:
        if name is not None or resolved:
            raise UserError("--diff takes two configs, and goes with neither NAME nor --resolved")
        from mmdit_cli.commands.config_contents import compared
        from mmdit_cli.commands.config_tables import difference_tables

        found = compared(*diff)
        request.show(found, lambda width: difference_tables(found), headed=False)
        return
    if name is not None:
        if request.json or request.report is not None:
            raise UserError(f"{name}: its file is YAML; --json and --report are of the list and of --diff")
        sys.stdout.write(_resolved(name) if resolved else _text(name))
        return
    if resolved:
        raise UserError("--resolved: of which config? Name it, as in mmdit configs flux.1-schnell --resolved")

    from mmdit_cli.commands.config_tables import config_tables
    from mmdit_cli.commands.shipped_sizes import shipped_sizes
    from mmdit_cli.model_parts.meta_device import without_compiler
    from mmdit_cli.output.console import stage_progress

    with stage_progress() as on_progress, without_compiler():
        sizes = shipped_sizes(on_progress)
    request.show(sizes, lambda width: config_tables(sizes, width), headed=False)


def _resolved(name: str) -> str:
    from mmdit_cli.commands.config_contents import resolved

    return resolved(name)


def _text(name: str) -> str:
    from difflib import get_close_matches

    from mmdit.config.shipped import shipped_configs

    found = shipped_configs()
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(found)}"
        raise UserError(f"{name}: no config of that name comes with mmdit; {hint}")
    return found[name].read_text(encoding="utf-8")
