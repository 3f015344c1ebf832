"""A job: the live objects of one run, made from a recipe."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from cutmix_zoo.data.datasets import need_labels
from cutmix_zoo.data.loaders import EvalLoader, TrainLoader, eval_loader, train_loader
from cutmix_zoo.data.sampler import local_batch_size
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.data.transforms import to_input
from cutmix_zoo.errors import UserError
from cutmix_zoo.mixing import IdentityPlan, MixPlan
from cutmix_zoo.models.drop_block import set_drop_block_progress
from cutmix_zoo.models.export import DATA_KEYS, export_model
from cutmix_zoo.models.labels import stated_label_names
from cutmix_zoo.training.checkpoint import TrainState
from cutmix_zoo.training.environment import versions
from cutmix_zoo.training.launch import one_process_first, sum_over_processes
from cutmix_zoo.training.memory import find_micro_batch
from cutmix_zoo.training.mix import draw_mix, make_collate, measure_maps
from cutmix_zoo.training.network import (
    check_takes_images,
    classifiers,
    complete_input,
    make_network,
    make_optimizer,
    saved_args,
)
from cutmix_zoo.training.schedule import make_schedule
from cutmix_zoo.training.splits import Splits, open_splits, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from accelerate import Accelerator
    from timm.scheduler.scheduler import Scheduler

    from cutmix_zoo.data.resident import ResidentLoader
    from cutmix_zoo.mixing.feature import MapSizes
    from cutmix_zoo.training.checkpoint import Progress
    from cutmix_zoo.training.settings import Recipe


@dataclass(frozen=True)
class Job:
    """The live objects of one run.

    Args:
        recipe: the recipe, resolved: nothing in it is left to the data.
        accelerator: this process's place in the launch.
        splits: the opened data.
        network: the bare model.
        model: the network as it is trained, wrapped for several processes.
        torch_optimizer: the bare optimizer.
        optimizer: the optimizer as it is stepped, wrapped for mixed precision.
        schedule: sets the learning rate of each update.
        train_loader: this process's training batches, streamed or resident.
        clean_loader: its share of the fixed unmixed training images.
        val_loader: its share of the validation split.
        class_weights: (K,) float32 on the device: how much each class counts in the loss, if not alike.
        map_sizes: height and width of the maps inside the network, if a method mixes those.
        ema: the moving average of the network's weights, if the recipe asks for one.
        micro_batch: images of a pass; ``None`` for the whole batch of a process.
        versions: of the packages, and our commit, when the job was made: files may change while it trains.
    """

    recipe: Recipe
    accelerator: Accelerator
    splits: Splits
    network: nn.Module
    model: nn.Module
    torch_optimizer: torch.optim.Optimizer
    optimizer: Any
    schedule: Scheduler
    train_loader: TrainLoader | ResidentLoader
    clean_loader: EvalLoader
    val_loader: EvalLoader
    class_weights: Tensor | None = None
    map_sizes: MapSizes | None = None
    ema: ModelEmaV3 | None = None
    micro_batch: int | None = None
    versions: Mapping[str, str] = field(default_factory=versions)

    @property
    def state(self) -> TrainState:
        """What training changes."""
        average = None if self.ema is None else self.ema.module
        return TrainState(self.network, self.torch_optimizer, self.accelerator.scaler, average)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that are measured, by what the names of their numbers begin with; the last one is exported."""
        return {"": self.network} | ({} if self.ema is None else {"ema_": self.ema.module})

    def is_over(self, progress: Progress) -> bool:
        """Say whether a run has reached its end: that of its schedule, or of its patience."""
        patience, best = self.recipe.evaluate.patience, progress.best_epochs(self.recipe.evaluate.best_by)
        waited = sum(epoch > best[0] for epoch in best)
        return progress.epoch >= self.recipe.schedule.epochs or (patience is not None and waited >= patience)

    def train_mode(self) -> None:
        """Bring the model into the mode for training: of a frozen network only the classifier is trained."""
        if self.recipe.model.train == "all":
            self.model.train()
        else:
            self.model.eval()
            for classifier in classifiers(self.network):
                classifier.train()

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates an epoch."""
        return len(self.train_loader)

    @property
    def local_batch_size(self) -> int:
        """Images of a batch in this process."""
        return local_batch_size(self.recipe.data.batch_size, self.accelerator.num_processes)

    @property
    def images_per_epoch(self) -> int:
        """Training images an epoch, over all processes."""
        return self.updates_per_epoch * self.recipe.data.batch_size

    def set_update(self, update: int) -> None:
        """Bring what is scheduled to where an update, counted from 0, finds it: learning rate and DropBlock."""
        self.schedule.step_update(update)
        settings = self.recipe.regularize
        if settings.drop_block_rate and settings.drop_block_schedule == "linear":
            set_drop_block_progress(self.network, update / (self.updates_per_epoch * self.recipe.schedule.epochs))

    @property
    def lr(self) -> float:
        """Learning rate of the last update."""
        group = self.torch_optimizer.param_groups[0]
        return group["lr"] / group.get("lr_scale", 1.0)  # timm's layer decay

    def weighted(self, targets: Tensor) -> Tensor:
        """Weight targets (B, K) by their classes, as the loss is to count them."""
        return targets if self.class_weights is None else targets * self.class_weights

    def prepare(self, images: Tensor) -> Tensor:
        """Turn uint8 images into what the network takes, on its device."""
        spec = input_spec(self.recipe.data)
        return to_input(images, spec, self.accelerator.device, channels_last=self.recipe.runtime.channels_last)

    def reduce(self, sums: Tensor) -> Tensor:
        """Add a tensor up over the processes."""
        return sum_over_processes(self.accelerator, sums)

    def export(self, network: nn.Module, folder: Path, provenance: Mapping[str, Any]) -> None:
        """Write a network of the run as a folder that timm loads, with what the recipe says of it."""
        export_model(
            network,
            folder,
            data_config={key: getattr(self.recipe.data, key) for key in DATA_KEYS},
            label_names=self.splits.classes,
            provenance=provenance,
            model_args=self.recipe.model.args,
        )

    def mixed(self, batch: tuple[Tensor, Tensor], epoch: int, step: int) -> tuple[Tensor, Tensor, MixPlan]:
        """Make of a loaded batch what the model is trained on.

        Args:
            batch: images (B, C, H, W) uint8, on the CPU or on the device, and labels (B,) int64, or targets (B, K) if
                the collate has mixed already.
            epoch: epoch, from 0.
            step: step within the epoch, from 0.

        Returns:
            images (B, C, H, W) float32 and targets (B, K) float32, on the device, and the plan, which may have a part
            for the inside of the network.

        Raises:
            UserError: if the mixing method cannot mix such a batch.
        """
        images, labels = batch
        device = self.accelerator.device
        if labels.is_floating_point():
            shape = (len(images), *images.shape[-2:])
            return self.prepare(images), labels.to(device, non_blocking=True), IdentityPlan(*shape)
        plan = draw_mix(self.recipe, images, epoch, step, self.accelerator.process_index, self.map_sizes)
        smoothing = self.recipe.regularize.label_smoothing
        targets = plan.mix_targets(labels, len(self.splits.classes), smoothing).to(device, non_blocking=True)
        return self.prepare(plan.apply(images.to(device, non_blocking=True))), targets, plan


def make_job(recipe: Recipe, accelerator: Accelerator) -> Job:
    """Make everything that a run needs, in memory; nothing is written.

    Args:
        recipe: what to train.
        accelerator: this process's place in the launch.

    Raises:
        UserError: for whatever the user can put right in the recipe or the data.
    """
    job = _make_job(recipe, accelerator)
    if recipe.runtime.micro_batch == "auto":
        # the recipe goes on to say auto: a run may be resumed where other numbers fit
        return replace(job, micro_batch=find_micro_batch(job))
    return job


def _make_job(recipe: Recipe, accelerator: Accelerator) -> Job:
    world_size = accelerator.num_processes
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # training batches are of one size
    recipe = complete_input(recipe)
    with one_process_first(accelerator):
        splits = open_splits(recipe, world_size)
    recipe = resolve(recipe, splits.classes)
    network = make_network(recipe)
    if recipe.model.pretrained and accelerator.is_main_process:
        _warn_of_a_kept_classifier(network, splits.classes)
    # what a folder or the Hub says of a network's shape is part of what is trained, and exported
    recipe = replace(recipe, model=replace(recipe.model, args={**saved_args(network), **recipe.model.args}))
    if recipe.runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if recipe.runtime.sync_bn and world_size > 1:
        if accelerator.device.type == "cpu":
            raise UserError("runtime.sync_bn needs a GPU for each process: torch shares no batch statistics on the CPU")
        network = convert_sync_batchnorm(network)
    optimizer = make_optimizer(recipe, network)
    place: dict[str, Any] = {
        "num_classes": len(splits.classes),
        "rank": accelerator.process_index,
        "world_size": world_size,
        "device": accelerator.device,
    }
    check_takes_images(network, recipe)
    class_weights = _class_weights(recipe, splits, accelerator.device)
    collate = make_collate(recipe, accelerator.process_index)
    loader = train_loader(splits.train, recipe.data, collate_fn=collate, seed=recipe.seed, **place)
    clean, val = (
        eval_loader(split, recipe.data, batch_size=recipe.evaluate.batch_size, **place)
        for split in (splits.clean, splits.val)
    )
    backend = recipe.runtime.compile
    trained: Any = network if backend is None else torch.compile(network, backend=backend)
    with _unchanged_forward(network, trained), warnings.catch_warnings():
        # what torch advises instead, Accelerate cannot pass on yet
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        model, wrapped_optimizer = accelerator.prepare(trained, optimizer)
    if accelerator.scaler is not None and any(group.get("fused") for group in optimizer.param_groups):
        raise UserError(
            "optimizer.args.fused: in fp16 Accelerate does not see which updates a fused optimizer leaves out, so that "
            "a run could go on without learning; leave it out, or use --mixed_precision bf16."
        )
    return Job(
        recipe=recipe,
        accelerator=accelerator,
        splits=splits,
        network=network,
        model=model,
        torch_optimizer=optimizer,
        optimizer=wrapped_optimizer,
        schedule=make_schedule(recipe.schedule, optimizer, len(loader)),
        train_loader=loader,
        clean_loader=clean,
        val_loader=val,
        class_weights=class_weights,
        map_sizes=measure_maps(recipe, model),
        micro_batch=None if recipe.runtime.micro_batch == "auto" else recipe.runtime.micro_batch,
        ema=ModelEmaV3(network, recipe.ema.decay, use_warmup=recipe.ema.warmup) if recipe.ema.decay else None,
    )


def _warn_of_a_kept_classifier(network: nn.Module, classes: Sequence[str]) -> None:
    """Say what timm does without a word where the pretrained weights happen to have as many classes as the data."""
    names = stated_label_names(network)
    if names is not None and names != tuple(classes):
        warnings.warn(
            f"the pretrained weights are of as many classes as the data, {len(names)}, and keep their classifier, "
            f"which was trained for others ({', '.join(names[:3])}, ...).",
            stacklevel=2,
        )


@contextmanager
def _unchanged_forward(*networks: nn.Module) -> Iterator[None]:
    """Take back that Accelerate lets a network autocast by itself.

    The loop autocasts; the bare network would too, and be measured in half precision. Accelerate's own way back,
    ``unwrap_model(keep_fp32_wrapper=False)``, puts what was the compiled network's on the bare one.
    """
    keys = ("forward", "_original_forward")
    before = [{key: vars(network)[key] for key in keys if key in vars(network)} for network in networks]
    yield
    for network, kept in zip(networks, before, strict=True):
        for key in keys:
            vars(network).pop(key, None)
        vars(network).update(kept)


def _class_weights(recipe: Recipe, splits: Splits, device: torch.device) -> Tensor | None:
    weights, classes = recipe.regularize.class_weights, len(splits.classes)
    if weights is None:
        return None
    if weights == "balanced":
        instead = "set regularize.class_weights to numbers"
        labels = need_labels(splits.train, recipe.data, "its classes cannot be weighted", instead)
        counts = torch.as_tensor(labels, dtype=torch.int64).bincount(minlength=classes)
        # a class without images keeps the weight 1: nothing but smoothing names it
        weights = tuple((len(labels) / (counts.count_nonzero() * counts)).where(counts > 0, torch.tensor(1.0)).tolist())
    if len(weights) != classes:
        raise UserError(f"regularize.class_weights: expected {classes} numbers, one for each class, got {len(weights)}")
    return torch.tensor(weights, device=device)
