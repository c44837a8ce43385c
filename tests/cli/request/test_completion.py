"""What a shell offers while a command is typed, asked as the shells ask."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mmdit.config.shipped import shipped_configs
from mmdit_cli.app import main
from mmdit_cli.request.completion import config_keys, config_names, settings
from tests.support.paths import ROOT
from tests.support.small_configs import TINY


def typed(text: str, *configs: str) -> list[str]:
    return settings(SimpleNamespace(params={"config": list(configs)}), text)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("image:", "picture:"))
    (tmp_path / "mine.yaml").write_text("extends: tiny.yaml\n")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(TINY)


def test_configs_are_the_shipped_ones_and_those_that_lie_here():
    assert config_names("sd3.5") == ["sd3.5-large", "sd3.5-medium"]
    assert config_names("") == [*shipped_configs(), "mine.yaml", "run", "tiny.yaml"]
    assert config_names("ti") == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("mo", {"model.depth=", "model.attention.", "model.modalities.", "model.qk_rmsnorm="}),  # the only one
        ("", {"name=", "model.", "run.", "train."}),
        ("model.att", {"model.attention.kind=", "model.attention.softclamp="}),
        ("model.attention.kind", {"model.attention.kind=", "model.attention.kind=standard"}),
        ("model.attention.kind=a", {"model.attention.kind=standard", "model.attention.kind=adaptive"}),
        ("model.qk_rmsnorm=", {"model.qk_rmsnorm=true", "model.qk_rmsnorm=false"}),
        ("train.optimiser", set()),
        ("model.residual.kind=", {"model.residual.kind=hyper_connections"}),
        ("train.timesteps.kind=", {"train.timesteps.kind=cosmap"}),
        ("model.modalities.*.d", {"model.modalities.*.dim="}),
        ("model.modalities.*.input.kind=", {f"model.modalities.*.input.kind={k}" for k in ("mlp", "patches")}),
        ("train.steps=", {"train.steps=600"}),
    ],
)
def test_keys_and_values_are_those_of_the_schema(text, offered):
    found = typed(text)
    assert offered <= set(found) and bool(found) is bool(offered)


def test_the_names_of_modalities_are_those_of_the_config_that_is_named():
    assert typed("model.modalities.", "mine.yaml") == [f"model.modalities.{n}." for n in ("text", "picture", "*")]
    assert typed("run.tokens.", "tiny.yaml") == ["run.tokens.text=", "run.tokens.picture=", "run.tokens.*="]
    assert typed("model.modalities.text.input.", "sd3-medium")[0] == "model.modalities.text.input.kind="
    assert typed("model.modalities.", "none.yaml", "tiny.yaml")[0].startswith("model.modalities.*.")


def test_what_may_vary_is_a_key():
    context = SimpleNamespace(params={})
    assert config_keys(context, "model.dep") == ["model.depth"]
    assert "model.attention." in config_keys(context, "model.") and "model.heads" in config_keys(context, "model.")


@pytest.fixture
def asked(monkeypatch, capfd):
    """As the script that `--show-completion` prints for a shell asks; in bash an = is a word of its own."""

    def ask(shell: str, *words: str) -> list[str]:
        for name in ("COMP_WORDS", "COMP_CWORD", "_TYPER_COMPLETE_ARGS", "_MMDIT_COMPLETE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "argv", ["mmdit"])
        monkeypatch.setenv("_MMDIT_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", " ".join(words))
        monkeypatch.setenv("COMP_WORDS", "\n".join(words))
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        with pytest.raises(SystemExit):
            main()
        out, err = capfd.readouterr()
        assert not err
        return out.splitlines()

    return ask


def test_bash_is_told_what_comes_after_the_sign_of_equality(asked):
    assert asked("bash", "mmdit", "flops", "-c", "sd3.5") == ["sd3.5-large", "sd3.5-medium"]
    assert "model.depth=" in asked("bash", "mmdit", "flops", "-c", "tiny.yaml", "--set", "model.")
    before = ("mmdit", "flops", "-c", "tiny.yaml", "--set", "model.depth", "=", "2", "--set")
    assert asked("bash", *before, "model.attention.kind", "=", "a") == ["adaptive"]
    assert sorted(asked("bash", *before, "model.attention.kind", "=")) == ["adaptive", "standard"]
    assert asked("bash", *before[:4], "--set", "=", "run.tokens.p") == ["run.tokens.picture="]
    assert asked("bash", *before[:4], "--set", "=", "model.attention.kind", "=", "a") == ["adaptive"]


def test_zsh_is_told_the_whole(asked):
    (line,) = asked("zsh", "mmdit", "flops", "--set", "model.attention.kind=a")
    assert "model.attention.kind=adaptive" in line


def test_completing_needs_neither_torch_nor_the_library():
    code = (
        "from mmdit_cli.app import main\nimport sys\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'mmdit', 'numpy', 'pydantic'} & set(sys.modules), file=sys.stderr)"
    )
    words = {"COMP_WORDS": "mmdit\nflops\n--set\nmodel.", "COMP_CWORD": "3", "_MMDIT_COMPLETE": "complete_bash"}
    environment = os.environ | words | {"PYTHONPATH": str(ROOT)}
    code = f"import sys; sys.argv = ['mmdit']\n{code}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "model.depth=" in done.stdout and done.stderr == "set()\n"
