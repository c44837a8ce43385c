from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.figure import Figure

from mmdit_cli.output.figures import save_figure
from mmdit_cli.request.targets import PICTURES

STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().set_title("<a> & $b$")
    return figure


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_is_of_the_kind_that_its_name_says_and_the_same_each_time(suffix, tmp_path):
    for name in ("a", "b"):
        save_figure(drawn(), tmp_path / f"{name}{suffix.upper()}")
    first, second = ((tmp_path / f"{name}{suffix.upper()}").read_bytes() for name in ("a", "b"))
    assert first == second and first.startswith(STARTS[suffix])
    if suffix == ".svg":
        assert ElementTree.fromstring(first).tag.endswith("svg")
    if suffix == ".pdf":
        assert b"/Type3" not in first.replace(b" ", b"")
