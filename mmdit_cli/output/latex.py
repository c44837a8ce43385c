"""A document as booktabs tables, for a paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmdit_cli.output.console import printable
from mmdit_cli.output.page.sections import document_section
from mmdit_cli.output.page.sheets import Sheet

HEAD = "% mmdit {command}. In the preamble: \\usepackage{{booktabs}}"
SIGNS = {  # what LaTeX would not show as it is
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}"},
    **{">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}", "µ": "$\\mu$", "×": "$\\times$"},
    **{"±": "$\\pm$", "–": "--", "…": "\\ldots{}", "·": "$\\cdot$"},
}


def to_latex(document: Mapping[str, Any]) -> str:
    """A table of the main figures, and one for each list of records that is not folded on the page."""
    section = document_section([("", document)])
    tables = [_table(sheet) for sheet in section.sheets if not sheet.folded]
    return "\n\n".join([HEAD.format(command=document["command"]), *tables]) + "\n"


def _table(sheet: Sheet) -> str:
    """Names stand left and numbers right."""
    numbers = [any(row[i].number is not None for row in sheet.rows) for i in range(len(sheet.head))]
    columns = "".join("r" if number else "l" for number in numbers)
    rows = [" & ".join(_text(cell.text) for cell in row) + " \\\\" for row in sheet.rows]
    head = " & ".join(map(_text, sheet.head)) + " \\\\"
    lines = [
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_text(sheet.title)}}}",
        f"  \\begin{{tabular}}{{{columns}}}",
    ]
    lines += [f"    {line}" for line in ("\\toprule", head, "\\midrule", *rows, "\\bottomrule")]
    return "\n".join([*lines, "  \\end{tabular}", "\\end{table}"])


def _text(text: str) -> str:
    """Whatever was named is text; a number is not parted from its unit."""
    text = "".join(SIGNS.get(sign, sign) for sign in printable(text.replace("\n", " "), keep=""))
    return re.sub(r"(?<=\d) (?=\S)", "~", text)
