"""What a suite has found: numbers, a table, arrays."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]
    """What a suite's npz file holds."""


@dataclass(frozen=True)
class Findings:
    """What a suite has found.

    Args:
        numbers: what goes into the JSON file: numbers, texts, and lists of them.
        rows: a table, one flat mapping a row, all with the same keys; also written as CSV.
        arrays: what is too large for text, such as images; written as an npz file.
    """

    numbers: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    arrays: Arrays = field(default_factory=dict)

    def record(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Join numbers and rows into what the JSON file holds.

        Args:
            head: what was measured, such as ``model``, ``dataset`` and ``split``; it goes first.
        """
        return {**head, **self.numbers, "rows": list(self.rows)}


def percent(hits: NDArray[np.bool_]) -> float:
    """Say in percent how many of (N,) values are true."""
    return 100 * int(hits.sum()) / len(hits)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Write a table as CSV, with a line of names first.

    Example:
        >>> csv_text([{"side": 2, "error": 0.5}])
        'side,error\n2,0.5\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def load_arrays(file: Path) -> Arrays:
    """Read what an npz file holds; nothing in it is executed."""
    with file.open("rb") as stream, np.load(stream) as arrays:  # NumPy leaves a file open that is no archive
        return dict(arrays)
