import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import accelerate
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.loss import SoftTargetCrossEntropy

import cutmix_zoo.train
from cutmix_zoo.errors import OneProcessError, UserError
from cutmix_zoo.evaluate import EvaluateOptions, evaluate
from cutmix_zoo.mixing import Chain, CutMix, Cutout, FeatureMix, MixMethod, Mixup, OneOf, Scheduled
from cutmix_zoo.train import closing, rehearse, train
from cutmix_zoo.training.checkpoint import read_progress
from cutmix_zoo.training.network import make_network
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.training.settings import VALIDATED, EmaSettings, Recipe, RegularizeSettings
from tests.conftest import TEST_IMAGES, leaves_files_open
from tests.stand_ins import short_of_memory


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the trainings here; the finished run, which is made before, has them."""
    monkeypatch.setattr(cutmix_zoo.train, "find_spec", lambda _: None)


@pytest.fixture(scope="module")
def finished(tiny_options: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """One finished run that several tests look at."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = load_recipe("quickstart", {**tiny_options, "runtime.keep_checkpoints": "3"})
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(recipe, folder)
    torch.set_num_threads(threads)
    return recipe, folder


def test_a_run_leaves_what_the_design_says(finished: tuple[Recipe, Path]) -> None:
    _, folder = finished
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoints", "metrics.jsonl", "model", "plots", "recipe.yaml", "status.json", "summary.json")
    ]
    lines = metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for key in ("lr", "train_loss", "mixed_top1", "clean_train_top1", "top1", "top5", "val_loss", "images_per_second"):
        assert all(isinstance(line[key], float) for line in lines), key
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["top1"], summary["top5"]) == (lines[-1]["top1"], lines[-1]["top5"])
    assert summary["best_top1"] == max(line["top1"] for line in lines)
    assert lines[summary["best_epoch"] - 1]["top1"] == summary["best_top1"]
    assert summary["val_images"] == 30
    assert summary["parameters"] == sum(p.numel() for p in timm.create_model("cifar_resnet8", in_chans=1).parameters())
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert {path.name for path in (folder / "plots").iterdir()} == {"preview.png", "curves.png"}


def test_the_resolved_recipe_trains_the_same_again(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    _, folder = finished
    recipe = load_recipe(folder / "recipe.yaml")
    assert (recipe.data.input_size, recipe.model.num_classes, recipe.name) == ((1, 28, 28), 10, "quickstart")
    train(recipe, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(folder)


def test_timm_loads_the_model_and_evaluation_repeats_the_summary(finished: tuple[Recipe, Path]) -> None:
    _, folder = finished
    summary = json.loads((folder / "summary.json").read_text())
    model = timm.create_model(f"local-dir:{folder}/model", pretrained=True)
    config = model.pretrained_cfg
    assert (tuple(config["input_size"]), tuple(config["mean"]), tuple(config["std"])) == (
        (1, 28, 28),
        (0.28604,),
        (0.35302,),
    )
    assert config["tag"] == "quickstart"
    provenance = json.loads((folder / "model" / "config.json").read_text())
    assert provenance["label_names"][9] == "Ankle boot"
    assert provenance["provenance"]["recipe"]["data"]["root"] is None
    for name in (str(folder), str(folder / "model")):
        root = None if name == str(folder) else load_recipe(folder / "recipe.yaml").data.root
        options = EvaluateOptions(root=root, batch_size=250, workers=0)
        numbers = evaluate(name, "fashion_mnist", options=options)["accuracy"]
        assert (numbers["top1"], numbers["top5"]) == (summary["top1"], summary["top5"])
        assert numbers["loss"] == pytest.approx(summary["val_loss"], rel=1e-12)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_resuming_at_any_epoch_ends_with_the_same_bits(
    epoch: int, finished: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = finished
    summary = train(recipe, tmp_path / "resumed", resume=str(folder / "checkpoints" / f"epoch-{epoch:04d}"))
    assert weights(tmp_path / "resumed") == weights(folder)
    assert summary["best_top1"] == json.loads((folder / "summary.json").read_text())["best_top1"]


def test_regularizers_of_blocks_resume_with_the_same_bits(tiny_recipe: Recipe, tmp_path: Path) -> None:
    settings = RegularizeSettings(shakedrop_prob=0.5, drop_block_rate=0.2, drop_block_size=4)
    recipe = replace(tiny_recipe, regularize=settings)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoints" / "epoch-0002"))
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")


def test_a_checkpoint_starts_a_new_folder_and_never_replaces_one(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = finished
    other = tmp_path / "other"
    short = replace(recipe, schedule=replace(recipe.schedule, epochs=2))
    train(short, str(other))
    before = weights(other)
    with pytest.raises(UserError, match="holds a run already"):
        train(recipe, other, resume=folder / "checkpoints" / "epoch-0001")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metrics.jsonl").write_text("precious")
    with pytest.raises(UserError, match="not an empty folder"):
        train(recipe, tmp_path / "mine", resume=folder / "checkpoints" / "epoch-0001")
    assert (weights(other), (tmp_path / "mine" / "metrics.jsonl").read_text()) == (before, "precious")


def test_a_loose_checkpoint_starts_a_run_of_its_own(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = finished
    shutil.copytree(folder / "checkpoints" / "epoch-0002", tmp_path / "backup" / "epoch-0002")
    (tmp_path / "summary.json").write_text("precious")
    monkeypatch.chdir(tmp_path)
    train(recipe, resume="backup/epoch-0002")
    assert (tmp_path / "summary.json").read_text() == "precious"
    assert weights(tmp_path / "runs" / "quickstart") == weights(folder)


def test_a_relative_checkpoint_goes_on_in_its_own_run(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = finished
    shutil.copytree(folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run" / "checkpoints")
    train(recipe, resume="epoch-0002")
    assert weights(tmp_path / "run") == weights(folder)
    assert sorted(path.name for path in Path().iterdir()) == ["epoch-0001", "epoch-0002", "epoch-0003"]


def validations_find(patch: pytest.MonkeyPatch, **numbers: list[float]) -> None:
    """Let each validation find the next of some numbers in the place of its own."""
    original, following = cutmix_zoo.train.evaluate_accuracy, {key: iter(values) for key, values in numbers.items()}

    def evaluate(*arguments: object, **options: object) -> dict[str, float]:
        found = original(*arguments, **options)
        validation = found["count"] == TEST_IMAGES
        return {**found, **{key: next(values) for key, values in following.items() if validation}}

    patch.setattr(cutmix_zoo.train, "evaluate_accuracy", evaluate)


@pytest.mark.parametrize(("key", "best"), [("top1", 2), ("val_loss", 3)])
def test_the_best_epochs_stay_beside_the_newest(
    key: str, best: int, finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = finished
    runtime = replace(recipe.runtime, keep_checkpoints=1, keep_best=1)
    schedule = replace(recipe.schedule, epochs=5)
    again = replace(recipe, runtime=runtime, schedule=schedule, evaluate=replace(recipe.evaluate, best_by=key))
    validations_find(monkeypatch, top1=[20.0, 50.0, 40.0, 30.0, 30.0], loss=[3.0, 2.0, 1.0, 1.5, 1.2])
    summary = train(again, tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [f"epoch-{best:04d}", "epoch-0005"]
    line = metrics(tmp_path / "run")[best - 1]
    assert (summary["best_epoch"], summary["best_top1"]) == (best, line["top1"])
    assert {key: summary[key] for key in VALIDATED} == {key: metrics(tmp_path / "run")[-1][key] for key in VALIDATED}


def test_a_finished_run_needs_neither_its_data_nor_its_network_any_more(
    finished: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = finished
    monkeypatch.setattr(cutmix_zoo.train, "make_job", None)
    moved = replace(recipe, data=replace(recipe.data, root="nowhere"))
    assert train(moved, folder, resume="auto") == json.loads((folder / "summary.json").read_text())


def test_a_run_without_patience_left_ends_and_says_so(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = finished
    evaluate = replace(recipe.evaluate, patience=2, best_by="val_loss", every=2)
    patient = replace(recipe, evaluate=evaluate, schedule=replace(recipe.schedule, epochs=40))
    validations_find(monkeypatch, loss=[3.0, 1.0, 2.0, 1.5])
    summary = train(patient, tmp_path / "run")
    losses = {line["epoch"]: line["val_loss"] for line in metrics(tmp_path / "run") if line["val_loss"] is not None}
    assert losses == {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5}
    assert (summary["epochs"], summary["val_loss"]) == (8, 1.5)
    assert train(patient, tmp_path / "run", resume="auto") == summary


@pytest.mark.parametrize("key", ["top1", "ema_top1"])
def test_the_best_epoch_is_that_of_the_average_which_is_exported(
    finished: tuple[Recipe, Path], tmp_path: Path, key: str
) -> None:
    recipe, _ = finished
    averaged = replace(recipe, ema=EmaSettings(decay=0.9, warmup=False), evaluate=replace(recipe.evaluate, best_by=key))
    wild = replace(averaged, schedule=replace(recipe.schedule, epochs=4, name="constant"))
    summary = train(wild, tmp_path / "run")
    best = max(metrics(tmp_path / "run"), key=lambda line: line["ema_top1"])
    assert (summary["best_epoch"], summary["best_top1"]) == (best["epoch"], best["ema_top1"])


def test_the_summary_does_not_say_where_a_local_model_lies(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = finished
    model = replace(recipe.model, name=f"local-dir:{folder / 'model'}", pretrained=True)
    train(replace(recipe, model=model, schedule=replace(recipe.schedule, epochs=1)), tmp_path / "run")
    for file in ("summary.json", "model/config.json"):
        assert str(folder) not in (tmp_path / "run" / file).read_text()


def test_a_network_of_a_folder_keeps_the_arguments_that_shaped_it(tiny_recipe: Recipe, tmp_path: Path) -> None:
    short = replace(tiny_recipe, schedule=replace(tiny_recipe.schedule, epochs=1, warmup_epochs=0))
    first = replace(short, model=replace(short.model, name="cifar_resnet20", args={"depth": 14}))
    train(first, tmp_path / "first")
    second = replace(short, model=replace(short.model, name=f"local-dir:{tmp_path}/first/model", pretrained=True))
    train(second, tmp_path / "second")
    assert load_recipe(tmp_path / "second" / "recipe.yaml").model.args == {"depth": 14}
    loaded = timm.create_model(f"local-dir:{tmp_path}/second/model", pretrained=True)
    assert sum(value.numel() for value in loaded.parameters()) == sum(
        value.numel() for value in timm.create_model("cifar_resnet14", in_chans=1, num_classes=10).parameters()
    )


def test_an_average_that_came_later_has_the_best_of_its_own_epochs(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = finished
    averaged = replace(recipe, ema=EmaSettings(decay=0.5), evaluate=replace(recipe.evaluate, best_by="val_loss"))
    checkpoint = folder / "checkpoints" / "epoch-0002"
    validations_find(monkeypatch, loss=[99.0, 98.0])  # worse than those before, of the network and of its average
    summary = train(averaged, tmp_path / "run", resume=checkpoint, allow_changes=True)
    lines = metrics(tmp_path / "run")
    assert min(lines, key=lambda line: line["val_loss"])["epoch"] < 3
    assert (summary["best_epoch"], summary["best_top1"]) == (3, lines[2]["ema_top1"])
    assert ["ema_top1" in line for line in lines] == [False, False, True]


def test_an_average_that_nothing_is_trained_for_is_measured(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, folder = finished
    averaged = replace(recipe, ema=EmaSettings(decay=0.5), schedule=replace(recipe.schedule, epochs=2))
    checkpoint = folder / "checkpoints" / "epoch-0002"
    summary = train(averaged, tmp_path / "run", resume=checkpoint, allow_changes=True)
    before, after = metrics(folder)[1], metrics(tmp_path / "run")[1]
    # the average begins with the weights
    assert after == {**before, **{f"ema_{name}": before[name] for name in VALIDATED}}
    assert {name: summary[name] for name in VALIDATED} == {name: before[name] for name in VALIDATED}
    assert (summary["epochs"], summary["best_epoch"]) == (2, 2)
    assert train(averaged, tmp_path / "run", resume="auto") == summary


def test_a_run_that_is_shortened_is_measured_at_its_new_end(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    runtime = replace(recipe.runtime, keep_checkpoints=4, checkpoint_every_steps=2)
    long = replace(recipe, schedule=replace(recipe.schedule, epochs=4), runtime=runtime)
    long = replace(long, evaluate=replace(recipe.evaluate, every=2))
    train(long, tmp_path / "long")
    checkpoints = tmp_path / "long" / "checkpoints"
    short = replace(long, schedule=replace(recipe.schedule, epochs=3))
    with pytest.raises(
        UserError, match=r"lies within epoch 4, and .* the run is over after epoch 3; resume from the end"
    ):
        train(short, tmp_path / "short", resume=checkpoints / "epoch-0003-step-000002", allow_changes=True)
    assert not (tmp_path / "short").exists()
    summary = train(short, tmp_path / "short", resume=checkpoints / "epoch-0003", allow_changes=True)
    lines = metrics(tmp_path / "short")
    assert [line["top1"] is None for line in lines] == [True, False, False]
    assert [line["top1"] is None for line in metrics(tmp_path / "long")] == [True, False, True, False]
    assert {name: summary[name] for name in VALIDATED} == {name: lines[2][name] for name in VALIDATED}
    numbers = evaluate(str(tmp_path / "short"))["accuracy"]
    assert (numbers["top1"], numbers["top5"]) == (summary["top1"], summary["top5"])
    assert f"after epoch 3: top-1 {summary['top1']:.2f} %" in closing(summary, tmp_path / "short")
    saved = read_progress(tmp_path / "short" / "checkpoints" / "epoch-0003")
    assert saved.metrics == lines, "a resume finds what was measured"


@pytest.mark.parametrize("where", ["make_job", "fit"])
def test_what_does_not_fit_into_memory_is_said_with_what_to_do(
    where: str, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr(cutmix_zoo.train, where, too_large)
    message = r"set runtime.micro_batch .* lower data.batch_size, .* CUDA out of memory. Tried to allocate 20.00 GiB$"
    # one process of several may meet it alone, and has to say so itself
    with pytest.raises(OneProcessError, match=message):
        train(tiny_recipe, tmp_path / "run")
    if where == "fit":
        status = json.loads((tmp_path / "run" / "status.json").read_text())
        assert status["state"] == "failed"
        assert status["reason"].startswith("TooLargeError: the run does not fit into memory: set runtime.micro_batch")


def test_a_rehearsal_that_does_not_fit_into_memory_says_so(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 8, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(UserError, match=r"set runtime.micro_batch"):
        rehearse(tiny_recipe)
    assert "Nothing was written" in rehearse(
        replace(tiny_recipe, runtime=replace(tiny_recipe.runtime, micro_batch="auto"))
    )


def test_checkpoints_within_an_epoch_by_steps_and_by_time(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = finished
    names = []
    original = cutmix_zoo.training.saver.save_checkpoint
    monkeypatch.setattr(
        cutmix_zoo.training.saver, "save_checkpoint", lambda *a: names.append(a[1].name) or original(*a)
    )
    by_steps = replace(recipe.runtime, checkpoint_every_steps=2)
    train(replace(recipe, runtime=by_steps), tmp_path / "steps")
    within = [f"epoch-000{epoch}-step-00000{step}" for epoch in range(3) for step in (2, 4)]
    assert names == sorted([*within, "epoch-0001", "epoch-0002", "epoch-0003"])
    names.clear()
    clock = iter(range(0, 100_000, 21))  # seconds: each look at the clock is 21 later
    monkeypatch.setattr(cutmix_zoo.training.saver.time, "monotonic", lambda: next(clock))
    train(replace(recipe, runtime=replace(recipe.runtime, checkpoint_every_minutes=1.0)), tmp_path / "time")
    assert names == [name for epoch in range(3) for name in (f"epoch-000{epoch}-step-000003", f"epoch-000{epoch + 1}")]
    assert weights(tmp_path / "time") == weights(tmp_path / "steps") == weights(folder)


@pytest.mark.usefixtures("own_accelerator")
def test_half_precision_trains_and_is_measured_in_float32(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import AcceleratorState

    recipe, folder = finished
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    summary = train(recipe, tmp_path / "half")
    numbers = evaluate(str(tmp_path / "half"))["accuracy"]
    AcceleratorState._reset_state(reset_partial_state=True)
    assert summary["mixed_precision"] == "bf16"
    assert weights(tmp_path / "half") != weights(folder)
    assert numbers["top1"] == summary["top1"]
    assert numbers["loss"] == pytest.approx(summary["val_loss"], rel=1e-12)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(UserError, match="mixed_precision bf16 and this launch has no"):
        train(recipe, resume=tmp_path / "half" / "checkpoints" / "epoch-0001")


def test_what_cannot_be_trained_is_said_before_anything_is_written(
    finished: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, _ = finished
    for model, message in [
        (replace(recipe.model, name="vit_tiny_patch16_224"), "does not classify images of data.input_size"),
        (replace(recipe.model, args={"features_only": True}), "gives list where logits"),
        (replace(recipe.model, args={"nonsense": 1}), "cannot make model 'cifar_resnet8' with {'nonsense': 1}"),
        (replace(recipe.model, num_classes=3), "model.num_classes is 3, but fashion_mnist has 10 classes"),
        (replace(recipe.model, in_chans=3), "model.in_chans is 3, but data.input_size has 1 channels"),
    ]:
        with pytest.raises(UserError, match=message):
            train(replace(recipe, model=model), tmp_path / "none")
    broken = replace(recipe, optimizer=replace(recipe.optimizer, args={"nonsense": 1}))
    with pytest.raises(UserError, match="cannot make optimizer 'sgd'"):
        train(broken, tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=f"cannot make {tmp_path / 'file' / 'sub'}: .*choose another folder"):
        train(recipe, tmp_path / "file" / "sub")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_that_only_another_machine_sees(
    finished: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe, _ = finished
    # the main process has found it, and this one looks for it on its own disk
    monkeypatch.setattr(cutmix_zoo.train, "find_start", lambda *_, **__: tmp_path / "epoch-0001")
    with pytest.raises(UserError, match="epoch-0001 is not on this machine: a run of several needs a folder"):
        train(recipe, tmp_path / "run", resume="auto")


def test_a_probe_may_become_a_fine_tuning(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    probe = replace(recipe, model=replace(recipe.model, train="classifier"))
    train(replace(probe, schedule=replace(recipe.schedule, epochs=1)), tmp_path / "run")
    with pytest.warns(UserWarning, match="the optimizer is another one than the checkpoint's: it begins anew"):
        train(recipe, tmp_path / "run", resume="auto", allow_changes=True)
    assert len(metrics(tmp_path / "run")) == recipe.schedule.epochs
    frozen, trained = (
        load_file(tmp_path / "run" / "checkpoints" / f"epoch-{epoch:04d}" / "model.safetensors")["conv1.weight"]
        for epoch in (1, recipe.schedule.epochs)
    )
    assert not torch.equal(frozen, trained)


def test_auto_goes_on_after_an_interruption(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = finished
    run = RunFolder(tmp_path / "run")
    original, calls = cutmix_zoo.train.evaluate_accuracy, 0

    def interrupted(*arguments: object, **options: object) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 4:  # two measurements an epoch: the second epoch is trained and not yet saved
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(cutmix_zoo.train, "evaluate_accuracy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, run.path)
    assert json.loads(run.status_file.read_text())["state"] == "failed", "nothing of the second epoch was saved"
    assert len(metrics(run.path)) == 1
    with pytest.raises(UserError, match="--resume auto"):
        train(recipe, run.path)
    train(recipe, run.path, resume="auto")
    assert weights(run.path) == weights(folder)
    assert [line["epoch"] for line in metrics(run.path)] == [1, 2, 3]
    before = sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*"))
    assert train(recipe, run.path, resume="auto") == run.summary()
    assert sorted((path, path.stat().st_mtime_ns) for path in run.path.rglob("*")) == before


@pytest.mark.parametrize("mix_on", ["device", "collate"])
def test_workers_and_the_place_of_mixing_do_not_change_a_bit(
    mix_on: str, finished: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, folder = finished
    # the finished run had its images on the device
    data = replace(recipe.data, workers=2, resident=False)
    train(replace(recipe, data=data, runtime=replace(recipe.runtime, mix_on=mix_on)), tmp_path / "other")
    assert weights(tmp_path / "other") == weights(folder)


SCHEDULED = Scheduled(
    Chain([Cutout(10, fill=(73.0,)), OneOf([CutMix(), Mixup()], per="sample")]), start=0.2, off_from=0.9
)
MANIFOLD = Chain([Cutout(10, fill=(73.0,)), FeatureMix(Mixup(), [0, 1, 2, 3])])


@pytest.mark.parametrize("mix", [SCHEDULED, MANIFOLD], ids=["scheduled", "manifold"])
def test_methods_made_of_methods_resume_and_move_to_the_collate_without_changing_a_bit(
    mix: MixMethod, finished: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe = replace(finished[0], mix=mix)
    summary = train(recipe, tmp_path / "whole")
    assert load_recipe(tmp_path / "whole" / "recipe.yaml").mix == mix
    assert summary["epochs"] == 3
    train(recipe, tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoints" / "epoch-0001"))
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
    if mix is SCHEDULED:
        options = {"data": replace(recipe.data, workers=1), "runtime": replace(recipe.runtime, mix_on="collate")}
        train(replace(recipe, **options), tmp_path / "collated")
        assert weights(tmp_path / "collated") == weights(tmp_path / "whole")


def test_the_maps_are_mixed_and_checkpointing_mixes_them_again(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(finished[0], mix=FeatureMix(CutMix(), [2]))
    recipe = replace(recipe, schedule=replace(recipe.schedule, epochs=1, warmup_epochs=0))
    train(recipe, tmp_path / "mixed")
    original = cutmix_zoo.training.job.make_network

    def checkpointing(recipe: Recipe) -> torch.nn.Module:
        network = original(recipe)
        network.set_grad_checkpointing()
        return network

    with monkeypatch.context() as patch:
        patch.setattr(cutmix_zoo.training.job, "make_network", checkpointing)
        train(recipe, tmp_path / "checkpointing")
    with monkeypatch.context() as patch:
        patch.setattr(cutmix_zoo.training.loop, "mix_features", lambda model, plan: nullcontext())
        train(recipe, tmp_path / "unmixed")
    mixed, recomputed, unmixed = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("mixed", "checkpointing", "unmixed")
    )
    parameters = [key for key in mixed if "running" not in key and "num_batches" not in key]
    for key in parameters:  # the running statistics are updated twice
        torch.testing.assert_close(recomputed[key], mixed[key])
    assert not torch.equal(unmixed["conv1.weight"], mixed["conv1.weight"])


def test_seed_mixing_and_smoothing_do_change_the_weights(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    short = replace(recipe, schedule=replace(recipe.schedule, epochs=2, warmup_epochs=0.5))
    variants = [
        short,
        replace(short, seed=1),
        replace(short, mix=None),
        replace(short, mix=CutMix(prob=1.0, per="sample")),
        replace(short, regularize=replace(short.regularize, label_smoothing=0.1)),
        replace(short, regularize=replace(short.regularize, drop_rate=0.5)),
        replace(short, regularize=replace(short.regularize, drop_path_rate=0.3)),
        replace(short, regularize=replace(short.regularize, shakedrop_prob=0.5)),
        replace(short, regularize=replace(short.regularize, shakedrop_prob=0.5, shakedrop_per="channel")),
        replace(short, regularize=replace(short.regularize, drop_block_rate=0.2, drop_block_size=4)),
        replace(short, regularize=replace(short.regularize, drop_block_rate=0.2, drop_block_schedule="constant")),
        replace(short, optimizer=replace(short.optimizer, decay_all=False)),
    ]
    for number, variant in enumerate(variants):
        train(variant, tmp_path / str(number))
    assert len({weights(tmp_path / str(number)) for number in range(len(variants))}) == len(variants)


def test_training_learns(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    long = replace(recipe, schedule=replace(recipe.schedule, epochs=25), evaluate=replace(recipe.evaluate, every=10))
    summary = train(long, tmp_path / "long")
    assert summary["top1"] > 80  # chance is 10
    validated = [line["epoch"] for line in metrics(tmp_path / "long") if line["top1"] is not None]
    assert validated == [10, 20, 25]


def test_tensorboard_gets_the_numbers_of_metrics_jsonl(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe, _ = finished
    short = replace(recipe, schedule=replace(recipe.schedule, epochs=2))
    train(replace(short, runtime=replace(short.runtime, trackers=("tensorboard",))), tmp_path / "tb")
    events = EventAccumulator(str(tmp_path / "tb" / "tensorboard" / "cutmix_zoo"))
    events.Reload()
    lines = metrics(tmp_path / "tb")
    for key in ("top1", "lr", "train_loss", "images_per_second"):
        logged = {event.step: event.value for event in events.Scalars(key)}
        assert logged == pytest.approx({line["epoch"]: line[key] for line in lines}), key


def test_trackers_get_the_recipe_without_the_place_of_its_data(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        accelerate.Accelerator, "init_trackers", lambda _, *names, **options: seen.append((names, options))
    )
    short = replace(tiny_recipe, schedule=replace(tiny_recipe.schedule, epochs=1))
    train(replace(short, runtime=replace(short.runtime, trackers=("tensorboard",))), tmp_path / "run")
    ((names, options),) = seen
    assert names == ("cutmix_zoo",)
    for tracker in ("wandb", "trackio"):
        arguments = options["init_kwargs"][tracker]
        assert arguments["name"] == "quickstart/run"
        assert arguments["config"]["data"]["root"] is None
        assert arguments["config"]["optimizer"]["lr"] == short.optimizer.lr


def test_trackers_of_a_run_that_fails_are_finished_too(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[str] = []
    finish = "accelerate.tracking.TensorBoardTracker.finish"
    monkeypatch.setattr(finish, lambda tracker: finished.append(tracker.name))
    wild = replace(tiny_recipe, optimizer=replace(tiny_recipe.optimizer, lr=1e30))
    with pytest.raises(UserError, match="not finite"):
        train(replace(wild, runtime=replace(wild.runtime, trackers=("tensorboard",))), tmp_path / "run")
    assert finished == ["tensorboard"]


def test_a_gradient_that_is_not_finite_stops_the_run_and_says_where(
    finished: tuple[Recipe, Path], tmp_path: Path
) -> None:
    recipe, _ = finished
    wild = replace(recipe, optimizer=replace(recipe.optimizer, lr=1e30))
    place = r"the gradient of epoch 1, step 3 \(learning rate 4e\+29\) is not finite: lower optimizer.lr"
    with pytest.raises(UserError, match=f"{place}.*The last good checkpoint is not written yet"):
        train(wild, tmp_path / "wild")
    assert json.loads((tmp_path / "wild" / "status.json").read_text())["state"] == "failed"
    often = replace(wild, runtime=replace(wild.runtime, checkpoint_every_steps=1))
    with pytest.raises(UserError, match=r"The last good checkpoint is .*/checkpoints/epoch-0000-step-000002\.$"):
        train(often, tmp_path / "often")


def overflow_at(patch: pytest.MonkeyPatch, *passes: int) -> None:
    """Let the gradient of some passes, counted from 1, not be finite; the loss itself is."""
    numbers = itertools.count(1)

    class Overflows(SoftTargetCrossEntropy):
        def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            factor = torch.inf if next(numbers) in passes else 1.0
            x.register_hook(lambda grad: grad * factor)
            return super().forward(x, target)

    patch.setattr(cutmix_zoo.training.loop, "SoftTargetCrossEntropy", Overflows)


def test_bad_gradients_are_skipped_as_often_as_the_recipe_allows(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = finished
    overflow_at(monkeypatch, 4, 7)
    lenient = replace(recipe, optimizer=replace(recipe.optimizer, skip_nonfinite=2))
    train(lenient, tmp_path / "lenient")
    state = json.loads((tmp_path / "lenient" / "checkpoints" / "epoch-0003" / "state.json").read_text())
    assert state["progress"]["skipped"] == 2
    overflow_at(monkeypatch, 4, 7)
    strict = replace(recipe, optimizer=replace(recipe.optimizer, skip_nonfinite=1))
    with pytest.raises(UserError, match=r"epoch 2, step 2 .* is not finite"):
        train(strict, tmp_path / "strict")


def test_an_epoch_whose_only_update_is_left_out(
    finished: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, _ = finished
    overflow_at(monkeypatch, 1)
    whole = replace(recipe, data=replace(recipe.data, batch_size=80), schedule=replace(recipe.schedule, epochs=2))
    train(replace(whole, optimizer=replace(recipe.optimizer, skip_nonfinite=1)), tmp_path / "run")
    assert [line["train_loss"] is None for line in metrics(tmp_path / "run")] == [True, False]
    assert "epoch 1/2  lr " in capsys.readouterr().out


def test_clipping_bounds_how_far_an_update_goes(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, _ = finished
    plain = {"name": "momentum", "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    short = replace(recipe, schedule=replace(recipe.schedule, epochs=1, warmup_epochs=0, name="constant"))
    clipped = replace(short, optimizer=replace(recipe.optimizer, clip_norm=1e-3, **plain))
    train(clipped, tmp_path / "run")
    start = make_network(load_recipe(tmp_path / "run" / "recipe.yaml")).state_dict()
    end = load_file(tmp_path / "run" / "model" / "model.safetensors")
    keys = [key for key in start if "running" not in key and "num_batches" not in key]
    moved = torch.cat([(end[key] - start[key]).flatten() for key in keys]).norm()
    assert 1e-3 < moved <= 5.01e-3  # five updates of 1e-3 each, in directions of their own


def test_without_matplotlib_the_numbers_are_still_there(
    finished: tuple[Recipe, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = finished
    train(recipe, tmp_path / "plain")
    assert not (tmp_path / "plain" / "plots").exists()
    assert weights(tmp_path / "plain") == weights(folder)
    assert "pip install matplotlib" in capsys.readouterr().out


def launch(arguments: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:

    command = [sys.executable, "-m", "accelerate.commands.launch", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def overrides(options: dict[str, str]) -> list[str]:
    return [part for key, value in options.items() for part in (f"--{key}", value)]


def test_two_processes_on_the_cpu_train_into_one_folder(tiny_options: dict[str, str], tmp_path: Path) -> None:
    launcher = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no "
        "--num_cpu_threads_per_process 1 --main_process_port 0 -m"
    )
    on_cpu = {"ACCELERATE_USE_CPU": "true"}
    options = ["--config", "quickstart", *overrides(tiny_options)]
    done = launch([*launcher.split(), "cutmix_zoo.train", *options], on_cpu, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["quickstart"]
    folder = tmp_path / "runs" / "quickstart"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["processes"], summary["val_images"], summary["epochs"]) == (2, 30, 3)
    assert done.stdout.count("timm.create_model(") == 1
    assert done.stdout.count("epoch 1/3") == 1
    assert len(metrics(folder)) == 3
    # one process and two measure the same on the saved weights
    alone = evaluate(str(folder))["accuracy"]
    assert (alone["top1"], alone["top5"]) == (summary["top1"], summary["top5"])
    done = launch([*launcher.split(), "cutmix_zoo.evaluate", str(folder), "--output", "measured"], on_cpu, tmp_path)
    assert done.stdout.count("top1") == 1, done.stderr
    together = json.loads((tmp_path / "measured" / "accuracy.json").read_text())
    assert (together["top1"], together["count"]) == (alone["top1"], 30)
    assert all(torch.isfinite(value).all() for value in load_file(folder / "model" / "model.safetensors").values())


def test_a_launch_that_lost_a_process_is_refused_and_writes_nothing(
    tiny_options: dict[str, str], tmp_path: Path
) -> None:
    arguments = (
        "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --quiet "
        "-m cutmix_zoo.train --config quickstart"
    )
    done = launch(arguments.split(), {}, tmp_path)
    assert done.returncode != 0
    assert "cutmix-zoo train: error: accelerate was asked for several processes" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


IMAGES = {
    "data.input_size": "[3, 16, 16]",
    "data.mean": "[0.5, 0.5, 0.5]",
    "data.std": "[0.25, 0.25, 0.25]",
    "data.batch_size": "6",
    "schedule.epochs": "2",
    "schedule.warmup_epochs": "0.5",
}


@leaves_files_open
def test_a_folder_of_images_trains_a_timm_model(image_folder: Path, tmp_path: Path) -> None:
    options = {
        "data.name": "folder",
        "data.root": str(image_folder),
        "data.crop": "random_resized",
        "data.workers": "0",
    }
    recipe = load_recipe("quickstart", {**IMAGES, **options, "model.name": "test_resnet"})
    summary = train(recipe, tmp_path / "run")
    assert (summary["model"], summary["val_images"], summary["epochs"]) == ("test_resnet", 6, 2)
    model = timm.create_model(f"local-dir:{tmp_path}/run/model", pretrained=True)
    assert model.pretrained_cfg["tag"] == "quickstart"
    assert (model.num_classes, tuple(model.pretrained_cfg["input_size"])) == (3, (3, 16, 16))
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["label_names"] == ["ant", "bee", "cat"]
    assert evaluate(str(tmp_path / "run"), "folder")["accuracy"]["top1"] == summary["top1"]


@leaves_files_open
def test_all_of_another_folder_of_classes_can_be_measured(image_folder: Path, tmp_path: Path) -> None:
    options = {"data.name": "folder", "data.root": str(image_folder), "data.workers": "0", "data.val_fraction": "0.5"}
    recipe = load_recipe("quickstart", {**IMAGES, **options, "data.val_split": "none", "model.name": "test_resnet"})
    train(recipe, tmp_path / "run")
    for split, expected in ((None, ("0.5 of train", 3)), (".", (".", 6))):
        other = EvaluateOptions(root=str(image_folder / "val"), split=split, workers=0)
        found = evaluate(str(tmp_path / "run"), options=other)["accuracy"]
        assert (found["split"], found["count"]) == expected


@leaves_files_open
def test_a_folder_without_validation_images_is_measured_on_what_is_held_out(image_folder: Path, tmp_path: Path) -> None:
    options = {"data.name": "folder", "data.root": str(image_folder), "data.workers": "0", "data.fold": "0/4"}
    recipe = load_recipe("quickstart", {**IMAGES, **options, "data.val_split": "none", "model.name": "test_resnet"})
    summary = train(recipe, tmp_path / "run")
    assert summary["val_images"] == 3
    numbers = evaluate(str(tmp_path / "run"))["accuracy"]
    assert (numbers["top1"], numbers["count"], numbers["split"]) == (summary["top1"], 3, "fold 0/4 of train")
    numbers = evaluate(str(tmp_path / "run"), options=EvaluateOptions(split="val"))["accuracy"]
    assert (numbers["count"], numbers["split"]) == (6, "val")


@leaves_files_open
def test_a_stream_trains_and_repeats(webdataset_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    options = {"data.name": "wds/", "data.root": str(webdataset_folder), "data.workers": "1", "model.num_classes": "3"}
    recipe = load_recipe("quickstart", {**IMAGES, **options, "runtime.mix_on": "collate"})
    summary = train(recipe, tmp_path / "run")
    assert (summary["val_images"], summary["epochs"]) == (24, 2)
    resumed = train(recipe, tmp_path / "resumed", resume=str(tmp_path / "run" / "checkpoints" / "epoch-0001"))
    assert weights(tmp_path / "resumed") == weights(tmp_path / "run")
    assert resumed["top1"] == summary["top1"]
    assert metrics(tmp_path / "run")[-1]["clean_train_top1"] is not None
    exaggerated = replace(recipe, data=replace(recipe.data, val_split="validation-{0..2}.tar|20"))
    with pytest.raises(UserError, match="evaluated 18 images of a split of 20: the dataset does not hold"):
        train(exaggerated, tmp_path / "exaggerated")


ONE = "--cpu --num_processes 1"
TWO = "--multi_gpu --num_processes 2 --num_cpu_threads_per_process 1 --main_process_port 0"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [ONE, TWO])
def test_the_launcher_is_told_to_stop_and_the_run_saves(
    processes: str, tiny_options: dict[str, str], tmp_path: Path
) -> None:
    """A launcher of one process keeps SIGTERM to itself and dies of it; one of several hands it on."""
    arguments = f"{processes} --num_machines 1 --mixed_precision no --dynamo_backend no -m cutmix_zoo.train"
    endless = {**tiny_options, "schedule.epochs": "100000", "evaluate.every": "1000"}
    command = [sys.executable, "-m", "accelerate.commands.launch", *arguments.split(), "--config", "quickstart"]
    command += ["--resume", "auto"]
    environment = {**os.environ, **({"ACCELERATE_USE_CPU": "true"} if processes == TWO else {})}
    folder = tmp_path / "runs" / "quickstart"
    for position in (2, 8):
        launcher = subprocess.Popen(
            [*command, *overrides(endless)], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
        )
        until(lambda: len(metrics(folder)) >= position if (folder / "metrics.jsonl").exists() else False)  # noqa: B023
        launcher.terminate()
        launcher.wait(60)
        until(lambda: json.loads((folder / "status.json").read_text())["state"] == "preempted")
        assert "stopped by SIGTERM" in json.loads((folder / "status.json").read_text())["reason"]


def until(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
