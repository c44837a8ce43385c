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
NAMED = 5  # files passed over, in a message
HINT = "write one with --report x.json"
DEPTH = 4  # folders below one that was named
WRONG = (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)  # of what is not as written


@dataclass(frozen=True)
class Written:
    """A document of a command, the name of its file, and the runs that lie beside it."""

    name: str
    document: dict[str, Any]
    runs: list[RunFiles] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """Documents, and runs that belong to none of them; `passed_over`: what else lay in the folders, and why it is no
    part of the report."""

    documents: list[Written] = field(default_factory=list)
    lone: list[RunFiles] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

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
            if not _add(path, found, seen, depth=DEPTH):
                more = f" (passed over: {'; '.join(found.passed_over[:NAMED])})" if found.passed_over else ""
                raise UserError(f"{path}: holds no JSON document, no run and no comparison{more}; {HINT}")
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


def _add(path: Path, found: Contents, seen: set[Path], *, depth: int) -> bool:
    """Whether anything is there. `depth`: how far down a folder is looked into."""
    real = path.resolve()
    if real in seen:
        return True
    if not path.is_dir():
        known = {each.name for each in found.documents}
        found.documents.append(Written(path.stem if path.stem not in known else str(path), _document(path)))
    elif (path / COMPARISON).is_file():
        runs = [_run(each) for each in sorted(path.iterdir()) if (each / METRICS).is_file()]
        found.documents.append(Written(path.name, _document(path / COMPARISON), runs))
    elif (path / METRICS).is_file() or (path / CONFIG).is_file():
        found.lone.append(_run(path))
    else:
        inside = sorted(path.iterdir()) if depth else []
        return any(
            [_add_within(each, found, seen, depth=depth - 1) for each in inside if not each.name.startswith(".")]
        )
    seen.add(real)
    return True


def _add_within(path: Path, found: Contents, seen: set[Path], *, depth: int) -> bool:
    """Whether anything of a report is there; what is not this tool's, or no longer whole, is noted and passed over."""
    if not (path.is_dir() or path.suffix == ".json"):
        return False
    try:
        return _add(path, found, seen, depth=depth)
    except (UserError, OSError) as problem:
        found.passed_over.append(str(problem) if isinstance(problem, UserError) else f"{path}: {problem.strerror}")
        return False


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _run(folder: Path) -> RunFiles:
    """A run that a page can be made of.

    Raises:
        UserError: what its files say is none.
    """
    run = read_run(folder)
    try:
        runs_section([run])
    except WRONG as error:
        raise UserError(f"{folder}: is no whole run of mmdit train-toy ({type(error).__name__} {error})") from None
    return run


def _document(path: Path) -> dict[str, Any]:
    """A document that a page can be made of.

    Raises:
        UserError: it is none.
    """
    content = read_regular(path, LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path}: is larger than {LARGEST / 1e6:.0f} MB")
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON document ({error}); {HINT}") from None
    results = document.get("results") if isinstance(document, dict) else None
    whole = isinstance(results, list) and bool(results) and all(isinstance(each, dict) for each in results)
    if not (whole and isinstance(document.get("command"), str)):
        raise UserError(f"{path}: is no document of this tool; {HINT}")
    try:
        document_section([(path.stem, document)])
    except WRONG as error:
        about = f"{type(error).__name__} {error}"
        raise UserError(f"{path}: is no whole document of mmdit {document['command']} ({about}); {HINT}") from None
    return dict(document)
