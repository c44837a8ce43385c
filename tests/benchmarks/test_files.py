"""Every kind of file, of every family: the tool says what it is, and reads what it stands for."""

from __future__ import annotations

import pytest

from benchmarks.files.kinds import NETWORKS, rows_of
from benchmarks.files.kinds_document import FileRow, document


@pytest.mark.slow
@pytest.mark.parametrize("family", NETWORKS.values(), ids=str)
def test_each_kind_of_file_is_called_what_it_is_and_read_within_its_own_error(family):
    rows = list(rows_of(family))
    assert len(rows) >= 14
    assert [str(row) for row in rows if not row.good] == []


def test_the_document_has_a_line_for_each_kind_and_each_network():
    rows = [
        FileRow("a", "diffusers, behind transformer.", "", None, 0.0, 1e-5, "", "of a"),
        FileRow("a", "flux, fp8", "", 3e-7, 0.1, 0.2, "", "of a"),
        FileRow("b", "diffusers, fp8", "", 2e-7, 0.3, 0.2, "", "of b"),
    ]
    text = document(rows)
    assert "of each of 2 published ones" in text and "| fp8 | 2 | 3.0e-01 | 2e-01 | 3.0e-07 |\n" in text
    assert "| behind a prefix | 1 | 0.0e+00 | 1e-05 |  |\n| fp8" in text
    assert "| a | of a | 2 | none |\n| b | of b | 1 | diffusers, fp8: error 3.0e-01 |\n" in text
