"""Where numbers were made: what a reader must know to repeat them."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import distribution, version
from pathlib import Path

import torch

_PACKAGES = ("cutmix_zoo", "torch", "torchvision", "timm", "accelerate")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on, and our ``commit`` if it is known."""
    commit = source_commit(Path(__file__))
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        **({} if commit is None else {"commit": commit}),
    }


def source_commit(file: Path) -> str | None:
    """Return the commit that a file of this package is of.

    Args:
        file: of the package.

    Returns:
        40 hex digits; ``-dirty`` after them if tracked files differ from the commit. ``None`` for a package that was
        installed neither from a repository nor in a clone of it.
    """
    installed = json.loads(distribution("cutmix_zoo").read_text("direct_url.json") or "{}")
    if "vcs_info" in installed:
        return str(installed["vcs_info"]["commit_id"])
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:  # it may lie in the clone of another project
        return None
    return _git(file, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")


def _git(file: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(file.parent), *arguments], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or not a file of it
        return None
    return done.stdout.strip()


def device_name(device: torch.device) -> str:
    """Name a device: a GPU by its model, a CPU by the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def environment(device: torch.device) -> dict[str, str]:
    """Return the versions and the device as one mapping."""
    return {**versions(), "device": device_name(device)}
