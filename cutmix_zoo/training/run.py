"""The folder of a run: where everything is, who may write there, and what state the run is in."""

from __future__ import annotations

import shlex
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutmix_zoo.data.datasets import is_stream
from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.training.checkpoint import (
    Progress,
    check_checkpoint,
    delete_checkpoint,
    list_checkpoints,
    position,
    read_progress,
)
from cutmix_zoo.training.files import read_json, write_json, write_lines, write_text
from cutmix_zoo.training.recipe import dump_recipe, load_recipe, make_recipe, recipe_dict, recipe_difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cutmix_zoo.training.settings import Recipe

MAY_DIFFER = (
    *("name", "data.root", "data.download", "data.workers", "data.resident", "runtime.trackers", "evaluate.best_by"),
    *("runtime.keep_checkpoints", "runtime.keep_best"),
    *("runtime.checkpoint_every_steps", "runtime.checkpoint_every_minutes"),
)
"""Keys that may change on resume: the numbers of a run do not depend on them."""

LEFT_TO_DATA = ("model.in_chans", "model.num_classes", "data.input_size", "data.mean", "data.std")
"""Keys that a recipe may leave to its data, and that a run has filled in."""

SWEEP_FILE = "sweep.json"
"""What a sweep writes beside the folders of its runs."""

Status = Literal["running", "finished", "preempted", "failed"]


def read_sweep(folder: Path) -> list[dict[str, Any]] | None:
    """Read what a sweep has written beside its runs; ``None`` if there is nothing.

    Raises:
        UserError: if it is not what a sweep writes.
    """
    file = folder / SWEEP_FILE
    if not file.is_file():
        return None
    try:
        return [dict(row, name=row["name"], summary=row["summary"]) for row in read_json(file)]
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{file} is not what a sweep writes: {one_line(error)}") from error


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
    def lock_file(self) -> Path:
        """What the launch that writes holds locked."""
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return next(reversed(list_checkpoints(self.checkpoints)), None)

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

    def has_failed(self) -> bool:
        """Whether the status says so."""
        return bool(read_json(self.status_file)["state"] == "failed")

    def summary(self) -> dict[str, Any] | None:
        """Read the summary of a finished run; ``None`` if it is not finished."""
        return read_json(self.summary_file) if self.summary_file.exists() else None


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    """Say what a disk that takes no more means for a run.

    Raises:
        UserError: if something in the block cannot be written.
    """
    try:
        yield
    except OSError as error:
        last = folder.last_checkpoint
        going_on = f"The last good checkpoint is {last}; --resume auto goes on from it." if last else ""
        raise UserError(f"cannot write to {folder.path}: {error}. {going_on}") from error


def finished_by(folder: RunFolder, recipe: Recipe, processes: int, precision: str) -> dict[str, Any] | None:
    """Read the summary of a finished run of a recipe, for which neither data nor network need be there any more.

    Args:
        folder: the run's folder.
        recipe: as it was given: what it leaves to its data is not compared.
        processes: of this launch.
        precision: Accelerate's name for that of this launch.

    Returns:
        What :meth:`RunFolder.summary` gives; ``None`` if the run is not finished, or may be another.
    """
    summary = folder.summary()
    if summary is None or (summary["processes"], summary["mixed_precision"]) != (processes, precision):
        return None
    asked = recipe_dict(recipe)
    places = (key.split(".") for key in LEFT_TO_DATA)
    open_keys = [f"{section}.{key}" for section, key in places if asked[section][key] is None]
    return None if _difference(recipe_dict(load_recipe(folder.recipe_file)), asked, open_keys) else summary


def find_start(
    folder: RunFolder, progress: Progress, resume: str | None, *, allow_changes: bool = False
) -> Path | None:
    """Decide where a run starts, before anything of it is written.

    Args:
        folder: the run's folder.
        progress: this launch at its beginning: its recipe, its processes, its precision, its data.
        resume: ``None`` for a new run, ``"auto"`` to go on from the newest sound checkpoint if there is one, or the
            path of a checkpoint. ``"auto"`` warns of damaged ones.
        allow_changes: go on although recipe, processes, precision or data are others.

    Returns:
        The checkpoint to start from, or ``None`` to start from the beginning.

    Raises:
        UserError: if the folder holds something else, or the checkpoint is damaged or does not fit; with ``"auto"`` if
            there are checkpoints and all are damaged, as beginning anew would delete what can still be read of them.
    """
    checkpoint: Path | None
    if resume is None:
        check_unused(folder)
        return None
    if resume != "auto":
        checkpoint = Path(resume).resolve()
        check_checkpoint(checkpoint)
        if checkpoint.parent != folder.checkpoints.resolve():
            check_unused(folder)
    elif folder.recipe_file.exists():
        checkpoint = _newest_sound(folder)
        if checkpoint is None and not allow_changes:
            _check_same(recipe_dict(load_recipe(folder.recipe_file)), progress.recipe, folder.recipe_file)
    else:
        check_unused(folder)
        return None
    if checkpoint is not None and not allow_changes:
        _check_fits(checkpoint, progress)
    return checkpoint


def _newest_sound(folder: RunFolder) -> Path | None:
    checkpoints = list_checkpoints(folder.checkpoints)
    for checkpoint in reversed(checkpoints):
        try:
            check_checkpoint(checkpoint)
        except UserError as error:
            if checkpoint == checkpoints[0]:
                raise UserError(
                    f"{error} No earlier one is sound; to begin anew, choose another folder with --output."
                ) from error
            warnings.warn(f"{error} Going back to an earlier one.", stacklevel=2)
        else:
            return checkpoint
    return None


def read_start(checkpoint: Path) -> Progress:
    """Read how far the run of a checkpoint was; keys that its recipe lacks, as of an earlier version, are defaults."""
    progress = read_progress(checkpoint)
    return replace(progress, recipe=recipe_dict(make_recipe(progress.recipe, str(checkpoint))))


def begin(folder: RunFolder, recipe: Recipe, start: Progress) -> None:
    """Write what a run writes first; of an older run in the folder, keep what came before ``start``.

    Args:
        folder: the run's folder.
        recipe: what is trained, resolved.
        start: where the run starts.

    Raises:
        UserError: if the folder cannot be written to.
    """
    with writing(folder):
        folder.summary_file.unlink(missing_ok=True)
        write_text(
            folder.recipe_file,
            f"# resolved by cutmix_zoo; trains again with --config THIS_FILE\n{dump_recipe(recipe)}",
        )
        write_lines(folder.metrics_file, start.metrics)
        # from the end, so that what is left after an interruption is a run up to somewhere
        for checkpoint in reversed(list_checkpoints(folder.checkpoints)):
            if position(checkpoint) > (start.epoch, start.step):
                delete_checkpoint(checkpoint)
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
    if folder.path.exists() and (
        not folder.path.is_dir() or any(_is_foreign(folder, f) for f in folder.path.iterdir())
    ):
        raise UserError(f"{folder.path} is not an empty folder and not a run; choose a new folder with --output.")


def _is_foreign(folder: RunFolder, file: Path) -> bool:
    # what a launch leaves that was refused, or killed while it wrote its first file
    return file != folder.lock_file and file.suffix != ".part"


def _check_fits(checkpoint: Path, progress: Progress) -> None:
    before = read_start(checkpoint)
    _check_same(before.recipe, progress.recipe, checkpoint)
    for key in ("world_size", "mixed_precision", "train_images"):
        old, new = getattr(before, key), getattr(progress, key)
        if old != new:
            raise UserError(
                f"cannot resume: {checkpoint} was written with {key} {old} and this launch has {new}; "
                "--allow-changes goes on all the same."
            )


def _difference(old: dict[str, Any], new: dict[str, Any], ignored: Sequence[str] = ()) -> list[str]:
    """List in what two recipes differ that the numbers of a run depend on."""
    # the order of a stream depends on how many workers read it, and the end of a run on what its patience looks at
    counts = {"data.workers": is_stream(new["data"]["name"]), "evaluate.best_by": new["evaluate"]["patience"]}
    return recipe_difference(old, new, [*(key for key in MAY_DIFFER if not counts.get(key)), *ignored])


def _check_same(old: dict[str, Any], new: dict[str, Any], place: Path) -> None:
    difference = _difference(old, new)
    if difference:
        raise UserError(
            f"cannot resume: {place} is of another recipe ({'; '.join(difference)}). "
            "Give the run's own recipe, choose a new folder with --output, or go on all the same with --allow-changes."
        )
