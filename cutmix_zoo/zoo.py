"""The zoo table: every set of weights that this package knows, as ``zoo.json`` lists them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cutmix_zoo.store import PACKAGE_WEIGHTS

_TABLE = Path(__file__).with_name("zoo.json")


@dataclass(frozen=True)
class ZooEntry:
    """One set of weights.

    Args:
        name: ``architecture.tag``, what ``timm.create_model`` is called with.
        method: the regularizers it was trained with, in words; ``none`` for a baseline.
        dataset: what it was trained and measured on; a name of the table of known datasets, which has the input
            size, mean, standard deviation and label names.
        recipe: the shipped recipe that made it, or that repeats it.
        license: of the weights.
        description: one sentence or two.
        paper: its arXiv number, ``arXiv:NNNN.NNNNN``.
        interpolation: how images are resized for it.
        crop_pct: share of the resized image's side that evaluation keeps.
        sha256: of the safetensors file, in the package or on the Hub, in hexadecimal; None where there is none.
        repo: the repository on the Hugging Face Hub that has it, ``OWNER/NAME``; None where none does.
        revision: the commit in that repository, 40 hexadecimal digits, which cannot move as a branch or a tag can.
        top1: accuracy on the validation split of ``dataset`` that we measured, in percent; ``cutmix-zoo evaluate``
            measures it again. None where we did not.
        published_error: top-1 error that others published, in percent.
        page: where they published it and the weights.
        row: what the weights are called in the table of that page.
    """

    name: str
    method: str
    dataset: str
    recipe: str
    license: str
    description: str
    paper: str
    interpolation: str
    crop_pct: float
    sha256: str | None = None
    repo: str | None = None
    revision: str | None = None
    top1: float | None = None
    published_error: float | None = None
    page: str | None = None
    row: str | None = None

    @property
    def architecture(self) -> str:
        """The name before the dot."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The name after the dot."""
        return self.name.partition(".")[2]

    @property
    def shipped(self) -> bool:
        """Whether the weights come with this package; those that are on the Hub alone have a ``sha256`` as well."""
        if self.sha256 is None:
            return False
        return self.repo is None or (PACKAGE_WEIGHTS / f"{self.name}.safetensors").is_file()


@cache
def zoo_table() -> dict[str, ZooEntry]:
    """Read the table.

    Returns:
        Entries by name, in the order of the file.

    Example:
        >>> zoo_table()["cifar_resnet8.cutmix_fmnist_mini"].recipe
        'fashion_mnist_mini_resnet8_cutmix'
    """
    return read_table(json.loads(_TABLE.read_text(encoding="utf-8")))


def read_table(table: dict[str, Any]) -> dict[str, ZooEntry]:
    """Make entries of what a ``zoo.json`` holds.

    Args:
        table: ``weights``, the rows, and ``sources``, what several of them share.

    Returns:
        Entries by name.
    """
    return {row["name"]: _entry(row, table["sources"]) for row in table["weights"]}


def _entry(row: dict[str, Any], sources: dict[str, dict[str, Any]]) -> ZooEntry:
    """Make an entry of a row; what all weights of a source share stands there."""
    if "source" not in row:
        return ZooEntry(**row)
    fields = sources[row["source"]] | {key: value for key, value in row.items() if key not in ("source", "note")}
    said = f"{row['row']} in the table of its authors' README: {row['published_error']:.2f} % top-1 error."
    return ZooEntry(**fields, description=" ".join(filter(None, (said, row.get("note")))))
