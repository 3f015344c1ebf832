from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.checkpoint import Progress, list_checkpoints, save_checkpoint
from cutmix_zoo.training.files import read_json, write_lines
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.run import RunFolder, begin, find_start
from cutmix_zoo.training.settings import Recipe


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("quickstart")


def make_run(path: Path, recipe: Recipe, epochs: int, world_size: int = 1) -> RunFolder:
    folder = RunFolder(path)
    begin(folder, recipe, Progress())
    model = nn.Linear(1, 1)
    for epoch in range(1, epochs + 1):
        progress = Progress([{"epoch": number + 1} for number in range(epoch)], world_size=world_size)
        write_lines(folder.metrics_file, progress.metrics)
        save_checkpoint(folder.checkpoints, progress, model, torch.optim.SGD(model.parameters()), {})
    return folder


def test_a_new_or_empty_folder_starts_from_the_beginning(tmp_path: Path, recipe: Recipe) -> None:
    for path in (tmp_path / "new", tmp_path):
        assert find_start(RunFolder(path), recipe, None, 1) is None
        assert find_start(RunFolder(path), recipe, "auto", 1) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused_without_resume(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1)
    with pytest.raises(UserError, match=r"holds a run already.*--resume auto.*--output"):
        find_start(folder, recipe, None, 1)


@pytest.mark.parametrize("resume", [None, "auto"])
def test_foreign_files_are_never_built_over(tmp_path: Path, recipe: Recipe, resume: str | None) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not an empty folder and not a run"):
        find_start(RunFolder(tmp_path), recipe, resume, 1)
    with pytest.raises(UserError, match="not an empty folder and not a run"):
        find_start(RunFolder(tmp_path / "thesis.tex"), recipe, resume, 1)


def test_auto_takes_the_newest_checkpoint_and_a_path_the_one_it_names(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=3)
    assert find_start(folder, recipe, "auto", 1) == folder.checkpoints / "epoch-0003"
    second = folder.checkpoints / "epoch-0002"
    assert find_start(folder, recipe, str(second), 1) == second
    with pytest.raises(UserError, match="is not a checkpoint"):
        find_start(folder, recipe, str(tmp_path), 1)


def test_another_recipe_is_refused_with_the_difference(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1)
    other = replace(recipe, optimizer=replace(recipe.optimizer, lr=0.5))
    for resume in ("auto", str(folder.checkpoints / "epoch-0001")):
        with pytest.raises(UserError, match=f"optimizer.lr: {recipe.optimizer.lr} -> 0.5"):
            find_start(folder, other, resume, 1)
    harmless = replace(recipe, name="x", data=replace(recipe.data, workers=7, root="/elsewhere"))
    assert find_start(folder, harmless, "auto", 1) is not None


def test_another_number_of_processes_is_refused(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=1, world_size=2)
    with pytest.raises(UserError, match="written by 2 processes and this launch has 1"):
        find_start(folder, recipe, "auto", 1)


def test_going_back_forgets_what_came_after(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=3)
    begin(folder, recipe, Progress([{"epoch": 1}, {"epoch": 2}]))
    assert folder.metrics_file.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    assert [file.name for file in list_checkpoints(folder.checkpoints)] == ["epoch-0001", "epoch-0002"]
    assert read_json(folder.status_file) == {"state": "running", "reason": ""}


def test_the_resolved_recipe_loads_again(tmp_path: Path, recipe: Recipe) -> None:
    folder = make_run(tmp_path / "run", recipe, epochs=0)
    assert load_recipe(folder.recipe_file) == recipe
    assert folder.summary() is None
