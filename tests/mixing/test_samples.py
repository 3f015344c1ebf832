from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from cutmix_zoo.keys import SampleKey
from cutmix_zoo.mixing.samples import read_labels, read_samples

LARGE = (3, 148, 148)
"""65,712 bytes: more than 64 KiB, from which methods that blend take images one by one."""

INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


def _image(shape: tuple[int, ...] = (3, 4, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(
    "three",
    [3, torch.tensor(3), torch.tensor(3, dtype=torch.uint8), np.array(3), *[kind(3) for kind in INTEGERS]],
    ids=repr,
)
def test_integers_of_any_kind(three: object) -> None:
    labels = read_labels([0, three, np.int64(7)])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 3, 7]


def test_no_and_yes_are_classes() -> None:
    assert read_labels([False, True]).tolist() == [0, 1]


@pytest.mark.parametrize(
    "half", [0.5, np.float16(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float16)], ids=repr
)
def test_numbers_of_any_kind(half: object) -> None:
    labels = read_labels([0.25, half])
    assert labels.dtype == torch.float32
    assert labels.tolist() == [0.25, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        np.array,
        lambda row: np.array(row, np.float16),
        torch.tensor,
        lambda row: torch.tensor(row).double(),
    ],
)
def test_rows_of_any_kind(make: Any) -> None:
    labels = read_labels([make([0.0, 1.0, 0.0]), [0.5, 0.25, 0.25]])
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]]


def test_values_of_more_dimensions() -> None:
    values = np.random.default_rng(0).random((2, 3, 4))
    assert np.array_equal(read_labels(list(values)).numpy(), values.astype(np.float32))


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_masks_keep_their_dtype(dtype: type, as_tensor: bool) -> None:
    masks = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)
    labels = read_labels([torch.from_numpy(mask) if as_tensor else mask for mask in masks])
    assert labels.dtype == torch.from_numpy(masks).dtype
    assert np.array_equal(labels.numpy(), masks)
    # a copy: the samples are only read
    labels.zero_()
    assert masks.any()


NO_LABEL = "a label must be an integer, a number, a row of numbers or a mask, got "
NO_KIND = "a label must be an integer, a number, a row of floating-point numbers, or an integer mask .* got "


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("cat", NO_LABEL + "str"),
        ("3", NO_LABEL + "str"),
        (None, NO_LABEL + "NoneType"),
        ({"class": 3}, NO_LABEL + "dict"),
        ([1, [2, 3]], NO_LABEL + r"list of \(int, list\)"),
        (1j, NO_LABEL + "complex"),
        (torch.tensor(0.5, requires_grad=True), NO_LABEL + r"Tensor of shape \(\)"),
        (torch.tensor([0.5], dtype=torch.bfloat16), NO_LABEL + r"Tensor of shape \(1,\)"),
        ([0, 1, 0], NO_KIND + r"int64 of shape \(3,\): give several labels an image as floating-point zeros and ones"),
        (np.array([True, False]), NO_KIND + r"bool of shape \(2,\)"),
        (np.zeros((2, 3, 4), int), NO_KIND + r"int64 of shape \(2, 3, 4\)"),
        (2**63, NO_KIND + r"uint64 of shape \(\)"),
    ],
    ids=str,
)
def test_refused_labels(label: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read_labels([label])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1], r"got float64 \(\) and int64 \(\)"),
        ([1, 0.5], r"got int64 \(\) and float64 \(\)"),
        ([0.5, [0.5]], r"got float64 \(\) and float64 \(1,\)"),
        ([[0.5, 0.5], [1.0]], r"got float64 \(2,\) and float64 \(1,\)"),
        ([np.zeros((4, 5), int), np.zeros((5, 4), int)], r"got int64 \(4, 5\) and int64 \(5, 4\)"),
        ([np.zeros((4, 5), int), np.zeros((4, 5))], r"got int64 \(4, 5\) and float64 \(4, 5\)"),
    ],
    ids=str,
)
def test_labels_that_differ(labels: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match="the labels of a batch must be of one kind and shape, " + message):
        read_labels(labels)


@pytest.mark.parametrize("shape", [(3, 4, 5), LARGE])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_images_are_left_where_they_are(as_tensor: bool, shape: tuple[int, int, int]) -> None:
    arrays = [_image(shape, seed) for seed in range(3)]
    batch = read_samples([(torch.from_numpy(a) if as_tensor else a, i) for i, a in enumerate(arrays)])
    assert batch.shape == (3, *shape[1:])
    assert batch.labels.tolist() == [0, 1, 2]
    assert batch.key is None
    for image, array in zip(batch.images, arrays, strict=True):
        assert np.array_equal(image, array)
        assert np.shares_memory(image, array)


@pytest.mark.parametrize("shape", [(3, 4, 5), LARGE])
def test_samples_may_lie_in_memory_each_in_its_own_order(shape: tuple[int, int, int]) -> None:
    array = np.ascontiguousarray(_image(shape).transpose(1, 2, 0)).transpose(2, 0, 1)
    batch = read_samples([(array, 0), (_image(shape, 1), 0)])
    assert batch.images[0].strides == array.strides
    assert np.array_equal(batch.images[1], _image(shape, 1))


@pytest.mark.parametrize("shape", [(3, 4, 5), LARGE])
@pytest.mark.parametrize("first", [0, 1])
def test_tensors_and_arrays_together(first: int, shape: tuple[int, int, int]) -> None:
    arrays = [_image(shape, seed) for seed in range(4)]
    images = [torch.from_numpy(a) if i % 2 == first else a for i, a in enumerate(arrays)]
    batch = read_samples([(image, 0) for image in images])
    assert np.array_equal(np.stack(list(batch.images)), np.stack(arrays))


def test_tensors_of_torchvision_are_tensors() -> None:
    array = _image()
    batch = read_samples([(tv_tensors.Image(torch.from_numpy(array)), 0)])
    assert np.array_equal(batch.images[0], array)
    assert read_labels([tv_tensors.Mask(torch.zeros(4, 5, dtype=torch.int64))]).shape == (1, 4, 5)


@pytest.mark.parametrize("kind", [tuple, list])
def test_the_key_is_the_first_samples(kind: type) -> None:
    keys = [SampleKey(1, 2, index) for index in (7, 3)]
    assert read_samples([kind((_image(), 0, key)) for key in keys]).key is keys[0]
    # of samples that are looked into one by one as well
    mixed = [kind((image, 0, key)) for image, key in zip((_image(), torch.from_numpy(_image())), keys, strict=True)]
    assert read_samples(mixed).key is keys[0]


NO_SAMPLE = r"a sample must be \(image, label\) or \(image, label, SampleKey\), got "
IMAGE, TENSOR = _image(), torch.from_numpy(_image())


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (IMAGE, NO_SAMPLE + r"ndarray of shape \(3, 4, 5\)"),
        ({"image": IMAGE, "label": 0}, NO_SAMPLE + "dict"),
        ("ab", NO_SAMPLE + "str"),
        ((), NO_SAMPLE + r"tuple of \(\)"),
        ((IMAGE, 0, (0, 0, 0)), NO_SAMPLE + r"tuple of \(ndarray, int, tuple\)"),
        ((IMAGE, 0, SampleKey(0, 0, 0), 1), NO_SAMPLE + r"tuple of \(ndarray, int, SampleKey, int\)"),
        ((Image.new("RGB", (5, 4)), 0), r"an image must be a tensor or an array of shape \(C, H, W\), got Image"),
        ((IMAGE.tolist(), 0), r"an image must be a tensor or an array .*, got list of \(list, list, list\)"),
        ((IMAGE[None], 0), r"an image must be a tensor or an array .*, got ndarray of shape \(1, 3, 4, 5\)"),
        ((TENSOR.float().requires_grad_(), 0), "an image must be a CPU tensor without gradient, .*requires grad"),
        (
            (TENSOR.to("meta"), 0),
            "an image must be a CPU tensor without gradient, of a dtype that NumPy has too: .*meta",
        ),
        ((TENSOR.bfloat16(), 0), "an image must be a CPU tensor .*BFloat16"),
    ],
)
def test_refused_samples(sample: object, message: str) -> None:
    for samples in ([sample], [(IMAGE, 0), sample], [sample, (TENSOR, 0)]):
        with pytest.raises(TypeError, match=message):
            read_samples(samples)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (IMAGE[:, 1:], r"got uint8 \(3, 4, 5\) and uint8 \(3, 3, 5\): crop or resize them in the transform"),
        (IMAGE[:1], r"got uint8 \(3, 4, 5\) and uint8 \(1, 4, 5\)"),
        (TENSOR.float(), r"got uint8 \(3, 4, 5\) and float32 \(3, 4, 5\)"),
    ],
)
def test_images_that_differ(other: np.ndarray | Tensor, message: str) -> None:
    with pytest.raises(ValueError, match="the images of a batch must have one shape and dtype, " + message):
        read_samples([(IMAGE, 0), (other, 0)])


def test_some_keys_are_too_few_and_no_sample_is_no_batch() -> None:
    with pytest.raises(TypeError, match="all samples of a batch have a key, or none; got 1 of 2"):
        read_samples([(IMAGE, 0, SampleKey(0, 0, 0)), (IMAGE, 0)])
    with pytest.raises(ValueError, match="a batch needs at least one sample, got none"):
        read_samples([])
