"""The document of the kinds of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import diffusers
import torch

from mmdit.layouts import LAYOUTS

EXACT = 1e-5  # what float32's sums leave

ABOUT = """# Kinds of files

Written by `python -m benchmarks.files.kinds --write docs/reports/file-kinds.md` with torch {torch} and diffusers
{diffusers}.

Of a small network of each of {families} published ones, every weight drawn, all kinds of files are made that people
have: {files} in all. `shape-check --weights` is asked what each is, and has to say its layout, prefix, family and
quantization; then it is read, and its outputs are held against those of the network that it was made of, by the
relative Euclidean norm of the difference.

| kind of file | files | error, largest | at most | beside the format's formula |
| --- | --- | --- | --- | --- |
"""
BESIDE = """
The error is what the format rounds, on random weights of small networks. Beside it stands the error against a network
of the very values that the file stands for, by the format's formula in float64: what reading adds, which is float32's
sums (at most {exact:.0e}). Where there is none, the file holds the network's own weights, or those in its own dtype.

| network | called | files | wrong |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class FileRow:
    """A file and what came of it: what the tool `says` it is, of which networks it was `called`, and `wrong` what it
    should have said. `exact` and `error` are relative errors of outputs, the first None where the file holds the very
    weights."""

    family: str
    kind: str
    says: str
    exact: float | None
    error: float
    bound: float
    wrong: str
    called: str = ""

    @property
    def good(self) -> bool:
        return not self.wrong and self.error <= self.bound and (self.exact is None or self.exact <= EXACT)

    def __str__(self) -> str:
        exact = "" if self.exact is None else f"{self.exact:.0e}"
        end = "" if self.good else f"  WRONG {self.wrong}"
        return f"{self.family:22} {self.kind:28} {exact:>6} {self.error:8.1e} {self.bound:6.0e}  {self.says}{end}"


def document(rows: Sequence[FileRow]) -> str:
    """All rows, by the kind of file and by network, as Markdown."""
    networks, kinds = _grouped(rows, lambda row: row.family), _grouped(rows, lambda row: _kind(row.kind))
    text = ABOUT.format(
        torch=torch.__version__, diffusers=diffusers.__version__, families=len(networks), files=len(rows)
    )
    for kind, of in kinds.items():
        exact = [row.exact for row in of if row.exact is not None]
        formula = f"{max(exact):.1e}" if exact else ""
        text += f"| {kind} | {len(of)} | {max(row.error for row in of):.1e} | {of[0].bound:.0e} | {formula} |\n"
    text += BESIDE.format(exact=EXACT)
    for network, of in networks.items():
        wrong = "; ".join(f"{row.kind}: {row.wrong or f'error {row.error:.1e}'}" for row in of if not row.good)
        text += f"| {network} | {of[0].called} | {len(of)} | {wrong or 'none'} |\n"
    return text


def _kind(kind: str) -> str:
    """Without the layout that it is made in."""
    layout, _, rest = kind.partition(", ")
    what = rest if layout in LAYOUTS else kind
    return "behind a prefix" if what.startswith("behind ") else what


def _grouped(rows: Sequence[FileRow], by: Callable[[FileRow], str]) -> dict[str, list[FileRow]]:
    groups: dict[str, list[FileRow]] = {}
    for row in rows:
        groups.setdefault(by(row), []).append(row)
    return groups
