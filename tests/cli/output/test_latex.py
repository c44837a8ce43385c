from __future__ import annotations

import re

from mmdit_cli.output.latex import to_latex

RESULT = {
    "config": "a_b & 50% $x$ \\ {~^}",
    "parameters": 17_524_736,
    "forward_flops": 61_200_000_000,
    "components": [{"name": "attention", "kind": "attention", "flops": 5, "share": 0.25, "parameters": 3}],
}


def test_a_document_becomes_booktabs_tables_whose_rows_have_as_many_cells_as_there_are_columns():
    text = to_latex({"command": "flops", "results": [RESULT, {**RESULT, "config": "b"}]})
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 3 and "\\usepackage{booktabs}" in text.splitlines()[0]
    for columns, body in tables:
        assert [body.count(rule) for rule in ("\\toprule", "\\midrule", "\\bottomrule")] == [1, 1, 1]
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert len(rows) > 1 and all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
    assert "parameters & 17,524,736 & 17,524,736 \\\\" in text and "61.2~GFLOP" in text and "25.0\\%" in text


def test_what_a_user_named_is_text():
    text = to_latex({"command": "flops", "results": [RESULT]})
    assert "a\\_b \\& 50\\% \\$x\\$ \\textbackslash{} \\{\\textasciitilde{}\\textasciicircum{}\\}" in text
