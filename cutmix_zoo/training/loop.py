"""The loop: epochs of keyed batches, mixed, trained on, measured and saved."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from timm.loss import SoftTargetCrossEntropy
from timm.utils import distribute_bn
from tqdm import tqdm

from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import Stream, seed_for
from cutmix_zoo.mixing import mix_features, mixed_accuracy
from cutmix_zoo.training.checkpoint import Progress, prune_checkpoints, save_checkpoint
from cutmix_zoo.training.files import write_lines

if TYPE_CHECKING:
    from cutmix_zoo.training.job import Job
    from cutmix_zoo.training.run import RunFolder

Evaluate = Callable[..., dict[str, float]]
"""What measures a network: :func:`cutmix_zoo.evaluation.accuracy.evaluate_accuracy` or its like."""


def fit(job: Job, folder: RunFolder, progress: Progress, evaluate: Evaluate) -> None:
    """Train from ``progress`` to the end of the run, an epoch at a time.

    Args:
        job: what is trained; its network, optimizer and scaler stand where ``progress`` says.
        folder: where metrics and checkpoints go.
        progress: how far the run is; it is moved on in place.
        evaluate: measures a network on batches.

    Raises:
        UserError: if the loss is not finite.
    """
    settings = job.recipe.schedule
    bar = _make_bar(job, done=progress.epoch)
    with bar:
        for epoch in range(progress.epoch, settings.epochs):
            started = time.perf_counter()
            line: dict[str, float | None] = dict(train_epoch(job, epoch, bar))
            seconds = time.perf_counter() - started
            if job.accelerator.num_processes > 1:
                distribute_bn(job.network, job.accelerator.num_processes, reduce=True)
            progress.images += job.images_per_epoch
            progress.seconds += seconds
            line = {"epoch": epoch + 1, **line, **_measure(job, epoch, evaluate)}
            line["images_per_second"] = job.images_per_epoch / seconds
            progress.metrics.append(line)
            _save(job, folder, progress)
            if job.accelerator.is_main_process:
                bar.write(_describe(line, settings.epochs))


def train_epoch(job: Job, epoch: int, bar: tqdm) -> dict[str, float]:
    """Train one epoch.

    Args:
        job: what is trained.
        epoch: which, from 0.
        bar: is moved on by the images of all processes.

    Returns:
        ``lr`` of the last update, and over all processes ``train_loss`` in nats and ``mixed_top1`` in percent.

    Raises:
        UserError: if the loss is not finite, or the mixing method cannot mix a batch.
    """
    criterion = SoftTargetCrossEntropy()
    job.model.train()
    count, sums = 0, torch.zeros(2, dtype=torch.float64, device=job.accelerator.device)
    for step, batch in enumerate(job.train_loader.epoch(epoch)):
        update = epoch * job.updates_per_epoch + step
        job.set_update(update)
        images, targets, plan = job.mixed(batch, epoch, step)
        # dropout and drop path draw from the global generators: derive those too, so that nothing need be saved
        torch.manual_seed(seed_for(job.recipe.seed, Stream.MODEL, update, job.accelerator.process_index))
        with mix_features(job.model, plan):
            with job.accelerator.autocast():
                logits = job.model(images)
            loss = criterion(logits.float(), targets)
            # inside, because gradient checkpointing computes the mixed maps a second time
            job.accelerator.backward(loss)
        job.optimizer.step()
        job.optimizer.zero_grad()
        sums += torch.stack([loss.detach().double(), mixed_accuracy(logits.detach(), targets).double()]) * len(images)
        count += len(images)
        bar.update(len(images) * job.accelerator.num_processes)
    loss_sum, hits = job.reduce(sums).tolist()
    count *= job.accelerator.num_processes
    if not math.isfinite(loss_sum):
        raise UserError(
            f"the training loss of epoch {epoch + 1} is not a finite number (learning rate {job.lr:.3g}); "
            "lower optimizer.lr, or lengthen schedule.warmup_epochs. The last checkpoint is from before that epoch."
        )
    return {"lr": job.lr, "train_loss": loss_sum / count, "mixed_top1": hits / count}


def _measure(job: Job, epoch: int, evaluate: Evaluate) -> dict[str, float | None]:
    """Measure the bare network: on unmixed training images, and when it is due on the validation split."""
    options = {"prepare": job.prepare, "reduce": job.reduce}
    clean = evaluate(job.network, job.clean_loader, expected=job.clean_loader.size, **options)
    line: dict[str, float | None] = {"clean_train_top1": clean["top1"], "top1": None, "top5": None, "val_loss": None}
    last = epoch + 1 == job.recipe.schedule.epochs
    if last or (epoch + 1) % job.recipe.evaluate.every == 0:
        validation = evaluate(job.network, job.val_loader, expected=job.val_loader.size, **options)
        line.update(top1=validation["top1"], top5=validation["top5"], val_loss=validation["loss"])
    return line


def _save(job: Job, folder: RunFolder, progress: Progress) -> None:
    accelerator, line = job.accelerator, progress.metrics[-1]
    if accelerator.is_main_process:
        write_lines(folder.metrics_file, progress.metrics)
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
        save_checkpoint(folder.checkpoints, progress, job.network, job.torch_optimizer, scaler)
        prune_checkpoints(folder.checkpoints, job.recipe.runtime.keep_checkpoints)
    accelerator.log({key: value for key, value in line.items() if value is not None}, step=line["epoch"])
    accelerator.wait_for_everyone()


def _make_bar(job: Job, done: int) -> tqdm:
    return tqdm(
        total=job.recipe.schedule.epochs * job.images_per_epoch,
        initial=done * job.images_per_epoch,
        unit=" images",
        unit_scale=True,
        desc=job.recipe.name,
        disable=not job.accelerator.is_main_process,
        # a log file gets a line now and then, a terminal a moving bar
        mininterval=0.2 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )


def _describe(line: dict[str, Any], epochs: int) -> str:
    validation = "" if line["top1"] is None else f"  top1 {line['top1']:.2f}  top5 {line['top5']:.2f}"
    return (
        f"epoch {line['epoch']}/{epochs}  lr {line['lr']:.2g}  train_loss {line['train_loss']:.3f}"
        f"  mixed_top1 {line['mixed_top1']:.2f}  clean_train_top1 {line['clean_train_top1']:.2f}{validation}"
        f"  {line['images_per_second']:.0f} images/s"
    )
