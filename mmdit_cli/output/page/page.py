"""One page, which holds all that it shows: it asks no network for anything, and runs no script but its own."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmdit_cli.output.console import printable
from mmdit_cli.output.page.plots import as_json
from mmdit_cli.output.page.sections import Section, document_section, name_of
from mmdit_cli.output.run_files import METRICS, read_run

SCRIPTS = ("page.js", "drawing.js", "curves.js", "bars.js")
POLICY = (  # what a browser lets the page do, whatever text came into it
    "default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
    "base-uri 'none'; form-action 'none'"
)


def to_html(document: Mapping[str, Any]) -> str:
    """The page of a document that was made just now, with the runs whose folders it names."""
    folders = dict.fromkeys(Path(result["run_dir"]) for result in document["results"] if "run_dir" in result)
    runs = [read_run(folder) for folder in folders if (folder / METRICS).is_file()]
    section = document_section([("", document)], runs)
    names = ", ".join(dict.fromkeys(map(name_of, document["results"])))
    return page(f"mmdit {document['command']}: {names}", [section])


def page(title: str, sections: Sequence[Section]) -> str:
    """The page. Whatever a user named is text, and no markup."""
    style, script = _own("page.css"), "\n".join(map(_own, SCRIPTS))
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            sections=sections,
            style=Markup(style),
            script=Markup(script),
            policy=POLICY.format(style=_digest(style), script=_digest(script)),
        )
    )


@cache
def _environment() -> Environment:
    """Templates in which every text is escaped."""
    environment = Environment(
        loader=PackageLoader("mmdit_cli.output.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["plotted"] = as_json
    return environment


def _own(name: str) -> str:
    return files("mmdit_cli.output.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()


def _finalize(value: Any) -> Any:
    """Signs that move a cursor or turn text around are spelled out, as everywhere."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
