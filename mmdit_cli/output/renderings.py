"""A command's document in the format that a file's suffix names: `.json`, `.csv` or `.md`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

SUFFIXES = (".json", ".csv", ".md")
Document = Mapping[str, Any]


def render(document: Document, suffix: str) -> str:
    """The document's text.

    CSV has one row for each result, with nested keys joined by dots: `latency_ms.median`, `components.attention.flops`.
    Markdown has the results side by side and a table for each list of records (components, layers).
    """
    makers = {".json": to_json, ".csv": to_csv, ".md": to_markdown}
    return makers[suffix.lower()](document)


def to_json(document: Document, *, ascii: bool = False) -> str:
    return json.dumps(document, indent=2, ensure_ascii=ascii, allow_nan=False) + "\n"


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
    beside = {key: value for key, value in document.items() if key not in ("command", "results")}
    about = (f"{key}: {_cell(value)}" for key, value in beside.items() if not isinstance(value, (Mapping, list)))
    parts = [f"# mmdit {document['command']}", ", ".join(about)]
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
    for key, value in beside.items():
        parts += _sections(key, value)
    return "\n\n".join(parts) + "\n"


def _sections(title: str, value: Any) -> list[str]:
    """What a document holds beside its results: a table of its figures, and one for each list of records in it."""
    if _is_records(value):
        rows = [dict(_flat(record, records=False)) for record in value]
        columns = list(dict.fromkeys(column for row in rows for column in row))
        parts = [f"## {title}", _table(columns, [[_cell(row.get(column)) for column in columns] for row in rows])]
        names = (record.get("config", record.get("name", index)) for index, record in enumerate(value))
        nested = ((f"{title}: {name}: {key}", v) for name, r in zip(names, value, strict=True) for key, v in r.items())
        return parts + [text for name, each in nested if _is_records(each) for text in _sections(name, each)]
    if not isinstance(value, Mapping):
        return []
    plain = [[key, _cell(each)] for key, each in _flat(value, records=False)]
    inner = [text for key, each in value.items() if _is_records(each) for text in _sections(f"{title}: {key}", each)]
    return [f"## {title}", _table(["", "value"], plain), *inner]


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
