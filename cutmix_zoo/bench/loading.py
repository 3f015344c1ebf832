"""How fast mixed batches arrive from loader workers: our collate and timm's, hand-over between processes included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.data import FastCollateMixup
from torch.utils.data import DataLoader, Dataset

from cutmix_zoo.bench.cases import NUM_CLASSES, TASKS, Case, make_row, make_samples
from cutmix_zoo.bench.timing import Timing, interleave
from cutmix_zoo.mixing import MixCollate, collate_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

WORKERS = 2
PREFETCH = 2
"""Batches that each worker runs ahead: torch's default."""
BATCHES = 24
"""Batches of an epoch; a repeat of a :class:`Case` is one epoch."""
LOADER_CASES = (Case(128, 32, repeats=15), Case(128, 224, repeats=9))


class InMemory(Dataset[tuple[Any, int]]):
    """Samples that cost nothing to get, so that a loader does nothing but collate and hand over.

    Args:
        samples: the samples, which are repeated.
        size: length of the dataset.
    """

    def __init__(self, samples: Sequence[tuple[Tensor, int]], size: int) -> None:
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.samples[index % len(self.samples)]


def time_loaders(cases: Sequence[Case], batches: int = BATCHES) -> list[dict[str, Any]]:
    """Time loaders of two workers from end to end, with new memory for every batch, and with buffers used in turn.

    Args:
        cases: the batches to measure on.
        batches: batches of an epoch, of which the mean is one measurement.

    Returns:
        Rows as those of :func:`~cutmix_zoo.bench.mixing.bench_mixing`, in milliseconds a batch; the copy is an
        unmixed batch.
    """
    rows = []
    for case in cases:
        dataset = InMemory(make_samples(case.batch_size, case.size), case.batch_size * batches)
        for task in TASKS:
            collates: dict[str, Callable[..., Any]] = {
                "copy": collate_samples,
                "timm": FastCollateMixup(**task.timm_settings()),
                "ours": MixCollate(task.ours(), NUM_CLASSES),
                # as many as a worker runs ahead, the batch in use, and the one that is being made
                "reuse": MixCollate(task.ours(), NUM_CLASSES, reuse=PREFETCH + 2),
            }
            epochs = {name: _epoch(dataset, case.batch_size, collate) for name, collate in collates.items()}
            timings = interleave(epochs, case.repeats)
            each = {name: Timing(*(value / batches for value in timing)) for name, timing in timings.items()}
            reuse = each.pop("reuse")
            rows.append(make_row(f"{WORKERS} workers", case, task, each))
            rows.append(make_row(f"{WORKERS} workers, reuse", case, task, {**each, "ours": reuse}))
    return rows


def _epoch(dataset: InMemory, batch_size: int, collate: Callable[..., Any]) -> Callable[[], None]:
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=WORKERS,
        prefetch_factor=PREFETCH,
        persistent_workers=True,
        collate_fn=collate,
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch
