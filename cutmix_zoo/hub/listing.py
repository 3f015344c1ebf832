"""The weights that are known, with what is known of them: ``cutmix-zoo list``."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

import timm

from cutmix_zoo.errors import UserError, did_you_mean
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.models.tags import takes_tags
from cutmix_zoo.store import locate, stored_configs
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FORMATS = ("table", "csv", "json")
"""How the list can be written."""


@dataclass(frozen=True)
class ListedWeights:
    """What is known of some weights.

    Args:
        name: what ``timm.create_model`` is called with.
        method: the regularizers it was trained with, in words.
        dataset: what it was trained on, if that is known.
        published_error: top-1 error that others published, in percent.
        measured_error: top-1 error that we measured, in percent.
        parameters: their number.
        license: of the weights, if that is known.
        data_license: what the owners of the dataset allow, as they state it.
        where: ``package``, ``store``, ``cache`` (fetched from the Hub), ``hub`` (fetched when they are asked for), or
            None if they are to be had nowhere but from their authors.
        own: whether they are the user's own, and not in the zoo table.
        description: one sentence or two.
        page: where they were published.
        recipe: the shipped recipe that made them, or that repeats them.
    """

    name: str
    method: str | None
    dataset: str | None
    published_error: float | None
    measured_error: float | None
    parameters: int
    license: str | None
    data_license: str | None
    where: str | None
    own: bool
    description: str | None
    page: str | None
    recipe: str | None


def list_weights(pattern: str = "*") -> list[ListedWeights]:
    """List the weights of the zoo table, and then those of the user's own in the local store.

    Args:
        pattern: which names, with ``*`` and ``?``.

    Raises:
        UserError: if no name fits.
    """
    every = [*_zoo_weights(), *_own_weights()]
    found = [weights for weights in every if fnmatchcase(weights.name, pattern)]
    if not found:
        hint = did_you_mean(pattern, [weights.name for weights in every])
        raise UserError(f"no weights are called {pattern!r}; {hint}`cutmix-zoo list` shows all.")
    return found


def format_weights(weights: Sequence[ListedWeights], how: str) -> str:
    """Write a list as text.

    Args:
        weights: the list.
        how: ``table``, 100 columns wide unless a name of your own is longer than the zoo's, ``csv`` or ``json``, which
            have every field.
    """
    rows = [asdict(row) for row in weights]
    if how == "json":
        return json.dumps(rows, indent=2)
    if how == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=[field.name for field in fields(ListedWeights)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    return _table(weights)


def _zoo_weights() -> Iterator[ListedWeights]:
    for name, entry in zoo_table().items():
        data, weights = KNOWN_DATASETS[entry.dataset], locate(name, entry)
        yield ListedWeights(
            name=name,
            method=entry.method,
            dataset=entry.dataset,
            published_error=entry.published_error,
            measured_error=None if entry.top1 is None else round(100 - entry.top1, 2),
            parameters=_parameters(entry.architecture, data.num_classes, data.input_size[0]),
            license=entry.license,
            data_license=data.licence,
            where=weights.where if weights else "hub" if entry.repo else None,
            own=False,
            description=entry.description,
            page=entry.page,
            recipe=entry.recipe,
        )


def _own_weights() -> Iterator[ListedWeights]:
    for name, config in stored_configs().items():
        if name in zoo_table() or not takes_tags(name.partition(".")[0]):
            continue
        described, dataset = config["pretrained_cfg"], config.get("provenance", {}).get("dataset")
        known = KNOWN_DATASETS.get(dataset)
        yield ListedWeights(
            name=name,
            method=None,
            dataset=dataset,
            published_error=None,
            measured_error=None,
            parameters=_parameters(config["architecture"], config["num_classes"], described["input_size"][0]),
            license=described.get("license"),
            data_license=known.licence if known else None,
            where="store",
            own=True,
            description=described.get("description"),
            page=described.get("origin_url"),
            recipe=None,
        )


@cache
def _parameters(architecture: str, num_classes: int, in_chans: int) -> int:
    model = timm.create_model(architecture, num_classes=num_classes, in_chans=in_chans, device="meta")
    return sum(parameter.numel() for parameter in model.parameters())


def _table(weights: Sequence[ListedWeights]) -> str:
    """Lay out the list in blocks of one network and dataset."""
    lines = [f"  {'name':44} {'method':26} {'error %':>7} {'licence':10} where"]
    for (network, dataset, count), block in groupby(weights, _block):
        lines += ["", f"{network}{f' on {dataset}' if dataset else ''}, {_millions(count)} parameters"]
        lines += [_line(row) for row in block]
    lines += ["", "error: top-1, as published; * as measured by us. licence: of the weights; that of the data:"]
    lines += sorted({f"  {row.dataset}: {row.data_license}" for row in weights if row.data_license})
    pages = sorted({row.page for row in weights if row.page and row.where is None})
    if pages:
        lines += ["import: cutmix-zoo import FILE --as NAME, with the file from", *(f"  {page}" for page in pages)]
    return "\n".join(lines)


def _block(row: ListedWeights) -> tuple[str, str | None, int]:
    return row.name.partition(".")[0], row.dataset, row.parameters


def _line(row: ListedWeights) -> str:
    error = f"{row.published_error:.2f} " if row.published_error is not None else "- "
    if row.measured_error is not None:
        error = f"{row.measured_error:.2f}*"
    method = "your own" if row.own else row.method
    return f"  {row.name:44} {method:26} {error:>7} {row.license or '-'!s:10} {row.where or 'import'}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e6:.2f} M"
