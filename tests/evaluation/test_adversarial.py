import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cutmix_zoo.evaluation.accuracy import measure_accuracy
from cutmix_zoo.evaluation.adversarial import fgsm, fgsm_direction, measure_adversarial, pgd, random_start
from cutmix_zoo.evaluation.subject import Subject
from tests.evaluation.subjects import CLASSES, make_subject, random_pixels

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Please import `gaussian_filter` from", DeprecationWarning)
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfFastGradientAttack, LinfPGD

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
EPS = 8 / 255


class SmoothNet(nn.Module):
    """A convolution whose gradients are nowhere zero, and batch norm, which would mind training mode."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.num_classes = CLASSES
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(32, CLASSES, bias=False)
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=rng))
        self.norm.running_var.fill_(4.0)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = torch.tanh(self.norm(self.conv(inputs)))
        return self.head(nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1))


class Margin(nn.Module):
    """Two classes, told apart by a linear function of the pixels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64))

    def forward(self, pixels: Tensor) -> Tensor:
        score = pixels.flatten(1) @ self.weight
        return torch.stack([score, torch.zeros_like(score)], dim=1)

    def margin(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """How far the score is on the right side."""
        return (pixels.flatten(1) @ self.weight) * (1 - 2 * labels)


def normalize(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def batch() -> tuple[nn.Module, Tensor, Tensor]:
    """A network on pixels, pixels that reach 0 and 1, labels."""
    rng = torch.Generator().manual_seed(2)
    network = SmoothNet().eval()
    pixels = (1.2 * torch.rand(10, 3, 6, 7, generator=rng) - 0.1).clamp(0, 1)
    return network, pixels, torch.randint(CLASSES, (10,), generator=rng)


@pytest.fixture
def linear() -> tuple[Margin, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    pixels = torch.rand(9, 2, 3, 4, generator=rng, dtype=torch.float64)
    return Margin(24), pixels, torch.arange(9) % 2


@pytest.mark.parametrize("eps", [0.0, 2 / 255, EPS, 0.3])
def test_fgsm_is_that_of_foolbox(eps: float, batch: Any) -> None:
    network, pixels, labels = batch
    reference = PyTorchModel(network, bounds=(0, 1), preprocessing={"mean": MEAN, "std": STD, "axis": -3})
    _, expected, _ = LinfFastGradientAttack(random_start=False)(reference, pixels, labels, epsilons=eps)
    direction = fgsm_direction(lambda images: network(normalize(images)), pixels, labels)
    torch.testing.assert_close(fgsm(pixels, direction, eps), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("steps", "step_size"), [(1, 0.01), (7, 2 / 255), (20, 0.01)])
def test_pgd_is_that_of_foolbox(steps: int, step_size: float, batch: Any) -> None:
    network, pixels, labels = batch
    reference = PyTorchModel(network, bounds=(0, 1), preprocessing={"mean": MEAN, "std": STD, "axis": -3})
    attack = LinfPGD(abs_stepsize=step_size, steps=steps, random_start=False)
    _, expected, _ = attack(reference, pixels, labels, epsilons=EPS)
    moved = pgd(lambda images: network(normalize(images)), pixels, labels, EPS, steps=steps, step_size=step_size)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


def test_the_margin_of_a_linear_network_falls_by_eps_times_the_sum_of_its_weights(linear: Any) -> None:
    network, pixels, labels = linear
    pixels = 0.2 + 0.6 * pixels  # so far inside [0, 1] that nothing is clipped
    direction = fgsm_direction(network, pixels, labels)
    start = random_start(pixels, torch.arange(9), 0.1)
    for moved in (
        fgsm(pixels, direction, 0.1),
        # the direction is the same everywhere, so that steps enough for the whole ball lead to the same corner
        pgd(network, pixels, labels, 0.1, steps=11, step_size=0.02, start=start),
    ):
        fall = network.margin(pixels, labels) - network.margin(moved, labels)
        torch.testing.assert_close(fall, (0.1 * network.weight.abs().sum()).expand(9), rtol=1e-12, atol=0)


@pytest.mark.parametrize("clip", [True, False])
def test_the_loss_of_a_linear_network_never_falls(clip: bool, linear: Any) -> None:
    network, pixels, labels = linear
    direction = fgsm_direction(network, pixels, labels)
    losses = [
        nn.functional.cross_entropy(network(fgsm(pixels, direction, eps, clip=clip)), labels, reduction="none")
        for eps in (0.0, 0.01, 0.1, 0.5)
    ]
    for lower, higher in pairwise(losses):
        assert (higher > lower).all()


def test_no_budget_changes_no_bit(batch: Any) -> None:
    network, pixels, labels = batch
    direction = fgsm_direction(network, pixels, labels)
    start = random_start(pixels, torch.arange(10), 0.0)
    for moved in (fgsm(pixels, direction, 0.0), pgd(network, pixels, labels, 0.0), start):
        assert torch.equal(moved, pixels)


def test_nothing_leaves_the_ball_nor_the_range(batch: Any) -> None:
    network, pixels, labels = batch
    before = pixels.clone()
    direction = fgsm_direction(network, pixels, labels)
    attacked = {
        "one step": fgsm(pixels, direction, EPS),
        "not clipped": fgsm(pixels, direction, EPS, clip=False),
        "several steps": pgd(network, pixels, labels, EPS, start=random_start(pixels, torch.arange(10), EPS)),
        "from outside": pgd(network, pixels, labels, EPS, steps=1, start=pixels + 1),
    }
    for name, moved in attacked.items():
        assert (moved - pixels).abs().max() <= EPS + 1e-7
        assert (moved != pixels).any()
        assert bool(((moved >= 0) & (moved <= 1)).all()) is (name != "not clipped")
    assert torch.equal(pixels, before)


def test_a_start_outside_the_ball_is_brought_into_it_first(batch: Any) -> None:
    network, pixels, labels = batch
    seen: list[Tensor] = []
    record = lambda images: seen.append(images.detach()) or network(images)  # noqa: E731
    pgd(record, pixels, labels, EPS, start=pixels + 1)
    assert torch.equal(seen[0], (pixels + EPS).clamp(max=1))


def test_one_whole_step_of_pgd_is_fgsm(batch: Any) -> None:
    network, pixels, labels = batch
    single = fgsm(pixels, fgsm_direction(network, pixels, labels), EPS)
    assert torch.equal(pgd(network, pixels, labels, EPS, steps=1, step_size=EPS), single)


@pytest.mark.parametrize(
    ("eps", "steps", "step_size"), [(8, 10, 2), (8, 3, 2), (8, 20, 1), (1, 10, 0.25), (16, 10, 2), (100, 4, 2)]
)
def test_a_step_is_two_grey_levels_or_less_where_the_ball_is_small(
    eps: float, steps: int, step_size: float, batch: Any
) -> None:
    network, pixels, labels = batch
    seen = []
    pgd(lambda images: seen.append(images.detach()) or network(images), pixels, labels, eps / 255, steps=steps)
    assert len(seen) == steps
    assert torch.equal(seen[0], pixels)
    assert (seen[1] - seen[0]).abs().max().item() == pytest.approx(step_size / 255, rel=1e-4)


def test_gradients_are_taken_of_the_pixels_alone_and_in_full_precision(batch: Any) -> None:
    network, pixels, labels = batch
    direction = fgsm_direction(network, pixels, labels)
    assert set(direction.unique().tolist()) <= {-1.0, 0.0, 1.0}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fgsm_direction(network, pixels, labels), direction)
    for parameter in network.parameters():
        assert parameter.grad is None
        parameter.requires_grad_(False)
    assert torch.equal(fgsm_direction(network, pixels, labels), direction)
    assert not pixels.requires_grad
    assert not pgd(network, pixels, labels, EPS).requires_grad


def test_random_starts_are_a_function_of_the_image_alone() -> None:
    pixels = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    index = torch.tensor([7, 2, 900, 4, 7])
    before = torch.get_rng_state()
    together = random_start(pixels, index, EPS)
    assert torch.equal(torch.get_rng_state(), before)
    alone = [random_start(pixels[[place]], index[[place]], EPS)[0] for place in range(5)]
    assert torch.equal(together, torch.stack(alone))
    noise = (together - pixels) / EPS
    torch.testing.assert_close(noise[0], noise[4], rtol=0, atol=1e-5)
    torch.testing.assert_close((random_start(pixels, index, 0.5) - pixels) / 0.5, noise, rtol=0, atol=1e-5)
    # uniform in [-1, 1]: its mean is 0 and its variance 1/3
    assert noise.abs().max() <= 1 + 1e-5
    assert noise.mean().item() == pytest.approx(0, abs=0.04)
    assert noise.var().item() == pytest.approx(1 / 3, abs=0.02)
    assert (noise[1] - noise[2]).abs().mean() > 0.5


@pytest.mark.parametrize("eps", [-0.1, float("inf"), float("nan")])
def test_a_budget_is_a_distance(eps: float, batch: Any) -> None:
    network, pixels, labels = batch
    with pytest.raises(ValueError, match="eps must be finite and at least 0, got "):
        fgsm(pixels, pixels, eps)
    with pytest.raises(ValueError, match="eps must be finite and at least 0, got "):
        pgd(network, pixels, labels, eps)
    subject = make_subject(SmoothNet(), *random_pixels(3, 3, 5, 6))
    with pytest.raises(ValueError, match=r"^budgets must be finite and at least 0, got "):
        measure_adversarial(subject, budgets=(1, eps))
    with pytest.raises(ValueError, match="pgd_budgets must be finite and at least 0, got "):
        measure_adversarial(subject, pgd_budgets=(1, eps))


def test_steps_have_to_be_taken(batch: Any) -> None:
    with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got 0"):
        pgd(*batch, EPS, steps=0)
    with pytest.raises(ValueError, match="step_size must be a finite number above 0, got 0"):
        pgd(*batch, EPS, step_size=0)
    with pytest.raises(ValueError, match="pgd_steps must be a whole number of at least 1, got 0"):
        measure_adversarial(make_subject(SmoothNet(), *random_pixels(3, 3, 5, 6)), pgd_steps=0)


def gradient_sign(classify: Callable[[Tensor], Tensor], values: Tensor, label: int) -> Tensor:
    """The sign of the gradient for one image, by way of .backward()."""
    leaf = values.clone().requires_grad_()
    nn.functional.cross_entropy(classify(leaf), torch.tensor([label])).backward()
    assert leaf.grad is not None
    return leaf.grad.sign()


def attacked(subject: Subject, attack: str, index: int, eps: float) -> Tensor:
    """The network's input for one image, by the definition of each attack."""
    classifier, (picture, label) = subject.classifier, subject.dataset[index]
    image = torch.from_numpy(np.array(picture) / 255).float().reshape(*picture.size[::-1], -1).permute(2, 0, 1)[None]

    def classify(pixels: Tensor) -> Tensor:
        return classifier.network(classifier.normalize(pixels))

    if attack == "normalized":
        inputs = classifier.normalize(image)
        return inputs + eps * gradient_sign(classifier.network, inputs, label)
    if attack == "pixel":
        return classifier.normalize((image + eps * gradient_sign(classify, image, label)).clamp(0, 1))
    moved = random_start(image, torch.tensor([index]), eps).clamp(0, 1)
    for _ in range(4):
        moved = moved + min(2 / 255, 2.5 * eps / 4) * gradient_sign(classify, moved, label)
        moved = (image + (moved - image).clamp(-eps, eps)).clamp(0, 1)
    return classifier.normalize(moved)


@pytest.mark.parametrize("channels", [1, 3])
def test_accuracies_are_those_of_images_attacked_one_by_one(channels: int) -> None:
    pixels, labels = random_pixels(60, channels, 5, 6)
    # most labels are what the network says
    said = make_subject(SmoothNet(channels), pixels, labels).clean["logits"].argmax(1)
    labels = np.where(np.arange(60) % 5, said, labels).tolist()
    subject = make_subject(SmoothNet(channels), pixels, labels, limit=41)
    found = measure_adversarial(subject, budgets=(0, 2, 8, 32), pgd_budgets=(8, 0, 24), pgd_steps=4)
    assert all(parameter.grad is None for parameter in subject.classifier.network.parameters())
    expected = []
    for attack, budgets, indices in (
        ("pixel", (0, 2, 8, 32), range(60)),
        ("normalized", (0, 2, 8, 32), range(60)),
        ("pgd", (8, 0, 24), subject.chosen()),
    ):
        space = "normalized" if attack == "normalized" else "pixel"
        for budget in budgets:
            inputs = [attacked(subject, attack, int(index), budget / 255) for index in indices]
            hits = [
                int(subject.classifier.network(one).argmax()) == labels[index]
                for index, one in zip(indices, inputs, strict=True)
            ]
            name = "pgd" if attack == "pgd" else "fgsm"
            row = {"attack": name, "space": space, "budget": budget, "count": len(indices)}
            expected.append({**row, "top1": pytest.approx(100 * np.mean(hits))})
    assert found.rows == expected
    clean = measure_accuracy(subject).numbers["top1"]
    assert found.rows[0]["top1"] == found.rows[4]["top1"] == clean
    assert found.numbers == {
        "clean_top1": clean,
        "fgsm_top1_at_8": expected[2]["top1"],
        "pgd_top1_at_8": expected[8]["top1"],
        "pgd_steps": 4,
    }
    assert len({row["top1"] for row in found.rows}) > 4


def test_what_is_not_asked_for_is_not_measured() -> None:
    subject = make_subject(SmoothNet(), *random_pixels(20, 3, 5, 6))
    found = measure_adversarial(subject, budgets=(0, 2), pgd_budgets=())
    assert [(row["attack"], row["budget"]) for row in found.rows] == [("fgsm", 0), ("fgsm", 2)] * 2
    assert found.numbers["fgsm_top1_at_8"] is None
    assert found.numbers["pgd_top1_at_8"] is None
    assert len({row["top1"] for row in measure_adversarial(subject, budgets=(0,), pgd_budgets=(0,)).rows}) == 1


def test_batches_change_nothing() -> None:
    found = [
        measure_adversarial(make_subject(SmoothNet(), *random_pixels(30, 3, 5, 6), batch_size=size, limit=11))
        for size in (1, 7, 30)
    ]
    assert found[0] == found[1] == found[2]
    assert {row["count"] for row in found[0].rows} == {30, 11}
