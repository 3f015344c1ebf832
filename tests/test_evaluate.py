import json
from pathlib import Path

import pytest
import timm
import torch

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluate import command, evaluate
from cutmix_zoo.models import export_model


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
    numbers = evaluate(str(exported), "fashion_mnist", root=str(tiny_data), batch_size=7, workers=0)
    assert numbers["top1"] == pytest.approx(float(expected))
    assert (numbers["dataset"], numbers["split"], numbers["count"]) == ("fashion_mnist", "validation", 30)


def test_split_and_workers_are_the_callers(exported: Path, tiny_data: Path) -> None:
    numbers = evaluate(str(exported), "fashion_mnist", root=str(tiny_data), split="train", workers=2)
    assert (numbers["split"], numbers["count"]) == ("train", 80)


def test_the_command_writes_once(
    exported: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(exported), "--on", "fashion_mnist", "--root", str(tiny_data), "--suite", "accuracy"]
    arguments += ["--output", str(tmp_path / "out"), "--workers", "0", "--batch-size", "10"]
    command(arguments)
    numbers = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert f"top-1 {numbers['top1']:.2f} %" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists and is not overwritten"):
        command(arguments)


def test_a_missing_dataset_and_preprocessing_that_cannot_be_made_are_named(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(UserError, match="say with --on which dataset"):
        evaluate(str(exported))
    with pytest.raises(UserError, match="asks for crop_mode 'squash'"):
        evaluate(str(export(tmp_path / "zoo", crop_mode="squash")), "fashion_mnist_mini", workers=0)


def test_other_classes_than_the_models_are_refused(exported: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("ant", "bee"):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "data" / "val" / name / "0.png")
    with pytest.raises(UserError, match="the model has 10 classes and folder has 2"):
        evaluate(str(exported), "folder", root=str(tmp_path / "data"), workers=0)


def test_classes_of_other_names_are_refused_even_if_there_are_as_many(tiny_data: Path, tmp_path: Path) -> None:
    animals = export(tmp_path / "zoo", label_names=[f"animal {number}" for number in range(10)])
    with pytest.raises(UserError, match=r"classes \(animal 0.*are not those of fashion_mnist \(T-shirt/top"):
        evaluate(str(animals), "fashion_mnist", root=str(tiny_data), workers=0)


@pytest.mark.parametrize(("option", "value"), [("--workers", "-1"), ("--batch-size", "0"), ("--batch-size", "x")])
def test_counts_are_checked_by_the_parser(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["model", option, value])
    assert option in capsys.readouterr().err
