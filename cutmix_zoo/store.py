"""Where weights are on this machine, and whether they are what they should be.

Weights are in the package, or in the local store: a folder for each name, with ``config.json`` and
``model.safetensors``, which ``cutmix-zoo import`` writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutmix_zoo.errors import UserError

if TYPE_CHECKING:
    from cutmix_zoo.zoo import ZooEntry

PACKAGE_WEIGHTS = Path(__file__).with_name("weights")
"""The folder of the weights that ship with the package."""
WEIGHTS_NAME = re.compile(r"(\w+)\.(\w+)")
"""What weights are called: an architecture, a dot and a tag."""


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Args:
        file: a safetensors file.
        sha256: what its hash should be, in hexadecimal.
        where: in the package, or in the local store.
    """

    file: Path
    sha256: str
    where: Literal["package", "store"]

    def check(self) -> None:
        """Check that the file is there and is the one that is meant.

        Raises:
            UserError: if it is missing, or its sha256 is another.
        """
        remedy = "install cutmix_zoo again." if self.where == "package" else "import the weights again."
        if not self.file.is_file():
            raise UserError(f"there are no weights at {self.file}; {remedy}")
        found = file_sha256(self.file)
        if found != self.sha256:
            raise UserError(
                f"{self.file} is damaged or was replaced: its sha256 is {found}, expected {self.sha256}; {remedy}"
            )


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def store_folder() -> Path:
    """Return the folder of the local store: ``CUTMIX_ZOO_HOME``, or ``cutmix_zoo`` in the user's cache folder.

    Raises:
        UserError: if neither says where that is.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(os.environ.get("CUTMIX_ZOO_HOME") or Path(cache, "cutmix_zoo")).expanduser()
    except RuntimeError as error:
        raise UserError(f"{error} Set CUTMIX_ZOO_HOME to the folder for imported weights.") from error


def stored_names() -> list[str]:
    """Name the weights in the local store, sorted; folders that hold something else are left out."""
    try:
        names = sorted(entry.name for entry in store_folder().iterdir())
    except (OSError, UserError):  # there is no store, or none that can be read
        return []
    return [name for name in names if WEIGHTS_NAME.fullmatch(name) and stored_config(name) is not None]


def stored_config(name: str) -> dict[str, Any] | None:
    """Read the ``config.json`` of weights in the local store.

    Args:
        name: ``architecture.tag``.

    Returns:
        Its content, or None where there is none that makes sense.
    """
    try:
        file = store_folder() / name / "config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, RecursionError, ValueError):
        return None
    return config if _makes_sense(config, name.partition(".")[0]) else None


def _makes_sense(config: Any, architecture: str) -> bool:
    """Check what is read of a ``config.json``, which anybody may have changed."""
    types = {"pretrained_cfg": dict, "sha256": str}
    if not isinstance(config, dict) or not all(isinstance(config.get(key), kind) for key, kind in types.items()):
        return False
    size, provenance = config["pretrained_cfg"].get("input_size"), config.get("provenance", {})
    if not isinstance(size, list) or len(size) != 3 or not all(type(side) is int and side > 0 for side in size):
        return False
    if not isinstance(provenance, dict) or not isinstance(provenance.get("dataset"), str | None):
        return False
    count = config.get("num_classes")
    # not isinstance, as true is an int as well
    return config.get("architecture") == architecture and type(count) is int and 0 <= count < 2**31


def locate(name: str, entry: ZooEntry | None) -> Weights | None:
    """Find weights on this machine: in the package, else in the local store.

    Args:
        name: ``architecture.tag``.
        entry: its row in the zoo table, if it has one.

    Returns:
        The weights, not yet checked, or None where there are none.
    """
    if entry is not None and entry.sha256 is not None:
        return Weights(PACKAGE_WEIGHTS / f"{name}.safetensors", entry.sha256, "package")
    config = stored_config(name)
    return None if config is None else Weights(store_folder() / name / "model.safetensors", config["sha256"], "store")
