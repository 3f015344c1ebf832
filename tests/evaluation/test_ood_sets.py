import math
import pickle
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from cutmix_zoo.data.datasets import open_split
from cutmix_zoo.data.settings import DataSettings
from cutmix_zoo.data.transforms import eval_transform
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.ood_sets import OodSet, find_ood_folders, ood_sets
from cutmix_zoo.evaluation.out_of_distribution import measure_ood
from cutmix_zoo.evaluation.subject import Subject
from tests.conftest import random_image
from tests.evaluation.subjects import lookup_subject, numbered_images

TABLE = torch.randn(256, 3, generator=torch.Generator().manual_seed(0))


def subject(count: int = 5, size: tuple[int, int, int] = (3, 12, 10), **settings: Any) -> Subject:
    """A subject whose images are larger than its input, of which it takes the middle."""
    dataset = [(random_image(number, 25, 31), 0) for number in range(count)]
    measured = lookup_subject(TABLE, dataset, batch_size=2)
    preprocessing = {"input_size": size, "mean": (0.0,), "std": (1.0,), "crop_pct": 0.875}
    return replace(measured, settings=replace(measured.settings, **{**preprocessing, **settings}))


def images_of(ood_set: OodSet, measured: Subject) -> torch.Tensor:
    """What the network is shown: (N, C, H, W) uint8."""
    samples = measured.samples(dataset=ood_set.dataset, transform=ood_set.transform)
    return torch.cat([batch.images for batch in samples])


def made(word: str, measured: Subject) -> torch.Tensor:
    return images_of(ood_sets({word: word}, measured)[word], measured)


def own(measured: Subject) -> torch.Tensor:
    return torch.cat([batch.images for batch in measured.samples()])


def normal_below(value: float) -> float:
    return (1 + math.erf(value / math.sqrt(2))) / 2


@pytest.fixture(scope="module")
def noises() -> dict[str, np.ndarray]:
    measured = replace(subject(size=(3, 32, 32)), dataset=range(60), batch_size=60)
    return {word: made(word, measured).numpy() for word in ("uniform", "gaussian")}


def test_uniform_noise_has_the_moments_of_its_formula(noises: dict[str, np.ndarray]) -> None:
    pixels = noises["uniform"] / 255
    assert pixels.mean() == pytest.approx(0.5, abs=0.005)
    assert pixels.var() == pytest.approx(1 / 12, abs=0.001)
    shares = np.bincount(noises["uniform"].ravel(), minlength=256) / pixels.size
    # rounding leaves half as much for the darkest and the brightest level
    np.testing.assert_allclose(shares[1:-1], 1 / 255, rtol=0.25)
    np.testing.assert_allclose(shares[[0, -1]], 0.5 / 255, rtol=0.25)


def test_gaussian_noise_is_clipped_as_its_formula_says(noises: dict[str, np.ndarray]) -> None:
    pixels = noises["gaussian"] / 255
    # what rounds to 0 or 255 is clipped, or half a level away from it
    saturated = normal_below(-0.5 + 0.5 / 255)
    assert (pixels == 0).mean() == pytest.approx(saturated, abs=0.005)
    assert (pixels == 1).mean() == pytest.approx(saturated, abs=0.005)
    assert pixels.mean() == pytest.approx(0.5, abs=0.005)
    density = math.exp(-(0.25**2) / 2) / math.sqrt(2 * math.pi)
    assert ((pixels > 0.2) & (pixels < 0.3)).mean() == pytest.approx(0.1 * density, abs=0.002)


@pytest.mark.parametrize("word", ["uniform", "gaussian"])
def test_noise_differs_from_pixel_to_pixel_channel_to_channel_and_image_to_image(
    word: str, noises: dict[str, np.ndarray]
) -> None:
    values = noises[word].astype(float)
    neighbours = [
        (values[:, :, 1:], values[:, :, :-1]),
        (values[..., 1:], values[..., :-1]),
        (values[:, 1:], values[:, :-1]),
        (values[1:], values[:-1]),
    ]
    for one, other in neighbours:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_there_are_ten_thousand_images_of_noise_unless_the_dataset_is_smaller() -> None:
    for count, expected in ((3, 3), (10_000, 10_000), (50_000, 10_000)):
        measured = replace(subject(), dataset=range(count))
        for found in ood_sets({"a": "uniform", "b": "gaussian"}, measured).values():
            assert (len(found.dataset), found.kind) == (expected, "noise")


@pytest.mark.parametrize("word", ["uniform", "gaussian", "shuffled", "inverted"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_made_has_the_size_of_the_input_and_depends_on_the_place_alone(word: str, channels: int) -> None:
    measured = subject(size=(channels, 12, 10))
    found = made(word, measured)
    assert (found.shape, found.dtype) == ((5, channels, 12, 10), torch.uint8)
    assert torch.equal(made(word, replace(measured, batch_size=5)), found)
    dataset = ood_sets({word: word}, measured)[word].dataset
    assert torch.equal(
        images_of(OodSet(dataset, "made"), replace(measured, settings=replace(measured.settings, crop_pct=1.0))), found
    )
    backwards = [np.asarray(dataset[index][0]) for index in reversed(range(5))]
    forwards = [np.asarray(dataset[index][0]) for index in range(5)]
    assert all(np.array_equal(*pair) for pair in zip(backwards[::-1], forwards, strict=True))
    assert len({image.tobytes() for image in forwards}) == 5
    # loader processes may have to be sent it
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(dataset))[3][0]), forwards[3])


def test_shuffled_images_have_the_pixels_of_the_images_that_the_network_takes() -> None:
    measured = subject()
    places = []
    for shuffled, image in zip(made("shuffled", measured), own(measured), strict=True):
        colours = [list(map(tuple, pixels.flatten(1).T.tolist())) for pixels in (shuffled, image)]
        assert Counter(colours[0]) == Counter(colours[1])
        assert colours[0] != colours[1]
        places.append([colours[1].index(colour) for colour in colours[0]])
    # each in an order of its own
    assert len({tuple(order) for order in places}) == 5


def test_inverted_images_add_up_to_white_with_their_own() -> None:
    measured = subject()
    assert (made("inverted", measured).int() + own(measured).int() == 255).all()


def test_digits_are_those_of_scikit_learn_scaled_up() -> None:
    measured = subject(size=(1, 16, 16), crop_pct=1.0, interpolation="nearest")
    found = made("digits", measured)
    expected = np.rint(np.kron(load_digits().images, np.ones((2, 2))) * 255 / 16)
    assert found.shape == (1797, 1, 16, 16)
    np.testing.assert_array_equal(found[:, 0], expected)
    assert found.max() == 255
    assert ood_sets({"digits": "digits"}, measured)["digits"].kind == "natural"


def test_digits_need_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        ood_sets({"digits": "digits"}, subject())


MADE = ["uniform", "gaussian", "shuffled", "inverted"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("folder", [*MADE, "digits"]),
        ("fashion_mnist", [*MADE, "digits"]),
        ("torch/kmnist", [*MADE, "digits"]),
        ("torch/mnist", MADE),
        ("torch/qmnist", MADE),
        ("hfds/ylecun/mnist", MADE),
    ],
)
def test_by_default_there_is_what_needs_no_files(name: str, expected: list[str]) -> None:
    found = ood_sets(None, subject(name=name))
    assert list(found) == expected
    assert [found[word].kind for word in MADE] == ["noise", "noise", "made", "made"]


def test_digits_are_no_default_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.warns(UserWarning, match="digits is left out.*pip install scikit-learn"):
        assert list(ood_sets(None, subject())) == MADE


def held_out(**settings: Any) -> tuple[OodSet, Any]:
    """The classes held out of the mini set, and its whole validation split."""
    data = DataSettings("fashion_mnist_mini", **settings)
    whole = replace(data, only_classes=None, subset=None)
    measured = replace(lookup_subject(TABLE, open_split(data, "val")), settings=data)
    return ood_sets(None, measured)["held_out_classes"], open_split(whole, "val")


def test_held_out_classes_are_the_images_of_the_others() -> None:
    found, whole = held_out(only_classes=(0, 2, 3, 4, 6, 7, 8, 9))
    expected = [image.tobytes() for image, label in whole if label in (1, 5)]
    assert found.kind == "natural"
    assert len(expected) > 10
    assert Counter(image.tobytes() for image, _ in found.dataset) == Counter(expected)


def test_held_out_classes_are_of_the_part_that_a_run_is_evaluated_on() -> None:
    found, whole = held_out(only_classes=(0, 2, 3, 4, 6, 7, 8, 9), val_fraction=0.1)
    train = open_split(DataSettings("fashion_mnist_mini"), "train")
    others = {image.tobytes() for image, label in train if label in (1, 5)}
    images = [image.tobytes() for image, _ in found.dataset]
    assert set(images) <= others
    assert len(images) == sum(label in (1, 5) for _, label in whole) > 10


def test_a_subset_is_one_of_all_held_out_classes() -> None:
    # so few images that most classes are not among them
    found, _ = held_out(only_classes=(1, 2), subset=4)
    others = open_split(DataSettings("fashion_mnist_mini", only_classes=(0, 3, 4, 5, 6, 7, 8, 9), subset=4), "val")
    assert [image.tobytes() for image, _ in found.dataset] == [image.tobytes() for image, _ in others]


def test_held_out_classes_have_to_be_there() -> None:
    with pytest.raises(UserError, match=r"no classes are held out: set data\.only_classes"):
        ood_sets({"rest": "held_out_classes"}, subject())
    with pytest.raises(UserError, match="leaves out no class of fashion_mnist_mini"):
        held_out(only_classes=tuple(range(10)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of several modes, sizes and depths."""
    root = tmp_path / "photographs"
    for number, (mode, where) in enumerate((("RGB", "."), ("L", "test"), ("RGBA", "test/deeper"), ("P", "other"))):
        (root / where).mkdir(parents=True, exist_ok=True)
        random_image(number, 20 + number, 40 - number).convert(mode).save(root / where / f"{number}.png")
    (root / "readme.txt").write_text("no image")
    return root


def test_images_of_a_folder_are_resized_to_the_input_as_the_datasets_own(folder: Path) -> None:
    measured = subject()
    found = ood_sets({"photographs": str(folder)}, measured)["photographs"]
    assert (found.kind, len(found.dataset)) == ("natural", 4)
    transform = eval_transform(measured.settings)
    expected = [transform(Image.open(file)) for file in sorted(folder.rglob("*.png"))]
    assert torch.equal(images_of(found, measured), torch.stack(expected))
    assert torch.stack(expected).shape == (4, 3, 12, 10)


def test_images_of_the_size_of_the_input_are_taken_as_they_are(tmp_path: Path) -> None:
    image = random_image(0, 32, 32)
    image.save(tmp_path / "0.png")
    measured = subject(size=(3, 32, 32), crop_pct=1.0)
    found = images_of(ood_sets({"set": str(tmp_path)}, measured)["set"], measured)
    np.testing.assert_array_equal(found[0].permute(1, 2, 0), np.asarray(image))


def test_a_folder_may_have_the_name_of_what_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("uniform").mkdir()
    random_image(0, 8, 8).save("uniform/0.png")
    found = ood_sets({"a": "uniform", "b": "./uniform"}, subject())
    assert [(found[name].kind, len(found[name].dataset)) for name in "ab"] == [("noise", 5), ("natural", 1)]


def test_folders_without_images_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, message in (
        ("empty", "no images in .*empty"),
        ("nowhere", "nowhere is no folder of images: .* uniform, "),
    ):
        with pytest.raises(UserError, match=message) as caught:
            ood_sets({"set": str(tmp_path / place)}, subject())
        assert "\n" not in str(caught.value)


def test_an_image_that_does_not_decode_is_named_or_left_out(folder: Path) -> None:
    broken = folder / "test" / "broken.png"
    broken.write_bytes((folder / "0.png").read_bytes()[:100])
    measured = lookup_subject(TABLE, numbered_images([0] * 4))
    sets = ood_sets({"photographs": str(folder)}, measured)
    with pytest.raises(UserError, match=r"1 of 5 images cannot be read: cannot read image .*broken\.png"):
        measure_ood(measured, sets)
    (row,) = measure_ood(replace(measured, skip_unreadable=True), sets).rows
    assert row["count"] == 4


def test_the_folders_of_the_archives_have_the_names_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("iSUN", "Imagenet", "Imagenet_resize", "LSUN", "LSUN_resize", "holidays", ".cache")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "Imagenet.tar.gz").touch()
    expected = {
        "TinyImageNet (crop)": "Imagenet",
        "TinyImageNet (resize)": "Imagenet_resize",
        "LSUN (crop)": "LSUN",
        "LSUN (resize)": "LSUN_resize",
        "holidays": "holidays",
        "iSUN": "iSUN",
    }
    assert find_ood_folders(tmp_path) == {name: str(tmp_path / place) for name, place in expected.items()}
    monkeypatch.chdir(tmp_path)
    assert find_ood_folders(Path()) == find_ood_folders(tmp_path)


def test_a_folder_of_sets_has_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no folders in {tmp_path}: expected one for each set; write NAME={tmp_path}"):
        find_ood_folders(tmp_path)
    with pytest.raises(UserError, match="nowhere is no folder"):
        find_ood_folders(tmp_path / "nowhere")
