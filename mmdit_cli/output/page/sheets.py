"""The tables of a page: cells with what they are ordered by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdit_cli.output.quantities import Path, is_records, label, leaves, number_of, shown

SIDE_BY_SIDE = 4  # results that stand in columns of their own; more stand in rows
SENTENCES = ("notices", "notes")  # which stand above the tables
BARS = ("share",)  # what has a bar beside its figure


@dataclass(frozen=True)
class Cell:
    """A text, and the number that it is ordered by; `bar`: a share that is drawn beside it."""

    text: str
    number: float | None = None
    bar: float | None = None


@dataclass(frozen=True)
class Sheet:
    """A table. The first cell of a row is its name; `folded`: it is shown when asked for."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    folded: bool = False
    sortable: bool = True


def cell(path: Path, value: Any) -> Cell:
    """A figure."""
    share = value if path[-1] in BARS and isinstance(value, float) else None
    return Cell(shown(path, value), number_of(value), share)


def side_by_side(title: str, results: Sequence[Mapping[str, Any]], paths: Sequence[Path], **how: Any) -> Sheet:
    """Figures in rows and results in columns, or where these are many, the other way round."""
    found = [dict(leaves(result)) for result in results]
    paths = [path for path in paths if any(each.get(path) is not None for each in found)]
    if len(results) > SIDE_BY_SIDE:
        return _rows(title, found, [("config",), *(path for path in paths if path != ("config",))], **how)
    rows = [
        [Cell(label(path)), *(cell(path, each.get(path)) for each in found)] for path in paths if path != ("config",)
    ]
    return Sheet(title, ["", *(str(each.get(("config",), "")) for each in found)], rows, sortable=False, **how)


def listing(title: str, records: Sequence[Mapping[str, Any]], **how: Any) -> Sheet:
    """A row for each record, and a column for each figure that any of them has."""
    found = [dict(leaves(record)) for record in records]
    paths = list(dict.fromkeys(path for each in found for path in each))
    return _rows(title, found, [p for p in paths if any(each.get(p) not in (None, "") for each in found)], **how)


def _rows(title: str, found: Sequence[Mapping[Path, Any]], paths: Sequence[Path], **how: Any) -> Sheet:
    rows = [[cell(path, each.get(path)) for path in paths] for each in found]
    return Sheet(title, [label(path) for path in paths], rows, **how)


def nested(title: str, value: Any) -> list[Sheet]:
    """The tables of a mapping's figures, or of records with a row for each, and of the lists of records inside."""
    if isinstance(value, Mapping):
        own = [(path, item) for path, item in leaves(value) if item != [] and path[-1] not in SENTENCES]
        rows = [[Cell(label(path)), cell(path, item)] for path, item in own]
        sheets, inner = [Sheet(title, ["", ""], rows, sortable=False)] * bool(rows), [(title, value)]
    elif is_records(value):
        sheets = [listing(title, value)]
        inner = [(str(each.get("config", each.get("name", number))), each) for number, each in enumerate(value, 1)]
    else:
        return []
    for name, record in inner:
        for key, item in record.items():
            if is_records(item):
                sheets += nested(f"{name}: {label((key,))}", item)
    return sheets


def differing(configs: Sequence[tuple[str, Mapping[str, Any]]]) -> Sheet | None:
    """The values in which configs differ, by dotted key; None where they are alike, or one."""
    found = [{".".join(path): value for path, value in leaves(data) if path != ("name",)} for _, data in configs]
    keys = dict.fromkeys(key for each in found for key in each)
    apart = [key for key in keys if any(each.get(key) != found[0].get(key) for each in found)]
    if not apart:
        return None
    rows = [[Cell(key), *(Cell(_as_written(each, key)) for each in found)] for key in apart]
    return Sheet("what differs in the configs", ["", *(name for name, _ in configs)], rows, sortable=False)


def _as_written(config: Mapping[str, Any], key: str) -> str:
    import json

    value = config.get(key)
    return "–" if key not in config else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
