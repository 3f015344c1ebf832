"""Measure a model on a dataset: ``cutmix-zoo evaluate MODEL --on DATASET``, or under ``accelerate launch``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cutmix_zoo.checks import whole_number
from cutmix_zoo.data.datasets import check_labels, class_names, open_split
from cutmix_zoo.data.loaders import eval_loader
from cutmix_zoo.data.settings import DataSettings, input_spec, validation_name
from cutmix_zoo.data.transforms import to_input
from cutmix_zoo.errors import UserError, refuse_existing, run_command
from cutmix_zoo.evaluation.accuracy import evaluate_accuracy
from cutmix_zoo.evaluation.loading import load_network
from cutmix_zoo.evaluation.preprocessing import with_preprocessing
from cutmix_zoo.training.files import write_json
from cutmix_zoo.training.launch import is_first_process, make_accelerator, say, sum_over_processes
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.training.settings import EvaluateSettings, RuntimeSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

SUITES = ("accuracy",)
"""What can be measured."""


def evaluate(
    model: str,
    on: str | None = None,
    *,
    root: str | None = None,
    split: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Measure the accuracy of a model on a dataset, with the preprocessing that the model asks for.

    Args:
        model: a timm name with weights, the folder of a run or of an exported model, or a Hub id ``OWNER/NAME``.
        on: a dataset, by any name that a recipe takes; ``None`` takes that of the run.
        root: the dataset's folder; ``None`` takes that of the run, if it is the run's dataset.
        split: the split; ``None`` takes the validation split.
        batch_size: images a forward pass and process; ``None`` takes that of the run, else 250.
        workers: loader processes; ``None`` takes that of the run, else 2.

    Returns:
        ``model``, ``dataset``, ``split``, ``top1`` and ``top5`` in percent, ``loss`` in nats, ``count`` in images.

    Raises:
        UserError: if the model or the data cannot be had, or they do not belong together.
    """
    accelerator = make_accelerator()
    recipe_file = RunFolder(Path(model)).recipe_file
    recipe = load_recipe(recipe_file) if recipe_file.is_file() else None
    if on is None and recipe is None:
        raise UserError(f"{model} is not the folder of a run: say with --on which dataset to measure it on.")
    network = load_network(model)
    own = recipe is not None and on in (None, recipe.data.name)
    settings = recipe.data if recipe is not None and own else DataSettings(str(on))
    settings = with_preprocessing(settings, network)
    changes: dict[str, Any] = {"root": root, "val_split": split, "workers": workers}
    settings = replace(settings, **{key: value for key, value in changes.items() if value is not None})
    if split is not None:
        settings = replace(settings, val_fraction=0.0, fold=None, subset=None)
    with accelerator.local_main_process_first():
        dataset = open_split(settings, "val")
    _check_classes(network, class_names(dataset, settings), settings.name)
    check_labels(dataset, network.num_classes)  # type: ignore[arg-type]
    runtime, measuring = (recipe.runtime, recipe.evaluate) if recipe else (RuntimeSettings(), EvaluateSettings())
    if runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)
    device = accelerator.device
    loader = eval_loader(
        dataset,
        settings,
        batch_size=batch_size or measuring.batch_size,
        num_classes=network.num_classes,  # type: ignore[arg-type]
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=device.type == "cuda",
    )
    numbers = evaluate_accuracy(
        network.to(device),
        loader,
        prepare=lambda images: to_input(images, input_spec(settings), device, channels_last=runtime.channels_last),
        expected=loader.size,
        num_classes=network.num_classes,  # type: ignore[arg-type]
        reduce=lambda sums: sum_over_processes(accelerator, sums),
    )
    return {"model": model, "dataset": settings.name, "split": validation_name(settings), **numbers}


def _check_classes(network: nn.Module, names: Sequence[str] | None, dataset: str) -> None:
    """Refuse data whose labels mean something else than the model's outputs."""
    outputs: int = network.num_classes  # type: ignore[assignment]
    own = network.pretrained_cfg.get("label_names")  # type: ignore[union-attr, operator]
    if names is None:
        return
    if own is None and len(names) != outputs:
        raise UserError(
            f"the model has {outputs} classes and {dataset} has {len(names)}; "
            "measure it on the data it was trained for."
        )
    if own is not None and tuple(own[: len(names)]) != tuple(names):
        raise UserError(
            f"the model's classes ({', '.join(own[:5])}, ...) are not those of {dataset} "
            f"({', '.join(names[:5])}, ...); measure it on the data it was trained for."
        )


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo evaluate",
        description="Measure a model on every image of a split, with the preprocessing that the model asks for.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="a timm name, the folder of a run, or a Hub id OWNER/NAME")
    parser.add_argument("--on", metavar="DATASET", help="a dataset, as recipes name it (default: the run's own)")
    parser.add_argument("--suite", choices=SUITES, default="accuracy", help="what to measure (default: accuracy)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="also write the numbers to DIR/<suite>.json")
    parser.add_argument("--root", metavar="DIR", help="the dataset's folder")
    parser.add_argument("--split", metavar="NAME", help="the split (default: the validation split)")
    parser.add_argument("--batch-size", type=whole_number(1), metavar="N", help="images a forward pass and process")
    parser.add_argument("--workers", type=whole_number(0), metavar="N", help="loader processes")
    return parser


def command(arguments: Sequence[str]) -> None:
    """Evaluate as the command line says."""
    options = make_parser().parse_args(arguments)
    file = options.output / f"{options.suite}.json" if options.output else None
    if file is not None:
        refuse_existing(file)
    numbers = evaluate(
        options.model,
        options.on,
        root=options.root,
        split=options.split,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    say(
        f"{numbers['model']} on {numbers['count']:,} images of {numbers['dataset']} ({numbers['split']}): "
        f"top-1 {numbers['top1']:.2f} %, top-5 {numbers['top5']:.2f} %, loss {numbers['loss']:.4f}"
    )
    if file is not None and is_first_process():
        write_json(file, numbers)
        say(f"wrote {file}")


def main() -> int:
    """Run ``python -m cutmix_zoo.evaluate``."""
    return run_command(command, "cutmix-zoo evaluate")


if __name__ == "__main__":
    sys.exit(main())
