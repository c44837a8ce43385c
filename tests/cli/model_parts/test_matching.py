"""`--match`: the values found are the best of all that could be, by counting every one of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

import mmdit
from mmdit.config.yaml_text import to_yaml
from mmdit.options import as_data
from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.errors import CheckFailed, UserError
from mmdit_cli.model_parts.flop_count import count_flops
from mmdit_cli.model_parts.matching import TOLERANCE, match_configs
from mmdit_cli.request.request import make_request
from mmdit_cli.request.tool_config import ToolConfig
from mmdit_cli.toy.comparability import as_trained
from tests.support.marks import slow_but
from tests.support.small_configs import config
from tests.support.toy import tiny


def parameters(design: ToolConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in mmdit.build(design.model).parameters())


def scaled(multiple: int, **fixed: object) -> ToolConfig:
    """The small config, `multiple` times its narrowest."""
    widths = {"text": {"dim": 6 * multiple}, "image": {"dim": 10 * multiple}}
    return config(modalities=widths, heads=multiple, dim_cond=3 * multiple, **fixed)


WIDTHS = ["model.modalities.*.dim", "model.heads", "model.dim_cond"]


def matched(match, vary, *designs: ToolConfig, names=("a", "b")):
    request = make_request("flops", list(names[: len(designs)]), [], "cpu", "fp32", 0, False, None)
    return match_configs(request, designs, match, vary), request


@pytest.mark.parametrize("depth", slow_but([1, 2, 7, 16], 7))
def test_the_depth_of_as_many_parameters_is_found(depth):
    wanted = parameters(config(depth=depth))
    (found,), request = matched(f"params={wanted}", ["model.depth"], config(depth=5))
    assert found == config(depth=depth)
    (note,) = request.beside["matched"]
    assert (note.value, note.wanted, note.changes) == (wanted, wanted, {"model.depth": depth})


SIZES = [(1, 400_000), pytest.param(3, 5_000, marks=pytest.mark.slow), pytest.param(9, 60_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("start", "wanted"), SIZES)
def test_keys_that_are_given_together_scale_together(start, wanted):
    best = min(map(scaled, range(1, 20)), key=lambda each: abs(parameters(each) - wanted))
    off = abs(parameters(best) / wanted - 1)
    if off > TOLERANCE:
        with pytest.raises(CheckFailed, match="no value of model.modalities.*.dim, model.heads, model.dim_cond makes"):
            matched(f"params={wanted}", WIDTHS, scaled(start))
    else:
        assert matched(f"params={wanted}", WIDTHS, scaled(start))[0] == [best]


@pytest.mark.slow
def test_flops_are_those_of_the_call_that_is_fed():
    fed = {"batch_size": 3, "tokens": {"text": 70, "image": 90}}
    wanted = count_flops(config(fed, depth=3)).forward_flops
    (found,), request = matched(f"flops={wanted}", ["model.depth"], config(fed, depth=1))
    assert found == config(fed, depth=3) and request.beside["matched"][0].value == wanted


def test_values_that_contradict_others_are_passed_over():
    def joint(width: int) -> ToolConfig:
        return config(dim_joint_attn=width, dim_head=8, heads=None)

    wanted = parameters(joint(200)) + 40
    (found,), _ = matched(f"params={wanted}", ["model.dim_joint_attn"], joint(24))
    assert found == joint(200)


def test_a_wide_size_stays_a_multiple_of_eight_where_that_comes_near_enough():
    wide = {"text": {"dim": 64}, "image": {"dim": 12}}
    wanted = parameters(config(modalities=wide | {"text": {"dim": 103}}))
    (found,), _ = matched(f"params={wanted}", ["model.modalities.text.dim"], config(modalities=wide))
    assert found.model.modalities["text"].dim == 104
    wanted = parameters(config(modalities=wide | {"text": {"dim": 13}}))  # which neither 8 nor 16 comes near
    (found,), _ = matched(f"params={wanted}", ["model.modalities.text.dim"], config(modalities=wide))
    assert found.model.modalities["text"].dim == 13


def test_what_comes_nearest_is_told_where_nothing_is_equal():
    one, two = parameters(config(depth=1)), parameters(config(depth=2))
    with pytest.raises(CheckFailed) as failed:
        matched(f"params={(one + two) // 2}", ["model.depth"], config(depth=4))
    for text in ("--set model.depth=1 has", "% below", "--set model.depth=2 has", "% above"):
        assert text in str(failed.value)
    with pytest.raises(CheckFailed, match="the nearest: small with --set model.depth=1 has .* above 3"):
        matched("params=3", ["model.depth"], config())


def test_the_design_that_is_the_target_stays_as_it_is(tmp_path, monkeypatch):
    first, second = config(depth=3), config(depth=1, qk_rmsnorm=True)
    found, request = matched("params=a", ["model.depth"], first, second)
    assert found == [first, replace(second, model=replace(second.model, depth=3))]
    assert [each.target for each in request.beside["matched"]] == ["a"]


@pytest.mark.parametrize(
    ("match", "vary", "message"),
    [
        (None, ["model.depth"], "--vary: to equal what"),
        ("params=3", None, "--match: which value may change"),
        ("parameters=3", ["model.depth"], "expected params=NAME_OR_NUMBER"),
        ("params", ["model.depth"], "expected params=NAME_OR_NUMBER"),
        ("params=3", ["model.dept"], "--vary model.dept: small has no value there"),
        ("params=3", ["model.modalities.*.rotary"], "model.modalities.text.rotary of small: expected a whole"),
        ("params=3", ["model.variant"], "expected a whole number to begin with, got generalized"),
        ("params=3", ["model.qk_rmsnorm"], "expected a whole number to begin with, got false"),
    ],
)
def test_what_can_not_be_matched_is_told(match, vary, message):
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        matched(match, vary, config())


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    from mmdit_cli.app import main

    (tmp_path / "small.yaml").write_text(json.dumps(as_data(config())))
    (tmp_path / "other.yaml").write_text(to_yaml(as_data(config(depth=4))))
    monkeypatch.chdir(tmp_path)

    def command(*words: str):
        monkeypatch.setattr(sys, "argv", ["mmdit", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return command


def test_the_command_line_says_what_to_set(run):
    asked = ["flops", "-c", "small.yaml", "--match", "flops=other.yaml", "--vary", "model.depth"]
    code, out, _ = run(*asked, "--report", "r.json")
    text = " ".join(out.split())
    assert code == 0 and "small with --set model.depth=4 has" in text and "of other.yaml: of 2 × (7 + 9)" in text
    document = json.loads(Path("r.json").read_text())
    Draft202012Validator(document_schema("flops")).validate(document)
    (found,) = document["matched"]
    assert found["changes"] == {"model.depth": 4}
    assert found["value"] == found["wanted"] == document["results"][0]["forward_flops"]
    assert run(*asked[:3], "--match", "params=3", "--vary", "model.depth")[0] == 1
    code, _, err = run(*asked, "--sweep", "run.batch_size=1,2")
    assert code == 2 and "--match and --sweep" in err
    code, _, err = run(*asked[:3], "--match", "params=sd3-mediun", "--vary", "model.depth")
    assert code == 2 and "sd3-medium" in err


def test_what_is_trained_is_the_matched_design_counted_on_its_own_batch(run, monkeypatch):
    def deep(depth: int) -> ToolConfig:
        thin = tiny(batch_size=2)
        return replace(thin, model=replace(thin.model, depth=depth), run=replace(thin.run, batch_size=64))

    trained = []
    monkeypatch.setattr("mmdit_cli.toy.training.train", lambda design, **how: trained.append(design))
    Path("thin.yaml").write_text(to_yaml(as_data(deep(1))))
    wanted = count_flops(as_trained(deep(3))).forward_flops
    code, _, err = run("train-toy", "-c", "thin.yaml", "--match", f"flops={wanted}", "--vary", "model.depth")
    assert (code, trained) == (0, [deep(3)]) and "tiny with --set model.depth=3 has" in err
