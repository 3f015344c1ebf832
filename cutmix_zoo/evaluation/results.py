"""The folder of an evaluation: what was measured, what every image was taken for, and what the suites found."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch

from cutmix_zoo.data.datasets import is_random_access
from cutmix_zoo.errors import UserError, write_errors
from cutmix_zoo.evaluation.findings import csv_text
from cutmix_zoo.training.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from cutmix_zoo.evaluation.findings import Findings
    from cutmix_zoo.evaluation.subject import Rows


@dataclass(frozen=True)
class ResultFolder:
    """The paths of an evaluation's results.

    Args:
        path: the folder itself.
    """

    path: Path

    @property
    def about_file(self) -> Path:
        """What was measured, and where."""
        return self.path / "evaluation.json"

    @property
    def predictions_file(self) -> Path:
        """What every image was taken for."""
        return self.path / "predictions.npz"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"

    def suite_file(self, suite: str) -> Path:
        """The numbers of a suite."""
        return self.path / f"{suite}.json"

    def arrays_file(self, suite: str) -> Path:
        """The arrays of a suite, if it has any."""
        return self.path / f"{suite}.npz"

    def not_measured(self, suites: Sequence[str]) -> list[str]:
        """List those of some suites whose numbers are not here yet."""
        return [suite for suite in suites if not self.suite_file(suite).exists()]

    def check(self, about: Mapping[str, Any], suites: Sequence[str]) -> None:
        """Check that results may be written here: of the same model on the same data, and of suites not yet measured.

        Args:
            about: what is to be measured, such as ``model``, ``sha256``, ``dataset`` and ``split``.
            suites: what is to be measured.

        Raises:
            UserError: if there are other results, or the folder cannot be made.
        """
        for suite in suites:
            if self.suite_file(suite).exists():
                raise UserError(f"{self.suite_file(suite)} exists and is not overwritten; choose another folder.")
        if self.about_file.exists():
            there = read_json(self.about_file)
            for key, value in about.items():
                if there.get(key, value) != value:
                    raise UserError(
                        f"{self.path} has the results of {key} {there.get(key)!r}, not of {value!r}; choose another "
                        "folder."
                    )
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Write what was measured, and where.

        What an earlier call wrote stays: what this one does not know; its ``command``, a line above that of this one;
        and its ``environment``, where each version that differs stands beside the other.
        """
        before = read_json(self.about_file) if self.about_file.exists() else {}
        versions = before.get("environment", {})
        together = {
            "command": _joined("\n", before.get("command"), about["command"]),
            "environment": {name: _joined("; ", versions.get(name), now) for name, now in about["environment"].items()},
        }
        write_json(self.about_file, {**before, **about, **together})

    def write_predictions(self, rows: Rows, names: Sequence[str]) -> None:
        """Write ``index`` (N,), ``name`` (N,), ``label`` (N,) and ``logits`` (N, K) of every image.

        Args:
            rows: ``index``, ``labels`` and ``logits`` of the images.
            names: of all images of the split, by their places in it.
        """
        np.savez_compressed(
            self.predictions_file,
            index=rows["index"],
            name=np.array([names[index] for index in rows["index"]]),
            label=rows["labels"],
            logits=rows["logits"],
        )

    def write(self, suite: str, head: Mapping[str, Any], findings: Findings) -> None:
        """Write ``<suite>.json``, and ``<suite>.csv`` and ``<suite>.npz`` where there is something for them.

        Args:
            suite: its name.
            head: what was measured: ``model``, ``dataset``, ``split``.
            findings: what was found.
        """
        write_json(self.suite_file(suite), findings.record(head))
        if findings.rows:
            write_text(self.path / f"{suite}.csv", csv_text(findings.rows))
        if findings.arrays:
            arrays: dict[str, Any] = dict(findings.arrays)
            np.savez_compressed(self.arrays_file(suite), **arrays)


def _joined(separator: str, before: str | None, now: str | None) -> str | None:
    """Put what is behind what was, unless it is there already."""
    parts = before.split(separator) if before else []
    return separator.join([*parts, *([now] if now and now not in parts else [])]) or None


def sample_names(dataset: Any, count: int) -> list[str]:
    """Name the images of a split: by their paths where they have any, else by their places in it.

    Args:
        dataset: what :func:`cutmix_zoo.data.datasets.open_split` returned.
        count: its number of images.
    """
    # timm's streams have the attribute, and no name behind it
    name_of = getattr(dataset, "filename", str) if is_random_access(dataset) else str
    return [name_of(index) for index in range(count)]


def weights_sha256(network: nn.Module) -> str:
    """Return the sha256 of a network's weights as a safetensors file."""
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    return hashlib.sha256(safetensors.torch.save(weights, {"format": "pt"})).hexdigest()
