import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import cutmix_zoo.sweep
from cutmix_zoo.errors import Preempted, UserError
from cutmix_zoo.sweep import METRICS, command, format_table, make_trials, parse_axis, sweep
from cutmix_zoo.training.lock import InUseError
from tests.processes import start_ranks, wait
from tests.stand_ins import short_of_memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=0.1", ("optimizer.lr", ["0.1"])),
        ("mix=null,{name: cutmix, prob: 0.5}", ("mix", ["null", "{name: cutmix, prob: 0.5}"])),
        ("model.name=hf-hub:a/b,resnet18", ("model.name", ["hf-hub:a/b", "resnet18"])),
        ("data.mean=[0.1, 0.2],[0.3]", ("data.mean", ["[0.1, 0.2]", "[0.3]"])),
        ("name=a=b,c", ("name", ["a=b", "c"])),
        (
            "mix={name: one_of, methods: [{name: a}, {name: b}]}, null",
            ("mix", ["{name: one_of, methods: [{name: a}, {name: b}]}", "null"]),
        ),
        ("name='a, b',c", ("name", ["'a, b'", "c"])),
    ],
)
def test_axes_are_read(text: str, expected: tuple[str, list[str]]) -> None:
    assert parse_axis(text) == expected


@pytest.mark.parametrize(
    "text",
    ["optimizer.lr", "=1", "optimizer.lr=", "optimizer.lr=1,,2", "optimizer.lr=[1", "optimizer.lr=1]", "name=a #b", ""],
)
def test_what_is_no_axis_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--set takes KEY=VALUE,VALUE, such as optimizer.lr=0.1,0.25, got"):
        parse_axis(text)


def test_a_value_twice_is_refused() -> None:
    with pytest.raises(UserError, match="names a value twice"):
        parse_axis("optimizer.lr=1,2,1")


def test_every_point_of_the_grid_gets_every_seed() -> None:
    axes = {"optimizer.lr": ["0.1", "0.2"], "mix": ["null", "{name: mixup}"]}
    trials = make_trials("quickstart", axes, 2, {"seed": "5", "schedule.epochs": "2"})
    found = [(trial.recipe.optimizer.lr, type(trial.recipe.mix).__name__, trial.recipe.seed) for trial in trials]
    assert found == [(lr, mix, seed) for lr in (0.1, 0.2) for mix in ("NoneType", "Mixup") for seed in (5, 6)]
    assert {trial.recipe.schedule.epochs for trial in trials} == {2}
    assert trials[2].name.startswith("optimizer.lr=0.1,mix=_name__mixup_,seed=5-")
    assert len({trial.name for trial in trials}) == 8
    assert [trial.recipe.seed for trial in make_trials("quickstart", {}, 3, {})] == [0, 1, 2]


@pytest.mark.parametrize(
    ("axes", "overrides", "message"),
    [
        ({"optimizer.lrr": ["1"]}, {}, "did you mean optimizer.lr"),
        ({"optimizer.lr": ["1"]}, {"optimizer.lr": "2"}, "--set optimizer.lr and --optimizer.lr are for the same"),
        ({"seed": ["1", "2"]}, {}, "--set seed and --seeds are for the same"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(
    axes: dict[str, list[str]], overrides: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_trials("quickstart", axes, 1, overrides)


def run(arguments: list[str], options: dict[str, str]) -> None:
    command(["quickstart", *arguments, *(word for key, value in options.items() for word in (f"--{key}", value))])


def test_a_sweep_trains_goes_on_where_it_stopped_and_tabulates(
    tiny_options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", "optimizer.lr=0.1,1e9", "--seeds", "2", "--output", str(tmp_path / "sweep")]
    options = {**tiny_options, "schedule.epochs": "1"}
    original, started = cutmix_zoo.sweep.train, []

    def train(*arguments: object, **keywords: object) -> object:
        started.append(arguments[1])
        if len(started) == 2:
            raise Preempted("saved", signal.SIGTERM)
        return original(*arguments, **keywords)

    monkeypatch.setattr(cutmix_zoo.sweep, "train", train)
    with pytest.raises(Preempted):
        run(arguments, options)
    names = [f"optimizer.lr={lr},seed={seed}" for lr in ("0.1", "1e9") for seed in (0, 1)]
    assert [path.name for path in started] == names[:2]
    first = (tmp_path / "sweep" / names[0] / "summary.json").stat().st_mtime_ns
    run(arguments, options)
    assert (tmp_path / "sweep" / names[0] / "summary.json").stat().st_mtime_ns == first
    done = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [each["name"] for each in done] == names
    assert [each["seed"] for each in done] == [0, 1, 0, 1]
    assert set(METRICS) <= set(done[0]["summary"])
    tops = [json.loads((tmp_path / "sweep" / name / "summary.json").read_text())["top1"] for name in names[:2]]
    assert [each["summary"]["top1"] for each in done[:2]] == tops
    assert all(each["summary"] is None and "not finite" in each["error"] for each in done[2:])
    printed = capsys.readouterr().out
    spread = abs(tops[0] - tops[1]) / 2**0.5
    assert f"| 0.1 | 2 | {sum(tops) / 2:.2f} | {spread:.2f} | {min(tops):.2f} | {max(tops):.2f} |" in printed
    assert "| 1e9 | 0 of 2 | - | - | - | - |" in printed
    assert "optimizer.lr=1e9,seed=1 failed: the gradient of epoch 1" in printed


def test_a_run_that_does_not_fit_into_memory_is_a_row_without_numbers(
    tiny_options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 8, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"))
    options = {**tiny_options, "schedule.epochs": "1"}
    trials = make_trials("quickstart", {"runtime.micro_batch": ["null", "auto"]}, 1, options)
    large, halved = sweep(trials, tmp_path / "sweep")
    assert large["summary"] is None
    assert "set runtime.micro_batch (auto finds what fits), lower data.batch_size" in large["error"]
    assert (halved["summary"]["micro_batch"], halved["error"]) == (8, None)
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == [large, halved]


def test_the_list_of_runs_keeps_those_of_earlier_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: dict[str, Any] = {}

    def train(_: object, folder: Path, **__: object) -> dict[str, float]:
        folder.mkdir(exist_ok=True)
        if outcomes[folder.name] is None:
            raise UserError("cannot resume: another recipe")
        return {"top1": outcomes[folder.name]}

    def listed(lrs: list[str], **found: float | None) -> dict[str, tuple[float | None, str | None]]:
        outcomes.update({f"optimizer.lr={lr},seed=0": found[f"lr{lr}"] for lr in lrs})
        sweep(make_trials("quickstart", {"optimizer.lr": lrs}, 1, {}), tmp_path)
        rows = json.loads((tmp_path / "sweep.json").read_text())
        return {
            row["setting"]["optimizer.lr"]: (row["summary"] and row["summary"]["top1"], row["error"]) for row in rows
        }

    monkeypatch.setattr(cutmix_zoo.sweep, "train", train)
    failed = (None, "cannot resume: another recipe")
    assert listed(["1", "2"], lr1=91.0, lr2=None) == {"1": (91.0, None), "2": failed}
    assert listed(["1", "3"], lr1=None, lr3=93.0) == {"1": (91.0, None), "2": failed, "3": (93.0, None)}
    assert listed(["2"], lr2=92.0) == {"1": (91.0, None), "2": (92.0, None), "3": (93.0, None)}
    (tmp_path / "optimizer.lr=1,seed=0").rmdir()
    assert listed(["2"], lr2=92.0) == {"2": (92.0, None), "3": (93.0, None)}
    (tmp_path / "sweep.json").write_text("[1]")
    with pytest.raises(UserError, match=r"sweep.json is not what a sweep writes"):
        listed(["2"], lr2=92.0)


def test_one_seed_has_no_spread() -> None:
    table = format_table([{"setting": {}, "summary": {"val_loss": 0.5}}], "val_loss")
    assert table.splitlines()[2] == "| 1 | 0.50 | - | 0.50 | 0.50 |"


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="--set names a key twice"):
        run(["--set", "seed=1", "--set", "seed=2"], {})


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(cutmix_zoo.sweep, "train", lambda *_, **__: {"top1": 1.0})
    with pytest.raises(UserError, match="cannot write"):
        sweep(make_trials("quickstart", {}, 1, {}), tmp_path / "file" / "sweep")


def test_runs_whose_names_a_folder_cannot_have_have_folders_of_their_own() -> None:
    names = ["hf-hub:a/b", "hf-hub:a_b", f"local-dir:{'x' * 300}1", f"local-dir:{'x' * 300}2"]
    trials = make_trials("quickstart", {"model.name": names}, 1, {})
    assert len({trial.name for trial in trials}) == 4
    assert all(len(trial.name) < 200 and "/" not in trial.name for trial in trials)


def test_a_run_that_another_launch_is_at_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object, **__: object) -> None:
        raise InUseError("another launch is training")

    monkeypatch.setattr(cutmix_zoo.sweep, "train", taken)
    with pytest.raises(InUseError):
        sweep(make_trials("quickstart", {}, 2, {}), tmp_path)
    assert not (tmp_path / "sweep.json").exists()


def test_a_sweep_of_which_every_run_fails_fails(tiny_options: dict[str, str], tmp_path: Path) -> None:
    options = {**tiny_options, "data.root": str(tmp_path / "nowhere")}
    with pytest.raises(UserError, match=r"every run failed; the last one: .*nowhere"):
        run(["--seeds", "2", "--output", str(tmp_path / "sweep")], options)
    assert len(json.loads((tmp_path / "sweep" / "sweep.json").read_text())) == 2


def sweep_of_two_processes(folder: Path, options: dict[str, str]) -> None:
    done = sweep(make_trials("quickstart", {"optimizer.lr": ["0.1", "0.2"]}, 1, options), folder / "good")
    assert all(each["summary"]["processes"] == 2 for each in done)
    if int(os.environ["RANK"]) == 0:

        def fail(*_: object, **__: object) -> None:
            raise UserError("met by one process alone")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cutmix_zoo.sweep, "train", fail)
            with pytest.raises(UserError, match="met by one process alone"):
                sweep(make_trials("quickstart", {}, 2, options), folder / "bad")


def test_processes_sweep_together_and_stop_together(tiny_options: dict[str, str], tmp_path: Path) -> None:
    work = partial(sweep_of_two_processes, tmp_path, {**tiny_options, "schedule.epochs": "1"})
    assert wait(start_ranks(work)) == [0, 0]
    assert {path.name for path in (tmp_path / "good").iterdir()} == {
        "optimizer.lr=0.1,seed=0",
        "optimizer.lr=0.2,seed=0",
        "sweep.json",
    }
    assert not (tmp_path / "bad").exists()
