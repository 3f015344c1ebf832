import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from cutmix_zoo.mixing import BoxPlan, IdentityPlan, MixPlan, concatenate

HEIGHT, WIDTH = 7, 5


def _boxes(batch_size: int, generator: torch.Generator) -> Tensor:
    rows = torch.randint(HEIGHT + 1, (batch_size, 2), generator=generator).sort(1).values
    columns = torch.randint(WIDTH + 1, (batch_size, 2), generator=generator).sort(1).values
    return torch.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], dim=1)


def _box_plan(batch_size: int = 6, *, shared: bool = False, seed: int = 0) -> BoxPlan:
    generator = torch.Generator().manual_seed(seed)
    boxes = _boxes(batch_size, generator)
    donor = torch.randint(batch_size, (batch_size,), generator=generator)
    return BoxPlan(batch_size, HEIGHT, WIDTH, donor, boxes[0] if shared else boxes)


def _images(batch_size: int = 6, channels: int = 3) -> Tensor:
    shape = (batch_size, channels, HEIGHT, WIDTH)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _oracle(plan: BoxPlan, images: Tensor) -> Tensor:
    """Ask of every pixel whether it lies in its image's box."""
    mixed = images.clone()
    for i in range(plan.batch_size):
        top, left, bottom, right = plan.boxes[i].tolist()
        for row in range(plan.height):
            for column in range(plan.width):
                if top <= row < bottom and left <= column < right:
                    mixed[i, ..., row, column] = images[plan.partner[i], ..., row, column]
    return mixed


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_every_way_to_apply_boxes_equals_the_pixel_loop(dtype: torch.dtype, shared: bool) -> None:
    plan, images = _box_plan(shared=shared), _images().to(dtype)
    before, expected = images.clone(), _oracle(plan, images)
    for mixed in (plan.apply(images), plan._transform(images)):
        assert mixed.dtype == dtype
        assert torch.equal(mixed, expected)
        assert torch.equal(images, before)
        assert mixed.data_ptr() != images.data_ptr()


@given(batch_size=st.integers(1, 5), shared=st.booleans(), seed=st.integers(0, 2**31))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_any_boxes_equal_the_pixel_loop(batch_size: int, shared: bool, seed: int) -> None:
    plan, images = _box_plan(batch_size, shared=shared, seed=seed), _images(batch_size, channels=1)
    out = np.empty(images.shape, np.uint8)
    plan.write(list(images.numpy()), out)
    expected = _oracle(plan, images)
    assert torch.equal(plan.apply(images), expected)
    assert torch.equal(plan._transform(images), expected)
    assert torch.equal(torch.from_numpy(out), expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(6,), (6, 2, 4)])
def test_masks_and_clips_are_mixed_alike(shape: tuple[int, ...], shared: bool) -> None:
    plan = _box_plan(shared=shared)
    images = torch.rand(*shape, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plan.apply(images), _oracle(plan, images))
    assert torch.equal(plan._transform(images), _oracle(plan, images))


@pytest.mark.parametrize("plan", [_box_plan(), _box_plan(shared=True), concatenate([_box_plan(2), _box_plan(4)])])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(plan: MixPlan, memory_format: torch.memory_format) -> None:
    images = _images().float().contiguous(memory_format=memory_format)
    assert plan.apply(images).is_contiguous(memory_format=memory_format)
    with_gradient = images.clone().requires_grad_()
    assert plan.apply(with_gradient).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_go_to_the_pixels_sources(shared: bool) -> None:
    plan = _box_plan(shared=shared)
    images = _images().double().requires_grad_()
    weight = torch.rand(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((plan.apply(images) * weight).sum(), images)
    expected = torch.zeros_like(images)
    for i in range(6):
        for source in range(6):
            # pixels of image i that come from this source
            index = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, HEIGHT, WIDTH)
            expected[source] += weight[i] * (_oracle(plan, index)[i] == source)
    torch.testing.assert_close(gradient, expected.detach())


@pytest.mark.parametrize("shared", [False, True])
def test_apply_compiles_as_one_graph(shared: bool) -> None:
    def apply(plan: MixPlan, images: Tensor) -> Tensor:
        return plan.apply(images)

    compiled = torch.compile(apply, backend="eager", fullgraph=True)
    for seed in (0, 1):
        plan = _box_plan(shared=shared, seed=seed)
        assert torch.equal(compiled(plan, _images()), plan.apply(_images()))


@pytest.mark.parametrize("shared", [False, True])
def test_shares_are_the_pixels_counted(shared: bool) -> None:
    plan = _box_plan(shared=shared)
    index = torch.arange(6).view(6, 1, 1, 1).expand(6, 1, HEIGHT, WIDTH)
    mixed = _oracle(plan, index).flatten(1)
    counted = torch.stack([(mixed == source).float().mean(1) for source in range(6)], dim=1)
    stated = torch.zeros(6, 6).scatter_add_(1, plan.sources, plan.pixel_shares)
    torch.testing.assert_close(stated, counted)
    assert torch.equal(plan.label_shares, plan.pixel_shares)
    assert torch.equal(plan.lam, plan.label_shares[:, 0])
    assert torch.equal(plan.partner, plan.sources[:, 1])


def test_label_lam_replaces_the_area() -> None:
    plan = _box_plan()
    told = BoxPlan(6, HEIGHT, WIDTH, plan.donor, plan.box, label_lam=torch.linspace(0, 1, 6, dtype=torch.float64))
    assert told.label_shares.dtype == torch.float32
    assert told.lam.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert torch.equal(told.label_shares.sum(1), torch.ones(6))
    assert torch.equal(told.pixel_shares, plan.pixel_shares)


def test_given_the_same_draws_torchvision_mixes_alike() -> None:
    images, labels = _images().float(), torch.tensor([0, 1, 2, 3, 1, 1])
    reference = v2.CutMix(num_classes=4)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        params = reference.make_params([images])
        torch.manual_seed(5)
        expected_images, expected_targets = reference(images, labels)
    left, top, right, bottom = params["box"]
    plan = BoxPlan(6, HEIGHT, WIDTH, torch.arange(6).roll(1), torch.tensor([top, left, bottom, right]))
    assert not torch.equal(expected_images, images)
    assert torch.equal(plan.apply(images), expected_images)
    torch.testing.assert_close(plan.mix_targets(labels, 4), expected_targets)


def test_identity() -> None:
    plan, images = IdentityPlan(6, HEIGHT, WIDTH), _images()
    assert plan.apply(images) is images
    out = np.empty(images.shape, np.uint8)
    plan.write(list(images.numpy()), out)
    assert np.array_equal(out, images.numpy())
    assert plan.sources.tolist() == [[0], [1], [2], [3], [4], [5]]
    assert plan.pixel_shares.tolist() == plan.label_shares.tolist() == [[1.0]] * 6
    assert plan.lam.tolist() == [1.0] * 6
    assert plan.partner.tolist() == list(range(6))
    assert plan.boxes.tolist() == [[0, 0, 0, 0]] * 6
    assert plan.mix_targets(torch.arange(6), 6, smoothing=0.6).diag().tolist() == pytest.approx([0.5] * 6)


class _ThreeSources(IdentityPlan):
    @property
    def sources(self) -> Tensor:
        return torch.zeros(self.batch_size, 3, dtype=torch.int64)


@pytest.mark.parametrize("name", ["lam", "partner"])
def test_more_than_two_sources_have_no_lam_and_no_partner(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is for plans of two sources, this one has 3: use sources"):
        getattr(_ThreeSources(2, 4, 4), name)


@pytest.mark.parametrize(
    "plan",
    [IdentityPlan(6, HEIGHT, WIDTH), _box_plan(), concatenate([_box_plan(3), IdentityPlan(3, HEIGHT, WIDTH)])],
)
@pytest.mark.parametrize("shape", [(5, 3, 7, 5), (6, 3, 5, 7), (6, 35), (6, 3, 7, 6)])
def test_apply_refuses_another_batch(plan: MixPlan, shape: tuple[int, ...]) -> None:
    message = rf"6 images of 7 x 5 pixels \(height x width\), got a batch of shape \({', '.join(map(str, shape))}\)"
    with pytest.raises(ValueError, match=message):
        plan.apply(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [(0, 4, 4), (2, 0, 4), (2, 4, -1)])
def test_a_plan_needs_a_pixel(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least one image of one pixel"):
        IdentityPlan(*sizes)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"donor": torch.tensor([0, 2])}, "donor must lie between 0 and 1"),
        ({"donor": torch.tensor([-1, 0])}, "donor must lie between 0 and 1"),
        ({"donor": torch.tensor([0])}, r"donor must be int64 of shape \(2,\), got torch.int64 of shape \(1,\)"),
        ({"donor": torch.tensor([0.0, 1.0])}, "donor must be int64"),
        ({"box": torch.tensor([0, 0, 5, 3])}, r"box must lie between 0 and \[4, 3, 4, 3\]"),
        ({"box": torch.tensor([0, 0, 4, 4])}, "box must lie between"),
        ({"box": torch.tensor([-1, 0, 4, 3])}, "box must lie between"),
        ({"box": torch.tensor([3, 0, 2, 3])}, "top <= bottom and left <= right"),
        ({"box": torch.tensor([0, 2, 2, 1])}, "top <= bottom and left <= right"),
        ({"box": torch.zeros(3, 4, dtype=torch.int64)}, r"box must be int64 of shape \(2, 4\) or \(4,\)"),
        ({"label_lam": torch.tensor([0.5, 1.5])}, r"label_lam must be 2 numbers in \[0, 1\]"),
        ({"label_lam": torch.tensor([0.5, float("nan")])}, r"label_lam must be 2 numbers in \[0, 1\]"),
        ({"label_lam": torch.tensor(0.5)}, r"label_lam must be 2 numbers in \[0, 1\]"),
    ],
)
def test_box_plan_refuses(changed: dict[str, Tensor], message: str) -> None:
    arguments = {"donor": torch.tensor([1, 0]), "box": torch.tensor([0, 0, 2, 2])}
    BoxPlan(2, 4, 3, **arguments)
    with pytest.raises(ValueError, match=message):
        BoxPlan(2, 4, 3, **arguments | changed)


@pytest.mark.parametrize(
    "plan",
    [_box_plan(), _box_plan(shared=True), IdentityPlan(6, HEIGHT, WIDTH), concatenate([_box_plan(3), _box_plan(3)])],
)
def test_plans_pickle(plan: MixPlan) -> None:
    copy = pickle.loads(pickle.dumps(plan))
    assert type(copy) is type(plan)
    assert torch.equal(copy.apply(_images()), plan.apply(_images()))
    assert torch.equal(copy.label_shares, plan.label_shares)


def test_concatenated_plans_mix_each_batch_within_itself() -> None:
    told = _box_plan(2, seed=3)
    parts = [
        _box_plan(2, seed=1),
        IdentityPlan(3, HEIGHT, WIDTH),
        BoxPlan(2, HEIGHT, WIDTH, told.donor, told.box, label_lam=torch.tensor([0.25, 0.5])),
    ]
    plan, images, labels = concatenate(parts), _images(7), torch.arange(7)
    assert (plan.batch_size, plan.height, plan.width) == (7, HEIGHT, WIDTH)
    chunks = list(zip(parts, images.split([2, 3, 2]), labels.split([2, 3, 2]), strict=True))
    expected = torch.cat([part.apply(chunk) for part, chunk, _ in chunks])
    assert torch.equal(plan.apply(images), expected)
    out = np.empty(images.shape, np.uint8)
    plan.write(list(images.numpy()), out)
    assert np.array_equal(out, expected.numpy())
    targets = torch.cat([part.mix_targets(chunk, 7) for part, _, chunk in chunks])
    assert torch.equal(plan.mix_targets(labels, 7), targets)
    assert torch.equal(plan.boxes, torch.cat([part.boxes for part in parts]))
    assert plan.sources[:, 0].tolist() == list(range(7))
    assert plan.sources[2:5, 1].tolist() == [2, 3, 4]
    assert plan.partner[5:].tolist() == (told.donor + 5).tolist()
    assert plan.pixel_shares.sum(1).tolist() == pytest.approx([1.0] * 7)
    assert plan.lam[2:].tolist() == pytest.approx([1, 1, 1, 0.25, 0.5])


def test_concatenate_refuses() -> None:
    with pytest.raises(ValueError, match=r"one image size.*\[\]"):
        concatenate([])
    with pytest.raises(ValueError, match=r"one image size.*\[\(4, 4\), \(8, 4\)\]"):
        concatenate([IdentityPlan(1, 8, 4), IdentityPlan(1, 4, 4)])
