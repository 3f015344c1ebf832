import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm

from cutmix_zoo.evaluate import EvaluateOptions, evaluate
from cutmix_zoo.known import KNOWN_DATASETS, known_dataset
from cutmix_zoo.store import PACKAGE_WEIGHTS, locate
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.zoo import ZooEntry, zoo_table

SHIPPED = [entry for entry in zoo_table().values() if entry.shipped]
PUBLISHED = [entry for entry in zoo_table().values() if entry.published_error]
every_entry = pytest.mark.parametrize("entry", zoo_table().values(), ids=lambda entry: entry.name)
shipped_entry = pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
# the authors' README, in the order of its two tables
ERRORS = {
    "cifar_pyramidnet200_a240": [16.45, 14.23, 15.63, 16.14, 16.53, 15.73, 15.61, 15.16, 15.46],
    "resnet50": [23.68, 21.40, 21.80, 22.58, 22.50, 22.93],
    "resnet101": [20.17],
    "resnet152": [19.20],
    "resnext101_32x4d": [19.47],
}


@every_entry
def test_an_entry_is_complete(entry: ZooEntry) -> None:
    assert f"{entry.architecture}.{entry.tag}" == entry.name
    # we trained it and have it, here or on the Hub, or others published it, in which case the Hub may have it too
    assert entry in PUBLISHED or entry.sha256 is not None
    assert (entry.page is None) == (entry.row is None) == (entry not in PUBLISHED)
    assert (entry.repo is None) == (entry.revision is None)
    assert entry.dataset in KNOWN_DATASETS
    recipe = load_recipe(entry.recipe)
    assert (recipe.model.name, known_dataset(recipe.data.name).name) == (entry.architecture, entry.dataset)
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", entry.paper)
    assert timm.is_model(entry.architecture)


@shipped_entry
def test_the_weights_of_an_entry_are_there(entry: ZooEntry) -> None:
    weights = locate(entry.name, entry)
    assert weights is not None
    assert hashlib.sha256(weights.file.read_bytes()).hexdigest() == entry.sha256


def test_weights_on_the_hub_alone_do_not_ship() -> None:
    entry = SHIPPED[0]
    hub = {"repo": "me/it", "revision": "0" * 40}
    assert replace(entry, **hub).shipped, "what ships may be on the Hub as well"
    assert not replace(entry, name="cifar_resnet8.hub", **hub).shipped
    assert not replace(PUBLISHED[0], sha256="00", **hub).shipped
    assert not PUBLISHED[0].shipped


def test_no_weights_without_an_entry() -> None:
    assert {file.name for file in PACKAGE_WEIGHTS.iterdir()} == {f"{entry.name}.safetensors" for entry in SHIPPED}


def test_the_authors_checkpoints_are_all_there_with_their_published_errors() -> None:
    found: dict[str, list[float]] = {}
    for entry in PUBLISHED:
        found.setdefault(entry.architecture, []).append(entry.published_error)
        assert entry.page == "https://github.com/clovaai/CutMix-PyTorch#experiments"
        assert entry.license == "mit"
        assert f"{entry.published_error:.2f}" in entry.description
    assert found == ERRORS
    assert sum(map(len, ERRORS.values())) == 18


def test_what_the_readme_and_the_paper_disagree_on_is_said() -> None:
    assert "the paper's mean over three is 14.47 %" in zoo_table()["cifar_pyramidnet200_a240.cutmix_c100"].description
    assert "21.78" in zoo_table()["resnet50.feature_cutmix_in1k"].description


@shipped_entry
def test_the_table_says_what_was_measured(entry: ZooEntry) -> None:
    folder = Path(__file__).parents[1] / "hub_cards" / entry.name
    results = json.loads((folder / "results.json").read_text())
    assert (results["model"], results["dataset"], results["top1"]) == (entry.name, entry.dataset, entry.top1)
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["provenance"]["summary"]["top1"]) == (entry.architecture, entry.top1)
    assert config["sha256"] == entry.sha256


def test_every_measured_model_has_its_card_and_no_other() -> None:
    folders = {file.name for file in (Path(__file__).parents[1] / "hub_cards").iterdir() if file.is_dir()}
    assert folders == {entry.name for entry in SHIPPED}


def test_the_shipped_weights_take_4_megabytes_at_most() -> None:
    assert sum(file.stat().st_size for file in PACKAGE_WEIGHTS.iterdir()) <= 4_000_000


@shipped_entry
def test_the_shipped_weights_are_as_good_as_the_table_says(entry: ZooEntry) -> None:
    """On the shipped images: all that a model was measured on, or 2,000 of its 10,000 test images."""
    numbers = evaluate(entry.name, "fashion_mnist_mini", options=EvaluateOptions(workers=0))["accuracy"]
    assert numbers["count"] == 2000
    share = entry.top1 / 100
    # two images, because another CPU may round differently; or four standard deviations of drawing 2,000 images
    away = 0.1 if entry.dataset == "fashion_mnist_mini" else 400 * (share * (1 - share) / 2000) ** 0.5
    assert numbers["top1"] == pytest.approx(entry.top1, abs=away)
