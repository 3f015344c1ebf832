"""What the run tells a mixing method, and what is refused before anything is trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from cutmix_zoo.data.loaders import train_loader
from cutmix_zoo.data.settings import input_spec
from cutmix_zoo.errors import OneProcessError, UserError
from cutmix_zoo.mixing import (
    CANONICAL,
    Chain,
    CutMix,
    Cutout,
    FeatureMix,
    FeaturePlan,
    IdentityPlan,
    MixCollate,
    MixMethod,
    MixPlan,
    Mixup,
    OneOf,
    Scheduled,
    collate_samples,
)
from cutmix_zoo.training.job import make_job
from cutmix_zoo.training.launch import make_accelerator
from cutmix_zoo.training.mix import check_fills, draw_mix, make_collate, measure_maps
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import Recipe
from cutmix_zoo.training.splits import open_splits, resolve

GREY = (73.0,)


class Asks:
    """A method that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []

    def draw(self, batch_size: int, height: int, width: int, **context: object) -> MixPlan:
        self.told.append(context)
        return IdentityPlan(batch_size, height, width)


def blank(recipe: Recipe) -> torch.Tensor:
    return torch.zeros(recipe.data.batch_size, *input_spec(recipe.data).input_size, dtype=torch.uint8)


def test_a_method_is_told_its_images_the_progress_and_the_sizes_of_maps(tiny_recipe: Recipe) -> None:
    asks = Asks()
    recipe, images = replace(tiny_recipe, mix=asks), blank(tiny_recipe)
    for epoch, sizes in [(0, None), (2, ((28, 28), None))]:
        draw_mix(recipe, images, epoch, step=1, sizes=sizes)
    first, last = asks.told
    assert first["images"] is images
    assert (first["progress"], "map_sizes" in first) == (0.0, False)
    assert (last["progress"], last["map_sizes"]) == (2 / 3, ((28, 28), None))


@pytest.mark.parametrize(
    "mix",
    [
        *CANONICAL.values(),
        Scheduled(CutMix(per="sample"), start=0.3, end=1.0, off_from=0.7),
        Chain([Cutout(9, fill=GREY), Mixup(), CutMix()]),
        OneOf([Mixup(), Scheduled(CutMix(), end=0.0)], [0.5, 0.5]),
    ],
    ids=str,
)
def test_the_collate_and_the_device_mix_every_batch_of_every_epoch_alike(mix: MixMethod, tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, mix=mix, regularize=replace(tiny_recipe.regularize, label_smoothing=0.1))
    splits = open_splits(recipe)
    recipe = resolve(recipe, splits.classes)
    job = make_job(recipe, make_accelerator())
    collate = make_collate(replace(recipe, runtime=replace(recipe.runtime, mix_on="collate")), rank=0)
    assert isinstance(collate, MixCollate)
    mixed_there, plain = (
        train_loader(splits.train, recipe.data, collate_fn=function, num_classes=10, seed=recipe.seed)
        for function in (collate, collate_samples)
    )
    for epoch in range(recipe.schedule.epochs):
        batches = zip(mixed_there.epoch(epoch), plain.epoch(epoch), strict=True)
        for step, (there, here) in enumerate(batches):
            assert there[0].dtype == torch.uint8
            images, targets, _ = job.mixed(here, epoch, step)
            expected, expected_targets, left = job.mixed(there, epoch, step)
            assert torch.equal(images, expected)
            assert torch.equal(targets, expected_targets)
            assert isinstance(left, IdentityPlan)


def test_without_a_method_or_on_the_device_the_collate_only_stacks(tiny_recipe: Recipe) -> None:
    collated = replace(tiny_recipe, runtime=replace(tiny_recipe.runtime, mix_on="collate"))
    assert make_collate(tiny_recipe, 0) is collate_samples
    assert make_collate(replace(collated, mix=None), 0) is collate_samples


def test_a_job_measures_maps_only_for_methods_that_mix_them(tiny_recipe: Recipe) -> None:
    accelerator = make_accelerator()
    assert make_job(tiny_recipe, accelerator).map_sizes is None
    assert make_job(replace(tiny_recipe, mix=FeatureMix(CutMix(), [0])), accelerator).map_sizes is None
    job = make_job(replace(tiny_recipe, mix=Chain([Cutout(fill=GREY), FeatureMix(CutMix(), [1, 3])])), accelerator)
    assert job.map_sizes == ((28, 28), (28, 28), (28, 28), (14, 14), (7, 7))
    batch = next(job.train_loader.epoch(0))
    depths = set()
    for step in range(12):
        images, _, plan = job.mixed(batch, 0, step)
        erase, part = plan.parts
        assert isinstance(part, FeaturePlan)
        assert (part.inner.height, part.inner.width) == job.map_sizes[part.depth]
        assert torch.equal(images, job.prepare(erase.apply(batch[0])))
        depths.add(part.depth)
    assert depths == {1, 3}


def test_depths_that_the_network_has_not_are_refused_before_training(tiny_recipe: Recipe) -> None:
    deep = replace(tiny_recipe, mix=Scheduled(FeatureMix(Mixup(), [0, 5])))
    with pytest.raises(UserError, match=r"^mix: depths must be below 5 for this network, got \(5,\)$"):
        make_job(deep, make_accelerator())


def test_a_network_that_cannot_be_mixed_inside_is_refused_before_training(tiny_recipe: Recipe) -> None:
    recipe = replace(tiny_recipe, mix=FeatureMix(Mixup()))
    with pytest.raises(UserError, match=r"^mix: the maps of Linear cannot be named: it has no feature_info"):
        measure_maps(recipe, torch.nn.Linear(1, 1))
    job = make_job(recipe, make_accelerator())
    with pytest.raises(UserError, match=r"^mix: OptimizedModule is compiled.*--dynamo_backend no"):
        measure_maps(recipe, torch.compile(job.network, backend="eager"))


def test_maps_that_a_method_cannot_mix_are_refused_before_chance_draws_them(tiny_recipe: Recipe) -> None:
    network = timm.create_model("vit_tiny_patch16_224", img_size=28, patch_size=14, in_chans=1, depth=1)
    for mix in (FeatureMix(OneOf([Mixup(), CutMix()], [0.99, 0.01]), [0, 1]), Scheduled(FeatureMix(CutMix(), [0, 1]))):
        with pytest.raises(UserError, match=r"^mix: the map at depth 1 is a row of tokens, which CutMix"):
            measure_maps(replace(tiny_recipe, mix=mix), network)
    assert measure_maps(replace(tiny_recipe, mix=FeatureMix(Mixup(), [0, 1])), network) is not None


@pytest.mark.parametrize(
    ("mix", "sizes", "message"),
    [
        (FeatureMix(CutMix(), [1]), ((28, 28), None), "is a row of tokens"),
        (FeatureMix(CutMix(), [1]), None, "needs the sizes of the maps"),
    ],
    ids=str,
)
def test_what_cannot_be_mixed_is_said_in_one_line(
    mix: MixMethod, sizes: tuple[tuple[int, int] | None, ...] | None, message: str, tiny_recipe: Recipe
) -> None:
    with pytest.raises(OneProcessError, match=f"^mix: .*{message}") as caught:
        draw_mix(replace(tiny_recipe, mix=mix), blank(tiny_recipe), epoch=0, step=0, sizes=sizes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda mix: mix, lambda mix: Chain([mix]), lambda mix: Scheduled(OneOf([mix, mix]))])
def test_a_hole_in_bytes_needs_a_fill(wrap: object, tiny_recipe: Recipe) -> None:
    spec = input_spec(tiny_recipe.data)
    for mix in (Cutout(), Cutout(fill=(1.0, 2.0)), FeatureMix(Cutout(), [0, 1])):
        with pytest.raises(UserError, match=r"^mix: fill of Cutout must be 1 value, such as \[73\]"):
            check_fills(wrap(mix), spec)
    with pytest.raises(UserError, match="fill of Cutout must be 1 or 3"):
        check_fills(wrap(Cutout(fill=(1.0, 2.0))), replace(spec, input_size=(3, 8, 8), mean=(0.1, 0.2, 0.3)))
    for mix in (Cutout(fill=GREY), CutMix(), FeatureMix(Cutout(), [1])):
        check_fills(wrap(mix), spec)


def test_a_missing_fill_is_found_before_anything_is_written(tiny_options: dict[str, str], tmp_path: Path) -> None:
    from cutmix_zoo.train import train

    recipe = load_recipe("quickstart", {**tiny_options, "mix": "{name: cutout}", "runtime.mix_on": "collate"})
    with pytest.raises(UserError, match="fill of Cutout must be"):
        train(recipe, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_maps_cannot_be_mixed_in_the_collate(tiny_recipe: Recipe) -> None:
    runtime = replace(tiny_recipe.runtime, mix_on="collate")
    with pytest.raises(ValueError, match=r"^runtime\.mix_on must be device, because mix reaches the maps"):
        replace(tiny_recipe, mix=Chain([Cutout(), FeatureMix(Mixup())]), runtime=runtime)
    assert replace(tiny_recipe, mix=FeatureMix(Mixup(), [0]), runtime=runtime).runtime == runtime


def test_images_that_stay_on_the_device_are_not_mixed_in_the_collate(tiny_options: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"data\.resident must be auto or false where runtime\.mix_on is collate"):
        load_recipe("quickstart", {**tiny_options, "data.resident": "true", "runtime.mix_on": "collate"})
