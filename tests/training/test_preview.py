from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cutmix_zoo.training.preview
from cutmix_zoo.data.loaders import train_loader
from cutmix_zoo.mixing import (
    BoxPlan,
    CutMix,
    FeatureMix,
    FeaturePlan,
    IdentityPlan,
    MixCollate,
    MixPlan,
    Scheduled,
    collate_samples,
)
from cutmix_zoo.training.preview import draw_preview
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import Recipe
from cutmix_zoo.training.splits import open_splits
from tests.conftest import leaves_files_open


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(
        cutmix_zoo.training.preview, "draw_mixed", lambda *arguments, **options: calls.append((arguments, options))
    )
    return calls


def test_the_picture_is_the_first_mixed_batch_of_the_run(tiny_recipe: Recipe, drawn: list[Any], tmp_path: Path) -> None:
    splits = open_splits(tiny_recipe)
    draw_preview(tiny_recipe, splits, tmp_path / "p.png")
    (images, _, plan, classes, file), options = drawn[0]
    assert isinstance(plan, BoxPlan)
    assert (file, classes[0]) == (tmp_path / "p.png", "T-shirt/top")
    assert options["title"].startswith("quickstart, step ")
    assert options["title"].endswith(": CutMix(prob=0.5, pairing='permutation')")
    assert tiny_recipe.mix is not None
    collate = MixCollate(tiny_recipe.mix, 10, seed=tiny_recipe.seed)
    loader = train_loader(splits.train, tiny_recipe.data, collate_fn=collate, num_classes=10, seed=tiny_recipe.seed)
    step = int(options["title"].split("step ")[1].split(":")[0]) - 1
    assert torch.equal(list(loader.epoch(0))[step][0], images)


def test_maps_are_shown_as_unmixed_images_with_mixed_labels(
    tiny_recipe: Recipe, drawn: list[Any], tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, mix=FeatureMix(CutMix(), [2]))
    splits = open_splits(recipe)
    draw_preview(recipe, splits, tmp_path / "p.png")
    (images, labels, plan, _, _), _ = drawn[0]
    loader = train_loader(splits.train, recipe.data, collate_fn=collate_samples, num_classes=10, seed=recipe.seed)
    assert all(torch.equal(*pair) for pair in zip((images, labels), next(loader.epoch(0)), strict=True))
    assert isinstance(plan, FeaturePlan)
    assert (plan.inner.height, plan.inner.width) == images.shape[2:]
    assert bool((plan.lam < 1).all())


def test_the_method_sees_the_images_of_the_batch_that_is_drawn(
    tiny_recipe: Recipe, drawn: list[Any], tmp_path: Path
) -> None:
    seen = []

    class Looks:
        def draw(self, batch_size: int, height: int, width: int, **context: Any) -> MixPlan:
            seen.append(context["images"])
            return CutMix(prob=0.5).draw(batch_size, height, width, generator=context["generator"])

    recipe = replace(tiny_recipe, mix=Looks(), seed=3)
    splits = open_splits(recipe)
    draw_preview(recipe, splits, tmp_path / "p.png")
    (_, _, plan, _, _), options = drawn[0]
    step = int(options["title"].split("step ")[1].split(":")[0]) - 1
    loader = train_loader(splits.train, recipe.data, collate_fn=collate_samples, num_classes=10, seed=recipe.seed)
    assert torch.equal(seen[-1], list(loader.epoch(0))[step][0])
    assert isinstance(plan, BoxPlan)


@leaves_files_open
def test_of_a_stream_the_batch_is_that_of_one_of_several_processes(
    webdataset_folder: Path, drawn: list[Any], tmp_path: Path
) -> None:
    pytest.importorskip("webdataset")
    options = {"data.name": "wds/", "data.root": str(webdataset_folder), "model.num_classes": "3", "data.pad": "1"}
    options |= {"data.input_size": "[3,8,8]", "data.mean": "[0.5,0.5,0.5]", "data.std": "[0.5,0.5,0.5]"}
    # a share of the 24 images is no batch of all processes
    recipe = load_recipe("quickstart", {**options, "data.batch_size": "48", "mix.prob": "1.0"})
    draw_preview(recipe, open_splits(recipe), tmp_path / "p.png", world_size=4)
    (images, labels, *_), _ = drawn[0]
    assert len(images) == len(labels) == 12


def test_the_picture_is_what_the_first_of_several_processes_trains_on(
    tiny_recipe: Recipe, drawn: list[Any], tmp_path: Path
) -> None:
    recipe, splits = replace(tiny_recipe, mix=CutMix()), open_splits(tiny_recipe)
    draw_preview(recipe, splits, tmp_path / "p.png", world_size=2)
    (images, labels, plan, *_), _ = drawn[0]
    first = train_loader(splits.train, recipe.data, collate_fn=collate_samples, num_classes=10, seed=0, world_size=2)
    expected, expected_labels = next(first.epoch(0))
    assert len(images) == 8
    assert torch.equal(images, plan.apply(expected))
    assert torch.equal(labels, expected_labels)


def test_a_recipe_that_never_mixes_shows_its_first_batch(tiny_recipe: Recipe, drawn: list[Any], tmp_path: Path) -> None:
    late = replace(tiny_recipe, mix=Scheduled(CutMix(), start=0.0))
    for recipe in (replace(tiny_recipe, mix=None), replace(tiny_recipe, mix=CutMix(prob=0.0)), late):
        draw_preview(recipe, open_splits(recipe), tmp_path / "p.png")
    for (_, _, plan, _, _), options in drawn:
        assert isinstance(plan, IdentityPlan)
        assert "step 1:" in options["title"]
    assert "no mixing" in drawn[0][1]["title"]
