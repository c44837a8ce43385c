from __future__ import annotations

import csv
import io
import json

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.output.renderings import SUFFIXES, render
from mmdit_cli.profile.baseline import compare_with_baseline, load_baseline, parse_tolerance
from mmdit_cli.request.targets import check_target

DOCUMENT = {
    "command": "profile",
    "dtype": "fp32",
    "seed": 0,
    "results": [
        {
            "config": "a",
            "flops": 12,
            "latency_ms": {"median": 1.5},
            "tokens": {"text": 3},
            "shape": [1, 2],
            "components": [{"name": "attention", "flops": 5}, {"name": "a|b", "flops": 7}],
        },
        {"config": "b", "flops": 20, "latency_ms": {"median": None}, "tokens": {"text": 4}, "components": []},
    ],
}


def test_json_is_the_document_itself():
    assert json.loads(render(DOCUMENT, ".json")) == DOCUMENT


def test_csv_has_a_row_for_each_result_and_dotted_columns():
    rows = list(csv.DictReader(io.StringIO(render(DOCUMENT, ".CSV"))))
    assert [row["config"] for row in rows] == ["a", "b"]
    assert rows[0]["latency_ms.median"] == "1.5" and rows[1]["latency_ms.median"] == ""
    assert rows[0]["components.attention.flops"] == "5" and rows[1]["components.attention.flops"] == ""
    assert rows[0]["dtype"] == "fp32" and rows[0]["tokens.text"] == "3" and rows[0]["shape"] == "[1, 2]"


def test_markdown_has_the_results_side_by_side_and_a_table_of_records():
    text = render(DOCUMENT, ".md")
    assert text.startswith("# mmdit profile\n")
    assert "|  | a | b |" in text and "| flops | 12 | 20 |" in text and "| latency_ms.median | 1.5 |  |" in text
    assert "## a: components" in text and "| a\\|b | 7 |" in text


def test_markdown_has_what_stands_beside_the_results_in_tables_of_its_own():
    designs = [{"config": "b", "loss": {"mean": 0.5}, "differences": [{"figure": "loss", "mean": -0.1}]}]
    text = render({**DOCUMENT, "comparison": {"target": 0.9, "designs": designs}}, ".md")
    about = text.splitlines()[2]
    assert about == "dtype: fp32, seed: 0"
    assert "## comparison\n\n|  | value |\n| --- | --- |\n| target | 0.9 |" in text
    assert "## comparison: designs\n\n| config | loss.mean |\n| --- | --- |\n| b | 0.5 |" in text
    assert "## comparison: designs: b: differences\n\n| figure | mean |\n| --- | --- |\n| loss | -0.1 |" in text


@pytest.mark.parametrize("name", ["report.txt", "report", "report.json.gz"])
def test_another_suffix_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="ends in .json, .csv, .md"):
        check_target(tmp_path / name, "--report", suffixes=SUFFIXES)


# ------------------------------------------------------------------------------------------------------------- baseline


def result(median=10.0, low=9.9, high=10.1, peak=1000, parameters=50, flops=70, **more):
    latency = {"median": median, "ci_low": low, "ci_high": high}
    memory = {"peak": peak}
    figures = {"parameters": parameters, "flops": flops, "latency_ms": latency, "memory_bytes": memory}
    return {"config": "a", "mode": "forward", **figures, **more}


def verdicts(now, before, tolerance=0.05):
    return {c.figure: c.verdict for c in compare_with_baseline([now], {"results": [before]}, tolerance)}


def test_figures_within_the_tolerance_are_the_same():
    assert set(verdicts(result(10.4, 10.3, 10.5, peak=1040), result()).values()) == {"same"}


def test_a_slower_or_larger_model_is_named():
    got = verdicts(result(11, 10.9, 11.1, peak=1060, parameters=51, flops=71), result())
    assert got == dict.fromkeys(("latency", "peak memory", "parameters", "FLOPs"), "worse")


def test_a_slower_median_inside_both_intervals_is_noise():
    assert verdicts(result(11, 9, 13), result(10, 9, 12))["latency"] == "noise"


def test_a_faster_model_is_better():
    assert verdicts(result(8, 7.9, 8.1), result())["latency"] == "better"


def test_sweep_points_are_compared_with_their_own():
    earlier = [result(point={"n": 1}), result(20, 19, 21, point={"n": 2})]
    (change, *_) = compare_with_baseline([result(20, 19, 21, point={"n": 2})], {"results": earlier}, 0.05)
    assert change.verdict == "same" and change.before == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON document"),
        ("[]", "is no document of this tool"),
        ('{"results": 3}', "is no document of this tool"),
        ('{"results": [], "command": "flops"}', "is a document of 'flops', expected one of 'profile'"),
        ("[" * 100_000, "is no JSON document"),
    ],
)
def test_a_file_that_is_no_baseline_is_refused(text, message, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_baseline(path, "profile")


def test_a_config_that_the_baseline_lacks_is_named():
    with pytest.raises(UserError, match="holds no a; its configs are z"):
        compare_with_baseline([result()], {"results": [result(config="z")]}, 0.05)
    with pytest.raises(UserError, match="a was measured in mode 'train'"):
        compare_with_baseline([result()], {"results": [result(mode="train")]}, 0.05)
    with pytest.raises(UserError, match="a has no number flops"):
        compare_with_baseline([result()], {"results": [result(flops="many")]}, 0.05)


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.1", 0.1), ("0", 0.0), ("150%", 1.5)])
def test_a_tolerance_is_a_share(text, share):
    assert parse_tolerance(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "five", "-1", "nan", "inf%"])
def test_what_is_no_tolerance_is_refused(text):
    with pytest.raises(UserError, match="expected a share such as 5% or 0.05"):
        parse_tolerance(text)
