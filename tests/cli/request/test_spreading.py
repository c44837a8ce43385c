"""`--parallel` as text, and the processes along each dimension that it comes to."""

from __future__ import annotations

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.request.spreading import read_spreading


@pytest.mark.parametrize(
    ("text", "processes", "machines", "sizes"),
    [
        ("ddp", 4, 1, (4, 1, 1, 1)),
        ("fsdp", 4, 1, (1, 4, 1, 1)),
        ("hsdp", 4, 1, (2, 2, 1, 1)),
        ("hsdp", 32, 4, (4, 8, 1, 1)),
        ("hsdp=8", 32, 4, (8, 4, 1, 1)),
        ("tp=2", 4, 1, (2, 1, 1, 2)),
        ("tp=2, ulysses=2", 4, 1, (1, 1, 2, 2)),
        ("fsdp,tp=2,ulysses=4", 16, 1, (1, 2, 4, 2)),
    ],
)
def test_what_is_asked_for_is_so_many_processes_along_each_dimension(text, processes, machines, sizes):
    asked = read_spreading(text)
    assert tuple(asked.over(processes, machines).values()) == sizes
    assert asked.is_plain == (text == "ddp")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zero", "expected ddp, fsdp, hsdp, tp=N, ulysses=N, several by commas, got 'zero'"),
        ("tp", "got 'tp'"),
        ("tp=0", "got 'tp=0'"),
        ("tp=two", "got 'tp=two'"),
        ("fsdp=2", "got 'fsdp=2'"),
        ("fsdp,", "got ''"),
        ("tp=2,tp=4", "'tp=4' says again"),
        ("ddp,fsdp", "'fsdp' says again"),
    ],
)
def test_another_text_is_an_error_that_says_what_is_expected(text, message):
    with pytest.raises(UserError, match=message):
        read_spreading(text)


@pytest.mark.parametrize(
    ("text", "processes", "message"),
    [
        ("tp=3", 4, "tp=3: 3 processes each time, but there are 4"),
        ("tp=2,ulysses=4", 4, "8 processes each time, but there are 4"),
        ("hsdp=3", 4, "3 replicas do not divide 4"),
        ("hsdp", 3, "2 replicas do not divide 3"),
    ],
)
def test_processes_that_do_not_divide_so_are_an_error(text, processes, message):
    with pytest.raises(UserError, match=message):
        read_spreading(text).over(processes)
