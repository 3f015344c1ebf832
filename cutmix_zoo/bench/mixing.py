"""How fast mixing is: ours, timm's, torchvision's and a bare copy of the batch, in one run on one thread."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from timm.data import FastCollateMixup, Mixup
from torch.utils.data import default_collate
from torchvision.transforms import v2

from cutmix_zoo.bench.cases import NUM_CLASSES, TASKS, Case, Task, make_row, make_samples
from cutmix_zoo.bench.loading import LOADER_CASES, time_loaders
from cutmix_zoo.bench.timing import interleave, one_thread
from cutmix_zoo.mixing import CutMix, MixCollate, collate_samples
from cutmix_zoo.training.environment import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CASES = (Case(128, 32, repeats=200), Case(256, 224, repeats=15))
_TORCHVISION = {"cutmix": v2.CutMix, "mixup": v2.MixUp}


def bench_mixing(cases: Sequence[Case] = CASES, loader_cases: Sequence[Case] = LOADER_CASES) -> dict[str, Any]:
    """Time CutMix and mixup in the collate and on tensors against timm's and torchvision's.

    The samples lie in memory as timm's pipeline yields them: uint8 (C, H, W) views of height-width-channel
    memory. ``collate`` writes fresh memory; ``collate, buffer`` writes into memory that was written before, against
    timm's same fresh collate; on ``tensors`` ours and torchvision's results are fresh memory, while timm mixes in
    place. ``2 workers`` is a loader from end to end, with the hand-over between processes, in fresh memory; with
    ``reuse`` in buffers that go round, against timm's fresh ones.
    The copy is what any mixing costs at least: the samples stacked, or the batch cloned.

    Args:
        cases: the batches to measure on.
        loader_cases: those that loaders are measured on.

    Returns:
        A JSON-able dictionary: ``environment`` and ``rows``. A row names the task (``where``, ``method``, ``per``,
        ``batch_size``, ``size``), gives the milliseconds of ``timm``, ``ours``, ``copy`` and, where it can do the
        task, ``torchvision`` (each ``median``, ``low``, ``high``: the quartiles), and ``ratio``, timm's median over
        ours.
    """
    rows: list[dict[str, Any]] = []
    with one_thread():
        for case in cases:
            samples = make_samples(case.batch_size, case.size)
            for task in TASKS:
                rows += _time(case, task, dict(_collates(samples, task)))
            images = torch.rand(case.batch_size, 3, case.size, case.size, generator=torch.Generator().manual_seed(0))
            for task in TASKS:
                rows += _time(case, task, dict(_transforms(images, task)))
        rows += time_loaders(loader_cases)
        return {"environment": environment(torch.device("cpu")), "rows": rows}


def _collates(samples: list[tuple[torch.Tensor, int]], task: Task) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "collate copy", partial(collate_samples, samples)
    yield "collate timm", partial(FastCollateMixup(**task.timm_settings()), samples)
    yield "collate ours", partial(MixCollate(task.ours(), NUM_CLASSES), samples)
    unmixed = MixCollate(CutMix(prob=0.0), NUM_CLASSES, reuse=1)
    yield "collate, buffer copy", partial(unmixed, samples)
    yield "collate, buffer ours", partial(MixCollate(task.ours(), NUM_CLASSES, reuse=1), samples)
    if task == Task("cutmix", "batch"):  # torchvision's mixup refuses bytes
        mix = v2.CutMix(num_classes=NUM_CLASSES)
        yield "collate torchvision", lambda: mix(*default_collate(samples))


def _transforms(images: torch.Tensor, task: Task) -> Iterator[tuple[str, Callable[[], object]]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(NUM_CLASSES, (len(images),), generator=generator)
    method, shape = task.ours(), (len(images), *images.shape[-2:])

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        plan = method.draw(*shape, generator=generator)
        return plan.apply(images), plan.mix_targets(labels, NUM_CLASSES)

    yield "tensors copy", images.clone
    yield "tensors timm", partial(Mixup(**task.timm_settings()), images.clone(), labels)
    yield "tensors ours", ours
    if task.per == "batch":
        yield "tensors torchvision", partial(_TORCHVISION[task.method](num_classes=NUM_CLASSES), images, labels)


def _time(case: Case, task: Task, candidates: dict[str, Callable[[], object]]) -> list[dict[str, Any]]:
    """Time candidates called ``<where> <whose>`` and make a row of each place."""
    timings = interleave(candidates, case.repeats)
    places = list(dict.fromkeys(name.rpartition(" ")[0] for name in candidates))
    rows = []
    for where in places:
        mine = {name.rpartition(" ")[2]: timing for name, timing in timings.items() if name.startswith(f"{where} ")}
        mine.setdefault("timm", timings[f"{where.partition(',')[0]} timm"])
        rows.append(make_row(where, case, task, mine))
    return rows


def format_table(result: dict[str, Any]) -> str:
    """Lay out the result of a mixing benchmark as text.

    Args:
        result: what :func:`bench_mixing` returned.

    Returns:
        A table, one line a row, with medians in milliseconds and quartiles in brackets.
    """
    names = ("timm", "ours", "copy", "torchvision")
    lines = [
        ", ".join(f"{name} {value}" for name, value in result["environment"].items()),
        f"{'':50}" + "".join(f"{f'{name} [ms]':>24}" for name in names) + f"{'timm/ours':>11}",
    ]
    for row in result["rows"]:
        title = f"{row['where']}, {row['per']} {row['method']}, {row['batch_size']} x 3x{row['size']}x{row['size']}"
        times = "".join(f"{_format_timing(row.get(name)):>24}" for name in names)
        lines.append(f"{title:50}{times}{row['ratio']:>11.2f}")
    return "\n".join(lines)


def _format_timing(timing: dict[str, float] | None) -> str:
    return "-" if timing is None else "{median:.3g} ({low:.3g} to {high:.3g})".format(**timing)
