from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from cutmix_zoo.data.datasets import open_split
from cutmix_zoo.data.image_files import find_images
from cutmix_zoo.data.loaders import eval_loader
from cutmix_zoo.data.settings import DataSettings, input_spec
from cutmix_zoo.data.transforms import to_input
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.accuracy import evaluate_accuracy
from cutmix_zoo.evaluation.predict import predict
from cutmix_zoo.evaluation.preprocessing import with_preprocessing

CPU = torch.device("cpu")


def coloured(**config: Any) -> nn.Module:
    """A network for three channels whose preprocessing does all there is to be done."""
    asked = {"input_size": (3, 24, 24), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic"}
    torch.default_generator.manual_seed(0)
    return timm.create_model(
        "cifar_resnet8", num_classes=4, pretrained_cfg_overlay=asked | {"crop_pct": 0.875} | config
    ).eval()


def save_images(folder: Path, count: int) -> list[Path]:
    """Colour images of several sizes."""
    rng = np.random.default_rng(0)
    files = [folder / f"{number}.png" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(rng.integers(0, 256, (30 + number, 41 - number, 3), np.uint8)).save(file)
    return files


def test_accuracy_is_that_of_an_evaluation_of_the_same_images(shipped: nn.Module, tmp_path: Path) -> None:
    settings = with_preprocessing(DataSettings("fashion_mnist_mini", subset=200, workers=0), shipped)
    dataset = open_split(settings, "val")
    for number, (image, label) in enumerate(dataset):
        folder = tmp_path / str(label)
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{number}.png")
    expected = evaluate_accuracy(
        shipped,
        eval_loader(dataset, settings, batch_size=50, num_classes=10),
        prepare=lambda images: to_input(images, input_spec(settings), CPU, channels_last=False),
        num_classes=10,
    )
    labels = dict(enumerate(shipped.pretrained_cfg["label_names"]))  # type: ignore[index, arg-type]
    predictions = list(predict(shipped, find_images([tmp_path]), batch_size=64))
    truths = [int(prediction.file.parent.name) for prediction in predictions]
    hits = [
        [one.index == truth for one in prediction.classes]
        for prediction, truth in zip(predictions, truths, strict=True)
    ]
    assert 100 * np.mean([hit[0] for hit in hits]) == pytest.approx(expected["top1"])
    assert 100 * np.mean([any(hit) for hit in hits]) == pytest.approx(expected["top5"])
    assert 80 < expected["top1"] < 100
    assert all(one.label == labels[one.index] for prediction in predictions for one in prediction.classes)


def test_probabilities_are_those_of_timms_own_transform(shipped: nn.Module, tmp_path: Path) -> None:
    files = save_images(tmp_path, 5)
    # other modes, and a picture that asks to be turned, which neither timm nor an evaluation does
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, mode in enumerate(("L", "RGBA", "P", "1")):
        files += [tmp_path / f"{mode}.png"]
        Image.open(files[number]).convert(mode).save(files[-1], exif=exif)
    for network, mode in ((coloured(), "RGB"), (coloured(input_size=(3, 20, 26)), "RGB"), (shipped, "L")):
        config = resolve_model_data_config(network)
        transform = create_transform(**config, is_training=False)
        images = torch.stack([transform(Image.open(file).convert(mode)) for file in files])
        with torch.inference_mode():
            expected = network(images).softmax(1)
        found = list(predict(network, files, topk=expected.shape[1], batch_size=4, device=CPU))
        assert [prediction.file for prediction in found] == files
        for prediction, row in zip(found, expected, strict=True):
            ranked = {one.index: one.probability for one in prediction.classes}
            assert [ranked[index] for index in range(len(row))] == pytest.approx(row.tolist(), abs=1e-5)
            assert sum(ranked.values()) == pytest.approx(1, abs=1e-12)
            assert list(ranked.values()) == sorted(ranked.values(), reverse=True)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_what_does_not_decode_is_named_in_its_place(batch_size: int, tmp_path: Path) -> None:
    good = save_images(tmp_path, 3)
    broken = [tmp_path / f"broken{number}.png" for number in range(3)]
    for file in broken:
        file.write_bytes(good[0].read_bytes()[:200])
    files = [good[0], *broken, good[1], good[2]]
    found = list(predict(coloured(), files, batch_size=batch_size))
    assert [prediction.file for prediction in found] == files
    assert [prediction.error is not None for prediction in found] == [False, True, True, True, False, False]
    assert found[1].classes == ()
    assert found[1].error.startswith(f"cannot read image {broken[0]}: ")  # type: ignore[union-attr]
    alone = [next(predict(coloured(), [file])) for file in good]
    for one, other in zip([found[0], *found[4:]], alone, strict=True):
        assert [ranked.index for ranked in one.classes] == [ranked.index for ranked in other.classes]
        assert [ranked.probability for ranked in one.classes] == pytest.approx(
            [ranked.probability for ranked in other.classes], abs=1e-6
        )


def test_files_are_read_batch_by_batch(tmp_path: Path) -> None:
    (file,) = save_images(tmp_path, 1)
    taken: list[int] = []
    predictions = predict(coloured(), (taken.append(number) or file for number in range(100)), batch_size=3)
    assert taken == []
    for expected in (3, 3, 3, 6):
        next(predictions)
        assert len(taken) == expected


def test_no_more_classes_are_named_than_there_are(tmp_path: Path) -> None:
    files = save_images(tmp_path, 1)
    network = coloured()
    assert [len(next(predict(network, files, topk=topk)).classes) for topk in (1, 3, 4, 5)] == [1, 3, 4, 4]
    assert {one.label for one in next(predict(network, files)).classes} == {f"class {number}" for number in range(4)}


def test_the_network_is_evaluated_and_stays_as_it_was(tmp_path: Path) -> None:
    files, network = save_images(tmp_path, 2), coloured()
    expected = list(predict(network, files))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert list(predict(network.train(), files)) == expected
    assert network.training
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_what_cannot_be_done_is_said_at_once(tmp_path: Path) -> None:
    network = coloured()
    with pytest.raises(ValueError, match="topk must be a whole number of at least 1, got 0"):
        predict(network, [], topk=0)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        predict(network, [], batch_size=0)
    with pytest.raises(UserError, match="the model has no classes"):
        predict(timm.create_model("cifar_resnet8", num_classes=0), [])
    with pytest.raises(UserError, match="asks for crop_mode 'squash'"):
        predict(coloured(crop_mode="squash"), [])
