"""A suite: how it is measured, what it takes, how it is drawn, and what a report says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure

    from cutmix_zoo.evaluation.findings import Arrays, Findings
    from cutmix_zoo.evaluation.paper_numbers import PaperTable
    from cutmix_zoo.evaluation.plots import Records
    from cutmix_zoo.evaluation.suite_context import SuiteContext


@dataclass(frozen=True)
class Metric:
    """A number of a suite.

    Args:
        key: where it stands in the record, such as ``mean.auroc``.
        title: what it is called, with its unit.
        decimals: how many are shown.
        best: which values are better; ``None`` if none is.
        column: what it is called in the CSV file; also puts it into the table of the main numbers. ``None`` for
            numbers that are shown with their suite only.
    """

    key: str
    title: str
    decimals: int = 2
    best: Literal["highest", "lowest", "nearest to 0"] | None = "lowest"
    column: str | None = None

    def read(self, record: Mapping[str, Any]) -> float | None:
        """Take the number out of a record; ``None`` if it has none.

        Raises:
            TypeError: if what stands there is no number.
        """
        value: Any = record
        for key in self.key.split("."):
            value = None if value is None else value.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{self.key} is not a number: {value!r}")
        return value

    def winners(self, values: Sequence[float | None]) -> set[int]:
        """Say which of the values are the best; none where nothing is to be compared.

        Example:
            >>> Metric("top1", "top-1", best="highest").winners([90.0, None, 91.0])
            {2}
            >>> Metric("top1", "top-1", best="highest").winners([None, None, 91.0])
            set()
        """
        there = {place: value for place, value in enumerate(values) if value is not None}
        if self.best is None or len(set(there.values())) < 2:
            return set()
        keys = {"highest": lambda value: -value, "lowest": lambda value: value, "nearest to 0": abs}
        ranks = {place: keys[self.best](value) for place, value in there.items()}
        return {place for place, rank in ranks.items() if rank == min(ranks.values())}


@dataclass(frozen=True)
class Suite:
    """What can be measured of a model, and all that the package knows of it.

    Args:
        title: a heading.
        about: what is measured, and how.
        measure: measures it.
        metrics: its numbers.
        settings: keys of the record that say how it was measured, and what they are called. Where they differ between
            models, the numbers are not compared.
        keys: columns of the rows that say what a row is of.
        values: columns of the rows that were measured, and what they are called; ``None`` to show no rows.
        in_order: whether it reads every image once and in order, as a stream gives them.
        needs_classes: whether the labels have to be those of the network.
        check: raises a :class:`~cutmix_zoo.errors.UserError` where model and data do not allow it, whatever it is told.
        check_told: likewise where what it is told is not there.
        complete: adds to a record, for a report, what follows from it.
        draw: makes figures by names that may be files' names, of records and arrays by the model's name; at least one
            model has a record.
        paper_table: looks up what the paper has for the setting of a record and an architecture (of timm's name;
            ``None`` if it is not known).
        paper: what to say where it has nothing.
    """

    title: str
    about: str
    measure: Callable[[SuiteContext], Findings]
    metrics: Sequence[Metric]
    settings: Mapping[str, str]
    keys: Sequence[str] = ()
    values: Mapping[str, str] | None = None
    in_order: bool = False
    needs_classes: bool = True
    check: Callable[[SuiteContext], object] = lambda _: None
    check_told: Callable[[SuiteContext], object] = lambda _: None
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
    draw: Callable[[Records, Mapping[str, Arrays]], dict[str, Figure]] = lambda *_: {}
    paper_table: Callable[[Mapping[str, Any], str | None], PaperTable | None] = lambda *_: None
    paper: str = "The paper has no numbers for this setting."

    @property
    def main(self) -> dict[str, Metric]:
        """The main numbers, by what they are called in the CSV file."""
        return {metric.column: metric for metric in self.metrics if metric.column}

    @property
    def all_settings(self) -> dict[str, str]:
        """The settings, with those of every suite."""
        prepared = {"input_size": "size of the input", "crop_pct": "share of an image that the crop keeps"}
        return {**self.settings, **prepared}
