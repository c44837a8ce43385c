from __future__ import annotations

import re

import pytest
import yaml

from mmdit_cli.request.tool_config import as_tool_config
from tests.support.paths import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_the_code_runs_as_it_stands(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    exec(compile(code, "README.md", "exec"), {})


def test_the_first_two_examples_are_the_block_and_the_general_transformer():
    first, second = blocks("python")[:2]
    assert "MMDiTBlock(dim_joint_attn=512, dim_cond=256, dim_text=768, dim_image=512, qk_rmsnorm=True)" in first
    assert "MMDiT(depth=2, dim_modalities=(768, 512, 384), dim_joint_attn=512, dim_cond=256, qk_rmsnorm=True)" in second


def test_the_config_is_valid():

    for text in blocks("yaml"):
        as_tool_config(yaml.safe_load(text))


def test_every_command_and_option_exists():
    import typer

    from mmdit_cli.app import app

    commands = typer.main.get_command(app).commands
    used = [line.split("mmdit ", 1)[1] for line in TEXT.splitlines() if re.match(r"^(\$ |.*&& )?mmdit [a-z]", line)]
    assert used
    for line in used:
        name, *words = line.split()
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("-") and word != "-"} <= options, line


def test_no_file_it_links_to_is_missing():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target
