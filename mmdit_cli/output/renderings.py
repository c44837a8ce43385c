"""A command's document in the format that a file's suffix names."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmdit_cli.output.console import printable

SUFFIXES = (".json", ".csv", ".md", ".tex", ".html")
_MARKUP = re.compile(r"[\\`*<|]|(?<=\])\(|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")  # what Markdown would not show as it is
LONG = ("command_line", "configs", "samples")  # of a document: what tables leave out
Document = Mapping[str, Any]


def render(document: Document, suffix: str) -> str:
    """The document's text.

    CSV is long: a row for each component, layer or other part of a result, beside the result's own figures, with nested
    keys joined by dots (`latency_ms.median`, `part.flops`). Markdown has the results side by side and a table for each
    list of records (components, layers), LaTeX the same by booktabs. HTML is one page that needs no network
    (`output.page`).
    """
    makers = {".json": to_json, ".csv": to_csv, ".md": to_markdown, ".tex": _to_latex, ".html": _to_html}
    return makers[suffix.lower()](document)


def to_json(document: Document, *, ascii: bool = False) -> str:
    return json.dumps(document, indent=2, ensure_ascii=ascii, allow_nan=False) + "\n"


def _to_latex(document: Document) -> str:
    from mmdit_cli.output.latex import to_latex

    return to_latex(document)


def _to_html(document: Document) -> str:
    from mmdit_cli.output.page.page import to_html

    return to_html(document)


def to_csv(document: Document) -> str:
    about = {key: value for key, value in document.items() if key not in ("results", *LONG)}
    beside = dict(flat(about))
    rows = [beside | row for result in document["results"] for row in _long(result)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _long(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each record of a result's lists, `part` saying of which; one row where it has none."""
    own = dict(flat({key: value for key, value in result.items() if not _is_records(value) and value != []}))
    lists = {key: value for key, value in result.items() if _is_records(value)}
    parts = [{"part": key, **_part(record)} for key, records in lists.items() for record in records]
    return [own | part for part in parts] or [own]


def _part(record: Mapping[str, Any]) -> dict[str, Any]:
    """Its figures; a component is named without its modality, which has a column of its own, so without a comma."""
    if "kind" in record and "name" in record:
        record = {
            "name": record["kind"],
            **{key: value for key, value in record.items() if key not in ("name", "kind")},
        }
    return dict(flat(record, "part"))


def to_markdown(document: Document) -> str:
    results = document["results"]
    beside = {key: value for key, value in document.items() if key not in ("command", "results", *LONG)}
    about = (f"{key}: {_cell(value)}" for key, value in beside.items() if not isinstance(value, (Mapping, list)))
    parts = [f"# mmdit {document['command']}", ", ".join(about)]
    plain = [dict(flat(result, records=False)) for result in results]
    keys = [key for key in dict.fromkeys(key for row in plain for key in row) if key != "config"]
    head = ["", *(result["config"] for result in results)]
    parts.append(table(head, [[key, *(row.get(key) for row in plain)] for key in keys]))
    records = {f"{r['config']}: {key}": value for r in results for key, value in r.items() if _is_records(value)}
    for title, value in (*records.items(), *beside.items()):
        parts += _sections(title, value)
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    """A value as Markdown: whatever was named is text, not markup."""
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return _MARKUP.sub(r"\\\g<0>", printable(text.replace("\n", " "), keep=""))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], cell: Callable[[Any], str] = _cell) -> str:
    """A Markdown table; `cell` says how a value stands in it."""
    lines = [map(cell, head), ["---"] * len(head), *(map(cell, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sections(title: str, value: Any) -> list[str]:
    """A table of a mapping's figures, or of records with a row for each; and of the lists of records inside."""
    if isinstance(value, Mapping):
        parts, inner = [table(["", "value"], flat(value, records=False))], [(title, value)]
    elif _is_records(value):
        rows = [dict(flat(record, records=False)) for record in value]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        parts = [table(columns, [[row.get(column) for column in columns] for row in rows])]
        inner = [(f"{title}: {r.get('config', r.get('name', index))}", r) for index, r in enumerate(value)]
    else:
        return []
    nested = ((f"{name}: {key}", each) for name, record in inner for key, each in record.items() if _is_records(each))
    return [f"## {_cell(title)}", *parts, *(part for name, each in nested for part in _sections(name, each))]


def flat(value: Any, prefix: str = "", *, records: bool = True) -> list[tuple[str, Any]]:
    """Leaves under dotted keys. A record of a list is called by its name; other lists are leaves."""
    if _is_records(value):
        if not records:
            return []
        value = {str(record.get("name", index)): record for index, record in enumerate(value)}
    if isinstance(value, Mapping):
        dot = f"{prefix}." if prefix else ""
        return [leaf for key, item in value.items() for leaf in flat(item, f"{dot}{key}", records=records)]
    return [(prefix, json.dumps(value, ensure_ascii=False) if isinstance(value, (list, bool)) else value)]


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)
