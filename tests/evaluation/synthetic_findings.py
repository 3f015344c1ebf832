"""Folders of evaluations and runs whose numbers are made up, in the form in which the suites write them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.evaluation.results import ResultFolder
from cutmix_zoo.evaluation.suites import SUITES
from cutmix_zoo.training.files import write_json, write_lines
from cutmix_zoo.training.recipe import dump_recipe, load_recipe
from cutmix_zoo.training.run import RunFolder

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CORRUPTIONS = ("gaussian_noise", "shot_noise", "impulse_noise", "blur", "contrast", "brightness", "pixelate", "jpeg")
HEAD = {"dataset": "fashion_mnist", "split": "validation", "input_size": [1, 28, 28], "crop_pct": 1.0, "count": 10_000}
OOD_KINDS = {"uniform": "noise", "gaussian": "noise", "shuffled": "made", "digits": "natural"}


def _accuracy(skill: float) -> Findings:
    confusion = np.random.default_rng(0).integers(0, 12, (10, 10))
    np.fill_diagonal(confusion, round(900 * skill))
    right, there, taken = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    rows = [
        {
            "index": i,
            "class": name,
            "count": int(there[i]),
            "recall": float(100 * right[i] / there[i]),
            "precision": float(100 * right[i] / taken[i]),
            "f1": float(200 * right[i] / (there[i] + taken[i])),
        }
        for i, name in enumerate(CLASSES)
    ]
    numbers = {
        "top1": float(100 * right.sum() / there.sum()),
        "top5": 99.5 + skill / 10,
        "loss": 1.2 - skill,
        "count": 10_000,
        "balanced_accuracy": float(np.mean([row["recall"] for row in rows])),
        "macro_f1": float(np.mean([row["f1"] for row in rows])),
    }
    return Findings({**numbers, "confusion": confusion.tolist(), "classes": list(CLASSES)}, rows)


def _calibration(skill: float) -> Findings:
    rows: list[dict[str, Any]] = []
    for number in range(15):
        count = 0 if number < 2 else round(20 * 1.5**number)
        confidence = (number + 0.5) / 15
        accuracy = min(1.0, confidence + 0.3 * (skill - 0.9))
        rows.append(
            {
                "lower": number / 15,
                "upper": (number + 1) / 15,
                "count": count,
                "confidence": confidence if count else None,
                "accuracy": accuracy if count else None,
            }
        )
    numbers = {
        "ece": 0.1 * (1 - skill) + 0.01,
        "brier": 0.4 - 0.3 * skill,
        "nll": 1.2 - skill,
        "confidence": 0.93,
        "accuracy": skill,
        "confidence_minus_accuracy": 0.93 - skill,
        "temperature": 1.2,
        "held_out_ece_before": 0.021,
        "held_out_ece_after": 0.009,
        "held_out_nll_before": 0.31,
        "held_out_nll_after": 0.29,
        "count": 10_000,
    }
    return Findings(numbers, rows)


def _localization(skill: float) -> Findings:
    thresholds = np.linspace(0, 1, 101)
    rows = [{"threshold": float(t), "top1_loc": 0.9 * _hump(t, skill), "gt_known": _hump(t, skill)} for t in thresholds]
    numbers = {
        "protocol": "paper",
        "count": 2000,
        "input_size": [56, 56],
        "resized_to": [64, 64],
        "map_size": [7, 7],
        "top1": 90.0 * skill,
        "top1_loc": 0.9 * _hump(0.15, skill),
        "gt_known": _hump(0.15, skill),
        "threshold": 0.15,
        "centre_box_gt_known": 12.5,
        "full_box_gt_known": 3.25,
    }
    return Findings(numbers, rows, make_arrays(skill))


def _hump(threshold: float, skill: float) -> float:
    return float(80 * skill * np.exp(-(((threshold - 0.25) / 0.3) ** 2)))


def make_arrays(skill: float = 0.9, size: int = 56, count: int = 8) -> dict[str, Any]:
    """Grey images with a bright rectangle each, maps that peak near it, and boxes."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 60, (count, 1, size, size)).astype(np.uint8)
    y, x = np.mgrid[:size, :size]
    true_boxes, maps, predicted = [], [], []
    for i in range(count):
        top, left = rng.integers(2, size // 2, 2)
        bottom, right = top + size // 3, left + size // 4
        images[i, :, top:bottom, left:right] += 150
        true_boxes.append((top, left, bottom, right))
        centre = (top + bottom) / 2 + 4 * (1 - skill), (left + right) / 2
        maps.append(np.exp(-(((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (size / 4) ** 2)))
        predicted.append((top - 1, left - 1, bottom + 2, right + 3))
    return {
        "index": np.arange(count) * 3,
        "labels": np.arange(count),
        "predictions": np.arange(count) // 2 * 2,
        "images": images,
        "maps": np.array(maps, np.float32),
        "true_boxes": np.array(true_boxes),
        "predicted_boxes": np.array(predicted),
        "iou": np.linspace(0.2, 0.9, count) * skill,
    }


def _adversarial(skill: float) -> Findings:
    def row(attack: str, space: str, budget: float, count: int) -> dict[str, Any]:
        slope = {"fgsm": 0.15, "pgd": 0.4}[attack] / (4 if space == "normalized" else 1)
        top1 = 93 * math.exp(-slope * budget * (1.6 - skill))
        return {"attack": attack, "space": space, "budget": budget, "top1": top1, "count": count}

    budgets = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
    rows = [row("fgsm", space, budget, 10_000) for space in ("pixel", "normalized") for budget in budgets]
    rows += [row("pgd", "pixel", budget, 2000) for budget in (2.0, 4.0, 8.0)]
    at_8 = {each["attack"]: each["top1"] for each in rows if each["space"] == "pixel" and each["budget"] == 8}
    numbers = {"fgsm_top1_at_8": at_8["fgsm"], "pgd_top1_at_8": at_8["pgd"], "pgd_steps": 10}
    return Findings({"clean_top1": 93.0, **numbers}, rows)


def _occlusion(skill: float) -> Findings:
    rows = []
    for where in ("centre", "boundary"):
        for side in range(0, 29, 2):
            share = (side / 28) ** 2 if where == "centre" else 1 - (side / 28) ** 2
            rows.append({"where": where, "side": side, "top1_error": 7 + 83 * share ** (2 * skill), "count": 2000})
    means = {
        f"mean_error_{where}": float(np.mean([row["top1_error"] for row in rows if row["where"] == where]))
        for where in ("centre", "boundary")
    }
    return Findings({"fill": "mean", "count": 2000, "clean_error": 7.0, **means}, rows)


def _in_between(skill: float) -> Findings:
    rows: list[dict[str, Any]] = []
    for lam in np.linspace(0, 1, 11):
        error = 5 + 140 * (1 - 0.7 * skill) * lam * (1 - lam)
        rows.append({"mix": "mixup", "lam": float(lam), "side": None, "error": float(error), "count": 2000})
    for side in range(0, 29, 2):
        lam = 1 - (side / 28) ** 2
        error = 5 + 120 * (1 - 0.7 * skill) * lam * (1 - lam)
        rows.append({"mix": "cutmix", "lam": lam, "side": side, "error": error, "count": 2000})
    means = {
        f"mean_error_{mix}": float(np.mean([row["error"] for row in rows if row["mix"] == mix]))
        for mix in ("mixup", "cutmix")
    }
    return Findings({"count": 2000, "pairs": 2000, "same_class_pairs": 203, **means}, rows)


def _ood(skill: float) -> Findings:
    metrics = ("tnr_at_tpr95", "auroc", "aupr_in", "aupr_out", "detection_accuracy", "max_softmax_auroc")
    rows = [
        {"set": name, "kind": kind, "count": 1000, **dict.fromkeys(metrics, 60.0 + 30 * skill + n)}
        for n, (name, kind) in enumerate(OOD_KINDS.items())
    ]
    edges = np.linspace(-2, 20, 41)

    def shares(centre: float, width: float) -> list[float]:
        heights = np.exp(-(((edges[:-1] - centre) / width) ** 2))
        return (heights / heights.sum()).tolist()

    numbers = {
        "in_distribution": 10_000,
        "unreadable": [],
        "mean": {metric: float(np.mean([row[metric] for row in rows])) for metric in metrics},
        "mean_without_noise": {metric: float(np.mean([row[metric] for row in rows[2:]])) for metric in metrics},
        "paper_sets": False,
        "threshold": 1.5,
        "histogram": {
            "edges": edges.tolist(),
            "inside": shares(12 * skill, 5),
            "outside": {name: shares(1 + n, 1 + n) for n, name in enumerate(OOD_KINDS)},
        },
    }
    return Findings(numbers, rows)


def _corruption(skill: float) -> Findings:
    rows = [
        {"corruption": name, "severity": severity, "error": 7 + (3 + n) * severity * (1.4 - skill), "count": 2000}
        for n, name in enumerate(CORRUPTIONS)
        for severity in range(1, 6)
    ]
    mean = float(np.mean([row["error"] for row in rows]))
    numbers = {"source": "own", "count": 2000, "unreadable": [], "clean_error": 7.0, "mean_error": mean}
    return Findings({**numbers, "note": "own corruptions"}, rows)


def _probe(skill: float) -> Findings:
    rows = [{"l2": 10.0**power, "validation_top1": 90 * skill - abs(power + 2)} for power in range(-5, 1)]
    numbers = {"top1": 90 * skill, "balanced_accuracy": 89 * skill, "l2": 0.01, "train_images": 2000}
    where = {"fitted_on": "digits train", "probed_on": "digits"}
    return Findings({**numbers, "count": 10_000, "unreadable": [], "features": 64, **where}, rows)


_MAKE = {
    "accuracy": _accuracy,
    "calibration": _calibration,
    "localization": _localization,
    "adversarial": _adversarial,
    "occlusion": _occlusion,
    "in_between": _in_between,
    "ood": _ood,
    "corruption": _corruption,
    "probe": _probe,
}


def make_findings(suite: str, skill: float = 0.9) -> Findings:
    return _MAKE[suite](skill)


def make_record(suite: str, skill: float = 0.9, **head: Any) -> dict[str, Any]:
    """What the JSON file of a suite holds."""
    findings = make_findings(suite, skill)
    head = {**HEAD, "model": "model", **head}
    return json.loads(json.dumps(findings.record(head)))


def write_evaluation(
    folder: Path, model: str = "model", skill: float = 0.9, suites: Any = tuple(SUITES), **about: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    head = {**HEAD, "model": model}
    head |= {key: about[key] for key in head if key in about}
    facts = {
        "parameters": 272_186,
        "sha256": "0123456789abcdef" * 4,
        "recipe": None,
        "command": f"cutmix-zoo evaluate {model} --suite all --output {folder.name}",
        "environment": {"cutmix_zoo": "0.1.0", "torch": "2.15.0", "device": "CPU, 2 threads"},
        "unreadable": [],
    }
    ResultFolder(folder).write_about({**head, **facts, **about})
    for suite in suites:
        ResultFolder(folder).write(suite, head, make_findings(suite, skill))
    return folder


def write_run(folder: Path, *, seed: int = 0, skill: float = 0.9, finished: bool = True, **overrides: str) -> Path:
    """A run of the recipe for Fashion-MNIST, over 12 epochs."""
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    changes = {"name": folder.name, "seed": str(seed), "data.root": "/some/where", **overrides}
    run.recipe_file.write_text(dump_recipe(load_recipe("fashion_mnist_resnet20_cutmix", changes)))
    lines = [
        {
            "epoch": epoch,
            "top1": 100 * skill * (1 - math.exp(-epoch / 2)),
            "clean_train_top1": 101 * skill * (1 - math.exp(-epoch / 2)),
            "mixed_top1": 60.0,
            "val_loss": 0.3 + math.exp(-epoch / 2),
            "train_loss": 0.8 + math.exp(-epoch / 2),
        }
        for epoch in range(1, 13)
    ]
    write_lines(run.metrics_file, lines)
    if finished:
        numbers = {"top1": lines[-1]["top1"], "top5": 99.5, "val_loss": lines[-1]["val_loss"], "macro_f1": 89.0}
        facts = {
            "val_images": 10_000,
            "balanced_accuracy": 89.5,
            "epochs": 12,
            "best_top1": lines[-1]["top1"] + 0.25,
            "best_epoch": 11,
            "images_per_second": 640.0,
            "train_seconds": 1800.0,
            "parameters": 272_186,
            "seed": seed,
            "processes": 1,
            "device": "CPU, 2 threads",
            "mixed_precision": "no",
        }
        write_json(run.summary_file, {"name": folder.name, "model": "cifar_resnet20", **numbers, **facts})
    return folder
