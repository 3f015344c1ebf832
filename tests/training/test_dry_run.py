import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cutmix_zoo.data.loaders import EvalLoader
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.accuracy import evaluate_accuracy
from cutmix_zoo.train import command
from cutmix_zoo.training.checkpoint import Progress, save_checkpoint
from cutmix_zoo.training.dry_run import STEPS, describe_cost, dry_run
from cutmix_zoo.training.gradient import GradientGuard
from cutmix_zoo.training.job import make_job
from cutmix_zoo.training.launch import make_accelerator
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.settings import EmaSettings, Recipe
from tests.conftest import leaves_files_open


def test_the_cost_of_a_run_is_that_of_its_parts(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe, ema=EmaSettings(0.9), evaluate=replace(tiny_recipe.evaluate, every=2))
    job = make_job(recipe, make_accelerator())
    cost = dry_run(job, evaluate_accuracy)
    assert cost.steps == 15
    # 30 images by two networks, after the second epoch and the last one; all 80 training images after each
    assert cost.measuring == pytest.approx(cost.validation / 30 * (4 * 30 + 3 * 80))
    assert cost.seconds == pytest.approx(cost.first_step + 14 * cost.step + cost.measuring)
    assert min(cost.first_step, cost.step, cost.validation) > 0
    weights = sum(value.nbytes for value in job.network.state_dict().values())
    momentum = sum(parameter.nbytes for parameter in job.network.parameters())
    assert cost.checkpoint == 2 * weights + momentum
    saved = save_checkpoint(tmp_path, Progress({}), job.state)
    assert cost.checkpoint < sum(file.stat().st_size for file in saved.iterdir()) < cost.checkpoint + 100_000
    assert cost.memory > 50_000_000, "torch alone takes as much"
    text = describe_cost(cost, job)
    assert "cifar_resnet8 on fashion_mnist, 3 epochs of 5 updates of 16 images, 30 to validate on" in text
    assert f"{1000 * cost.step:.0f} ms an update" in text


@pytest.mark.parametrize(("workers", "steps"), [(0, 1 + STEPS), (1, 1 + 2 + STEPS), (2, 1 + 2 * 2 + STEPS)])
def test_steps_whose_batches_were_loaded_ahead_do_not_count(
    workers: int, steps: int, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = replace(tiny_recipe.data, batch_size=4, workers=workers, resident=False)
    job, taken = make_job(replace(tiny_recipe, data=data), make_accelerator()), []
    monkeypatch.setattr(type(job), "set_update", lambda _, update: taken.append(update))
    dry_run(job, evaluate_accuracy)
    job.train_loader.close()
    assert taken == list(range(steps))


def test_trackers_are_looked_for_and_not_started(
    tiny_options: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = [word for key, value in tiny_options.items() for word in (f"--{key}", value)]
    command(["--config", "quickstart", "--dry-run", "--runtime.trackers", "[tensorboard]", *options])
    assert capsys.readouterr().out.endswith("Nothing was written.\n")


def test_gradients_that_a_gpu_has_not_shown_yet_are_looked_at(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen_late(guard: GradientGuard, norm: torch.Tensor, place: str) -> bool:
        guard._unseen.append((place, norm * torch.inf))
        return True

    monkeypatch.setattr(GradientGuard, "admits", seen_late)
    with pytest.raises(UserError, match=r"the gradient of epoch 1, step 1 .* is not finite"):
        dry_run(make_job(tiny_recipe, make_accelerator()), evaluate_accuracy)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_short_epoch_is_enough(epochs: int, tiny_recipe: Recipe) -> None:
    data = replace(tiny_recipe.data, batch_size=80)
    recipe = replace(tiny_recipe, data=data, schedule=replace(tiny_recipe.schedule, epochs=epochs))
    job = make_job(recipe, make_accelerator())
    assert job.updates_per_epoch == 1 < STEPS
    assert dry_run(job, evaluate_accuracy).steps == epochs


@leaves_files_open
def test_a_stream_whose_workers_end_with_short_batches(webdataset_folder: Path) -> None:
    """Three shards of six: one worker has batches of 4, 4 and 4, the other of 4 and 2, of which four are timed."""
    pytest.importorskip("webdataset")
    options = {"data.name": "wds/", "data.root": str(webdataset_folder), "data.workers": "2", "data.pad": "1"}
    options |= {"data.input_size": "[3,8,8]", "data.mean": "[0.5,0.5,0.5]", "data.std": "[0.5,0.5,0.5]"}
    options |= {"model.num_classes": "3", "data.batch_size": "6", "evaluate.batch_size": "4"}
    job = make_job(
        load_recipe("quickstart", {**options, "data.val_split": "validation-{0..2}.tar|18"}), make_accelerator()
    )
    seen: list[int] = []

    def spy(model: Any, batches: Any, **rest: Any) -> Any:
        kept = list(batches)
        seen.extend(len(labels) for _, labels in kept)
        return evaluate_accuracy(model, kept, **rest)

    assert dry_run(job, spy).validation > 0
    assert seen == [4, 4, 4, 2]


def test_a_process_without_images_to_validate_on(tiny_recipe: Recipe) -> None:
    job = replace(make_job(tiny_recipe, make_accelerator()), val_loader=EvalLoader([], 0))
    assert dry_run(job, evaluate_accuracy).validation == 0


def test_it_writes_nothing(
    tiny_options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [word for key, value in tiny_options.items() for word in (f"--{key}", value)]
    command(["--config", "quickstart", "--dry-run", *options])
    assert capsys.readouterr().out.endswith("Nothing was written.\n")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_would_fail_at_the_end_is_found_out(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tiny_recipe, make_accelerator())
    job.network.pretrained_cfg["architecture"] = "cifar_resnet14"  # another one than it is
    with pytest.raises(UserError, match="the run could not export its model at its end: timm cannot load this model"):
        dry_run(job, evaluate_accuracy)


def test_what_would_end_the_run_is_found_out(tmp_path: Path) -> None:
    arguments = ["--config", "quickstart", "--dry-run", "--model.name", "resnet18", "--data.root", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "cutmix_zoo.train", *arguments, "--data.name", "fashion_mnist"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no Fashion-MNIST in" in done.stderr
