"""The loop: epochs of keyed batches, mixed, trained on, measured and saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from timm.loss import SoftTargetCrossEntropy
from timm.utils import distribute_bn

from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import Stream, seed_for
from cutmix_zoo.mixing import mix_features, mixed_accuracy
from cutmix_zoo.training.gradient import GradientGuard, NotFiniteError
from cutmix_zoo.training.launch import gather_from_processes, progress_bar
from cutmix_zoo.training.saver import Saver
from cutmix_zoo.training.settings import VALIDATED

if TYPE_CHECKING:
    from torch import Tensor, nn
    from tqdm import tqdm

    from cutmix_zoo.data.loaders import EvalLoader
    from cutmix_zoo.training.checkpoint import Progress
    from cutmix_zoo.training.job import Job
    from cutmix_zoo.training.preemption import StopRequest
    from cutmix_zoo.training.run import RunFolder

Evaluate = Callable[..., dict[str, float]]
"""What measures a network: :func:`cutmix_zoo.evaluation.accuracy.evaluate_accuracy` or its like."""
Measure = Callable[["nn.Module", "EvalLoader"], dict[str, float]]
"""The same, which knows of the run: it takes a network and a loader."""
Line = dict[str, float | None]
"""Numbers of an epoch, by name."""


def fit(job: Job, folder: RunFolder, progress: Progress, evaluate: Evaluate, stop: StopRequest) -> None:
    """Train from ``progress`` to the end of the run.

    Args:
        job: what is trained; its network, optimizer and scaler stand where ``progress`` says.
        folder: where metrics and checkpoints go.
        progress: how far the run is; it is moved on in place.
        evaluate: measures a network on batches.
        stop: is looked at between two steps.

    Raises:
        UserError: if a gradient or the loss is not finite, a split holds more or fewer images than it says, or a
            checkpoint cannot be written.
        Preempted: if a stop was requested; a checkpoint has been written.
    """
    epochs, settings = job.recipe.schedule.epochs, job.recipe.optimizer
    guard = GradientGuard(settings.clip_norm, settings.skip_nonfinite, progress.skipped)
    saver = Saver(job, folder, stop, check=guard.check)

    def reduce(sums: Tensor) -> Tensor:
        saver.stop_if_asked(progress)  # then the measurement has ended early
        return job.reduce(sums)

    def measure(network: nn.Module, loader: EvalLoader) -> dict[str, float]:
        num_classes = len(job.splits.classes)
        found = evaluate(network, stop.until(loader), prepare=job.prepare, num_classes=num_classes, reduce=reduce)
        _check_complete(found, loader)
        return found

    with _make_bar(job, progress) as bar:
        while not job.is_over(progress):
            try:
                trained = train_epoch(job, progress, guard, bar, saver.after_step)
            except NotFiniteError as error:
                raise UserError(
                    f"{error}: lower optimizer.lr, set optimizer.clip_norm, or lengthen schedule.warmup_epochs. "
                    f"The last good checkpoint is {folder.last_checkpoint or 'not written yet'}."
                ) from error
            _share_statistics(job)
            try:
                measured = _measure(job, progress.epoch, measure)
            except Exception:
                try:
                    saver.save_alone(progress)
                except UserError as error:  # the first one is to be heard
                    bar.write(str(error))
                raise
            line = {"epoch": progress.epoch + 1, **trained, **measured}
            line["images_per_second"] = job.images_per_epoch / progress.epoch_seconds
            progress.end_epoch(line, job.images_per_epoch)
            saver.after_epoch(progress)
            if job.accelerator.is_main_process:
                bar.write(_describe(line, epochs))
        last = progress.metrics[-1]
        if any(last.get(prefix + name) is None for prefix in job.networks for name in VALIDATED):
            # a run that was resumed with changes: its last epoch was not to be the last, or had no average
            last.update(_validate(job, measure))
            saver.after_epoch(progress)
            if job.accelerator.is_main_process:
                bar.write(_describe(last, epochs))


def train_epoch(
    job: Job, progress: Progress, guard: GradientGuard, bar: tqdm, after_step: Callable[[Progress, Tensor], float]
) -> Line:
    """Train an epoch, or the rest of it.

    Args:
        job: what is trained.
        progress: where the run is; it is moved on to the end of the epoch, in front of its measurement.
        guard: says which gradients are applied.
        bar: is moved on by the images of all processes.
        after_step: is called after each step with ``progress`` and what this process has added up; returns the seconds
            that it took and that are no part of training.

    Returns:
        ``lr`` of the last update, and over all processes ``train_loss`` in nats and ``mixed_top1`` in percent; batches
        whose update was left out do not count in them, and where all were, they are None.

    Raises:
        NotFiniteError: if a gradient is not finite.
        UserError: if the loss is not finite, or the mixing method cannot mix a batch.
    """
    job.train_mode()
    # loss, hits and images; after a resume, what this process had added up before
    before = progress.sums[job.accelerator.process_index] if progress.sums else [0.0] * 3
    sums = torch.tensor(before, dtype=torch.float64, device=job.accelerator.device)
    epoch, lap = progress.epoch, time.perf_counter()
    # closed when the run stops within the epoch: a traceback would keep it, and with it the workers
    with closing(job.train_loader.epoch(epoch, progress.step)) as batches:
        for batch in batches:
            sums += _train_step(job, batch, epoch, progress.step, guard)
            progress.step, progress.skipped = progress.step + 1, guard.skipped
            bar.update(job.recipe.data.batch_size)
            now = time.perf_counter()
            progress.epoch_seconds += now - lap
            # to wait for slower processes is part of training, to save is not
            lap = now + after_step(progress, sums)
    guard.check()
    progress.sums = gather_from_processes(job.accelerator, sums)
    progress.epoch_seconds += time.perf_counter() - lap
    loss_sum, hits, count = map(sum, zip(*progress.sums, strict=True))
    if not count:
        return {"lr": job.lr, "train_loss": None, "mixed_top1": None}
    if not math.isfinite(loss_sum):
        raise NotFiniteError(f"the training loss of epoch {epoch + 1} (learning rate {job.lr:.3g}) is not finite")
    return {"lr": job.lr, "train_loss": loss_sum / count, "mixed_top1": hits / count}


def _train_step(job: Job, batch: tuple[Tensor, Tensor], epoch: int, step: int, guard: GradientGuard) -> Tensor:
    """Train on one batch and return the sums of its loss and hits, and its size; zeros if its update is left out."""
    update = epoch * job.updates_per_epoch + step
    job.set_update(update)
    images, targets, plan = job.mixed(batch, epoch, step)
    # dropout and drop path draw from the global generators: derive those too, so that nothing need be saved
    seed = seed_for(job.recipe.seed, Stream.MODEL, update, job.accelerator.process_index)
    # torch.manual_seed visits every kind of accelerator, which takes a hundredth of a small network's step on the CPU
    seed_all = torch.default_generator.manual_seed if job.accelerator.device.type == "cpu" else torch.manual_seed
    seed_all(seed)
    before = [buffer.clone() for buffer in job.network.buffers()] if guard.may_skip_more else []
    # backward too, because gradient checkpointing computes the mixed maps a second time
    with mix_features(job.model, plan):
        loss, logits = _backward(job, images, targets)
    place = f"epoch {epoch + 1}, step {step + 1} (learning rate {job.lr:.3g})"
    applied = _apply(job, guard, place)
    job.optimizer.zero_grad()
    if not applied:
        # batch statistics were moved by what was left out; a scaler's overflow is mostly in the gradient alone
        for buffer, value in zip(job.network.buffers(), before, strict=False):
            buffer.copy_(value)
        return torch.zeros(3, dtype=torch.float64, device=job.accelerator.device)
    if job.ema is not None:
        job.ema.update(job.network, step=update + 1)
    mean = torch.stack([loss.double(), mixed_accuracy(logits, targets).double()])
    return torch.cat([mean, mean.new_ones(1)]) * len(images)


def _apply(job: Job, guard: GradientGuard, place: str) -> bool:
    """Move the weights by the gradient, unless that is left out; say whether it was applied."""
    if job.accelerator.scaler is None:
        applied = guard.admits(guard.clip(job.network.parameters()), place)
        if applied:
            job.optimizer.step()
        return applied
    job.accelerator.unscale_gradients()
    guard.clip(job.network.parameters())
    # a scaler tries out how far it can go, and leaves out by itself what was too far
    job.optimizer.step()
    guard.count(applied=not job.optimizer.step_was_skipped, place=place)
    return not job.optimizer.step_was_skipped


def _backward(job: Job, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Add up the gradient of a batch, in as many passes as the recipe asks for; return its mean loss and its logits."""
    size = job.micro_batch or len(images)
    parts = list(zip(images.split(size), targets.split(size), strict=True))
    losses, logits = [], []
    for number, (part, target) in enumerate(parts, start=1):
        # processes exchange gradients once, in the last pass
        with nullcontext() if number == len(parts) else job.accelerator.no_sync(job.model):
            with job.accelerator.autocast():
                output = job.model(part)
            # each pass counts by its images: the last one may have fewer
            loss = SoftTargetCrossEntropy()(output.float(), job.weighted(target)) * (len(part) / len(images))
            job.accelerator.backward(loss)
        losses.append(loss.detach())
        logits.append(output.detach())
    return torch.stack(losses).sum(), torch.cat(logits)


def _share_statistics(job: Job) -> None:
    """Give all processes the running statistics of rank 0, which measurements read and training steps do not."""
    if job.accelerator.num_processes > 1:
        for network in job.networks.values():
            distribute_bn(network, job.accelerator.num_processes, reduce=False)


def _measure(job: Job, epoch: int, measure: Measure) -> Line:
    """Measure the bare network on unmixed training images; all networks on the validation split when it is due."""
    clean = measure(job.network, job.clean_loader)["top1"]
    due = epoch + 1 == job.recipe.schedule.epochs or (epoch + 1) % job.recipe.evaluate.every == 0
    return {"clean_train_top1": clean, **_validate(job, measure if due else lambda *_: {})}


def _check_complete(found: dict[str, float], loader: EvalLoader) -> None:
    if found["count"] != loader.size:
        raise UserError(
            f"evaluated {found['count']} images of a split of {loader.size}: the dataset does not hold what it says."
        )


def _validate(job: Job, measure: Measure) -> Line:
    """Measure all networks on the validation split."""
    found = {prefix: measure(network, job.val_loader) for prefix, network in job.networks.items()}
    return {
        prefix + name: numbers.get(name.removeprefix("val_")) for prefix, numbers in found.items() for name in VALIDATED
    }


def _make_bar(job: Job, progress: Progress) -> tqdm:
    return progress_bar(
        job.accelerator,
        total=job.recipe.schedule.epochs * job.images_per_epoch,
        initial=progress.epoch * job.images_per_epoch + progress.step * job.recipe.data.batch_size,
        unit=" images",
        unit_scale=True,
        desc=job.recipe.name,
    )


def _describe(line: dict[str, Any], epochs: int) -> str:
    formats = {"lr": ".2g", "train_loss": ".3f", "mixed_top1": ".2f", "clean_train_top1": ".2f"}
    formats |= {"top1": ".2f", "top5": ".2f", "ema_top1": ".2f"}
    numbers = "".join(f"  {key} {line[key]:{form}}" for key, form in formats.items() if line.get(key) is not None)
    return f"epoch {line['epoch']}/{epochs}{numbers}  {line['images_per_second']:.0f} images/s"
