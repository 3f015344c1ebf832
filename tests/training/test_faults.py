"""Runs that are killed, told to stop, or robbed of their disk: nothing is lost, and the end is the same to the bit."""

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import cutmix_zoo.train
from cutmix_zoo.errors import Preempted, SampleError, UserError
from cutmix_zoo.train import train
from cutmix_zoo.training.checkpoint import check_checkpoint, list_checkpoints
from cutmix_zoo.training.job import Job
from cutmix_zoo.training.recipe import load_recipe
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.training.settings import EmaSettings, Recipe, RegularizeSettings
from tests.processes import start, start_ranks, wait
from tests.stand_ins import without_pictures

TIMES = ("images_per_second",)
DAMAGES: dict[str, Callable[[Path], object]] = {
    "half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "missing": Path.unlink,
}


@pytest.fixture(scope="module")
def recipe(tiny_options: dict[str, str]) -> Recipe:
    """Three epochs of five steps, all that draws random numbers or keeps state, a checkpoint after each step."""
    options = {
        "mix.per": "sample",
        "ema.decay": "0.9",
        "optimizer.clip_norm": "1.0",
        "runtime.micro_batch": "6",
        "runtime.checkpoint_every_steps": "1",
    }
    recipe = load_recipe("quickstart", {**tiny_options, **options})
    return replace(recipe, regularize=RegularizeSettings(shakedrop_prob=0.5, drop_rate=0.2, drop_block_rate=0.1))


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> object:
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        yield


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe, folder)
    torch.set_num_threads(threads)
    return folder


def result(folder: Path) -> tuple[bytes, list[dict[str, float]]]:
    """What a run comes to: weights and metrics, but for what a clock measured."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return (folder / "model" / "model.safetensors").read_bytes(), [
        {key: value for key, value in line.items() if key not in TIMES} for line in lines
    ]


def state(folder: Path) -> dict[str, str]:
    return json.loads((folder / "status.json").read_text())


def at_file_operation(folder: Path, count: int, act: Callable[[], object]) -> None:
    """Do something in front of the ``count``-th operation on the files of a run, in this process."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            seen += str(folder) in str(arguments[0])
            if seen == count:
                seen += 1
                act()

    sys.addaudithook(hook)


def train_alone(recipe: Recipe, folder: Path, kill_at: int = 0, fill_disk_at: int = 0) -> None:
    """Train in a child process, which may come to grief in front of some file operation."""
    without_pictures(pytest.MonkeyPatch())
    if kill_at:
        at_file_operation(folder, kill_at, partial(os.kill, os.getpid(), signal.SIGKILL))
    if fill_disk_at:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what pytest captures is a file, which may not grow either
        limit = (2000, resource.RLIM_INFINITY)
        at_file_operation(folder, fill_disk_at, partial(resource.setrlimit, resource.RLIMIT_FSIZE, limit))
    train(recipe, folder, resume="auto")


def kill_often(recipe: Recipe, whole: Path, tmp_path: Path, kills: int) -> None:
    """Kill runs, half of them in the midst of file operations, half of them anywhere, until enough have died."""
    rng, died, finished, saved = random.Random(kills), 0, 0, 0
    folder = tmp_path / "run-0"
    while died < kills:
        at = rng.randrange(1, 120)
        process = start(partial(train_alone, recipe, folder, kill_at=at if at % 2 else 0))
        process.join(rng.uniform(0.1, 1.3))
        process.kill()
        process.join()
        if process.exitcode == 0:
            assert result(folder) == result(whole)
            finished += 1
            folder = tmp_path / f"run-{finished}"
        else:
            assert process.exitcode == -signal.SIGKILL
            died += 1
            checkpoints = list_checkpoints(folder / "checkpoints")
            for checkpoint in checkpoints:
                check_checkpoint(checkpoint)
            saved += bool(checkpoints)
    assert saved, "every process died before it had trained"
    train(recipe, folder, resume="auto")
    assert result(folder) == result(whole)


def test_kills_anywhere(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    kill_often(recipe, whole, tmp_path, kills=24)


@pytest.mark.slow
def test_many_kills_anywhere(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    kill_often(recipe, whole, tmp_path, kills=100)


@pytest.mark.parametrize("damage", [pytest.param(damage, id=f"{name}") for name, damage in DAMAGES.items()])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    name: str, damage: Callable[[Path], object], recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    stopped_at(2, recipe, folder.path)
    older, newest = list_checkpoints(folder.checkpoints)
    damage(newest / name)
    if name == "checksums.json" and not (newest / name).exists():
        train(recipe, folder.path, resume="auto")  # without its last file it is not a checkpoint
    else:
        with pytest.warns(UserWarning, match=f"{newest.name}/{name} is .*damaged.* Going back to an earlier one"):
            train(recipe, folder.path, resume="auto")
    assert older.name < newest.name
    assert result(folder.path) == result(whole)


def test_where_every_checkpoint_is_damaged_nothing_is_thrown_away(recipe: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    stopped_at(2, recipe, folder.path)
    for checkpoint in list_checkpoints(folder.checkpoints):
        (checkpoint / "optimizer.safetensors").unlink()
    before = {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}
    with (
        pytest.warns(UserWarning, match="Going back"),
        pytest.raises(UserError, match=r"missing or damaged .* No earlier one is sound; to begin anew, choose another"),
    ):
        train(recipe, folder.path, resume="auto")
    assert {file: file.read_bytes() for file in folder.path.rglob("*") if file.is_file()} == before


def stopped_at(step: int, recipe: Recipe, folder: Path, number: int = signal.SIGTERM) -> Preempted:
    """Train until a signal arrives within a step, the ``step``-th of this launch."""
    original, steps = cutmix_zoo.training.loop.mixed_accuracy, 0

    def signalled(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), number)
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutmix_zoo.training.loop, "mixed_accuracy", signalled)
        with pytest.raises(Preempted) as stop:
            train(recipe, folder, resume="auto")
    return stop.value


@pytest.mark.parametrize("mix_on", ["device", "collate"])
@pytest.mark.parametrize("workers", [0, 2])
def test_signals_at_any_step_cost_nothing(
    mix_on: str, workers: int, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    # nothing is saved but because of the signals
    runtime = replace(recipe.runtime, mix_on=mix_on, checkpoint_every_steps=None)
    recipe = replace(recipe, data=replace(recipe.data, workers=workers, resident=False), runtime=runtime)
    places = []
    for step, number in ((1, signal.SIGTERM), (4, signal.SIGINT), (5, signal.SIGTERM), (3, signal.SIGTERM)):
        stop = stopped_at(step, recipe, folder, number)
        assert stop.signal == number
        places.append(sorted(path.name for path in (folder / "checkpoints").iterdir())[-1])
        assert state(folder)["state"] == "preempted"
        assert f"stopped by {signal.Signals(number).name} in epoch" in state(folder)["reason"]
        assert f"saved as {folder / 'checkpoints' / places[-1]}; --resume auto" in str(stop)
    # one step, then four: the end of an epoch before its evaluation
    assert places == [
        "epoch-0000-step-000001",
        "epoch-0000-step-000005",
        "epoch-0001-step-000005",
        "epoch-0002-step-000003",
    ]
    train(recipe, folder, resume="auto")
    assert result(folder) == result(whole)
    assert state(folder)["state"] == "finished"


def stop_the_group(recipe: Recipe, folder: Path, number: signal.Signals) -> None:
    """Signal a run and its loaders' workers at once, in the midst of an evaluation."""
    os.setpgrp()
    prepare, patch, prepared = Job.prepare, pytest.MonkeyPatch(), 0

    def signalled(job: Job, images: torch.Tensor) -> torch.Tensor:
        nonlocal prepared
        prepared += not job.network.training
        if prepared == 2:
            os.killpg(0, number)
            time.sleep(0.5)
        return prepare(job, images)

    without_pictures(patch)
    patch.setattr(Job, "prepare", signalled)
    with pytest.raises(Preempted):
        train(recipe, folder, resume="auto")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_leaves_the_workers_at_work(
    number: signal.Signals, recipe: Recipe, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    data, evaluate = replace(recipe.data, workers=2, resident=False), replace(recipe.evaluate, batch_size=2)
    recipe = replace(recipe, data=data, evaluate=evaluate)
    assert wait([start(partial(stop_the_group, recipe, folder, number))]) == [0]
    assert capfd.readouterr().err.count("stopping and saving") <= 1, "no worker says it too"
    assert list_checkpoints(folder / "checkpoints")[-1].name == "epoch-0000-step-000005"
    train(recipe, folder, resume="auto")
    assert result(folder)[0] == result(whole)[0]


def test_weights_may_be_averaged_from_a_checkpoint_on_and_a_finished_run_made_longer(
    recipe: Recipe, tmp_path: Path
) -> None:
    plain = replace(recipe, ema=EmaSettings(), schedule=replace(recipe.schedule, epochs=1))
    train(plain, tmp_path / "run")
    longer = replace(recipe, schedule=replace(recipe.schedule, epochs=2))
    summary = train(longer, tmp_path / "run", resume="auto", allow_changes=True)
    assert (summary["epochs"], summary["best_epoch"]) == (2, 2)


def test_a_full_disk_is_said_and_costs_nothing(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")

    assert wait([start(partial(train_alone, recipe, folder.path, fill_disk_at=60))]) == [1]
    last = list_checkpoints(folder.checkpoints)[-1]
    message = f"cannot write to {folder.path}: [Errno 27] File too large. The last good checkpoint is {last}; --resume"
    assert message in state(folder.path)["reason"]
    assert state(folder.path)["state"] == "failed"
    assert not list(folder.checkpoints.glob("*.part"))
    train(recipe, folder.path, resume="auto")
    assert result(folder.path) == result(whole)


def train_and_stop(recipe: Recipe, folder: Path) -> None:
    """Stop a run of two processes by a signal that only the second one gets."""
    if os.environ["RANK"] == "1":
        stopped_at(7, recipe, folder)
    else:
        with pytest.raises(Preempted, match="stopped by another process in epoch 2 after step 2"):
            train(recipe, folder, resume="auto")


def test_two_processes_stop_together_and_go_on_with_the_same_bits(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, runtime=replace(recipe.runtime, checkpoint_every_steps=None))
    assert wait(start_ranks(partial(train_alone, recipe, tmp_path / "whole"))) == [0, 0]
    assert wait(start_ranks(partial(train_and_stop, recipe, tmp_path / "resumed"))) == [0, 0]
    assert [path.name for path in list_checkpoints(tmp_path / "resumed" / "checkpoints")] == [
        "epoch-0001",
        "epoch-0001-step-000002",
    ]
    assert wait(start_ranks(partial(train_alone, recipe, tmp_path / "resumed"))) == [0, 0]
    assert result(tmp_path / "resumed") == result(tmp_path / "whole")
    with pytest.raises(UserError, match="written with world_size 2 and this launch has 1"):
        train(recipe, tmp_path / "other", resume=tmp_path / "whole" / "checkpoints" / "epoch-0003")


def go_on_from(recipe: Recipe, folder: Path, checkpoint: Path) -> None:
    without_pictures(pytest.MonkeyPatch())
    train(recipe, folder, resume=checkpoint)


def test_three_processes_go_on_to_the_bit(recipe: Recipe, tmp_path: Path) -> None:
    """The order in which three numbers are added up depends on how torch has grouped the gradients."""
    recipe = replace(recipe, data=replace(recipe.data, batch_size=15), schedule=replace(recipe.schedule, epochs=1))
    recipe = replace(recipe, runtime=replace(recipe.runtime, keep_checkpoints=4))
    assert wait(start_ranks(partial(train_alone, recipe, tmp_path / "whole"), 3)) == [0, 0, 0]
    checkpoint = list_checkpoints(tmp_path / "whole" / "checkpoints")[0]
    assert checkpoint.name == "epoch-0000-step-000003"
    assert wait(start_ranks(partial(go_on_from, recipe, tmp_path / "again", checkpoint), 3)) == [0, 0, 0]
    assert result(tmp_path / "again") == result(tmp_path / "whole")


def measure_and_stop(recipe: Recipe, folder: Path) -> None:
    """Stop a run of two processes by a signal that only the second one gets, in the midst of an evaluation."""
    prepare, patch = Job.prepare, pytest.MonkeyPatch()

    def signalled(job: Job, images: torch.Tensor) -> torch.Tensor:
        if os.environ["RANK"] == "1" and not job.network.training:
            os.kill(os.getpid(), signal.SIGTERM)
        return prepare(job, images)

    without_pictures(patch)
    patch.setattr(Job, "prepare", signalled)
    with pytest.raises(Preempted, match="in epoch 1 after step 5"):
        train(recipe, folder)


def test_a_signal_within_an_evaluation_does_not_wait_for_its_end(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, runtime=replace(recipe.runtime, checkpoint_every_steps=None))
    assert wait(start_ranks(partial(measure_and_stop, recipe, tmp_path / "run"))) == [0, 0]
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["epoch-0000-step-000005"]
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


def meet_a_damaged_image(recipe: Recipe, folder: Path) -> None:
    """Let the second of two processes find an image damaged, in the midst of an evaluation."""
    prepare, patch = Job.prepare, pytest.MonkeyPatch()

    def damaged(job: Job, images: torch.Tensor) -> torch.Tensor:
        if os.environ["RANK"] == "1" and not job.network.training:
            raise SampleError("image 7 is damaged")
        return prepare(job, images)

    without_pictures(patch)
    patch.setattr(Job, "prepare", damaged)
    # the first one loses the second
    with pytest.raises(SampleError if os.environ["RANK"] == "1" else RuntimeError):
        train(recipe, folder)


def test_an_evaluation_that_fails_costs_no_training_and_leaves_its_reason(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, runtime=replace(recipe.runtime, checkpoint_every_steps=None))
    assert wait(start_ranks(partial(meet_a_damaged_image, recipe, tmp_path / "run"))) == [0, 0]
    assert state(tmp_path / "run") == {"state": "failed", "reason": "SampleError: image 7 is damaged"}
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["epoch-0000-step-000005"]
    assert wait(start_ranks(partial(train_alone, recipe, tmp_path / "run"))) == [0, 0]
    assert state(tmp_path / "run")["state"] == "finished"


def test_what_went_wrong_first_is_said_where_nothing_can_be_saved(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise SampleError("image 7 is damaged")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(cutmix_zoo.train, "evaluate_accuracy", damaged)
    monkeypatch.setattr("cutmix_zoo.training.saver.save_checkpoint", full)
    runtime = replace(recipe.runtime, checkpoint_every_steps=None)
    with pytest.raises(SampleError, match="image 7"):
        train(replace(recipe, runtime=runtime), tmp_path / "run")
    assert state(tmp_path / "run")["reason"] == "SampleError: image 7 is damaged"


def run_out_of_disk(recipe: Recipe, folder: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write to .* The last good checkpoint is"):
        train_alone(recipe, folder, fill_disk_at=60)


def test_a_full_disk_of_one_process_stops_both(recipe: Recipe, tmp_path: Path) -> None:
    assert wait(start_ranks(partial(run_out_of_disk, recipe, tmp_path / "run"))) == [0, 0]
    assert state(tmp_path / "run")["state"] == "failed"


def test_another_optimizer_may_go_on(recipe: Recipe, tmp_path: Path) -> None:
    stopped_at(7, recipe, tmp_path / "run")
    slower = replace(recipe, optimizer=replace(recipe.optimizer, weight_decay=0.3))
    train(slower, tmp_path / "run", resume="auto", allow_changes=True)
    other = replace(recipe, optimizer=replace(recipe.optimizer, name="adamw", lr=1e-3))
    earlier, _ = list_checkpoints(tmp_path / "run" / "checkpoints")
    with pytest.warns(UserWarning, match="the optimizer is another one"):
        train(other, tmp_path / "run", resume=earlier, allow_changes=True)
    assert state(tmp_path / "run")["state"] == "finished"


def test_changes_that_are_allowed_and_those_that_cannot_be(recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, runtime=replace(recipe.runtime, checkpoint_every_steps=None))
    assert wait(start_ranks(partial(train_and_stop, recipe, tmp_path / "run"))) == [0, 0]
    checkpoint = tmp_path / "run" / "checkpoints" / "epoch-0001-step-000002"
    smaller = replace(recipe, data=replace(recipe.data, batch_size=8))
    message = "lies within an epoch of 80 images in batches of 16, and there are 80 in batches of 8 now"
    with pytest.raises(UserError, match=message):
        train(smaller, tmp_path / "smaller", resume=checkpoint, allow_changes=True)
    # one process counts what two have added up
    gentle = replace(recipe, optimizer=replace(recipe.optimizer, lr=1e-9))
    train(gentle, tmp_path / "alone", resume=checkpoint, allow_changes=True)
    sums = json.loads((checkpoint / "state.json").read_text())["progress"]["sums"]
    (_, second, _) = result(tmp_path / "alone")[1]
    assert sum(count for _, _, count in sums) == 32
    assert second["mixed_top1"] * 80 >= sum(hits for _, hits, _ in sums) - 1e-6
    assert load_recipe(tmp_path / "alone" / "recipe.yaml").optimizer.lr == 1e-9
