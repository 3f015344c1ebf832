"""Train a recipe: ``accelerate launch -m cutmix_zoo.train --config RECIPE``, or ``train(recipe)`` in a notebook."""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from cutmix_zoo.data.datasets import dataset_size
from cutmix_zoo.errors import OneProcessError, Preempted, UserError, run_command
from cutmix_zoo.evaluation.accuracy import evaluate_accuracy
from cutmix_zoo.known import dataset_title
from cutmix_zoo.pictures import draw_curves
from cutmix_zoo.training.blank_pass import settle_exchange
from cutmix_zoo.training.checkpoint import Progress, load_checkpoint
from cutmix_zoo.training.dry_run import describe_cost, dry_run
from cutmix_zoo.training.environment import device_name
from cutmix_zoo.training.files import write_json
from cutmix_zoo.training.job import Job, make_job
from cutmix_zoo.training.launch import is_launched, leave, make_accelerator, on_main, say
from cutmix_zoo.training.lock import locked
from cutmix_zoo.training.loop import fit
from cutmix_zoo.training.memory import within_memory
from cutmix_zoo.training.overrides import split_overrides
from cutmix_zoo.training.preemption import stop_requests, stop_with_launcher
from cutmix_zoo.training.preview import draw_preview
from cutmix_zoo.training.recipe import load_recipe, public_recipe, recipe_dict
from cutmix_zoo.training.recipe_keys import describe_keys
from cutmix_zoo.training.run import RunFolder, Status, begin, check_unused, find_start, finished_by, read_start, writing
from cutmix_zoo.training.settings import VALIDATED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutmix_zoo.training.settings import Recipe


def train(
    recipe: Recipe,
    output: str | Path | None = None,
    resume: str | Path | None = None,
    *,
    allow_changes: bool = False,
) -> dict[str, Any]:
    """Train a recipe and leave a run folder.

    In the main thread, SIGTERM and SIGINT (Ctrl-C) end the run after the step it is at, with a checkpoint.

    Args:
        recipe: what to train; see :func:`~cutmix_zoo.training.recipe.load_recipe`.
        output: the run's folder; ``None`` takes the run that the checkpoint of ``resume`` lies in, else
            ``runs/<name of the recipe>``.
        resume: ``"auto"`` goes on from the newest checkpoint in the folder, or starts if there is none; a path goes on
            from that checkpoint; ``None`` starts, and refuses a folder that holds a run.
        allow_changes: resume although the recipe, the number of processes, the precision or the data has changed.

    Returns:
        The run's summary: what ``summary.json`` holds. ``"auto"`` does not train a finished run again.

    Raises:
        UserError: for whatever the user can put right: recipe, data, folder, launch.
        Preempted: if a signal has stopped the run.
    """
    resume = None if resume is None else str(resume)
    folder = RunFolder(Path(output) if output else default_output(recipe, resume))
    accelerator = make_accelerator(recipe.runtime.trackers, folder.path)
    # before anything is downloaded
    if resume is None:
        on_main(accelerator, partial(check_unused, folder))
    elif resume == "auto" and not allow_changes:
        launch = (accelerator.num_processes, accelerator.mixed_precision)
        finished = on_main(accelerator, partial(finished_by, folder, recipe, *launch))
        if finished is not None:
            return finished
    with ExitStack() as until_the_end:
        on_main(accelerator, lambda: until_the_end.enter_context(locked(folder)))
        with _within_memory():
            job = make_job(recipe, accelerator)
        progress = Progress(
            recipe_dict(job.recipe),
            world_size=accelerator.num_processes,
            mixed_precision=accelerator.mixed_precision,
            train_images=dataset_size(job.splits.train),
        )
        # one process looks, so that all start from the same
        find = partial(find_start, folder, progress, resume, allow_changes=allow_changes)
        checkpoint, summary = on_main(accelerator, lambda: (find(), folder.summary()))
        if summary is None or resume != "auto" or allow_changes:
            if checkpoint is not None:
                progress = _load(job, checkpoint, progress)
            on_main(accelerator, partial(begin, folder, job.recipe, progress))
            summary = _train(job, folder, progress)
        return summary


def default_output(recipe: Recipe, resume: str | None) -> Path:
    """Choose the folder of a run whose launch names none: that of the checkpoint, if it lies in a run."""
    if resume not in (None, "auto"):
        checkpoints = Path(str(resume)).resolve().parent
        if RunFolder(checkpoints.parent).checkpoints == checkpoints:
            return checkpoints.parent
    return Path("runs", recipe.name)


def _load(job: Job, checkpoint: Path, launch: Progress) -> Progress:
    """Bring what training changes to where a checkpoint was, and say where that is for this launch."""
    if not checkpoint.exists():
        raise UserError(f"{checkpoint} is not on this machine: a run of several needs a folder that they all see.")
    start = read_start(checkpoint)
    changed = any(start.recipe[section] != launch.recipe[section] for section in ("model", "optimizer"))
    load_checkpoint(checkpoint, job.state, keep_settings=changed)
    before, now = ((each.train_images, each.recipe["data"]["batch_size"]) for each in (start, launch))
    if start.step and before != now:
        raise UserError(
            f"cannot resume: {checkpoint} lies within an epoch of {before[0]} images in batches of {before[1]}, and "
            f"there are {now[0]} in batches of {now[1]} now; resume from the end of an epoch."
        )
    if start.step and job.is_over(start):
        raise UserError(
            f"cannot resume: {checkpoint} lies within epoch {start.epoch + 1}, and by schedule.epochs or "
            f"evaluate.patience the run is over after epoch {start.epoch}; resume from the end of an epoch."
        )
    if len(start.sums) not in (0, launch.world_size):
        start.sums = [[sum(part) for part in zip(*start.sums, strict=True)], *[[0.0] * 3] * (launch.world_size - 1)]
    same = {key: getattr(launch, key) for key in ("recipe", "world_size", "mixed_precision", "train_images")}
    return replace(start, **same)


def _train(job: Job, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Train to the end, and say in the folder how it ended, whatever happens."""
    accelerator = job.accelerator
    try:
        if job.recipe.runtime.trackers:
            run = {"name": _tracked_name(job.recipe.name, folder), "config": recipe_dict(public_recipe(job.recipe))}
            accelerator.init_trackers("cutmix_zoo", init_kwargs={"wandb": run, "trackio": run})
        with _within_memory(), stop_requests() as stop:
            if accelerator.is_main_process:
                file = folder.plots / "preview.png"
                _draw(draw_preview, job.recipe, job.splits, file, world_size=accelerator.num_processes)
            settle_exchange(job)
            fit(job, folder, progress, evaluate_accuracy, stop)
        summary = on_main(accelerator, partial(_finish, job, folder, progress))
    except BaseException as error:
        if accelerator.is_main_process or isinstance(error, OneProcessError):
            _say_how_it_ended(folder, error)
        raise
    finally:
        job.train_loader.close()
        for tracker in accelerator.trackers:
            tracker.finish()  # not end_training: a later run in these processes could not start
    return summary


def _tracked_name(recipe: str, folder: RunFolder) -> str:
    """Name a run for a tracker: by its recipe, and its folder where that has another name, as in a sweep."""
    return recipe if folder.path.name == recipe else f"{recipe}/{folder.path.name}"


_within_memory = partial(
    within_memory,
    "the run",
    "set runtime.micro_batch (auto finds what fits), lower data.batch_size, or where a validation does not fit "
    "evaluate.batch_size",
)


def _say_how_it_ended(folder: RunFolder, error: BaseException) -> None:
    state: Status = "preempted" if isinstance(error, Preempted) else "failed"
    try:
        # of several processes, the one whose sample or memory it was knows why the others lost it
        if isinstance(error, OneProcessError) or not folder.has_failed():
            folder.write_status(state, f"{type(error).__name__}: {error}")
    except (OSError, ValueError) as again:  # such as a full disk, of which the error itself tells
        tqdm.write(f"cannot write {folder.status_file}: {again}", file=sys.stderr)


def _finish(job: Job, folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Write what a finished run has more: the model, the curves, and last what says that it is finished."""
    prefix, network = list(job.networks.items())[-1]
    summary = _summarize(job, progress, prefix)
    with writing(folder):
        provenance = {
            "tag": job.recipe.name,
            "description": f"Trained with cutmix_zoo {summary['versions']['cutmix_zoo']} on "
            f"{dataset_title(job.recipe.data.name)}.",
            "recipe": recipe_dict(public_recipe(job.recipe)),
            "summary": summary,
        }
        job.export(network, folder.model, provenance)
        _draw(draw_curves, progress.metrics, folder.plots / "curves.png", title=job.recipe.name)
        folder.write_status("finished")
        write_json(folder.summary_file, summary)
    return summary


def _summarize(job: Job, progress: Progress, prefix: str) -> dict[str, Any]:
    recipe, last = job.recipe, progress.metrics[-1]
    # of the network that is exported: an average is at its best in other epochs than the weights themselves
    best = progress.metrics[progress.best_epochs(prefix + recipe.evaluate.best_by.removeprefix("ema_"))[0] - 1]
    return {
        "name": recipe.name,
        "model": public_recipe(recipe).model.name,
        "dataset": recipe.data.name,
        **{name: last[prefix + name] for name in VALIDATED},
        "val_images": job.val_loader.size,
        "epochs": progress.epoch,
        "best_top1": best[prefix + "top1"],
        "best_epoch": best["epoch"],
        "images_per_second": progress.images / progress.seconds,
        "train_seconds": progress.seconds,
        "parameters": sum(parameter.numel() for parameter in job.network.parameters()),
        "seed": recipe.seed,
        "processes": progress.world_size,
        "micro_batch": job.micro_batch,
        "device": device_name(job.accelerator.device),
        "mixed_precision": job.accelerator.mixed_precision,
        "versions": job.versions,
    }


def _draw(draw: Callable[..., None], *arguments: Any, **options: Any) -> None:
    """Draw a picture if matplotlib is there; the numbers do not depend on it."""
    if find_spec("matplotlib") is None:
        tqdm.write("no pictures: they need matplotlib (pip install matplotlib)")
    else:
        draw(*arguments, **options)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the common options; every other option overrides a key of the recipe."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo train",
        description="Train a recipe and leave a run folder with the model, its numbers and its pictures.",
        epilog="Every key of the recipe can be overridden, such as --optimizer.lr 0.05 or --mix null. The defaults are "
        f"those of a recipe\nthat does not say; the docstrings of cutmix_zoo.mixing say more of the methods' keys.\n\n"
        f"{describe_keys()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE_OR_NAME", help="a recipe file, or a shipped recipe's name"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the run's folder (default: that of the checkpoint of --resume, else runs/<recipe name>)",
    )
    parser.add_argument(
        "--resume", metavar="auto|PATH", help="go on from the folder's newest sound checkpoint, or from this one"
    )
    parser.add_argument(
        "--allow-changes", action="store_true", help="resume although recipe, processes, precision or data have changed"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="train a few steps, evaluate, say what the run would cost, write nothing"
    )
    return parser


def command(arguments: Sequence[str]) -> None:
    """Train as the command line says."""
    options, rest = make_parser().parse_known_args(arguments)
    recipe = load_recipe(options.config, split_overrides(rest))
    if is_launched():
        stop_with_launcher()
    if options.dry_run:
        say(rehearse(recipe))
        return
    summary = train(recipe, options.output, options.resume, allow_changes=options.allow_changes)
    leave()
    say(closing(summary, options.output or default_output(recipe, options.resume)))


def rehearse(recipe: Recipe) -> str:
    """Train a few steps and evaluate, and say what the whole run would cost.

    Raises:
        UserError: for whatever would end the run before it has begun.
    """
    with _within_memory():
        job = make_job(recipe, make_accelerator(recipe.runtime.trackers))
        try:
            return describe_cost(dry_run(job, evaluate_accuracy), job)
        finally:
            job.train_loader.close()


def closing(summary: dict[str, Any], folder: Path) -> str:
    """Say what came of a run, the three lines that load it, and the command that tries it."""
    return f"""
{summary["model"]} after epoch {summary["epochs"]}: top-1 {summary["top1"]:.2f} %, top-5 {summary["top5"]:.2f} % \
on {summary["val_images"]:,} validation images; {summary["images_per_second"]:.0f} training images a second.
Everything is in {folder}. To load the model:

    import timm
    import cutmix_zoo
    model = timm.create_model("local-dir:{folder}/model", pretrained=True).eval()

To try it: cutmix-zoo predict {shlex.quote(str(folder))} IMAGE_OR_FOLDER
"""


def main() -> int:
    """Run ``python -m cutmix_zoo.train``."""
    return run_command(command, "cutmix-zoo train")


if __name__ == "__main__":
    sys.exit(main())
