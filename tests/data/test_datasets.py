import gc
import importlib.util
import logging
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm.data.dataset_factory
import torchvision.datasets
from PIL import Image
from timm.data import ImageNetInfo, create_dataset
from timm.data.dataset import IterableImageDataset
from torchvision.transforms.functional import pil_to_tensor

from cutmix_zoo.data import datasets
from cutmix_zoo.data.datasets import check_labels, check_same_classes, class_names, dataset_size, open_split
from cutmix_zoo.data.keyed import Keyed, Prepare
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.data.transforms import ToMode
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import SampleKey
from cutmix_zoo.known import KNOWN_DATASETS
from tests.conftest import leaves_files_open, png_bytes, random_image, write_tar
from tests.data.conftest import idx_bytes

RGB: dict[str, Any] = {"input_size": (3, 8, 8), "mean": (0.5,), "std": (0.5,)}


def folder_settings(root: Path, **changes: Any) -> DataSettings:
    return DataSettings("folder", **{"root": str(root), **RGB, **changes})


def test_fashion_mnist_mini_needs_nothing() -> None:
    settings = DataSettings("fashion_mnist_mini")
    assert (len(open_split(settings, "train")), len(open_split(settings, "val"))) == (10_000, 2_000)
    assert class_names(open_split(settings, "val"), settings) == KNOWN_DATASETS["fashion_mnist"].classes


@pytest.mark.parametrize("layout", ["torchvision", "debian"])
def test_fashion_mnist(fashion: Callable[..., Path], layout: str) -> None:
    settings = DataSettings("fashion_mnist", root=str(fashion(layout)))
    assert (len(open_split(settings, "train")), len(open_split(settings, "val"))) == (40, 20)


def test_fashion_mnist_hands_download_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: str, *, download: bool) -> None:
        raise RuntimeError("all mirrors failed")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(UserError, match=r"could not download"):
        open_split(DataSettings("fashion_mnist", root=str(tmp_path), download=True), "train")


def test_torchvision_cifar100(cifar100: Path) -> None:
    settings = DataSettings("torch/cifar100", root=str(cifar100))
    train, val = open_split(settings, "train"), open_split(settings, "val")
    assert (len(train), len(val)) == (30, 10)
    image, label = train[3]
    assert (image.mode, image.size, 0 <= label < 100) == ("RGB", (32, 32), True)
    assert class_names(train, settings) == KNOWN_DATASETS["cifar100"].classes
    check_labels(train, 100)


@pytest.mark.parametrize("name", ["folder", "torch/folder", "torch/image_folder"])
def test_image_folders(image_folder: Path, name: str) -> None:
    settings = DataSettings(name, root=str(image_folder), **RGB)
    train, val = open_split(settings, "train"), open_split(settings, "val")
    assert (len(train), len(val)) == (12, 6)
    assert class_names(train, settings) == class_names(val, settings) == ("ant", "bee", "cat")
    check_same_classes(train, val)
    image, label = val[5]
    assert (image.size, label) == ((26, 23), 2)
    with Image.open(image_folder / "val/cat/1.png") as expected:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(expected.convert("RGB")))


def test_an_imagenet_folder(image_folder: Path) -> None:
    settings = DataSettings("imagenet", root=str(image_folder))
    dataset = open_split(settings, "val")
    assert len(dataset) == 6
    assert class_names(dataset, settings) == ("ant", "bee", "cat"), "a part of it has the names of its folders"
    whole = SimpleNamespace(class_to_idx={name: index for index, name in enumerate(ImageNetInfo().label_names())})
    names = class_names(whole, settings)
    assert names is not None
    assert len(names) == 1000
    assert names[0].startswith("tench")


def test_splits_go_by_timms_synonyms_or_their_own_name(image_folder: Path) -> None:
    (image_folder / "train").rename(image_folder / "training")
    (image_folder / "val").rename(image_folder / "holdout")
    settings = folder_settings(image_folder, val_split="holdout")
    assert (len(open_split(settings, "train")), len(open_split(settings, "val"))) == (12, 6)


def test_a_folder_of_tar_files(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        files = {f"{name}/{i}.png": png_bytes(random_image(i, 9, 9)) for name in ("ant", "bee") for i in range(count)}
        write_tar(tmp_path / f"{split}.tar", files)
    settings = folder_settings(tmp_path, train_split="train.tar", val_split="val.tar")
    train, val = open_split(settings, "train"), open_split(settings, "val")
    assert (len(train), len(val)) == (6, 4)
    assert class_names(train, settings) == ("ant", "bee")
    check_same_classes(train, val)
    with pytest.raises(UserError, match=r"3 of 6 labels are outside the 1 classes, such as 1"):
        check_labels(train, 1)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("cifar100", "torch/cifar100"),
        ("fashion_mnist_min", "fashion_mnist_mini"),
        ("torch/cifar_10", "torch/cifar10"),
        ("foldr", "folder"),
        ("hfds/", None),
        ("wds", None),
        ("xyz", None),
    ],
)
def test_an_unknown_name(name: str, nearest: str | None) -> None:
    with pytest.raises(UserError, match=rf"unknown dataset '{name}'.*known are fashion_mnist_mini.*wds/") as caught:
        open_split(DataSettings(name, root="."), "train")
    assert ("did you mean" in str(caught.value)) == (nearest is not None)
    assert nearest is None or f"did you mean {nearest}?" in str(caught.value)


@pytest.mark.parametrize("name", datasets._TORCH)
def test_timm_knows_the_names_of_torchvision(name: str, tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, OSError, ValueError)) as caught:
        create_dataset(name, root=str(tmp_path), split="train")
    assert "Unknown torchvision dataset" not in str(caught.value)
    with pytest.raises(UserError, match=rf"cannot open split .* of {name} in .*Check data.root.*data.download"):
        open_split(DataSettings(name, root=str(tmp_path), **RGB), "train")


def test_no_torchvision_name_of_timms_is_left_out() -> None:
    assert {f"torch/{name}" for name in timm.data.dataset_factory._TORCH_BASIC_DS} <= set(datasets._TORCH)


@pytest.mark.parametrize("name", ["fashion_mnist", "folder", "imagenet", "torch/cifar10", "torch/folder"])
def test_a_missing_root(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} needs data.root"):
        open_split(DataSettings(name, **RGB), "train")


@pytest.mark.parametrize("name", ["fashion_mnist_mini", "torch/cifar100"])
def test_a_misspelt_split_is_not_taken_for_the_test_set(name: str, cifar100: Path) -> None:
    settings = DataSettings(name, root=str(cifar100), train_split="trian")
    with pytest.raises(UserError, match=rf"{name} has no split 'trian': expected one of train, training, val"):
        open_split(settings, "train")
    assert len(open_split(DataSettings(name, root=str(cifar100), val_split="test"), "val")) in (10, 2000)


def test_a_wrong_folder(tmp_path: Path, image_folder: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no folder: set data.root"):
        open_split(folder_settings(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match=r"no split 'train' in .*ant: looked for train, training, found 0.png, 1.png"):
        open_split(folder_settings(image_folder / "train" / "ant"), "train")
    with pytest.raises(UserError, match=r"no split 'other' in .*: looked for other, found train, val.*data.val_split"):
        open_split(folder_settings(image_folder, val_split="other"), "val")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "train" / "ant").mkdir(parents=True)
    for name in ("folder", "torch/folder"):
        with pytest.raises(UserError, match=r"cannot open split 'train' .*Found"):
            open_split(DataSettings(name, root=str(tmp_path), **RGB), "train")


def test_images_without_a_class_folder(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    random_image(0, 8, 8).save(tmp_path / "train" / "0.png")
    with pytest.raises(UserError, match=r"outside any class: expected ROOT/SPLIT/CLASS/IMAGE"):
        open_split(folder_settings(tmp_path), "train")


def test_an_empty_dataset(fashion: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"split 'train' of fashion_mnist in .* has no images"):
        open_split(DataSettings("fashion_mnist", root=str(fashion(counts=(0, 20)))), "train")


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("hfds/some/set", "datasets"),
        ("hfids/some/set", "datasets"),
        ("HFDS/some/set", "datasets"),
        ("tfds/mnist", "tensorflow tensorflow-datasets"),
        ("wds/", "webdataset"),
    ],
)
def test_a_missing_package(name: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"{name}' needs a package that is not installed: pip install {install}$"):
        open_split(DataSettings(name, root=".", **RGB), "train")


def test_a_missing_class_shifts_the_labels(image_folder: Path) -> None:
    settings = folder_settings(image_folder)
    (image_folder / "val" / "bee").rename(image_folder / "val" / "bug")
    with pytest.raises(UserError, match=r"3 in training, 3 in evaluation; only one of the two has bee, bug"):
        check_same_classes(open_split(settings, "train"), open_split(settings, "val"))
    check_same_classes(open_split(settings, "train"), SimpleNamespace())


@pytest.mark.parametrize(
    "dataset",
    [
        SimpleNamespace(targets=[0, 3, 1, -1, 2]),
        SimpleNamespace(targets=np.array([0, 3, 1, -1, 2])),
        SimpleNamespace(reader=SimpleNamespace(samples=[("a", 0), ("b", 3), ("c", 1), ("d", -1), ("e", 2)])),
        SimpleNamespace(reader=SimpleNamespace(targets=[0, 3, 1, -1, 2], samples=np.zeros(5))),
    ],
)
def test_labels_outside_the_classes(dataset: Any) -> None:
    with pytest.raises(UserError, match=r"2 of 5 labels are outside the 3 classes, such as 3: expected .* 0 to 2"):
        check_labels(dataset, 3)
    with pytest.raises(UserError, match=r"1 of 5 labels .* such as -1"):
        check_labels(dataset, 4)


def test_labels_inside_the_classes(image_folder: Path) -> None:
    check_labels(open_split(folder_settings(image_folder), "train"), 3)
    check_labels(SimpleNamespace(), 1)


def test_class_names_of_datasets_that_do_not_say() -> None:
    settings = DataSettings("hfds/a/b")
    assert class_names(SimpleNamespace(), settings) is None
    assert class_names(SimpleNamespace(reader=SimpleNamespace(class_to_idx={})), settings) is None
    assert class_names(SimpleNamespace(class_to_idx={"a": 0, "b": 2}), settings) is None
    assert class_names(SimpleNamespace(class_to_idx={"b": 1, "a": 0}), settings) == ("a", "b")
    # the coarse labels of CIFAR-100, say
    coarse = SimpleNamespace(class_to_idx={f"c{index}": index for index in range(20)})
    assert class_names(coarse, DataSettings("hfds/uoft-cs/cifar100")) == tuple(coarse.class_to_idx)


def test_every_process_reads_all_of_an_evaluation_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: module)
    for split, expected in (("train", (1, 4)), ("val", (0, 1))):
        reader = SimpleNamespace(dist_rank=1, dist_num_replicas=4, num_samples=24)
        monkeypatch.setattr(datasets, "create_dataset", lambda *_, **__: IterableImageDataset("", reader=reader))  # noqa: B023
        dataset = open_split(DataSettings("hfids/some/set", **RGB), split)
        assert (dataset.reader.dist_rank, dataset.reader.dist_num_replicas) == expected


@leaves_files_open
def test_webdataset(webdataset_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("webdataset")
    settings = DataSettings("wds/", root=str(webdataset_folder), batch_size=4, **RGB)
    train, val = open_split(settings, "train", seed=5), open_split(settings, "val")
    assert isinstance(train, IterableImageDataset)
    assert (dataset_size(train), dataset_size(val)) == (24, 24)
    assert (train.reader.batch_size, train.reader.common_seed, train.reader.is_training) == (4, 5, True)
    assert open_split(settings, "train", world_size=2).reader.batch_size == 2
    assert [(image.getpixel((0, 0))[0], label) for image, label in val] == [(i, i % 3) for i in range(24)]
    with pytest.raises(UserError, match=r"nowhere is no folder"):
        open_split(DataSettings("wds/", root=str(webdataset_folder / "nowhere"), **RGB), "train")
    with caplog.at_level(logging.ERROR), pytest.raises(UserError, match=r"cannot open split 'other' of wds/"):
        open_split(DataSettings("wds/", root=str(webdataset_folder), val_split="other", **RGB), "val")
    unknown = "validation-{0..3}.tar"
    (webdataset_folder / "_info.json").unlink()
    with caplog.at_level(logging.ERROR), pytest.raises(UserError, match=r"does not say how many samples"):
        open_split(DataSettings("wds/", root=str(webdataset_folder), val_split=unknown, **RGB), "val")


@leaves_files_open
def test_hugging_face_datasets(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = pytest.importorskip("datasets")
    features = hf.Features({"picture": hf.Image(), "kind": hf.ClassLabel(names=["ant", "bee", "cat"])})
    rows = [{"picture": str(path), "kind": path.parent.name} for path in sorted(image_folder.glob("train/*/*.png"))]
    table = hf.Dataset.from_list(rows, features=features)
    asked = {}

    def load(name: str, **options: Any) -> Any:
        asked.update(options, name=name)
        return table

    monkeypatch.setattr(hf, "load_dataset", load)
    settings = DataSettings("hfds/someone/pets", input_key="picture", target_key="kind", **RGB)
    dataset = open_split(settings, "train")
    assert (asked["name"], asked["split"], len(dataset)) == ("someone/pets", "train", 12)
    assert class_names(dataset, settings) == ("ant", "bee", "cat")
    image, label = dataset[5]
    with Image.open(rows[5]["picture"]) as expected:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert label == 1
    held_out = replace(settings, val_fraction=0.25, only_classes=(0, 2))
    assert [open_split(held_out, split).targets.tolist() for split in ("train", "val")] == [[0, 0, 0, 1, 1, 1], [0, 1]]
    label_named_wrong = replace(settings, target_key="genus")
    with pytest.raises(UserError, match=r"cannot read the labels of hfds/someone/pets: .*check data.target_key"):
        open_split(replace(label_named_wrong, val_fraction=0.25), "train")
    with pytest.raises(UserError, match=r"genus|check data.target_key"):
        Keyed(open_split(label_named_wrong, "train"), Prepare(pil_to_tensor, 3), seed=0)[SampleKey(0, 0, 0)]
    gc.collect()

    def fail(name: str, **options: Any) -> Any:
        raise FileNotFoundError("Dataset 'someone/pets' doesn't exist\non the Hub")

    monkeypatch.setattr(hf, "load_dataset", fail)
    with pytest.raises(UserError, match=r"Dataset 'someone/pets' doesn't exist on the Hub. Check data.root"):
        open_split(settings, "train")


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_an_image_that_cannot_be_read_is_named_and_not_replaced_by_the_next(image_folder: Path, content: bytes) -> None:
    broken = image_folder / "val" / "ant" / "1.png"
    broken.write_bytes(content)
    dataset = open_split(DataSettings("folder", root=str(image_folder), **RGB), "val")
    assert dataset[0][1] == 0
    with pytest.raises(UserError, match=r"cannot read image .*ant/1.png"):
        dataset[1]


@pytest.mark.parametrize("held", [{"val_fraction": 0.25}, {"fold": "1/4"}])
def test_what_is_held_out_of_a_folder_is_missing_from_its_training_split(image_folder: Path, held: Any) -> None:
    settings = folder_settings(image_folder, val_split="none such", **held)
    train, val = open_split(settings, "train"), open_split(settings, "val")
    assert (len(train), len(val)) == (9, 3)
    assert sorted(val.targets) == [0, 1, 2]
    whole = open_split(folder_settings(image_folder), "train")
    assert sorted([*train.indices, *val.indices]) == list(range(len(whole)))
    image, label = val[1]
    assert label == val.targets[1]
    assert image == whole[val.indices[1]][0]
    check_same_classes(train, val)
    assert class_names(val, settings) == class_names(whole, settings) == ("ant", "bee", "cat")


def test_a_fold_of_a_known_dataset() -> None:
    settings = DataSettings("fashion_mnist_mini", fold="4/5")
    val = open_split(settings, "val")
    assert np.bincount(val.targets).tolist() == [200] * 10
    assert class_names(val, settings) == KNOWN_DATASETS["fashion_mnist"].classes


def test_where_nothing_can_be_held_out(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nothing can be held out of a stream \(wds/\)"):
        open_split(DataSettings("wds/", root=str(image_folder), val_fraction=0.1), "val")
    with pytest.raises(UserError, match=r"12 images of 3 classes leave none for the val split: val_fraction is 0\.01"):
        open_split(folder_settings(image_folder, val_fraction=0.01, val_split="x"), "val")
    monkeypatch.setattr(datasets, "known_labels", lambda _: None)
    with pytest.raises(UserError, match="does not tell its labels without reading its images"):
        open_split(folder_settings(image_folder, val_fraction=0.1, val_split="x"), "val")


def test_several_names_may_stand_for_one_class() -> None:
    """torchvision's ImageNet maps each synonym."""
    synonyms = SimpleNamespace(class_to_idx={f"{kind}{label}": label for label in range(1000) for kind in ("a", "b")})
    names = class_names(synonyms, DataSettings("torch/imagenet"))
    assert names is not None
    assert len(names) == 1000
    assert names[0].startswith("tench")


def test_a_home_folder_is_expanded(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(image_folder.parent))
    assert len(open_split(DataSettings("folder", root="~/images", **RGB), "val")) == 6


def test_labels_that_are_no_whole_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"must be whole numbers, got float64 such as 0\.5"):
        check_labels(SimpleNamespace(targets=[0.5, 1.5]), 3)


def test_a_folder_of_classes_alone_is_held_out_of(image_folder: Path) -> None:
    classes = image_folder / "train"
    for held, sizes in (({"val_fraction": 0.25}, (9, 3)), ({"fold": "0/2"}, (6, 6))):
        settings = folder_settings(classes, **held)
        train, val = open_split(settings, "train"), open_split(settings, "val")
        assert (len(train), len(val)) == sizes
        assert class_names(train, settings) == ("ant", "bee", "cat")
        check_same_classes(train, val)
    with pytest.raises(UserError, match="no split 'train' in"):
        open_split(folder_settings(classes), "train")


@pytest.mark.parametrize("held", [{"val_fraction": 0.25}, {"fold": "0/2"}])
@pytest.mark.parametrize("name", ["folder", "imagenet", "torch/folder"])
def test_splits_of_other_names_are_not_merged(name: str, held: dict[str, Any], image_folder: Path) -> None:
    (image_folder / "train").rename(image_folder / "training_set")
    (image_folder / "val").rename(image_folder / "test_set")
    settings = replace(folder_settings(image_folder, **held), name=name)
    expected = (
        r"no split 'train' in .*images, and images deeper than ROOT/CLASS, such as in t\w+_set/\w{3}: "
        r"found test_set, training_set. Expected ROOT/SPLIT/CLASS/IMAGE, or .* set data.train_split to the name"
    )
    for split in ("train", "val"):
        with pytest.raises(UserError, match=expected):
            open_split(settings, split)
    named = replace(settings, train_split="training_set")
    assert len(open_split(named, "train")) + len(open_split(named, "val")) == 12


def test_a_folder_below_that_of_a_class_is_not_a_class(image_folder: Path) -> None:
    settings = folder_settings(image_folder / "train", val_fraction=0.25)
    (inner := image_folder / "train" / "bee" / "more").mkdir()
    (inner / "notes.txt").write_text("no image")
    assert len(open_split(settings, "train")) == 9
    random_image(0, 9, 9).save(inner / "0.png")
    with pytest.raises(UserError, match=r"images deeper than ROOT/CLASS, such as in bee/more: found ant, bee, cat"):
        open_split(settings, "train")


def test_a_misspelt_training_split_is_not_held_out_of(image_folder: Path) -> None:
    for root, found in ((image_folder, "train, val"), (image_folder / "train", "ant, bee, cat")):
        settings = folder_settings(root, val_fraction=0.25, train_split="trian", val_split="none such")
        with pytest.raises(UserError, match=rf"no split 'trian' in .*: looked for trian, found {found}\. Expected"):
            open_split(settings, "train")


def test_nothing_is_held_out_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is no folder: set data.root"):
        open_split(folder_settings(tmp_path / "nowhere", val_fraction=0.25), "train")
    with pytest.raises(UserError, match=r"folder needs data.root"):
        open_split(DataSettings("folder", val_fraction=0.25, **RGB), "train")


@pytest.mark.parametrize("name", ["folder", "torch/folder"])
def test_sixteen_bits_of_a_file_are_kept_until_they_are_scaled(name: str, tmp_path: Path) -> None:
    (tmp_path / "train" / "ant").mkdir(parents=True)
    Image.fromarray(np.full((8, 8), 25_700, np.uint16)).save(tmp_path / "train" / "ant" / "0.png")
    image, _ = open_split(DataSettings(name, root=str(tmp_path), **RGB), "train")[0]
    assert pil_to_tensor(ToMode(3)(image)).unique().tolist() == [100]


@leaves_files_open
@pytest.mark.parametrize("key", [None, "png", "webp;png", "png;jpg"])
def test_the_image_of_a_webdataset_is_found_by_its_key_and_keeps_its_bits(key: str | None, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    image = Image.fromarray(np.full((8, 8), 25_700, np.uint16))
    write_tar(tmp_path / "val-0.tar", {"a.png": png_bytes(image), "a.cls": b"2"})
    settings = DataSettings("wds/", root=str(tmp_path), val_split="val-{0..0}.tar|1", input_key=key, **RGB)
    ((found, label),) = open_split(settings, "val")
    assert pil_to_tensor(ToMode(3)(found)).unique().tolist() == [100]
    assert label == 2


def test_a_validation_folder_that_would_not_be_used_is_named(image_folder: Path) -> None:
    with pytest.warns(UserWarning, match=rf"{image_folder}/val is not used, because data.val_fraction holds out"):
        val = open_split(folder_settings(image_folder, val_fraction=0.25), "val")
    assert len(val) == 3
    open_split(folder_settings(image_folder, fold="0/4"), "val")  # who says which fold knows what it is for


@pytest.mark.parametrize("count", [1, 7, 100])
def test_a_subset_is_the_same_in_every_run(count: int, image_folder: Path) -> None:
    settings = folder_settings(image_folder, subset=count)
    for split, size in (("train", 12), ("val", 6)):
        part, whole = open_split(settings, split), open_split(folder_settings(image_folder), split)
        again = open_split(settings, split, seed=5)
        assert len(part) == min(count, size)
        assert part.indices == again.indices == sorted(set(part.indices))
        assert part.targets.tolist() == [whole[index][1] for index in part.indices]
        assert class_names(part, settings) == ("ant", "bee", "cat")
        check_labels(part, 3)


def test_a_subset_of_what_is_held_out_or_left(image_folder: Path) -> None:
    settings = folder_settings(image_folder / "train", val_fraction=0.25, subset=2)
    assert (len(open_split(settings, "train")), len(open_split(settings, "val"))) == (2, 2)


def test_a_stream_has_no_subset(webdataset_folder: Path) -> None:
    with pytest.raises(UserError, match=r"a stream has no subset \(wds/\)"):
        open_split(DataSettings("wds/", root=str(webdataset_folder), subset=3, **RGB), "train")


def test_a_dataset_without_known_labels_has_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "known_labels", lambda _: None)
    part = open_split(DataSettings("fashion_mnist_mini", subset=5), "val")
    assert (len(part), part.targets) == (5, None)


def test_only_some_classes_in_both_splits(image_folder: Path) -> None:
    settings = folder_settings(image_folder, only_classes=(2, 0))
    train, val = open_split(settings, "train"), open_split(settings, "val")
    assert ([label for _, label in train], [label for _, label in val]) == ([1] * 4 + [0] * 4, [1] * 2 + [0] * 2)
    assert train.targets.tolist() == [1] * 4 + [0] * 4
    assert class_names(train, settings) == class_names(val, settings) == ("cat", "ant")
    check_same_classes(train, val)
    check_labels(train, 2)
    with Image.open(image_folder / "val/cat/1.png") as expected:
        assert val[3][0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("rest", [{}, {"subset": 500}, {"val_fraction": 0.3}, {"fold": "1/3"}])
def test_classes_of_a_known_dataset_keep_their_names(rest: Any) -> None:
    settings = DataSettings("fashion_mnist_mini", only_classes=(9, 4, 0), **rest)
    for split in ("train", "val"):
        dataset = open_split(settings, split)
        assert class_names(dataset, settings) == ("Ankle boot", "Coat", "T-shirt/top")
        labels = {dataset[index][1] for index in range(0, len(dataset), 7)}
        assert labels == set(dataset.targets.tolist()) == {0, 1, 2}


def test_classes_are_chosen_before_anything_is_held_out_or_left_out(image_folder: Path) -> None:
    held = folder_settings(image_folder, only_classes=(1, 2), fold="0/4")
    train, val = open_split(held, "train"), open_split(held, "val")
    assert (train.targets.tolist().count(0), val.targets.tolist()) == (3, [0, 1])
    few = open_split(folder_settings(image_folder, only_classes=(1, 2), subset=7), "train")
    assert len(few) == 7
    whole = [image.tobytes() for image, _ in open_split(folder_settings(image_folder, only_classes=(1, 2)), "train")]
    assert all(image.tobytes() in whole for image, _ in few)


def test_classes_of_imagenet_keep_their_descriptions() -> None:
    names = ImageNetInfo().label_names()
    whole = SimpleNamespace(class_to_idx={name: label for label, name in enumerate(names)})
    part = datasets.OnlyClasses(whole, (2, 134, 517), np.arange(1000), whole.class_to_idx)
    assert part.class_to_idx == {names[2]: 0, names[134]: 1, names[517]: 2}
    described = class_names(part, DataSettings("imagenet", only_classes=(2, 134, 517)))
    assert described is not None
    assert described[0].startswith("great white shark")
    # a bird and a machine of one name
    assert described[1].startswith("crane")
    assert described[2].startswith("crane")


def test_classes_without_names() -> None:
    part = datasets.OnlyClasses(SimpleNamespace(), (1, 5), np.arange(8), None)
    assert class_names(part, DataSettings("hfds/a/b", only_classes=(1, 5))) is None
    # a known dataset, opened in a way that does not say what its classes are
    assert class_names(part, DataSettings("hfds/uoft-cs/cifar10", only_classes=(1, 5))) == ("automobile", "dog")


def test_classes_that_are_not_there(image_folder: Path) -> None:
    with pytest.raises(UserError, match=r"data.only_classes: folder has no class 3, 7; it has 3 classes from 0 to 2"):
        open_split(folder_settings(image_folder, only_classes=(3, 0, 7)), "train")


def test_a_split_without_images_of_the_classes(fashion: Callable[..., Path]) -> None:
    root = fashion(counts=(40, 4))  # of the test images the labels 0 to 3 alone
    settings = DataSettings("fashion_mnist", root=str(root), only_classes=(8, 9))
    assert len(open_split(settings, "train")) == 8
    with pytest.raises(UserError, match=r"the val split of fashion_mnist has no image of data.only_classes \[8, 9\]"):
        open_split(settings, "val")


def test_where_classes_cannot_be_chosen(webdataset_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"the classes of a stream cannot be chosen \(wds/\): leave out data.only_classes"
    ):
        open_split(DataSettings("wds/", root=str(webdataset_folder), only_classes=(0,), **RGB), "train")
    monkeypatch.setattr(datasets, "known_labels", lambda _: None)
    with pytest.raises(UserError, match=r"does not tell its labels .*: its classes cannot be chosen; leave out data"):
        open_split(DataSettings("fashion_mnist_mini", only_classes=(0,)), "train")


@pytest.mark.parametrize("layout", [None, "debian", "torchvision"])
def test_canvases_of_the_shipped_images_or_of_all(fashion: Callable[..., Path], layout: str | None) -> None:
    root = None if layout is None else str(fashion(layout))
    settings = DataSettings("fashion_mnist_canvas", root=root)
    train, val = open_split(settings, "train"), open_split(settings, "val")
    assert (len(train), len(val)) == ((10_000, 2_000) if layout is None else (40, 20))
    garments = open_split(replace(settings, name="fashion_mnist_mini" if root is None else "fashion_mnist"), "val")
    assert val[3][1] == garments[3][1]
    assert (train[0][0].size, val[3][0].size) == ((56, 56), (56, 56))
    assert train.boxes(3) != val.boxes(3), "the two splits have draws of their own"
    assert class_names(val, settings) == KNOWN_DATASETS["fashion_mnist"].classes
    check_labels(val, 10)
    part = open_split(replace(settings, only_classes=(1, 7)), "val")
    assert part.boxes(0) == val.boxes(part.indices[0])
    assert part.image_size(0) == (56, 56)


def test_birds(tmp_path: Path) -> None:
    folder = tmp_path / "CUB_200_2011"
    for place in ("images/001.A_Bird", "images/002.B_Bird"):
        (folder / place).mkdir(parents=True)
    paths = ["001.A_Bird/a.jpg", "002.B_Bird/b.jpg", "001.A_Bird/c.jpg", "002.B_Bird/d.jpg"]
    for number, path in enumerate(paths):
        random_image(number, 12, 10).save(folder / "images" / path)
    lines = {
        "images": paths,
        "image_class_labels": "1212",
        "train_test_split": "1100",
        "bounding_boxes": ["1.0 2.0 3.0 4.0"] * 4,
    }
    for name, values in lines.items():
        (folder / f"{name}.txt").write_text("".join(f"{place} {value}\n" for place, value in enumerate(values, 1)))
    (folder / "classes.txt").write_text("1 001.A_Bird\n2 002.B_Bird\n")
    for root in (tmp_path, folder):
        settings = DataSettings("cub200", root=str(root))
        train, val = open_split(settings, "train"), open_split(settings, "val")
        assert ([label for _, label in train], [label for _, label in val]) == ([0, 1], [0, 1])
        assert class_names(val, settings) == ("A_Bird", "B_Bird")
        part = open_split(replace(settings, subset=1), "val")
        assert (part.boxes(0), part.image_size(0)) == ([(2, 1, 6, 4)], (12, 10))
    with pytest.raises(UserError, match=r"cub200 needs data.root"):
        open_split(DataSettings("cub200"), "val")
    with pytest.raises(UserError, match="cub200 has no split 'vall'"):
        open_split(DataSettings("cub200", root=str(tmp_path), val_split="vall"), "val")


def test_of_the_datasets_only_those_with_boxes_offer_them(image_folder: Path) -> None:
    for settings in (DataSettings("fashion_mnist_mini"), folder_settings(image_folder)):
        for changes in ({}, {"subset": 3}, {"only_classes": (0,)}, {"fold": "0/2"}):
            dataset = open_split(replace(settings, **changes), "val")
            assert not hasattr(dataset, "boxes")
            assert not hasattr(dataset, "image_size")


def _write_qmnist(root: Path, split: str, digits: np.ndarray) -> None:
    """Write torchvision's files of QMNIST: beside each digit seven more numbers, such as its writer."""
    folder = root / "QMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.full((len(digits), 8), 500, ">i4")
    rows[:, 0] = digits
    (folder / f"qmnist-{split}-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((len(digits), 28, 28), np.uint8)))
    header = struct.pack(">BBBB2I", 0, 0, 12, 2, *rows.shape)
    (folder / f"qmnist-{split}-labels-idx2-int").write_bytes(header + rows.tobytes())


def test_the_labels_of_qmnist_are_its_digits(tmp_path: Path) -> None:
    digits = np.arange(40) % 10
    _write_qmnist(tmp_path, "train", digits)
    spec = {"input_size": (1, 28, 28), "mean": (0.5,), "std": (0.5,)}
    settings = DataSettings("torch/qmnist", root=str(tmp_path), **spec)
    dataset = open_split(settings, "train")
    assert datasets.known_labels(dataset).tolist() == digits.tolist() == [label for _, label in dataset]
    check_labels(dataset, 10)
    assert sorted(open_split(replace(settings, val_fraction=0.25), "val").targets.tolist()) == list(range(10))
    assert len(open_split(replace(settings, only_classes=(1, 2)), "train")) == 8


def test_rows_of_several_numbers_are_no_known_labels() -> None:
    for targets in (np.zeros((4, 8), np.int64), [[0, 1], [1, 1]], 3):
        assert datasets.known_labels(SimpleNamespace(targets=targets)) is None
    assert datasets.known_labels(SimpleNamespace(targets=[2, 0])).tolist() == [2, 0]


@pytest.mark.parametrize("held", [{"val_fraction": 0.25}, {"fold": "0/4"}])
@pytest.mark.parametrize("name", ["train", "valid", "val", "validation"])
def test_a_class_may_have_the_name_of_a_split(name: str, held: dict[str, Any], image_folder: Path) -> None:
    classes = image_folder / "train"
    (classes / "cat").rename(classes / name)
    settings = folder_settings(classes, **held)
    train, val = open_split(settings, "train"), open_split(settings, "val")
    assert (len(train), len(val)) == (9, 3)
    assert class_names(train, settings) == class_names(val, settings) == ("ant", "bee", name)


def test_splits_without_folders_of_classes_are_not_taken_for_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        random_image(0, 9, 9).save(tmp_path / split / "0.png")
    with pytest.raises(UserError, match="lie outside any class: expected ROOT/SPLIT/CLASS/IMAGE"):
        open_split(folder_settings(tmp_path, val_fraction=0.25), "train")
