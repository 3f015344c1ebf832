from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from timm.data import ImageNetInfo

from cutmix_zoo.data.fashion_mnist import MINI_ROOT, FashionMNIST
from cutmix_zoo.known import KNOWN_DATASETS, KnownDataset, known_dataset

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("known", KNOWN_DATASETS.values(), ids=lambda known: known.name)
def test_an_entry_is_complete(known: KnownDataset) -> None:
    assert len(known.mean) == len(known.std) == known.input_size[0]
    assert all(0 < mean < 1 for mean in known.mean)
    assert all(0 < std < 0.5 for std in known.std)
    assert len(known.classes) in (0, known.num_classes)
    assert len(set(known.classes)) == len(known.classes)
    assert all(getattr(known, field.name) or field.name in ("classes", "validation_images") for field in fields(known))
    assert known.homepage.startswith("https://")


def test_the_names() -> None:
    ours = {"fashion_mnist", "fashion_mnist_mini", "fashion_mnist_canvas", "cub200"}
    assert set(KNOWN_DATASETS) == ours | {"cifar10", "cifar100", "imagenet"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fashion_mnist_mini", "fashion_mnist_mini"),
        ("torch/fashion_mnist", "fashion_mnist"),
        ("torch/cifar10", "cifar10"),
        ("torch/CIFAR100", "cifar100"),
        ("hfds/uoft-cs/cifar100", "cifar100"),
        ("tfds/imagenet2012", "imagenet"),
        ("hfds/ILSVRC/imagenet-1k", "imagenet"),
        ("hfds/timm/imagenet-1k-wds", "imagenet"),
        ("tfds/caltech_birds2011", "cub200"),
    ],
)
def test_aliases(name: str, expected: str) -> None:
    known = known_dataset(name)
    assert known is not None
    assert known.name == expected


@pytest.mark.parametrize("known", KNOWN_DATASETS.values(), ids=lambda known: known.name)
def test_a_dataset_is_known_by_its_name_on_the_hub(known: KnownDataset) -> None:
    for name in (known.hub_id, f"hfds/{known.hub_id}", f"hfids/{known.hub_id}"):
        found = known_dataset(name)
        assert found is not None, name
        # several of ours are made of one dataset
        assert found.hub_id == known.hub_id
        assert (found.num_classes, found.licence, found.homepage) == (known.num_classes, known.licence, known.homepage)


@pytest.mark.parametrize("name", ["", "folder", "cifar", "torch/", "cifar100/other"])
def test_an_unknown_dataset_is_none(name: str) -> None:
    assert known_dataset(name) is None


def test_the_authors_constants_for_cifar() -> None:
    for name in ("cifar10", "cifar100"):
        known = KNOWN_DATASETS[name]
        assert known.input_size == (3, 32, 32)
        np.testing.assert_allclose(np.multiply(known.mean, 255), (125.3, 123.0, 113.9), rtol=1e-12)
        np.testing.assert_allclose(np.multiply(known.std, 255), (63.0, 62.1, 66.7), rtol=1e-12)


def test_cifar100_names_are_in_the_datasets_order() -> None:
    classes = KNOWN_DATASETS["cifar100"].classes
    # its labels were numbered by the alphabet
    assert list(classes) == sorted(classes)
    assert (classes[0], classes[23], classes[71], classes[99]) == ("apple", "cloud", "sea", "worm")


def test_fashion_mnist_names_are_torchvisions() -> None:
    for name in ("fashion_mnist", "fashion_mnist_mini", "fashion_mnist_canvas"):
        assert list(KNOWN_DATASETS[name].classes) == torchvision.datasets.FashionMNIST.classes


def test_birds_are_fed_as_imagenet_is() -> None:
    birds, imagenet = KNOWN_DATASETS["cub200"], KNOWN_DATASETS["imagenet"]
    assert (birds.input_size, birds.mean, birds.std) == (imagenet.input_size, imagenet.mean, imagenet.std)
    assert (birds.num_classes, birds.classes) == (200, ()), "their names are in the files"


def test_imagenet_has_as_many_classes_as_timm_has_names() -> None:
    assert len(ImageNetInfo("imagenet-1k").label_names()) == KNOWN_DATASETS["imagenet"].num_classes


def test_fashion_mnist_mean_and_std_are_those_of_its_training_set() -> None:
    if not DEBIAN.is_dir():
        pytest.skip("Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist")
    pixels = FashionMNIST(DEBIAN, train=True).images / 255
    known = KNOWN_DATASETS["fashion_mnist"]
    assert pixels.mean() == pytest.approx(known.mean[0], abs=5e-6)
    assert pixels.std() == pytest.approx(known.std[0], abs=5e-6)


def test_the_mini_set_is_like_the_full_one() -> None:
    pixels = FashionMNIST(MINI_ROOT, train=True).images / 255
    known = KNOWN_DATASETS["fashion_mnist_mini"]
    assert pixels.mean() == pytest.approx(known.mean[0], abs=0.001)
    assert pixels.std() == pytest.approx(known.std[0], abs=0.001)
