"""Measure a model on a dataset: ``cutmix-zoo evaluate MODEL --on DATASET``, or under ``accelerate launch``."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import torch

from cutmix_zoo.checks import require_count, whole_number
from cutmix_zoo.data.datasets import check_labels, class_names, open_split
from cutmix_zoo.data.imagenet_boxes import with_boxes
from cutmix_zoo.data.settings import DataSettings, input_spec, validation_name
from cutmix_zoo.errors import UserError, did_you_mean, run_command, write_errors
from cutmix_zoo.evaluation.classifier import Classifier
from cutmix_zoo.evaluation.figures import save_figures
from cutmix_zoo.evaluation.loading import load_network
from cutmix_zoo.evaluation.localization import Protocol
from cutmix_zoo.evaluation.occlusion import Fill
from cutmix_zoo.evaluation.ood_sets import OOD_WORDS
from cutmix_zoo.evaluation.preprocessing import with_preprocessing
from cutmix_zoo.evaluation.results import ResultFolder, sample_names, weights_sha256
from cutmix_zoo.evaluation.subject import Subject
from cutmix_zoo.evaluation.suite_context import SuiteContext, SuiteSettings
from cutmix_zoo.evaluation.suites import SUITES, check_suites, draw_suite, possible_suites
from cutmix_zoo.models.labels import known_label_names
from cutmix_zoo.models.trial import try_image
from cutmix_zoo.training.environment import environment
from cutmix_zoo.training.launch import leave, make_accelerator, on_main, one_process_first, say
from cutmix_zoo.training.memory import within_memory
from cutmix_zoo.training.recipe import dump_recipe, load_recipe, public_recipe
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.training.settings import EvaluateSettings, RuntimeSettings
from cutmix_zoo.zoo import zoo_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from cutmix_zoo.evaluation.findings import Findings
    from cutmix_zoo.training.settings import Recipe

T = TypeVar("T")

SAMPLES = 2000
"""How many images the costly suites measure, unless they are told otherwise."""


@dataclass(frozen=True)
class EvaluateOptions:
    """How a model is measured.

    Args:
        root: the dataset's folder; ``None`` takes that of the run, if it is the run's dataset.
        split: the split; ``None`` takes the validation split.
        img_size: height and width of what the model gets, in pixels; ``None`` takes what the model asks for.
        batch_size: images a forward pass and process; ``None`` takes that of the run, else 250.
        workers: loader processes; ``None`` takes that of the run, else 2.
        samples: how many images the suites ``localization``, ``occlusion``, ``in_between`` and ``corruption`` and PGD
            measure, and the probe trains on; the same ones for every model; ``None`` for all.
        skip_unreadable: leave out images that cannot be read, instead of stopping.
        boxes: folder of ImageNet's XML annotations, for ``localization`` on ImageNet.
        suites: what the suites are told.
        command: what is noted as the command that makes the results again.

    Raises:
        ValueError: if a number is below 1.
    """

    root: str | None = None
    split: str | None = None
    img_size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    samples: int | None = SAMPLES
    skip_unreadable: bool = False
    boxes: Path | None = None
    suites: SuiteSettings = field(default_factory=SuiteSettings)
    command: str | None = None

    def __post_init__(self) -> None:
        for key in ("img_size", "batch_size", "samples"):
            if getattr(self, key) is not None:
                require_count(key, getattr(self, key))


@within_memory("the evaluation", "lower --batch-size")
def evaluate(
    model: str,
    on: str | None = None,
    suites: Sequence[str] | None = ("accuracy",),
    output: Path | None = None,
    options: EvaluateOptions | None = None,
) -> dict[str, dict[str, Any]]:
    """Measure a model on a dataset, with the preprocessing that the model asks for.

    Args:
        model: a timm name with weights, the folder of a run or of an exported model, or a Hub id ``OWNER/NAME``.
        on: a dataset, by any name that a recipe takes; ``None`` takes that of the run.
        suites: names of :data:`~cutmix_zoo.evaluation.suites.SUITES`; ``None`` for all that model and data allow and
            that the folder has not yet.
        output: a folder for the results. ``evaluation.json`` says what was measured; a suite has its numbers in
            ``<suite>.json``, its table also in ``<suite>.csv``, arrays in ``<suite>.npz``, and pictures in ``plots/``
            where matplotlib is installed. ``predictions.npz`` has ``index`` (N,), the places of the images in the
            split, ``name`` (N,), their paths or again their places, ``label`` (N,) and ``logits`` (N, K) float32. A
            linear probe alone leaves none: the network need not know the classes.
        options: how it is measured.

    Returns:
        What the JSON files hold, by suite: ``model``, ``dataset``, ``split``, ``input_size`` (channels, height, width),
        ``crop_pct``, ``count`` (images that the suite measured: all of the split that can be read, ``samples`` of them,
        or those of another dataset), and the suite's own. ``ood``, ``corruption`` and ``probe``, which read images
        beside those of the split, say in ``unreadable`` which of them were left out.

    Raises:
        UserError: if the model or the data cannot be had or do not belong together, a suite cannot be made of them,
            the folder holds other results or cannot be written to, or the memory is not enough.
    """
    options = options or EvaluateOptions()
    _check_names(suites or ())
    recipe_file = RunFolder(Path(model)).recipe_file
    recipe = load_recipe(recipe_file) if recipe_file.is_file() else None
    knows_classes = not suites or any(SUITES[name].needs_classes for name in suites)
    context = _open(model, on, recipe, options, knows_classes=knows_classes)
    subject = context.subject
    folder = None if output is None else ResultFolder(output)
    suites = list(dict.fromkeys(_all_suites(context, folder) if suites is None else suites))
    check_suites(suites, context)
    data = subject.settings
    head: dict[str, Any] = {
        "model": model,
        "dataset": data.name,
        "split": validation_name(data),
        "input_size": list(input_spec(data).input_size),
        "crop_pct": data.crop_pct,
    }
    weights = {"sha256": weights_sha256(subject.classifier.network)}
    if folder is not None:
        on_main(subject.accelerator, lambda: folder.check({**head, **weights}, suites))
    about: dict[str, Any] = {}
    if knows_classes:
        head["count"] = len(subject.clean["index"])
        about["unreadable"] = subject.unreadable
        if folder is not None:
            on_main(subject.accelerator, lambda: folder.check({"count": head["count"]}, ()))
    if folder is not None:
        about = {**head, **weights, **about, "command": options.command, **_about(context, recipe, model)}
        on_main(subject.accelerator, partial(_write_head, folder, about, subject if knows_classes else None))
    records = {}
    for name in suites:
        findings = SUITES[name].measure(context)
        records[name] = findings.record(head)
        if folder is not None:
            on_main(subject.accelerator, partial(_write_suite, folder, name, head, findings))
    return records


def _write_head(folder: ResultFolder, about: Mapping[str, Any], subject: Subject | None) -> None:
    """Write what is measured, and what the network says of every image if it knows the classes."""
    with write_errors(folder.path):
        folder.write_about(about)
        if subject is not None:
            folder.write_predictions(subject.clean, sample_names(subject.dataset, subject.size))


def _write_suite(folder: ResultFolder, name: str, head: Mapping[str, Any], findings: Findings) -> None:
    with write_errors(folder.path):
        folder.write(name, head, findings)
        if find_spec("matplotlib") is not None:
            model = head["model"]
            save_figures(draw_suite(name, {model: findings.record(head)}, {model: findings.arrays}), folder.plots)


def _all_suites(context: SuiteContext, folder: ResultFolder | None) -> list[str]:
    """List what model and data allow and the folder does not have yet."""
    suites = possible_suites(context)
    if folder is None:
        return suites
    # one process looks: another machine may have another disk
    return on_main(context.subject.accelerator, partial(folder.not_measured, suites))


def _check_names(suites: Sequence[str]) -> None:
    for name in suites:
        if name not in SUITES:
            raise UserError(f"no suite is called {name!r}: {did_you_mean(name, SUITES)}there are {', '.join(SUITES)}")


def _open(
    model: str, on: str | None, recipe: Recipe | None, options: EvaluateOptions, *, knows_classes: bool
) -> SuiteContext:
    """Load the model, open the data, and check that they belong together."""
    if on is None and recipe is None:
        raise UserError(f"{model} is not the folder of a run: say with --on which dataset to measure it on.")
    accelerator = make_accelerator()
    network = load_network(model)
    settings = _data_settings(network, on, recipe, options)
    with one_process_first(accelerator):
        dataset = open_split(settings, "val")
    if options.boxes is not None:
        dataset = with_boxes(dataset, options.boxes)
    names = class_names(dataset, settings)
    if knows_classes:
        _check_classes(network, names, settings.name)
        check_labels(dataset, network.num_classes)  # type: ignore[arg-type]
    runtime, measuring = (recipe.runtime, recipe.evaluate) if recipe else (RuntimeSettings(), EvaluateSettings())
    if runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)
    _check_size(network, settings)
    classifier = Classifier(network, input_spec(settings), accelerator.device, channels_last=runtime.channels_last)
    subject = Subject(
        classifier,
        dataset,
        settings,
        accelerator,
        batch_size=options.batch_size or measuring.batch_size,
        limit=options.samples,
        skip_unreadable=options.skip_unreadable,
    )
    return SuiteContext(subject, options.suites, known_label_names(network) or names)


def _data_settings(network: nn.Module, on: str | None, recipe: Recipe | None, options: EvaluateOptions) -> DataSettings:
    """Say which data is measured, and how it is prepared."""
    own = recipe is not None and on in (None, recipe.data.name)
    settings = recipe.data if recipe is not None and own else DataSettings(str(on))
    settings = with_preprocessing(settings, network)
    changes: dict[str, Any] = {"root": options.root, "val_split": options.split, "workers": options.workers}
    settings = replace(settings, **{key: value for key, value in changes.items() if value is not None})
    if options.split is not None:
        settings = replace(settings, val_fraction=0.0, fold=None, subset=None)
    if options.img_size is not None:
        channels, side = input_spec(settings).input_size[0], options.img_size
        settings = replace(settings, input_size=(channels, side, side))
    return settings


def _check_size(network: nn.Module, settings: DataSettings) -> None:
    """Try an image of nothing."""
    size = input_spec(settings).input_size
    try:
        try_image(network, size)
    except ValueError as error:
        raise UserError(
            f"the model does not take images of {' x '.join(map(str, size))}: {error}; "
            "choose with --img-size what it takes."
        ) from error


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


def _about(context: SuiteContext, recipe: Recipe | None, model: str) -> dict[str, Any]:
    """Say what was measured and where, beyond the names of model and data."""
    network, accelerator = context.subject.classifier.network, context.subject.accelerator
    row = zoo_table().get(model)
    if recipe is None and row is not None and row.recipe is not None:
        recipe = load_recipe(row.recipe)
    return {
        "architecture": network.pretrained_cfg["architecture"],  # type: ignore[index]
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "recipe": None if recipe is None else dump_recipe(public_recipe(recipe)),
        "environment": {**environment(accelerator.device), "processes": str(accelerator.num_processes)},
    }


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="cutmix-zoo evaluate",
        description="Measure a model on a split, with the preprocessing that the model asks for.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a timm name, the folder of a run, or a Hub id OWNER/NAME")
    add("--on", metavar="DATASET", help="a dataset, as recipes name it (default: the run's own)")
    add(
        "--suite",
        default="accuracy",
        metavar="NAME[,NAME]",
        help=f"what to measure: {', '.join(SUITES)}, or all that model and data allow (default: accuracy)",
    )
    add("--output", type=Path, metavar="DIR", help="also write numbers, tables, predictions and pictures")
    add("--root", metavar="DIR", help="the dataset's folder")
    add(
        "--split",
        metavar="NAME",
        help="the split; . for all of a folder of classes (default: the validation split, or what the run held out)",
    )
    add("--img-size", type=whole_number(1), metavar="N", help="pixels of a side (default: what the model asks for)")
    add(
        "--batch-size",
        type=whole_number(1),
        metavar="N",
        help="images of a forward pass and process (default: the run's, else 250)",
    )
    add("--workers", type=whole_number(0), metavar="N", help="loader processes (default: the run's, else 2)")
    add(
        "--samples",
        type=_samples,
        default=SAMPLES,
        metavar="N|all",
        help="images of the costly measurements: localization, PGD, occlusion, in_between, corruption, and the probe's "
        "training (default: %(default)s)",
    )
    add("--skip-unreadable", action="store_true", help="leave out images that cannot be read, instead of stopping")
    part = parser.add_argument_group("what single suites take")
    add = part.add_argument
    add(
        "--budgets",
        type=_budgets,
        default=SuiteSettings.budgets,
        metavar="N,N",
        help=f"adversarial: of FGSM, in 1/255 (default: {_joined(SuiteSettings.budgets)})",
    )
    add(
        "--pgd-budgets",
        type=_budgets,
        default=SuiteSettings.pgd_budgets,
        metavar="N,N",
        help=f"adversarial: of PGD, in 1/255 (default: {_joined(SuiteSettings.pgd_budgets)}); '' leaves PGD out",
    )
    add(
        "--pgd-steps",
        type=whole_number(1),
        default=SuiteSettings.pgd_steps,
        metavar="N",
        help="adversarial: of PGD, a gradient each (default: %(default)s)",
    )
    add(
        "--fill",
        choices=get_args(Fill),
        default=SuiteSettings.fill,
        help="occlusion: of the holes (default: %(default)s)",
    )
    add(
        "--protocol",
        choices=get_args(Protocol),
        default=SuiteSettings.protocol,
        help="localization (default: %(default)s)",
    )
    add("--boxes", type=Path, metavar="DIR", help="localization on ImageNet: its XML annotations")
    add(
        "--ood",
        action="append",
        metavar="NAME=DIR|WORD|DIR",
        help="ood: NAME=FOLDER_OF_IMAGES, a folder of such folders, or one of the words "
        f"{', '.join(OOD_WORDS)}; may be given several times (default: what can be made of the dataset)",
    )
    add(
        "--corrupted",
        type=Path,
        metavar="DIR",
        help="corruption: the dataset's ImageNet-C or CIFAR-C (default: our own)",
    )
    add("--probe-on", metavar="DATASET", help="probe: fit and measure on this dataset (default: the one of --on)")
    add("--probe-root", metavar="DIR", help="probe: its folder")
    return parser


def _samples(text: str) -> int | None:
    return None if text == "all" else whole_number(1)(text)


_samples.__name__ = "number of samples"  # what argparse calls it in its own message


def _budgets(text: str) -> tuple[float, ...]:
    try:
        budgets = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        budgets = (math.nan,)
    if not all(0 <= budget < math.inf for budget in budgets):
        raise argparse.ArgumentTypeError(f"expected finite numbers of at least 0, such as 0,2,8, got {text}")
    return budgets


def _joined(budgets: Sequence[float]) -> str:
    return ",".join(f"{budget:g}" for budget in budgets)


def _made(kind: Callable[..., T], given: argparse.Namespace, **others: Any) -> T:
    """Make a dataclass of those arguments that are called as its fields are, and of others."""
    names = signature(kind).parameters
    return kind(**{name: value for name, value in vars(given).items() if name in names}, **others)


def command(arguments: Sequence[str]) -> None:
    """Evaluate as the command line says."""
    given = make_parser().parse_args(arguments)
    suites = None if given.suite == "all" else given.suite.split(",")
    options = _made(
        EvaluateOptions,
        given,
        suites=_made(SuiteSettings, given),
        command=shlex.join(["cutmix-zoo", "evaluate", *arguments]),
    )
    records = evaluate(given.model, given.on, suites, given.output, options)
    leave()
    if records:
        head = next(iter(records.values()))
        images = f"{head['count']:,} images of " if "count" in head else ""
        size = " x ".join(map(str, head["input_size"][1:]))
        say(f"measured on {images}{head['dataset']}, {head['split']}, at {size} pixels")
    for name, record in records.items():
        say(f"{name}: {_summarize(record)}")
    if given.output is not None:
        say(f"everything is in {given.output}")
        if find_spec("matplotlib") is None:
            say("no pictures: they need matplotlib (pip install matplotlib)")


def _summarize(record: Mapping[str, Any]) -> str:
    """Say the numbers of a suite in a line, those of a mapping with its name in front."""
    flat = {
        f"{name}.{key}": value for name, part in record.items() if isinstance(part, dict) for key, value in part.items()
    }
    shown = {**record, **flat}.items()
    numbers = {key: value for key, value in shown if isinstance(value, float) and key != "crop_pct"}
    return "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())


def main() -> int:
    """Run ``python -m cutmix_zoo.evaluate``."""
    return run_command(command, "cutmix-zoo evaluate")


if __name__ == "__main__":
    sys.exit(main())
