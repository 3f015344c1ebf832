import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from cutmix_zoo.data.datasets import open_split
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.evaluation.results import ResultFolder, sample_names, weights_sha256
from cutmix_zoo.models import export_model

ABOUT = {"model": "m", "dataset": "d", "split": "s"}
HOW = {"command": "a", "environment": {"torch": "1"}}


def test_a_suite_leaves_numbers_a_table_and_arrays(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path / "a" / "b")
    folder.check(ABOUT, ["ood"])
    findings = Findings({"mean": 1.5}, [{"set": "x", "auroc": 2.5}], {"scores": np.arange(3)})
    folder.write("ood", ABOUT, findings)
    assert json.loads(folder.suite_file("ood").read_text()) == {**ABOUT, "mean": 1.5, "rows": findings.rows}
    assert (folder.path / "ood.csv").read_text() == "set,auroc\nx,2.5\n"
    with np.load(folder.path / "ood.npz") as arrays:
        assert arrays["scores"].tolist() == [0, 1, 2]
    folder.write("plain", ABOUT, Findings({"mean": 2.0}))
    assert sorted(path.name for path in folder.path.iterdir()) == ["ood.csv", "ood.json", "ood.npz", "plain.json"]


def test_results_are_not_overwritten_and_not_mixed(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    folder.write_about({**ABOUT, **HOW})
    folder.write("ood", ABOUT, Findings({}))
    folder.check(ABOUT, ["accuracy"])
    with pytest.raises(UserError, match=r"ood\.json exists and is not overwritten"):
        folder.check(ABOUT, ["accuracy", "ood"])
    with pytest.raises(UserError, match="has the results of dataset 'd', not of 'e'"):
        folder.check({**ABOUT, "dataset": "e"}, ["accuracy"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        ResultFolder(tmp_path / "file").check(ABOUT, ["accuracy"])


def test_what_several_calls_wrote_stands_together(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    folder.check({"count": 30}, ["probe"])
    folder.write_about({**ABOUT, **HOW, "command": None})  # of a call from Python
    for command, version in (("a", "1"), ("b", "1"), ("a", "2"), ("b", "2")):
        folder.write_about(
            {**ABOUT, "count": 30, "command": command, "environment": {"torch": version, "device": "CPU"}}
        )
    about = json.loads(folder.about_file.read_text())
    assert about == {
        **ABOUT,
        "count": 30,
        "command": "a\nb",
        "environment": {"torch": "1; 2", "device": "CPU"},
    }
    folder.check({"count": 30}, ["probe"])
    with pytest.raises(UserError, match="has the results of count 30, not of 20"):
        folder.check({"count": 20}, [])


def test_predictions_say_of_which_image_they_are(tmp_path: Path, image_folder: Path) -> None:
    settings = DataSettings(
        "folder", root=str(image_folder), subset=4, input_size=(3, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3
    )
    dataset = open_split(settings, "val")
    names = sample_names(dataset, 4)
    # a part of the folder: the same images, by their own paths
    for index, name in enumerate(names):
        label = dataset[index][1]
        assert Path(name).parent.name == ("ant", "bee", "cat")[label]
        assert (image_folder / "val" / name).is_file()
    rows = {"index": np.array([0, 2]), "labels": np.array([1, 2]), "logits": np.eye(2, 3, dtype=np.float32)}
    folder = ResultFolder(tmp_path)
    folder.write_predictions(rows, names)
    with np.load(folder.predictions_file, allow_pickle=False) as found:
        assert sorted(found) == ["index", "label", "logits", "name"]
        assert found["name"].tolist() == [names[0], names[2]]
        assert found["label"].tolist() == [1, 2]
        assert found["logits"].dtype == np.float32


def test_images_without_a_path_are_named_by_their_place(tiny_data: Path) -> None:
    dataset = open_split(DataSettings("fashion_mnist", root=str(tiny_data)), "val")
    assert sample_names(dataset, 3) == ["0", "1", "2"]


def test_the_hash_of_weights_is_that_of_their_file(tmp_path: Path) -> None:
    network = timm.create_model("cifar_resnet8", num_classes=3).to(memory_format=torch.channels_last)
    config = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.2,) * 3, "interpolation": "bilinear"}
    export_model(network, tmp_path, data_config=config | {"crop_pct": 1.0}, label_names=None, provenance={})
    file = tmp_path / "model.safetensors"
    assert weights_sha256(network) == hashlib.sha256(file.read_bytes()).hexdigest()
    changed = {**load_file(file)}
    changed["conv1.weight"][0, 0, 0, 0] += 1
    network.load_state_dict(changed)
    assert weights_sha256(network) != hashlib.sha256(file.read_bytes()).hexdigest()
