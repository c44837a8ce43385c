"""Declared rows and columns become tables."""

from __future__ import annotations

import io
from types import SimpleNamespace

from rich.console import Console

from mmdit_cli.output.tables import NEVER, Column, Row, listing, pairs, side_by_side


def text_of(table) -> str:
    out = io.StringIO()
    Console(file=out, width=60).print(table)
    return out.getvalue()


RECORDS = [SimpleNamespace(name="a", size=1), SimpleNamespace(name="b", size=22)]
COLUMNS = (
    Column("name", lambda r: r.name, kind="text"),
    Column("size", lambda r: str(r.size)),
    Column("twice", lambda r: str(2 * r.size), 80),
    Column("half", lambda r: 1 / 0, NEVER),
)


def test_what_has_no_room_is_named_below_the_table():
    assert "no room in 79 columns: twice" in " ".join(text_of(listing("t", RECORDS, COLUMNS, 79)).split())
    assert "no room" not in text_of(listing("t", RECORDS, COLUMNS, 80)) + text_of(listing("t", RECORDS, COLUMNS))


def test_a_column_is_shown_from_its_width_on_and_one_that_is_not_shown_asks_nothing():
    narrow, wide = text_of(listing("t", RECORDS, COLUMNS, 79)), text_of(listing("t", RECORDS, COLUMNS, 80))
    assert " 44" not in narrow and "twice" in wide and "44" in wide
    assert "twice" in text_of(listing("t", RECORDS, COLUMNS)) and "half" not in wide


def test_numbers_stand_right_and_texts_left():
    lines = text_of(listing("t", RECORDS, COLUMNS[:2], 40)).splitlines()
    assert [line.strip() for line in lines[-3:-1]] == ["a        1", "b       22"]


def test_a_row_is_a_figure_of_each_result_where_they_have_it():
    results = [SimpleNamespace(config="x", loss=0.5), SimpleNamespace(config="y", loss=0.25)]
    rows = (Row("loss", lambda r: str(r.loss), True), Row("time", lambda r: 1 / 0, when=False))
    table = side_by_side("t", results, rows)
    assert [column.header for column in table.columns] == ["", "x", "y"]
    assert text_of(table).split()[-3:] == ["loss", "0.5", "0.25"] and table.rows[0].style == "bold"


def test_pairs_stand_out_by_how_their_names_begin():
    table = pairs("t", [("file", "x"), ("accuracy, image", "1")], bold=["accuracy"])
    assert [row.style for row in table.rows] == [None, "bold"]
