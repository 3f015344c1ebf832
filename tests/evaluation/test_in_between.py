import numpy as np
import pytest
import torch

from cutmix_zoo.errors import UserError
from cutmix_zoo.evaluation.in_between import (
    MIXUP_LAMS,
    cutmix_pairs,
    draw_partners,
    measure_in_between,
    mixup_pairs,
    neither,
)
from tests.evaluation.subjects import Linear, holes, linear_class, make_subject, random_pixels


@pytest.mark.parametrize("count", [2, 3, 50])
def test_everybody_meets_another_one_and_is_met_once(count: int) -> None:
    indices = np.sort(np.random.default_rng(count).permutation(1000)[:count])
    before = torch.get_rng_state()
    partners = draw_partners(indices)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.sort(partners), indices)
    assert (partners != indices).all()
    assert np.array_equal(draw_partners(indices), partners)


def test_partners_are_not_neighbours() -> None:
    indices = np.arange(500)
    # drawn at random, about one in 500 is the next one
    assert (draw_partners(indices) == (indices + 1) % 500).sum() < 10


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_partner(count: int) -> None:
    with pytest.raises(UserError, match=f"expected at least 2, got {count}"):
        draw_partners(np.arange(count))


def test_one_chosen_image_is_too_few() -> None:
    subject = make_subject(Linear(1, 4, 4), *random_pixels(5, 1, 4, 4), limit=1)
    with pytest.raises(UserError, match="expected at least 2, got 1"):
        measure_in_between(subject)


def test_mixup_blends_and_is_symmetric() -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 2, 5, 4, generator=rng) for _ in range(2))
    assert torch.equal(mixup_pairs(first, second, 1.0), first)
    assert torch.equal(mixup_pairs(first, second, 0.0), second)
    assert torch.equal(
        mixup_pairs(torch.full((1, 1, 2, 2), 8.0), torch.zeros(1, 1, 2, 2), 0.25), torch.full((1, 1, 2, 2), 2.0)
    )
    for lam in MIXUP_LAMS:
        torch.testing.assert_close(mixup_pairs(first, second, lam), mixup_pairs(second, first, 1 - lam))


@pytest.mark.parametrize(("height", "width"), [(6, 6), (5, 8)])
def test_cutmix_takes_the_centre_from_the_second(height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 2, height, width, generator=rng) for _ in range(2))
    for side, inside in holes(height, width):
        mixed, hole = cutmix_pairs(first, second, side), torch.from_numpy(inside)
        assert torch.equal(mixed[..., hole], second[..., hole])
        assert torch.equal(mixed[..., ~hole], first[..., ~hole])
    assert torch.equal(cutmix_pairs(first, second, 0), first)
    assert torch.equal(cutmix_pairs(first, second, max(height, width)), second)
    with pytest.raises(ValueError, match="side must be at least 0, got -2"):
        cutmix_pairs(first, second, -2)


def test_only_a_third_class_is_an_error() -> None:
    labels = np.array([[0, 1], [2, 2], [3, 0]])
    predictions = np.array([[0, 1, 2], [2, 0, 2], [1, 0, 3]])
    expected = [[False, False, True], [False, True, False], [True, False, False]]
    assert neither(predictions, labels).tolist() == expected


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 6, 6), (3, 5, 8)])
def test_errors_are_those_of_pairs_mixed_one_by_one(channels: int, height: int, width: int) -> None:
    network = Linear(channels, height, width)
    pixels, labels = random_pixels(30, channels, height, width)
    subject = make_subject(network, pixels, labels, limit=23)
    found = measure_in_between(subject)
    first, second = found.arrays["first"], found.arrays["second"]
    assert np.array_equal(first, subject.chosen())
    assert np.array_equal(second, draw_partners(first))
    images, pairs = pixels.astype(float), list(zip(first, second, strict=True))

    def error(weight: float | np.ndarray) -> float:
        wrong = 0
        for one, other in pairs:
            mixed = weight * images[one] + (1 - weight) * images[other]
            wrong += linear_class(network, subject, mixed) not in (labels[one], labels[other])
        return 100 * wrong / 23

    expected = [
        {"mix": "mixup", "lam": step / 10, "side": None, "error": error(step / 10), "count": 23} for step in range(11)
    ]
    for side, inside in holes(height, width):
        if side <= max(height, width):
            lam = 1 - inside.sum() / (height * width)
            row = {"mix": "cutmix", "side": side, "error": error(~inside[..., None]), "count": 23}
            expected.append({**row, "lam": pytest.approx(lam)})
    assert found.rows == expected
    assert found.numbers == {
        "count": 23,
        "pairs": 23,
        "same_class_pairs": sum(labels[one] == labels[other] for one, other in pairs),
        "mean_error_mixup": pytest.approx(np.mean([row["error"] for row in expected if row["mix"] == "mixup"])),
        "mean_error_cutmix": pytest.approx(np.mean([row["error"] for row in expected if row["mix"] == "cutmix"])),
    }
    assert len({row["error"] for row in expected}) > 2


def test_the_ends_are_the_images_themselves() -> None:
    subject = make_subject(Linear(3, 5, 8), *random_pixels(40, 3, 5, 8))
    found = measure_in_between(subject)
    labels, predictions = subject.clean["labels"], subject.clean["logits"].argmax(1)
    first, second = found.arrays["first"], found.arrays["second"]
    errors = {(row["mix"], row["side"] if row["mix"] == "cutmix" else row["lam"]): row["error"] for row in found.rows}
    for image, ends in ((first, [("mixup", 1.0), ("cutmix", 0)]), (second, [("mixup", 0.0), ("cutmix", 8)])):
        missed = (predictions[image] != labels[first]) & (predictions[image] != labels[second])
        assert [errors[end] for end in ends] == [pytest.approx(100 * missed.mean())] * 2
        assert missed.mean() <= (predictions != labels).mean()


def test_batches_change_nothing() -> None:
    network = Linear(3, 5, 8)
    found = [
        measure_in_between(make_subject(network, *random_pixels(30, 3, 5, 8), batch_size=size)) for size in (1, 7, 30)
    ]
    for other in found[1:]:
        assert (other.numbers, other.rows) == (found[0].numbers, found[0].rows)
        assert all(np.array_equal(other.arrays[name], found[0].arrays[name]) for name in ("first", "second"))
