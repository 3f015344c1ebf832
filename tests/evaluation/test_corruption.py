from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from cutmix_zoo.data.corrupted import CifarC, ImageNetC
from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation import corruption
from cutmix_zoo.evaluation.classifier import Classifier
from cutmix_zoo.evaluation.corruption import mean_corruption_error, measure_corruption, open_released
from cutmix_zoo.evaluation.own_corruptions import OWN_CORRUPTIONS, corrupt
from cutmix_zoo.evaluation.subject import Subject
from cutmix_zoo.known import KNOWN_DATASETS
from tests.conftest import random_image
from tests.data.corrupted_files import make_cifar_c, make_imagenet_c

# AlexNet's errors as the authors of AugMix have them
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
CLASSES = 4
FOLDERS = [f"n{label:08d}" for label in range(CLASSES)]


class ByLevel(nn.Module):
    """Takes the image's mean grey level, in steps of 8, for its class, modulo their number."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, inputs: Tensor) -> Tensor:
        assert not self.training
        levels = inputs.mean((1, 2, 3)) * 255
        return nn.functional.one_hot((levels / 8).round().long() % self.num_classes, self.num_classes).float()


def subject_on(
    dataset: Any,
    size: tuple[int, int, int],
    crop_pct: float = 1.0,
    *,
    name: str = "folder",
    classes: int = CLASSES,
    only_classes: tuple[int, ...] | None = None,
    **options: Any,
) -> Subject:
    settings = DataSettings(
        name,
        input_size=size,
        mean=(0.0,),
        std=(1.0,),
        workers=0,
        crop_pct=crop_pct,
        only_classes=only_classes,
    )
    classifier = Classifier(ByLevel(classes), input_spec(settings), torch.device("cpu"))
    return Subject(classifier, dataset, settings, Accelerator(cpu=True), **options)


def cifar10(dataset: Sequence[Any], **options: Any) -> Subject:
    return subject_on(dataset, (3, 32, 32), name="torch/cifar10", classes=10, **options)


def plain(level: int, side: int) -> Image.Image:
    return Image.new("RGB", (side, side), (level,) * 3)


@pytest.fixture
def imagenet_c(tmp_path: Path) -> Path:
    """One image of each of four classes; the class is the level of the middle, the frame is white.

    Of corruption c at severity s, the first (c + s) % 5 classes look like the next class.
    """

    def draw(number: int, severity: int, label: int) -> Image.Image:
        image = plain(255, 24)
        looks = label + (label < (number + severity + 1) % 5)
        image.paste((8 * looks + 32,) * 3, (4, 4, 20, 20))
        return image

    return make_imagenet_c(tmp_path, FOLDERS, ["ILSVRC2012_val_00000001.JPEG"], draw)


CLEAN = [(plain(8 * label, 32), label) for label in (0, 1, 2, 3)]


def test_alexnet_has_an_mce_of_100() -> None:
    errors = {name: 100 * error for name, error in ALEXNET.items()}
    assert mean_corruption_error(errors) == pytest.approx(100, abs=1e-12)
    halves = {name: 50 * error for name, error in reversed(ALEXNET.items())}
    assert mean_corruption_error(halves) == pytest.approx(50, abs=1e-12)
    assert mean_corruption_error(dict.fromkeys(ALEXNET, 0.0)) == 0
    worse = {**errors, "fog": errors["fog"] * 1.15}
    assert mean_corruption_error(worse) == pytest.approx(101)


def test_an_mce_is_of_exactly_15_corruptions() -> None:
    errors = dict.fromkeys(ALEXNET, 50.0)
    with pytest.raises(ValueError, match="must have all 15 corruptions, missing are fog, snow"):
        mean_corruption_error({name: 50.0 for name in errors if name not in ("snow", "fog")})
    with pytest.raises(ValueError, match="the 15 corruptions of ImageNet-C alone, got spatter"):
        mean_corruption_error({**errors, "spatter": 50.0})


def test_cifar_c_gives_each_condition_its_own_error_and_no_mce(tmp_path: Path) -> None:
    labels = [0, 1, 2, 3, 3, 2, 1, 9]

    def wrong(number: int, severity: int, place: int) -> bool:
        return place < (2 * number + severity) % 9

    root = make_cifar_c(tmp_path, labels, lambda *where: 8 * (labels[where[2]] + wrong(*where)))
    found = measure_corruption(cifar10([*CLEAN, (plain(0, 32), 1)]), root)
    expected = [
        {
            "corruption": name,
            "severity": severity + 1,
            "error": 100 * ((2 * number + severity) % 9) / 8,
            "count": 8,
        }
        for number, name in enumerate(ALEXNET)
        for severity in range(5)
    ]
    assert found.rows == expected
    mean = sum(row["error"] for row in expected) / 75
    assert found.numbers == {
        "source": "cifar-c",
        "count": 8,
        "unreadable": [],
        "clean_error": 20.0,
        "mean_error": pytest.approx(mean),
    }
    for batch_size in (1, 7, 1000):
        again = measure_corruption(cifar10([*CLEAN, (plain(0, 32), 1)], batch_size=batch_size), root)
        assert again == found


def test_each_condition_has_the_same_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, looks = rng.integers(0, 10, (2, 40)).tolist()
    labels[0] = 9
    root = make_cifar_c(tmp_path, labels, lambda number, severity, place: 8 * looks[place])
    clean = [(plain(8 * look, 32), label) for look, label in zip(looks, labels, strict=True)]
    found = measure_corruption(cifar10(clean, limit=15), root)
    assert found.numbers["count"] == 15
    assert {row["count"] for row in found.rows} == {15}
    assert {row["error"] for row in found.rows} == {found.numbers["clean_error"]}
    everything = 100 * np.mean(np.array(labels) != looks)
    assert found.numbers["mean_error"] != pytest.approx(everything)
    assert measure_corruption(cifar10(clean), root).numbers["mean_error"] == pytest.approx(everything)
    assert measure_corruption(cifar10(clean, limit=41), root).rows[0]["count"] == 40


def test_imagenet_c_is_cropped_and_not_resized(imagenet_c: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = np.array([[25 * ((number + severity + 1) % 5) for severity in range(5)] for number in range(15)])
    for channels in (3, 1):
        subject = subject_on(CLEAN, (channels, 16, 16), crop_pct=0.8)
        found = measure_corruption(subject, imagenet_c)
        assert [row["error"] for row in found.rows] == errors.ravel().tolist()
        assert [row["severity"] for row in found.rows] == [1, 2, 3, 4, 5] * 15
        assert found.numbers == {
            "source": "imagenet-c",
            "count": 4,
            "unreadable": [],
            "clean_error": 0.0,
            "mean_error": pytest.approx(errors.mean()),
            "note": "4 classes, not the 1000 of ImageNet-C: no mCE",
        }
    monkeypatch.setattr(corruption, "_IMAGENET_CLASSES", CLASSES)
    numbers = measure_corruption(subject, imagenet_c).numbers
    assert set(numbers) == {"source", "count", "unreadable", "clean_error", "mean_error", "mce"}
    assert numbers["mce"] == pytest.approx(np.mean(errors.mean(1) / list(ALEXNET.values())))


def test_imagenet_c_is_not_enlarged(imagenet_c: Path) -> None:
    assert measure_corruption(subject_on(CLEAN, (3, 24, 24)), imagenet_c).rows
    for size in ((3, 25, 24), (3, 24, 25)):
        with pytest.raises(UserError, match=rf"takes {size[1]} x {size[2]} pixels and ImageNet-C has 24 x 24, which"):
            measure_corruption(subject_on(CLEAN, size), imagenet_c)


def test_a_model_of_other_classes_is_refused(imagenet_c: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for path in imagenet_c.glob("*/*/n00000003/*"):
        path.unlink()
        path.parent.rmdir()
    cifar = make_cifar_c(tmp_path_factory.mktemp("cifar"), [0, 1, 4], lambda *_: 0)
    for root, classes in ((imagenet_c, 3), (cifar, 5)):
        with pytest.raises(UserError, match=rf"has {classes} classes and the model has 4: take the corrupted set"):
            measure_corruption(subject_on(CLEAN, (3, 16, 16)), root)


class Named(list[Any]):
    """Images of classes that have names."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(CLEAN)
        self.class_to_idx = {name: label for label, name in enumerate(classes)}


@pytest.mark.parametrize("count", [10, 100])
def test_cifar_c_belongs_to_the_cifar_of_as_many_classes(tmp_path: Path, count: int) -> None:
    root = make_cifar_c(tmp_path, [0, 1, count - 1], lambda *_: 0)
    classes = sorted(KNOWN_DATASETS[f"cifar{count}"].classes)

    def opened(name: str, dataset: Any = CLEAN, **changes: Any) -> Any:
        return open_released(root, subject_on(dataset, (3, 32, 32), name=name, classes=count, **changes))

    for name in (f"torch/cifar{count}", f"hfds/uoft-cs/cifar{count}"):
        assert isinstance(opened(name), CifarC)
    assert isinstance(opened("folder", Named(classes)), CifarC), "a folder of them has them in the order of their names"
    why = rf"do not mean what those of .* mean: CIFAR-C with {count} classes, and no dataset with the names of CIFAR's"
    for name in ("folder", "torch/fashion_mnist", f"torch/cifar{110 - count}"):
        with pytest.raises(UserError, match=why):
            opened(name)
    with pytest.raises(UserError, match=why):
        opened("folder", Named([*classes[1:], classes[0]]))
    with pytest.raises(UserError, match=why):
        opened(f"torch/cifar{count}", only_classes=tuple(range(count))[::-1])


def test_cifar_c_of_another_number_of_classes_belongs_to_no_data(tmp_path: Path) -> None:
    root = make_cifar_c(tmp_path, [0, 1, 4], lambda *_: 0)
    with pytest.raises(UserError, match="CIFAR-C with 5 classes, and no dataset with the names"):
        open_released(root, subject_on(CLEAN, (3, 32, 32), name="torch/cifar10", classes=5))


def test_the_folders_of_imagenet_c_are_the_classes_of_the_data(imagenet_c: Path) -> None:
    def opened(dataset: Any, name: str = "folder", **changes: Any) -> Any:
        return open_released(imagenet_c, subject_on(dataset, (3, 16, 16), name=name, **changes))

    assert isinstance(opened(Named(FOLDERS)), ImageNetC)
    assert isinstance(opened(Named(FOLDERS[:3])), ImageNetC), "the model may know more classes than there are here"
    assert isinstance(opened(CLEAN), ImageNetC), "without names there is nothing to compare"
    for classes, such in (
        (["ant", *FOLDERS[1:]], "1 of 4 classes have another place or no folder there, such as ant"),
        (FOLDERS[1:], "3 of 3 classes have another place or no folder there, such as n00000001, n00000002, n00000003"),
        ([FOLDERS[1], FOLDERS[0], *FOLDERS[2:]], "2 of 4 classes"),
    ):
        with pytest.raises(UserError, match=rf"{imagenet_c} do not mean what those of folder mean: {such}"):
            opened(Named(classes))


def test_the_classes_of_imagenet_are_known_however_a_reader_names_them(
    imagenet_c: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corruption, "_IMAGENET_CLASSES", CLASSES)
    for dataset in (CLEAN, Named(["tench", "goldfish", "shark", "ray"])):
        subject = subject_on(dataset, (3, 16, 16), name="hfds/imagenet-1k")
        with pytest.raises(UserError, match=r"1000 of 1000 classes .* such as n01440764, n01443537, n01484850"):
            open_released(imagenet_c, subject)
    monkeypatch.setattr(ImageNetInfo, "label_names", lambda self: FOLDERS)
    assert isinstance(open_released(imagenet_c, subject), ImageNetC)
    some = subject_on(Named(FOLDERS[:2]), (3, 16, 16), name="imagenet", only_classes=(0, 1))
    assert isinstance(open_released(imagenet_c, some), ImageNetC)
    others = subject_on(Named(FOLDERS[2:]), (3, 16, 16), name="imagenet", only_classes=(2, 3))
    with pytest.raises(UserError, match="2 of 2 classes"):
        open_released(imagenet_c, others)


def test_a_set_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is neither ImageNet-C nor CIFAR-10-C nor CIFAR-100-C"):
        measure_corruption(subject_on(CLEAN, (3, 32, 32)), tmp_path)


def test_unreadable_images_are_an_error_or_left_out(imagenet_c: Path) -> None:
    path = imagenet_c / "snow" / "4" / "n00000003" / "ILSVRC2012_val_00000001.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"1 of 300 images cannot be read: .*snow/4/n00000003/ILS"):
        measure_corruption(subject_on(CLEAN, (3, 16, 16)), imagenet_c)
    subject = subject_on(CLEAN, (3, 16, 16), skip_unreadable=True)
    found = measure_corruption(subject, imagenet_c)
    assert found.numbers["count"] == 4, "the others of that image can be read"
    (message,) = found.numbers["unreadable"]
    assert str(path) in message
    counts = {(row["corruption"], row["severity"]): row["count"] for row in found.rows}
    assert counts.pop(("snow", 4)) == 3
    assert set(counts.values()) == {4}
    for other in path.parent.parent.glob("*/*"):
        other.unlink()
    with pytest.raises(UserError, match="no image of snow at severity 4 can be read in"):
        measure_corruption(subject, imagenet_c)


def test_own_corruptions_of_the_subjects_images() -> None:
    images = [random_image(seed, 20, 20, "L") for seed in range(8)]
    looks = [round(np.asarray(image).mean() / 8) % CLASSES for image in images]
    labels = [*looks[:6], *((look + 1) % CLASSES for look in looks[6:])]
    found = measure_corruption(subject_on(list(zip(images, labels, strict=True)), (1, 20, 20), batch_size=3))
    expected = []
    for name in OWN_CORRUPTIONS:
        for severity in (1, 2, 3, 4, 5):
            corrupted = [corrupt(pil_to_tensor(image), name, severity, place) for place, image in enumerate(images)]
            predicted = [round(image.double().mean().item() / 8) % CLASSES for image in corrupted]
            error = 100 * np.mean(np.array(predicted) != labels)
            expected.append({"corruption": name, "severity": severity, "error": error, "count": 8})
    assert found.rows == expected
    assert len({row["error"] for row in expected}) > 3
    assert found.numbers == {
        "source": "own",
        "count": 8,
        "unreadable": [],
        "clean_error": 25.0,
        "mean_error": pytest.approx(np.mean([row["error"] for row in expected])),
        "note": "own corruptions, neither ImageNet-C nor MNIST-C",
    }


def test_own_corruptions_of_some_images() -> None:
    dataset = [(random_image(seed, 20, 20, "L"), seed % CLASSES) for seed in range(30)]
    whole = subject_on(dataset, (1, 20, 20))
    some = subject_on(dataset, (1, 20, 20), limit=10)
    found = measure_corruption(some)
    assert {row["count"] for row in found.rows} == {10}
    assert found.numbers["count"] == 10
    right = whole.clean["logits"][some.chosen()].argmax(1) == np.array([dataset[place][1] for place in some.chosen()])
    assert found.numbers["clean_error"] == pytest.approx(100 - 100 * right.mean())
