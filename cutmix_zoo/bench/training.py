"""How fast training is: the trainer's loop next to a bare step and to a loop written the way timm's script is."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
import torch
from accelerate import Accelerator
from timm.data import FastCollateMixup, create_loader
from timm.data.transforms import ToNumpy
from timm.loss import SoftTargetCrossEntropy
from timm.utils import AverageMeter
from torch.utils.data import Dataset
from torchvision import transforms
from tqdm import tqdm

from cutmix_zoo.bench.timing import format_speed, images_per_second, interleave
from cutmix_zoo.data.datasets import dataset_size, open_split
from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.errors import UserError, did_you_mean
from cutmix_zoo.mixing import CutMix
from cutmix_zoo.training.checkpoint import Progress
from cutmix_zoo.training.environment import environment
from cutmix_zoo.training.gradient import GradientGuard
from cutmix_zoo.training.job import make_job
from cutmix_zoo.training.launch import synchronize
from cutmix_zoo.training.loop import train_epoch
from cutmix_zoo.training.mix import draw_mix
from cutmix_zoo.training.network import make_network, make_optimizer
from cutmix_zoo.training.settings import ModelSettings, Recipe, ScheduleSettings

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 2
STEPS = 40
"""Steps of a turn."""
REPEATS = 9
BARE = "bare step"
_WIDTH = 100


def bench_training(
    model: str | None = None, *, batch_size: int = 128, steps: int = STEPS, repeats: int = REPEATS
) -> dict[str, Any]:
    """Time training on Fashion-MNIST, on a GPU if there is one.

    All candidates train the same network with the same optimizer on batches of the same size, in channels-last memory
    and float32, and take turns, an epoch of ``steps`` each:

    - the bare step: forward, backward and update on one batch that stays on the device;
    - the trainer's loop with resident images, mixed by CutMix for each sample, and not mixed;
    - the same with images streamed by two workers;
    - a loop written the way timm's training script is: ``create_loader`` with two workers, prefetcher and
      ``FastCollateMixup``, and ``loss.item()`` each step. It crops and flips as the others do.

    Args:
        model: a classifier of images 1x28x28; None takes ``cifar_resnet20`` on a GPU and ``cifar_resnet8`` else.
        batch_size: images of a batch.
        steps: length of a turn, cut to what the 10,000 images make of such batches.
        repeats: turns of each candidate that count, at least 2.

    Returns:
        A JSON-able dictionary: ``environment``, ``model``, ``batch_size``, ``rows``, and ``mixing``: the milliseconds
        (``median``, ``low``, ``high``) that drawing and applying the plan of one batch and its targets take. A row
        gives ``name``, ``images_per_second`` (``median``, ``low``, ``high``: the quartiles) and ``ratio`` to the bare
        step.

    Raises:
        UserError: if there is no such model, or the batch is larger than the dataset.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device = accelerator.device
    name = model or ("cifar_resnet20" if device.type == "cuda" else "cifar_resnet8")
    if not timm.is_model(name):
        raise UserError(f"no model is called {name!r}; {did_you_mean(name, timm.list_models())}")
    images = dataset_size(open_split(DataSettings("fashion_mnist_mini"), "train"))
    steps = min(steps, images // batch_size)
    if not steps:
        raise UserError(f"a batch of {batch_size} is more than the {images:,} training images; take a smaller one")
    recipe = Recipe(
        ModelSettings(name),
        DataSettings("fashion_mnist_mini", batch_size=batch_size, workers=WORKERS, pad=2, subset=steps * batch_size),
        ScheduleSettings(epochs=1, name="constant"),
        mix=CutMix(per="sample"),
    )
    streamed = replace(recipe, data=replace(recipe.data, resident=False))
    epochs: dict[str, Callable[[], object]] = {
        BARE: _bare_steps(recipe, steps, device),
        "resident, CutMix": _our_epoch(recipe, accelerator),
        "resident": _our_epoch(replace(recipe, mix=None), accelerator),
        "streamed, CutMix": _our_epoch(streamed, accelerator),
        "streamed": _our_epoch(replace(streamed, mix=None), accelerator),
        "as timm's script, CutMix": _epoch_like_timm(recipe, device),
    }
    rounds = tqdm(total=len(epochs) * (repeats + 1), desc="turns", disable=None, leave=False)
    with rounds:
        timings = interleave({name: _counted(epoch, device, rounds) for name, epoch in epochs.items()}, repeats)
    speeds = {name: images_per_second(steps * batch_size, timing) for name, timing in timings.items()}
    mixing = interleave({"mix": _mixing(recipe, device)}, repeats=50)["mix"]
    return {
        "environment": environment(device),
        "model": recipe.model.name,
        "batch_size": batch_size,
        "mixing": mixing._asdict(),
        "rows": [
            {"name": name, "images_per_second": speed, "ratio": speed["median"] / speeds[BARE]["median"]}
            for name, speed in speeds.items()
        ],
    }


def _counted(epoch: Callable[[], object], device: torch.device, bar: tqdm) -> Callable[[], None]:
    def turn() -> None:
        epoch()
        synchronize(device)
        bar.update()

    return turn


def _network_and_optimizer(recipe: Recipe, device: torch.device) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = replace(recipe.model, in_chans=input_spec(recipe.data).input_size[0], num_classes=10)
    network = make_network(replace(recipe, model=model)).to(device).to(memory_format=torch.channels_last)
    return network.train(), make_optimizer(recipe, network)


def _bare_steps(recipe: Recipe, steps: int, device: torch.device) -> Callable[[], None]:
    network, optimizer = _network_and_optimizer(recipe, device)
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.data.batch_size, *input_spec(recipe.data).input_size)
    images = torch.randn(shape, generator=generator).to(device).contiguous(memory_format=torch.channels_last)
    targets = torch.rand(shape[0], 10, generator=generator).softmax(1).to(device)
    criterion = SoftTargetCrossEntropy()

    def epoch() -> None:
        for _ in range(steps):
            criterion(network(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def _our_epoch(recipe: Recipe, accelerator: Accelerator) -> Callable[[], object]:
    job = make_job(recipe, accelerator)
    bar = tqdm(disable=True)
    return lambda: train_epoch(job, Progress({}), GradientGuard(), bar, lambda *_: 0.0)


class _ForTimm(Dataset[tuple[Any, int]]):
    """A dataset as timm has them: ``create_loader`` gives it its transform."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.transform: Callable[[Any], Any] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = self.dataset[index]
        assert self.transform is not None
        return self.transform(image), label


def _epoch_like_timm(recipe: Recipe, device: torch.device) -> Callable[[], None]:
    network, optimizer = _network_and_optimizer(recipe, device)
    data, spec = recipe.data, input_spec(recipe.data)
    dataset = _ForTimm(open_split(data, "train"))
    loader = create_loader(
        dataset,
        input_size=spec.input_size,
        batch_size=data.batch_size,
        is_training=True,
        mean=spec.mean,
        std=spec.std,
        num_workers=WORKERS,
        collate_fn=FastCollateMixup(
            mixup_alpha=0.0, cutmix_alpha=1.0, mode="elem", label_smoothing=0.0, num_classes=10
        ),
        pin_memory=device.type == "cuda",
        device=device,
    )
    height, width = spec.input_size[1:]
    dataset.transform = transforms.Compose(
        [transforms.RandomCrop((height, width), data.pad), transforms.RandomHorizontalFlip(data.hflip), ToNumpy()]
    )
    criterion, losses = SoftTargetCrossEntropy(), AverageMeter()

    def epoch() -> None:
        for images, targets in loader:
            loss = criterion(network(images.contiguous(memory_format=torch.channels_last)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))

    return epoch


def _mixing(recipe: Recipe, device: torch.device) -> Callable[[], None]:
    """Mix one batch, from the draw to the targets, without the network."""
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.data.batch_size, *input_spec(recipe.data).input_size)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
    labels = torch.randint(10, shape[:1], generator=generator)

    def mix() -> None:
        plan = draw_mix(recipe, images, 0, 0)
        plan.apply(images)
        plan.mix_targets(labels, 10).to(device)
        synchronize(device)

    return mix


def format_table(result: dict[str, Any]) -> str:
    """Lay out the result of a benchmark of training as text.

    Args:
        result: what :func:`bench_training` returned.

    Returns:
        A table, 100 columns wide, one line a row, with medians and quartiles in brackets.
    """
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    mixing = result["mixing"]
    step = 1000 * result["batch_size"] / result["rows"][0]["images_per_second"]["median"]
    return "\n".join(
        [
            *textwrap.wrap(about, _WIDTH),
            "",
            f"{result['model'] + ', batches of ' + str(result['batch_size']):48}{'images/s':>32}{'to bare':>12}",
            *(
                f"  {row['name']:46}{format_speed(row['images_per_second']):>32}{row['ratio']:>12.3f}"
                for row in result["rows"]
            ),
            "",
            f"mixing a batch: {mixing['median']:.2f} ms ({mixing['low']:.2f} to {mixing['high']:.2f}), "
            f"{100 * mixing['median'] / step:.1f} % of the bare step",
        ]
    )
