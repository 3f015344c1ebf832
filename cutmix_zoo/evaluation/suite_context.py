"""What a suite is made from: the subject, what it is told, and what of that has to be opened first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutmix_zoo.data.datasets import check_same_classes, is_random_access, open_split
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.adversarial import BUDGETS, PGD_BUDGETS, PGD_STEPS
from cutmix_zoo.evaluation.ood_sets import OOD_WORDS, find_ood_folders, ood_sets
from cutmix_zoo.evaluation.probe import check_enough
from cutmix_zoo.models.export import DATA_KEYS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.evaluation.localization import Protocol
    from cutmix_zoo.evaluation.occlusion import Fill
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

    budgets: Sequence[float] = BUDGETS
    pgd_budgets: Sequence[float] = PGD_BUDGETS
    pgd_steps: int = PGD_STEPS
    fill: Fill = "mean"
    protocol: Protocol = "paper"
    ood: Sequence[str] | None = None
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
        train = subject.with_data(open_split(data, "train"), data)
        check_same_classes(train.dataset, subject.dataset)
        check_enough(train.limited_size)
        return subject, train


def _ood_specs(texts: Sequence[str]) -> dict[str, str]:
    specs: dict[str, str] = {}
    for text in texts:
        name, separator, where = text.partition("=")
        found = {name: where or name} if separator or name in OOD_WORDS else find_ood_folders(Path(text))
        if twice := sorted(set(found) & set(specs)):
            raise UserError(f"--ood names {', '.join(twice)} twice")
        specs.update(found)
    return specs
