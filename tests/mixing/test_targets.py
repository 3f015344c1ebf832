import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from timm.data.mixup import mixup_target

from cutmix_zoo.mixing import BoxPlan, CutMix, IdentityPlan, MixPlan
from cutmix_zoo.mixing.targets import mix_labels, mixed_accuracy, two_term_loss


def _plan(batch_size: int = 8) -> MixPlan:
    return CutMix(per="sample").draw(batch_size, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_dense_targets_against_a_loop(smoothing: float) -> None:
    sources = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 0, 1]])
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([3, 1, 3])
    expected = torch.zeros(3, 5)
    for i in range(3):
        for m in range(3):
            for k in range(5):
                hard = 1.0 if labels[sources[i, m]] == k else 0.0
                expected[i, k] += shares[i, m] * (hard * (1 - smoothing) + smoothing / 5)
    targets = mix_labels(labels, sources, shares, 5, smoothing)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dense_targets_are_timms_for_its_pairing(smoothing: float) -> None:
    labels = torch.tensor([0, 3, 3, 1])
    box = torch.tensor([0, 0, 4, 3])
    plan = BoxPlan(4, 8, 8, donor=torch.tensor([3, 2, 1, 0]), box=box)
    expected = mixup_target(labels, 5, lam=1 - 12 / 64, smoothing=smoothing)
    torch.testing.assert_close(plan.mix_targets(labels, 5, smoothing), expected)


def test_sources_of_one_class_add_up() -> None:
    targets = _plan().mix_targets(torch.full((8,), 2), 4)
    assert torch.equal(targets, F.one_hot(torch.full((8,), 2), 4).float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_any_integer_labels(dtype: torch.dtype) -> None:
    labels = torch.arange(8)
    assert torch.equal(_plan().mix_targets(labels.to(dtype), 8), _plan().mix_targets(labels, 8))


@pytest.mark.parametrize(
    ("labels", "num_classes", "smoothing", "message"),
    [
        (torch.arange(8), 7, 0.0, r"label 7 is outside \[0, 7\): set num_classes"),
        (torch.arange(8) - 1, 8, 0.0, r"label -1 is outside \[0, 8\)"),
        (torch.arange(7), 8, 0.0, r"labels must be 8 integers.*got torch.int64 of shape \(7,\)"),
        (torch.zeros(8), 8, 0.0, "floating-point labels must be 8 rows of 8 numbers"),
        (torch.zeros(8, 1, dtype=torch.int64), 8, 0.0, r"labels must be 8 integers.*shape \(8, 1\)"),
        (torch.zeros(8, dtype=torch.int64), 0, 0.0, "num_classes must be a whole number of at least 1, got 0"),
        (torch.arange(8), 8, 1.5, "smoothing must be a number from 0 to 1, got 1.5"),
    ],
)
def test_refused_labels(labels: torch.Tensor, num_classes: int, smoothing: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plan().mix_targets(labels, num_classes, smoothing)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}])
def test_two_terms_equal_the_mixed_target_for_cross_entropy(settings: dict[str, float]) -> None:
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 1])
    plan = _plan()
    two_term = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none", **settings))(logits, labels, plan)
    dense = F.cross_entropy(logits, plan.mix_targets(labels, 5, settings.get("label_smoothing", 0.0)))
    torch.testing.assert_close(two_term, dense)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (two_term, dense)]
    torch.testing.assert_close(*gradients)


def test_two_terms_take_class_weights_by_source() -> None:
    weight = torch.tensor([1.0, 10.0])
    loss = two_term_loss(torch.nn.CrossEntropyLoss(weight=weight, reduction="none"))
    plan = BoxPlan(2, 2, 2, donor=torch.tensor([1, 0]), box=torch.tensor([0, 0, 1, 1]))
    # each term is log 2, times 1 for label 0 and 10 for label 1; shares 3/4 and 1/4
    expected = torch.log(torch.tensor(2.0)) * ((0.75 * 1 + 0.25 * 10) + (0.75 * 10 + 0.25 * 1)) / 2
    torch.testing.assert_close(loss(torch.zeros(2, 2), torch.tensor([0, 1]), plan), expected)


def test_two_terms_of_an_unmixed_batch_are_the_plain_loss() -> None:
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none"))(logits, labels, IdentityPlan(4, 8, 8))
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_two_terms_need_one_loss_for_each_image() -> None:
    loss = two_term_loss(torch.nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"one loss for each of the 8 images, got shape \(\): .*reduction='none'"):
        loss(torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64), _plan())


def test_mixed_accuracy_by_hand() -> None:
    targets = torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    predicted = torch.tensor([0, 0, 0, 1, 1])
    accuracy = mixed_accuracy(F.one_hot(predicted, 3).float(), targets)
    assert accuracy.shape == ()
    assert float(accuracy) == pytest.approx(60.0)


def test_mixed_accuracy_of_hard_targets_is_top1() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(4, (50,), generator=torch.Generator().manual_seed(1))
    top1 = 100 * (logits.argmax(1) == labels).float().mean()
    assert float(mixed_accuracy(logits, F.one_hot(labels, 4).float())) == pytest.approx(float(top1))
