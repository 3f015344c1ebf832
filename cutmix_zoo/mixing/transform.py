"""A transform of batches, for loops that are not timm's: on any device, in a loader worker or after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cutmix_zoo.checks import require
from cutmix_zoo.mixing.drawing import PlanSource
from cutmix_zoo.mixing.samples import describe
from cutmix_zoo.mixing.targets import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutmix_zoo.mixing.method import MixMethod


class MixTransform:
    """Mix batches: call it in the training step, or in a loader worker as part of the collate.

    Each batch has a plan of its own, drawn from a generator of the transform's (when that is seeded:
    :class:`~cutmix_zoo.mixing.drawing.PlanSource`); the global generators are not touched. To repeat a run in one
    process, make a new transform.

    On the first batch that is mixed, each method inside ``mix`` is tried on two of its images, so that one that cannot
    mix such data is refused then, and not when it is first drawn.

    Args:
        mix: the method; any but those that mix inside the network.
        num_classes: K; or None where labels are no classes: floating-point values, or masks.
        smoothing: label smoothing in [0, 1] of labels that are one class an image, applied to unmixed batches too.
            For all other labels it must be 0: for masks, give it to the loss.
        seed: a further seed, for other draws from the same origin.
        rank: this process among those that train together; processes that were seeded alike draw alike
            unless their ranks differ.
        epochs: length of the run, which scheduled methods need to know; then call :meth:`set_epoch`.
        keep_plan: give a :class:`~cutmix_zoo.mixing.MixedTarget` in place of dense targets.
        ignore_index: the class of mask pixels that the method erases.
        image_key: where batches are mappings, the key of the images.
        label_key: where batches are mappings, the key of the labels.

    Raises:
        ValueError: if a number is out of range or no whole one, there is smoothing without classes, one key comes
            without the other, or ``mix`` mixes inside the network.
        TypeError: if ``mix`` is no mixing method.

    Example:
        >>> import torch
        >>> from cutmix_zoo.mixing import CutMix
        >>> transform = MixTransform(CutMix(), num_classes=10)
        >>> images, targets = transform((torch.rand(4, 3, 32, 32), torch.tensor([1, 2, 3, 4])))
        >>> images.shape, targets.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 10]))
    """

    def __init__(  # noqa: PLR0913 (each is a setting of its own)
        self,
        mix: MixMethod,
        num_classes: int | None,
        smoothing: float = 0.0,
        *,
        seed: int = 0,
        rank: int = 0,
        epochs: int | None = None,
        keep_plan: bool = False,
        ignore_index: int = IGNORE_INDEX,
        image_key: str | None = None,
        label_key: str | None = None,
    ) -> None:
        self.plans = PlanSource(mix, num_classes, smoothing, seed, rank, epochs, keep_plan, ignore_index)
        require(
            (image_key is None) == (label_key is None),
            f"image_key and label_key go together, got {image_key!r} and {label_key!r}",
        )
        self.image_key, self.label_key = image_key, label_key

    @property
    def enabled(self) -> bool:
        """Whether batches are mixed: one switch for this process and all its loader workers."""
        return self.plans.enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self.plans.enabled = enabled

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0, for scheduled methods.

        Raises:
            ValueError: if the run has no such epoch.
        """
        self.plans.set_epoch(epoch)

    def __call__(self, batch: Any) -> Any:
        """Mix a batch, which is not modified. Where nothing is mixed, the images returned are the very same.

        Args:
            batch: images and labels as a tuple or list; or with keys a mapping.

                Images: a tensor (B, C, H, W), or clips (B, T, C, H, W), on any device, or a tuple, list or dict of
                such tensors of one B, H and W, which are mixed alike; methods that look at images look at the first.

                Labels: (B,) integers; (B, K) floating point, targets that are dense already; integer masks
                (B, ..., H, W); or with ``num_classes=None`` any floating-point values (B, ...).

        Returns:
            Images of the same kind and targets: a tuple; or with keys a dict, in which all else is what it was. Targets
            are (B, K) float32, masks as they were, mixed values in their dtype, or a MixedTarget.

        Raises:
            TypeError: if the batch, the images or the labels are something else.
            ValueError: if sizes do not fit, a label is outside the classes, the plan does not take the dtype of the
                images, a key is missing, or from the first batch, a method cannot mix it.
        """
        images, labels = self._unpack(batch)
        first, *others = _tensors(images)
        require(first.numel() > 0, f"a batch needs at least one image of one pixel, got {tuple(first.shape)}")
        plan = self.plans.draw(len(first), *first.shape[-2:], images=first)
        for tensor in others:
            require(
                (len(tensor), *tensor.shape[-2:]) == plan.shape,
                "images that are mixed alike must have one batch size, height and width, "
                f"got {tuple(first.shape)} and {tuple(tensor.shape)}",
            )
        target = self.plans.target(plan, labels)
        mixed = _map(plan.apply, images)
        self.plans.try_once([first, *others], labels)
        if self.image_key is None:
            return mixed, target
        return {**batch, self.image_key: mixed, self.label_key: target}

    def _unpack(self, batch: Any) -> tuple[Any, Tensor]:
        """Find images and labels."""
        if self.image_key is not None:
            if not isinstance(batch, Mapping):
                raise TypeError(f"a batch must be a mapping, as keys were given, got {describe(batch)}")
            missing = {self.image_key, self.label_key} - set(batch)
            require(not missing, f"the batch has no {sorted(map(str, missing))}, only {sorted(map(str, batch))}")
            images, labels = batch[self.image_key], batch[self.label_key]
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            images, labels = batch
        else:
            raise TypeError(
                f"a batch must be (images, labels), got {describe(batch)}: for a mapping, give image_key and label_key"
            )
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels must be a tensor, got {describe(labels)}")
        return images, labels


def _tensors(images: Any) -> list[Tensor]:
    """List the tensors of a batch's images."""
    if isinstance(images, Mapping):
        tensors = list(images.values())
    else:
        tensors = list(images) if isinstance(images, tuple | list) else [images]
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.ndim > 3 for tensor in tensors):
        raise TypeError(
            "images must be a tensor (B, C, H, W), or a tuple, list or dict of such tensors, "
            f"got {', '.join(map(describe, tensors)) if tensors else describe(images)}"
        )
    return tensors


def _map(change: Callable[[Tensor], Tensor], images: Any) -> Any:
    """Change each tensor of a batch's images."""
    if isinstance(images, Tensor):
        return change(images)
    if isinstance(images, Mapping):
        return {key: change(tensor) for key, tensor in images.items()}
    changed = [change(tensor) for tensor in images]
    if isinstance(images, list):
        return changed
    return images._make(changed) if hasattr(images, "_make") else tuple(changed)
