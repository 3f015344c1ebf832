"""The sections of a recipe, as values. Text becomes these values in ``recipe.py`` and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import timm
import timm.optim
import torch

import cutmix_zoo.models  # noqa: F401  registers our models, so that a recipe may name them
from cutmix_zoo.checks import require, require_choice, require_count, require_positive
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import did_you_mean
from cutmix_zoo.mixing import MixMethod, mixes_maps_last, needs_network
from cutmix_zoo.models.regularize import BlockRegularizers

Tracker = Literal["tensorboard", "wandb", "trackio"]
VALIDATED = ("top1", "top5", "val_loss", "balanced_accuracy", "macro_f1")
"""What ``metrics.jsonl`` says of the validation split; of averaged weights with ``ema_`` in front."""
_LIKE_SGD = ("sgd", "nesterov", "momentum")


@dataclass(frozen=True)
class ModelSettings:
    """Which network, through ``timm.create_model``.

    Args:
        name: a model of timm or of this package, with or without a pretrained tag, or ``hf-hub:OWNER/NAME``.
        pretrained: start from the weights that the name stands for.
        in_chans: input channels; ``None`` takes those of the data.
        num_classes: outputs; ``None`` takes the classes of the data.
        train: ``all`` parameters, or the ``classifier`` alone on the features of a network that stays as it is, its
            batch statistics too: a linear probe, without dropout and its like.
        args: further arguments of the model's constructor.

    Raises:
        ValueError: if no such model is registered.
    """

    name: str
    pretrained: bool = False
    in_chans: int | None = None
    num_classes: int | None = None
    train: Literal["all", "classifier"] = "all"
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(self.name):
            hint = did_you_mean(self.name, timm.list_models())
            raise ValueError(f"name: no model is called {self.name!r}; {hint}timm.list_models() lists the valid names.")
        for key in ("in_chans", "num_classes"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"{key} must be at least 1, got {value}")


@dataclass(frozen=True)
class RegularizeSettings(BlockRegularizers):
    """Regularizers beside mixing: those of residual blocks, and the following.

    With ``drop_path_rule: linear``, stochastic depth is whatever the model makes of timm's ``drop_path_rate``, so every
    model of timm that takes it will do.

    Args:
        label_smoothing: share of every target that is spread evenly over all classes, in [0, 1).
        class_weights: how much each class counts in the loss: one number each, or ``balanced`` for
            images / (classes * images of the class), as in scikit-learn; ``None`` for alike. The loss is the mean over
            images of the target's classes, each with its weight.
        drop_rate: dropout before the classifier, in [0, 1).
        drop_block_schedule: ``linear``: the rate of DropBlock rises from 0 at the first update to
            ``drop_block_rate`` at the end of the run; ``constant``: it is ``drop_block_rate`` throughout.

    Raises:
        ValueError: if a rate is out of range, or a weight is negative.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    drop_rate: float = 0.0
    drop_block_schedule: Literal["linear", "constant"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("label_smoothing", "drop_rate"):
            value = getattr(self, key)
            require(0 <= value < 1, f"{key} must be at least 0 and below 1, got {value}")
        if isinstance(self.class_weights, tuple):
            valid = bool(self.class_weights) and min(self.class_weights) >= 0
            require(valid, f"class_weights must be balanced, null or numbers of at least 0, got {self.class_weights}")


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer, through ``timm.optim.create_optimizer_v2``.

    Args:
        name: an optimizer of timm; its ``sgd`` has Nesterov momentum, its ``momentum`` has not.
        lr: learning rate for the recipe's ``data.batch_size``; ``None`` becomes 0.1 with ``sgd``, ``nesterov`` or
            ``momentum``; other optimizers need it.
        momentum: momentum of SGD-like optimizers.
        weight_decay: weight decay.
        decay_all: decay every parameter, as the CutMix authors do, but what a network itself exempts
            (``no_weight_decay``, such as position embeddings); ``False`` spares biases and norms too, as timm does.
        backbone_lr_scale: learning rate of all but the classifier, as a multiple of ``lr``; ``None`` for ``lr`` itself.
        layer_decay: factor of the learning rate from each layer to the one in front of it, in (0, 1); ``None`` for one
            rate for all, or for those of ``backbone_lr_scale``.
        clip_norm: scale the gradient of an update down to this norm where it is longer; ``None`` for as it is.
        skip_nonfinite: how many updates of a run may be left out because their gradient is not finite; the next one
            stops the run. In fp16 the gradient scaler leaves out what overflows, and many in a row stop the run.
        args: further arguments of the optimizer, such as ``betas``.

    Raises:
        ValueError: if the optimizer is unknown or needs second derivatives, ``lr`` is missing, a number is out of
            range, or both ``layer_decay`` and
            ``backbone_lr_scale`` set the rates of layers.
    """

    name: str = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_all: bool = True
    backbone_lr_scale: float | None = None
    layer_decay: float | None = None
    clip_norm: float | None = None
    skip_nonfinite: int = 0
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        valid = timm.optim.list_optimizers()
        if self.name not in valid:
            hint = f"{did_you_mean(self.name, valid)}timm.optim.list_optimizers() lists the valid names."
            raise ValueError(f"name: no optimizer is called {self.name!r}; {hint}")
        require(
            not timm.optim.get_optimizer_info(self.name).second_order,
            f"name must be an optimizer that needs gradients alone, got {self.name}, which needs second derivatives",
        )
        if self.lr is None:
            require(self.name in _LIKE_SGD, f"lr must be given for {self.name}: the default, 0.1, is one for SGD")
            object.__setattr__(self, "lr", 0.1)  # the only way to complete what is frozen
        assert self.lr is not None
        require_positive("lr", self.lr)
        require(0 <= self.momentum < 1, f"momentum must be at least 0 and below 1, got {self.momentum}")
        require(self.weight_decay >= 0, f"weight_decay must be at least 0, got {self.weight_decay}")
        require(
            self.layer_decay is None or 0 < self.layer_decay < 1,
            f"layer_decay must be between 0 and 1, got {self.layer_decay}",
        )
        if self.backbone_lr_scale is not None:
            require_positive("backbone_lr_scale", self.backbone_lr_scale)
            require(
                self.layer_decay is None, f"layer_decay must be null beside backbone_lr_scale, got {self.layer_decay}"
            )
        if self.clip_norm is not None:
            require_positive("clip_norm", self.clip_norm)
        require(self.skip_nonfinite >= 0, f"skip_nonfinite must be at least 0, got {self.skip_nonfinite}")


@dataclass(frozen=True)
class ScheduleSettings:
    """How long to train and how the learning rate moves.

    Args:
        epochs: length of the run.
        name: ``multistep`` multiplies by ``gamma`` at each milestone; ``cosine`` falls to ``min_lr``; ``constant``; or
            another schedule of timm that is a function of the update: ``tanh``, ``poly``, ``wsd``, ``rsqrt``, and
            ``step``, which multiplies by ``gamma`` every ``decay_epochs``. The power of ``poly`` is ``decay_rate``.
        milestones: fractions of the run in (0, 1), rising; 0.5 of 300 epochs is the start of epoch 150, counted from 0.
            What falls within an epoch waits for the next one.
        gamma: factor at each milestone.
        warmup_epochs: length of a linear rise from ``warmup_lr``, counted within ``epochs``.
        warmup_lr: learning rate of the first update where there is a warm-up.
        min_lr: where schedules that fall to something end.
        args: further arguments of ``timm.scheduler.create_scheduler_v2``, such as ``decay_epochs``, for schedules other
            than ``multistep`` and ``constant``.

    Raises:
        ValueError: if a number is out of range, or there are arguments that the schedule does not take.
    """

    epochs: int
    name: Literal["multistep", "constant", "cosine", "tanh", "step", "poly", "wsd", "rsqrt"] = "multistep"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    warmup_lr: float = 1e-5
    min_lr: float = 0.0
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_count("epochs", self.epochs)
        ours = self.name in ("multistep", "constant")
        require(not (ours and self.args), f"args must be empty for {self.name}, got {self.args}")
        rising = all(a < b for a, b in zip((0.0, *self.milestones), (*self.milestones, 1.0), strict=True))
        require(rising, f"milestones must rise strictly between 0 and 1 (fractions of the run), got {self.milestones}")
        require(0 < self.gamma <= 1, f"gamma must be above 0 and at most 1, got {self.gamma}")
        require(
            0 <= self.warmup_epochs <= self.epochs,
            f"warmup_epochs must be at least 0 and at most epochs ({self.epochs}), got {self.warmup_epochs}",
        )
        require(self.warmup_lr >= 0, f"warmup_lr must be at least 0, got {self.warmup_lr}")
        require(self.min_lr >= 0, f"min_lr must be at least 0, got {self.min_lr}")


@dataclass(frozen=True)
class EmaSettings:
    """An exponential moving average of the weights, through ``timm.utils.ModelEmaV3``; it is what the run exports.

    Args:
        decay: share of the average that an update keeps, in (0, 1); ``None`` for no average.
        warmup: begin with a smaller share, 1 - (1 + updates) ** (-2 / 3), so that a short run does not average over
            its first weights.

    Raises:
        ValueError: if the decay is out of range.
    """

    decay: float | None = None
    warmup: bool = True

    def __post_init__(self) -> None:
        require(self.decay is None or 0 < self.decay < 1, f"decay must be between 0 and 1, got {self.decay}")


@dataclass(frozen=True)
class EvaluateSettings:
    """How validation is run; it uses every image of the validation split once.

    Args:
        batch_size: images a forward pass and process.
        every: epochs between validations; the last epoch is always validated.
        patience: end the run after so many validations without a new best by ``best_by``; ``None`` for never. The
            learning rate moves as if the run had its whole length. The last weights are exported;
            ``runtime.keep_best`` keeps checkpoints of the best.
        best_by: the number of ``metrics.jsonl`` that says which epoch is the best, the highest, of a loss the lowest:
            ``top1``, ``top5``, ``val_loss``, ``balanced_accuracy`` or ``macro_f1``, or one of the averaged weights,
            with ``ema_`` in front. The summary's best epoch is that of the weights that are exported: the averaged
            ones, where there are any.

    Raises:
        ValueError: if a number is below 1, or there is no such number.
    """

    batch_size: int = 250
    every: int = 1
    patience: int | None = None
    best_by: str = "top1"

    def __post_init__(self) -> None:
        for key in ("batch_size", "every"):
            require_count(key, getattr(self, key))
        if self.patience is not None:
            require_count("patience", self.patience)
        require_choice("best_by", self.best_by, (*VALIDATED, *(f"ema_{name}" for name in VALIDATED)))


@dataclass(frozen=True)
class RuntimeSettings:
    """Where and how the run is carried out. Precision and processes belong to ``accelerate launch``.

    Args:
        mix_on: mix in the loader's workers (``collate``) or after the transfer (``device``); both give the same
            batches, on the CPU bit for bit. Maps inside the network can only be mixed on the ``device``. Both draw on
            the CPU: what takes long to draw (SaliencyMix; FMix and SmoothMix for each sample) holds a GPU up unless
            workers do it.
        micro_batch: images of a forward pass and process; a batch is done in so many passes, the last of which may be
            smaller, whose gradients are added up to the batch's. ``None`` for one pass; ``auto`` to halve
            the passes until they fit into the GPU's memory. Batch statistics are those of a pass.
        sync_bn: share batch statistics among the processes, each of which then needs a GPU.
        compile: backend of ``torch.compile``, such as ``inductor``, which compiles the network before it is wrapped for
            several processes; ``None`` for none. Evaluation is not compiled.
        channels_last: keep images and weights in channels-last memory, which is faster for most convolutions.
        trackers: where Accelerate also logs the numbers of ``metrics.jsonl``.
        keep_checkpoints: how many of the newest checkpoints stay.
        keep_best: how many checkpoints of the best epochs, by ``evaluate.best_by``, stay beside them.
        checkpoint_every_steps: also write a checkpoint after so many steps of an epoch; ``None`` for at its end only.
        checkpoint_every_minutes: also write one when the last is so old; ``None`` for never.

    Raises:
        ValueError: if no checkpoint would be kept, a number is out of range, or ``micro_batch`` is ``auto`` with
            ``sync_bn``.
    """

    mix_on: Literal["device", "collate"] = "device"
    micro_batch: int | Literal["auto"] | None = None
    sync_bn: bool = False
    compile: str | None = None
    channels_last: bool = True
    trackers: tuple[Tracker, ...] = ()
    keep_checkpoints: int = 2
    keep_best: int = 0
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float | None = None

    def __post_init__(self) -> None:
        if self.compile is not None:
            require_choice("compile", self.compile, tuple(torch.compiler.list_backends(exclude_tags=())))
        require_count("keep_checkpoints", self.keep_checkpoints)
        require(self.keep_best >= 0, f"keep_best must be at least 0, got {self.keep_best}")
        for key in ("micro_batch", "checkpoint_every_steps"):
            if getattr(self, key) not in (None, "auto"):
                require_count(key, getattr(self, key))
        # a process whose memory is too small would leave the others waiting for its share of the statistics
        fits = not (self.sync_bn and self.micro_batch == "auto")
        require(fits, "micro_batch cannot be auto where batch statistics are shared (sync_bn): give a number")
        if self.checkpoint_every_minutes is not None:
            require_positive("checkpoint_every_minutes", self.checkpoint_every_minutes)


@dataclass(frozen=True)
class Recipe:
    """One experiment, complete: what ``recipes/*.yaml`` says once it is typed and checked.

    Args:
        model: the network.
        data: the dataset, its augmentation and its batches.
        schedule: the length of the run and its learning rate.
        name: what the run is called; a recipe file that does not say is called after itself.
        mix: the mixing method, or ``None`` for none.
        regularize: regularizers beside mixing.
        optimizer: the optimizer.
        ema: the moving average of the weights.
        evaluate: validation.
        runtime: where and how it runs.
        seed: every random number of the run derives from it.
        version: of the recipe format.

    Raises:
        ValueError: if the version is not 1, the name is not one of a folder, the collate cannot mix as ``mix`` says, or
            a network of which only the classifier is trained would be regularized inside.
    """

    model: ModelSettings
    data: DataSettings
    schedule: ScheduleSettings
    name: str = "run"
    mix: MixMethod | None = None
    regularize: RegularizeSettings = field(default_factory=RegularizeSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    ema: EmaSettings = field(default_factory=EmaSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    seed: int = 0
    version: int = 1

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, the only recipe format there is, got {self.version}")
        require(bool(self.name) and "/" not in self.name, f"name must be a plain word for a folder, got {self.name!r}")
        inside = self.mix is not None and needs_network(self.mix)
        require(
            not (inside and self.runtime.mix_on == "collate"),
            "runtime.mix_on must be device, because mix reaches the maps inside the network, got collate",
        )
        require(
            self.mix is None or mixes_maps_last(self.mix),
            "mix must mix maps after all images and for a whole batch: put feature_mix last in a chain, and into "
            "one_of with per: batch",
        )
        require(
            not (self.data.resident is True and self.mix is not None and self.runtime.mix_on == "collate"),
            "data.resident must be auto or false where runtime.mix_on is collate, got true",
        )
        for key, why in (("micro_batch", "joins the maps of a whole batch"), ("compile", "reaches into the network")):
            value = getattr(self.runtime, key)
            require(not (inside and value), f"runtime.{key} must be null, because mix {why}, got {value}")
        for key in ("drop_rate", "drop_path_rate", "drop_block_rate", "shakedrop_prob"):
            value = getattr(self.regularize, key)
            require(
                not (self.model.train == "classifier" and value),
                f"regularize.{key} must be 0 where model.train is classifier, because the network stays in "
                f"evaluation mode, got {value}",
            )
        require(
            self.ema.decay is not None or not self.evaluate.best_by.startswith("ema_"),
            f"evaluate.best_by is {self.evaluate.best_by}, but there is no average: set ema.decay",
        )
