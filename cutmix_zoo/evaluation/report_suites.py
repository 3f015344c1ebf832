"""What a report says of each suite: what is measured and how, which numbers there are, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Metric:
    """A number of a suite.

    Args:
        key: where it stands in the record, such as ``mean.auroc``.
        title: what it is called, with its unit.
        decimals: how many are shown.
        best: which values are better; ``None`` if none is.
        column: what it is called in the CSV file; also puts it into the table of the main numbers. ``None`` for
            numbers that are shown with their suite only.
    """

    key: str
    title: str
    decimals: int = 2
    best: Literal["highest", "lowest", "nearest to 0"] | None = "lowest"
    column: str | None = None

    def read(self, record: Mapping[str, Any]) -> float | None:
        """Take the number out of a record; ``None`` if it has none.

        Raises:
            TypeError: if what stands there is no number.
        """
        value: Any = record
        for key in self.key.split("."):
            value = None if value is None else value.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{self.key} is not a number: {value!r}")
        return value

    def winners(self, values: Sequence[float | None]) -> set[int]:
        """Say which of the values are the best; none where nothing is to be compared.

        Example:
            >>> Metric("top1", "top-1", best="highest").winners([90.0, None, 91.0])
            {2}
            >>> Metric("top1", "top-1", best="highest").winners([None, None, 91.0])
            set()
        """
        there = {place: value for place, value in enumerate(values) if value is not None}
        if self.best is None or len(set(there.values())) < 2:
            return set()
        keys = {"highest": lambda value: -value, "lowest": lambda value: value, "nearest to 0": abs}
        ranks = {place: keys[self.best](value) for place, value in there.items()}
        return {place for place, rank in ranks.items() if rank == min(ranks.values())}


@dataclass(frozen=True)
class SuiteText:
    """What a report says of a suite.

    Args:
        title: a heading.
        about: what is measured, and how.
        metrics: its numbers.
        settings: keys of the record that say how it was measured, and what they are called. Where they differ between
            models, the numbers are not compared.
        keys: columns of the rows that say what a row is of.
        values: columns of the rows that were measured, and what they are called; empty to show no rows.
        paper: what to say where the paper has no number for the setting.
    """

    title: str
    about: str
    metrics: Sequence[Metric]
    settings: Mapping[str, str]
    keys: Sequence[str] = ()
    values: Mapping[str, str] | None = None
    paper: str = "The paper has no numbers for this setting."


_NOT_IN_PAPER = "Not in the paper."
_CURVES_ONLY = "The paper has curves of it and no numbers (figure 5, ResNet-50 on ImageNet)."
_IMAGES = {"count": "images"}
_ATTACKS = {"images": "fgsm", "pgd_images": "pgd"}
_ROWS = {"images": "images"}
_RULES = {
    "paper": "the largest region over 0.15 of the map's maximum; IoU above 0.5",
    "wsol": "the largest contour over the threshold that is best for the set (MaxBoxAcc), IoU of at least 0.5; all "
    "contours, mean over IoU 0.3, 0.5 and 0.7 (V2)",
}

SUITES: dict[str, SuiteText] = {
    "accuracy": SuiteText(
        "Accuracy",
        "The share of images whose likeliest class is the label (top-1), or whose label is among the five likeliest "
        "(top-5). Balanced accuracy is the mean recall of the classes, macro F1 the mean of their F1.",
        (
            Metric("top1", "top-1 accuracy (%)", 2, "highest", "top1"),
            Metric("top1_error", "top-1 error (%)"),
            Metric("top5", "top-5 accuracy (%)", 2, "highest"),
            Metric("top5_error", "top-5 error (%)"),
            Metric("balanced_accuracy", "balanced accuracy (%)", 2, "highest"),
            Metric("macro_f1", "macro F1 (%)", 2, "highest"),
            Metric("loss", "cross-entropy (nats)", 4),
        ),
        _IMAGES,
        ("index", "class"),
        {"recall": "recall (%)", "precision": "precision (%)", "f1": "F1 (%)"},
    ),
    "calibration": SuiteText(
        "Calibration",
        "Whether what gets a probability of p is right in a share p of the cases. Images are sorted by the probability "
        "of the likeliest class, the confidence, into 15 bins of equal width; the expected calibration error (ECE) is "
        "the mean distance of accuracy and confidence over the bins, weighted by their images. The Brier score goes "
        "from 0 to 2. A temperature is fitted on one half of the images; what is called held out is of the other half.",
        (
            Metric("ece", "expected calibration error", 4, "lowest", "ece"),
            Metric("confidence_minus_accuracy", "confidence - accuracy", 4, "nearest to 0"),
            Metric("confidence", "mean confidence", 4, None),
            Metric("accuracy", "accuracy", 4, "highest"),
            Metric("brier", "Brier score", 4),
            Metric("nll", "negative log-likelihood (nats)", 4),
            Metric("temperature", "temperature", 3, None),
            Metric("held_out_ece_before", "ECE, held out, as it is", 4),
            Metric("held_out_ece_after", "ECE, held out, with the temperature", 4),
            Metric("held_out_nll_before", "NLL, held out, as it is", 4),
            Metric("held_out_nll_after", "NLL, held out, with the temperature", 4),
        ),
        _IMAGES,
        ("lower", "upper"),
        {"count": "images", "confidence": "confidence", "accuracy": "accuracy"},
        _NOT_IN_PAPER,
    ),
    "localization": SuiteText(
        "Localization",
        "A box is drawn around what the class activation map of the true class marks, and compared with the true box. "
        "GT-known counts boxes that overlap enough, top-1 localization those of images whose class is right too. The "
        "centre box and the full box need no network.",
        (
            Metric("top1_loc", "top-1 localization (%)", 2, "highest", "top1_loc"),
            Metric("gt_known", "GT-known localization (%)", 2, "highest", "gt_known"),
            Metric("top1", "top-1 accuracy (%)", 2, "highest"),
            Metric("max_box_acc", "MaxBoxAcc (%)", 2, "highest", "max_box_acc"),
            Metric("max_box_acc_threshold", "its threshold", 3, None),
            Metric("max_box_acc_v2", "MaxBoxAccV2 (%)", 2, "highest"),
            Metric("centre_box_gt_known", "GT-known of the centre box (%)", 2, None),
            Metric("full_box_gt_known", "GT-known of the full box (%)", 2, None),
        ),
        {
            "protocol": "protocol",
            "rule": "rule",
            "map_size": "size of the map",
            **_IMAGES,
        },
    ),
    "adversarial": SuiteText(
        "Adversarial attacks",
        "Top-1 accuracy after each image was changed against the network, which the attacker knows: FGSM takes one "
        "step along the sign of the gradient, PGD several, and no pixel moves by more than the budget. PGD stands "
        "beside FGSM because a gradient that points away from nearby errors resists FGSM alone.",
        (
            Metric("clean_top1", "top-1 accuracy, clean (%)", 2, "highest"),
            Metric("fgsm_top1_at_8", "top-1 accuracy, FGSM at 8/255 (%)", 2, "highest", "fgsm_top1_at_8"),
            Metric("pgd_top1_at_8", "top-1 accuracy, PGD at 8/255 (%)", 2, "highest", "pgd_top1_at_8"),
        ),
        {"pgd_steps": "steps of PGD", "clipped": "pixels clipped", **_ROWS, "pgd_images": "images, PGD"},
        ("attack", "space", "budget"),
        {"top1": "top-1 accuracy (%)", "count": "images"},
    ),
    "occlusion": SuiteText(
        "Occlusion",
        "Top-1 error on images of which a square at the centre is hidden (centre), or all but that square (boundary). "
        "The means are over the sides of the square, from 0 to the whole image.",
        (
            Metric("clean_error", "top-1 error, clean (%)"),
            Metric("mean_error_centre", "mean top-1 error, centre hidden (%)", 2, "lowest", "occlusion_error_centre"),
            Metric(
                "mean_error_boundary", "mean top-1 error, boundary hidden (%)", 2, "lowest", "occlusion_error_boundary"
            ),
        ),
        {"fill": "hidden pixels are", **_ROWS},
        ("where", "side"),
        {"top1_error": "top-1 error (%)"},
        _CURVES_ONLY,
    ),
    "in_between": SuiteText(
        "Between two classes",
        "Pairs of images are mixed, by Mixup or by a square of the one in the centre of the other; it is an error if "
        "the likeliest class is the label of neither. The means are over the shares.",
        (
            Metric("mean_error_mixup", "mean error between classes, Mixup (%)", 2, "lowest", "in_between_error_mixup"),
            Metric(
                "mean_error_cutmix", "mean error between classes, CutMix (%)", 2, "lowest", "in_between_error_cutmix"
            ),
        ),
        {"pairs": "pairs", "same_class_pairs": "of them within a class"},
        ("mix", "lam"),
        {"error": "neither class named (%)"},
        _CURVES_ONLY,
    ),
    "ood": SuiteText(
        "Out-of-distribution detection (OOD)",
        "How well the confidence tells the images of the dataset from those of other sets: TNR at 95 % TPR is the part "
        "of the others below the threshold that 95 % of the dataset reach, AUROC the part of the pairs that are in "
        "order, detection accuracy the best mean of both rates. Each set counts the same in the means.",
        (
            Metric("mean.auroc", "OOD mean AUROC (%)", 2, "highest", "ood_auroc"),
            Metric("mean.tnr_at_tpr95", "OOD mean TNR at 95 % TPR (%)", 2, "highest", "ood_tnr_at_tpr95"),
            Metric("mean.detection_accuracy", "OOD mean detection accuracy (%)", 2, "highest"),
            Metric("mean_without_noise.auroc", "OOD mean AUROC, without noise (%)", 2, "highest"),
            Metric("mean_without_noise.tnr_at_tpr95", "OOD mean TNR at 95 % TPR, without noise (%)", 2, "highest"),
            Metric(
                "mean_without_noise.detection_accuracy", "OOD mean detection accuracy, without noise (%)", 2, "highest"
            ),
        ),
        {"sets": "sets", "in_distribution": "images of the dataset"},
        ("set", "kind"),
        {
            "count": "images",
            "auroc": "AUROC (%)",
            "tnr_at_tpr95": "TNR at 95 % TPR (%)",
            "detection_accuracy": "detection accuracy (%)",
        },
    ),
    "corruption": SuiteText(
        "Corruptions",
        "Top-1 error on corrupted images, with five severities of each corruption. mCE, of ImageNet-C only, divides "
        "the error of each corruption by AlexNet's.",
        (
            Metric("clean_error", "top-1 error, clean (%)"),
            Metric("mean_error", "mean top-1 error, corrupted (%)", 2, "lowest", "corruption_error"),
            Metric("mce", "mCE (%)", 2, "lowest", "mce"),
        ),
        {"source": "corruptions", "note": "note", **_ROWS},
        ("corruption", "severity"),
        {"error": "top-1 error (%)"},
        _NOT_IN_PAPER,
    ),
    "probe": SuiteText(
        "Linear probe",
        "Accuracy of logistic regression on the features of the frozen network. Its penalty is chosen on a part of the "
        "training images.",
        (
            Metric("top1", "top-1 accuracy of the probe (%)", 2, "highest", "probe_top1"),
            Metric("balanced_accuracy", "balanced accuracy of the probe (%)", 2, "highest"),
            Metric("l2", "chosen penalty (L2)", 6, None),
            Metric("features", "features", 0, None),
        ),
        {"probed_on": "images from", "train_images": "training images", **_IMAGES},
        ("l2",),
        {"validation_top1": "top-1 accuracy on the part held out (%)"},
        _NOT_IN_PAPER,
    ),
}
"""In the order of the report."""

INPUT = {"input_size": "size of the input", "crop_pct": "share of an image that the crop keeps"}
"""Settings of every suite."""


def extended(suite: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a record what follows from it: errors beside accuracies, how many images were measured, names of sets."""
    rows, more = record["rows"], {}
    if suite == "accuracy":
        more = {f"{key}_error": 100 - record[key] for key in ("top1", "top5") if record.get(key) is not None}
    elif suite == "localization":
        more = {"rule": _RULES[record["protocol"]]}
    elif suite in ("occlusion", "corruption"):
        more = {"images": _counts(rows)}
    elif suite == "adversarial":
        more = {name: _counts([row for row in rows if row["attack"] == attack]) for name, attack in _ATTACKS.items()}
    elif suite == "ood":
        more = {"sets": ", ".join(sorted(f"{row['set']} ({row['count']:,})" for row in rows))}
    return {**record, **more}


def _counts(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Say on how many images the rows are measured, which may be a part of the split."""
    return " or ".join(f"{count:,}" for count in dict.fromkeys(row["count"] for row in rows)) or None
