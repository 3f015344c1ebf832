"""Where weights are, and whether they are what they should be.

Weights are in the package, or in the local store: a folder for each name, with ``config.json`` and
``model.safetensors``, which ``cutmix-zoo import`` writes; or on the Hugging Face Hub, at a commit and with a hash that
the zoo table names, from where they are fetched into the Hub's own cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from huggingface_hub import (
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HFValidationError

from cutmix_zoo.errors import UserError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.zoo import ZooEntry

PACKAGE_WEIGHTS = Path(__file__).with_name("weights")
"""The folder of the weights that ship with the package."""
WEIGHTS_FILE = "model.safetensors"
"""What the file of weights is called, in the local store and on the Hub."""
WEIGHTS_NAME = re.compile(r"(\w+)\.(\w+)")
"""What weights are called: an architecture, a dot and a tag."""


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Args:
        file: a safetensors file.
        sha256: what its hash should be, in hexadecimal.
        where: in the package, in the local store, or in the cache of the Hugging Face Hub.
    """

    file: Path
    sha256: str
    where: Literal["package", "store", "cache"]

    def check(self) -> None:
        """Check that the file is there and is the one that is meant.

        Raises:
            UserError: if it is missing, or its sha256 is another.
        """
        remedy = {
            "package": "install cutmix_zoo again.",
            "store": "import the weights again.",
            "cache": "delete the file, and it will be fetched again.",
        }[self.where]
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


def stored_configs() -> dict[str, dict[str, Any]]:
    """Read the ``config.json`` of all weights in the local store; folders that hold something else are left out.

    Returns:
        What :func:`stored_config` returns, by the name of the weights, sorted.
    """
    try:
        names = sorted(entry.name for entry in store_folder().iterdir())
    except (OSError, UserError):  # there is no store, or none that can be read
        return {}
    # each is read once: another process may take it away at any time
    found = {name: stored_config(name) for name in names if WEIGHTS_NAME.fullmatch(name)}
    return {name: config for name, config in found.items() if config is not None}


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
    """Find weights on this machine: in the package, else in the local store, else in the Hub's cache.

    Args:
        name: ``architecture.tag``.
        entry: its row in the zoo table, if it has one.

    Returns:
        The weights, not yet checked, or None where there are none.
    """
    if entry is not None and entry.sha256 is not None and entry.shipped:
        return Weights(PACKAGE_WEIGHTS / f"{name}.safetensors", entry.sha256, "package")
    config = stored_config(name)
    if config is not None:
        return Weights(store_folder() / name / WEIGHTS_FILE, config["sha256"], "store")
    return None if entry is None else _cached(entry)


def fetch(entry: ZooEntry) -> Path:
    """Bring the weights of a row of the zoo table here from the Hugging Face Hub, unless they are, and check them.

    A file whose hash is wrong is deleted and fetched once more. No other file of the repository is read.

    Args:
        entry: a row with ``repo``, ``revision`` and ``sha256``.

    Returns:
        The file, in the Hub's cache.

    Raises:
        UserError: if the Hub cannot be reached or does not have it, within seconds; or if the hash is wrong twice.
    """
    assert entry.repo is not None
    reason = ""
    for _ in range(2):
        cached = _cached(entry)
        if cached is None:
            check_reachable(entry.repo, WEIGHTS_FILE, entry.revision)
            try:
                hf_hub_download(entry.repo, WEIGHTS_FILE, revision=entry.revision)
            except Exception as error:  # noqa: BLE001  of the HTTP library too, which depends on the Hub's version
                reason = one_line(error)
                continue
            cached = _cached(entry)
            assert cached is not None
        try:
            cached.check()
        except UserError as error:
            reason = str(error)
            forget(cached.file)
        else:
            return cached.file
    raise UserError(
        f"the weights of {entry.name} cannot be had from {entry.repo} on the Hugging Face Hub (tried twice): {reason}"
    )


def fetch_files(repo: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Bring some files of a repository here from the Hugging Face Hub, all of one commit, and no others.

    Args:
        repo: ``OWNER/NAME``.
        files: their names.
        revision: a commit, branch or tag; ``None`` for the main branch.

    Returns:
        A folder with the files, in the Hub's cache. Without network, those of the commit that was fetched last.

    Raises:
        UserError: if the Hub cannot be reached, within seconds, or does not have one of them.
    """
    try:
        if not all(isinstance(try_to_load_from_cache(repo, file, revision=revision), str) for file in files):
            for file in files:
                check_reachable(repo, file, revision)
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except HFValidationError as error:
        raise UserError(f"{repo!r} is not the name of a repository: {one_line(error)}") from error
    except OSError as error:  # what the Hub's client raises is one, also without network
        raise UserError(f"cannot get {' and '.join(files)} of {repo}: {one_line(error)}") from error


def check_reachable(repo: str, file: str, revision: str | None) -> None:
    """Ask the Hugging Face Hub for a file once, which its own client does for most of a minute before it gives up.

    Args:
        repo: ``OWNER/NAME``.
        file: a file in the repository.
        revision: a commit, branch or tag; ``None`` for the main branch.

    Raises:
        UserError: if there is no answer within seconds, or the answer is that there is no such file for this user.
    """
    try:
        get_hf_file_metadata(hf_hub_url(repo, file, revision=revision), timeout=5)
    except Exception as error:
        raise UserError(
            f"cannot get {file} of {repo} from the Hugging Face Hub: {one_line(error).rstrip('.')}. What was fetched "
            "once is kept; see to the network, to HF_HUB_OFFLINE and, for a private repository, to `hf auth login`."
        ) from error


def forget(file: Path) -> None:
    """Delete a file from the Hub's cache: the link of the commit, and the content that it leads to."""
    for place in {file.resolve(), file}:
        place.unlink(missing_ok=True)


def _cached(entry: ZooEntry) -> Weights | None:
    """Find weights in the Hub's cache, without asking the Hub."""
    if entry.repo is None or entry.sha256 is None:
        return None
    file = try_to_load_from_cache(entry.repo, WEIGHTS_FILE, revision=entry.revision)
    return Weights(Path(file), entry.sha256, "cache") if isinstance(file, str) else None
