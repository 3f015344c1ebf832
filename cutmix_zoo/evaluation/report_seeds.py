"""Runs that differ in nothing but the seed, taken together: means, spread, and pairs of runs with one seed."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cutmix_zoo.evaluation.names import visible
from cutmix_zoo.evaluation.report_records import differing_settings, suite_records
from cutmix_zoo.evaluation.suites import SUITES
from cutmix_zoo.known import known_dataset
from cutmix_zoo.training.recipe import recipe_dict, recipe_difference
from cutmix_zoo.training.run import MAY_DIFFER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cutmix_zoo.evaluation.report_folders import Measured
    from cutmix_zoo.training.settings import Recipe


@dataclass(frozen=True)
class Repeated:
    """A model, trained once or with several seeds.

    Args:
        name: that of timm for what a run exports, architecture and recipe with a dot between; else that of the model.
        members: what was measured, by rising seed; one that is not known to be a run is alone.
    """

    name: str
    members: tuple[Measured, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs; none where the recipe is not known."""
        return tuple(member.recipe.seed for member in self.members if member.recipe)


def by_recipe(models: Sequence[Measured]) -> list[Repeated]:
    """Take together what was trained by one recipe with different seeds, and measured alike.

    Args:
        models: what was measured.

    Returns:
        The models, in the order in which the first run of each came. Of a recipe that was trained twice with one seed
        each run is a model of its own, or nobody could say which of the two is meant.
    """
    groups: list[list[Measured]] = []
    for model in models:
        alike = [group for group in groups if _alike(group[0], model)]
        if alike:
            alike[0].append(model)
        else:
            groups.append([model])
    everything = [members for group in groups for members in _by_seed(group)]
    names = [_exported_name(members[0]) for members in everything]
    return [
        Repeated(name if names.count(name) == 1 else members[0].name, members)
        for name, members in zip(names, everything, strict=True)
    ]


def _by_seed(group: Sequence[Measured]) -> list[tuple[Measured, ...]]:
    seeds = {model.recipe.seed: model for model in group if model.recipe}
    if len(seeds) < len(group):
        return [(model,) for model in group]
    return [tuple(seeds[seed] for seed in sorted(seeds))]


def _exported_name(model: Measured) -> str:
    if model.run is None:
        return model.name
    recipe = model.run.recipe
    # what was trained from a folder or the Hub, and not evaluated, does not say its architecture
    return visible(f"{model.architecture}.{recipe.name}" if model.architecture else recipe.name)


def _alike(first: Measured, second: Measured) -> bool:
    if first.recipe is None or second.recipe is None:
        return False
    recipes = (recipe_dict(first.recipe), recipe_dict(second.recipe))
    return not recipe_difference(*recipes, _ignored(first.recipe)) and _circumstances(first) == _circumstances(second)


def _ignored(recipe: Recipe) -> list[str]:
    """List what numbers do not depend on; a folder of one's own is what its place says, and a known dataset is not."""
    counts = {"evaluate.best_by"} if known_dataset(recipe.data.name) else {"evaluate.best_by", "data.root"}
    return ["seed", *(key for key in MAY_DIFFER if key not in counts)]


def _circumstances(model: Measured) -> tuple[object, ...]:
    about, summary = model.about or {}, model.summary or {}
    measured = (model.about is None, model.data, about.get("input_size"), about.get("crop_pct"))
    return (*measured, summary.get("processes"), summary.get("mixed_precision"))


class Average(NamedTuple):
    """A number of a model over its runs."""

    mean: float | None
    """``None`` if a run has none, or they were not measured alike."""
    spread: float | None
    """Standard deviation; ``None`` without a mean, or of one run."""
    by_seed: Mapping[int, float]
    """Of the runs that have one."""


def averages(repeated: Sequence[Repeated]) -> dict[str, list[Average]]:
    """Average the main numbers of the suites.

    Returns:
        By the columns of the CSV file: a number a model, in their order.
    """
    numbers: dict[str, list[Average]] = {}
    for suite, text in SUITES.items():
        records = [suite_records(suite, each.members) for each in repeated]
        alike = [not differing_settings(suite, each) for each in records]
        for column, metric in text.main.items():
            values = [
                {name: metric.read(record) for name, record in found.items()} if same else {}
                for found, same in zip(records, alike, strict=True)
            ]
            numbers[column] = [_average(*each) for each in zip(repeated, values, strict=True)]
    return numbers


def summary_averages(repeated: Sequence[Repeated], key: str) -> list[Average]:
    """Average a number of the runs' summaries, such as ``best_top1``: a number a model, in their order."""
    return [
        _average(each, {member.name: (member.summary or {}).get(key) for member in each.members}) for each in repeated
    ]


def _average(model: Repeated, values: Mapping[str, float | None]) -> Average:
    found = [(member, values.get(member.name)) for member in model.members]
    by_seed = {member.recipe.seed: value for member, value in found if member.recipe and value is not None}
    known = [value for _, value in found if value is not None]
    if len(known) < len(found):
        return Average(None, None, by_seed)
    return Average(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, by_seed)


class Difference(NamedTuple):
    """How two models differ, run by run of one seed."""

    mean: float
    """Of the second less the first."""
    half_width: float
    """Of Student's 95 % interval around it."""
    pairs: int
    """How many seeds they have in common."""


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Compare two models by the pairs of runs that have a seed in common.

    Args:
        first: a number of each run of the first model, by its seed.
        second: of the second.

    Returns:
        ``None`` if they have fewer than two seeds in common.

    Example:
        >>> difference = paired_difference({0: 90.0, 1: 91.0, 2: 92.0}, {0: 91.0, 1: 92.5, 2: 93.5})
        >>> print(f"{difference.mean:.2f} +- {difference.half_width:.2f}")
        1.33 +- 0.72
    """
    differences = [second[seed] - first[seed] for seed in first if seed in second]
    if len(differences) < 2:
        return None
    standard_error = statistics.stdev(differences) / math.sqrt(len(differences))
    half_width = student_quantile(len(differences) - 1) * standard_error
    return Difference(statistics.mean(differences), half_width, len(differences))


def differences(
    repeated: Sequence[Repeated], numbers: Mapping[str, Sequence[Average]]
) -> dict[str, list[Difference | None]]:
    """Compare the main numbers of each model with those of the first, which is not compared.

    Args:
        repeated: the models.
        numbers: of each, as :func:`averages` has them.

    Returns:
        By the columns of the CSV file, in the order of the models; ``None`` where too few runs have a seed in common,
        or the two were not measured alike.
    """
    found: dict[str, list[Difference | None]] = {}
    for suite, text in SUITES.items():
        records = [suite_records(suite, each.members) for each in repeated]
        compared = [not differing_settings(suite, {**records[0], **record}) for record in records]
        for column in text.main:
            first, *others = (average.by_seed for average in numbers[column])
            pairs = zip(compared[1:], others, strict=True)
            found[column] = [None, *(paired_difference(first, other) if alike else None for alike, other in pairs)]
    return found


def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's distribution: of an interval of 95 %, half is on either side.

    Args:
        degrees: degrees of freedom, at least 1.

    Returns:
        The quantile to six decimals.

    Example:
        >>> [round(student_quantile(degrees), 3) for degrees in (1, 2, 10)]
        [12.706, 4.303, 2.228]
    """
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        points = np.linspace(0, middle, 10_001)
        density = scale * (1 + points**2 / degrees) ** (-(degrees + 1) / 2)
        share = (density[1:] + density[:-1]).sum() / 2 * (points[1] - points[0])
        low, high = (middle, high) if share < 0.475 else (low, middle)
    return round(high, 6)  # the last digits of NumPy's powers depend on the processor, and tables are compared
