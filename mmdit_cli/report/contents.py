"""What a report is made of: the documents and training runs that were named, or lie in a folder that was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdit.config.regular_file import read_regular
from mmdit_cli.errors import UserError
from mmdit_cli.output.page.sections import Section, document_section, runs_section
from mmdit_cli.output.run_files import COMPARISON, CONFIG, METRICS, RunFiles, read_run

LARGEST = 100_000_000  # bytes of a document
HINT = "write one with --report x.json"


@dataclass(frozen=True)
class Written:
    """A document of a command, the name of its file, and the runs that lie beside it."""

    name: str
    document: dict[str, Any]
    runs: list[RunFiles] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """Documents, and runs that belong to none of them."""

    documents: list[Written] = field(default_factory=list)
    lone: list[RunFiles] = field(default_factory=list)

    @property
    def runs(self) -> list[RunFiles]:
        return [*self.lone, *(run for each in self.documents for run in each.runs)]


def find_contents(paths: Sequence[Path]) -> Contents:
    """Everything that the paths name, in their order, each once.

    Raises:
        UserError: a path is missing, can't be read, or is neither a document nor a run nor a folder of them.
    """
    found, seen = Contents(), set[Path]()
    for path in paths:
        try:
            if not _add(path, found, seen, within=True):
                raise UserError(f"{path}: holds no JSON document, no run and no comparison; {HINT}")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from None
    return found


def sections_of(contents: Contents) -> list[Section]:
    """A section for all documents of one kind, one for each comparison, and one for the runs."""
    groups: dict[str, list[Written]] = {}
    for each in contents.documents:
        groups.setdefault(_title(each), []).append(each)
    sections = []
    for title, group in groups.items():
        section = document_section([(w.name, w.document) for w in group], [run for w in group for run in w.runs])
        section.title = title
        sections.append(section)
    return [*sections, *([runs_section(contents.lone)] if contents.lone else [])]


def _title(written: Written) -> str:
    """What a section is called; documents that can stand side by side have the same one."""
    command, results = str(written.document["command"]), written.document["results"]
    if command == "train-toy":
        return f"{command}: {written.name}"
    estimated = command == "profile" and "latency_ms" not in results[0]
    swept = any(result.get("point") for result in results)
    return command + ", estimated memory" * estimated + ", sweep" * swept


def _add(path: Path, found: Contents, seen: set[Path], *, within: bool) -> bool:
    """Whether anything is there. `within`: a folder is looked into."""
    real = path.resolve()
    if real in seen:
        return True
    if not path.is_dir():
        found.documents.append(Written(path.stem, _document(path)))
    elif (path / COMPARISON).is_file():
        runs = [read_run(each) for each in sorted(path.iterdir()) if (each / METRICS).is_file()]
        found.documents.append(Written(path.name, _document(path / COMPARISON), runs))
    elif (path / METRICS).is_file() or (path / CONFIG).is_file():
        found.lone.append(read_run(path))
    else:
        inside = [each for each in sorted(path.iterdir()) if each.is_dir() or each.suffix == ".json"] if within else []
        return any([_add(each, found, seen, within=False) for each in inside])
    seen.add(real)
    return True


def _document(path: Path) -> dict[str, Any]:
    """A document that a page can be made of.

    Raises:
        UserError: it is none.
    """
    content = read_regular(path, LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path}: is larger than {LARGEST / 1e6:.0f} MB")
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON document ({error}); {HINT}") from None
    results = document.get("results") if isinstance(document, dict) else None
    whole = isinstance(results, list) and bool(results) and all(isinstance(each, dict) for each in results)
    if not (whole and isinstance(document.get("command"), str)):
        raise UserError(f"{path}: is no document of this tool; {HINT}")
    try:
        document_section([(path.stem, document)])
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        about = f"{type(error).__name__} {error}"
        raise UserError(f"{path}: is no whole document of mmdit {document['command']} ({about}); {HINT}") from None
    return dict(document)
