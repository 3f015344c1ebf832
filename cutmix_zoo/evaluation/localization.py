"""How well class activation maps show where objects are: weakly supervised object localization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import torch
from torchvision import transforms

from cutmix_zoo.checks import require_choice
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.data.transforms import ToMode
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.cam import check_has_cam, feature_maps, pooled_logits, weigh_features
from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.evaluation.map_boxes import (
    cropped_boxes,
    iou,
    min_max,
    over_maximum,
    paper_boxes,
    resize_map,
    resized_boxes,
    wsol_boxes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from cutmix_zoo.data.settings import DataSettings
    from cutmix_zoo.data.transforms import Transform
    from cutmix_zoo.evaluation.samples import Batch, Samples
    from cutmix_zoo.evaluation.subject import Subject

    Floats = NDArray[np.float64]

Protocol = Literal["paper", "wsol"]
"""The rules of the CutMix paper, or those of wsolevaluation."""

_SHOWN = 12  # images whose maps are kept to be drawn


@dataclass(frozen=True)
class PaperRules:
    """The protocol of the paper; see :func:`measure_localization`.

    Args:
        size: height and width of what the network gets.
        resized: height and width that an image is resized to, before its centre is cropped to ``size``.
    """

    size: tuple[int, int]
    resized: tuple[int, int]

    thresholds: ClassVar[Floats] = np.arange(20) / 20
    """(T,) rising."""
    columns: ClassVar[tuple[str, ...]] = ("gt_known",)
    """What is counted at each threshold."""

    def true_boxes(self, dataset: Any, index: int) -> NDArray[Any]:
        """Turn the true boxes of an image into those of what the network gets: (G, 4)."""
        boxes = np.array(dataset.boxes(index), np.float64)
        return cropped_boxes(boxes, dataset.image_size(index), self.resized, self.size)

    def scores(self, activation: Floats) -> Floats:
        """Turn a map (h, w) into one of the input's size with values in [0, 1]."""
        return over_maximum(resize_map(activation, self.size, "bilinear"))

    def boxes(self, scores: Floats) -> NDArray[np.int64]:
        """Box the object at each threshold: (T, 4)."""
        return paper_boxes(scores, self.thresholds)

    def found(self, scores: Floats, true_boxes: NDArray[Any]) -> NDArray[np.bool_]:
        """Say of each threshold and column whether the object is found: (T, columns)."""
        return self.agrees(self.boxes(scores), true_boxes)[:, None]

    def main_place(self, _: Floats) -> int:
        """Return the place of the threshold of the main numbers, 0.15."""
        return int(np.searchsorted(self.thresholds, 0.15))

    def numbers(self, found: Floats, place: int) -> dict[str, float]:
        """Name the main numbers, of (T, columns) in percent."""
        return {"gt_known": float(found[place, 0]), "threshold": float(self.thresholds[place])}

    def agrees(self, boxes: NDArray[Any], true_boxes: NDArray[Any]) -> NDArray[np.bool_]:
        """Say of each of (N, 4) boxes whether it agrees with one of the true ones."""
        return iou(boxes, true_boxes).max(axis=1) > 0.5


def _wsol_thresholds() -> Floats:
    """Keep those of 0, 0.001, ..., 0.999 that differ on a map of 256 levels."""
    thresholds = np.arange(0, 1, 0.001)
    _, first = np.unique((thresholds * 255).astype(int), return_index=True)
    return thresholds[first]


@dataclass(frozen=True)
class WsolRules:
    """The protocol of wsolevaluation; see :func:`measure_localization`.

    Args:
        size: height and width of what the network gets.
    """

    size: tuple[int, int]

    thresholds: ClassVar[Floats] = _wsol_thresholds()
    columns: ClassVar[tuple[str, ...]] = ("gt_known", "v2_iou30", "v2_iou50", "v2_iou70")

    @property
    def resized(self) -> tuple[int, int]:
        """That of the input: nothing is cropped."""
        return self.size

    def true_boxes(self, dataset: Any, index: int) -> NDArray[Any]:
        """Resize the true boxes of an image to whole pixels: (G, 4)."""
        # wsolevaluation takes the last row and column for those, whether the dataset's files mean that or not
        corners = getattr(dataset, "corners", dataset.boxes)(index)
        return resized_boxes(np.array(corners, np.float64), dataset.image_size(index), self.size)

    def scores(self, activation: Floats) -> Floats:
        """Enlarge a map (h, w); shift and scale it to [0, 1]."""
        return min_max(resize_map(activation, self.size, "bicubic"))

    def boxes(self, scores: Floats) -> NDArray[np.int64]:
        """Box the largest contour at each threshold: (T, 4)."""
        return wsol_boxes(scores, self.thresholds)[0]

    def found(self, scores: Floats, true_boxes: NDArray[Any]) -> NDArray[np.bool_]:
        """Say it of the largest contour, and of the best contour for each of three bounds of the IoU: (T, columns)."""
        largest, (threshold, boxes) = wsol_boxes(scores, self.thresholds)
        best = iou(largest, true_boxes).max(axis=1)
        best_of_all = best.copy()
        np.maximum.at(best_of_all, threshold, iou(boxes, true_boxes).max(axis=1))
        return np.stack([best >= 0.5, *(best_of_all >= bound for bound in (0.3, 0.5, 0.7))], axis=1)

    def main_place(self, found: Floats) -> int:
        """Return the place of the threshold at which most objects are found, of (T, columns) in percent."""
        return int(found[:, 0].argmax())

    def numbers(self, found: Floats, place: int) -> dict[str, float]:
        """Name the main numbers, of (T, columns) in percent."""
        return {
            "max_box_acc": float(found[place, 0]),
            "max_box_acc_threshold": float(self.thresholds[place]),
            "max_box_acc_v2": float(found[:, 1:].max(axis=0).mean()),
        }

    def agrees(self, boxes: NDArray[Any], true_boxes: NDArray[Any]) -> NDArray[np.bool_]:
        """Say of each of (N, 4) boxes whether it agrees with one of the true ones."""
        return iou(boxes, true_boxes).max(axis=1) >= 0.5


Rules: TypeAlias = PaperRules | WsolRules


def make_rules(protocol: Protocol, settings: DataSettings) -> Rules:
    """Make the rules of a protocol for what a network takes.

    Args:
        protocol: its name.
        settings: the data section of a recipe, with the classifier's preprocessing.

    Raises:
        ValueError: if the protocol is unknown.

    Example:
        >>> from cutmix_zoo.data.settings import DataSettings
        >>> make_rules("paper", DataSettings("imagenet", crop_pct=0.875)).resized
        (256, 256)
    """
    require_choice("protocol", protocol, get_args(Protocol))
    _, *size = input_spec(settings).input_size
    height, width = size
    if protocol == "wsol":
        return WsolRules((height, width))
    if settings.crop_pct == 1:
        return PaperRules((height, width), (height, width))
    return PaperRules((height, width), (round(height * 256 / 224), round(width * 256 / 224)))


def measure_localization(subject: Subject, protocol: Protocol = "paper") -> Findings:
    """Measure how well the class activation maps of the true classes show where the objects are.

    ``paper`` resizes images to 256 x 256 and crops the centre of 224 x 224, or as much more or less as the network's
    input is larger or smaller; nothing is cropped for a network whose own preprocessing crops nothing (``crop_pct``
    1). True boxes are clipped to the crop. The map is enlarged bilinearly and divided by its maximum; the box is that
    of the largest region over a threshold, 0.15 for the main numbers; an object is found if the IoU with a true box is
    over 0.5.

    ``wsol`` resizes images to the input. The map is enlarged bicubically, shifted and scaled to [0, 1]; the box is that
    of the largest contour over a threshold, the same one for all images, chosen as the best for them (MaxBoxAcc). The
    second version (V2) takes all contours, and the mean of the best accuracies at IoUs of at least 0.3, 0.5 and 0.7.

    Args:
        subject: what is measured, on its chosen images. Its dataset has ``boxes(index)``: true boxes (top, left,
            bottom, right), half-open, in pixels of the image; and ``image_size(index)``: its height and width. Where
            its files have other numbers, as those of ImageNet do, it has them as ``corners(index)``, for ``wsol``.
        protocol: ``paper`` or ``wsol``.

    Returns:
        Numbers: ``protocol``, ``count``, ``input_size`` and ``resized_to`` and ``map_size`` (height and width);
        in percent ``top1``, ``top1_loc`` (class right and object found), ``centre_box_gt_known`` and
        ``full_box_gt_known`` (objects found without looking: by a box of half the image's area at its centre, or by the
        whole image). For ``paper`` also ``gt_known`` (objects found) with its ``threshold``; for ``wsol``
        ``max_box_acc`` with its ``max_box_acc_threshold``, and ``max_box_acc_v2``.

        A row a threshold: ``threshold``, in percent ``top1_loc``, ``gt_known``, and for ``wsol`` ``v2_iou30``,
        ``v2_iou50``, ``v2_iou70``. Of ``wsol``'s thresholds 0, 0.001, ..., 0.999 there are those that differ.

        Arrays, of up to 12 images: ``index`` (n,), ``labels``, ``predictions``, ``images`` (n, C, H, W) uint8, ``maps``
        (n, H, W) float32 in [0, 1], ``true_boxes`` (n, 4) (the first of each image), ``predicted_boxes`` (n, 4) at the
        threshold of the main numbers, ``iou`` (n,) of it with the nearest true box.

    Raises:
        ValueError: if the protocol is unknown.
        UserError: if the dataset or one of the images has no boxes, or the network no class activation maps.

    **Source**: ``paper``: CutMix, section 4.2 and appendix B, table 9. It says neither how the map is enlarged, nor of
    which class it is, which makes no difference to ``top1_loc``. ``wsol``: Choe et al., CVPR 2020 and arXiv 2007.04178,
    with the rules of the authors' code (:func:`~cutmix_zoo.evaluation.map_boxes.wsol_boxes`).
    """
    rules = make_rules(protocol, subject.settings)
    chosen = subject.chosen()
    _check_boxes(subject.dataset, chosen)
    channels = input_spec(subject.settings).input_size[0]
    map_size = check_has_cam(subject.classifier.network, (channels, *rules.size))
    transform = _transform(rules, channels)
    samples = subject.samples(chosen, transform=transform)
    rows = subject.gather(samples, _judge(subject, rules, samples), "localization")

    found, right = 100 * rows["found"].mean(axis=0), rows["right"]
    top1_loc = 100 * (rows["found"][:, :, 0] & right[:, None]).mean(axis=0)
    place = rules.main_place(found)
    centre_box, full_box = (100 * rows["blind"].mean(axis=0)).tolist()
    numbers = {
        "protocol": protocol,
        "count": len(right),
        "input_size": list(rules.size),
        "resized_to": list(rules.resized),
        "map_size": list(map_size),
        "top1": float(100 * right.mean()),
        "top1_loc": float(top1_loc[place]),
        **rules.numbers(found, place),
        "centre_box_gt_known": centre_box,
        "full_box_gt_known": full_box,
    }
    table = [
        {"threshold": float(at), "top1_loc": float(loc), **dict(zip(rules.columns, values, strict=True))}
        for at, loc, values in zip(rules.thresholds, top1_loc, found.tolist(), strict=True)
    ]

    spread = np.linspace(0, len(chosen) - 1, min(_SHOWN, len(chosen))).round().astype(int)
    samples = subject.samples(chosen[spread], transform=transform)
    shown = subject.gather(samples, _show(subject, rules, samples, place), "localization, pictures")
    return Findings(numbers, table, shown)


def _check_boxes(dataset: Any, indices: Sequence[int] | NDArray[np.int64]) -> None:
    missing = [name for name in ("boxes", "image_size") if not callable(getattr(dataset, name, None))]
    if missing:
        raise UserError(
            f"a dataset without boxes: {type(dataset).__name__} has no {' and no '.join(missing)}; localization needs "
            "a dataset that knows where its objects are."
        )
    without = [str(index) for index in indices if not len(dataset.boxes(int(index)))]
    if without:
        shown = ", ".join(without[:10]) + (", ..." if len(without) > 10 else "")
        raise UserError(
            f"{len(without)} of {len(indices)} images have no box: sample {shown}. Localization needs one for each "
            "image; leave these out of the dataset."
        )


def _transform(rules: Rules, channels: int) -> Transform:
    return transforms.Compose(
        [
            ToMode(channels),
            transforms.Resize(list(rules.resized), transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(list(rules.size)),
            transforms.PILToTensor(),
        ]
    )


def _judge(subject: Subject, rules: Rules, samples: Samples) -> Iterator[dict[str, Tensor]]:
    """Say of each image whether its class is right, and which boxes find its object."""
    blind = _blind_boxes(rules.size)
    for batch in samples:
        maps, predictions = _maps(subject, batch)
        truth = _true_boxes(subject, rules, batch)
        found = [rules.found(rules.scores(each), boxes) for each, boxes in zip(maps, truth, strict=True)]
        yield {
            "index": batch.index,
            "right": predictions == batch.labels,
            "found": torch.from_numpy(np.stack(found)),
            "blind": torch.from_numpy(np.stack([rules.agrees(blind, boxes) for boxes in truth])),
        }


def _show(subject: Subject, rules: Rules, samples: Samples, place: int) -> Iterator[dict[str, Tensor]]:
    """Keep of each image what is drawn of it."""
    for batch in samples:
        maps, predictions = _maps(subject, batch)
        truth = _true_boxes(subject, rules, batch)
        scores = [rules.scores(each) for each in maps]
        boxes = [rules.boxes(each)[place] for each in scores]
        overlaps = [iou(box[None], true).max() for box, true in zip(boxes, truth, strict=True)]
        yield {
            "index": batch.index,
            "labels": batch.labels,
            "predictions": predictions,
            "images": batch.images,
            "maps": torch.from_numpy(np.stack(scores)).float(),
            "true_boxes": torch.from_numpy(np.stack([true[0] for true in truth])),
            "predicted_boxes": torch.from_numpy(np.stack(boxes)),
            "iou": torch.tensor(overlaps, dtype=torch.float64),
        }


@torch.inference_mode()
def _maps(subject: Subject, batch: Batch) -> tuple[Floats, Tensor]:
    """Compute the maps (B, h, w) of the true classes and the predicted classes (B,)."""
    network = subject.classifier.network
    features = feature_maps(network, subject.classifier.to_input(batch.images))
    maps = weigh_features(network, features, batch.labels)
    return maps.cpu().double().numpy(), pooled_logits(network, features).cpu().argmax(1)


def _true_boxes(subject: Subject, rules: Rules, batch: Batch) -> list[NDArray[Any]]:
    return [rules.true_boxes(subject.dataset, index) for index in batch.index.tolist()]


def _blind_boxes(size: tuple[int, int]) -> Floats:
    """Box half the area of an image at its centre, and the whole image."""
    whole = np.array(size, np.float64)
    margin = whole * (1 - 0.5**0.5) / 2
    return np.array([[*margin, *(whole - margin)], [0, 0, *whole]])
