"""The folder of a run: where everything is, who may write there, and what state the run is in."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutmix_zoo.data.datasets import is_stream
from cutmix_zoo.errors import UserError
from cutmix_zoo.training.checkpoint import Progress, check_checkpoint, list_checkpoints, read_progress
from cutmix_zoo.training.files import read_json, write_json, write_lines, write_text
from cutmix_zoo.training.recipe import dump_recipe, load_recipe, recipe_dict, recipe_difference

if TYPE_CHECKING:
    from cutmix_zoo.training.settings import Recipe

MAY_DIFFER = ("name", "data.root", "data.download", "data.workers", "runtime.trackers", "runtime.keep_checkpoints")
"""Keys that may change on resume: the numbers of a run do not depend on them."""

Status = Literal["running", "finished", "preempted", "failed"]


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run.

    Args:
        path: the folder itself.
    """

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe, which can be trained again."""
        return self.path / "recipe.yaml"

    @property
    def metrics_file(self) -> Path:
        """One JSON line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        """The numbers of a finished run."""
        return self.path / "summary.json"

    @property
    def status_file(self) -> Path:
        """``running``, ``finished``, ``preempted`` or ``failed``, and why."""
        return self.path / "status.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """What ``timm.create_model("local-dir:...", pretrained=True)`` loads."""
        return self.path / "model"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"

    def write_status(self, state: Status, reason: str = "") -> None:
        """Say what state the run is in."""
        write_json(self.status_file, {"state": state, "reason": reason})

    def summary(self) -> dict[str, Any] | None:
        """Read the summary of a finished run; ``None`` if it is not finished."""
        return read_json(self.summary_file) if self.summary_file.exists() else None


def find_start(folder: RunFolder, progress: Progress, resume: str | None) -> Path | None:
    """Decide where a run starts, before anything is written.

    Args:
        folder: the run's folder.
        progress: this launch at its beginning: its recipe, its processes, its precision.
        resume: ``None`` for a new run, ``"auto"`` to go on from the newest checkpoint if there is one, or the path of a
            checkpoint.

    Returns:
        The checkpoint to start from, or ``None`` to start from the beginning.

    Raises:
        UserError: if the folder holds something else, or the checkpoint does not fit.
    """
    if resume is None:
        check_unused(folder)
        return None
    if resume != "auto":
        checkpoint = Path(resume).resolve()
        _check_checkpoint(checkpoint, progress)
        if checkpoint.parent != folder.checkpoints.resolve():
            check_unused(folder)
        return checkpoint
    if not folder.recipe_file.exists():
        check_unused(folder)
        return None
    _check_same(recipe_dict(load_recipe(folder.recipe_file)), progress.recipe, folder.recipe_file)
    checkpoints = list_checkpoints(folder.checkpoints)
    if not checkpoints:
        return None
    _check_checkpoint(checkpoints[-1], progress)
    return checkpoints[-1]


def begin(folder: RunFolder, recipe: Recipe, start: Progress) -> None:
    """Write what a run writes first; of an older run in the folder, keep what came before ``start``.

    Args:
        folder: the run's folder.
        recipe: what is trained, resolved.
        start: where the run starts.

    Raises:
        UserError: if the folder cannot be made.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder.path}: {error}; choose another folder with --output.") from error
    write_text(
        folder.recipe_file, f"# resolved by cutmix_zoo; trains again with --config THIS_FILE\n{dump_recipe(recipe)}"
    )
    write_lines(folder.metrics_file, start.metrics)
    for checkpoint in list_checkpoints(folder.checkpoints):
        if read_progress(checkpoint).epoch > start.epoch:
            shutil.rmtree(checkpoint)
    folder.summary_file.unlink(missing_ok=True)
    folder.write_status("running")


def check_unused(folder: RunFolder) -> None:
    """Check that a new run may write into a folder.

    Raises:
        UserError: if something is there.
    """
    if folder.recipe_file.exists():
        raise UserError(
            f"{folder.path} holds a run already. To go on with it add --resume auto; "
            f"to keep it and start another choose a new folder with --output; "
            f"to throw it away: rm -r {shlex.quote(str(folder.path))}"
        )
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise UserError(f"{folder.path} is not an empty folder and not a run; choose a new folder with --output.")


def _check_checkpoint(checkpoint: Path, progress: Progress) -> None:
    check_checkpoint(checkpoint)
    before = read_progress(checkpoint)
    _check_same(before.recipe, progress.recipe, checkpoint)
    for key in ("world_size", "mixed_precision"):
        old, new = getattr(before, key), getattr(progress, key)
        if old != new:
            raise UserError(f"cannot resume: {checkpoint} was written with {key} {old} and this launch has {new}.")


def _check_same(old: dict[str, Any], new: dict[str, Any], place: Path) -> None:
    # the order of a stream depends on how many workers read it
    ignore = [key for key in MAY_DIFFER if key != "data.workers" or not is_stream(new["data"]["name"])]
    difference = recipe_difference(old, new, ignore)
    if difference:
        raise UserError(
            f"cannot resume: {place} is of another recipe ({'; '.join(difference)}). "
            "Give the run's own recipe, or choose a new folder with --output."
        )
