"""What is published of a run, and what must not be."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from cutmix_zoo.errors import UserError
from cutmix_zoo.hub.bundle import Bundle, check_bundle, check_repo, check_token, make_bundle
from cutmix_zoo.hub.importer import import_checkpoint
from cutmix_zoo.models import export_model
from cutmix_zoo.store import file_sha256
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.zoo import zoo_table
from tests.hub.conftest import REPO

NAME = "cifar_resnet20.cutmix_fmnist"
ROOT = Path(__file__).parents[2]
HALF = (0.5, 0.5, 0.5)
DATA = {"input_size": (3, 64, 64), "mean": HALF, "std": HALF, "interpolation": "bicubic", "crop_pct": 1.0}


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_a_run_is_published_without_the_places_of_this_machine(
    bundle: Bundle, published_run: Path, tiny_data: Path
) -> None:
    assert (bundle.repo, bundle.facts.name) == (REPO, "cifar_resnet8.mine")
    assert str(tiny_data) in (published_run / "recipe.yaml").read_text()
    for name, file in bundle.files().items():
        for place in (tiny_data, published_run):
            assert str(place).encode() not in file.read_bytes(), name
    assert not any("preview" in name for name in bundle.files()), "it shows training images"
    recipe = load_recipe(bundle.folder / "recipe.yaml")
    assert (recipe.data.root, recipe.schedule.epochs) == (None, 1)
    config = json.loads((bundle.folder / "config.json").read_text())
    assert config["pretrained_cfg"]["tag"] == "mine"
    assert config["pretrained_cfg"]["license"] == "apache-2.0"
    summary = json.loads((published_run / "summary.json").read_text())
    results = json.loads((bundle.folder / "results.json").read_text())
    assert results == {
        "model": "cifar_resnet8",
        "dataset": "fashion_mnist",
        "split": "validation",
        "count": 30,
        **{key: summary[key] for key in ("top1", "top5", "balanced_accuracy", "macro_f1")},
        "loss": summary["val_loss"],
    }
    for same in ("model.safetensors", "metrics.jsonl", "plots/curves.png"):
        source = published_run / ("model" if same == "model.safetensors" else "") / same
        assert (bundle.folder / same).read_bytes() == source.read_bytes()


def test_a_run_is_published_without_the_place_of_the_model_it_began_with(run: Path, tmp_path: Path) -> None:
    # what a run that is fine-tuned from a folder leaves: its place is in three files
    place = "local-dir:/home/alice/secret/pretrained"
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("  name: cifar_resnet8", f"  name: {place}"))
    in_provenance(run, place)
    edit(run / "model" / "config.json", lambda config: config["provenance"]["summary"].update(model=place))
    edit(run / "summary.json", lambda summary: summary.update(model=place))
    bundle = make_bundle(run, tmp_path / "bundle", REPO)
    for name, file in bundle.files().items():
        assert b"alice" not in file.read_bytes(), name
    assert bundle.facts.summary["model"] == "local-dir:pretrained"
    assert bundle.facts.recipe.model.name == "local-dir:pretrained"
    edit(run / "summary.json", lambda summary: summary.update(seed=7))
    with pytest.raises(UserError, match="recipe or summary of"):
        make_bundle(run, tmp_path / "other", REPO)


def test_a_run_of_an_earlier_version_is_published_too(run: Path, tmp_path: Path) -> None:
    lines = (run / "recipe.yaml").read_text().splitlines(keepends=True)
    (run / "recipe.yaml").write_text("".join(line for line in lines if "balanced" not in line))
    edit(run / "summary.json", lambda summary: summary.pop("macro_f1"))
    edit(run / "model" / "config.json", lambda config: config["provenance"]["summary"].pop("macro_f1"))
    edit(run / "model" / "config.json", lambda config: config["provenance"]["recipe"]["data"].pop("balanced"))
    bundle = make_bundle(run, tmp_path / "bundle", REPO)
    assert "macro_f1" not in bundle.facts.results
    assert "F1" not in bundle.card


def test_a_license_is_what_is_said_else_what_is_stated_else_unknown(
    published_run: Path, tmp_path: Path, run: Path
) -> None:
    assert make_bundle(published_run, tmp_path / "a", REPO).facts.license == "unknown"
    edit(run / "model" / "config.json", lambda config: config["pretrained_cfg"].update(license="mit"))
    assert make_bundle(run, tmp_path / "b", REPO).facts.license == "mit"
    assert make_bundle(run, tmp_path / "c", REPO, "apache-2.0").facts.license == "apache-2.0"


def test_a_model_folder_is_published_with_what_was_measured(tmp_path: Path) -> None:
    source = shipped(tmp_path / "source")
    bundle = make_bundle(source, tmp_path / "bundle", f"me/{NAME}")
    measured = json.loads((ROOT / "hub_cards" / NAME / "results.json").read_text())
    assert bundle.facts.license == "apache-2.0", "that of the zoo table"
    assert f"| top-1 accuracy | {measured['top1']:.2f} % |" in bundle.card
    assert "recipe.yaml" in bundle.files()
    results = json.loads((bundle.folder / "results.json").read_text())
    assert results == {**measured, "model": "cifar_resnet20"}


def shipped(folder: Path) -> Path:
    """The folder of a model of the zoo, with results that tell where they were measured."""
    folder.mkdir()
    for name in ("config.json", "results.json"):
        (folder / name).write_bytes((ROOT / "hub_cards" / NAME / name).read_bytes())
    edit(folder / "results.json", lambda results: results.update(model="/home/alice/secret/run"))
    (folder / "model.safetensors").write_bytes((ROOT / "cutmix_zoo" / "weights" / f"{NAME}.safetensors").read_bytes())
    return folder


def test_other_weights_cannot_have_the_name_of_a_row(published_run: Path, tmp_path: Path) -> None:
    name = "cifar_resnet8.cutmix_fmnist_mini"
    with pytest.raises(UserError, match=f"{name} is a row of the zoo table, and these are other weights"):
        make_bundle(published_run, tmp_path / name, f"me/{name}")
    model = timm.create_model("resnet50", num_classes=10)
    for provenance in ({}, {"source": {"file": "a", "sha256": "b"}, "recipe": json_recipe("resnet50")}):
        export_model(model, tmp_path / "model", data_config=DATA, label_names=None, provenance=provenance)
        with pytest.raises(UserError, match="these are other weights"):
            make_bundle(tmp_path / "model", tmp_path / "bundle", "me/resnet50.cutmix_in1k")


def test_only_what_was_imported_under_the_name_of_a_row_is_of_the_authors(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, name = zoo_table()["cifar_resnet8.cutmix_fmnist_mini"], "cifar_resnet8.theirs"
    row = replace(shipped, name=name, page="https://a.b", sha256=None)
    torch.save(timm.create_model("cifar_resnet8", in_chans=1).state_dict(), tmp_path / "weights.pth")
    named, other = (
        import_checkpoint(tmp_path / "weights.pth", f"cifar_resnet8.{tag}", "fashion_mnist") for tag in ("theirs", "x")
    )
    monkeypatch.setattr("cutmix_zoo.hub.bundle.zoo_table", lambda: {name: row})
    assert make_bundle(named, tmp_path / "a", f"me/{name}").facts.entry == row
    assert make_bundle(other, tmp_path / "b", "me/cifar_resnet8.x").facts.entry is None
    with pytest.raises(UserError, match=f"{name} is a row of the zoo table, and these are other weights"):
        make_bundle(other, tmp_path / "c", f"me/{name}")
    # once the table knows a hash, it decides
    known = replace(row, sha256=file_sha256(named / "model.safetensors"), repo="me/it")
    monkeypatch.setattr("cutmix_zoo.hub.bundle.zoo_table", lambda: {name: known})
    assert make_bundle(named, tmp_path / "d", f"me/{name}").facts.entry == known
    monkeypatch.setattr("cutmix_zoo.hub.bundle.zoo_table", lambda: {name: replace(known, sha256=shipped.sha256)})
    with pytest.raises(UserError, match="these are other weights"):
        make_bundle(named, tmp_path / "e", f"me/{name}")


def json_recipe(model: str) -> dict[str, Any]:
    return {"version": 1, "name": "a", "model": {"name": model}, "data": {"name": "folder"}, "schedule": {"epochs": 1}}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def rewrite(folder: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    save_file(weights, folder / "model.safetensors", metadata)
    edit(folder / "config.json", lambda config: config.pop("sha256"))


def poison(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["fc.bias"][0] = float("nan")
    rewrite(folder, weights, {"format": "pt"})


def unmarked(folder: Path) -> None:
    rewrite(folder, load_file(folder / "model.safetensors"), None)


def in_provenance(run: Path, model: str) -> None:
    edit(run / "model" / "config.json", lambda config: config["provenance"]["recipe"]["model"].update(name=model))


def add_token(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"note": "hf_{"a1B2" * 9}"}}\n')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "summary.json").unlink(), "is not finished"),
        (lambda run: edit(run / "summary.json", lambda found: found.update(top1=99.9)), "recipe or summary of"),
        (
            lambda run: (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("0.2", "0.3")),
            "recipe or summ",
        ),
        (lambda run: (run / "model" / "config.json").unlink(), "there is no finished run and no exported model in"),
        (lambda run: (run / "model" / "model.safetensors").unlink(), "is not a sound safetensors file"),
        (lambda run: (run / "model" / "model.safetensors").write_bytes(b"x" * 100), "is not a sound safetensors file"),
        (lambda run: flip(run / "model" / "model.safetensors"), "its sha256 is not that of config.json"),
        (lambda run: poison(run / "model"), "holds numbers that are not finite"),
        (lambda run: unmarked(run / "model"), r"does not say that it is of torch \(format: pt\)"),
        (
            lambda run: in_provenance(run, "cifar_resnet14"),
            "describes cifar_resnet8, but its recipe trains 'cifar_resnet14'",
        ),
        (add_token, "metrics.jsonl holds what looks like an access token"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    change: Callable[[Path], object], message: str, run: Path, tmp_path: Path
) -> None:
    change(run)
    with pytest.raises(UserError, match=message):
        make_bundle(run, tmp_path / "bundle", REPO)


def test_a_card_without_what_the_hub_asks_for_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    check_bundle(bundle)
    poor = replace(bundle, folder=tmp_path / "poor")
    shutil.copytree(bundle.folder, poor.folder)
    card = re.sub(r"^(license|pipeline_tag):.*\n", "", bundle.card, flags=re.MULTILINE)
    (poor.folder / "README.md").write_text(card, encoding="utf-8")
    with pytest.raises(UserError, match="the card lacks license, pipeline_tag; complete"):
        check_bundle(poor)


def test_a_token_that_is_known_is_looked_for_too(bundle: Bundle) -> None:
    check_token(bundle)
    check_token(bundle, "not.in.there")
    with pytest.raises(UserError, match="holds what looks like an access token"):
        check_token(bundle, "mixed_top1")


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"top1": float("nan")}, "a number is not finite"),
        ({"top1": "high"}, "is not what cutmix-zoo evaluate writes"),
        ({"count": None}, "is not what cutmix-zoo evaluate writes"),
        ({"dataset": "cifar100"}, "is about cifar100, which has 100 classes, and the model 10"),
    ],
)
def test_numbers_that_cannot_be_of_the_model_are_refused(results: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = shipped(tmp_path / "source")
    edit(source / "results.json", lambda found: found.update(results))
    with pytest.raises(UserError, match=message):
        make_bundle(source, tmp_path / "bundle", "me/mine")


def test_names_belong_to_the_architecture_and_not_to_timm(published_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names the architecture resnet50, but this model is cifar_resnet8"):
        make_bundle(published_run, tmp_path / "a", "me/resnet50.mine")
    model = timm.create_model("resnet10t", num_classes=2)
    export_model(model, tmp_path / "model", data_config=DATA, label_names=None, provenance={"tag": "c3_in1k"})
    for repo in ("me/resnet10t.c3_in1k", "me/mine"):
        with pytest.raises(UserError, match="is a tag of timm's own weights"):
            make_bundle(tmp_path / "model", tmp_path / repo.replace("/", "_"), repo)


@pytest.mark.parametrize("repo", ["a/b/c", "../x/y", "a//b", "a/b.git", "a/" + "b" * 97, "a/b--c"])
def test_what_is_no_repository_is_refused_as_the_hub_puts_it(repo: str) -> None:
    with pytest.raises(UserError, match=f"^--repo: .*'{re.escape(repo)}'"):
        check_repo(repo)


def test_a_repository_without_its_owner_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--repo takes OWNER/NAME, got 'mine'$"):
        check_repo("mine")
    check_repo(REPO)
