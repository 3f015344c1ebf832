import errno
import gc
import os
from pathlib import Path

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from cutmix_zoo.errors import UserError
from cutmix_zoo.training.checkpoint import (
    Progress,
    TrainState,
    check_checkpoint,
    delete_checkpoint,
    list_checkpoints,
    load_checkpoint,
    position,
    prune_checkpoints,
    read_progress,
    save_checkpoint,
)


class Scaler:
    """Keeps its state as torch's GradScaler does, of which there is none without a GPU."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale = state["scale"]


def make(optimizer: str, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.default_generator.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(2, 2, 6, 5))
    model = model.to(memory_format=torch.channels_last)
    return model, create_optimizer_v2(model, optimizer, lr=0.1, weight_decay=1e-3)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(4, 2, 6, 5, generator=torch.Generator().manual_seed(seed))
    model(images.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw", "lamb"])
def test_going_on_from_a_checkpoint_is_going_on(name: str, tmp_path: Path) -> None:
    model, optimizer = make(name)
    step(model, optimizer, 0)
    progress = Progress(
        {"seed": 1}, [{"epoch": 1, "top1": 12.5, "val_loss": None}], images=4, seconds=0.5, world_size=2
    )
    checkpoint = save_checkpoint(tmp_path, progress, TrainState(model, optimizer, Scaler(2.0)))
    step(model, optimizer, 1)

    other, other_optimizer = make(name, seed=9)
    scaler = Scaler(1.0)
    load_checkpoint(checkpoint, TrainState(other, other_optimizer, scaler))
    assert scaler.scale == 2.0
    assert read_progress(checkpoint) == progress
    step(other, other_optimizer, 1)
    for (key, value), again in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), key
    buffers = zip(optimizer.state.values(), other_optimizer.state.values(), strict=True)
    for before, after in buffers:
        for key, value in before.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after[key])), key
            if isinstance(value, torch.Tensor):
                assert value.stride() == after[key].stride(), key
    assert [g["lr"] for g in optimizer.param_groups] == [g["lr"] for g in other_optimizer.param_groups]


def test_averaged_weights_come_along_and_begin_with_the_weights_where_there_were_none(tmp_path: Path) -> None:
    (model, optimizer), (average, _) = make("sgd"), make("sgd", seed=1)
    other, other_optimizer = make("sgd", seed=2)
    restored, _ = make("sgd", seed=3)
    for saved, expected in ((average, average), (None, model)):
        checkpoint = save_checkpoint(tmp_path, Progress({}), TrainState(model, optimizer, average=saved))
        load_checkpoint(checkpoint, TrainState(other, other_optimizer, average=restored))
        for key, value in expected.state_dict().items():
            assert torch.equal(restored.state_dict()[key], value), key
        load_checkpoint(checkpoint, TrainState(other, other_optimizer))  # a run that averages no more


def test_no_file_of_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, Progress({}, [{}] * 3), TrainState(*make("sgd")))
    assert checkpoint.name == "epoch-0003"
    assert sorted(file.suffix for file in checkpoint.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]


def test_half_written_checkpoints_are_not_listed_and_old_ones_pruned(tmp_path: Path) -> None:
    model, optimizer = make("sgd")
    for epoch in (1, 2, 10):
        save_checkpoint(tmp_path, Progress({}, [{}] * epoch), TrainState(model, optimizer))
    (tmp_path / "epoch-0011.part").mkdir()
    (tmp_path / "epoch-0011.part" / "checksums.json").write_text("{}")
    (tmp_path / "epoch-0012").mkdir()
    assert [file.name for file in list_checkpoints(tmp_path)] == ["epoch-0001", "epoch-0002", "epoch-0010"]
    prune_checkpoints(tmp_path, keep=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch-0002", "epoch-0010"]


@pytest.mark.parametrize("fails", [False, True])
def test_one_of_the_same_name_stays_until_the_new_one_is_there(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = make("sgd")
    before = save_checkpoint(tmp_path, Progress({}, step=1), TrainState(model, optimizer))
    step(model, optimizer, 0)
    replace, renamed = Path.replace, []

    def interrupted(source: Path, target: Path) -> Path:
        if source.suffix == ".part":
            # whatever ends the process here leaves the old one, complete
            (old,) = list_checkpoints(tmp_path)
            check_checkpoint(old)
            renamed.append(old.name)
            if fails:
                raise OSError("no space left on device")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    if fails:
        with pytest.raises(OSError, match="no space left"):
            save_checkpoint(tmp_path, Progress({}, step=1), TrainState(model, optimizer))
    else:
        save_checkpoint(tmp_path, Progress({}, step=1), TrainState(model, optimizer))
    assert renamed == [f"{before.name}.old"]
    assert list(tmp_path.iterdir()) == list_checkpoints(tmp_path) == [before]
    check_checkpoint(before)
    kept = TrainState(*make("sgd", seed=1))
    load_checkpoint(before, kept)
    assert torch.equal(kept.network[0].weight, model[0].weight) is not fails


def test_the_best_stay_beside_the_newest(tmp_path: Path) -> None:
    model, optimizer = make("sgd")
    for epoch, done in ((1, 0), (2, 0), (3, 0), (3, 7), (3, 12)):
        save_checkpoint(tmp_path, Progress({}, [{}] * epoch, step=done), TrainState(model, optimizer))
    prune_checkpoints(tmp_path, keep=1, best=["epoch-0002"])
    assert [file.name for file in list_checkpoints(tmp_path)] == ["epoch-0002", "epoch-0003-step-000012"]


def test_checkpoints_are_listed_in_the_order_of_the_run(tmp_path: Path) -> None:
    places = [(0, 1), (0, 999_999), (0, 1_000_000), (1, 0), (9_999, 3), (10_000, 0), (10_000, 20)]
    names = [Progress({}, [{}] * epoch, step=step).name for epoch, step in places]
    names.insert(5, "epoch-10000.old")  # what a crash left while this one was replaced
    for name in (*names, "epoch-0003.part", "epoch-best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checksums.json").touch()
    listed = list_checkpoints(tmp_path)
    assert [file.name for file in listed] == names
    assert [position(file) for file in listed] == [*places[:5], (10_000, 0), *places[5:]]
    prune_checkpoints(tmp_path, keep=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch-10000", "epoch-10000-step-000020"]


def test_the_best_epochs_are_in_order_and_of_equals_the_earlier_is_better() -> None:
    lines = [
        {"epoch": number, "top1": top1, "val_loss": loss}
        for number, top1, loss in ((1, 90.0, 0.3), (2, 92.0, 0.2), (3, None, None), (4, 92.0, 0.4), (5, 91.0, 0.2))
    ]
    progress = Progress({}, lines)
    assert progress.best_epochs("top1") == [2, 4, 5, 1]
    assert progress.best_epochs("val_loss") == [2, 5, 1, 4]
    diverged = Progress({}, [{"epoch": n, "val_loss": loss} for n, loss in ((1, float("nan")), (2, 1.0), (3, 0.5))])
    assert diverged.best_epochs("val_loss") == [3, 2, 1]


def test_a_deletion_that_is_interrupted_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = make("sgd")
    saved = save_checkpoint(tmp_path, Progress({}, [{}]), TrainState(model, optimizer))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cutmix_zoo.training.checkpoint.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        delete_checkpoint(saved)
    assert (saved / "model.safetensors").exists()
    assert list_checkpoints(tmp_path) == []


def test_what_cannot_be_deleted_yet_is_left_to_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "epoch-0009.part").mkdir()
    for epoch in (1, 2, 3):
        (tmp_path / f"epoch-000{epoch}").mkdir()
        (tmp_path / f"epoch-000{epoch}" / "checksums.json").touch()

    def busy(path: object, **_: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", busy)
        prune_checkpoints(tmp_path, keep=1)
    assert [file.name for file in list_checkpoints(tmp_path)] == ["epoch-0003"]
    prune_checkpoints(tmp_path, keep=1)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch-0003"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads what Linux says of a process's memory")
@pytest.mark.parametrize("name", ["momentum", "adamw"])
def test_what_was_loaded_does_not_keep_the_files(name: str, tmp_path: Path) -> None:
    model, optimizer = make(name)
    step(model, optimizer, 0)
    state = TrainState(model, optimizer)
    load_checkpoint(save_checkpoint(tmp_path, Progress({}, [{}]), state), state)
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_scaler_that_a_checkpoint_lacks_stays_as_it_is(tmp_path: Path) -> None:
    model, optimizer = make("sgd")
    saved = save_checkpoint(tmp_path, Progress({}, [{}]), TrainState(model, optimizer))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = scaler.state_dict()
    load_checkpoint(saved, TrainState(model, optimizer, scaler))
    assert scaler.state_dict() == before
    assert before["scale"] == 8.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(value: float, tmp_path: Path) -> None:
    model, optimizer = make("sgd")
    model[1].running_var[0] = value
    with pytest.raises(UserError, match=r"1.running_var of the network is not finite at epoch-0001; it is not saved"):
        save_checkpoint(tmp_path, Progress({}, [{}]), TrainState(model, optimizer))
    assert list_checkpoints(tmp_path) == []


def test_weights_of_another_shape_are_refused_with_the_difference(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, Progress({}, [{}]), TrainState(*make("sgd")))
    model, optimizer = make("sgd")
    model[0] = nn.Conv2d(2, 3, 5)
    model.append(nn.Linear(2, 2))
    message = r"is of another network \(0.weight: \[3, 2, 3, 3\] -> \[3, 2, 5, 5\]; 4.weight: missing -> \[2, 2\]; "
    with pytest.raises(UserError, match=message):
        load_checkpoint(checkpoint, TrainState(model, optimizer))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_damage_is_recognised(file: str, damage: str, tmp_path: Path) -> None:
    model, optimizer = make("sgd")
    step(model, optimizer, 0)
    checkpoint = save_checkpoint(tmp_path, Progress({}, [{}]), TrainState(model, optimizer))
    check_checkpoint(checkpoint)
    damaged = checkpoint / file
    content = bytearray(damaged.read_bytes())
    if damage == "delete":
        damaged.unlink()
    else:
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content[:-3] if damage == "truncate" else content)
    with pytest.raises(UserError, match=f"{file} is missing or damaged"):
        check_checkpoint(checkpoint)


def test_damaged_checksums_are_recognised(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path, Progress({}, [{}]), TrainState(*make("sgd")))
    (checkpoint / "checksums.json").write_text("{")
    with pytest.raises(UserError, match=r"checksums.json is damaged"):
        check_checkpoint(checkpoint)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a checkpoint"):
        check_checkpoint(tmp_path)


def test_an_optimizer_may_keep_its_own_settings(tmp_path: Path) -> None:
    model, optimizer = make("adamw")
    step(model, optimizer, 0)
    checkpoint = save_checkpoint(tmp_path, Progress({}), TrainState(model, optimizer))
    other, _ = make("adamw", seed=1)
    own = create_optimizer_v2(other, "adamw", lr=0.5, weight_decay=0.25, betas=(0.5, 0.6))
    load_checkpoint(checkpoint, TrainState(other, own), keep_settings=True)
    assert [(group["lr"], group["weight_decay"], group["betas"]) for group in own.param_groups] == [
        (0.5, 0.0, (0.5, 0.6)),
        (0.5, 0.25, (0.5, 0.6)),
    ]
    moments = [[state["exp_avg"] for state in each.state.values()] for each in (optimizer, own)]
    assert all(torch.equal(before, after) for before, after in zip(*moments, strict=True))


def test_parameters_that_are_grouped_otherwise_are_refused_where_nothing_may_change(tmp_path: Path) -> None:
    model, optimizer = make("adamw")
    step(model, optimizer, 0)
    checkpoint = save_checkpoint(tmp_path, Progress({}), TrainState(model, optimizer))
    own = create_optimizer_v2(model, "adamw", lr=0.5, weight_decay=0.25, filter_bias_and_bn=False)
    with pytest.raises(UserError, match="groups its parameters otherwise, as that of another version of timm may"):
        load_checkpoint(checkpoint, TrainState(model, own))


@pytest.mark.parametrize(("name", "options"), [("lamb", {}), ("adamw", {"filter_bias_and_bn": False})])
def test_another_optimizer_begins_anew(name: str, options: dict[str, bool], tmp_path: Path) -> None:
    model, optimizer = make("adamw")
    step(model, optimizer, 0)
    checkpoint = save_checkpoint(tmp_path, Progress({}), TrainState(model, optimizer))
    other, _ = make("adamw", seed=1)
    own = create_optimizer_v2(other, name, lr=0.5, weight_decay=0.25, **options)
    with pytest.warns(UserWarning, match="the optimizer is another one than the checkpoint's: it begins anew"):
        load_checkpoint(checkpoint, TrainState(other, own), keep_settings=True)
    assert not own.state
    assert torch.equal(model[0].weight, other[0].weight)
    step(other, own, 1)


def test_a_state_that_would_need_a_pickle_is_refused(tmp_path: Path) -> None:
    model, optimizer = make("adafactorbv")
    step(model, optimizer, 0)
    with pytest.raises(UserError, match=r"cannot be saved without pickles .* choose another optimizer.name"):
        save_checkpoint(tmp_path, Progress({}, [{}]), TrainState(model, optimizer))
    assert list_checkpoints(tmp_path) == []


def test_tied_weights_come_back_tied(tmp_path: Path) -> None:
    def tied(seed: int) -> nn.Module:
        torch.default_generator.manual_seed(seed)
        one, other = nn.Linear(3, 3), nn.Linear(3, 3)
        other.weight = one.weight
        return nn.Sequential(one, other)

    model, other = tied(0), tied(1)
    make_state = [TrainState(each, create_optimizer_v2(each, "sgd", lr=0.1), None) for each in (model, other)]
    load_checkpoint(save_checkpoint(tmp_path, Progress({}), make_state[0]), make_state[1])
    assert other[0].weight is other[1].weight
    assert all(torch.equal(there, here) for there, here in zip(other.parameters(), model.parameters(), strict=True))
