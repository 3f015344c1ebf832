"""A job: the live objects of one run, made from a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import IterableDataset, Subset

from cutmix_zoo.data.datasets import check_labels, check_same_classes, class_names, need_labels, open_split
from cutmix_zoo.data.loaders import (
    EvalLoader,
    TrainLoader,
    eval_loader,
    resident_eval_loader,
    resident_train_loader,
    train_loader,
)
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.data.transforms import to_input
from cutmix_zoo.errors import UserError, one_line
from cutmix_zoo.keys import Stream, generator_for, isolated_rng
from cutmix_zoo.known import known_dataset
from cutmix_zoo.mixing import IdentityPlan, MixPlan
from cutmix_zoo.models.drop_block import set_drop_block_progress
from cutmix_zoo.models.regularize import regularize_blocks
from cutmix_zoo.training.checkpoint import TrainState
from cutmix_zoo.training.launch import sum_over_processes
from cutmix_zoo.training.memory import find_micro_batch
from cutmix_zoo.training.mix import check_fills, draw_mix, make_collate, measure_maps, mixes_in_collate
from cutmix_zoo.training.schedule import make_schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelerate import Accelerator
    from timm.scheduler.scheduler import Scheduler

    from cutmix_zoo.data.resident import ResidentLoader
    from cutmix_zoo.mixing.feature import MapSizes
    from cutmix_zoo.models.regularize import BlockRegularizers
    from cutmix_zoo.training.checkpoint import Progress
    from cutmix_zoo.training.settings import Recipe, RegularizeSettings

# what timm raises for a model that is not there, or does not take its arguments
_MODEL_ERRORS = (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError)

CLEAN_IMAGES = 1000
"""How many training images ``clean_train_top1`` is measured on."""


@dataclass(frozen=True)
class Splits:
    """The opened data of a recipe.

    Args:
        train: the training split: PIL images and labels.
        clean: the fixed training images that are also measured unmixed.
        val: the validation split.
        classes: label names, one a class.
    """

    train: Any
    clean: Any
    val: Any
    classes: tuple[str, ...]


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
            for classifier in _classifiers(self.network):
                classifier.train()

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer updates an epoch."""
        return len(self.train_loader)

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


def open_splits(recipe: Recipe, world_size: int = 1) -> Splits:
    """Open the data of a recipe and check that its labels fit.

    Raises:
        UserError: if the data is missing, or its labels are not those of one set of classes.
    """
    settings = recipe.data
    train = open_split(settings, "train", seed=recipe.seed, world_size=world_size)
    val = open_split(settings, "val", seed=recipe.seed, world_size=world_size)
    check_same_classes(train, val)
    classes = _classes(recipe, train)
    for dataset in (train, val):
        check_labels(dataset, len(classes))
    return Splits(train, _clean_images(recipe, train), val, classes)


def _classes(recipe: Recipe, train: Any) -> tuple[str, ...]:
    names = class_names(train, recipe.data)
    wanted = recipe.model.num_classes
    if names is None and wanted is None:
        raise UserError(f"{recipe.data.name} does not say what its classes are: set model.num_classes")
    names = names or ()
    if wanted is not None and wanted < len(names):
        raise UserError(f"model.num_classes is {wanted}, but {recipe.data.name} has {len(names)} classes")
    # more outputs than classes are legitimate, such as those of a pretrained head
    return (*names, *map(str, range(len(names), wanted or 0)))


def _clean_images(recipe: Recipe, train: Any) -> Any:
    """Choose the images behind ``clean_train_top1``: drawn from the seed; of a stream, the first ones."""
    if isinstance(train, IterableDataset):
        settings = replace(recipe.data, val_split=recipe.data.train_split)
        return list(islice(open_split(settings, "val", seed=recipe.seed), CLEAN_IMAGES))
    order = torch.randperm(len(train), generator=generator_for(recipe.seed, Stream.SUBSET))
    return Subset(train, sorted(order[:CLEAN_IMAGES].tolist()))


def complete_input(recipe: Recipe) -> Recipe:
    """Take input size, mean and standard deviation from the network, where neither data nor recipe says.

    Args:
        recipe: a recipe.

    Returns:
        The recipe as it is, if its dataset is known or the network does not say.

    Example:
        >>> from cutmix_zoo.training.recipe import load_recipe
        >>> complete_input(load_recipe("finetune_folder")).data.input_size
        (3, 224, 224)
    """
    config = None if known_dataset(recipe.data.name) else _pretrained_cfg(recipe.model.name)
    if config is None or recipe.model.in_chans not in (None, config["input_size"][0]):
        return recipe
    keys = ("input_size", "mean", "std")
    missing: dict[str, Any] = {key: tuple(config[key]) for key in keys if getattr(recipe.data, key) is None}
    return replace(recipe, data=replace(recipe.data, **missing))


def _pretrained_cfg(name: str) -> dict[str, Any] | None:
    """Return what timm knows of a model's input; of a folder or a Hub id, what its config says."""
    if timm.is_model(name):
        config = timm.get_pretrained_cfg(name)
        return None if config is None else config.to_dict()
    try:
        found: dict[str, Any] = timm.create_model(name).pretrained_cfg
    except _MODEL_ERRORS:
        return None  # it is said where the network is made
    return found


def resolve(recipe: Recipe, classes: Sequence[str]) -> Recipe:
    """Fill in what a recipe left to its data: input size, mean, standard deviation, channels and classes.

    Args:
        recipe: a recipe.
        classes: label names, one a class.

    Raises:
        UserError: if input size, mean or standard deviation are neither given nor known, or what the mixing method
            fills holes with does not fit them.
    """
    spec = input_spec(recipe.data)
    if recipe.mix is not None:
        check_fills(recipe.mix, spec)
    data = replace(recipe.data, input_size=spec.input_size, mean=spec.mean, std=spec.std)
    in_chans = recipe.model.in_chans or spec.input_size[0]
    if in_chans != spec.input_size[0]:
        raise UserError(
            f"model.in_chans is {in_chans}, but data.input_size has {spec.input_size[0]} channels; "
            "set data.input_size to the number of channels that the model takes, or leave model.in_chans out"
        )
    return replace(recipe, data=data, model=replace(recipe.model, in_chans=in_chans, num_classes=len(classes)))


def make_network(recipe: Recipe) -> nn.Module:
    """Make the network of a resolved recipe; its initial weights are a function of the seed.

    Raises:
        UserError: if the model does not take the recipe's arguments, or its weights cannot be had.
    """
    arguments, others = _regularizer_args(recipe.regularize)
    arguments.update(recipe.model.args)
    try:
        with isolated_rng(recipe.seed, Stream.INIT):
            network = timm.create_model(
                recipe.model.name,
                pretrained=recipe.model.pretrained,
                in_chans=recipe.model.in_chans,
                num_classes=recipe.model.num_classes,
                **arguments,
            )
        regularize_blocks(network, others)
        if recipe.model.train == "classifier":
            network.requires_grad_(False)
            for classifier in _classifiers(network):
                classifier.requires_grad_(True)
        return network
    except _MODEL_ERRORS as error:
        raise UserError(
            f"cannot make model {recipe.model.name!r} with {arguments or 'no arguments'}: {one_line(error)}"
        ) from error


def _classifiers(network: nn.Module) -> tuple[nn.Module, ...]:
    """List what makes logits of features; some networks of timm have two of them."""
    found = network.get_classifier()  # type: ignore[operator]  # torch types every attribute as a tensor
    return found if isinstance(found, tuple) else (found,)


def _regularizer_args(settings: RegularizeSettings) -> tuple[dict[str, Any], BlockRegularizers]:
    """Part the regularizers that timm's models take as arguments from those that are put into their blocks."""
    rates = {"drop_rate": settings.drop_rate}
    if settings.drop_path_rule == "linear":
        rates["drop_path_rate"], settings = settings.drop_path_rate, replace(settings, drop_path_rate=0.0)
    # a rate of 0 is not passed on: not every model has one
    return {key: rate for key, rate in rates.items() if rate}, settings


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe.

    Raises:
        UserError: if the optimizer does not take the recipe's arguments.
    """
    settings = recipe.optimizer
    try:
        return create_optimizer_v2(
            network,
            opt=settings.name,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_all,
            layer_decay=settings.layer_decay,
            **settings.args,
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"cannot make optimizer {settings.name!r} with {settings.args}: {one_line(error)}") from error


def make_job(recipe: Recipe, accelerator: Accelerator) -> Job:
    """Make everything that a run needs, in memory; nothing is written.

    Args:
        recipe: what to train.
        accelerator: this process's place in the launch.

    Raises:
        UserError: for whatever the user can put right in the recipe or the data.
    """
    job = _make_job(recipe, accelerator)
    if job.recipe.runtime.micro_batch != "auto":
        return job
    runtime = replace(job.recipe.runtime, micro_batch=find_micro_batch(job))
    return replace(job, recipe=replace(job.recipe, runtime=runtime))


def _make_job(recipe: Recipe, accelerator: Accelerator) -> Job:
    world_size = accelerator.num_processes
    recipe = complete_input(recipe)
    # a dataset is downloaded once, not by every process at a time
    with accelerator.local_main_process_first():
        splits = open_splits(recipe, world_size)
    recipe = resolve(recipe, splits.classes)
    network = make_network(recipe)
    if recipe.runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if recipe.runtime.sync_bn and world_size > 1:
        if accelerator.device.type == "cpu":
            raise UserError("runtime.sync_bn needs a GPU for each process: torch shares no batch statistics on the CPU")
        network = convert_sync_batchnorm(network)
    optimizer = make_optimizer(recipe, network)
    common: dict[str, Any] = {
        "num_classes": len(splits.classes),
        "rank": accelerator.process_index,
        "world_size": world_size,
    }
    _check_takes_images(network, recipe)
    loader = _train_loader(recipe, splits.train, accelerator.device, common)
    clean, val = (_eval_loader(recipe, split, accelerator.device, common) for split in (splits.clean, splits.val))
    backend = recipe.runtime.compile
    trained = network if backend is None else torch.compile(network, backend=backend)
    model, wrapped_optimizer = accelerator.prepare(trained, optimizer)
    # the loop autocasts by itself; without this the bare network would too, and be measured in half precision
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
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
        class_weights=_class_weights(recipe, splits, accelerator.device),
        map_sizes=measure_maps(recipe, model),
        ema=ModelEmaV3(network, recipe.ema.decay, use_warmup=recipe.ema.warmup) if recipe.ema.decay else None,
    )


def _train_loader(
    recipe: Recipe, dataset: Any, device: torch.device, common: dict[str, Any]
) -> TrainLoader | ResidentLoader:
    common = {**common, "seed": recipe.seed}
    if not mixes_in_collate(recipe):
        resident = resident_train_loader(dataset, recipe.data, device=device, **common)
        if resident is not None:
            return resident
    collate, pin = make_collate(recipe, common["rank"]), device.type == "cuda"
    return train_loader(dataset, recipe.data, collate_fn=collate, pin_memory=pin, **common)


def _eval_loader(recipe: Recipe, dataset: Any, device: torch.device, common: dict[str, Any]) -> EvalLoader:
    common = {**common, "batch_size": recipe.evaluate.batch_size}
    resident = resident_eval_loader(dataset, recipe.data, device=device, **common)
    return resident or eval_loader(dataset, recipe.data, pin_memory=device.type == "cuda", **common)


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


def _check_takes_images(network: nn.Module, recipe: Recipe) -> None:
    """Try the network on one image, before anything is written."""
    size = input_spec(recipe.data).input_size
    try:
        with torch.inference_mode():
            logits = network.eval()(torch.zeros(1, *size))
        if not isinstance(logits, Tensor) or logits.shape != (1, recipe.model.num_classes):
            raise ValueError(
                f"it gives {type(logits).__name__} where logits (1, {recipe.model.num_classes}) were expected."
            )
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{recipe.model.name} does not classify images of data.input_size {list(size)}: {one_line(error)} "
            "Set data.input_size, or what model.args needs for it, such as {img_size: 32}."
        ) from error
