"""Predictions as text, piece by piece, so that a million of them take no more memory than one."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from cutmix_zoo.checks import require_choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cutmix_zoo.evaluation.predict import Prediction

PREDICTION_FORMATS = ("table", "csv", "json")
"""How predictions can be written."""

_COLUMNS = ("file", "rank", "index", "label", "probability", "error")


def format_predictions(predictions: Iterable[Prediction], how: str) -> Iterator[str]:
    r"""Write predictions as text.

    Args:
        predictions: they are asked for one by one, each when the text of those before it has been taken.
        how: ``table``: below each file its classes, with probabilities in percent; files that could not be read are
            left out. ``csv``: a row for each class of a file, and one with ``error`` for a file that could not be
            read. ``json``: a list of objects with ``file``, ``classes`` (``index``, ``label``, ``probability``) and
            ``error``. What of a file's name is no UTF-8 is escaped in tables and in CSV.

    Returns:
        Pieces of the text, to be written with a line break after each.

    Raises:
        ValueError: if ``how`` is none of these.

    Example:
        >>> from pathlib import Path
        >>> from cutmix_zoo.evaluation.predict import Prediction, RankedClass
        >>> cat = Prediction(Path("a.png"), (RankedClass(3, "cat", 0.75), RankedClass(5, "dog", 0.25)))
        >>> print("\n".join(format_predictions([cat], "table")))
        a.png
           75.00 %  cat
           25.00 %  dog
    """
    require_choice("how", how, PREDICTION_FORMATS)
    return {"table": _table, "csv": _csv, "json": _json}[how](predictions)


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _table(predictions: Iterable[Prediction]) -> Iterator[str]:
    for prediction in predictions:
        if prediction.error is None:
            rows = (f"  {100 * one.probability:6.2f} %  {one.label}" for one in prediction.classes)
            yield "\n".join([_writable(str(prediction.file)), *rows])


def _csv(predictions: Iterable[Prediction]) -> Iterator[str]:
    yield ",".join(_COLUMNS)
    for prediction in predictions:
        text, file = io.StringIO(), _writable(str(prediction.file))
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        if prediction.error is not None:
            writer.writerow({"file": file, "error": _writable(prediction.error)})
        for rank, one in enumerate(prediction.classes, start=1):
            writer.writerow({"file": file, "rank": rank, **asdict(one)})
        yield text.getvalue().rstrip("\n")


def _json(predictions: Iterable[Prediction]) -> Iterator[str]:
    piece = "["
    for number, prediction in enumerate(predictions):
        # the comma comes with what follows it
        yield piece + ("," if number else "")
        piece = json.dumps(asdict(prediction) | {"file": str(prediction.file)})
    yield piece
    yield "]"
