import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.data.mixup import FastCollateMixup, cutmix_bbox_and_lam, rand_bbox_minmax

from cutmix_zoo.keys import isolated_rng
from cutmix_zoo.mixing import BoxPlan, CutMix, IdentityPlan, clipped_boxes
from tests.mixing.helpers import mean_clipped_share


def _draw(mix: CutMix, batch_size: int = 16, height: int = 32, width: int = 32, seed: int = 0) -> object:
    return mix.draw(batch_size, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 20)])
def test_the_official_algorithm_is_reproduced_pixel_for_pixel(seed: int, height: int, width: int) -> None:
    """The authors' training step in our words, with its own draws, which our plan is then given."""
    rng = np.random.default_rng(seed)
    batch_size, num_classes = 7, 4
    images = rng.standard_normal((batch_size, 3, height, width)).astype(np.float32)
    labels = rng.integers(num_classes, size=batch_size)
    logits = rng.standard_normal((batch_size, num_classes))

    lam = rng.beta(1.0, 1.0)
    order = rng.permutation(batch_size)
    centre_row, centre_column = rng.integers(height), rng.integers(width)

    ratio = np.sqrt(1.0 - lam)
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    top, bottom = np.clip([centre_row - cut_height // 2, centre_row + cut_height // 2], 0, height)
    left, right = np.clip([centre_column - cut_width // 2, centre_column + cut_width // 2], 0, width)
    mixed = images.copy()
    mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
    corrected = 1.0 - (bottom - top) * (right - left) / (height * width)
    log_prob = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    nll_own, nll_other = (-log_prob[np.arange(batch_size), target] for target in (labels, labels[order]))
    loss = nll_own.mean() * corrected + nll_other.mean() * (1.0 - corrected)

    box = clipped_boxes(torch.tensor([lam]), torch.tensor([[centre_row, centre_column]]), height, width)[0]
    plan = BoxPlan(batch_size, height, width, torch.from_numpy(order), box)
    assert np.array_equal(plan.apply(torch.from_numpy(images)).numpy(), mixed)
    targets = plan.mix_targets(torch.from_numpy(labels), num_classes)
    expected = np.zeros((batch_size, num_classes))
    for i in range(batch_size):
        expected[i, labels[i]] += corrected
        expected[i, labels[order[i]]] += 1.0 - corrected
    np.testing.assert_allclose(targets.numpy(), expected, atol=1e-6)
    ours = torch.nn.functional.cross_entropy(torch.from_numpy(logits), targets.double())
    assert float(ours) == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_given_the_same_draws_timm_collates_alike(seed: int) -> None:
    samples = [
        (torch.from_numpy(np.random.default_rng(i).integers(0, 256, (3, 20, 24), np.uint8)), i) for i in range(6)
    ]
    reference = FastCollateMixup(0.0, 1.0, label_smoothing=0.1, num_classes=6)
    with isolated_rng(seed):
        expected_images, expected_targets = reference(samples)
    with isolated_rng(seed):
        lam, _ = reference._params_per_batch()
        (top, bottom, left, right), _ = cutmix_bbox_and_lam((20, 24), lam)
    plan = BoxPlan(6, 20, 24, torch.arange(6).flip(0), torch.tensor([top, left, bottom, right]))
    assert torch.equal(plan.apply(torch.stack([image for image, _ in samples])), expected_images)
    torch.testing.assert_close(plan.mix_targets(torch.arange(6), 6, smoothing=0.1), expected_targets)


def _check_distribution(lam: np.ndarray, cdf: Callable[[float], float]) -> None:
    # three standard deviations of 10,000 draws are 0.015
    for point in (0.05, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95):
        assert float((lam <= point).mean()) == pytest.approx(cdf(point), abs=0.018)


@pytest.mark.parametrize("box", ["inside", "clip"])
@pytest.mark.parametrize(
    ("alpha", "cdf"),
    [
        (0.5, lambda x: 2 / math.pi * math.asin(math.sqrt(x))),
        (1.0, lambda x: x),
        (2.0, lambda x: x * x * (3 - 2 * x)),
    ],
)
def test_lam_follows_beta(alpha: float, cdf: Callable[[float], float], box: str) -> None:
    """What is drawn always does; what is pasted does as well where boxes stay inside."""
    mix = CutMix(alpha=alpha, per="sample", pairing="reverse", box=box, correct_lam=box == "inside")
    _check_distribution(_draw(mix, 10_000, 1000, 1000).lam.numpy(), cdf)


def test_uncorrected_labels_overstate_the_partner() -> None:
    drawn, corrected = (_draw(CutMix(per="sample", correct_lam=correct), 4000) for correct in (False, True))
    assert torch.equal(drawn.pixel_shares, corrected.pixel_shares)
    assert float((corrected.lam - drawn.lam).mean()) == pytest.approx(0.5 - mean_clipped_share(32), abs=0.02)


def test_a_tiny_alpha_gives_whole_images_and_no_nan() -> None:
    plan = _draw(CutMix(alpha=1e-4, per="sample", box="inside"), batch_size=2000)
    # a lambda between 0.001 and 0.999 has a chance of about alpha * log(1000)
    assert float(((plan.lam < 0.001) | (plan.lam > 0.999)).float().mean()) > 0.99
    assert float(plan.lam.mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("std", [0.05, 0.25, 1.0])
def test_gaussian_centres(std: float) -> None:
    """Boxes of 10 x 6 pixels, which show their centres wherever they are not clipped."""
    height, width, draws = 1000, 600, 20_000
    plan = _draw(CutMix(per="sample", box="gaussian", centre_std=std, fixed_lam=0.99989), draws, height, width)
    top_left, bottom_right = plan.boxes[:, :2].double(), plan.boxes[:, 2:].double()
    assert (bottom_right - top_left).amax(0).tolist() == [10, 6]
    for axis, (size, half) in enumerate([(height, 5), (width, 3)]):
        low, high = top_left[:, axis], bottom_right[:, axis]
        # what falls beyond an edge is put on the first or the last pixel there: 0.5 / std standard deviations off
        beyond = 0.5 * math.erfc(0.5 / std / math.sqrt(2))
        error = 4 * math.sqrt(beyond * (1 - beyond) / draws) + 2 / size
        assert float((high <= half).double().mean()) == pytest.approx(beyond, abs=error)
        assert float((low >= size - 1 - half).double().mean()) == pytest.approx(beyond, abs=error)
        # the middle of the distribution: within 0.4 of the size of the centre of the image, where nothing is clipped
        inside = math.erf(0.4 / std / math.sqrt(2))
        centre = (low + half) / size - 0.5
        error = 4 * math.sqrt(inside * (1 - inside) / draws) + 2 / size
        assert float((centre.abs() < 0.4).double().mean()) == pytest.approx(inside, abs=error)
        if std == 0.05:
            # nothing is clipped; the standard errors of a mean and of a standard deviation
            assert float(centre.mean()) == pytest.approx(0, abs=4 * std / math.sqrt(draws) + 1 / size)
            assert float(centre.std()) == pytest.approx(std, abs=4 * std / math.sqrt(2 * draws) + 1 / size)


def test_gaussian_centres_stay_on_the_pixels_of_the_image() -> None:
    """Far off, every centre is on the first or the last pixel, 0 or 999 and 0 or 599, of a box of 10 x 6."""
    plan = _draw(CutMix(per="sample", box="gaussian", centre_std=1e6, fixed_lam=0.99989), 200, 1000, 600)
    top, left, bottom, right = (set(side.tolist()) for side in plan.boxes.unbind(1))
    assert (top, bottom) == ({0, 999 - 5}, {5, 1000})
    assert (left, right) == ({0, 599 - 3}, {3, 600})
    # so those at the far edges have one pixel more: they hold their centre
    far = plan.boxes[(plan.boxes[:, 2] == 1000) & (plan.boxes[:, 3] == 600)]
    assert (far[:, 2:] - far[:, :2]).unique(dim=0).tolist() == [[6, 4]]


def test_the_standard_deviation_of_the_centre_is_a_quarter_unless_said() -> None:
    drawn = [_draw(CutMix(per="sample", box="gaussian", **std), 50).boxes for std in ({}, {"centre_std": 0.25})]
    assert torch.equal(*drawn)


def test_a_fixed_box_is_16_pixels_wide_before_it_is_clipped() -> None:
    draws = 20_000
    plan = _draw(CutMix(per="sample", fixed_lam=0.75), draws)
    sides = plan.boxes[:, 2:] - plan.boxes[:, :2]
    whole = ((plan.boxes[:, :2] > 0) & (plan.boxes[:, 2:] < 32)).all(1)
    assert sides[whole].unique().tolist() == [16]
    # a side is 16 less what sticks out: for the 32 centres 8 + 7 + ... + 1 and 1 + 2 + ... + 7 pixels, 14 on average
    lengths = [min(centre + 8, 32) - max(centre - 8, 0) for centre in range(32)]
    assert np.mean(lengths) == 14
    mean, square = (14 / 32) ** 2, (np.square(lengths).mean() / 32**2) ** 2
    assert mean == pytest.approx(0.191, abs=0.0005)
    error = 4 * math.sqrt((square - mean**2) / draws)
    assert 1 - float(plan.lam.double().mean()) == pytest.approx(mean, abs=error)


@pytest.mark.parametrize("box", ["clip", "gaussian", "inside"])
def test_a_fixed_lambda_is_what_uncorrected_labels_count(box: str) -> None:
    mix = CutMix(per="sample", prob=0.5, box=box, fixed_lam=0.75, correct_lam=False)
    assert set(_draw(mix, 64).lam.tolist()) == {0.75, 1.0}
    if box == "inside":
        assert set(_draw(dataclasses.replace(mix, correct_lam=True), 64).lam.tolist()) == {0.75, 1.0}


@pytest.mark.parametrize("correct_lam", [False, True])
def test_sides_between_least_and_most(correct_lam: bool) -> None:
    height, width, draws = 20, 13, 20_000
    mix = CutMix(per="sample", minmax=(0.2, 0.5), correct_lam=correct_lam)
    plan = _draw(mix, draws, height, width)
    top_left, sides = plan.boxes[:, :2], plan.boxes[:, 2:] - plan.boxes[:, :2]
    # 0.2 and 0.5 of 20 are 4 and 10 pixels, of 13 they are 2.6 and 6.5
    for axis, (size, least, most) in enumerate([(height, 4, 10), (width, 2, 6)]):
        count = most - least + 1
        assert sides[:, axis].unique().tolist() == list(range(least, most + 1))
        for side in range(least, most + 1):
            having = sides[:, axis] == side
            # four standard errors
            error = 4 * math.sqrt(1 / count * (1 - 1 / count) / draws)
            assert float(having.double().mean()) == pytest.approx(1 / count, abs=error)
            places, number = size - side + 1, int(having.sum())
            found = torch.bincount(top_left[having, axis], minlength=places).double() / number
            error = 5 * math.sqrt(1 / places * (1 - 1 / places) / number)
            assert found.tolist() == pytest.approx([1 / places] * places, abs=error)
    assert torch.equal(plan.label_shares, plan.pixel_shares)
    # the two sides are independent: a correlation has a standard error of 1 / sqrt(n)
    assert abs(float(torch.corrcoef(sides.double().T)[0, 1])) < 4 / math.sqrt(draws)


def test_minmax_is_timms_but_for_the_largest_side() -> None:
    draws, (height, width) = 20_000, (40, 24)
    with isolated_rng(0):
        # timm leaves the largest side out: shares of 0.25 and 0.75 and one pixel more
        top, bottom, _, _ = rand_bbox_minmax((height, height), (0.25, 31 / 40), count=draws)
        _, _, left, right = rand_bbox_minmax((width, width), (0.25, 19 / 24), count=draws)
    timms = np.stack([top, left, bottom, right], axis=1)
    ours = _draw(CutMix(per="sample", minmax=(0.25, 0.75)), draws, height, width).boxes.numpy()
    for column in range(4):
        for power in (1, 2):
            one, other = ours[:, column].astype(float) ** power, timms[:, column].astype(float) ** power
            error = 4 * math.sqrt((one.var() + other.var()) / draws)
            assert one.mean() == pytest.approx(other.mean(), abs=error)
    assert ours.min(0).tolist() == timms.min(0).tolist()
    assert ours.max(0).tolist() == timms.max(0).tolist()


def test_minmax_does_not_use_alpha_and_a_shut_gate_pastes_nothing() -> None:
    boxes = [_draw(CutMix(alpha, per="sample", minmax=(0.2, 0.5), prob=0.5), 200).boxes for alpha in (1e-3, 1.0)]
    sides = [(box[:, 2:] - box[:, :2]).prod(1) for box in boxes]
    for side in sides:
        # four standard errors of 200 gates
        assert float((side > 0).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(200))
        assert side.max() <= 16 * 16
        assert side[side > 0].min() >= 6 * 6


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
@pytest.mark.parametrize(
    "settings", [{}, {"box": "gaussian"}, {"minmax": (0.1, 1.0)}, {"correct_lam": False}, {"prob": 0.5}], ids=str
)
def test_one_hot_labels_are_the_larger_share(settings: dict[str, object], per: str) -> None:
    for seed in range(10):
        plan, mixed = (_draw(CutMix(per=per, label=label, **settings), seed=seed) for label in ("one_hot", "mixed"))
        if isinstance(mixed, IdentityPlan):
            assert isinstance(plan, IdentityPlan)
            continue
        assert torch.equal(plan.pixel_shares, mixed.pixel_shares)
        assert plan.lam.tolist() == [1.0 if lam >= 0.5 else 0.0 for lam in mixed.lam.tolist()]
        targets = plan.mix_targets(torch.arange(16), 16)
        assert targets.argmax(1).tolist() == torch.where(mixed.lam >= 0.5, torch.arange(16), mixed.partner).tolist()
        assert set(targets.unique().tolist()) == {0.0, 1.0}


def test_a_tie_goes_to_the_image_itself() -> None:
    # a box of 2 x 4 pixels in 4 x 4: half of them
    plan = _draw(CutMix(per="sample", minmax=(0.5, 1.0), label="one_hot"), 2000, 4, 4)
    shares = plan.pixel_shares[:, 0]
    assert 0.5 in shares
    assert (plan.lam[shares == 0.5] == 1).all()
    assert (plan.lam[shares < 0.5] == 0).all()
    assert set(_draw(CutMix(fixed_lam=0.5, correct_lam=False, label="one_hot")).lam.tolist()) == {1.0}
    assert set(_draw(CutMix(fixed_lam=0.499, correct_lam=False, label="one_hot")).lam.tolist()) == {0.0}


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
@pytest.mark.parametrize("settings", [{}, {"minmax": (0.2, 0.8)}, {"correct_lam": False}, {"fixed_lam": 0.9}], ids=str)
def test_complete_labels_are_halves_where_the_gate_is_open(settings: dict[str, object], per: str) -> None:
    lams, state = [], torch.Generator()
    mix = CutMix(per=per, label="complete", prob=0.6, pairing="reverse", **settings)
    for _ in range(300):
        plan = mix.draw(8, 32, 32, generator=state)
        lams.append(plan.lam)
        # a whole label wherever nothing is pasted because the gate is shut; not wherever a box is empty
        assert (plan.pixel_shares[plan.lam == 1, 0] == 1).all()
    lam = torch.stack(lams)
    assert set(lam.unique().tolist()) == {0.5, 1.0}
    gates = lam[:, : {"batch": 1, "pair": 4, "sample": 8}[per]]
    # four standard errors
    error = 4 * math.sqrt(0.6 * 0.4 / gates.numel())
    assert float((gates == 0.5).double().mean()) == pytest.approx(0.6, abs=error)


@pytest.mark.parametrize("per", ["batch", "pair", "sample"])
def test_who_shares_a_box(per: str) -> None:
    plan = _draw(CutMix(per=per), batch_size=16, height=224, width=224)
    boxes, partner = plan.boxes, plan.partner
    distinct = len({tuple(box) for box in boxes.tolist()})
    assert distinct == {"batch": 1, "pair": 8, "sample": 16}[per]
    if per == "pair":
        assert torch.equal(boxes[partner], boxes)
        assert torch.equal(partner[partner], torch.arange(16))


def test_a_pair_exchanges_its_boxes() -> None:
    plan = _draw(CutMix(per="pair", pairing="reverse"), batch_size=5)
    index = torch.arange(5).view(5, 1, 1).expand(5, 32, 32)
    mixed = plan.apply(index)
    assert torch.equal(mixed + mixed.flip(0), torch.full_like(mixed, 4))
    assert torch.equal(mixed[2], index[2])


@pytest.mark.parametrize(("per", "gates"), [("batch", 1), ("pair", 8), ("sample", 16)])
def test_prob_is_the_share_of_draws_that_mix(per: str, gates: int) -> None:
    # alpha is large, so that a box is empty only where the gate is shut
    mix, generator = CutMix(alpha=100.0, prob=0.25, per=per, pairing="reverse", box="inside"), torch.Generator()
    mixed = torch.stack([mix.draw(16, 64, 64, generator=generator).lam < 1 for _ in range(4800 // gates)])
    assert float(mixed.float().mean()) == pytest.approx(0.25, abs=0.03)
    if per == "pair":
        assert torch.equal(mixed, mixed.flip(1))
    if per == "batch":
        assert torch.equal(mixed.all(1), mixed.any(1))


@pytest.mark.parametrize(("mix", "batch_size"), [(CutMix(prob=0.0, per="sample"), 8), (CutMix(), 1)])
def test_where_nothing_is_mixed_the_plan_is_the_identity(mix: CutMix, batch_size: int) -> None:
    assert isinstance(_draw(mix, batch_size), IdentityPlan)


@pytest.mark.parametrize("pairing", ["derangement", "permutation", "reverse"])
def test_pairing_is_used(pairing: str) -> None:
    partners = torch.stack([_draw(CutMix(pairing=pairing), batch_size=6, seed=seed).partner for seed in range(200)])
    self_pairs = float((partners == torch.arange(6)).float().mean())
    assert self_pairs == pytest.approx({"derangement": 0, "permutation": 1 / 6, "reverse": 0}[pairing], abs=0.05)
    assert (partners == torch.arange(6).flip(0)).all() == (pairing == "reverse")


def test_a_list_becomes_a_tuple_so_that_settings_are_a_value() -> None:
    mix = CutMix(minmax=[0.2, 0.8])
    assert mix == CutMix(minmax=(0.2, 0.8))
    assert hash(mix) == hash(CutMix(minmax=(0.2, 0.8)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha must be a finite number above 0, got 0.0"),
        ({"alpha": -1.0}, "alpha must be a finite number above 0"),
        ({"alpha": float("inf")}, "alpha must be a finite number above 0"),
        ({"prob": 1.1}, "prob must be a number from 0 to 1, got 1.1"),
        ({"per": "elem"}, "per must be one of batch, pair, sample, got 'elem'"),
        ({"pairing": "roll"}, "pairing must be one of derangement, permutation, reverse, got 'roll'"),
        ({"box": "outside"}, "box must be one of clip, inside, gaussian, got 'outside'"),
        ({"per": "pair", "pairing": "permutation"}, "per='pair' needs mutual pairs"),
        ({"label": "soft"}, "label must be one of mixed, one_hot, complete, got 'soft'"),
        ({"centre_std": 0.0}, "centre_std must be a finite number above 0, got 0.0"),
        ({"centre_std": float("nan")}, "centre_std must be a finite number above 0, got nan"),
        ({"fixed_lam": 1.1}, "fixed_lam must be a number from 0 to 1, got 1.1"),
        ({"fixed_lam": -0.1}, "fixed_lam must be a number from 0 to 1, got -0.1"),
        ({"minmax": (0.8, 0.2)}, r"minmax must rise within \[0, 1\] .*, got \(0.8, 0.2\)"),
        ({"minmax": (-0.1, 0.2)}, r"minmax must rise within \[0, 1\]"),
        ({"minmax": (0.1, 1.2)}, r"minmax must rise within \[0, 1\]"),
        ({"minmax": (0.1,)}, r"minmax must rise within \[0, 1\] from one share to another, got \(0.1,\)"),
        ({"minmax": (0.1, 0.2, 0.3)}, r"minmax must rise within \[0, 1\]"),
        ({"minmax": (0.2, 0.8), "fixed_lam": 0.5}, "minmax draws the box's size and place, so fixed_lam and box"),
        ({"minmax": (0.2, 0.8), "box": "inside"}, "minmax draws the box's size and place, so fixed_lam and box"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CutMix(**settings)


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CutMix().alpha = -1.0
