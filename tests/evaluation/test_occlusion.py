from typing import Any

import numpy as np
import pytest
import torch

from cutmix_zoo.evaluation.occlusion import Where, centre_hole, hole_sides, measure_occlusion, occlude
from tests.evaluation.subjects import CLASSES, Linear, holes, linear_class, make_subject, random_pixels

SIZES = [(6, 6), (7, 7), (5, 8), (9, 4)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_hole_is_at_the_centre_and_has_its_size(height: int, width: int) -> None:
    for side, inside in holes(height, width):
        hole = centre_hole(height, width, side).numpy()
        assert np.array_equal(hole, inside)
        assert hole.sum() == min(side, height) * min(side, width)
        # centred, or as nearly as whole pixels allow: turned around it moves by one pixel at most
        for axis in (0, 1):
            there, back = np.flatnonzero(hole.any(1 - axis)), np.flatnonzero(np.flip(hole, axis).any(1 - axis))
            assert np.isin(back - there, (0, 1)).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_centre_and_boundary_are_the_two_halves_of_an_image(height: int, width: int) -> None:
    inputs = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    before = inputs.clone()
    for side, inside in holes(height, width):
        hole = torch.from_numpy(inside)
        centre, boundary = occlude(inputs, side), occlude(inputs, side, "boundary")
        assert (centre == 0).sum() == 2 * 3 * hole.sum()
        assert (boundary == 0).sum() == 2 * 3 * (~hole).sum()
        assert torch.equal(centre[..., ~hole], inputs[..., ~hole])
        assert torch.equal(boundary[..., hole], inputs[..., hole])
        assert torch.equal(centre + boundary, inputs)
    longest = max(height, width)
    for unchanged in (occlude(inputs, 0), occlude(inputs, longest, "boundary")):
        assert torch.equal(unchanged, inputs)
    for hidden in (occlude(inputs, longest), occlude(inputs, 0, "boundary")):
        assert not hidden.any()
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("where", ["centre", "boundary"])
def test_what_is_hidden_gets_the_value(where: Where) -> None:
    inputs = torch.ones(2, 3, 6, 6)
    hidden = occlude(inputs, 2, where) == 0
    assert torch.equal(occlude(inputs, 2, where, 7.5), inputs.masked_fill(hidden, 7.5))
    colour = torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1)
    assert torch.equal(occlude(inputs, 2, where, colour), torch.where(hidden, colour.expand_as(inputs), inputs))


def test_what_cannot_be_occluded_is_said() -> None:
    with pytest.raises(ValueError, match="side must be at least 0, got -1"):
        occlude(torch.ones(1, 1, 4, 4), -1)
    with pytest.raises(ValueError, match="where must be one of centre, boundary, got 'corner'"):
        occlude(torch.ones(1, 1, 4, 4), 2, "corner")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fill must be one of mean, black, got 'white'"):
        measure_occlusion(make_subject(Linear(1, 4, 4), *random_pixels(3, 1, 4, 4)), fill="white")  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 5), (20, 13), (28, 28), (32, 32), (224, 224), (200, 331)])
def test_sides_rise_from_nothing_to_everything_in_about_fourteen_equal_steps(height: int, width: int) -> None:
    sides = hole_sides(height, width)
    assert (sides[0], sides[-1]) == (0, max(height, width))
    steps = np.diff(sides)
    assert (steps[:-1] == steps[0]).all()
    assert 0 < steps[-1] <= steps[0]
    assert min(height, 10) <= len(steps) <= 21


@pytest.mark.parametrize("fill", ["mean", "black"])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 6, 6), (3, 5, 8)])
def test_errors_are_those_of_images_hidden_pixel_by_pixel(fill: Any, channels: int, height: int, width: int) -> None:
    network = Linear(channels, height, width)
    pixels, labels = random_pixels(30, channels, height, width)
    subject = make_subject(network, pixels, labels, limit=23)
    found = measure_occlusion(subject, fill=fill)
    chosen = subject.chosen()
    assert len(chosen) == 23
    colour = 255 * np.array(subject.classifier.spec.mean) if fill == "mean" else np.zeros(channels)
    expected = []
    for where in ("centre", "boundary"):
        for side, inside in holes(height, width):
            if side > max(height, width):
                continue
            hidden = inside if where == "centre" else ~inside
            wrong = 0
            for index in chosen:
                image = pixels[index].astype(float)
                image[hidden] = colour
                wrong += linear_class(network, subject, image) != labels[index]
            expected.append({"where": where, "side": side, "top1_error": 100 * wrong / 23, "count": 23})
    assert found.rows == expected
    errors = {
        where: [row["top1_error"] for row in expected if row["where"] == where] for where in ("centre", "boundary")
    }
    assert found.numbers == {
        "fill": fill,
        "count": 23,
        "clean_error": errors["centre"][0],
        "mean_error_centre": pytest.approx(sum(errors["centre"]) / len(errors["centre"])),
        "mean_error_boundary": pytest.approx(sum(errors["boundary"]) / len(errors["boundary"])),
    }
    assert len(set(errors["centre"])) > 2


def test_where_nothing_is_seen_one_class_is_right_as_often_as_it_occurs() -> None:
    network = Linear(1, 6, 6)
    pixels, labels = random_pixels(30, 1, 6, 6)
    rows = measure_occlusion(make_subject(network, pixels, labels)).rows
    # of a zero input only the bias is left, and it is largest for the last class
    frequency = 100 * labels.count(CLASSES - 1) / 30
    for where, side in (("centre", 6), ("boundary", 0)):
        (error,) = (row["top1_error"] for row in rows if (row["where"], row["side"]) == (where, side))
        assert error == pytest.approx(100 - frequency)


def test_batches_change_nothing() -> None:
    network = Linear(3, 5, 8)
    found = [
        measure_occlusion(make_subject(network, *random_pixels(30, 3, 5, 8), batch_size=size)) for size in (1, 7, 30)
    ]
    assert found[0] == found[1] == found[2]
