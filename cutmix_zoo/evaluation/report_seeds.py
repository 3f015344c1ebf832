"""Runs that differ in nothing but the seed, taken together: means, spread, and pairs of runs with one seed."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cutmix_zoo.evaluation.names import visible
from cutmix_zoo.training.recipe import recipe_dict, recipe_difference
from cutmix_zoo.training.run import MAY_DIFFER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cutmix_zoo.evaluation.report_folders import Measured


@dataclass(frozen=True)
class Repeated:
    """A model, trained once or with several seeds.

    Args:
        members: what was measured, by rising seed; one that is not known to be a run is alone.
    """

    members: tuple[Measured, ...]

    @property
    def name(self) -> str:
        """That of timm for what a run exports, architecture and recipe with a dot between; else that of the model."""
        first = self.members[0]
        return visible(f"{first.architecture}.{first.run.recipe.name}") if first.run else first.name

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs; none where the recipe is not known."""
        return tuple(member.recipe.seed for member in self.members if member.recipe)

    def by_seed(self, values: Mapping[str, float | None]) -> dict[int, float]:
        """Take a number of each member, given by the members' names, and leave out those that have none."""
        found = {member.recipe.seed: values.get(member.name) for member in self.members if member.recipe}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, values: Mapping[str, float | None]) -> float | None:
        """Average a number over the members; ``None`` if one has none."""
        known = [value for value in (values.get(member.name) for member in self.members) if value is not None]
        return statistics.fmean(known) if len(known) == len(self.members) else None

    def spread(self, values: Mapping[str, float | None]) -> float | None:
        """Return the standard deviation of a number over the seeds; ``None`` of fewer than two."""
        known = list(self.by_seed(values).values())
        return statistics.stdev(known) if len(known) > 1 else None


def by_recipe(models: Sequence[Measured]) -> list[Repeated]:
    """Take together what was trained by one recipe with different seeds, and measured alike.

    Args:
        models: what was measured.

    Returns:
        The models, in the order in which the first run of each came. A recipe that was trained twice with one seed
        gives two models, or nobody could say which of the runs is meant.
    """
    groups: list[list[Measured]] = []
    for model in models:
        alike = [group for group in groups if _alike(group[0], model)]
        if alike:
            alike[0].append(model)
        else:
            groups.append([model])
    return [repeated for group in groups for repeated in _by_seed(group)]


def _by_seed(group: Sequence[Measured]) -> list[Repeated]:
    seeds = {model.recipe.seed: model for model in group if model.recipe}
    if len(seeds) < len(group):
        return [Repeated((model,)) for model in group]
    return [Repeated(tuple(seeds[seed] for seed in sorted(seeds)))]


def _alike(first: Measured, second: Measured) -> bool:
    if first.recipe is None or second.recipe is None:
        return False
    recipes = (recipe_dict(first.recipe), recipe_dict(second.recipe))
    return not recipe_difference(*recipes, ("seed", *MAY_DIFFER)) and _measured_alike(first) == _measured_alike(second)


def _measured_alike(model: Measured) -> tuple[object, ...]:
    about = model.about or {}
    return (model.about is None, model.data, about.get("input_size"), about.get("crop_pct"))


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


def student_quantile(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's distribution: of an interval of 95 %, half is on either side.

    Args:
        degrees: degrees of freedom, at least 1.

    Example:
        >>> [round(student_quantile(degrees), 3) for degrees in (1, 2, 10)]
        [12.706, 4.303, 2.228]
    """
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        points = np.linspace(0, middle, 10_001)
        share = np.trapezoid(scale * (1 + points**2 / degrees) ** (-(degrees + 1) / 2), points)
        low, high = (middle, high) if share < 0.475 else (low, middle)
    return high
