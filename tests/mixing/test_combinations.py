"""What the README says under "What goes together", row by row."""

import random
from collections import Counter
from copy import deepcopy

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.loader import PrefetchLoader
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.ops import sigmoid_focal_loss

from cutmix_zoo.mixing import (
    CutMix,
    FeatureMix,
    IdentityPlan,
    MixCollate,
    MixedTarget,
    MixPlan,
    concatenate,
    map_sizes,
    mix_features,
    two_term_loss,
)
from tests.mixing.helpers import generator, random_images

B, K = 8, 5
LABELS = torch.tensor([4, 0, 2, 2, 1, 3, 0, 4])


def _plan(seed: int = 0, batch_size: int = B) -> MixPlan:
    return CutMix(per="sample").draw(batch_size, 8, 8, generator=generator(seed))


def _logits(seed: int = 1) -> Tensor:
    return torch.randn(B, K, generator=generator(seed))


@pytest.mark.parametrize("e", [0.1, 0.3])
def test_label_smoothing_once_in_the_target_or_once_in_the_loss(e: float) -> None:
    plan, logits = _plan(), _logits()
    plain, smooth = plan.mix_targets(LABELS, K), plan.mix_targets(LABELS, K, smoothing=e)
    in_target = SoftTargetCrossEntropy()(logits, smooth)
    in_loss = nn.CrossEntropyLoss(label_smoothing=e)(logits, plain)
    torch.testing.assert_close(in_target, in_loss)
    two_terms = two_term_loss(nn.CrossEntropyLoss(reduction="none", label_smoothing=e))
    torch.testing.assert_close(two_terms(logits, LABELS, plan), in_loss)


def test_label_smoothing_in_both_smooths_twice_and_is_refused_where_it_is_seen() -> None:
    plan, logits, e = _plan(), _logits(), 0.1
    twice = nn.CrossEntropyLoss(label_smoothing=e)(logits, plan.mix_targets(LABELS, K, smoothing=e))
    more = nn.CrossEntropyLoss(label_smoothing=1 - (1 - e) ** 2)(logits, plan.mix_targets(LABELS, K))
    torch.testing.assert_close(twice, more)
    target = MixedTarget.of(plan, LABELS, K, smoothing=e)
    with pytest.raises(ValueError, match="leave smoothing to the criterion"):
        two_term_loss(nn.CrossEntropyLoss(reduction="none", label_smoothing=e))(logits, target.labels, target)


def test_bce_is_the_same_both_ways_and_a_threshold_counts_every_larger_share_fully() -> None:
    plan, logits = _plan(), _logits()
    dense = plan.mix_targets(LABELS, K)

    def bce(logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, K).float(), reduction="none").mean(1)

    torch.testing.assert_close(two_term_loss(bce)(logits, LABELS, plan), BinaryCrossEntropy(0.0)(logits, dense))
    thresholded = BinaryCrossEntropy(0.0, target_threshold=0.2)(logits, dense)
    total = 0.0
    for i in range(B):
        positive = {int(LABELS[i])} if plan.lam[i] > 0.2 else set()
        if 1 - plan.lam[i] > 0.2:
            positive.add(int(LABELS[plan.partner[i]]))
        for k in range(K):
            total -= float(F.logsigmoid(logits[i, k] if k in positive else -logits[i, k]))
    assert float(thresholded) == pytest.approx(total / (B * K), rel=1e-5)
    assert float(thresholded) != pytest.approx(float(BinaryCrossEntropy(0.0)(logits, dense)), rel=1e-3)


def test_random_erasing_of_timms_prefetcher_comes_after_mixing_and_leaves_targets() -> None:
    dataset = [(image, int(label)) for image, label in zip(random_images(B, 3, 16, 16), LABELS, strict=True)]
    batches = {}
    for prob in (0.0, 1.0):
        torch.manual_seed(0)
        random.seed(0)
        loader = DataLoader(dataset, batch_size=B, collate_fn=MixCollate(CutMix(per="sample"), K))
        ((images, targets),) = PrefetchLoader(loader, device=torch.device("cpu"), re_prob=prob)
        batches[prob] = images, targets
    (mixed, targets), (erased, same) = batches[0.0], batches[1.0]
    assert torch.equal(targets, same)
    gone = (erased == 0).all(1)
    assert all(image.any() and not image.all() for image in gone)
    kept = ~gone.unsqueeze(1).expand_as(mixed)
    assert torch.equal(erased[kept], mixed[kept])


def test_class_weights_are_the_same_both_ways() -> None:
    plan, logits = _plan(), _logits()
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    two_terms = two_term_loss(nn.CrossEntropyLoss(weight, reduction="none"))
    torch.testing.assert_close(
        two_terms(logits, LABELS, plan), nn.CrossEntropyLoss(weight)(logits, plan.mix_targets(LABELS, K))
    )
    # on hard labels torch divides by the sum of the weights, not by the number of images
    unmixed = two_terms(logits, LABELS, IdentityPlan(B, 8, 8))
    hard = nn.CrossEntropyLoss(weight)(logits, LABELS)
    torch.testing.assert_close(unmixed, hard * weight[LABELS].sum() / B)


def test_a_focal_loss_needs_the_two_terms() -> None:
    plan, logits = _plan(), _logits()

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        return sigmoid_focal_loss(logits, F.one_hot(labels, K).float(), reduction="none").mean(1)

    dense = sigmoid_focal_loss(logits, plan.mix_targets(LABELS, K), reduction="mean")
    two_terms = two_term_loss(focal)(logits, LABELS, plan)
    expected = 0.0
    for i in range(B):
        for source, share in zip(plan.sources[i], plan.label_shares[i], strict=True):
            for k in range(K):
                p = torch.sigmoid(logits[i, k] if LABELS[source] == k else -logits[i, k])
                expected -= share * (0.25 if LABELS[source] == k else 0.75) * (1 - p) ** 2 * torch.log(p) / (B * K)
    torch.testing.assert_close(two_terms, expected)
    assert float(dense) != pytest.approx(float(two_terms), rel=1e-2)


def test_gradient_accumulation_mixes_within_each_micro_batch() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, K))
    images = random_images(B, 3, 8, 8).float() / 255
    plans = [_plan(seed, B // 4) for seed in range(4)]
    for plan, part, labels in zip(plans, images.chunk(4), LABELS.chunk(4), strict=True):
        (F.cross_entropy(model(plan.apply(part)), plan.mix_targets(labels, K)) / 4).backward()
    accumulated = [parameter.grad for parameter in model.parameters()]
    whole = concatenate(plans)
    loss = F.cross_entropy(model(whole.apply(images)), whole.mix_targets(LABELS, K))
    torch.testing.assert_close(accumulated, list(torch.autograd.grad(loss, model.parameters())))


def test_an_ema_averages_weights_and_its_own_maps_are_not_mixed() -> None:
    torch.manual_seed(0)
    model = timm.create_model("cifar_resnet8", num_classes=K)
    ema = ModelEmaV3(model, decay=0.75)
    expected = deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = random_images(B, 3, 8, 8).float() / 255
    mix, sizes = FeatureMix(CutMix(), depths=(1,)), map_sizes(model, 8, 8)
    for step in range(2):
        plan = mix.draw(B, 8, 8, generator=generator(step), map_sizes=sizes)
        with mix_features(model, plan):
            loss = F.cross_entropy(model(images), plan.mix_targets(LABELS, K))
            smooth = ema.module(images)  # inside, where the maps of the model are mixed
            assert torch.equal(smooth, deepcopy(ema.module)(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * value
    for name, value in ema.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("ranks", [1, 2])
def test_repeated_augmentation_seldom_pairs_copies(ranks: int) -> None:
    batch_size, draws = 48, 200
    indices = list(RepeatAugSampler(range(512), num_replicas=ranks, rank=0, num_repeats=3))[:batch_size]
    copies = Counter(indices)
    assert max(copies.values()) == (3 if ranks == 1 else 2)
    # every other image is met with probability 1 / (B - 1)
    expected = sum(copies[index] - 1 for index in indices) / (batch_size - 1) / batch_size
    index = torch.tensor(indices)
    plans = [CutMix().draw(batch_size, 32, 32, generator=generator(seed)) for seed in range(draws)]
    met = torch.stack([index[plan.partner] == index for plan in plans if not isinstance(plan, IdentityPlan)])
    assert met.float().mean().item() == pytest.approx(expected, abs=4 * (expected / met.numel()) ** 0.5)
    # neighbours in the order of the sampler, whom torchvision pairs, are copies far more often
    assert (index.roll(1) == index).float().mean() > 10 * expected
    # the label of two copies is one label, and stays right
    targets = plans[0].mix_targets(index, 512)
    same = index[plans[0].partner] == index
    assert torch.equal(targets[same].amax(1), torch.ones(int(same.sum())))
