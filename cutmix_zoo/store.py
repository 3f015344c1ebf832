"""Where weights are on this machine, and whether they are what the zoo table says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from cutmix_zoo.zoo import ZooEntry

PACKAGE_WEIGHTS = Path(__file__).with_name("weights")
"""The folder of the weights that ship with the package."""


def weights_file(entry: ZooEntry) -> Path:
    """Say where the weights of an entry belong, whether they are there or not."""
    return PACKAGE_WEIGHTS / f"{entry.name}.safetensors"


def check_weights(entry: ZooEntry) -> None:
    """Check that the weights of an entry are there and are the ones that the table means.

    Raises:
        UserError: if the file is missing, or its sha256 is another.
    """
    file = weights_file(entry)
    if not file.is_file():
        raise UserError(f"the weights of {entry.name} are not at {file}; install cutmix_zoo again.")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != entry.sha256:
        raise UserError(
            f"{file} is damaged or was replaced: its sha256 is {found}, expected {entry.sha256}; "
            "install cutmix_zoo again."
        )
