"""A finished run, small enough to be published again and again."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cutmix_zoo.hub.bundle import Bundle, make_bundle
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.train import train
from cutmix_zoo.training.recipe import load_recipe
from tests.conftest import TEST_IMAGES

REPO = "tester/cifar_resnet8.mine"


@pytest.fixture(scope="session")
def published_run(tiny_options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch, with everything that a run leaves."""
    options = {**tiny_options, "schedule.epochs": "1"}
    folder = tmp_path_factory.mktemp("published") / "run"
    train(replace(load_recipe("quickstart", options), name="mine"), folder)
    return folder


@pytest.fixture
def run(published_run: Path, tmp_path: Path) -> Path:
    """A copy of that run, to change."""
    return Path(shutil.copytree(published_run, tmp_path / "run"))


@pytest.fixture
def bundle(published_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """What is published of that run, as if its few images were all of Fashion-MNIST's test images."""
    whole = replace(KNOWN_DATASETS["fashion_mnist"], validation_images=TEST_IMAGES)
    monkeypatch.setitem(KNOWN_DATASETS, "fashion_mnist", whole)
    return make_bundle(published_run, tmp_path / "bundle", REPO, "apache-2.0")
