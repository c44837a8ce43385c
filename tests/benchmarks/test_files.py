"""Every kind of file, of every family: the tool says what it is, and reads what it stands for."""

from __future__ import annotations

import pytest

from benchmarks.families.diffusers_networks import FAMILIES
from benchmarks.files.kinds import rows_of


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_each_kind_of_file_is_called_what_it_is_and_read_within_its_own_error(family):
    rows = list(rows_of(family))
    assert len(rows) >= 14
    assert [str(row) for row in rows if not row.good] == []
