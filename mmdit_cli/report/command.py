"""`mmdit report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmdit_cli.request.flags import common_options
from mmdit_cli.request.request import Request

NAME = "report"


@common_options(NAME, config=None, only=("debug",))
def command(
    request: Request,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="JSON documents (--report x.json), runs, comparisons, or folders of them."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page to write (.html).")],
    title: Annotated[str | None, typer.Option("--title", metavar="TEXT", help="What stands above the page.")] = None,
) -> None:
    """Write one page of several documents and training runs: figures, tables, curves and pictures side by side.

    The page holds all that it shows, and needs no network. The other commands write it of one result, by
    --report x.html.

    Example: mmdit report before.json after.json runs/compare-20260101 --out report.html
    """
    from mmdit.weights.atomic import write_atomic
    from mmdit_cli.output.console import message, printable
    from mmdit_cli.output.page.page import page
    from mmdit_cli.output.units import bytes_
    from mmdit_cli.report.contents import HINT, NAMED, find_contents, sections_of
    from mmdit_cli.request.targets import check_apart, check_target, writing

    check_target(out, "--out", suffixes=(".html",))
    check_apart({"PATH": [str(path) for path in paths]}, out=out)
    contents = find_contents(paths)
    for each in contents.passed_over[:NAMED]:
        message(f"passed over: {each.removesuffix(f'; {HINT}')}")
    if (more := len(contents.passed_over) - NAMED) > 0:
        message(f"passed over: {more} more")
    text = page(title or "mmdit report", sections_of(contents)).encode()
    with writing("--out", out):
        write_atomic(out, text)
    counted = f"{len(contents.documents)} documents, {len(contents.runs)} runs"
    sys.stdout.write(printable(f"{out}: {counted}, {bytes_(len(text))}", keep="") + "\n")
