import errno
import hashlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image

import cutmix_zoo.evaluate
from cutmix_zoo.errors import OneProcessError, UserError
from cutmix_zoo.evaluate import EvaluateOptions, command, evaluate, make_parser
from cutmix_zoo.evaluation.results import ResultFolder
from cutmix_zoo.evaluation.suites import SUITES
from cutmix_zoo.models import export_model
from cutmix_zoo.training.recipe import dump_recipe
from cutmix_zoo.training.run import RunFolder
from cutmix_zoo.training.settings import Recipe
from tests.data.annotation_files import annotation, stem
from tests.evaluation.synthetic_findings import make_record


def export(folder: Path, label_names: list[str] | None = None, **changes: object) -> Path:
    """Export a network that takes 3 x 32 x 32 and knows ten classes, without a run."""
    torch.default_generator.manual_seed(0)
    model = timm.create_model("cifar_resnet8", num_classes=10)
    config = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "nearest"}
    export_model(
        model, folder, data_config=config | {"crop_pct": 1.0} | changes, label_names=label_names, provenance={}
    )
    return folder


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export(tmp_path / "model")


def test_the_models_own_preprocessing_is_used(exported: Path, tiny_data: Path) -> None:
    """An independent statement of nearest resizing, three grey channels and normalisation."""
    from cutmix_zoo.data.idx import read_idx

    images = torch.from_numpy(read_idx(tiny_data / "t10k-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(read_idx(tiny_data / "t10k-labels-idx1-ubyte.gz"))
    index = ((torch.arange(32) + 0.5) * 28 / 32).long()
    inputs = (images[:, index][:, :, index].unsqueeze(1).expand(-1, 3, -1, -1) / 255 - 0.5) / 0.2
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    with torch.inference_mode():
        expected = (model(inputs).argmax(1) == labels).float().mean() * 100
    options = EvaluateOptions(root=str(tiny_data), batch_size=7, workers=0)
    numbers = evaluate(str(exported), "fashion_mnist", options=options)["accuracy"]
    assert numbers["top1"] == pytest.approx(float(expected))
    assert (numbers["dataset"], numbers["split"], numbers["count"]) == ("fashion_mnist", "validation", 30)


def test_split_and_workers_are_the_callers(exported: Path, tiny_data: Path) -> None:
    options = EvaluateOptions(root=str(tiny_data), split="train", workers=2)
    numbers = evaluate(str(exported), "fashion_mnist", options=options)["accuracy"]
    assert (numbers["split"], numbers["count"]) == ("train", 80)


def test_the_command_writes_once(
    exported: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(exported), "--on", "fashion_mnist", "--root", str(tiny_data), "--suite", "accuracy"]
    arguments += ["--output", str(tmp_path / "out"), "--workers", "0", "--batch-size", "10"]
    command(arguments)
    numbers = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert f"top1 {numbers['top1']:.4g}" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists and is not overwritten"):
        command(arguments)


def test_a_missing_dataset_and_preprocessing_that_cannot_be_made_are_named(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(UserError, match="say with --on which dataset"):
        evaluate(str(exported))
    with pytest.raises(UserError, match="asks for crop_mode 'squash'"):
        evaluate(
            str(export(tmp_path / "zoo", crop_mode="squash")), "fashion_mnist_mini", options=EvaluateOptions(workers=0)
        )


def test_other_classes_than_the_models_are_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "data" / "val" / name / "0.png")
    with pytest.raises(UserError, match="the model has 10 classes and folder has 2"):
        evaluate(str(exported), "folder", options=EvaluateOptions(root=str(tmp_path / "data"), workers=0))


def test_classes_of_other_names_are_refused_even_if_there_are_as_many(tiny_data: Path, tmp_path: Path) -> None:
    animals = export(tmp_path / "zoo", label_names=[f"animal {number}" for number in range(10)])
    with pytest.raises(UserError, match=r"classes \(animal 0.*are not those of fashion_mnist \(T-shirt/top"):
        evaluate(str(animals), "fashion_mnist", options=EvaluateOptions(root=str(tiny_data), workers=0))


def test_every_suite_leaves_its_numbers_table_and_pictures(exported: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(root=str(tiny_data), workers=0, samples=25)
    found = evaluate(str(exported), "fashion_mnist", None, tmp_path, options)
    assert list(found) == [name for name in SUITES if name != "localization"]
    some = ("occlusion", "in_between", "corruption")
    for name, record in found.items():
        assert record["count"] == (25 if name in some else 30)
        assert json.loads((tmp_path / f"{name}.json").read_text()) == record
        assert (record["model"], record["dataset"], record["split"]) == (str(exported), "fashion_mnist", "validation")
        # what the tests of reports and figures make up
        assert record.keys() == make_record(name).keys()
        assert record["rows"][0].keys() == make_record(name)["rows"][0].keys()
        head = (tmp_path / f"{name}.csv").read_text().partition("\n")[0]
        assert head.split(",") == list(record["rows"][0])
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert (about["dataset"], about["count"], about["unreadable"], about["recipe"]) == ("fashion_mnist", 30, [], None)
    model = timm.create_model(f"local-dir:{exported}", pretrained=True)
    assert about["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert about["sha256"] == hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    assert about["environment"]["torch"] == version("torch")
    assert len(list((tmp_path / "plots").glob("*.png"))) >= len(found) - 1


def test_predictions_are_enough_to_begin_from(exported: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(root=str(tiny_data), workers=0)
    found = evaluate(str(exported), "fashion_mnist", output=tmp_path, options=options)["accuracy"]
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as predictions:
        assert 100 * (predictions["logits"].argmax(1) == predictions["label"]).mean() == pytest.approx(found["top1"])
        assert predictions["name"].tolist() == [str(index) for index in predictions["index"]]


def test_images_are_of_the_size_that_is_asked_for(exported: Path, tiny_data: Path) -> None:
    options = EvaluateOptions(root=str(tiny_data), workers=0, img_size=40)
    found = evaluate(str(exported), "fashion_mnist_canvas", ["localization"], options=options)["localization"]
    assert found["map_size"] == [10, 10]  # the strides of a CIFAR ResNet are 4


def test_a_size_that_the_network_does_not_take_is_named(tmp_path: Path, tiny_data: Path) -> None:
    torch.default_generator.manual_seed(0)
    arguments = {"img_size": 32, "depth": 1}
    network = timm.create_model("vit_tiny_patch16_224", num_classes=10, **arguments)
    config = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "bilinear"}
    export_model(
        network, tmp_path, data_config=config | {"crop_pct": 1.0}, label_names=None, provenance={}, model_args=arguments
    )
    options = EvaluateOptions(root=str(tiny_data), workers=0, img_size=40)
    with pytest.raises(UserError, match=r"does not take images of 3 x 40 x 40: .*choose with --img-size"):
        evaluate(str(tmp_path), "fashion_mnist", options=options)


def test_the_names_of_a_model_that_knows_more_classes_are_used(tmp_path: Path, image_folder: Path) -> None:
    model = export(tmp_path / "zoo", label_names=["ant", "bee", "cat", *"defghij"])
    found = evaluate(str(model), "folder", options=EvaluateOptions(root=str(image_folder), workers=0))["accuracy"]
    taken = {row["class"] for row in found["rows"]}
    assert taken - {"ant", "bee", "cat"} <= set("defghij")
    assert len(found["classes"]) == 10


def test_all_goes_on_where_it_stopped(exported: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(root=str(tiny_data), workers=0, samples=25)
    evaluate(str(exported), "fashion_mnist", ["accuracy", "adversarial", "corruption"], tmp_path, options)
    rest = evaluate(str(exported), "fashion_mnist", None, tmp_path, options)
    assert list(rest) == ["calibration", "occlusion", "in_between", "ood", "probe"]
    about = json.loads((tmp_path / "evaluation.json").read_text())
    assert (about["count"], about["command"]) == (30, None)


def test_what_a_suite_takes_is_looked_for_before_anything_is_measured(
    exported: Path, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = [str(exported), "--on", "fashion_mnist", "--root", str(tiny_data), "--output", str(tmp_path / "out")]
    arguments += ["--workers", "0", "--suite", "accuracy,ood,corruption,probe"]
    for option, message in (
        (["--ood", "x=nowhere"], "nowhere is no folder of images"),
        (["--corrupted", str(tmp_path)], f"{tmp_path} is neither ImageNet-C nor CIFAR-10-C nor CIFAR-100-C"),
        (["--probe-on", "folder"], r"folder needs data\.root"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            command([*arguments, *option])
        assert not (tmp_path / "out").exists()
    command([*arguments, "--ood", "uniform"])
    assert json.loads((tmp_path / "out" / "ood.json").read_text())["rows"][0]["set"] == "uniform"
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["command"].endswith("--ood uniform")


def test_imagenet_is_localized_with_its_annotations(exported: Path, image_folder: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted((image_folder / "val").rglob("*.png"))):
        file.rename(file.with_name(f"{stem(number)}.png"))
        text = annotation(number, [("n01440764", 2, 3, 20, 17)], width=26, height=23)
        (tmp_path / f"{stem(number)}.xml").write_text(text)
    model = export(tmp_path / "zoo", label_names=["ant", "bee", "cat", *"defghij"])
    arguments = [str(model), "--on", "folder", "--root", str(image_folder), "--suite", "localization", "--workers", "0"]
    with pytest.raises(UserError, match="folder has no boxes"):
        command(arguments)
    command([*arguments, "--boxes", str(tmp_path), "--output", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "localization.json").read_text())["count"] == 6
    assert {file.name for file in (tmp_path / "out" / "plots").iterdir()} == {"box_accuracy.png", "cams.png"}
    with np.load(tmp_path / "out" / "predictions.npz") as predictions:
        assert all(name.endswith(".png") for name in predictions["name"])


def test_suites_can_be_added_to_a_folder_but_not_of_another_model(
    exported: Path, tiny_data: Path, tmp_path: Path
) -> None:
    options = EvaluateOptions(root=str(tiny_data), workers=0)
    evaluate(str(exported), "fashion_mnist", output=tmp_path / "out", options=options)
    evaluate(str(exported), "fashion_mnist", ["calibration"], tmp_path / "out", options)
    assert (tmp_path / "out" / "calibration.json").exists()
    other = export(tmp_path / "other")
    with pytest.raises(UserError, match="has the results of model"):
        evaluate(str(other), "fashion_mnist", ["in_between"], tmp_path / "out", options)


def test_a_run_and_a_row_of_the_zoo_bring_their_recipe(tiny_data: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    export(tmp_path / "run" / "model")
    RunFolder(tmp_path / "run").recipe_file.write_text(dump_recipe(replace(tiny_recipe, name="mine")))
    data = EvaluateOptions(root=str(tiny_data), workers=0)
    for model, on, options, name in (
        (str(tmp_path / "run"), None, EvaluateOptions(), "mine"),
        ("cifar_resnet8.cutmix_fmnist_mini", "fashion_mnist", data, "fashion_mnist_mini_resnet8_cutmix"),
    ):
        evaluate(model, on, output=tmp_path / name, options=options)
        about = json.loads((tmp_path / name / "evaluation.json").read_text())
        assert yaml.safe_load(about["recipe"])["name"] == name
        assert (about["dataset"], about["count"]) == ("fashion_mnist", 30)


def test_a_linear_probe_alone_needs_no_common_classes(exported: Path, image_folder: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(root=str(image_folder), workers=0)
    found = evaluate(str(exported), "folder", ["probe"], tmp_path / "out", options)["probe"]
    assert (found["count"], found["dataset"]) == (6, "folder")
    assert not (tmp_path / "out" / "predictions.npz").exists()
    with pytest.raises(UserError, match="the model has 10 classes and folder has 3"):
        evaluate(str(exported), "folder", ["accuracy", "probe"], options=options)


@pytest.mark.parametrize("key", ["samples", "batch_size", "img_size"])
def test_counts_are_at_least_one(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key} must be a whole number of at least 1, got -5"):
        EvaluateOptions(**{key: -5})


def test_unknown_suites_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no suite is called 'acuracy': did you mean accuracy"):
        evaluate("model", suites=["acuracy"])
    with pytest.raises(UserError, match="there are accuracy, calibration"):
        command(["model", "--on", "fashion_mnist_mini", "--suite", "accuracy,everything"])


def test_images_that_cannot_be_read_are_counted_and_by_a_flag_left_out(
    exported: Path, image_folder: Path, tmp_path: Path
) -> None:
    for number in range(3, 10):
        (image_folder / "val" / f"{number}").mkdir()
        Image.new("RGB", (8, 8)).save(image_folder / "val" / f"{number}" / "0.png")
    (image_folder / "val" / "bee" / "1.png").write_bytes(b"no image")
    arguments = [str(exported), "--on", "folder", "--root", str(image_folder), "--split", "val", "--workers", "0"]
    with pytest.raises(UserError, match=r"1 of 13 images cannot be read: .*bee/1\.png"):
        command(arguments)
    command([*arguments, "--skip-unreadable", "--output", str(tmp_path / "out")])
    about = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert about["count"] == 12
    assert len(about["unreadable"]) == 1


def test_images_beside_the_split_that_cannot_be_read_are_named_by_their_suite(
    tmp_path: Path, image_folder: Path
) -> None:
    model = export(tmp_path / "zoo", label_names=["ant", "bee", "cat", *"defghij"])
    damaged = [image_folder / "train" / "cat" / "2.png", tmp_path / "others" / "1.png"]
    damaged[1].parent.mkdir()
    Image.new("RGB", (8, 8)).save(damaged[1].with_name("0.png"))
    for file in damaged:
        file.write_bytes(b"no image")
    arguments = [str(model), "--on", "folder", "--root", str(image_folder), "--workers", "0", "--suite", "ood,probe"]
    arguments += ["--ood", f"others={damaged[1].parent}"]
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read: .*others/1\.png"):
        command(arguments)
    command([*arguments, "--skip-unreadable", "--output", str(tmp_path / "out")])
    records = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("ood", "probe")}
    for name, file in zip(("probe", "ood"), damaged, strict=True):
        (message,) = records[name]["unreadable"]
        assert str(file) in message
    assert (records["ood"]["rows"][0]["count"], records["probe"]["train_images"]) == (1, 11)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["unreadable"] == []


def test_without_matplotlib_numbers_are_written_and_the_way_to_pictures_is_told(
    exported: Path,
    tiny_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutmix_zoo.evaluate, "find_spec", lambda name: None)
    arguments = [str(exported), "--on", "fashion_mnist", "--root", str(tiny_data), "--output", str(tmp_path / "out")]
    command([*arguments, "--workers", "0"])
    assert (tmp_path / "out" / "accuracy.json").exists()
    assert not (tmp_path / "out" / "plots").exists()
    said = capsys.readouterr().out
    assert said.startswith("measured on 30 images of fashion_mnist, validation, at 32 x 32 pixels\n")
    assert "pip install matplotlib" in said


def test_two_processes_find_what_one_finds_to_the_last_digit(exported: Path, tiny_data: Path, tmp_path: Path) -> None:
    options = [str(exported), "--on", "fashion_mnist_canvas", "--root", str(tiny_data), "--samples", "25"]
    options += ["--suite", "all", "--img-size", "40"]
    options += ["--batch-size", "4", "--workers", "0"]
    command([*options, "--output", str(tmp_path / "alone")])
    launcher = (
        "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no "
        "--num_cpu_threads_per_process 1 --main_process_port 0 -m cutmix_zoo.evaluate"
    )
    program = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *launcher.split()[1:]]
    done = subprocess.run(
        [*program, *options, "--output", str(tmp_path / "together")],
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "together" / "evaluation.json").read_text())
    assert about["environment"]["processes"] == "2"
    for name in SUITES:
        alone, together = (json.loads((tmp_path / run / f"{name}.json").read_text()) for run in ("alone", "together"))
        assert alone == together
    for file in (tmp_path / "alone").glob("*.npz"):
        with np.load(file) as alone, np.load(tmp_path / "together" / file.name) as together:
            assert list(alone) == list(together)
            for key in alone:
                np.testing.assert_array_equal(alone[key], together[key])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--workers", "-1"), ("--batch-size", "0"), ("--batch-size", "x"), ("--samples", "0"), ("--samples", "some")),
        *(
            ("--img-size", "0"),
            ("--budgets", "1,x"),
            ("--budgets", "nan"),
            ("--budgets", "-1"),
            ("--pgd-budgets", "-1"),
            ("--pgd-budgets", "2,"),
            ("--pgd-steps", "0"),
            ("--fill", "white"),
            ("--protocol", "voc"),
        ),
    ],
)
def test_values_are_checked_by_the_parser(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["model", option, value])
    assert option in capsys.readouterr().err


# of each argument of the command: how it is given, the field that it is for, and what that has to be
ARGUMENTS: dict[str, tuple[list[str], str, Any]] = {
    "model": (["other"], "model", "other"),
    "on": (["model", "--on", "cub200"], "on", "cub200"),
    "suite": (["model", "--suite", "ood,probe"], "names", ["ood", "probe"]),
    "output": (["model", "--output", "out"], "output", Path("out")),
    "root": (["model", "--root", "data"], "root", "data"),
    "split": (["model", "--split", "test"], "split", "test"),
    "img_size": (["model", "--img-size", "40"], "img_size", 40),
    "batch_size": (["model", "--batch-size", "7"], "batch_size", 7),
    "workers": (["model", "--workers", "0"], "workers", 0),
    "samples": (["model", "--samples", "9"], "samples", 9),
    "skip_unreadable": (["model", "--skip-unreadable"], "skip_unreadable", True),
    "budgets": (["model", "--budgets", "0,2.5"], "budgets", (0.0, 2.5)),
    "pgd_budgets": (["model", "--pgd-budgets", ""], "pgd_budgets", ()),
    "pgd_steps": (["model", "--pgd-steps", "50"], "pgd_steps", 50),
    "fill": (["model", "--fill", "black"], "fill", "black"),
    "protocol": (["model", "--protocol", "wsol"], "protocol", "wsol"),
    "boxes": (["model", "--boxes", "xml"], "boxes", Path("xml")),
    "ood": (["model", "--ood", "uniform", "--ood", "a=b"], "ood", ["uniform", "a=b"]),
    "corrupted": (["model", "--corrupted", "c"], "corrupted", Path("c")),
    "probe_on": (["model", "--probe-on", "folder"], "probe_on", "folder"),
    "probe_root": (["model", "--probe-root", "images"], "probe_root", "images"),
}


def told(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command tells ``evaluate``: its arguments, and the fields of its options and of those for suites."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cutmix_zoo.evaluate, "evaluate", lambda *given: calls.append(given) or {})
    command(arguments)
    ((model, on, names, output, options),) = calls
    fields = {**vars(options), **vars(options.suites), "suites": None}
    return {"model": model, "on": on, "names": names, "output": output, **fields}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_argument_reaches_its_field_and_no_other(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, field, expected = ARGUMENTS[name]
    found, default = told(arguments, monkeypatch), told(["model"], monkeypatch)
    assert found[field] == expected != default[field]
    assert found.pop("command") == shlex.join(["cutmix-zoo", "evaluate", *arguments])
    assert {key for key, value in found.items() if value != default[key]} == {field}


def test_no_argument_is_without_a_field() -> None:
    assert {action.dest for action in make_parser()._actions} == {"help", *ARGUMENTS}


def test_without_arguments_all_is_as_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    options = EvaluateOptions(command="cutmix-zoo evaluate model")
    expected = {**vars(options), **vars(options.suites), "suites": None}
    assert told(["model"], monkeypatch) == {
        "model": "model",
        "on": None,
        "names": ["accuracy"],
        "output": None,
        **expected,
    }


def test_all_suites_and_all_samples_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(["model", "--suite", "all", "--samples", "all"], monkeypatch)
    assert (found["names"], found["samples"]) == (None, None)


def test_a_stream_is_evaluated_into_a_folder(exported: Path, webdataset_folder: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(root=str(webdataset_folder), workers=0)
    numbers = evaluate(str(exported), "wds/", ["accuracy"], tmp_path / "out", options)["accuracy"]
    predictions = np.load(tmp_path / "out" / "predictions.npz")
    assert numbers["count"] == 24
    assert predictions["name"].tolist() == [str(place) for place in range(24)]
    assert predictions["label"].tolist() == [place % 3 for place in range(24)]


@pytest.mark.parametrize("method", ["write_about", "write_predictions", "write"])
def test_a_disk_that_takes_no_more_is_said(
    method: str, exported: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ResultFolder, method, full)
    options = EvaluateOptions(root=str(tiny_data), workers=0)
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path / 'out'}: .*No space left on device"):
        evaluate(str(exported), "fashion_mnist", output=tmp_path / "out", options=options)


def test_what_does_not_fit_into_memory_is_said_with_what_to_do(
    exported: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(SUITES, "calibration", replace(SUITES["calibration"], measure=too_large))
    options = EvaluateOptions(root=str(tiny_data), workers=0)
    # one process of several may meet it alone, and has to say so itself
    with pytest.raises(OneProcessError, match=r"^the evaluation does not fit into memory: lower --batch-size\. torch"):
        evaluate(str(exported), "fashion_mnist", ["calibration"], options=options)
