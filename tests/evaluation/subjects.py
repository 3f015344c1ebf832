"""Subjects whose logits are known, and what a slow loop finds of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from cutmix_zoo.data.settings import DataSettings, InputSpec
from cutmix_zoo.evaluation.classifier import Classifier
from cutmix_zoo.evaluation.subject import Subject

CLASSES = 4


class Lookup(nn.Module):
    """A network whose logits are known: row i of a table for an image whose first pixel is i."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.num_classes = table.shape[1]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return self.table[inputs[:, 0, 0, 0].round().long()]


class Linear(nn.Module):
    """Whole weights, so that images of whole pixels have logits far apart, or equal but for the bias."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.num_classes = CLASSES
        rng = torch.Generator().manual_seed(0)
        size = (CLASSES, channels * height * width)
        self.weight = nn.Parameter(torch.randint(-3, 4, size, generator=rng).float())
        self.bias = nn.Parameter(torch.arange(CLASSES) / 1e4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs.flatten(1), self.weight, self.bias)


def numbered_images(labels: Any, size: int = 2) -> list[tuple[Image.Image, int]]:
    """Make grey images of which number i is i all over, with their labels."""
    pixels = [np.full((size, size), number, np.uint8) for number in range(len(labels))]
    return [(Image.fromarray(image), int(label)) for image, label in zip(pixels, labels, strict=True)]


def random_pixels(count: int, channels: int, height: int, width: int) -> tuple[np.ndarray, list[int]]:
    """Draw images (N, H, W, C) uint8, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count).tolist()
    return rng.integers(0, 256, (count, height, width, channels), np.uint8), labels


def lookup_subject(table: torch.Tensor, dataset: Any, **options: Any) -> Subject:
    """Make a subject that looks logits up by an image's grey level."""
    return _subject(Lookup(table), InputSpec((1, 2, 2), (0.0,), (1 / 255,)), dataset, **options)


def make_subject(
    network: nn.Module, pixels: np.ndarray, labels: Sequence[int], *, batch_size: int = 4, limit: int | None = None
) -> Subject:
    """Make a subject of a network, on images (N, H, W, C) uint8."""
    _, height, width, channels = pixels.shape
    spec = InputSpec((channels, height, width), (0.25, 0.5, 0.125)[:channels], (0.5, 0.25, 1.0)[:channels])
    images = [Image.fromarray(image[..., 0] if channels == 1 else image) for image in pixels]
    return _subject(network, spec, list(zip(images, labels, strict=True)), batch_size=batch_size, limit=limit)


def _subject(network: nn.Module, spec: InputSpec, dataset: Any, **options: Any) -> Subject:
    settings = DataSettings("folder", input_size=spec.input_size, mean=spec.mean, std=spec.std, workers=0)
    classifier = Classifier(network, spec, torch.device("cpu"))
    return Subject(classifier, dataset, settings, Accelerator(cpu=True), **options)


def linear_class(network: Linear, subject: Subject, pixels: np.ndarray) -> int:
    """Classify an image (H, W, C) of values in [0, 255], in float64 and by NumPy alone."""
    spec = subject.classifier.spec
    inputs = ((pixels / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()
    return int((weight @ inputs.ravel() + bias).argmax())


def holes(height: int, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """All the holes at the centre of an image, pixel by pixel, each with its side."""
    for side in range(max(height, width) + 3):
        rows, columns = min(side, height), min(side, width)
        top, left = (height - rows) // 2, (width - columns) // 2
        inside = np.zeros((height, width), bool)
        for row in range(height):
            for column in range(width):
                inside[row, column] = top <= row < top + rows and left <= column < left + columns
        yield side, inside
