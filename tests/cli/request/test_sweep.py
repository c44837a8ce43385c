"""`--sweep`: how a grid is read, and what a wrong one is told."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from mmdit.config.yaml_document import ConfigError
from mmdit_cli.errors import UserError
from mmdit_cli.request.request import make_request
from mmdit_cli.request.sweep import load_grid, over_grid, parse_sweeps, short_names

TINY = """
name: tiny
model: {depth: 1, modalities: {text: {dim: 8}, image: {dim: 12}}, heads: 1, dim_head: 8}
run: {tokens: {text: 3}}
"""


def request(tmp_path, *configs, overrides=()):
    (tmp_path / "tiny.yaml").write_text(TINY)
    paths = [c if c == "-" else str(tmp_path / c) for c in configs or ("tiny.yaml",)]
    return make_request("flops", paths, list(overrides), "cpu", "fp32", 0, False, None)


def test_values_are_read_as_yaml_and_brackets_and_quotes_hold_commas():
    (axis,) = parse_sweeps(['a.b=1, 2.5,1e3,null,x y,[1,2],{p: 1, q: "},"},"1,2"'])
    assert axis.key == "a.b"
    assert axis.values == (1, 2.5, 1000.0, None, "x y", [1, 2], {"p": 1, "q": "},"}, "1,2")


def test_a_grid_is_every_config_at_every_point_and_overrides_come_first(tmp_path):
    grid = load_grid(
        request(tmp_path, overrides=["run.batch_size=7", "model.depth=2"]),
        ["run.batch_size=1,2", "run.tokens.image=16,64,256"],
    )
    assert [(p.config.run.batch_size, p.config.run.tokens["image"]) for p in grid] == [
        (b, t) for b in (1, 2) for t in (16, 64, 256)
    ]
    assert all(p.config.model.depth == 2 and p.config.run.tokens["text"] == 3 for p in grid)
    assert grid[1].point == {"run.batch_size": 1, "run.tokens.image": 64}


def test_all_modalities_are_swept_together(tmp_path):
    grid = load_grid(request(tmp_path), ["model.modalities.*.dim=16,32", "run.tokens.image=4"])
    assert [[m.dim for m in p.config.model.modalities.values()] for p in grid] == [[16, 16], [32, 32]]
    assert grid[0].point == {"model.modalities.*.dim": 16, "run.tokens.image": 4}


def test_without_a_sweep_each_config_stands_once(tmp_path):
    grid = load_grid(request(tmp_path, "tiny.yaml", "tiny.yaml"), None)
    assert [(p.config.name, p.point) for p in grid] == [("tiny", {})] * 2


def test_standard_input_is_read_once_for_all_points(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(TINY.encode())))
    assert len(load_grid(request(tmp_path, "-"), ["model.depth=1,2,3"])) == 3


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        (["depth"], "--sweep depth: expected KEY=V1,V2 with a dotted key"),
        (["=1,2"], "expected KEY=V1,V2"),
        (["model..depth=1"], "expected KEY=V1,V2"),
        (["model.depth=1,,2"], "value 2 of model.depth is empty"),
        (["model.depth="], "value 1 of model.depth is empty"),
        (["model.depth=1,2,1"], "model.depth takes the value 1 twice"),
        (["model.depth=1,[2"], r"--sweep model.depth=\[2: not valid YAML"),
        (["model.depth=1", "model.depth=2"], "--sweep model.depth is swept twice; give all its values"),
        (["run.tokens={image: 4}", "run.tokens.image=1,2"], "run.tokens: one holds the other"),
        (["run.tokens.*=4", "run.tokens.image=1,2"], r"run.tokens.\*: one holds the other"),
        (["run.tokens.*=4", "run.tokens.*=1,2"], r"--sweep run.tokens.\* is swept twice"),
        (["run.batch_size=1,024"], "is 1,024 one value"),
        (["run.batch_size=512,1,024,2"], "is 1,024 one value"),
    ],
)
def test_a_malformed_sweep_names_its_key_and_value(sweeps, message):
    with pytest.raises(UserError, match=message):
        parse_sweeps(sweeps)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("model.depht=1,2", "--sweep model.depht=1: model.depht: unknown key; did you mean depth"),
        ("model.depth=two,0", "--sweep model.depth=two: model.depth: expected a whole number"),
        ("run.tokens.txt=1,2", "'txt' is no modality"),
    ],
)
def test_where_no_point_is_a_config_the_first_is_named(tmp_path, sweep, message):
    with pytest.raises(ConfigError, match=message):
        load_grid(request(tmp_path), [sweep])


def test_points_that_can_not_be_are_left_out_and_named(tmp_path):
    asked = request(tmp_path)
    grid = load_grid(asked, ["model.depth=1,0,2", "model.dim_joint_attn=8,9"])
    assert [p.point for p in grid] == [{"model.depth": d, "model.dim_joint_attn": 8} for d in (1, 2)]
    left_out = asked.beside["left_out"]
    assert [each.point for each in left_out] == [
        {"model.depth": d, "model.dim_joint_attn": j} for d, j in ((1, 9), (0, 8), (0, 9), (2, 9))
    ]
    assert "--sweep model.depth=0: model.depth: there would be no block" in left_out[1].reason
    where = f"{tmp_path}/tiny.yaml with model.depth=0, model.dim_joint_attn=8"
    assert asked.footnotes[1].startswith(f"Left out: {where}: --sweep")


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        (["model.depth=1,two"], "--sweep model.depth=two: model.depth: expected a whole number"),
        (["model.depth=1,0", "run.batch_size=1,-1"], "--sweep run.batch_size=-1: .*: expected a number > 0"),
        (["model.qk_rmsnorm=true,yes"], "--sweep model.qk_rmsnorm=yes: .*: expected true or false"),
        (["model.modalities.*.dim=8,1.5"], r"--sweep model.modalities.\*.dim=1.5: .*: expected a whole number"),
    ],
)
def test_a_value_that_its_key_can_never_have_is_an_error(tmp_path, sweeps, message):
    with pytest.raises(ConfigError, match=message):
        load_grid(request(tmp_path), sweeps)


def test_the_foot_names_the_first_of_many_points(tmp_path):
    asked = request(tmp_path)
    load_grid(asked, ["model.dim_joint_attn=8..38"])
    assert len(asked.beside["left_out"]) == 30
    assert len(asked.footnotes) == 11 and "20 more points" in asked.footnotes[-1]


def test_a_config_that_is_right_at_no_point_is_no_config(tmp_path):
    (tmp_path / "other.yaml").write_text(TINY.replace("depth: 1", "dept: 1"))
    with pytest.raises(ConfigError, match="other.yaml:3:9: model.dept: unknown key"):
        load_grid(request(tmp_path, "tiny.yaml", "other.yaml"), ["model.heads=1,2"])


def test_points_of_which_nothing_can_be_made_are_left_out(tmp_path):
    def work(at):
        if at.point["model.depth"] > 1:
            raise UserError("too deep")
        return at.config.model.depth

    asked = request(tmp_path)
    grid = load_grid(asked, ["model.depth=1,2,3"])
    assert over_grid(asked, grid, work) == [(grid[0], 1)]
    assert [(each.config, each.reason) for each in asked.beside["left_out"]] == [("tiny", "too deep")] * 2
    with pytest.raises(UserError, match="too deep"):
        over_grid(asked, grid[1:], work)
    alone = load_grid(asked, None)
    with pytest.raises(KeyError):  # nobody's sweep, and nothing of it is hidden
        over_grid(asked, alone, work)


def test_names_are_as_short_as_tells_them_apart():
    assert short_names([{"run.tokens.image": 1, "run.batch_size": 2}]) == {
        "run.tokens.image": "image",
        "run.batch_size": "batch_size",
    }
    assert short_names([{"a.text.dim": 1, "a.image.dim": 2}]) == {"a.text.dim": "text.dim", "a.image.dim": "image.dim"}
    assert short_names([]) == {}
