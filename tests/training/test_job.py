"""What is scheduled, and how much each class counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from cutmix_zoo.errors import UserError
from cutmix_zoo.known import known_dataset
from cutmix_zoo.models.drop_block import DropBlock2d
from cutmix_zoo.models.export import export_model
from cutmix_zoo.training.job import make_job
from cutmix_zoo.training.launch import make_accelerator
from cutmix_zoo.training.settings import Recipe, RegularizeSettings


@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_drop_block_is_scheduled_over_the_updates_of_the_run(tiny_recipe: Recipe, schedule: str) -> None:
    settings = {"drop_block_rate": 0.1, "drop_block_size": 2, "drop_block_schedule": schedule}
    job = make_job(replace(tiny_recipe, regularize=RegularizeSettings(**settings)), make_accelerator())
    progress = [module.progress for module in job.network.modules() if isinstance(module, DropBlock2d)]
    total = job.updates_per_epoch * job.recipe.schedule.epochs
    for update in (0, total // 3, total):
        job.set_update(update)
        expected = update / total if schedule == "linear" else 1.0
        assert [value.item() for value in progress] == pytest.approx([expected] * len(progress))


def test_balanced_weights_are_those_of_scikit_learn(image_folder: Path, tiny_recipe: Recipe) -> None:
    (image_folder / "train" / "bee" / "0.png").unlink()
    data = replace(
        tiny_recipe.data,
        name="folder",
        root=str(image_folder),
        input_size=(3, 8, 8),
        mean=(0.5,),
        std=(0.2,),
        batch_size=4,
    )
    regularize = replace(tiny_recipe.regularize, class_weights="balanced")
    job = make_job(replace(tiny_recipe, data=data, regularize=regularize), make_accelerator())
    labels = [0] * 4 + [1] * 3 + [2] * 4
    assert job.class_weights.tolist() == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert make_job(replace(tiny_recipe, data=data), make_accelerator()).class_weights is None


def test_a_dataset_that_does_not_tell_its_labels_has_no_balanced_weights(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutmix_zoo.data.datasets.known_labels", lambda _: None)
    regularize = replace(tiny_recipe.regularize, class_weights="balanced")
    with pytest.raises(UserError, match=r"its classes cannot be weighted; set regularize.class_weights to numbers"):
        make_job(replace(tiny_recipe, regularize=regularize), make_accelerator())


def test_a_classifier_of_other_classes_is_not_kept_without_a_word(tiny_recipe: Recipe, tmp_path: Path) -> None:
    network = make_job(tiny_recipe, make_accelerator()).network
    for names in (list("abcdefghij"), known_dataset("fashion_mnist").classes, None):
        config = {
            "input_size": (1, 28, 28),
            "mean": (0.5,),
            "std": (0.2,),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        }
        export_model(network, tmp_path / "model", data_config=config, label_names=names, provenance={})
        model = replace(tiny_recipe.model, name=f"local-dir:{tmp_path / 'model'}", pretrained=True)
        recipe = replace(tiny_recipe, model=model)
        if names == list("abcdefghij"):
            with pytest.warns(
                UserWarning, match=r"as many classes as the data, 10, and keep .* for others \(a, b, c, "
            ):
                make_job(recipe, make_accelerator())
        else:
            make_job(recipe, make_accelerator())


def test_weights_that_cannot_be(tiny_recipe: Recipe) -> None:
    regularize = replace(tiny_recipe.regularize, class_weights=(1.0, 2.0))
    with pytest.raises(UserError, match=r"regularize.class_weights: expected 10 numbers, .* got 2"):
        make_job(replace(tiny_recipe, regularize=regularize), make_accelerator())
    for wrong in ((), (-1.0, 2.0)):
        with pytest.raises(ValueError, match="class_weights must be balanced, null or numbers of at least 0"):
            replace(regularize, class_weights=wrong)


def test_a_fused_optimizer_hides_from_a_scaler_what_it_leaves_out(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = replace(tiny_recipe, optimizer=replace(tiny_recipe.optimizer, args={"fused": True}))
    accelerator = make_accelerator()
    make_job(fused, accelerator)
    monkeypatch.setattr(accelerator, "scaler", torch.amp.GradScaler("cpu"))  # as in fp16 on a GPU
    make_job(tiny_recipe, accelerator)
    with pytest.raises(UserError, match=r"^optimizer.args.fused: in fp16.*leave it out, or use --mixed_precision bf16"):
        make_job(fused, accelerator)


def test_a_job_remembers_what_it_was_made_with(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tiny_recipe, make_accelerator())
    monkeypatch.setattr("cutmix_zoo.training.environment.source_commit", lambda file: "another")
    assert job.versions.get("commit") != "another"
    assert make_job(tiny_recipe, make_accelerator()).versions["commit"] == "another"
