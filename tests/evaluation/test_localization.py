import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from cutmix_zoo.data.settings import DataSettings, InputSpec
from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.classifier import Classifier
from cutmix_zoo.evaluation.findings import Findings
from cutmix_zoo.evaluation.localization import PaperRules, WsolRules, make_rules, measure_localization
from cutmix_zoo.evaluation.map_boxes import wsol_boxes
from cutmix_zoo.evaluation.subject import Subject

Truth = tuple[int, int, int, int]


class Echo(nn.Module):
    """A network whose map of class c is channel c of the image, on squares of ``stride`` pixels."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.num_classes, self.stride = 3, stride
        self.fc = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.fc.weight)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(inputs, self.stride)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.fc(self.forward_features(inputs).mean((2, 3)))


@dataclass
class Boxed:
    """Images (H, W, 3), their labels and their boxes."""

    pixels: list[NDArray[np.uint8]]
    labels: list[int]
    truth: list[list[Truth]]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.labels[index]

    def boxes(self, index: int) -> list[Truth]:
        return self.truth[index]

    def image_size(self, index: int) -> tuple[int, int]:
        height, width, _ = self.pixels[index].shape
        return height, width


def paint(*squares: tuple[Truth, int, int], size: tuple[int, int] = (16, 16)) -> NDArray[np.uint8]:
    """Paint boxes, each into a channel with a grey level, on black."""
    image = np.zeros((*size, 3), np.uint8)
    for (top, left, bottom, right), channel, level in squares:
        image[top:bottom, left:right, channel] = level
    return image


def make_subject(
    dataset: Any,
    *,
    network: nn.Module | None = None,
    size: tuple[int, int] = (16, 16),
    crop_pct: float = 1.0,
    **options: Any,
) -> Subject:
    spec = InputSpec((3, *size), (0.0,) * 3, (1.0,) * 3)
    settings = DataSettings(
        "folder", input_size=spec.input_size, mean=spec.mean, std=spec.std, crop_pct=crop_pct, workers=0
    )
    classifier = Classifier(network or Echo(), spec, torch.device("cpu"))
    return Subject(classifier, dataset, settings, Accelerator(cpu=True), **options)


def at(found: Findings, threshold: float) -> dict[str, Any]:
    (row,) = [row for row in found.rows if row["threshold"] == threshold]
    return dict(row)


def squares(count: int) -> Boxed:
    """Images with one square each, in the channel of the label."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 10, (count, 2)).tolist()
    truth = [(top, left, top + 5, left + 6) for top, left in corners]
    labels = rng.integers(0, 3, count).tolist()
    pixels = [paint((box, label, 200)) for box, label in zip(truth, labels, strict=True)]
    return Boxed(pixels, labels, [[box] for box in truth])


BOX, ELSEWHERE, EVERYWHERE = (2, 3, 7, 9), (9, 9, 15, 15), (0, 0, 16, 16)
# class and box right, class wrong, box wrong, both wrong
FOUR = Boxed(
    [
        paint((BOX, 1, 255)),
        paint((BOX, 1, 255), (EVERYWHERE, 0, 255)),
        paint((ELSEWHERE, 1, 255)),
        paint((ELSEWHERE, 1, 255), (EVERYWHERE, 2, 255)),
    ],
    [1] * 4,
    [[BOX]] * 4,
)


@pytest.mark.parametrize("protocol", ["paper", "wsol"])
def test_class_and_box_are_counted_together_and_apart(protocol: Any) -> None:
    found = measure_localization(make_subject(FOUR), protocol)
    numbers = found.numbers
    assert (numbers["count"], numbers["top1"], numbers["top1_loc"]) == (4, 50.0, 25.0)
    assert numbers["gt_known" if protocol == "paper" else "max_box_acc"] == 50.0
    assert {(row["gt_known"], row["top1_loc"]) for row in found.rows} == {(50.0, 25.0)}
    assert json.loads(json.dumps([numbers, found.rows])) == [numbers, found.rows]


def test_what_is_found_has_these_names() -> None:
    both = {"protocol", "count", "input_size", "resized_to", "map_size", "top1", "top1_loc"}
    both |= {"centre_box_gt_known", "full_box_gt_known"}
    paper, wsol = measure_localization(make_subject(FOUR)), measure_localization(make_subject(FOUR), "wsol")
    assert paper.numbers.keys() == both | {"gt_known", "threshold"}
    assert wsol.numbers.keys() == both | {"max_box_acc", "max_box_acc_threshold", "max_box_acc_v2"}
    assert (paper.numbers["protocol"], wsol.numbers["protocol"]) == ("paper", "wsol")
    assert paper.numbers["threshold"] == 0.15
    assert [row["threshold"] for row in paper.rows] == pytest.approx([number / 20 for number in range(20)])
    assert all(list(row) == ["threshold", "top1_loc", "gt_known"] for row in paper.rows)
    v2 = ["v2_iou30", "v2_iou50", "v2_iou70"]
    assert all(list(row) == ["threshold", "top1_loc", "gt_known", *v2] for row in wsol.rows)


def test_pictures_are_spread_over_the_images() -> None:
    dataset = squares(30)
    shown = measure_localization(make_subject(dataset, batch_size=5)).arrays
    assert shown["index"].tolist() == [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29]
    assert {name: (each.shape, each.dtype) for name, each in shown.items()} == {
        "index": ((12,), np.int64),
        "labels": ((12,), np.int64),
        "predictions": ((12,), np.int64),
        "images": ((12, 3, 16, 16), np.uint8),
        "maps": ((12, 16, 16), np.float32),
        "true_boxes": ((12, 4), np.float64),
        "predicted_boxes": ((12, 4), np.int64),
        "iou": ((12,), np.float64),
    }
    for place, index in enumerate(shown["index"]):
        image = dataset.pixels[index].transpose(2, 0, 1)
        assert np.array_equal(shown["images"][place], image)
        assert np.array_equal(shown["maps"][place], image.max(axis=0) > 0)
        assert shown["true_boxes"][place].tolist() == list(dataset.truth[index][0])
    assert np.array_equal(shown["predicted_boxes"], shown["true_boxes"])
    assert np.array_equal(shown["labels"], shown["predictions"])
    assert shown["iou"].tolist() == [1.0] * 12


def test_pictures_of_few_images_are_all_of_them_with_their_first_boxes_and_predicted_classes() -> None:
    dataset = replace(FOUR, truth=[[BOX, ELSEWHERE]] * 4)
    shown = measure_localization(make_subject(dataset)).arrays
    assert shown["index"].tolist() == [0, 1, 2, 3]
    assert shown["predictions"].tolist() == [1, 0, 1, 2]
    assert shown["true_boxes"].tolist() == [list(map(float, BOX))] * 4
    assert shown["predicted_boxes"].tolist() == [list(BOX), list(BOX), list(ELSEWHERE), list(ELSEWHERE)]
    assert shown["iou"].tolist() == [1.0] * 4


def test_the_nearest_of_several_boxes_counts() -> None:
    found = measure_localization(make_subject(replace(FOUR, truth=[[BOX, ELSEWHERE]] * 4)))
    assert found.numbers["gt_known"] == 100.0


INNER, OUTER = (4, 4, 8, 8), (1, 1, 14, 14)


def halo(level: int) -> NDArray[np.uint8]:
    return paint((OUTER, 0, level), (INNER, 0, 250))


@pytest.mark.parametrize("protocol", ["paper", "wsol"])
def test_one_threshold_serves_all_images(protocol: Any) -> None:
    # the first is found below a threshold of 0.3, the second from 0.6 on
    dataset = Boxed([halo(75), halo(150)], [0, 0], [[OUTER], [INNER]])
    found = measure_localization(make_subject(dataset), protocol)
    for row in found.rows:
        if abs(row["threshold"] - 0.3) > 0.005 and abs(row["threshold"] - 0.6) > 0.005:
            assert row["gt_known"] == (0.0 if 0.3 < row["threshold"] < 0.6 else 50.0)
    assert found.numbers["gt_known" if protocol == "paper" else "max_box_acc"] == 50.0


def test_the_paper_s_threshold_is_that_of_the_main_numbers() -> None:
    dataset = Boxed([halo(30), halo(50)], [0, 0], [[INNER], [INNER]])
    found = measure_localization(make_subject(dataset))
    # 30 / 250 is below it, 50 / 250 over it
    assert (found.numbers["gt_known"], found.numbers["top1_loc"]) == (50.0, 50.0)
    assert (at(found, 0.1)["gt_known"], at(found, 0.15)["gt_known"], at(found, 0.25)["gt_known"]) == (0, 50, 100)
    assert found.arrays["predicted_boxes"].tolist() == [list(INNER), list(OUTER)]


def test_wsol_takes_the_first_of_the_best_thresholds_and_draws_its_boxes() -> None:
    found = measure_localization(make_subject(Boxed([halo(75)], [0], [[INNER]])), "wsol")
    assert found.numbers["max_box_acc"] == found.numbers["top1_loc"] == 100.0
    assert found.numbers["max_box_acc_threshold"] == pytest.approx(75 / 250, abs=1 / 255)
    # one row and one column more
    assert found.arrays["predicted_boxes"].tolist() == [[4, 4, 9, 9]]
    assert found.arrays["true_boxes"].tolist() == [[4, 4, 9, 9]]
    assert found.arrays["iou"].tolist() == [1.0]


def test_the_second_version_takes_all_contours_and_three_bounds() -> None:
    small, large = (10, 10, 14, 14), (0, 0, 8, 8)
    two = paint((small, 0, 255), (large, 0, 255))
    one = paint(((0, 0, 10, 10), 0, 255))
    # the largest contour is another one; then boxes of 11 x 11 pixels, of which true ones have 10 x 6 and 11 x 7
    dataset = Boxed([two, one, one], [0] * 3, [[small], [(0, 0, 9, 5)], [(0, 0, 10, 6)]])
    found = measure_localization(make_subject(dataset), "wsol")
    assert found.numbers["max_box_acc"] == pytest.approx(100 / 3)
    at_bounds = [at(found, 0.0)[name] for name in ("v2_iou30", "v2_iou50", "v2_iou70")]
    assert at_bounds == pytest.approx([100.0, 200 / 3, 100 / 3])
    assert found.numbers["max_box_acc_v2"] == pytest.approx(200 / 3)


def test_the_second_version_chooses_a_threshold_for_each_bound() -> None:
    # below 0.6 the boxes are of 14 x 14 pixels, of which the first true ones have 14 x 5; over it of the last true one
    partly = (1, 1, 14, 5)
    dataset = Boxed([halo(150)] * 3, [0] * 3, [[partly], [partly], [INNER]])
    found = measure_localization(make_subject(dataset), "wsol")
    assert found.numbers["max_box_acc_v2"] == pytest.approx((200 / 3 + 100 / 3 + 100 / 3) / 3)


@pytest.mark.parametrize(("width", "columns"), [(3, "0100"), (5, "1110"), (7, "1111")])
def test_an_overlap_of_a_bound_is_enough(width: int, columns: str) -> None:
    rules = WsolRules((16, 16))
    scores = np.zeros((16, 16))
    scores[:9, :9] = 1.0
    assert rules.boxes(scores)[5].tolist() == [0, 0, 10, 10]
    found = rules.found(scores, np.array([[0, 0, 10, width]]))[5]
    assert "".join(str(int(each)) for each in found) == columns


def test_half_an_overlap_is_too_little_for_the_paper_and_enough_for_wsol() -> None:
    half, whole = np.array([[0, 0, 4, 2]]), np.array([[0, 0, 4, 4]])
    assert PaperRules((16, 16), (16, 16)).agrees(half, whole).tolist() == [False]
    assert WsolRules((16, 16)).agrees(half, whole).tolist() == [True]


@pytest.mark.parametrize("protocol", ["paper", "wsol"])
def test_baselines_are_boxes_that_do_not_look(protocol: Any) -> None:
    central, corner = (3, 3, 13, 13), (0, 0, 4, 4)
    dataset = Boxed([paint((corner, 0, 255))] * 4, [0] * 4, [[central], [corner], [(0, 0, 16, 13)], [corner, central]])
    numbers = measure_localization(make_subject(dataset), protocol).numbers
    # the centre box has half of 16 x 16 pixels, all of them in the third box but for a column at most
    assert numbers["centre_box_gt_known"] == 75.0
    assert numbers["full_box_gt_known"] == 25.0


@pytest.mark.parametrize(
    ("crop_pct", "protocol", "resized", "expected"),
    [
        (0.875, "paper", [32, 32], [6, 6, 22, 22]),  # times 0.8 and 0.5, less 2
        (1.0, "paper", [28, 28], [7, 7, 21, 21]),  # times 0.7 and 0.4375
        (0.875, "wsol", [28, 28], [7, 7, 22, 22]),  # and one more
    ],
)
def test_images_and_true_boxes_are_resized_and_cropped_alike(
    crop_pct: float, protocol: Any, resized: list[int], expected: list[int]
) -> None:
    box = (10, 16, 30, 48)
    dataset = Boxed([paint((box, 0, 255), size=(40, 64))], [0], [[box]])
    found = measure_localization(make_subject(dataset, size=(28, 28), crop_pct=crop_pct), protocol)
    assert (found.numbers["input_size"], found.numbers["resized_to"]) == ([28, 28], resized)
    assert found.arrays["true_boxes"].tolist() == [expected]
    image = Image.fromarray(dataset.pixels[0]).resize((resized[1], resized[0]), Image.Resampling.BILINEAR)
    margin = (resized[0] - 28) // 2
    image = image.crop((margin, margin, margin + 28, margin + 28))
    assert np.array_equal(found.arrays["images"][0], np.asarray(image).transpose(2, 0, 1))
    # pixels at the edge are mixed with black, so a box may be a pixel larger
    assert np.abs(found.arrays["predicted_boxes"] - expected).max() <= 1


@pytest.mark.parametrize(
    ("protocol", "with_corners", "expected"),
    [
        # a box of columns 2 to 9 and rows 4 to 7, on an image that is half as large
        ("paper", True, [2, 1, 4, 5]),
        ("paper", False, [2, 1, 4, 5]),
        # as wsolevaluation has it: int(9 / 2) and int(7 / 2) are the last column and row
        ("wsol", True, [2, 1, 4, 5]),
        # it takes what is up to and without 10 and 8 in the same way, and so one more
        ("wsol", False, [2, 1, 5, 6]),
    ],
)
def test_wsol_takes_the_numbers_of_the_files(protocol: Any, with_corners: bool, expected: list[int]) -> None:
    class WithCorners(Boxed):
        def corners(self, index: int) -> list[Truth]:
            return [(top, left, bottom - 1, right - 1) for top, left, bottom, right in self.boxes(index)]

    box = (4, 2, 8, 10)
    dataset = (WithCorners if with_corners else Boxed)([paint((box, 0, 255), size=(32, 32))], [0], [[box]])
    found = measure_localization(make_subject(dataset), protocol)
    assert found.arrays["true_boxes"].tolist() == [expected]


def test_frames_of_the_protocols() -> None:
    settings = DataSettings("imagenet", input_size=(3, 224, 112), crop_pct=0.95)
    assert make_rules("paper", settings) == PaperRules((224, 112), (256, 128))
    assert make_rules("paper", replace(settings, crop_pct=1.0)) == PaperRules((224, 112), (224, 112))
    assert make_rules("wsol", settings) == WsolRules((224, 112))
    odd = make_rules("paper", replace(settings, input_size=(3, 160, 160)))
    assert odd == PaperRules((160, 160), (183, 183))  # 182.86
    with pytest.raises(ValueError, match="protocol must be one of paper, wsol, got 'adl'"):
        make_rules("adl", settings)  # type: ignore[arg-type]


def test_maps_are_enlarged_and_normalised_as_the_protocols_say() -> None:
    activation = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear, cubic = (
        nn.functional.interpolate(activation[None, None], (12, 16), mode=mode)[0, 0] for mode in ("bilinear", "bicubic")
    )
    paper = PaperRules((12, 16), (12, 16)).scores(activation.numpy())
    assert paper == pytest.approx((linear / linear.max()).clamp(0).numpy(), abs=1e-12)
    wsol = WsolRules((12, 16)).scores(activation.numpy())
    assert wsol == pytest.approx(((cubic - cubic.min()) / (cubic.max() - cubic.min())).numpy(), abs=1e-12)


def test_the_thresholds_of_wsol_stand_for_a_thousand() -> None:
    rules = WsolRules((20, 20))
    every = np.arange(0, 1, 0.001)
    scores = rules.scores(np.random.default_rng(0).normal(size=(5, 5)))
    stands_for = np.searchsorted(rules.thresholds, every, side="right") - 1
    assert np.array_equal(wsol_boxes(scores, every)[0], rules.boxes(scores)[stands_for])
    assert len(rules.thresholds) == 255


def smooth(count: int) -> Boxed:
    """Images of coarse noise, so that boxes are of all kinds."""
    coarse = np.random.default_rng(3).integers(0, 256, (count, 4, 4, 3), np.uint8)
    pixels = [np.asarray(Image.fromarray(each).resize((16, 16), Image.Resampling.BICUBIC)) for each in coarse]
    return Boxed(pixels, [index % 3 for index in range(count)], [[(2, 2, 12, 14)]] * count)


@pytest.mark.parametrize("protocol", ["paper", "wsol"])
def test_batches_do_not_matter_and_maps_are_enlarged(protocol: Any) -> None:
    dataset = smooth(10)
    first, *others = [
        measure_localization(make_subject(dataset, network=Echo(4), batch_size=size), protocol) for size in (10, 3, 1)
    ]
    assert first.numbers["map_size"] == [4, 4]
    assert len({row["gt_known"] for row in first.rows}) > 2
    for other in others:
        assert (other.numbers, other.rows) == (first.numbers, first.rows)
        assert all(np.array_equal(other.arrays[name], values) for name, values in first.arrays.items())


def test_only_the_chosen_images_are_measured() -> None:
    subject = make_subject(squares(20), limit=5)
    found = measure_localization(subject)
    assert found.numbers["count"] == 5
    assert found.arrays["index"].tolist() == subject.chosen().tolist()


def test_a_network_of_timm_is_measured() -> None:
    torch.default_generator.manual_seed(0)
    network = timm.create_model("cifar_resnet8", num_classes=3).eval()
    numbers = measure_localization(make_subject(smooth(6), network=network)).numbers
    assert (numbers["map_size"], numbers["count"]) == ([4, 4], 6)


def test_datasets_without_boxes_are_refused() -> None:
    plain = [(Image.new("RGB", (16, 16)), 0)] * 3
    with pytest.raises(UserError, match="a dataset without boxes: list has no boxes and no image_size"):
        measure_localization(make_subject(plain))
    lacking = replace(squares(14), truth=[[BOX]] * 2 + [[]] * 12)
    with pytest.raises(UserError, match=r"12 of 14 images have no box: sample 2, 3, 4, .*, 11, \.\.\.\. Local"):
        measure_localization(make_subject(lacking))


def test_networks_without_maps_are_refused() -> None:
    with pytest.raises(UserError, match="for images of 16 x 16 they are 1 x 1"):
        measure_localization(make_subject(squares(3), network=Echo(16)))
