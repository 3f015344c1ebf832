"""How fast our networks are: eager and compiled, in both memory layouts, and next to a naive PyramidNet."""

from __future__ import annotations

import textwrap
import time
from contextlib import nullcontext
from fnmatch import fnmatchcase
from functools import partial
from itertools import groupby, product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import timm
import torch
from torch import nn
from tqdm import tqdm

from cutmix_zoo.bench.naive_pyramidnet import NaivePyramidNet
from cutmix_zoo.bench.timing import format_speed, images_per_second, interleave
from cutmix_zoo.checks import require_count
from cutmix_zoo.errors import UserError, did_you_mean, one_line
from cutmix_zoo.keys import isolated_rng
from cutmix_zoo.training.environment import environment
from cutmix_zoo.training.launch import synchronize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutmix_zoo.bench.timing import Timing

Pass = Literal["forward", "forward + backward"]
PASSES: tuple[Pass, ...] = ("forward", "forward + backward")
BASELINES: dict[str, Callable[[], nn.Module]] = {"cifar_pyramidnet110_a64": NaivePyramidNet}
"""Networks that compute the same as one of ours, written down naively."""
ROUNDS = 200
"""Rounds that are enough, however fast a network is."""
SECONDS = 10.0
"""About how long the turns of each candidate take together; at least 3 rounds are measured."""
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WIDTH = 100


class Variant(NamedTuple):
    """A way to compute a network."""

    how: str
    """``naive``, ``eager`` or ``compiled``."""
    memory: str
    """``contiguous`` or ``channels_last``: the layout of weights and images."""
    precision: str
    """``float32``, or ``bfloat16`` under autocast."""


class Task(NamedTuple):
    """What is computed: a pass over a batch of random images, in the size that the network takes by default."""

    model: str
    what: Pass
    batch_size: int
    device: torch.device

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Make images and labels."""
        cfg, generator = timm.get_pretrained_cfg(self.model), torch.Generator().manual_seed(0)
        images = torch.rand(self.batch_size, *cfg.input_size, generator=generator)
        labels = torch.randint(cfg.num_classes, (self.batch_size,), generator=generator)
        return images.to(self.device), labels.to(self.device)


def registered_models() -> list[str]:
    """Return the names of all networks of this package.

    Example:
        >>> "cifar_resnet20" in registered_models(), "resnet50" in registered_models()
        (True, False)
    """
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("cutmix_zoo.")]


def bench_models(
    patterns: Sequence[str] = ("*",),
    *,
    batch_size: int = 32,
    device: str | None = None,
    compiled: bool = True,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Time forward passes, and forward and backward passes, of our networks.

    The forward pass is that of evaluation, in inference mode; forward and backward is a training step without its
    optimizer: cross-entropy, and gradients that begin at None. All variants of a network take turns in rounds, two
    passes a turn, of which the second is timed. On a GPU each pass is waited for, and bfloat16 autocast is measured
    too. Threads, convolution algorithms and TF32 are as torch has them by default.

    Args:
        patterns: names of networks, with ``*`` and ``?``.
        batch_size: images of a batch.
        device: ``cpu`` or ``cuda``; None takes a GPU if there is one.
        compiled: also measure what ``torch.compile`` makes, compiled from scratch: minutes for a deep network.
        seconds: about how long the turns of each candidate take together, after a first pass that does not count.

    Returns:
        A JSON-able dictionary: ``environment`` and ``rows``. A row names the network and the pass (``model``,
        ``pass``, ``batch_size``, ``input_size``) and the variant (``how``: naive, eager or compiled, ``memory``,
        ``precision``) and gives ``images_per_second`` (``median``, ``low``, ``high``: the quartiles),
        ``compile_seconds`` (of the first pass, if compiled), ``ratio`` (to the naive network in the same precision,
        if there is one), or ``skipped``: why there are no numbers. What is missing is None.

    Raises:
        UserError: if no network fits a pattern, or there is no such device.
        ValueError: if the batch size is less than 1.
    """
    require_count("batch_size", batch_size)
    names, place = _select(patterns), _open_device(device)
    rows: list[dict[str, Any]] = []
    broken = _why_not_compile(place) if compiled else None
    for name, what in (progress := tqdm(list(product(names, PASSES)), disable=None, leave=False)):
        progress.set_description(f"{name}, {what}")
        rows += _time(Task(name, what, batch_size, place), _variants(name, place, compiled), broken, seconds)
    return {"environment": environment(place), "rows": rows}


def _select(patterns: Sequence[str]) -> list[str]:
    every = registered_models()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in every):
            hint = did_you_mean(pattern, every)
            raise UserError(f"no network of this package is called {pattern!r}; {hint}They are {', '.join(every)}.")
    return [name for name in every if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _open_device(device: str | None) -> torch.device:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("device is cuda, but torch finds no GPU; use cpu.")
    return torch.device(device or ("cuda" if available else "cpu"))


def _variants(name: str, device: torch.device, compiled: bool) -> list[Variant]:
    precisions = list(_DTYPES) if device.type == "cuda" else ["float32"]
    naive = [Variant("naive", "contiguous", precision) for precision in precisions if name in BASELINES]
    ours = product(("eager", "compiled") if compiled else ("eager",), _LAYOUTS, precisions)
    return [*naive, *(Variant(*variant) for variant in ours)]


def _why_not_compile(device: torch.device) -> str | None:
    """Compile something small: a deep network takes a minute to find out that there is no C++ compiler."""
    outcome = _first_pass(lambda: torch.compile(lambda x: x + 1)(torch.ones(2, device=device)), compiled=True)
    return outcome if isinstance(outcome, str) else None


def _first_pass(step: Callable[[], object], *, compiled: bool) -> float | str:
    """Return how many seconds the first call takes, or why it fails: memory, or the compiler.

    The compiler finds nothing that it made before, and leaves nothing behind.
    """
    # private, but torch has no other name for it: a folder of its own is not enough, kernels are also kept in memory
    from torch._inductor.utils import fresh_cache

    failure: type[Exception] = RuntimeError if compiled else torch.OutOfMemoryError
    with fresh_cache() if compiled else nullcontext():
        start = time.perf_counter()
        try:
            step()
        except failure as error:
            return one_line(error)
        return time.perf_counter() - start


def _time(task: Task, variants: Sequence[Variant], broken: str | None, seconds: float) -> list[dict[str, Any]]:
    """Time the variants of one network against each other and make a row of each."""
    # torch keeps a few compiled versions of a function, and the networks before this one share its functions
    torch.compiler.reset()
    outcomes: dict[Variant, float | str] = {}
    steps: dict[Variant, Callable[[], None]] = {}
    for variant in variants:
        if broken and variant.how == "compiled":
            outcomes[variant] = broken
            continue
        step = _make_step(task, variant)
        # a variant that does not fit into memory is no reason to lose the other rows
        outcome = outcomes[variant] = _first_pass(step, compiled=variant.how == "compiled")
        if not isinstance(outcome, str):
            steps[variant] = step
    # two calls a turn: oneDNN keeps 1024 kernels, and three deep networks have more
    timings = interleave(steps, ROUNDS, seconds * len(steps), calls=2)
    return [_make_row(task, variant, outcomes[variant], timings) for variant in variants]


def _make_step(task: Task, variant: Variant) -> Callable[[], None]:
    layout, dtype = _LAYOUTS[variant.memory], _DTYPES[variant.precision]
    images, labels = task.batch()
    images = images.to(memory_format=layout)
    make = BASELINES[task.model] if variant.how == "naive" else partial(timm.create_model, task.model)
    with isolated_rng(0):
        network = make()
    network = network.to(task.device).to(memory_format=layout)
    network.train(task.what != "forward")
    # static shapes, as of a network that is compiled alone: the second layout looks like a shape that changes
    model = torch.compile(network, dynamic=False) if variant.how == "compiled" else network
    autocast = partial(torch.autocast, task.device.type, dtype, enabled=dtype != torch.float32)
    wait = partial(synchronize, task.device)

    def forward() -> None:
        with torch.inference_mode(), autocast():
            model(images)
        wait()

    def forward_and_backward() -> None:
        with autocast():
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        network.zero_grad(set_to_none=True)
        wait()

    return forward_and_backward if network.training else forward


def _make_row(task: Task, variant: Variant, outcome: float | str, timings: dict[Variant, Timing]) -> dict[str, Any]:
    timing, naive = timings.get(variant), timings.get(Variant("naive", "contiguous", variant.precision))
    return {
        "model": task.model,
        "pass": task.what,
        "batch_size": task.batch_size,
        "input_size": list(timm.get_pretrained_cfg(task.model).input_size),
        **variant._asdict(),
        "images_per_second": images_per_second(task.batch_size, timing) if timing else None,
        "ratio": naive.median / timing.median if naive and timing else None,
        "compile_seconds": outcome if timing and variant.how == "compiled" else None,
        "skipped": outcome if isinstance(outcome, str) else None,
    }


def format_table(result: dict[str, Any]) -> str:
    """Lay out the result of a benchmark of networks as text.

    Args:
        result: what :func:`bench_models` returned.

    Returns:
        A table, 100 columns wide, one block a network and pass, one line a row, with medians and quartiles in
        brackets.
    """
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    lines = [
        *textwrap.wrap(about, _WIDTH),
        f"{'':36}{'images/s':>32}{'to naive':>14}{'compile [s]':>18}",
    ]
    for title, rows in groupby(result["rows"], _title):
        lines += ["", title, *map(_format_row, rows)]
    return "\n".join(lines)


def _title(row: dict[str, Any]) -> str:
    size = "x".join(map(str, row["input_size"]))
    return f"{row['model']}, {row['pass']}, {row['batch_size']} x {size}"


def _format_row(row: dict[str, Any]) -> str:
    variant = f"  {', '.join(row[name] for name in Variant._fields)}"
    if row["skipped"]:
        return f"{variant:36}{textwrap.shorten('skipped: ' + row['skipped'], _WIDTH - 36, placeholder=' ...')}"
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    seconds = "-" if row["compile_seconds"] is None else f"{row['compile_seconds']:.0f}"
    return f"{variant:36}{format_speed(row['images_per_second']):>32}{ratio:>14}{seconds:>18}"
