"""What a network takes images for: the likeliest classes of each file, with their probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cutmix_zoo.checks import require_count
from cutmix_zoo.data.image_files import read_image
from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.data.transforms import eval_transform, to_input
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.preprocessing import with_preprocessing
from cutmix_zoo.models.labels import label_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from cutmix_zoo.data.transforms import Transform


@dataclass(frozen=True)
class RankedClass:
    """One class that an image may be of.

    Args:
        index: its place among the logits, from 0.
        label: its name, or ``class 17`` if it has none.
        probability: in [0, 1].
    """

    index: int
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a network takes an image for.

    Args:
        file: the image.
        classes: the likeliest classes, the likeliest first; none if the image could not be read.
        error: why it could not be read, in one line; None if it could.
    """

    file: Path
    classes: tuple[RankedClass, ...]
    error: str | None = None


def predict(
    network: nn.Module,
    files: Iterable[Path],
    *,
    topk: int = 5,
    batch_size: int = 32,
    device: torch.device | None = None,
) -> Iterator[Prediction]:
    """Name the likeliest classes of images, prepared as an evaluation of the network prepares them.

    Args:
        network: a classifier made by ``timm.create_model``; it is moved to the device, and is in evaluation mode while
            it computes and then in the mode that it was in.
        files: images, of any mode and size. They are read batch by batch, as the predictions are asked for.
        topk: how many classes to name; no more are named than there are.
        batch_size: images of a forward pass.
        device: where to compute; None takes the CPU.

    Returns:
        A prediction for each file, in their order; one that could not be read says so. Probabilities are the softmax of
        the logits in float64.

    Raises:
        ValueError: if ``topk`` or ``batch_size`` is not a whole number of at least 1.
        UserError: if the network has no classes, or asks for preprocessing that cannot be made.
    """
    require_count("topk", topk)
    require_count("batch_size", batch_size)
    labels = label_names(network)
    if not labels:
        raise UserError("the model has no classes, its outputs are features: take one that has a classifier.")
    settings = with_preprocessing(DataSettings("folder"), network)
    transform, spec, device = eval_transform(settings), input_spec(settings), device or torch.device("cpu")
    network = network.to(device)

    def rank(images: Sequence[Tensor]) -> Iterator[tuple[RankedClass, ...]]:
        inputs = to_input(torch.stack(list(images)), spec, device, channels_last=False)
        return _rank(_probabilities(network, inputs), labels, topk)

    def predictions() -> Iterator[Prediction]:
        rest = iter(files)
        while batch := list(islice(rest, batch_size)):
            read = [_read(file, transform) for file in batch]
            images = [image for image in read if isinstance(image, Tensor)]
            ranked = rank(images) if images else iter(())
            for file, image in zip(batch, read, strict=True):
                yield Prediction(file, next(ranked)) if isinstance(image, Tensor) else Prediction(file, (), image)

    return predictions()


def _read(file: Path, transform: Transform) -> Tensor | str:
    """Read and transform an image, or say why that cannot be done."""
    try:
        return transform(read_image(file))
    except UserError as error:
        return str(error)


@torch.inference_mode()
def _probabilities(network: nn.Module, inputs: Tensor) -> Tensor:
    was_training = network.training
    network.eval()
    probabilities = network(inputs).cpu().double().softmax(1)
    network.train(was_training)
    return probabilities


def _rank(probabilities: Tensor, labels: Sequence[str], topk: int) -> Iterator[tuple[RankedClass, ...]]:
    """Go through (B, K) probabilities, image by image."""
    values, indices = probabilities.topk(min(topk, len(labels)))
    for row in zip(indices.tolist(), values.tolist(), strict=True):
        yield tuple(RankedClass(index, labels[index], value) for index, value in zip(*row, strict=True))
