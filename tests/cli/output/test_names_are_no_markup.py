"""What a user named is text: every command's tables, Markdown and messages show it, whatever signs it has."""

from __future__ import annotations

import collections
import re
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from markdown_it import MarkdownIt

from mmdit_cli.commands.config_tables import config_tables, difference_tables
from mmdit_cli.commands.json_schemas import BESIDE, RESULTS, _class
from mmdit_cli.export.tables import export_tables
from mmdit_cli.flops.sampling_tables import sampling_flops_tables
from mmdit_cli.flops.tables import flops_tables
from mmdit_cli.memory.tables import estimate_tables
from mmdit_cli.output.console import error, message, stdout, training_progress
from mmdit_cli.output.document import make_document
from mmdit_cli.output.figures import save_figure
from mmdit_cli.output.renderings import render
from mmdit_cli.profile.conditions import Conditions
from mmdit_cli.profile.sampling_times import sampling_tables
from mmdit_cli.profile.spread_tables import spread_tables
from mmdit_cli.profile.tables import change_tables, profile_tables
from mmdit_cli.shape_check.identity_tables import identity_tables
from mmdit_cli.shape_check.tables import shape_tables
from mmdit_cli.toy.comparison_tables import compare_tables
from mmdit_cli.toy.coordinate_command import coordinate_tables
from mmdit_cli.toy.laws.law_tables import law_tables
from mmdit_cli.toy.plots import curve_plot
from mmdit_cli.toy.tables import train_tables
from tests.support.marks import slow_but

NAMES = {  # as they are shown
    "[/2]": "[/2]",
    "[ema]": "[ema]",
    "a[bold]b[/bold]": "a[bold]b[/bold]",
    ":cat:": ":cat:",
    "a\\[x]": "a\\[x]",
    "a\x1b[31mb": "a\\x1b[31mb",
    "a\u202eb": "a\\u202eb",
    "a\nb": "a\\nb",
    "$x$": "$x$",
}
TABLES = {  # of each class of results
    "flops": lambda results, width: [*flops_tables(results[:1], width), *sampling_flops_tables(results[1:], width)],
    "profile": lambda results, width: [
        *profile_tables(results[:1], width),
        *sampling_tables([replace(results[1], fastest=0)], width, Conditions(2, None, None)),
        *spread_tables(results[2:3], width),
        *estimate_tables(results[3:], width),
    ],
    "shape-check": lambda results, width: [
        *shape_tables(results[0], every_layer=True),
        *identity_tables(results[1]),
    ],
    "train-toy": lambda results, width: [*train_tables(results[:1], width), *coordinate_tables(results[1], width)],
    "law": lambda results, width: law_tables(results[0], width),
    "export": lambda results, width: export_tables(results[0]),
    "configs": lambda results, width: [*config_tables(results[:1], width), *difference_tables(results[1:])],
    "baseline": lambda results, width: change_tables([replace(each, figure="latency") for each in results]),
    "growth": lambda results, width: [],
    "comparison": lambda results, width: compare_tables(results[0], width),
}
CLASSES = {name: list(map(_class, kinds)) for name, kinds in RESULTS.items()}
CLASSES |= {key: [_class(kind)] for each in BESIDE.values() for key, (kind, _) in each.items()}


class One(dict[str, Any]):
    """A value for any key."""

    def __missing__(self, key: str) -> Any:
        return next(iter(self.values()))


def made(kind: Any, name: str) -> Any:
    """A value of a type in which every text and every key is the name."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        values = {each.name: made(hints[each.name], name) for each in fields(kind)}
        return kind(**values | ({"point": {}} if "point" in values else {}))
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return inside[0]
    if origin in (Union, UnionType):
        return made(next(each for each in inside if each is not NoneType), name)
    if origin in (list, tuple, collections.abc.Sequence):
        return origin([made(inside[0], name)]) if origin is tuple else [made(inside[0], name)]
    if origin is dict:
        return One({name: made(inside[1], name)})
    return {str: name, int: 1, float: 0.5, bool: True, Path: Path("x")}.get(kind)


@pytest.mark.parametrize("width", slow_but([None, 80, 20], None))
@pytest.mark.parametrize("command", TABLES)
def test_every_table_shows_a_name_as_it_is(command, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width)) if width else monkeypatch.delenv("COLUMNS", raising=False)
    for name, shown in NAMES.items():
        console = stdout()
        for table in TABLES[command]([made(kind, name) for kind in CLASSES[command]], console.width):
            console.print(table)
        text = capsys.readouterr().out
        assert all(sign.isprintable() or sign == "\n" for sign in text) and "…" not in text
        assert width or not text or shown in text, text


@pytest.mark.parametrize("command", RESULTS)
def test_markdown_shows_a_name_as_it_is_and_no_table_has_a_column_too_many(command):
    for name, shown in (NAMES | {"a|b": "a|b", "<b>": "<b>", "*a*": "*a*", "&lt;": "&lt;", "_a_": "_a_"}).items():
        results = [made(kind, name) for kind in CLASSES[command]]
        document = make_document(command, results, device="cpu", dtype="fp32", seed=0)
        text = render(document, ".md")
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        inline = [token.children for token in tokens if token.type == "inline"]
        assert all(child.type in ("text", "softbreak", "text_special") for each in inline for child in each)
        cells = ["".join(child.content for child in each) for each in inline]
        assert shown.replace("\\n", " ") in cells or any(shown.replace("\\n", " ") in cell for cell in cells)
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("say", [message, error, lambda text: progress(text)])
def test_messages_show_a_name_as_it_is(say, capsys):
    for name, shown in NAMES.items():
        say(name)
        said = capsys.readouterr().err
        assert shown.replace("\\n", "\n") in said or shown in said
        assert all(sign.isprintable() or sign == "\n" for sign in said)


def progress(name: str) -> None:
    with training_progress(name) as show:
        show(1, 1, 0.5, 1.0, 0.0)


def test_pictures_show_a_name_as_it_is(tmp_path):
    name = "_$\\frac$"
    records = [{"step": step, "loss": 0.5, "losses": {name: 0.5}, "accuracy": {name: 0.5}} for step in (1, 2)]
    figure = curve_plot(records, title=name)
    save_figure(figure, tmp_path / "x.png")
    assert figure.axes[0].get_title() == name
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == f" {name}"


def test_no_module_makes_styled_texts_or_consoles_of_its_own():
    doors = {"mmdit_cli/output/tables.py", "mmdit_cli/output/console.py"}
    root = Path(__file__).parents[3]
    made_in = {
        str(path.relative_to(root))
        for path in (root / "mmdit_cli").rglob("*.py")
        if re.search(r"^from rich\.(text|console|markup) import .*\b(Text|Console|escape)\b", path.read_text(), re.M)
    }
    assert made_in <= doors
