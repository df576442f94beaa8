"""The table writer: aligned text, Markdown, CSV and JSON data of the same columns and rows."""

import csv
import io
import json

import pytest

from s3prl_pruned.tables import Bold, Column, Table

COLUMNS = [
    Column("name", "model"),
    Column("params", "params M", show=lambda params: f"{params / 1e6:.2f}", align="right"),
    Column("wer", "WER", show="{:.1f} %", align="right", absent=""),
]
ROWS = [{"name": "dense", "params": 94_380_000, "wer": Bold(7.25)}, {"name": "a|b*", "params": None}]


def test_text_is_aligned_and_has_no_trailing_spaces():
    assert Table(COLUMNS, ROWS).text() == ("model  params M    WER\ndense     94.38  7.2 %\na|b*          -")


def test_markdown_has_the_alignment_bold_cells_and_no_cell_that_is_two():
    assert Table(COLUMNS, ROWS).markdown().splitlines() == [
        "| model | params M | WER |",
        "| --- | ---: | ---: |",
        "| dense | 94.38 | **7.2 %** |",
        "| a\\|b\\* | - |  |",
    ]


def test_aligned_markdown_reads_as_text_too():
    assert Table(["name", Column("n", align="right")], [["one", 1], ["three", 10_000]]).markdown(aligned=True) == (
        "| name  |     n |\n| ----- | ----: |\n| one   |     1 |\n| three | 10000 |"
    )


def test_csv_holds_the_values_under_their_keys():
    text = Table(COLUMNS, [*ROWS, {"name": 'comma, "quote"', "params": 1, "wer": 0.1}]).csv()
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "params", "wer"],
        ["dense", "94380000", "7.25"],
        ["a|b*", "", ""],
        ['comma, "quote"', "1", "0.1"],
    ]


def test_json_data_holds_the_values_and_null():
    assert json.loads(json.dumps(Table(COLUMNS, ROWS).data())) == [
        {"name": "dense", "params": 94_380_000, "wer": 7.25},
        {"name": "a|b*", "params": None, "wer": None},
    ]


@pytest.mark.parametrize("kind", ["text", "markdown", "csv", "data"])
def test_a_table_without_rows_is_written(kind):
    assert getattr(Table(COLUMNS, []), kind)() is not None
