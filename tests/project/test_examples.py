"""The scripts of examples/ run as they stand, and print what they are meant to show."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.support.paths import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
SHOWN = {
    "compare_designs": r"^standard +486,880 .*\n^adaptive +882,400 .*\n^4 streams +491,766 ",
    "official_checkpoint": r"^[\d,]+ parameters, loaded as they were made: True\nlatent \(1, 16, 32, 32\)",
    "three_modalities": r"^padding changes nothing: True$",
    "training_loop": r"^1[4-6] of 16 drawn where the caption says$",
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_shows_what_it_is_for(script, capsys):
    runpy.run_path(str(script), run_name="__main__")
    assert re.search(SHOWN[script.stem], capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(script):
    text = script.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert f"python examples/{script.name}" in text.split('"""')[1]
