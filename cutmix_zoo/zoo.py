"""The zoo table: every set of weights that this package knows, as ``zoo.json`` lists them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_name("zoo.json")


@dataclass(frozen=True)
class ZooEntry:
    """One set of weights.

    Args:
        name: ``architecture.tag``, what ``timm.create_model`` is called with.
        sha256: of the safetensors file, in hexadecimal.
        recipe: the shipped recipe that made them.
        dataset: what they were trained and measured on; a name of the table of known datasets, which has the input
            size, mean, standard deviation and label names.
        top1: accuracy on the validation split of ``dataset``, in percent; ``cutmix-zoo evaluate`` measures it again.
        license: of the weights.
        description: one sentence.
        paper: its arXiv number, ``arXiv:NNNN.NNNNN``.
        interpolation: how images are resized for them.
        crop_pct: share of the resized image's side that evaluation keeps.
    """

    name: str
    sha256: str
    recipe: str
    dataset: str
    top1: float
    license: str
    description: str
    paper: str
    interpolation: str
    crop_pct: float

    @property
    def architecture(self) -> str:
        """The name before the dot."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The name after the dot."""
        return self.name.partition(".")[2]


@cache
def zoo_table() -> dict[str, ZooEntry]:
    """Read the table.

    Returns:
        Entries by name, in the order of the file.

    Example:
        >>> zoo_table()["cifar_resnet8.cutmix_fmnist_mini"].recipe
        'quickstart'
    """
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    return {row["name"]: ZooEntry(**row) for row in table["weights"]}
