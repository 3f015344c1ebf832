import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from cutmix_zoo.data.keyed import Keyed, KeyedStream, Plain, PlainStream, Prepare
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import SampleKey, Stream, isolated_rng
from tests.conftest import global_states, png_bytes, random_image


def noisy(image: Image.Image) -> Tensor:
    """Add what each of the global generators draws."""
    noise = random.randrange(256) + np.random.randint(256) + int(torch.randint(256, ()))  # noqa: NPY002
    return pil_to_tensor(image) + noise % 256


class Images:
    """Ten images; number 7 cannot be read."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 7:
            raise OSError("image file is truncated")
        return random_image(index, 4, 5), index % 3


class Source:
    """What a stream is made of: eight samples, and the epoch it was told."""

    epochs: list[int]

    def __init__(self, broken: int | None = None) -> None:
        self.broken, self.epochs = broken, []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Any:
        for index in range(8):
            if index == self.broken:
                raise RuntimeError("shard ended")
            yield random_image(index, 4, 5), index % 3


def test_a_sample_is_a_function_of_seed_epoch_and_index() -> None:
    dataset = Keyed(Images(), Prepare(noisy, 3), seed=5)
    assert len(dataset) == 10
    before = global_states()
    key = SampleKey(epoch=2, step=1, index=4)
    image, label, same = dataset[key]
    assert global_states() == before
    with isolated_rng(5, Stream.AUGMENT, 2, 4):
        expected = noisy(random_image(4, 4, 5))
    assert torch.equal(image, expected)
    assert (label, type(label), same) == (1, int, key)
    random.seed(1)
    torch.manual_seed(2)
    assert torch.equal(dataset[key][0], image)
    assert torch.equal(dataset[key._replace(step=9)][0], image)
    others = [dataset[key._replace(epoch=epoch)][0] for epoch in range(5)]
    others += [Keyed(Images(), Prepare(noisy, 3), seed=seed)[key][0] for seed in range(3, 8)]
    assert sum(torch.equal(other, image) for other in others) == 2


def test_nothing_of_a_plain_sample_is_random() -> None:
    dataset = Plain(Images(), Prepare(pil_to_tensor, 3))
    assert len(dataset) == 10
    image, label = dataset[5]
    assert torch.equal(image, pil_to_tensor(random_image(5, 4, 5)))
    assert (label, type(label)) == (2, int)


def test_plain_samples_end_where_the_dataset_does() -> None:
    class Two(Images):
        def __len__(self) -> int:
            return 2

    dataset = Plain(Two(), Prepare(pil_to_tensor, 3))
    assert [label for _, label in dataset] == [0, 1]  # type: ignore[attr-defined]  # iterated by places
    with pytest.raises(IndexError, match="the dataset has 2 samples, got index 2"):
        dataset[2]


@pytest.mark.parametrize("kind", ["keyed", "plain", "keyed stream", "plain stream"])
def test_a_label_outside_the_classes(kind: str) -> None:
    prepare = Prepare(pil_to_tensor, 2)
    read = {
        "keyed": lambda: Keyed(Images(), prepare, seed=0)[SampleKey(0, 0, 2)],
        "plain": lambda: Plain(Images(), prepare)[2],
        "keyed stream": lambda: list(KeyedStream(Source(), prepare, seed=0, batch_size=2)),
        "plain stream": lambda: list(PlainStream(Source(), prepare)),
    }[kind]
    with pytest.raises(
        UserError, match=r"^label 2 is outside the 2 classes: expected 0 to 1; set the number of classes"
    ):
        read()


@pytest.mark.parametrize("label", [-1, np.int64(-1), torch.tensor(3)])
def test_labels_of_any_integer_type_are_checked(label: Any) -> None:
    with pytest.raises(UserError, match=r"outside the 3 classes"):
        Prepare(pil_to_tensor, 3)(random_image(0, 4, 5), label)
    assert type(Prepare(pil_to_tensor, 4)(random_image(0, 4, 5), abs(label))[1]) is int


def test_a_sample_that_cannot_be_read() -> None:
    message = "^cannot read sample 7 of the dataset: image file is truncated$"
    with pytest.raises(UserError, match=message):
        Keyed(Images(), Prepare(noisy, 3), seed=0)[SampleKey(0, 0, 7)]
    with pytest.raises(UserError, match=message):
        Plain(Images(), Prepare(pil_to_tensor, 3))[7]
    message = "^cannot read the next sample of the dataset: shard ended$"
    with pytest.raises(UserError, match=message):
        list(KeyedStream(Source(broken=3), Prepare(noisy, 3), seed=0, batch_size=2))
    with pytest.raises(UserError, match=message):
        list(PlainStream(Source(broken=3), Prepare(noisy, 3)))


@pytest.mark.parametrize("sample", [("no image", 1), (None, 1), 7])
def test_a_sample_of_another_kind_blames_the_keys(sample: Any) -> None:
    with pytest.raises(UserError, match=r"as an image and a label .*check data.input_key and data.target_key"):
        Plain([sample], Prepare(pil_to_tensor, 3))[0]


@pytest.mark.parametrize("label", [0.7, None, "cat", [1]])
def test_a_label_that_is_no_whole_number(label: Any) -> None:
    with pytest.raises(UserError, match="a label must be one whole number, got"):
        Prepare(pil_to_tensor, 3)(random_image(0, 4, 5), label)


def test_a_defect_of_a_transform_keeps_its_type() -> None:
    def broken(image: Image.Image) -> Tensor:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match=r"^a defect$"):
        Plain(Images(), Prepare(broken, 3))[0]
    with pytest.raises(RuntimeError, match=r"^a defect$"):
        list(PlainStream(Source(), Prepare(broken, 3)))


def test_an_image_is_decoded_where_its_errors_are_understood() -> None:
    class Lazy:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.open(io.BytesIO(png_bytes(random_image(0, 40, 50))[:3000])), 0

    with pytest.raises(UserError, match=r"cannot read sample 0 of the dataset"):
        Plain(Lazy(), Prepare(pil_to_tensor, 3))[0]


def test_keys_of_a_stream_without_workers() -> None:
    source = Source()
    stream = KeyedStream(source, Prepare(noisy, 3), seed=5, batch_size=3, rank=1, world_size=4)
    stream.set_epoch(6)
    assert source.epochs == [0, 6]
    before = global_states()
    samples = list(stream)
    assert global_states() == before
    assert [key for _, _, key in samples] == [SampleKey(6, count // 3, 4 * count + 1) for count in range(8)]
    for count, (image, label, key) in enumerate(samples):
        with isolated_rng(5, Stream.AUGMENT, 6, key.index):
            expected = noisy(random_image(count, 4, 5))
        assert torch.equal(image, expected)
        assert label == count % 3


def test_each_process_keeps_its_share_of_an_evaluation_stream() -> None:
    shares = [list(PlainStream(Source(), Prepare(pil_to_tensor, 3), rank=rank, world_size=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 2]
    for rank, share in enumerate(shares):
        for place, (image, label) in enumerate(share):
            index = 3 * place + rank
            assert torch.equal(image, pil_to_tensor(random_image(index, 4, 5)))
            assert label == index % 3
