import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.store import file_sha256
from cutmix_zoo.training.checkpoint import Progress, TrainState, list_checkpoints, save_checkpoint
from cutmix_zoo.training.files import read_json, write_json, write_lines
from cutmix_zoo.training.recipe import load_recipe, recipe_dict
from cutmix_zoo.training.run import RunFolder, begin, find_start, finished_by, read_start
from cutmix_zoo.training.settings import Recipe


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("quickstart")


def launch(recipe: Recipe) -> Progress:
    return Progress(recipe_dict(recipe))


def make_run(path: Path, recipe: Recipe, epochs: int, world_size: int = 1) -> RunFolder:
    folder = RunFolder(path)
    path.mkdir()
    begin(folder, recipe, launch(recipe))
    model = nn.Linear(1, 1)
    for epoch in range(1, epochs + 1):
        lines = [{"epoch": number + 1} for number in range(epoch)]
        progress = replace(launch(recipe), metrics=lines, world_size=world_size)
        write_lines(folder.metrics_file, progress.metrics)
        save_checkpoint(folder.checkpoints, progress, TrainState(model, torch.optim.SGD(model.parameters())))
    return folder


def test_a_new_or_empty_folder_starts_from_the_beginning(tmp_path: Path, recipe: Recipe) -> None:
    for path in (tmp_path / "new", tmp_path):
        assert find_start(RunFolder(path), launch(recipe), None) is None
        assert find_start(RunFolder(path), launch(recipe), "auto") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused_without_resume(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1)
    with pytest.raises(UserError, match=r"holds a run already.*--resume auto.*--output"):
        find_start(folder, launch(recipe), None)


@pytest.mark.parametrize("resume", [None, "auto"])
def test_foreign_files_are_never_built_over(tmp_path: Path, recipe: Recipe, resume: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not an empty folder and not a run"):
        find_start(RunFolder(tmp_path), launch(recipe), resume)
    with pytest.raises(UserError, match="not an empty folder and not a run"):
        find_start(RunFolder(tmp_path / "thesis.tex"), launch(recipe), resume)


def test_auto_takes_the_newest_checkpoint_and_a_path_the_one_it_names(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=3)
    assert find_start(folder, launch(recipe), "auto") == folder.checkpoints / "epoch-0003"
    second = folder.checkpoints / "epoch-0002"
    assert find_start(folder, launch(recipe), str(second)) == second
    with pytest.raises(UserError, match="is not a checkpoint"):
        find_start(folder, launch(recipe), str(tmp_path))


def test_another_recipe_is_refused_with_the_difference(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1)
    other = replace(recipe, optimizer=replace(recipe.optimizer, lr=0.5))
    for resume in ("auto", str(folder.checkpoints / "epoch-0001")):
        with pytest.raises(UserError, match=f"optimizer.lr: {recipe.optimizer.lr} -> 0.5"):
            find_start(folder, launch(other), resume)
    harmless = replace(recipe, name="x", data=replace(recipe.data, workers=7, root="/elsewhere"))
    assert find_start(folder, launch(harmless), "auto") is not None


def test_another_number_of_processes_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1, world_size=2)
    with pytest.raises(UserError, match="written with world_size 2 and this launch has 1"):
        find_start(folder, launch(recipe), "auto")


def test_what_patience_looks_at_may_not_change(tmp_path: Path, recipe: Recipe) -> None:
    patient = replace(recipe, evaluate=replace(recipe.evaluate, patience=3))
    folder = make_run(tmp_path / "run", patient, epochs=1)
    other = replace(patient, evaluate=replace(patient.evaluate, best_by="val_loss"))
    with pytest.raises(UserError, match=r"evaluate.best_by: top1 -> val_loss"):
        find_start(folder, launch(other), "auto")


def test_settings_that_are_tuples_are_those_that_were_saved(tmp_path: Path, recipe: Recipe) -> None:
    args = {"betas": (0.9, 0.95)}
    adam = replace(recipe, optimizer=replace(recipe.optimizer, name="adamw", args=args))
    folder = make_run(tmp_path / "run", adam, epochs=1)
    assert find_start(folder, launch(adam), "auto") == folder.checkpoints / "epoch-0001"
    other = replace(adam, optimizer=replace(adam.optimizer, args={"betas": (0.9, 0.99)}))
    with pytest.raises(UserError, match=r"optimizer.args.betas: \[0.9, 0.95\] -> \[0.9, 0.99\]"):
        find_start(folder, launch(other), "auto")


def test_changes_can_be_allowed(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1, world_size=2)
    other = launch(replace(recipe, optimizer=replace(recipe.optimizer, lr=0.5)))
    for resume in ("auto", str(folder.checkpoints / "epoch-0001")):
        assert find_start(folder, other, resume, allow_changes=True) == folder.checkpoints / "epoch-0001"


def test_a_checkpoint_of_an_earlier_version_lacks_keys_that_were_added_since(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1)
    checkpoint = folder.checkpoints / "epoch-0001"
    state = read_json(checkpoint / "state.json")
    del state["progress"]["recipe"]["data"]["balanced"], state["progress"]["recipe"]["ema"]
    write_json(checkpoint / "state.json", state)
    sums = read_json(checkpoint / "checksums.json")
    write_json(checkpoint / "checksums.json", {**sums, "state.json": file_sha256(checkpoint / "state.json")})
    assert find_start(folder, launch(recipe), "auto") == checkpoint
    assert read_start(checkpoint).recipe == recipe_dict(recipe)
    balanced = replace(recipe, data=replace(recipe.data, balanced=True))
    with pytest.raises(UserError, match=r"data.balanced: False -> True"):
        find_start(folder, launch(balanced), "auto")


def test_a_finished_run_is_known_by_its_recipe_before_that_is_resolved(tmp_path: Path, recipe: Recipe) -> None:
    resolved = replace(recipe, data=replace(recipe.data, input_size=(1, 28, 28), mean=(0.3,), std=(0.4,)))
    folder = make_run(tmp_path / "run", resolved, epochs=1)
    assert finished_by(folder, recipe, 1, "no") is None
    summary = {"top1": 91.0, "processes": 1, "mixed_precision": "no"}
    write_json(folder.summary_file, summary)
    moved = replace(recipe, data=replace(recipe.data, root="elsewhere"))
    for same in (recipe, resolved, moved):
        assert finished_by(folder, same, 1, "no") == summary
        assert finished_by(folder, same, 2, "no") is finished_by(folder, same, 1, "bf16") is None
    for other in (replace(recipe, seed=1), replace(recipe, data=replace(recipe.data, mean=(0.1,)))):
        assert finished_by(folder, other, 1, "no") is None


def test_another_number_of_training_images_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1)
    with pytest.raises(UserError, match="written with train_images 0 and this launch has 80; --allow-changes"):
        find_start(folder, replace(launch(recipe), train_images=80), "auto")


def test_what_a_launch_leaves_that_was_killed_at_once_is_no_hindrance(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "recipe.yaml.part").write_text("# resol")
    assert find_start(RunFolder(tmp_path), launch(recipe), "auto") is None


def test_going_back_forgets_what_came_after(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=3)
    begin(folder, recipe, replace(launch(recipe), metrics=[{"epoch": 1}, {"epoch": 2}]))
    assert folder.metrics_file.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert [file.name for file in list_checkpoints(folder.checkpoints)] == ["epoch-0001", "epoch-0002"]
    assert read_json(folder.status_file) == {"state": "running", "reason": ""}


def test_what_came_after_is_deleted_from_its_end(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=3)
    folder.summary_file.write_text("{}")

    def interrupted(checkpoint: Path) -> None:
        if checkpoint.name == "epoch-0002":
            raise KeyboardInterrupt
        shutil.rmtree(checkpoint)

    monkeypatch.setattr("cutmix_zoo.training.run.delete_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        begin(folder, recipe, launch(recipe))
    assert [file.name for file in list_checkpoints(folder.checkpoints)] == ["epoch-0001", "epoch-0002"]
    assert folder.summary() is None


def test_the_resolved_recipe_loads_again(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=0)
    assert load_recipe(folder.recipe_file) == recipe
    assert folder.summary() is None


def test_a_checkpoint_knows_its_recipe_wherever_it_lies(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1)
    loose = (folder.checkpoints / "epoch-0001").rename(tmp_path / "loose")
    new = RunFolder(tmp_path / "new")
    assert find_start(new, launch(recipe), str(loose)) == loose
    with pytest.raises(UserError, match="seed: 0 -> 9"):
        find_start(new, launch(replace(recipe, seed=9)), str(loose))
    with pytest.raises(UserError, match="mixed_precision no and this launch has bf16"):
        find_start(new, replace(launch(recipe), mixed_precision="bf16"), str(loose))


def test_the_workers_of_a_stream_may_not_change(tmp_path: Path, recipe: Recipe) -> None:
    stream = replace(recipe, data=replace(recipe.data, name="wds/"))
    folder = make_run(tmp_path / "run", stream, epochs=1)
    other = replace(stream, data=replace(stream.data, workers=7))
    with pytest.raises(UserError, match=r"data.workers: 2 -> 7"):
        find_start(folder, launch(other), "auto")
