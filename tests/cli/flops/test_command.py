"""`mmdit flops`: sweeps, budgets, tables, refusals."""

from __future__ import annotations

import json
import re
import sys

import pytest
from jsonschema import Draft202012Validator

from mmdit.options import as_data
from mmdit_cli.commands.json_schemas import document_schema
from mmdit_cli.model_parts.flop_count import count_flops
from tests.support.small_configs import config


@pytest.fixture
def flops(tmp_path, monkeypatch, capfd, counted_once):
    """Runs `mmdit flops` on a small config: exit code, standard output, standard error."""
    from mmdit_cli.app import main

    (tmp_path / "small.yaml").write_text(json.dumps(as_data(config())))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["mmdit", "flops", "-c", "small.yaml", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.mark.slow
def test_a_sweep_is_one_result_a_point(flops):
    code, out, _ = flops("--sweep", "run.batch_size=1,4", "--sweep", "model.depth=1,2,3", "--json")
    results = json.loads(out)["results"]
    assert code == 0 and [r["point"] for r in results] == [
        {"run.batch_size": batch, "model.depth": depth} for batch in (1, 4) for depth in (1, 2, 3)
    ]
    for r in results:
        chosen = config({"batch_size": r["point"]["run.batch_size"]}, depth=r["point"]["model.depth"])
        assert r["step_flops"] == count_flops(chosen).step_flops


def test_a_sweeps_table_is_one_row_a_point(flops):
    code, out, _ = flops("--sweep", "run.tokens.image=4,16", "--images", "1e3", "--card-flops", "1e9")
    rows = [line.split() for line in out.splitlines() if line.split() and line.split()[0] in ("4", "16")]
    assert code == 0 and len(rows) == 2 and "step/token" in out
    parameters = count_flops(config()).parameters
    assert [row[1:3] for row in rows] == [[f"{parameters / 1e3:.1f}", "k"]] * 2


def test_points_that_can_not_be_are_named_in_table_and_document(flops):
    sweep = ["--sweep", "model.depth=2,0", "--sweep", "run.batch_size=2,200"]
    code, out, _ = flops(*sweep, "--budget", str(3 * count_flops(config()).step_flops), "--json")
    document = json.loads(out)
    Draft202012Validator(document_schema("flops")).validate(document)
    assert code == 0 and [list(r["point"].values()) for r in document["results"]] == [[2, 2]]
    reasons = {tuple(each["point"].values()): each["reason"] for each in document["left_out"]}
    assert len(reasons) == 3 and "--sweep model.depth=0" in reasons[0, 2] and "budget" in reasons[2, 200]
    code, out, _ = flops("--sweep", "model.depth=1,0")
    said = " ".join(out.split())
    assert code == 0 and "Left out: small.yaml with model.depth=0: --sweep model.depth=0: model.depth: there" in said
    code, out, err = flops("--sweep", "model.depth=0,-1")
    assert code == 2 and not out and "--sweep model.depth=0" in err


@pytest.mark.slow
def test_designs_given_other_batches_are_said_to_be(flops, tmp_path):
    said = "Other batch × tokens: ratios are of whole batches"
    for name, run in (("b", {}), ("c", {"batch_size": 1})):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(as_data(config(run))))
    assert said not in flops("-c", "b.yaml")[1]
    assert said in flops("-c", "c.yaml")[1]
    assert said not in flops("--sweep", "run.batch_size=1,4")[1]


def test_a_budget_stands_in_the_document_and_the_table(flops):
    options = ["--images", "1e3", "--card", "h100", "--cards", "2", "--utilization", "50%", "--dtype", "bf16"]
    code, out, _ = flops(*options, "--json")
    plan, step = json.loads(out)["results"][0]["training"], count_flops(config()).step_flops
    assert code == 0 and (plan["steps"], plan["flops"]) == (500, 500 * step)
    assert plan["hours"] == pytest.approx(500 * step / (989.4e12 * 2 * 0.5) / 3600)
    code, out, _ = flops(*options)
    assert code == 0 and "2 × h100, bf16" in out and "card hours" in out


@pytest.mark.parametrize(
    ("varlen", "share", "text"),
    [
        ("true", 0.43, "of valid tokens alone"),
        pytest.param("false", 0.43, "of all tokens, the padding", marks=pytest.mark.slow),
    ],
)
def test_figures_a_token_say_which_tokens(varlen, share, text, flops):
    padded = ["--set", f"model.varlen={varlen}", "--set", f"run.mask.text={share}"]
    out = " ".join(flops(*padded, "--images", "100")[1].split())
    assert f"Padding: (3 + 9) of a sample's tokens are valid. FLOPs are {text}" in out
    assert "A token: one as it comes in, the padding included." in out and "model FLOPs, the padding" not in out
    (result,) = json.loads(flops(*padded, "--json")[1])["results"]
    assert (result["valid_tokens"], result["packed"]) == ({"text": 3, "image": 9}, varlen == "true")
    (whole,) = json.loads(flops("--json")[1])["results"]
    assert (result["forward_flops"] < whole["forward_flops"]) == result["packed"]


def test_configs_stand_beside_the_first_with_their_ratio_to_it(flops):
    code, out, _ = flops("-c", "small.yaml")
    forward = next(line for line in out.splitlines() if line.split()[:1] == ["forward"])
    assert code == 0 and forward.split()[-1] == "×1"


@pytest.mark.parametrize("options", [["--elementwise"], ["-c", "small.yaml"], ["--sweep", "model.depth=1,2"]])
def test_a_table_whose_figures_have_no_unit_has_one_in_its_title(options, flops):
    tables = re.split(r"\n(?=\S)", flops(*options)[1])  # each with the title in front
    bare = [table.splitlines()[0] for table in tables if re.search(r"\d [kMGT]\s", table)]
    assert bare and all(", in FLOP" in title for title in bare)


@pytest.mark.parametrize(
    "options",
    [
        ["--elementwise"],
        ["--sweep", "run.batch_size=1,4", "--sweep", "run.tokens.image=16", "--images", "1e9", "--card", "h100"],
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(["--images", "1e9", "--card", "b200"], marks=pytest.mark.slow),
        pytest.param(
            ["-c", "small.yaml", "-c", "small.yaml", "--budget", "5e12", "--card", "b200"], marks=pytest.mark.slow
        ),
    ],
)
def test_at_80_columns_no_table_is_wider_and_no_row_wraps(options, flops, monkeypatch):
    narrow = flops(*options)[1]
    monkeypatch.setenv("COLUMNS", "300")
    wide = flops(*options)[1]
    rows = [[line for line in out.splitlines() if line.startswith(" ")] for out in (narrow, wide)]
    assert max(len(line.rstrip()) for line in rows[0]) <= 80
    assert len(rows[0]) == len(rows[1]) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "1e9", "--budget", "1e20"], "give one of them"),
        (["--card", "h100"], "--card says where a budget is spent"),
        (["--images", "1e9", "--cards", "8"], "--cards: of which card"),
        (["--images", "1e9", "--card", "h100", "--card-flops", "1e15"], "--card and --card-flops: give one"),
        (["--images", "1e9", "--card", "h1000"], "did you mean h100"),
        (["--images", "lots"], "--images lots: expected a whole number above 0"),
        (["--images", "1e9", "--card", "h100", "--utilization", "40"], "--utilization 40: expected a share"),
        (["--budget", "10"], "--budget 10: one step over a batch of 2 takes"),
        (["--images", "1e9", "--card", "h100", "--dtype", "fp8"], "--dtype fp8: expected one of"),
        (["--sweep", "model.depth=1,1"], "--sweep model.depth"),
    ],
)
def test_a_wrong_request_is_one_message_and_exit_2(options, message, flops):
    code, out, err = flops(*options)
    assert code == 2 and out == "" and message in err
    assert err.startswith("error: ") and err.count("error: ") == 1 and "Traceback" not in err
