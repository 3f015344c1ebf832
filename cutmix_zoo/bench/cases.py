"""What is measured: batches, tasks, samples, and the row that a measurement becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cutmix_zoo.mixing import CutMix, Mixup

if TYPE_CHECKING:
    from cutmix_zoo.bench.timing import Timing
    from cutmix_zoo.mixing.pairing import Per

NUM_CLASSES = 100
_METHODS = {"cutmix": CutMix, "mixup": Mixup}
_TIMM_MODES: dict[Per, str] = {"batch": "batch", "sample": "elem"}


class Case(NamedTuple):
    """A batch to measure on."""

    batch_size: int
    size: int
    """Height and width in pixels."""
    repeats: int


class Task(NamedTuple):
    """A way to mix: ``cutmix`` or ``mixup``, for the whole ``batch`` alike or for each ``sample``."""

    method: str
    per: Per

    def ours(self) -> CutMix | Mixup:
        """Make our method."""
        return _METHODS[self.method](per=self.per)

    def timm_settings(self) -> dict[str, Any]:
        """Return timm's arguments."""
        alphas = {f"{name}_alpha": float(name == self.method) for name in _METHODS}
        return {**alphas, "mode": _TIMM_MODES[self.per], "label_smoothing": 0.0, "num_classes": NUM_CLASSES}


TASKS = tuple(Task(method, per) for method in _METHODS for per in _TIMM_MODES)


def make_samples(count: int, size: int) -> list[tuple[torch.Tensor, int]]:
    """Make random images as timm's pipeline yields them, each in memory of its own, with labels."""
    generator = torch.Generator().manual_seed(0)
    memory = torch.randint(256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return [(image.clone().permute(2, 0, 1), index % NUM_CLASSES) for index, image in enumerate(memory)]


def make_row(where: str, case: Case, task: Task, timings: dict[str, Timing]) -> dict[str, Any]:
    """Make a row of the result from the timings of one task."""
    return {
        "where": where,
        "method": task.method,
        "per": task.per,
        "batch_size": case.batch_size,
        "size": case.size,
        **{name: timing._asdict() for name, timing in timings.items()},
        "ratio": timings["timm"].median / timings["ours"].median,
    }
