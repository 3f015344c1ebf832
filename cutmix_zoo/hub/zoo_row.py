"""Published weights as a row of the zoo table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.hub.card import shipped_difference
from cutmix_zoo.hub.method import method_of
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.store import WEIGHTS_FILE, WEIGHTS_NAME, file_sha256
from cutmix_zoo.zoo import read_table

if TYPE_CHECKING:
    from pathlib import Path

    from cutmix_zoo.hub.bundle import Bundle
    from cutmix_zoo.known import KnownDataset


def zoo_row(bundle: Bundle, revision: str) -> dict[str, Any]:
    """Describe published weights as a row of the zoo table.

    Args:
        bundle: what was published.
        revision: the commit, 40 hexadecimal digits.
    """
    facts, weights = bundle.facts, bundle.folder / WEIGHTS_FILE
    described, recipe = facts.config["pretrained_cfg"], facts.recipe
    hub = {
        "repo": bundle.repo,
        "revision": revision,
        "sha256": file_sha256(weights),
    }
    if facts.entry is not None:
        return hub
    return {
        "name": facts.name,
        "method": method_of(recipe) if recipe else None,
        "dataset": facts.known.name if facts.known and _is_prepared_as(described, facts.known) else None,
        # one that is shipped, and as it is shipped: it can be named
        "recipe": recipe.name if recipe and shipped_difference(recipe) == [] else None,
        **hub,
        "top1": facts.results and facts.results.get("top1"),
        "license": facts.license,
        "description": described.get("description") or f"{facts.name}.",
        "paper": "arXiv:1905.04899",
        "interpolation": described["interpolation"],
        "crop_pct": described["crop_pct"],
    }


def _is_prepared_as(described: dict[str, Any], known: KnownDataset) -> bool:
    """Say whether a network takes the images of a dataset as the table of datasets has them."""
    return all(tuple(described[key]) == getattr(known, key) for key in ("input_size", "mean", "std"))


def extended(file: Path, row: dict[str, Any], name: str) -> str:
    """Add a row to a zoo table, or what is new to the row that it has.

    Args:
        file: a ``zoo.json``; it is not written.
        row: what :func:`zoo_row` returned.
        name: of the model.

    Returns:
        The text of the new table.

    Raises:
        UserError: if the file is no zoo table, or cannot have the row.
    """
    _check_row(row, name)
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        found = [each for each in table["weights"] if each["name"] == name]
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not a zoo table: {one_line(error)}") from error
    if not found and "name" not in row:
        raise UserError(f"{file} has no row {name}, which the installed table has; give the table of this version.")
    if found:
        found[0].update(row)
    else:
        table["weights"].append({key: value for key, value in row.items() if value is not None})
    read_table(table)
    return json.dumps(table, indent=2, ensure_ascii=False) + "\n"


def _check_row(row: dict[str, Any], name: str) -> None:
    """Check that a row fits into the zoo table."""
    if "name" not in row:  # it adds to one that is there
        return
    if not WEIGHTS_NAME.fullmatch(name):
        raise UserError(f"{name} cannot be a row of the zoo table: call the repository ARCHITECTURE.TAG.")
    if row["dataset"] not in KNOWN_DATASETS or row["recipe"] is None:
        raise UserError(
            f"{name} cannot be a row of the zoo table: its dataset, its preprocessing or its recipe is not one of "
            "those that are known."
        )
