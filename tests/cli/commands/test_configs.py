"""`mmdit configs`: the list, `NAME --resolved` and `--diff A B`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from mmdit.config.shipped import shipped_configs
from mmdit_cli.commands.config_contents import compared, resolved
from mmdit_cli.commands.shipped_sizes import Task, _size, shipped_sizes
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.request.tool_config import load_tool_config
from tests.support.command_lines import in_this_process
from tests.support.marks import slow_but
from tests.support.paths import CONFIGS
from tests.support.small_configs import TINY

EXTENDING = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "\nextends: " in path.read_text()]
MINE = """
extends: tiny.yaml
name: mine
model: {modalities: {image: null, audio: {dim: 4}}}
run: {tokens: {image: null}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    Path("mine.yaml").write_text(MINE)


SHIPPED = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in sorted(CONFIGS.rglob("*.yaml"))]
FEW = ["toy-two-modality"]


@pytest.mark.parametrize("name", slow_but(SHIPPED, *FEW))
def test_the_lists_sizes_are_those_that_flops_counts(name: str) -> None:
    size, counted = _size(name, shipped_configs()[name]), count_flops(load_tool_config(name))
    assert size.parameters == counted.parameters and size.tokens == counted.tokens
    assert size.forward_flops * size.batch_size == counted.forward_flops


@pytest.mark.slow
def test_configs_are_listed_by_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        **{"auraflow": "image", "hunyuan-image-2.1": "image", "flux.1-fill-dev": "edit", "flux.1-kontext-dev": "edit"},
        **{"qwen-image-layered": "edit", "hunyuan-video-i2v": "video", "video-to-audio": "audio"},
        **{"two-modality": "example", "toy-digits": "toy", "ablations/qk-norm/qk-norm": "ablation"},
    }
    found = shipped_configs()
    monkeypatch.setattr("mmdit_cli.commands.shipped_sizes.count_forward", lambda model, inputs: 0)
    monkeypatch.setattr(
        "mmdit_cli.commands.shipped_sizes.shipped_configs", lambda: {name: found[name] for name in reversed(wanted)}
    )
    sizes = shipped_sizes()
    assert {size.config: size.task for size in sizes} == wanted
    assert [size.task for size in sizes] == sorted(wanted.values(), key=get_args(Task).index)
    monkeypatch.setattr(
        "mmdit_cli.commands.shipped_sizes.shipped_configs", lambda: {k: found[k] for k in [*wanted][::-1]}
    )
    assert [size.task for size in shipped_sizes()] == [*wanted.values()]


@pytest.mark.parametrize("path", slow_but(EXTENDING, *EXTENDING[::6]), ids=lambda path: path.stem)
def test_a_resolved_config_is_whole_and_the_same(path: Path) -> None:
    text = resolved(str(path))
    Path("whole.yaml").write_text(text)
    assert "extends" not in text and load_tool_config("whole.yaml") == load_tool_config(path)


def test_any_config_is_printed_whole() -> None:
    code, out, err = in_this_process("mmdit configs mine.yaml --resolved")
    assert (code, err) == (0, "")
    assert out == (
        "name: mine\n"
        "model:\n"
        "  depth: 1\n"
        "  modalities:\n"
        "    text: {dim: 8}\n"
        "    audio: {dim: 4}\n"
        "  dim_cond: 4\n"
        "  heads: 1\n"
        "  dim_head: 8\n"
        "run:\n"
        "  batch_size: 2\n"
        "  tokens: {text: 3}\n"
    )


def test_what_differs_is_told_by_key_defaults_included() -> None:
    Path("b.yaml").write_text(MINE + "train: {steps: 7}\n")
    first, second = compared("tiny.yaml", "b.yaml")
    assert (first.config, second.config) == ("tiny.yaml", "b.yaml")
    keys = ["model.modalities.image", "model.modalities.audio", "run.tokens.image", "train.steps"]
    assert list(first.differing) == list(second.differing) == keys
    assert (first.differing["train.steps"], second.differing["train.steps"]) == (600, 7)
    assert first.differing["model.modalities.image"]["dim"] == 12 and second.differing["model.modalities.image"] is None
    assert (first.differing["run.tokens.image"], second.differing["run.tokens.image"]) == (5, None)


def test_a_key_that_came_later_is_compared_with_its_default() -> None:
    Path("b.yaml").write_text("extends: tiny.yaml\nmodel: {feedforward: {dropout: 0.5}}\n")
    found = [each.differing for each in compared("tiny.yaml", "b.yaml")]
    assert found == [{"model.feedforward.dropout": 0.0}, {"model.feedforward.dropout": 0.5}]


def test_keys_that_came_later_stand_in_a_section_that_the_other_config_has_not() -> None:
    output = "{kind: linear, dim: 3}"
    image = f"timestep: {{}}, modalities: {{image: {{output: {output}}}}}"
    Path("b.yaml").write_text(f"extends: tiny.yaml\nmodel: {{{image}}}\n")
    _, second = compared("tiny.yaml", "b.yaml")
    found = second.differing["model.modalities.image.output"]
    assert found == {
        **{"kind": "linear", "dim": 3, "norm": True, "bias": True},
        **{"parts": "shift_scale", "norm_eps": None, "kernel": 1},
    }


def test_the_table_and_the_document_hold_the_same() -> None:
    Path("b.yaml").write_text("extends: tiny.yaml\nmodel: {depth: 2, timestep: {frequencies: 8}}\n")
    code, out, _ = in_this_process("mmdit configs --diff tiny.yaml b.yaml --report r.md")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and ["tiny.yaml", "b.yaml"] in rows and ["model.depth", "1", "2"] in rows
    assert any(row[:7] == ["model.timestep", "null", "{frequencies:", "8,", "scale:", "1.0,", "bias:"] for row in rows)
    code, out, _ = in_this_process("mmdit configs --diff tiny.yaml b.yaml --json")
    assert [each["config"] for each in json.loads(out)["results"]] == ["tiny.yaml", "b.yaml"]
    assert [each["differing"]["model.depth"] for each in json.loads(out)["results"]] == [1, 2]
    assert "| differing.model.depth | 1 | 2 |" in Path("r.md").read_text()
    _, out, _ = in_this_process("mmdit configs --diff tiny.yaml tiny.yaml")
    assert out == "tiny.yaml and tiny.yaml differ in nothing but perhaps their names.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--resolved", "--resolved: of which config?"),
        ("tiny --resolved", "tiny: no such file; did you mean tiny.yaml?"),
        ("tiny.yaml --resolved --json", "its file is YAML"),
        ("--diff tiny.yaml", "requires 2 arguments"),
        ("tiny.yaml --diff tiny.yaml mine.yaml", "--diff takes two configs"),
        ("--resolved --diff tiny.yaml mine.yaml", "--diff takes two configs"),
        ("--diff tiny.yaml min.yaml", "min.yaml: no such file; did you mean mine.yaml?"),
        ("bad.yaml --resolved", "tiny.yaml:3:10: model.depth: expected a whole number"),
    ],
)
def test_a_wrong_request_is_refused(arguments: str, message: str) -> None:
    if "bad" in arguments:
        Path("bad.yaml").write_text("extends: tiny.yaml\n")
        Path("tiny.yaml").write_text(TINY.replace("depth: 1", "depth: one").lstrip())
    code, out, err = in_this_process(f"mmdit configs {arguments}")
    assert (code, out) == (2, "") and message in err
