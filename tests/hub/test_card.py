"""Cards say what is known, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from cutmix_zoo.hub.card import CardFacts, eval_results, make_card, shipped_difference
from cutmix_zoo.training.recipe import load_recipe, recipe_dict
from cutmix_zoo.zoo import zoo_table
from tests.conftest import random_image
from tests.hub.server import card_problems

ROOT = Path(__file__).parents[2] / "hub_cards"
NAME = "cifar_resnet20.cutmix_fmnist"
CONFIG = json.loads((ROOT / NAME / "config.json").read_text())
RESULTS = json.loads((ROOT / NAME / "results.json").read_text())


def facts(recipe: dict[str, Any] | None = None, **changes: Any) -> CardFacts:
    """The shipped model on the Hub, trained by another recipe if one is given."""
    config = CONFIG
    if recipe is not None:
        config = {**CONFIG, "provenance": {**CONFIG["provenance"], "recipe": recipe}}
    return replace(CardFacts("cifar_resnet20.mine", config, RESULTS, "apache-2.0", "me/cifar_resnet20.mine"), **changes)


def summarized(**changes: Any) -> CardFacts:
    """The shipped model on the Hub, trained by a run with another summary."""
    provenance = CONFIG["provenance"]
    return facts(config={**CONFIG, "provenance": {**provenance, "summary": {**provenance["summary"], **changes}}})


def metadata(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def trained_by(shipped: str, **overrides: str) -> dict[str, Any]:
    return recipe_dict(load_recipe(shipped, {key.replace("__", "."): value for key, value in overrides.items()}))


def test_metadata_is_complete_and_passes_the_hubs_check() -> None:
    card = make_card(facts())
    assert card_problems(card) == ([], [])
    found = metadata(card)
    assert (found["license"], found["library_name"], found["pipeline_tag"]) == (
        "apache-2.0",
        "timm",
        "image-classification",
    )
    assert found["tags"] == ["image-classification", "timm", "cutmix_zoo", "cutmix"]
    assert found["datasets"] == ["zalando-datasets/fashion_mnist"]
    assert "base_model" not in found
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"] == {
        "name": "Fashion-MNIST",
        "type": "zalando-datasets/fashion_mnist",
        "split": "test",
    }
    assert {each["type"]: each["value"] for each in result["metrics"]} == {
        "accuracy": RESULTS["top1"],
        "top_5_accuracy": RESULTS["top5"],
        "balanced_accuracy": RESULTS["balanced_accuracy"],
        "f1": RESULTS["macro_f1"],
        "loss": RESULTS["loss"],
    }
    parsed = ModelCard(card)
    assert parsed.data.eval_results[0].metric_value == RESULTS["top1"]
    assert parsed.data.model_name == "cifar_resnet20.mine"


def test_results_in_the_hubs_new_format_are_those_of_the_card() -> None:
    (entry,) = eval_results(facts())
    assert (entry["dataset"]["id"], entry["value"]) == ("zalando-datasets/fashion_mnist", RESULTS["top1"])
    assert "10,000 images" in entry["notes"]
    assert eval_results(facts(results=None)) == []


@pytest.mark.parametrize(
    "part",
    [
        {"dataset": "folder"},
        {"dataset": "fashion_mnist_canvas"},
        {"dataset": "fashion_mnist_mini", "count": 2000},
        {"split": "validation, 2 classes only", "count": 2000},
        {"split": "0.2 of train", "count": 12_000},
        {"split": "0.16667 of train"},
        {"count": 9999},
    ],
)
def test_what_is_no_whole_dataset_of_the_hub_is_not_published_as_one(part: dict[str, Any]) -> None:
    partial = facts(results={**RESULTS, **part})
    assert eval_results(partial) == []
    (result,) = metadata(make_card(partial))["model-index"][0]["results"]
    name = part.get("dataset", RESULTS["dataset"])
    assert result["dataset"]["type"] == ("imagefolder" if name == "folder" else name)
    assert result["dataset"]["split"] == part.get("split", "validation")


@pytest.mark.parametrize("name", ["folder", "torch/folder", "torch/image_folder"])
def test_a_folder_is_called_what_it_is(name: str) -> None:
    trained = trained_by("finetune_folder", data__name=name, data__root="x")
    card = make_card(facts(trained, results={**RESULTS, "dataset": name}))
    assert "trained on a folder of images with CutMix" in card
    assert "Measured on the split `validation` of a folder of images: 10,000 images" in card
    assert "datasets" not in metadata(card)
    (result,) = metadata(card)["model-index"][0]["results"]
    assert (result["dataset"]["name"], result["dataset"]["type"]) == ("a folder of images", "imagefolder")


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("hfds/owner/flowers", "owner/flowers"),
        ("hfids/flowers", "flowers"),
        ("hfds/uoft-cs/cifar100", "uoft-cs/cifar100"),
        ("wds/owner/flowers", None),
    ],
)
def test_a_dataset_of_the_hub_is_linked(name: str, hub_id: str | None) -> None:
    found = metadata(make_card(facts(trained_by("finetune_folder", data__name=name, data__root="x"))))
    assert found.get("datasets") == (hub_id and [hub_id])


def test_the_text_has_the_numbers_with_their_protocol() -> None:
    run = {"best_top1": 91.127, "best_epoch": 25, "train_seconds": 5760.0, "images_per_second": 318.6}
    card = make_card(replace(summarized(**run), results={**RESULTS, "top1": 91.0349}))
    assert "| top-1 accuracy | 91.03 % |" in card
    assert "Measured on the split `test` of Fashion-MNIST: 10,000 images" in card
    assert (
        "one run, seed 0, weights after the last epoch, number 30; the best epoch, number 25, had 91.13 % top-1" in card
    )
    assert "| hardware | CPU, 2 threads; processes: 1; precision: float32 |" in card
    assert "| time | 1.6 hours, 319 training images a second |" in card
    assert "| parameters | 272,186 |" in card
    assert "This card has no numbers on calibration, robustness and transfer." in card
    assert "Licence of the training data, as its owners state it: MIT." in card


def test_what_was_not_measured_has_no_number() -> None:
    card = make_card(facts(results=None))
    assert "Accuracy: not measured by us." in card
    assert f"{RESULTS['top1']:.2f}" not in card.partition("## Training")[0]
    assert "model-index" not in metadata(card)


def test_it_says_how_the_model_is_loaded() -> None:
    ours = make_card(facts())
    assert 'timm.create_model("hf-hub:me/cifar_resnet20.mine", pretrained=True)' in ours
    assert "import cutmix_zoo  # registers the model with timm" in ours
    timms = make_card(facts(config={**CONFIG, "architecture": "resnet18"}))
    assert "It needs timm alone:" in timms
    assert "import cutmix_zoo" not in timms
    shipped = make_card(facts(name=NAME, repo=None, entry=zoo_table()[NAME]))
    assert f'timm.create_model("{NAME}", pretrained=True)' in shipped
    nameless = make_card(facts(config={key: value for key, value in CONFIG.items() if key != "label_names"}))
    assert "{int(index)}" in nameless
    assert "label_names" not in nameless


def test_the_code_of_a_card_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random_image(0, 40, 30).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    card = make_card(facts(name=NAME, repo=None, entry=zoo_table()[NAME]))
    exec(card.partition("```python\n")[2].partition("```")[0], {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert {line.partition("% ")[2] for line in lines} <= set(CONFIG["label_names"])


def test_the_papers_number_stands_beside_the_same_setting_only() -> None:
    same = trained_by("cifar100_resnet110_cutmix", data__input_size="[3,32,32]", data__root="/data", seed="3")
    assert "In this setting (recipe `cifar100_resnet110_cutmix`): 20.11 top-1 error" in make_card(facts(same))
    for key, value in (("schedule.epochs", "30"), ("data.input_size", "[3,64,64]"), ("mix.prob", "0.25")):
        other = make_card(facts(recipe_dict(load_recipe("cifar100_resnet110_cutmix", {key: value}))))
        assert f"it differs from `cifar100_resnet110_cutmix` in {key}: " in other
        assert "20.11" not in other
    named = make_card(facts(trained_by("cifar100_resnet110_cutmix", name="mine")))
    assert "No number of the paper is known for this setting." in named


def test_a_shipped_recipe_is_itself_whatever_lies_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("quickstart")
    (tmp_path / "quickstart").write_text("version: 1\n")
    monkeypatch.chdir(tmp_path)
    assert shipped_difference(recipe) == []
    assert shipped_difference(replace(recipe, name="mine")) is None
    data = replace(recipe.data, mean=(0.1,))
    assert shipped_difference(replace(recipe, data=data)) == ["data.mean: [0.28604] -> [0.1]"]


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("resnet50", "timm/resnet50.a1_in1k"),
        ("hf-hub:somebody/model@0123", "somebody/model"),
        ("local-dir:model", None),
        ("cifar_resnet8.cutmix_fmnist_mini", None),
        ("resnet50.cutmix_in1k", None),
    ],
)
def test_what_was_fine_tuned_is_named_if_it_is_on_the_hub(name: str, base: str | None) -> None:
    recipe = trained_by("quickstart")
    recipe["model"] |= {"name": name, "pretrained": True}
    card = make_card(facts(recipe))
    assert metadata(card).get("base_model") == base
    assert metadata(card).get("base_model_relation") == (None if base is None else "finetune")
    assert f"starting from the pretrained weights of `{name}`" in card


def test_a_baseline_is_not_called_cutmix() -> None:
    card = make_card(facts(trained_by("quickstart", mix="null")))
    assert metadata(card)["tags"] == ["image-classification", "timm", "cutmix_zoo"]
    assert "without mixing" in card
    assert "| mixing | none |" in card
    assert "| regularizers |" not in card


def test_it_says_all_that_the_network_was_trained_with() -> None:
    shaken = make_card(facts(trained_by("cifar100_pyramidnet200_cutmix_shakedrop", ema__decay="0.999")))
    assert "with CutMix, ShakeDrop, EMA." in shaken
    assert "| mixing | cutmix (prob 0.5, per batch, pairing permutation, alpha 1.0) |" in shaken
    assert "| regularizers | ShakeDrop (shakedrop_prob 0.5), EMA (ema_decay 0.999) |" in shaken
    smooth = make_card(facts(trained_by("cifar100_pyramidnet200_smoothing")))
    assert "with label smoothing." in smooth
    assert "cutmix" not in metadata(smooth)["tags"]
    nested = make_card(facts(trained_by("imagenet_resnet50_feature_cutmix")))
    assert "with Feature CutMix." in nested
    assert "cutmix" in metadata(nested)["tags"]
    assert "{" not in nested.partition("| mixing |")[2].partition("\n")[0], "a table is no place for Python"


def test_the_authors_weights_are_theirs() -> None:
    name = "resnet50.cutmix_in1k"
    config = {
        "architecture": "resnet50",
        "num_classes": 1000,
        "pretrained_cfg": {"input_size": [3, 224, 224]},
        "provenance": {"source": {"file": "model_best.pth.tar", "sha256": "ab" * 32}},
    }
    card = make_card(CardFacts(name, config, None, "mit", f"me/{name}", zoo_table()[name]))
    assert "Its authors published it at https://github.com/clovaai/CutMix-PyTorch" in card
    assert "Its authors state a top-1 error of 21.40 %" in card
    assert (
        "How it was trained is not recorded. The file it was imported from, model_best.pth.tar, has the sha256" in card
    )
    assert "The recipe `imagenet_resnet50_cutmix` repeats the setting." in card
    assert metadata(card)["datasets"] == ["ILSVRC/imagenet-1k"]


def test_names_cannot_break_out_of_a_table() -> None:
    recipe = trained_by("quickstart", name='"a | b"')
    assert "| recipe | `a \\| b`: 12 epochs" in make_card(facts(recipe))


def test_the_command_that_repeats_a_training_is_that_of_the_run() -> None:
    assert (
        "`accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no "
        "--num_cpu_threads_per_process 2 -m cutmix_zoo.train --config recipe.yaml --data.root FOLDER` trains it again"
    ) in make_card(facts())
    shipped = make_card(facts(name=NAME, repo=None, entry=zoo_table()[NAME]))
    assert "--config fashion_mnist_resnet20_cutmix --seed 0 --data.root FOLDER`" in shipped
    gpus = make_card(summarized(device="NVIDIA H100", processes=4, mixed_precision="bf16"))
    assert "`accelerate launch --multi_gpu --num_processes 4 --num_machines 1 --mixed_precision bf16 " in gpus
    assert "--num_cpu_threads" not in gpus
    cpus = make_card(summarized(device="CPU, 1 thread", processes=2))
    assert "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1 " in cpus
    assert "--num_cpu_threads_per_process 1 --main_process_port 0 -m cutmix_zoo.train" in cpus


@pytest.mark.parametrize(
    ("device", "commit", "expected"),
    [
        ("CPU, 1 thread", {}, "its exact code is not on record, so the numbers may differ in their last digits"),
        ("CPU, 1 thread", {"commit": "ab-dirty"}, "its exact code is not on record, so the numbers may differ in"),
        ("NVIDIA H100", {"commit": "ab"}, "on a GPU, so the numbers may differ in their last digits"),
        ("CPU, 1 thread", {"commit": "ab"}, "on the same processor, with the same versions, to the bit"),
    ],
)
def test_a_card_says_how_exactly_a_training_can_be_repeated(device: str, commit: dict[str, str], expected: str) -> None:
    versions = {**CONFIG["provenance"]["summary"]["versions"], **commit}
    assert f"trains it again; {expected}" in make_card(summarized(device=device, versions=versions))


@pytest.mark.parametrize("name", ["hfds/owner/flowers", "fashion_mnist_mini"])
def test_a_dataset_that_needs_no_folder_gets_none(name: str) -> None:
    card = make_card(facts(trained_by("finetune_folder", data__name=name, data__root="null")))
    assert "--config recipe.yaml` trains it again" in card


def test_a_training_that_began_with_weights_of_a_folder_cannot_be_repeated() -> None:
    card = make_card(facts(trained_by("quickstart", model__name="local-dir:model", model__pretrained="true")))
    assert "The weights that the training started from are not published, so it cannot be repeated." in card
    assert "accelerate launch" not in card
