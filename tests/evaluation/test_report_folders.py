import json
from pathlib import Path
from typing import Any

import pytest

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.report_folders import Measured, read_folders
from cutmix_zoo.store import WEIGHTS_FILE, file_sha256
from cutmix_zoo.training.files import read_json, write_json
from tests.evaluation.synthetic_findings import write_evaluation, write_run


def _read(*folders: Path) -> list[Measured]:
    return read_folders(folders)


def test_an_evaluation_has_its_suites_and_no_run(tmp_path: Path) -> None:
    (model,) = _read(write_evaluation(tmp_path / "a", "resnet50.cutmix_in1k", suites=("accuracy", "probe")))
    assert model.name == "resnet50.cutmix_in1k"
    assert set(model.records) == {"accuracy", "probe"}
    assert model.data == ("fashion_mnist", "validation")
    assert model.architecture == "resnet50"
    assert model.parameters == 272_186
    assert (model.run, model.summary, model.recipe, model.recipe_text) == (None, None, None, None)


def test_a_run_has_its_recipe_curves_and_summary_but_not_where_its_data_lies(tmp_path: Path) -> None:
    (model,) = _read(write_run(tmp_path / "mine", seed=3))
    assert model.name == "mine"
    assert (model.about, model.records) == (None, {})
    assert model.data == ("fashion_mnist", "validation")
    assert model.architecture == "cifar_resnet20"
    assert model.run is not None
    assert [line["epoch"] for line in model.run.metrics] == list(range(1, 13))
    assert model.summary is not None
    assert model.summary["seed"] == 3
    assert model.recipe is not None
    assert model.recipe.seed == 3
    assert model.recipe_text is not None
    assert "cutmix" in model.recipe_text
    assert "/some/where" not in model.recipe_text


def test_a_run_may_be_unfinished_or_not_have_begun(tmp_path: Path) -> None:
    started = write_run(tmp_path / "started", finished=False)
    fresh = write_run(tmp_path / "fresh", finished=False)
    (fresh / "metrics.jsonl").unlink()
    one, other = _read(started, fresh)
    assert (one.summary, one.parameters) == (None, None)
    assert one.run is not None
    assert one.run.metrics
    assert other.run is not None
    assert other.run.metrics == []


def test_one_folder_may_be_both(tmp_path: Path) -> None:
    (model,) = _read(write_evaluation(write_run(tmp_path / "mine"), "runs/mine", suites=("accuracy",)))
    assert model.about is not None
    assert model.run is not None


def _run_with_weights(folder: Path) -> tuple[Path, str]:
    (write_run(folder) / "model").mkdir()
    weights = folder / "model" / WEIGHTS_FILE
    weights.write_bytes(b"weights")
    return folder, file_sha256(weights)


@pytest.mark.parametrize("inside", [True, False])
def test_the_run_of_an_evaluation_is_found_by_its_weights(tmp_path: Path, inside: bool) -> None:
    run, sha256 = _run_with_weights(tmp_path / "run")
    folder = run / "evaluation" if inside else tmp_path / "elsewhere"
    (model,) = _read(write_evaluation(folder, str(run), sha256=sha256, suites=()))
    assert model.run is not None
    assert model.run.recipe.name == "run"


@pytest.mark.parametrize("sha256", ["0" * 64, None])
def test_a_run_with_other_weights_is_not_that_of_an_evaluation(tmp_path: Path, sha256: str | None) -> None:
    run, _ = _run_with_weights(tmp_path / "run")
    (model,) = _read(write_evaluation(run / "evaluation", str(run), sha256=sha256, suites=()))
    assert model.run is None


def test_the_recipe_of_an_evaluation_is_understood_or_shown_as_it_is(tmp_path: Path) -> None:
    text = (write_run(tmp_path / "run", seed=5) / "recipe.yaml").read_text()
    (model,) = _read(write_evaluation(tmp_path / "a", recipe=text, suites=()))
    assert model.recipe is not None
    assert model.recipe.seed == 5
    assert model.recipe_text == text
    for number, unknown in enumerate(("version: 99", "- a", "a: [", "12")):
        (model,) = _read(write_evaluation(tmp_path / f"unknown{number}", recipe=unknown, suites=()))
        assert model.recipe is None
        assert model.recipe_text == unknown


@pytest.mark.parametrize(
    ("model", "recipe", "expected"),
    [
        ("resnet50.a1_in1k", None, "resnet50.a1_in1k"),
        ("owner/name", None, "owner/name"),  # on the Hub
        ("runs/mine", "seed: 0", "mine"),
        ("sweeps/a/seed=0", "version: 1\nname: better\nmodel:\n  name: resnet50\n", "better"),
        ("/home/somebody/model", None, "model"),
        ("local-dir:/home/somebody/model", None, "model"),
        ("local-dir:models/mine", None, "mine"),
        ("/", None, "a"),
    ],
)
def test_a_model_is_called_what_it_is_and_not_where_it_lies(
    tmp_path: Path, model: str, recipe: str | None, expected: str
) -> None:
    (measured,) = _read(write_evaluation(tmp_path / "a", model, recipe=recipe, suites=()))
    assert measured.name == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [("resnet50.mine", "resnet50"), ("resnet18", "resnet18"), ("hf-hub:owner/name", None), ("models/resnet50", None)],
)
def test_the_architecture_is_read_off_a_name_of_timm(tmp_path: Path, model: str, expected: str | None) -> None:
    (measured,) = _read(write_evaluation(tmp_path / "a", model, suites=()))
    assert measured.architecture == expected


def test_the_architecture_is_what_the_evaluation_says(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", "exports/resnet50", suites=())
    about = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**about, "architecture": "cifar_resnet8"}))
    assert _read(folder)[0].architecture == "cifar_resnet8"


def test_models_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_evaluation(tmp_path / name, suites=()) for name in ("a/evaluation", "b/evaluation", "c")]
    folders.append(write_evaluation(tmp_path / "other" / "c", "other", suites=()))
    names = [model.name for model in _read(*folders)]
    assert names == ["model (a/evaluation)", "model (b/evaluation)", "model (c)", "other"]


def test_names_are_visible_and_those_that_look_the_same_are_told_apart(tmp_path: Path) -> None:
    one = write_evaluation(tmp_path / "a\x01", "model\n", suites=())
    other = write_evaluation(tmp_path / "b", r"model\n", suites=())
    assert [model.name for model in _read(one, other)] == [r"model\n (a\x01)", r"model\n (b)"]
    run = write_run(tmp_path / "run", name='"run\\x01"')
    assert [model.name for model in _read(run)] == [r"run\x01"]


def test_the_commit_is_that_of_the_summary_and_the_decay_that_of_the_recipe(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", **{"ema.decay": "0.99"})
    write_json(run / "summary.json", {**read_json(run / "summary.json"), "versions": {"commit": "0" * 40 + "-dirty"}})
    earlier, unfinished = write_run(tmp_path / "b"), write_run(tmp_path / "c", finished=False)
    models = _read(run, earlier, unfinished, write_evaluation(tmp_path / "d", suites=()))
    assert [model.commit for model in models] == ["0" * 40 + "-dirty", None, None, None]
    assert [model.ema_decay for model in models] == [0.99, None, None, None]


def test_a_dataset_may_have_two_names(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", dataset="torch/cifar100")
    assert len(_read(first, write_evaluation(tmp_path / "b", dataset="cifar100"))) == 2


@pytest.mark.parametrize("change", [{"dataset": "cifar10"}, {"split": "train"}])
def test_other_data_than_the_first_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    folders = [write_evaluation(tmp_path / "a", suites=()), write_evaluation(tmp_path / "b", suites=(), **change)]
    with pytest.raises(UserError, match=r"b is of \S+ \(\w+\) and \S+a of fashion_mnist \(validation\).*make one"):
        _read(*folders)


def test_a_run_on_other_data_than_the_first_is_refused(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", **{"data.val_split": "other"})]
    with pytest.raises(UserError, match="on the same images"):
        _read(*folders)


def test_a_suite_of_other_data_than_its_folder_is_refused(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", suites=("probe",))
    record = json.loads((folder / "probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps({**record, "split": "train"}))
    with pytest.raises(UserError, match="on the same images"):
        _read(folder)


def test_a_folder_given_twice_is_refused(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", suites=())
    with pytest.raises(UserError, match="given twice"):
        _read(folder, tmp_path / "." / "b" / ".." / "a")


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_neither_is_refused(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "missing"
    with pytest.raises(UserError, match=r"neither .*evaluation\.json is missing.*recipe\.yaml is missing"):
        _read(folder)


@pytest.mark.parametrize("name", ["evaluation.json", "accuracy.json", "summary.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), (b"\xff\xfe", "cannot be read"), ("[1]", "no JSON object"), ("{}", "lacks")],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    folder = write_evaluation(write_run(tmp_path / "a"), suites=("accuracy",))
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=rf"{name} .*{message}"):
        _read(folder)


def test_rows_that_are_no_table_are_refused(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "a", suites=("probe",))
    record = json.loads((folder / "probe.json").read_text())
    (folder / "probe.json").write_text(json.dumps({**record, "rows": [1]}))
    with pytest.raises(UserError, match=r"probe\.json has no table of rows"):
        _read(folder)


@pytest.mark.parametrize("line", ["{", "12"])
def test_damaged_metrics_are_named(tmp_path: Path, line: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "metrics.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read"):
        _read(folder)


def test_a_damaged_recipe_of_a_run_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "recipe.yaml").write_text("version: 1\nmodl: {}\n")
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        _read(folder)


def test_a_sweep_is_its_finished_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"seed={seed}", seed=seed, name="swept")
    done = [{"name": f"seed={seed}", "summary": {} if seed < 2 else None} for seed in range(3)]
    (tmp_path / "sweep.json").write_text(json.dumps(done))
    models = _read(tmp_path)
    assert [model.name for model in models] == ["swept (seed=0)", "swept (seed=1)"]
    (tmp_path / "sweep.json").write_text(json.dumps(done[2:]))
    with pytest.raises(UserError, match=r"no run of the sweep in .* has finished"):
        _read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}x", '[{"name": "a"}]'])
def test_a_damaged_sweep_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.json is not what a sweep writes"):
        _read(tmp_path)
