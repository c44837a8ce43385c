"""Numbers are read as they are printed."""

from __future__ import annotations

import re

import pytest

from mmdit.config import ConfigError
from mmdit.config.file import load_config
from mmdit.options.numbers import as_number
from mmdit_cli.output import units
from mmdit_cli.request.request import DTYPES, make_request
from mmdit_cli.request.sweep import parse_sweeps
from mmdit_cli.request.tool_config import ToolConfig, as_tool_config
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100M", 100_000_000),
        ("1.62B", 1_620_000_000),
        ("24G", 24 * 10**9),
        ("8/3", 8 / 3),
        ("6/3", 2),
        ("4k", 4000),
        ("17,524,736", 17_524_736),
        ("1_000", 1000),
        ("12.6 M", 12_600_000),
        ("0.5", 0.5),
        ("7", 7),
    ],
)
def test_a_number_is_what_it_stands_for_and_whole_where_it_is(text, value):
    assert as_number(text) == value and type(as_number(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["", "M", "1,2", "1_00", "1__000", "1/0", "4x", "1e3M", "nan", "--4", "\u0664M", "9" * 40]
)
def test_what_is_none_of_these_forms_is_none(text):
    assert as_number(text) is None


@pytest.mark.parametrize("value", [7, 768, 12_600_000, 2_030_000_000])
def test_what_tables_print_is_read_back(value):
    assert as_number(units.count(value)) == value


def test_a_config_takes_ratios_and_scaled_numbers_and_still_no_number_in_quotes():
    model = {"depth": 1, "modalities": {"a": {"dim": "2k"}}, "heads": 1, "dim_head": 8}
    config = as_tool_config({"model": model | {"feedforward": {"mult": "8/3"}}, "train": {"steps": "10k"}})
    assert config.model.feedforward.mult == 8 / 3 and config.train.steps == 10_000
    assert config.model.modalities["a"].dim == 2000
    for text in ("1_000", "1,000"):
        assert as_tool_config({"model": model, "run": {"tokens": {"a": text}}}).run.tokens == {"a": 1000}
    for text in ("4", "4.0", " 4", "4x", "1.5/4", "1,0"):
        with pytest.raises(ConfigError, match="expected a whole number"):
            as_tool_config({"model": model | {"depth": text}})


@pytest.mark.parametrize(("name", "full"), DTYPES.items())
def test_dtypes_have_their_names_in_torch_too(name, full):
    for text in (name, full, f"torch.{full}"):
        assert make_request("flops", [], None, "cpu", text, 0, False, None).dtype == name


def test_a_sweep_takes_a_range_of_whole_numbers():
    (axis,) = parse_sweeps(["model.depth=1,6..9"])
    assert axis.values == (1, 6, 7, 8, 9) and axis.texts == ("1", "6", "7", "8", "9")
    (axis,) = parse_sweeps(["name=9..6"])
    assert axis.values == ("9..6",)


def test_every_form_that_the_page_shows_is_a_number_in_a_config():
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| ", page.partition("## Numbers")[2].partition("\n## ")[0], re.MULTILINE)
    forms = [form for row in rows for form in re.findall(r"`([^`]+)`", row)]
    assert len(forms) >= 15
    for form in forms:
        config = load_config("toy-two-modality", ToolConfig, overrides=[f"train.learning_rate={form}"])
        assert type(config.train.learning_rate) is float, form
