"""The suites by their names: all that the package knows of each stands here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutmix_zoo.data.datasets import is_random_access
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation import paper_numbers, plots
from cutmix_zoo.evaluation.accuracy import measure_accuracy
from cutmix_zoo.evaluation.adversarial import measure_adversarial
from cutmix_zoo.evaluation.calibration import measure_calibration
from cutmix_zoo.evaluation.cam import check_has_cam
from cutmix_zoo.evaluation.cam_plots import draw_all_cams
from cutmix_zoo.evaluation.corruption import measure_corruption, open_released
from cutmix_zoo.evaluation.figures import with_short_names
from cutmix_zoo.evaluation.in_between import check_pairs, measure_in_between
from cutmix_zoo.evaluation.localization import measure_localization
from cutmix_zoo.evaluation.occlusion import measure_occlusion
from cutmix_zoo.evaluation.out_of_distribution import check_classes, measure_ood
from cutmix_zoo.evaluation.probe import measure_probe
from cutmix_zoo.evaluation.suite import Metric, Suite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from cutmix_zoo.evaluation.findings import Arrays
    from cutmix_zoo.evaluation.plots import Records
    from cutmix_zoo.evaluation.suite_context import SuiteContext

_NOT_IN_PAPER = "Not in the paper."
_CURVES_ONLY = "The paper has curves of it and no numbers (figure 5, ResNet-50 on ImageNet)."
_IMAGES = {"count": "images"}
_ROWS = {"images": "images"}
_RULES = {
    "paper": "the largest region over 0.15 of the map's maximum; IoU above 0.5",
    "wsol": "the largest contour over the threshold that is best for the set (MaxBoxAcc), IoU of at least 0.5; all "
    "contours, mean over IoU 0.3, 0.5 and 0.7 (V2)",
}


def _errors(record: Mapping[str, Any]) -> dict[str, float]:
    return {f"{key}_error": 100 - record[key] for key in ("top1", "top5") if record.get(key) is not None}


def _check_localization(context: SuiteContext) -> None:
    subject = context.subject
    if not hasattr(subject.dataset, "boxes"):
        raise UserError(
            f"{subject.settings.name} has no boxes: localization is measured on cub200, on fashion_mnist_canvas, or on "
            "ImageNet with --boxes FOLDER (of its XML annotations)."
        )
    check_has_cam(subject.classifier.network, subject.classifier.spec.input_size)


def _attacked(record: Mapping[str, Any]) -> dict[str, str | None]:
    """Say on how many images each attack is measured."""
    attacks = {"images": "fgsm", "pgd_images": "pgd"}
    return {
        name: _counts([row for row in record["rows"] if row["attack"] == attack]) for name, attack in attacks.items()
    }


def _counts(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Say on how many images the rows are measured, which may be a part of the split."""
    return " or ".join(f"{count:,}" for count in dict.fromkeys(row["count"] for row in rows)) or None


def _check_corrupted(context: SuiteContext) -> None:
    if context.settings.corrupted is not None:
        open_released(context.settings.corrupted, context.subject)


SUITES: dict[str, Suite] = {
    "accuracy": Suite(
        "Accuracy",
        "The share of images whose likeliest class is the label (top-1), or whose label is among the five likeliest "
        "(top-5). Balanced accuracy is the mean recall of the classes, macro F1 the mean of their F1.",
        measure=lambda context: measure_accuracy(context.subject, context.classes),
        metrics=(
            Metric("top1", "top-1 accuracy (%)", 2, "highest", "top1"),
            Metric("top1_error", "top-1 error (%)"),
            Metric("top5", "top-5 accuracy (%)", 2, "highest"),
            Metric("top5_error", "top-5 error (%)"),
            Metric("balanced_accuracy", "balanced accuracy (%)", 2, "highest"),
            Metric("macro_f1", "macro F1 (%)", 2, "highest"),
            Metric("loss", "cross-entropy (nats)", 4),
        ),
        settings=_IMAGES,
        keys=("index", "class"),
        values={"recall": "recall (%)", "precision": "precision (%)", "f1": "F1 (%)"},
        in_order=True,
        complete=_errors,
        draw=lambda records, _: plots.draw_confusions(records),
        paper_table=paper_numbers.accuracy_table,
    ),
    "calibration": Suite(
        "Calibration",
        "Whether what gets a probability of p is right in a share p of the cases. Images are sorted by the probability "
        "of the likeliest class, the confidence, into 15 bins of equal width; the expected calibration error (ECE) is "
        "the mean distance of accuracy and confidence over the bins, weighted by their images. The Brier score goes "
        "from 0 to 2. A temperature is fitted on one half of the images; what is called held out is of the other half.",
        measure=lambda context: measure_calibration(context.subject),
        metrics=(
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
        settings=_IMAGES,
        keys=("lower", "upper"),
        values={"count": "images", "confidence": "confidence", "accuracy": "accuracy"},
        in_order=True,
        draw=lambda records, _: plots.draw_each("reliability", plots.draw_reliability, records),
        paper=_NOT_IN_PAPER,
    ),
    "localization": Suite(
        "Localization",
        "A box is drawn around what the class activation map of the true class marks, and compared with the true box. "
        "GT-known counts boxes that overlap enough, top-1 localization those of images whose class is right too. The "
        "centre box and the full box need no network.",
        measure=lambda context: measure_localization(context.subject, context.settings.protocol),
        metrics=(
            Metric("top1_loc", "top-1 localization (%)", 2, "highest", "top1_loc"),
            Metric("gt_known", "GT-known localization (%)", 2, "highest", "gt_known"),
            Metric("top1", "top-1 accuracy (%)", 2, "highest"),
            Metric("max_box_acc", "MaxBoxAcc (%)", 2, "highest", "max_box_acc"),
            Metric("max_box_acc_threshold", "its threshold", 3, None),
            Metric("max_box_acc_v2", "MaxBoxAccV2 (%)", 2, "highest"),
            Metric("centre_box_gt_known", "GT-known of the centre box (%)", 2, None),
            Metric("full_box_gt_known", "GT-known of the full box (%)", 2, None),
        ),
        settings={"protocol": "protocol", "rule": "rule", "map_size": "size of the map", **_IMAGES},
        check=_check_localization,
        complete=lambda record: {"rule": _RULES[record["protocol"]]},
        draw=lambda records, arrays: {"box_accuracy": plots.draw_box_accuracy(records), **draw_all_cams(arrays)},
        paper_table=paper_numbers.localization_table,
    ),
    "adversarial": Suite(
        "Adversarial attacks",
        "Top-1 accuracy after each image was changed against the network, which the attacker knows: FGSM takes one "
        "step along the sign of the gradient, PGD several, and no pixel moves by more than the budget. In pixel space, "
        "pixels stay between black and white. PGD stands beside FGSM because a gradient that points away from nearby "
        "errors resists FGSM alone.",
        measure=lambda context: measure_adversarial(
            context.subject,
            budgets=context.settings.budgets,
            pgd_budgets=context.settings.pgd_budgets,
            pgd_steps=context.settings.pgd_steps,
        ),
        metrics=(
            Metric("clean_top1", "top-1 accuracy, clean (%)", 2, "highest"),
            Metric("fgsm_top1_at_8", "top-1 accuracy, FGSM at 8/255 (%)", 2, "highest", "fgsm_top1_at_8"),
            Metric("pgd_top1_at_8", "top-1 accuracy, PGD at 8/255 (%)", 2, "highest", "pgd_top1_at_8"),
        ),
        settings={"pgd_steps": "steps of PGD", **_ROWS, "pgd_images": "images, PGD"},
        keys=("attack", "space", "budget"),
        values={"top1": "top-1 accuracy (%)", "count": "images"},
        complete=_attacked,
        draw=lambda records, _: plots.draw_budgets(records),
        paper_table=paper_numbers.adversarial_table,
    ),
    "occlusion": Suite(
        "Occlusion",
        "Top-1 error on images of which a square at the centre is hidden (centre), or all but that square (boundary). "
        "The means are over the sides of the square, from 0 to the whole image.",
        measure=lambda context: measure_occlusion(context.subject, fill=context.settings.fill),
        metrics=(
            Metric("clean_error", "top-1 error, clean (%)"),
            Metric("mean_error_centre", "mean top-1 error, centre hidden (%)", 2, "lowest", "occlusion_error_centre"),
            Metric(
                "mean_error_boundary", "mean top-1 error, boundary hidden (%)", 2, "lowest", "occlusion_error_boundary"
            ),
        ),
        settings={"fill": "hidden pixels are", **_ROWS},
        keys=("where", "side"),
        values={"top1_error": "top-1 error (%)"},
        complete=lambda record: {"images": _counts(record["rows"])},
        draw=lambda records, _: {
            f"occlusion_{where}": plots.draw_occlusion(records, where) for where in ("centre", "boundary")
        },
        paper=_CURVES_ONLY,
    ),
    "in_between": Suite(
        "Between two classes",
        "Pairs of images are mixed, by Mixup or by a square of the one in the centre of the other; it is an error if "
        "the likeliest class is the label of neither. The means are over the shares.",
        measure=lambda context: measure_in_between(context.subject),
        metrics=(
            Metric("mean_error_mixup", "mean error between classes, Mixup (%)", 2, "lowest", "in_between_error_mixup"),
            Metric(
                "mean_error_cutmix", "mean error between classes, CutMix (%)", 2, "lowest", "in_between_error_cutmix"
            ),
        ),
        settings={"pairs": "pairs", "same_class_pairs": "of them within a class"},
        keys=("mix", "lam"),
        values={"error": "neither class named (%)"},
        check=lambda context: check_pairs(context.subject.limited_size),
        draw=lambda records, _: {
            f"in_between_{mix}": plots.draw_in_between(records, mix) for mix in ("mixup", "cutmix")
        },
        paper=_CURVES_ONLY,
    ),
    "ood": Suite(
        "Out-of-distribution detection (OOD)",
        "How well the confidence tells the images of the dataset from those of other sets: TNR at 95 % TPR is the part "
        "of the others below the threshold that 95 % of the dataset reach, AUROC the part of the pairs that are in "
        "order, detection accuracy the best mean of both rates. Each set counts the same in the means.",
        measure=lambda context: measure_ood(context.subject, context.ood_sets),
        metrics=(
            Metric("mean.auroc", "OOD mean AUROC (%)", 2, "highest", "ood_auroc"),
            Metric("mean.tnr_at_tpr95", "OOD mean TNR at 95 % TPR (%)", 2, "highest", "ood_tnr_at_tpr95"),
            Metric("mean.detection_accuracy", "OOD mean detection accuracy (%)", 2, "highest"),
            Metric("mean_without_noise.auroc", "OOD mean AUROC, without noise (%)", 2, "highest"),
            Metric("mean_without_noise.tnr_at_tpr95", "OOD mean TNR at 95 % TPR, without noise (%)", 2, "highest"),
            Metric(
                "mean_without_noise.detection_accuracy", "OOD mean detection accuracy, without noise (%)", 2, "highest"
            ),
        ),
        settings={"sets": "sets", "in_distribution": "images of the dataset"},
        keys=("set", "kind"),
        values={
            "count": "images",
            "auroc": "AUROC (%)",
            "tnr_at_tpr95": "TNR at 95 % TPR (%)",
            "detection_accuracy": "detection accuracy (%)",
        },
        check=lambda context: check_classes(context.subject.classifier.num_classes),
        check_told=lambda context: context.ood_sets,
        complete=lambda record: {
            "sets": ", ".join(sorted(f"{row['set']} ({row['count']:,})" for row in record["rows"]))
        },
        draw=lambda records, _: plots.draw_each("ood", plots.draw_ood, records),
        paper_table=paper_numbers.ood_table,
    ),
    "corruption": Suite(
        "Corruptions",
        "Top-1 error on corrupted images, with five severities of each corruption. mCE, of ImageNet-C only, divides "
        "the error of each corruption by AlexNet's.",
        measure=lambda context: measure_corruption(context.subject, context.settings.corrupted),
        metrics=(
            Metric("clean_error", "top-1 error, clean (%)"),
            Metric("mean_error", "mean top-1 error, corrupted (%)", 2, "lowest", "corruption_error"),
            Metric("mce", "mCE (%)", 2, "lowest", "mce"),
        ),
        settings={"source": "corruptions", "note": "note", **_ROWS},
        keys=("corruption", "severity"),
        values={"error": "top-1 error (%)"},
        check_told=_check_corrupted,
        complete=lambda record: {"images": _counts(record["rows"])},
        draw=lambda records, _: {
            "corruptions": plots.draw_corruptions(records),
            "severity": plots.draw_severity(records),
        },
        paper=_NOT_IN_PAPER,
    ),
    "probe": Suite(
        "Linear probe",
        "Accuracy of logistic regression on the features of the frozen network. Its penalty is chosen on a part of the "
        "training images.",
        measure=lambda context: measure_probe(*context.probed),
        metrics=(
            Metric("top1", "top-1 accuracy of the probe (%)", 2, "highest", "probe_top1"),
            Metric("balanced_accuracy", "balanced accuracy of the probe (%)", 2, "highest"),
            Metric("l2", "chosen penalty (L2)", 6, None),
            Metric("features", "features", 0, None),
        ),
        settings={"probed_on": "images from", "train_images": "training images", **_IMAGES},
        keys=("l2",),
        values={"validation_top1": "top-1 accuracy on the part held out (%)"},
        needs_classes=False,
        check=lambda context: context.settings.probe_on is not None or context.probed,
        check_told=lambda context: context.probed,
        paper=_NOT_IN_PAPER,
    ),
}
"""In the order of a report."""


def main_metrics() -> dict[str, Metric]:
    """List the main numbers of all suites, by what they are called in the CSV file."""
    return {column: metric for suite in SUITES.values() for column, metric in suite.main.items()}


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
    for name in suites:
        SUITES[name].check_told(context)


def _check_possible(suite: str, context: SuiteContext) -> None:
    """Check that the model and the data that is evaluated allow a suite, whatever it is told."""
    if not SUITES[suite].in_order and not is_random_access(context.subject.dataset):
        in_order = " and ".join(name for name, each in SUITES.items() if each.in_order)
        raise UserError(
            f"{suite} takes images by their places, and {context.subject.settings.name} is a stream; a stream allows "
            f"{in_order}."
        )
    SUITES[suite].check(context)


def draw_suite(suite: str, records: Records, arrays: Mapping[str, Arrays] | None = None) -> dict[str, Figure]:
    """Draw all pictures of a suite.

    Args:
        suite: its name.
        records: what was found, by the model's name; ``None`` keeps the colour of a model of which nothing was. At
            least one has something.
        arrays: what its npz files hold, by the model's name, where there are any.

    Returns:
        Figures by names that may be files' names; none for a suite without pictures.

    Raises:
        UserError: if matplotlib is not installed.
    """
    return SUITES[suite].draw(with_short_names(records), arrays or {})
