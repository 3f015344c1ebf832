import hashlib
import json
import re
from pathlib import Path

import pytest
import timm

from cutmix_zoo.evaluate import evaluate
from cutmix_zoo.known import KNOWN_DATASETS
from cutmix_zoo.store import PACKAGE_WEIGHTS, weights_file
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.zoo import ZooEntry, zoo_table

every_entry = pytest.mark.parametrize("entry", zoo_table().values(), ids=lambda entry: entry.name)


@every_entry
def test_an_entry_is_complete_and_its_weights_are_there(entry: ZooEntry) -> None:
    assert f"{entry.architecture}.{entry.tag}" == entry.name
    assert hashlib.sha256(weights_file(entry).read_bytes()).hexdigest() == entry.sha256
    assert entry.dataset in KNOWN_DATASETS
    recipe = load_recipe(entry.recipe)
    assert (recipe.model.name, recipe.data.name) == (entry.architecture, entry.dataset)
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", entry.paper)
    assert timm.is_model(entry.architecture)


def test_no_weights_without_an_entry() -> None:
    expected = {weights_file(entry).name for entry in zoo_table().values()}
    assert {file.name for file in PACKAGE_WEIGHTS.iterdir()} == expected


@every_entry
def test_the_table_says_what_was_measured(entry: ZooEntry) -> None:
    folder = Path(__file__).parents[1] / "hub_cards" / entry.name
    results = json.loads((folder / "results.json").read_text())
    assert (results["model"], results["dataset"], results["top1"]) == (entry.name, entry.dataset, entry.top1)
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["provenance"]["summary"]["top1"]) == (entry.architecture, entry.top1)


def test_the_shipped_weights_are_as_good_as_the_table_says() -> None:
    entry = zoo_table()["cifar_resnet8.cutmix_fmnist_mini"]
    numbers = evaluate(entry.name, entry.dataset, workers=0)
    # two images of 2,000, because another CPU may round differently
    assert numbers["top1"] == pytest.approx(entry.top1, abs=0.1)
