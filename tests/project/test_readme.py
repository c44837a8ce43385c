"""The README is one page, and begins with what a user needs. Its code and commands: `test_docs.py`."""

from __future__ import annotations

from tests.support.pages import blocks
from tests.support.paths import ROOT

README = ROOT / "README.md"
LINES = README.read_text(encoding="utf-8").splitlines()


def test_it_is_one_page():
    assert len(LINES) <= 200


def test_the_two_commands_stand_on_lines_of_their_own():
    assert "pip install -c constraints.txt -e . && mmdit profile --config configs/two-modality.yaml" in LINES
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in LINES


def test_the_first_two_examples_are_the_block_and_the_general_transformer():
    first, second = blocks(README, "python")[:2]
    assert "MMDiTBlock(dim_joint_attn=512, dim_cond=256, dim_text=768, dim_image=512, qk_rmsnorm=True)" in first
    assert "MMDiT(depth=2, dim_modalities=(768, 512, 384), dim_joint_attn=512, dim_cond=256, qk_rmsnorm=True)" in second


def test_every_command_of_the_tool_has_a_line_and_a_page():
    import typer

    from mmdit_cli.app import app

    for name in typer.main.get_command(app).commands:
        page = f"docs/cli/{name}.md"
        assert any(line.startswith(f"| [`mmdit {name}`]({page}) |") for line in LINES), name
        assert (ROOT / page).exists()
