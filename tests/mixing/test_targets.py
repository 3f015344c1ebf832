import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from timm.data.mixup import mixup_target

from cutmix_zoo.mixing import BlendPlan, BoxPlan, CutMix, Cutout, IdentityPlan, MixPlan, Mixup
from cutmix_zoo.mixing.targets import mix_by_kind, mix_labels, mix_values, mixed_accuracy, two_term_loss


def _plan(batch_size: int = 8) -> MixPlan:
    return CutMix(per="sample").draw(batch_size, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("compiling", [False, True], ids=["by NumPy", "by torch, as on a GPU"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_dense_targets_against_a_loop(smoothing: float, compiling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
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
        (torch.ones(8, dtype=torch.bool), 2, 0.0, "labels must be 8 integers.*got torch.bool"),
        (torch.ones(8, dtype=torch.complex64), 2, 0.0, "labels must be 8 integers.*got torch.complex64"),
        (torch.ones(8, 3, dtype=torch.int64), 3, 0.0, "several labels an image as floating-point rows"),
        (torch.ones(8, 3), 4, 0.0, "8 rows of 4 numbers, one for each class, got shape .*with mix_values"),
        (torch.ones(7, 4), 4, 0.0, "8 rows of 4 numbers"),
        (torch.ones(8, 4), 4, 0.1, "smoothing is for integer labels: .* so smooth them before"),
        (torch.zeros(8, dtype=torch.int64), 0, 0.0, "num_classes must be a whole number of at least 1, got 0"),
        (torch.arange(8), 8, 1.5, "smoothing must be a number from 0 to 1, got 1.5"),
    ],
)
def test_refused_labels(labels: torch.Tensor, num_classes: int, smoothing: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plan().mix_targets(labels, num_classes, smoothing)


SOURCES = torch.tensor([[0, 1, 2], [1, 1, 0], [2, 0, 1]])
SHARES = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("several", [False, True])
def test_labels_that_are_rows_already(several: bool, dtype: torch.dtype) -> None:
    rows = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    rows = (rows > 0.5 if several else rows / rows.sum(1, keepdim=True)).to(dtype)
    expected = torch.zeros(3, 4)
    for i in range(3):
        for m in range(3):
            for k in range(4):
                expected[i, k] += SHARES[i, m] * float(rows[SOURCES[i, m], k])
    targets = mix_labels(rows, SOURCES, SHARES, 4)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets, expected)
    if not several:
        torch.testing.assert_close(targets.sum(1), torch.ones(3), atol=2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4), (3, 2, 2)])
def test_values_against_a_loop(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = values.clone()
    expected = torch.zeros(shape, dtype=torch.float64)
    for i in range(3):
        for m in range(3):
            expected[i] += SHARES[i, m].double() * values[SOURCES[i, m]].double()
    mixed = mix_values(values, SOURCES, SHARES)
    assert mixed.dtype == dtype
    # shares and values of half precision are exact in float32: one rounding, to the nearest, at the end
    torch.testing.assert_close(mixed, expected.to(dtype), rtol=1e-6 if dtype.itemsize > 2 else 0, atol=1e-6)
    assert torch.equal(values, before)


def test_half_precision_values_are_summed_in_float32() -> None:
    # in bfloat16, 256 + 1/2 is 256, however often
    values = torch.tensor([256.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.bfloat16)
    sources = torch.arange(5).repeat(5, 1)
    shares = torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5]).repeat(5, 1)
    assert mix_values(values, sources, shares).tolist() == [258.0] * 5


def test_values_carry_gradients() -> None:
    values = torch.randn(3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mix_values(values, SOURCES, SHARES).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.zeros(3).scatter_add_(0, SOURCES.flatten(), SHARES.flatten()))


@pytest.mark.parametrize("values", [torch.arange(3), torch.rand(4), torch.tensor(1.0)])
def test_refused_values(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="values must be floating point, one for each of the 3 images of the plan"):
        mix_values(values, SOURCES, SHARES)


def test_labels_are_mixed_by_their_kind() -> None:
    plan, labels = _plan(), torch.arange(8) % 5
    assert torch.equal(mix_by_kind(plan, labels, 5, 0.1), plan.mix_targets(labels, 5, 0.1))
    dense = torch.rand(8, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mix_by_kind(plan, dense, 5), plan.mix_targets(dense, 5))
    assert torch.equal(mix_by_kind(plan, dense, None), plan.mix_values(dense))
    for shape in ((8, 16, 16), (8, 1, 16, 16)):
        masks = torch.randint(5, shape, generator=torch.Generator().manual_seed(0))
        for num_classes in (5, None):
            assert torch.equal(mix_by_kind(plan, masks, num_classes), plan.apply_masks(masks))
    erase = Cutout(8).draw(8, 16, 16, generator=torch.Generator().manual_seed(0))
    assert set(mix_by_kind(erase, torch.zeros(8, 16, 16, dtype=torch.int64), None).unique().tolist()) == {0, 255}


@pytest.mark.parametrize(
    ("mix", "labels", "message"),
    [
        (CutMix(), torch.arange(8), "num_classes must be given where labels are classes"),
        (CutMix(), torch.rand(8, 16, 16), "maps of the images' size, of which an average over the whole image"),
        (CutMix(), torch.rand(8, 3, 16, 16), "mix them as further images, with plan.apply or MixTransform"),
        (CutMix(), torch.rand(8, 3, 8, 8), r"\(8, 3, 8, 8\) look like maps of another size than the images' 16 x 16"),
        (CutMix(), torch.rand(8, 2, 3, 8, 8), r"resize them to the images' .* flatten them to \(B, N\)"),
        (CutMix(), torch.zeros(8, 8, 8, dtype=torch.int64), "the plan was drawn for 8 images of 16 x 16 pixels"),
        (Mixup(), torch.zeros(8, 16, 16, dtype=torch.int64), "a pixel of the mask would have several classes"),
    ],
)
def test_labels_of_no_kind(mix: CutMix | Mixup, labels: torch.Tensor, message: str) -> None:
    plan = mix.draw(8, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        mix_by_kind(plan, labels, None)


@pytest.mark.parametrize("shape", [(8, 16, 16), (8, 1, 16, 16)])
def test_masks_are_not_smoothed(shape: tuple[int, ...]) -> None:
    message = (
        r"smoothing is for one label an image, got smoothing=0.1 with masks of shape \(8, .*: leave it to the loss"
    )
    with pytest.raises(ValueError, match=message):
        mix_by_kind(_plan(), torch.zeros(shape, dtype=torch.int64), 5, 0.1)


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


def test_two_terms_of_the_squared_error_have_the_gradient_of_the_mixed_value() -> None:
    state = torch.Generator().manual_seed(0)
    predicted, values = torch.randn(8, generator=state, requires_grad=True), torch.randn(8, generator=state)
    plan = BlendPlan(8, 4, 4, donor=torch.arange(7, -1, -1), own_lam=torch.linspace(0, 1, 8))
    two_terms = two_term_loss(torch.nn.MSELoss(reduction="none"))(predicted, values, plan)
    mixed = F.mse_loss(predicted, plan.mix_values(values))
    gradients = [torch.autograd.grad(loss, predicted)[0] for loss in (two_terms, mixed)]
    torch.testing.assert_close(*gradients)
    apart = plan.lam * (1 - plan.lam) * (values - values.flip(0)) ** 2
    torch.testing.assert_close(two_terms - mixed, apart.mean())


def test_two_terms_of_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels, plan = torch.arange(8) % 5, _plan()
    loss = two_term_loss(torch.nn.CrossEntropyLoss(reduction="none"))
    assert loss(logits, labels, plan).dtype == torch.float32
    torch.testing.assert_close(loss(logits, labels, plan), loss(logits.float(), labels, plan), rtol=1e-2, atol=1e-2)


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


def test_mixed_accuracy_of_several_labels() -> None:
    # images of the labels {0, 1} and {1, 2}, and of {0, 1} and {2}, mixed 6 to 4
    rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    sources = torch.tensor([[0, 1], [0, 2], [0, 0]])
    targets = mix_labels(rows, sources, torch.tensor([[0.6, 0.4]]).repeat(3, 1), 3)
    right = [[mixed_accuracy(torch.eye(3)[k : k + 1], targets[i : i + 1]).item() for k in range(3)] for i in range(3)]
    # the label of both; either label of the larger; either label of an unmixed image
    assert right == [[0.0, 100.0, 0.0], [100.0, 100.0, 0.0], [100.0, 100.0, 0.0]]


@pytest.mark.parametrize("targets", [torch.zeros(4, dtype=torch.int64), torch.zeros(4, 2), torch.zeros(3, 3)])
def test_mixed_accuracy_needs_targets_of_the_shape_of_the_logits(targets: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"logits and targets must be \(B, K\), got \(4, 3\) and \("):
        mixed_accuracy(torch.zeros(4, 3), targets)
