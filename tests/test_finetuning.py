"""What the downstream user does: pretrained weights, a folder of images, a new head."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cutmix_zoo.data.datasets import open_split
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.sweep import format_table, make_trials, sweep
from cutmix_zoo.train import train
from cutmix_zoo.training.launch import say
from cutmix_zoo.training.recipe import load_recipe

SMALL = {
    "data.crop": "pad",
    "data.pad": "2",
    "data.batch_size": "32",
    "data.crop_pct": "1.0",
    "data.workers": "0",
    "optimizer.layer_decay": "null",
    "runtime.keep_checkpoints": "1",
}
"""What the recipe needs for images that are no photographs, and a network without layers to speak of."""


def write_folder(root: Path, images: np.ndarray, labels: np.ndarray, per_class: int) -> Path:
    """Write the first images of each class as ROOT/CLASS/NUMBER.png."""
    for label in np.unique(labels):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for number, image in enumerate(images[labels == label][:per_class]):
            Image.fromarray(image).resize((28, 28), Image.Resampling.BILINEAR).save(folder / f"{number:04d}.png")
    return root


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Handwritten digits of scikit-learn, 8x8 pixels made 28x28."""
    bunch = load_digits()
    return write_folder(tmp_path / "digits", (bunch.images * 255 / 16).astype(np.uint8), bunch.target, per_class=100)


def means(done: list[dict]) -> dict[str, float]:
    say(format_table(done))  # for the README: pytest -rP shows it
    by_setting: dict[str, list[float]] = {}
    for run in done:
        by_setting.setdefault(next(iter(run["setting"].values())), []).append(run["summary"]["top1"])
    assert {len(values) for values in by_setting.values()} == {3}
    return {setting: float(np.mean(values)) for setting, values in by_setting.items()}


@pytest.mark.slow
def test_pretrained_weights_beat_training_from_scratch_on_other_images(digits: Path, tmp_path: Path) -> None:
    options = {
        **SMALL,
        "data.root": str(digits),
        "data.hflip": "0.0",
        "schedule.epochs": "5",
        "schedule.warmup_epochs": "1",
        "optimizer.lr": "2e-3",
        "model.name": "cifar_resnet8.cutmix_fmnist_mini",
    }
    trials = make_trials("finetune_folder", {"model.pretrained": ["true", "false"]}, 3, options)
    with pytest.warns(UserWarning, match=r"as many classes as the data, 10, and keep their classifier"):
        done = sweep(trials, tmp_path / "sweep")
    mean = means(done)
    assert mean["true"] > mean["false"] + 5


@pytest.mark.slow
def test_pretrained_weights_beat_training_from_scratch_on_other_classes(tmp_path: Path) -> None:
    """Five classes of Fashion-MNIST to pretrain on, the other five to fine-tune on."""
    whole = open_split(DataSettings("fashion_mnist_mini"), "train")
    for name, classes in (("first", range(5)), ("second", range(5, 10))):
        chosen = np.isin(whole.targets, classes)
        per_class = 1000 if name == "first" else 200
        write_folder(tmp_path / name, whole.images[chosen], whole.targets[chosen], per_class)
    common = {**SMALL, "schedule.warmup_epochs": "1", "optimizer.lr": "2e-3"}
    pretraining = {
        **common,
        "data.root": str(tmp_path / "first"),
        "data.input_size": "[1, 28, 28]",
        "data.mean": "[0.2860]",
        "data.std": "[0.3530]",
        "model.name": "cifar_resnet8",
        "model.pretrained": "false",
        "schedule.epochs": "6",
    }
    train(load_recipe("finetune_folder", pretraining), tmp_path / "pretrained")
    options = {
        **common,
        "data.root": str(tmp_path / "second"),
        "schedule.epochs": "3",
        "model.name": f"local-dir:{tmp_path / 'pretrained' / 'model'}",
    }
    trials = make_trials("finetune_folder", {"model.pretrained": ["true", "false"]}, 3, options)
    with pytest.warns(UserWarning, match=r"as many classes as the data, 5, and keep their classifier"):
        done = sweep(trials, tmp_path / "sweep")
    mean = means(done)
    assert mean["true"] > mean["false"] + 2
