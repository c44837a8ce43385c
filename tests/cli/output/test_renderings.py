from __future__ import annotations

import csv
import io
import json

import pytest

from mmdit_cli.errors import UserError
from mmdit_cli.output.renderings import SUFFIXES, render
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


def test_csv_has_a_row_for_each_part_of_a_result_and_dotted_columns():
    rows = list(csv.DictReader(io.StringIO(render(DOCUMENT, ".CSV"))))
    assert [(row["config"], row["part"], row["part.name"]) for row in rows] == [
        *(("a", "components", "attention"), ("a", "components", "a|b"), ("b", "", "")),
    ]
    assert [row["latency_ms.median"] for row in rows] == ["1.5", "1.5", ""]
    assert [row["part.flops"] for row in rows] == ["5", "7", ""] and [row["flops"] for row in rows] == [
        "12",
        "12",
        "20",
    ]
    assert rows[0]["dtype"] == "fp32" and rows[0]["tokens.text"] == "3" and rows[0]["shape"] == "[1, 2]"


def test_a_component_is_named_without_a_comma_in_csv_beside_its_modality():
    components = [
        {"name": "qkv projection, text", "kind": "qkv projection", "modality": "text", "flops": 1},
        {"name": "attention", "kind": "attention", "modality": None, "flops": 2},
    ]
    result = {"config": "a", "components": components, "modalities": [{"name": "text", "tokens": 3}]}
    rows = list(csv.DictReader(io.StringIO(render({**DOCUMENT, "results": [result]}, ".csv"))))
    assert [(row["part"], row["part.name"], row["part.modality"]) for row in rows] == [
        *(("components", "qkv projection", "text"), ("components", "attention", ""), ("modalities", "text", "")),
    ]
    assert rows[2]["part.tokens"] == "3" and "," not in "".join(rows[0])


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


def test_values_are_no_literals_of_python():
    result = {
        "config": "a",
        "ok": True,
        "none": None,
        "shape": [1, None, True],
        "about": {"x": False},
        "runs": [{"y": True}],
    }
    for suffix in (".md", ".csv"):
        text = render({**DOCUMENT, "results": [result]}, suffix)
        assert not [word for word in ("True", "False", "None", "'") if word in text], text
        assert "true" in text and "false" in text and "[1, null, true]" in text.replace("\\", "")
