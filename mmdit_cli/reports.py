"""A command's document in the format that a file's suffix names: `.json`, `.csv` or `.md`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdit_cli.errors import UserError

SUFFIXES = (".json", ".csv", ".md")
Document = Mapping[str, Any]


def check_suffix(path: Path) -> None:
    """Raises UserError where the suffix names no format."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--report {path}: expected a name that ends in {', '.join(SUFFIXES)}")


def render(document: Document, suffix: str) -> str:
    """The document's text.

    CSV has one row for each result, with nested keys joined by dots: `latency_ms.median`, `components.attention.flops`.
    Markdown has the results side by side and a table for each list of records (components, layers).
    """
    makers = {".json": to_json, ".csv": to_csv, ".md": to_markdown}
    return makers[suffix.lower()](document)


def to_json(document: Document) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(document: Document) -> str:
    about = {key: value for key, value in document.items() if key != "results"}
    rows = [dict(_flat(about)) | dict(_flat(result)) for result in document["results"]]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_markdown(document: Document) -> str:
    results = document["results"]
    about = ", ".join(f"{key}: {_cell(value)}" for key, value in document.items() if key not in ("command", "results"))
    parts = [f"# mmdit {document['command']}", about]
    plain = [{key: value for key, value in _flat(result, records=False)} for result in results]
    keys = [key for key in dict.fromkeys(key for row in plain for key in row) if key != "config"]
    head = ["", *(str(result["config"]) for result in results)]
    parts.append(_table(head, [[key, *(_cell(row.get(key)) for row in plain)] for key in keys]))
    for result in results:
        for key, value in result.items():
            if _is_records(value):
                columns = list(dict.fromkeys(column for record in value for column in record))
                parts.append(f"## {result['config']}: {key}")
                parts.append(_table(columns, [[_cell(record.get(column)) for column in columns] for record in value]))
    return "\n\n".join(parts) + "\n"


def _flat(value: Any, prefix: str = "", *, records: bool = True) -> list[tuple[str, Any]]:
    """Leaves under dotted keys. A record of a list is called by its name; other lists are leaves."""
    if _is_records(value):
        if not records:
            return []
        value = {str(record.get("name", index)): record for index, record in enumerate(value)}
    if isinstance(value, Mapping):
        dot = f"{prefix}." if prefix else ""
        return [leaf for key, item in value.items() for leaf in _flat(item, f"{dot}{key}", records=records)]
    return [(prefix, json.dumps(value) if isinstance(value, list) else value)]


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
