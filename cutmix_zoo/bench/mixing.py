"""How fast mixing is: ours, timm's and a bare copy of the batch, in one run on one thread."""

from __future__ import annotations

import platform
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import timm
import torch
from timm.data import FastCollateMixup, Mixup

from cutmix_zoo.bench.timing import Timing, interleave, one_thread
from cutmix_zoo.mixing import CutMix, MixCollate, collate_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutmix_zoo.mixing.pairing import Per

_NUM_CLASSES = 100
_TIMM_MODES: dict[Per, str] = {"batch": "batch", "sample": "elem"}


class Case(NamedTuple):
    """A batch to measure on."""

    batch_size: int
    size: int
    """Height and width in pixels."""
    repeats: int


CASES = (Case(128, 32, repeats=100), Case(256, 224, repeats=15))


def bench_mixing(cases: Sequence[Case] = CASES) -> dict[str, Any]:
    """Time CutMix in the collate and on tensors against timm's ``FastCollateMixup`` and ``Mixup``.

    The samples lie in memory as timm's pipeline yields them: uint8 (C, H, W) views of height-width-channel
    memory. Every output is fresh memory, except that timm's ``Mixup`` mixes in place. The copy is what any
    mixing costs at least: the samples stacked, or the batch cloned.

    Args:
        cases: the batches to measure on.

    Returns:
        A JSON-able dictionary: ``environment`` and ``rows``, where a row names the task (``where``,
        ``method``, ``batch_size``, ``size``), the milliseconds of ``timm``, ``ours`` and ``copy`` (each
        ``median``, ``low``, ``high``: the quartiles), and ``ratio``, timm's median over ours.
    """
    with one_thread():
        rows = [row for case in cases for measure in (_collate_rows, _tensor_rows) for row in measure(case)]
    return {"environment": _environment(), "rows": rows}


def format_table(result: dict[str, Any]) -> str:
    """Lay out what :func:`bench_mixing` returned as text.

    Args:
        result: the dictionary.

    Returns:
        A table, one line a row, with medians in milliseconds and quartiles in brackets.
    """
    lines = [
        ", ".join(f"{name} {value}" for name, value in result["environment"].items()),
        f"{'':40}{'timm [ms]':>24}{'ours [ms]':>24}{'copy [ms]':>24}{'timm/ours':>11}",
    ]
    for row in result["rows"]:
        title = f"{row['where']}, {row['method']}, {row['batch_size']} x 3x{row['size']}x{row['size']}"
        times = "".join(f"{_format_timing(row[name]):>24}" for name in ("timm", "ours", "copy"))
        lines.append(f"{title:40}{times}{row['ratio']:>11.2f}")
    return "\n".join(lines)


def _format_timing(timing: dict[str, float]) -> str:
    return "{median:.3g} ({low:.3g} to {high:.3g})".format(**timing)


def _collate_rows(case: Case) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    memory = torch.randint(256, (case.batch_size, case.size, case.size, 3), dtype=torch.uint8, generator=generator)
    samples = [(image.clone().permute(2, 0, 1), index % _NUM_CLASSES) for index, image in enumerate(memory)]
    candidates: dict[str, Callable[[], object]] = {"copy": partial(collate_samples, samples)}
    for per, mode in _TIMM_MODES.items():
        timm_collate = FastCollateMixup(0.0, 1.0, mode=mode, label_smoothing=0.0, num_classes=_NUM_CLASSES)
        our_collate = MixCollate(CutMix(per=per), _NUM_CLASSES)
        candidates[f"timm {per}"] = partial(timm_collate, samples)
        candidates[f"ours {per}"] = partial(our_collate, samples)
    return _rows("collate", case, candidates)


def _tensor_rows(case: Case) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(case.batch_size, 3, case.size, case.size, generator=generator)
    labels = torch.randint(_NUM_CLASSES, (case.batch_size,), generator=generator)
    timm_images = images.clone()

    def mix(method: CutMix) -> tuple[torch.Tensor, torch.Tensor]:
        plan = method.draw(case.batch_size, case.size, case.size, generator=generator)
        return plan.apply(images), plan.mix_targets(labels, _NUM_CLASSES)

    candidates: dict[str, Callable[[], object]] = {"copy": images.clone}
    for per, mode in _TIMM_MODES.items():
        timm_mixup = Mixup(0.0, 1.0, mode=mode, label_smoothing=0.0, num_classes=_NUM_CLASSES)
        candidates[f"timm {per}"] = partial(timm_mixup, timm_images, labels)
        candidates[f"ours {per}"] = partial(mix, CutMix(per=per))
    return _rows("tensors", case, candidates)


def _rows(where: str, case: Case, candidates: dict[str, Callable[[], object]]) -> list[dict[str, Any]]:
    timings: dict[str, Timing] = interleave(candidates, case.repeats)
    return [
        {
            "where": where,
            "method": f"{per} cutmix",
            "batch_size": case.batch_size,
            "size": case.size,
            "timm": timings[f"timm {per}"]._asdict(),
            "ours": timings[f"ours {per}"]._asdict(),
            "copy": timings["copy"]._asdict(),
            "ratio": timings[f"timm {per}"].median / timings[f"ours {per}"].median,
        }
        for per in _TIMM_MODES
    ]


def _environment() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__, "threads": "1"}
