"""The CutMix paper's numbers, and which of them belong to a measurement: those of the same setting, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cutmix_zoo.known import whole_validation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BEST = "The paper reports the epoch that is best on these same images."


@dataclass(frozen=True)
class PaperTable:
    """Numbers of the paper in one setting.

    Args:
        name: where they stand in the paper.
        about: what they are of, and what to know before comparing.
        columns: what the numbers of a row are, the name of the row first.
        rows: by the row's name.
        decimals: how many the paper prints.
    """

    name: str
    about: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float]]
    decimals: int = 2


_ERRORS = ("", "top-1 error (%)", "top-5 error (%)")
_METHODS = ("", "Baseline", "Mixup", "Cutout", "CutMix")

_ACCURACY: Mapping[tuple[str | None, str | None], PaperTable] = {
    ("imagenet", "resnet50"): PaperTable(
        "Table 3",
        f"ResNet-50 on ImageNet's validation images. {_BEST} * copied by the authors from other papers.",
        _ERRORS,
        {
            "Baseline": (23.68, 7.05),
            "Cutout": (22.93, 6.66),
            "StochDepth": (22.46, 6.27),
            "Mixup": (22.58, 6.40),
            "Manifold Mixup": (22.50, 6.21),
            "DropBlock*": (21.87, 5.98),
            "Feature CutMix": (21.80, 6.06),
            "CutMix": (21.40, 5.92),
        },
    ),
    ("imagenet", "resnet101"): PaperTable(
        "Table 4",
        f"ResNet-101 on ImageNet's validation images. {_BEST}",
        _ERRORS,
        {"Baseline": (21.87, 6.29), "Cutout": (20.72, 5.51), "Mixup": (20.52, 5.28), "CutMix": (20.17, 5.24)},
    ),
    ("imagenet", "resnext101_32x4d"): PaperTable(
        "Table 4",
        f"ResNeXt-101 (32x4d) on ImageNet's validation images. {_BEST}",
        _ERRORS,
        {"Baseline": (21.18, 5.57), "CutMix": (19.47, 5.03)},
    ),
    ("cifar100", "cifar_pyramidnet200_a240"): PaperTable(
        "Table 5",
        f"PyramidNet-200 (alpha 240) on CIFAR-100's test images, mean of three runs. {_BEST}",
        _ERRORS,
        {
            "Baseline": (16.45, 3.69),
            "StochDepth": (15.86, 3.33),
            "Label smoothing": (16.73, 3.37),
            "Cutout": (16.53, 3.65),
            "Cutout + label smoothing": (15.61, 3.88),
            "DropBlock": (15.73, 3.26),
            "DropBlock + label smoothing": (15.16, 3.86),
            "Mixup (alpha 0.5)": (15.78, 4.04),
            "Mixup (alpha 1)": (15.63, 3.99),
            "Manifold Mixup (alpha 1)": (16.14, 4.07),
            "Cutout + Mixup": (15.46, 3.42),
            "Cutout + Manifold Mixup": (15.09, 3.35),
            "ShakeDrop": (15.08, 2.72),
            "CutMix": (14.47, 2.97),
            "CutMix + ShakeDrop": (13.81, 2.29),
        },
    ),
    ("cifar100", "cifar_pyramidnet110_a64"): PaperTable(
        "Table 6",
        f"PyramidNet-110 (alpha 64) on CIFAR-100's test images. {_BEST}",
        _ERRORS,
        {"Baseline": (19.85, 4.66), "CutMix": (17.97, 3.83)},
    ),
    ("cifar100", "cifar_resnet110_bottleneck"): PaperTable(
        "Table 6",
        f"ResNet-110 (bottleneck) on CIFAR-100's test images. {_BEST}",
        _ERRORS,
        {"Baseline": (23.14, 5.95), "CutMix": (20.11, 4.43)},
    ),
    ("cifar10", "cifar_pyramidnet200_a240"): PaperTable(
        "Table 7",
        f"PyramidNet-200 (alpha 240) on CIFAR-10's test images. {_BEST}",
        _ERRORS[:2],
        {
            "Baseline": (3.85,),
            "Cutout": (3.10,),
            "Mixup": (3.09,),
            "Manifold Mixup": (3.15,),
            "CutMix": (2.88,),
        },
    ),
}

_LOCALIZATION = {"cub200": (49.41, 49.30, 52.78, 54.81), "imagenet": (46.30, 45.84, 46.69, 47.25)}
"""Table 9, ResNet-50, in the order of the methods."""

_ADVERSARIAL = PaperTable(
    "Table 11",
    "Top-1 accuracy (%) after FGSM with a budget of 8/255, ResNet-50 on ImageNet's validation images. The paper says "
    "neither whether the budget counts in pixel space nor whether pixels are clipped, and both change the numbers.",
    _METHODS,
    {"FGSM, 8/255": (8.2, 24.4, 11.5, 31.0)},
    decimals=1,
)

OOD_MEANS = ((26.3, 87.3, 82.0), (11.8, 49.3, 60.9), (18.8, 68.7, 71.3), (69.0, 94.4, 89.1))
"""Table 12, in the order of the methods: TNR at 95 % TPR, AUROC and detection accuracy, means over the seven sets."""

OOD_SETS = {
    "TinyImageNet (crop)": ((43.0, 88.9, 81.3), (22.6, 71.6, 69.8), (30.5, 85.6, 79.0), (57.1, 92.4, 85.0)),
    "TinyImageNet (resize)": ((29.8, 84.2, 77.0), (12.3, 56.8, 61.0), (22.0, 82.8, 77.1), (55.4, 91.9, 84.5)),
    "LSUN (crop)": ((34.6, 86.5, 79.5), (22.9, 76.3, 72.3), (33.2, 85.7, 78.5), (47.6, 90.3, 82.8)),
    "LSUN (resize)": ((34.3, 86.4, 79.0), (13.0, 59.0, 61.8), (23.7, 84.0, 78.4), (62.8, 93.7, 86.7)),
    "iSUN": ((32.0, 85.1, 77.8), (11.8, 57.0, 61.0), (22.2, 82.8, 76.8), (60.1, 93.0, 85.7)),
    "uniform": ((0.0, 89.2, 89.2), (0.0, 0.8, 50.0), (0.0, 35.6, 59.1), (100.0, 99.8, 99.7)),
    "gaussian": ((10.4, 90.7, 89.9), (0.0, 23.4, 50.5), (0.0, 24.3, 50.0), (100.0, 99.7, 99.0)),
}
"""Table A2: the same by set."""


def accuracy_table(record: Mapping[str, Any], architecture: str | None) -> PaperTable | None:
    """Look up what the paper has for the setting of an accuracy.

    Args:
        record: what the JSON file of the suite holds.
        architecture: of the network, by timm's name; ``None`` if it is not known.

    Returns:
        The paper's numbers; ``None`` unless dataset, split, number of images, their size and crop, architecture and
        protocol are the paper's. How the network was trained is not looked at: the paper's rows are named after that.

    Example:
        >>> images = {"dataset": "torch/cifar100", "split": "validation", "count": 10_000}
        >>> record = {**images, "input_size": [3, 32, 32], "crop_pct": 1.0}
        >>> accuracy_table(record, "cifar_resnet110_bottleneck").rows["CutMix"]
        (20.11, 4.43)
        >>> accuracy_table(record, "cifar_resnet20") is None
        True
    """
    return _ACCURACY.get((_dataset(record), architecture))


def localization_table(record: Mapping[str, Any], architecture: str | None) -> PaperTable | None:
    """Do it for ``localization``, see :func:`accuracy_table`."""
    dataset = _whole_dataset(record)
    if dataset not in _LOCALIZATION or architecture != "resnet50_stride16":
        return None
    expected = {"protocol": "paper", "map_size": [14, 14], "input_size": [224, 224], "resized_to": [256, 256]}
    if any(record[key] != value for key, value in expected.items()):
        return None
    about = "ResNet-50 with a last feature map of 14 x 14, fine-tuned as appendix B says."
    return PaperTable("Table 9", about, _METHODS, {"top-1 localization (%)": _LOCALIZATION[dataset]})


def adversarial_table(record: Mapping[str, Any], architecture: str | None) -> PaperTable | None:
    """Do it for ``adversarial``, see :func:`accuracy_table`."""
    same = (_dataset(record), architecture) == ("imagenet", "resnet50") and record.get("fgsm_top1_at_8") is not None
    return _ADVERSARIAL if same else None


def ood_table(record: Mapping[str, Any], architecture: str | None) -> PaperTable | None:
    """Do it for ``ood``, see :func:`accuracy_table`."""
    same = (_dataset(record), architecture) == ("cifar100", "cifar_pyramidnet200_a240")
    if not same or not record["paper_sets"]:
        return None
    natural = [row for name, row in OOD_SETS.items() if name not in ("uniform", "gaussian")]
    means = np.mean(natural, axis=0).tolist()
    cells = {"mean of the seven": OOD_MEANS, "mean without noise (calculated from the sets)": means, **OOD_SETS}
    return PaperTable(
        "Tables 12 and A2",
        "PyramidNet-200 (alpha 240) on CIFAR-100's test images. For each method in turn: TNR at 95 % TPR, AUROC, "
        "detection accuracy, in percent.",
        ("", *(f"{method}: {metric}" for method in _METHODS[1:] for metric in ("TNR", "AUROC", "accuracy"))),
        {name: tuple(number for cell in row for number in cell) for name, row in cells.items()},
        decimals=1,
    )


def _whole_dataset(record: Mapping[str, Any]) -> str | None:
    """Name the dataset if all that it is validated on was measured."""
    known = whole_validation(str(record["dataset"]), record["split"], record.get("count"))
    return None if known is None else known.name


def _dataset(record: Mapping[str, Any]) -> str | None:
    """Name it if, too, images were prepared as the paper's: 256 to 224, and those of CIFAR not at all."""
    dataset = _whole_dataset(record)
    of_cifar = dataset is not None and dataset.startswith("cifar")
    expected = ([3, 32, 32], 1.0) if of_cifar else ([3, 224, 224], 0.875)
    return dataset if (record.get("input_size"), record.get("crop_pct")) == expected else None
