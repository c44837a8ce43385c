"""What is printed where standard output is no terminal."""

from __future__ import annotations

import pytest

from mmdit_cli.output.console import stdout


@pytest.mark.parametrize("columns", [20, 60, None])
def test_a_footnote_keeps_to_the_columns_that_were_asked_for_and_is_one_line_without(columns, monkeypatch, capsys):
    note = "how a figure was made is told in a sentence or two. " * 4
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(columns))
    stdout().print(note)
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(" ".join(lines).split()) == note.strip()
    assert len(lines) == 1 if columns is None else max(map(len, lines)) <= columns
