import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutmix_zoo.evaluation.predict import Prediction, RankedClass
from cutmix_zoo.evaluation.prediction_text import PREDICTION_FORMATS, format_predictions

PREDICTIONS = [
    Prediction(Path("a.png"), (RankedClass(3, 'tench, "Tinca"', 1.0), RankedClass(0, "class 0", 1e-9))),
    Prediction(Path("b,\n.png"), (), "cannot read image b: no, it cannot"),
    Prediction(Path("c.png"), (RankedClass(1, "bee", 0.123456789012345),)),
]


def text(how: str) -> str:
    return "\n".join(format_predictions(PREDICTIONS, how))


def test_the_table_has_percent_and_leaves_out_what_could_not_be_read() -> None:
    assert (
        text("table")
        == """\
a.png
  100.00 %  tench, "Tinca"
    0.00 %  class 0
c.png
   12.35 %  bee"""
    )


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(text("csv"), newline="")))
    keys = ("file", "rank", "index", "label", "error")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("a.png", "1", "3", 'tench, "Tinca"', ""),
        ("a.png", "2", "0", "class 0", ""),
        ("b,\n.png", "", "", "", "cannot read image b: no, it cannot"),
        ("c.png", "1", "1", "bee", ""),
    ]
    assert [float(row["probability"] or "nan") for row in rows if not row["error"]] == [1.0, 1e-9, 0.123456789012345]


def test_names_of_files_that_are_no_utf8_are_escaped() -> None:
    name = "a\udce9.png"  # of a file whose name is no UTF-8
    odd = [Prediction(Path(name), (RankedClass(0, "ant", 1.0),)), Prediction(Path(name), (), f"{name} is damaged")]
    for how in ("table", "csv"):
        written = "\n".join(format_predictions(odd, how))
        assert "a\\udce9.png" in written
        written.encode("utf-8")
    assert json.loads("\n".join(format_predictions(odd, "json")))[0]["file"] == name


def test_json_reads_back() -> None:
    first, second, third = json.loads(text("json"))
    assert first == {
        "file": "a.png",
        "classes": [
            {"index": 3, "label": 'tench, "Tinca"', "probability": 1.0},
            {"index": 0, "label": "class 0", "probability": 1e-9},
        ],
        "error": None,
    }
    assert second == {"file": "b,\n.png", "classes": [], "error": "cannot read image b: no, it cannot"}
    assert third["classes"][0]["probability"] == 0.123456789012345


def test_nothing_is_text_too() -> None:
    assert list(format_predictions([], "table")) == []
    assert list(format_predictions([], "csv")) == ["file,rank,index,label,probability,error"]
    assert json.loads("\n".join(format_predictions([], "json"))) == []


@pytest.mark.parametrize("how", PREDICTION_FORMATS)
def test_predictions_are_asked_for_one_by_one(how: str) -> None:
    asked = 0

    def endless() -> Iterator[Prediction]:
        nonlocal asked
        while True:
            asked += 1
            yield PREDICTIONS[0]

    pieces = format_predictions(endless(), how)
    for number in range(5):
        next(pieces)
        assert asked <= number + 1


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="how must be one of table, csv, json, got 'xml'"):
        format_predictions(PREDICTIONS, "xml")
