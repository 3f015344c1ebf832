"""The suites by their names, and what each needs beside the subject."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cutmix_zoo.data.datasets import check_same_classes, dataset_size, is_random_access, open_split
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.accuracy import measure_accuracy
from cutmix_zoo.evaluation.adversarial import measure_adversarial
from cutmix_zoo.evaluation.calibration import measure_calibration
from cutmix_zoo.evaluation.cam import check_has_cam
from cutmix_zoo.evaluation.corruption import measure_corruption, open_released
from cutmix_zoo.evaluation.in_between import check_pairs, measure_in_between
from cutmix_zoo.evaluation.localization import measure_localization
from cutmix_zoo.evaluation.occlusion import measure_occlusion
from cutmix_zoo.evaluation.ood_sets import OOD_WORDS, find_ood_folders, ood_sets
from cutmix_zoo.evaluation.out_of_distribution import check_classes, measure_ood
from cutmix_zoo.evaluation.probe import check_enough, measure_probe
from cutmix_zoo.models.export import DATA_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutmix_zoo.evaluation.findings import Findings
    from cutmix_zoo.evaluation.ood_sets import OodSet
    from cutmix_zoo.evaluation.subject import Subject


@dataclass(frozen=True)
class SuiteSettings:
    """What suites can be told.

    Args:
        budgets: of FGSM, in 1/255 of the range of a pixel.
        pgd_budgets: of PGD, likewise; empty to leave it out.
        pgd_steps: the gradients that PGD takes, one after the other.
        fill: of the holes of ``occlusion``: the ``mean`` colour or ``black``.
        protocol: of ``localization``.
        ood: what ``ood`` compares with: ``NAME=FOLDER``, ``NAME=WORD``, or a folder of such folders; ``None`` for what
            can be made of the dataset itself. A word alone, such as ``uniform``, is a set of that name.
        corrupted: folder of the dataset's ImageNet-C or CIFAR-C; ``None`` corrupts the images by our own means.
        probe_on: a dataset whose training split the linear probe is fitted on, and whose evaluation split it is
            measured on; ``None`` for the dataset that is evaluated.
        probe_root: its folder.
    """

    budgets: tuple[float, ...] = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
    pgd_budgets: tuple[float, ...] = (0.0, 2.0, 8.0)
    pgd_steps: int = 10
    fill: Literal["mean", "black"] = "mean"
    protocol: Literal["paper", "wsol"] = "paper"
    ood: tuple[str, ...] | None = None
    corrupted: Path | None = None
    probe_on: str | None = None
    probe_root: str | None = None


@dataclass(frozen=True)
class SuiteContext:
    """A subject, what the suites are told, and the names of its classes.

    Args:
        subject: what is measured.
        settings: what the suites are told.
        classes: label names, one a class; ``None`` if the dataset does not say.
    """

    subject: Subject
    settings: SuiteSettings
    classes: Sequence[str] | None

    @cached_property
    def localized(self) -> Subject | None:
        """The subject, if its images have boxes."""
        return self.subject if hasattr(self.subject.dataset, "boxes") else None

    @cached_property
    def ood_sets(self) -> dict[str, OodSet]:
        """What ``ood`` compares with."""
        return ood_sets(None if self.settings.ood is None else _ood_specs(self.settings.ood), self.subject)

    @cached_property
    def probed(self) -> tuple[Subject, Subject]:
        """What a probe is measured on, and what it is fitted on."""
        subject, wanted = self.subject, self.settings.probe_on
        data = subject.settings
        if wanted is None and self.settings.probe_root is not None:
            raise UserError(
                "--probe-root is the folder of --probe-on DATASET, which is not given; --root is that of --on."
            )
        if wanted is not None:
            preprocessing: dict[str, Any] = {key: getattr(data, key) for key in (*DATA_KEYS, "workers")}
            data = DataSettings(wanted, root=self.settings.probe_root, **preprocessing)
            subject = subject.with_data(open_split(data, "val"), data)
        if not is_random_access(subject.dataset):
            raise UserError(f"a probe takes images by their places, and {data.name} is a stream.")
        if data.train_split == data.val_split and not (data.val_fraction or data.fold):
            raise UserError(
                f"a probe would be fitted on what it is measured on, {data.val_split} of {data.name}; choose another "
                "split with --split, or another dataset with --probe-on."
            )
        train = open_split(data, "train")
        check_same_classes(train, subject.dataset)
        check_enough(_at_most(dataset_size(train), subject.limit))
        return subject, subject.with_data(train, data)


def _at_most(size: int, limit: int | None) -> int:
    return size if limit is None else min(size, limit)


def _ood_specs(texts: Sequence[str]) -> dict[str, str]:
    specs: dict[str, str] = {}
    for text in texts:
        name, separator, where = text.partition("=")
        found = {name: where or name} if separator or name in OOD_WORDS else find_ood_folders(Path(text))
        if twice := sorted(set(found) & set(specs)):
            raise UserError(f"--ood names {', '.join(twice)} twice")
        specs.update(found)
    return specs


def _localization(context: SuiteContext) -> Findings:
    assert context.localized is not None, "check_suites comes first"
    return measure_localization(context.localized, protocol=context.settings.protocol)


def _adversarial(context: SuiteContext) -> Findings:
    told = context.settings
    return measure_adversarial(
        context.subject, budgets=told.budgets, pgd_budgets=told.pgd_budgets, pgd_steps=told.pgd_steps
    )


def _probe(context: SuiteContext) -> Findings:
    measured, fitted = context.probed
    found = measure_probe(measured, fitted)
    return replace(found, numbers={**found.numbers, "probed_on": measured.settings.name})


SUITES: dict[str, Callable[[SuiteContext], Findings]] = {
    "accuracy": lambda context: measure_accuracy(context.subject, context.classes),
    "calibration": lambda context: measure_calibration(context.subject),
    "localization": _localization,
    "adversarial": _adversarial,
    "occlusion": lambda context: measure_occlusion(context.subject, fill=context.settings.fill),
    "in_between": lambda context: measure_in_between(context.subject),
    "ood": lambda context: measure_ood(context.subject, context.ood_sets),
    "corruption": lambda context: measure_corruption(context.subject, context.settings.corrupted),
    "probe": _probe,
}
"""What can be measured."""

ON_STREAMS = ("accuracy", "calibration")
"""Suites that read every image once and in order."""


def possible_suites(context: SuiteContext) -> list[str]:
    """List the suites that the model and the data that is evaluated allow, see :func:`check_suites`."""
    return [name for name in SUITES if _is_possible(name, context)]


def _is_possible(suite: str, context: SuiteContext) -> bool:
    try:
        _check_possible(suite, context)
    except UserError:
        return False
    return True


def check_suites(suites: Sequence[str], context: SuiteContext) -> None:
    """Check, before anything is measured, that model and data allow suites, and that what these are told is there.

    Raises:
        UserError: if a suite needs images by their places, and the dataset is a stream; ``localization`` has no boxes
            or no class activation maps, ``in_between`` fewer than two images, ``ood`` a model of one class, or
            ``probe`` nothing to be fitted on; or sets, corrupted images or another dataset for the probe cannot be
            opened or do not belong to the data.
    """
    for name in suites:
        _check_possible(name, context)
    if "ood" in suites:
        _ = context.ood_sets
    if "corruption" in suites and context.settings.corrupted is not None:
        open_released(context.settings.corrupted, context.subject)
    if "probe" in suites:
        _ = context.probed


def _check_possible(suite: str, context: SuiteContext) -> None:
    """Check that the model and the data that is evaluated allow a suite, whatever it is told."""
    subject = context.subject
    name = subject.settings.name
    if suite in ON_STREAMS:
        return
    if not is_random_access(subject.dataset):
        raise UserError(
            f"{suite} takes images by their places, and {name} is a stream; a stream allows {' and '.join(ON_STREAMS)}."
        )
    if suite == "localization":
        if context.localized is None:
            raise UserError(
                f"{name} has no boxes: localization is measured on cub200, on fashion_mnist_canvas, or on ImageNet "
                "with --boxes FOLDER (of its XML annotations)."
            )
        check_has_cam(subject.classifier.network, subject.classifier.spec.input_size)
    if suite == "in_between":
        check_pairs(_at_most(subject.size, subject.limit))
    if suite == "ood":
        check_classes(subject.classifier.num_classes)
    if suite == "probe" and context.settings.probe_on is None:
        _ = context.probed
