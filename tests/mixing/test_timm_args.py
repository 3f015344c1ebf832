"""Against timm's own FastCollateMixup: the same distributions, and for the same draws the same batches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data.mixup
import torch
from timm.data.mixup import FastCollateMixup, cutmix_bbox_and_lam, mixup_target

from cutmix_zoo.keys import isolated_rng
from cutmix_zoo.mixing import BoxPlan, ChoicePlan, CutMix, IdentityPlan, MixPlan, Mixup, OneOf
from cutmix_zoo.mixing.timm_args import method_from_timm
from tests.mixing.helpers import generator, mean_clipped_share, random_images

PER = {"batch": "batch", "pair": "pair", "elem": "sample"}
BOTH = {"mixup_alpha": 2.0, "cutmix_alpha": 0.5, "prob": 0.7, "switch_prob": 0.3, "correct_lam": False}
DRAWS = 4000
NUM_CLASSES = 10

every_mode = pytest.mark.parametrize("mode", PER)


@pytest.fixture(autouse=True)
def _timms_draws() -> Iterator[None]:
    """Seed the global generator, from which timm draws, and leave it as it was."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    yield
    np.random.set_state(before)  # noqa: NPY002


def _choice(plan: MixPlan) -> torch.Tensor:
    """Which method mixes each image: 0 none, 1 mixup, 2 CutMix."""
    if isinstance(plan, ChoicePlan):
        return torch.stack([_choice(part) for part in plan.parts])[plan.choice, torch.arange(plan.batch_size)]
    kind = 2 if isinstance(plan, BoxPlan) else 1
    return torch.where(plan.lam == 1, 0, kind)


def _ours(mode: str, size: int, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``size`` lambdas and kinds: one for each batch, couple or image."""
    mix, state = method_from_timm(mode=mode, **arguments), generator()
    if mode == "batch":
        plans = [mix.draw(2, 32, 32, generator=state) for _ in range(size)]
        drawn = [(plan.lam[0], _choice(plan)[0]) for plan in plans]
        return np.array([lam for lam, _ in drawn]), np.array([kind for _, kind in drawn])
    plan = mix.draw(2 * size if mode == "pair" else size, 32, 32, generator=state)
    return plan.lam[:size].numpy(), _choice(plan)[:size].numpy()


def _timms(mode: str, size: int, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    mix = FastCollateMixup(mode=mode, **arguments)
    if mode == "batch":
        lam, use_cutmix = np.array([mix._params_per_batch() for _ in range(size)]).T
    else:
        lam, use_cutmix = mix._params_per_elem(size)
    return lam, np.where(lam == 1, 0, np.where(use_cutmix, 2, 1))


def _close(ours: np.ndarray, timms: np.ndarray, bias: float = 0.0) -> None:
    """Means that differ by less than four standard errors of their difference: by chance once in 16,000 times."""
    error = np.sqrt(ours.var() / len(ours) + timms.var() / len(timms))
    assert abs(ours.mean() - timms.mean()) < 4 * error + bias


@every_mode
def test_gate_switch_and_lambda_have_timms_distributions(mode: str) -> None:
    (our_lam, our_kind), (timms_lam, timms_kind) = (draw(mode, DRAWS, **BOTH) for draw in (_ours, _timms))
    for kind, share in ((0, 0.3), (1, 0.7 * 0.7), (2, 0.7 * 0.3)):
        _close(our_kind == kind, timms_kind == kind)
        assert abs((our_kind == kind).mean() - share) < 4 * np.sqrt(share * (1 - share) / DRAWS)
    # mixup's lambda is rounded to a whole 256th, which moves it by at most half of one
    for kind, bias in ((1, 1 / 512), (2, 0.0)):
        ours, timms = our_lam[our_kind == kind], timms_lam[timms_kind == kind]
        _close(ours, timms, bias)
        _close((ours - 0.5) ** 2, (timms - 0.5) ** 2, bias)
        _close(ours < 0.2, timms < 0.2, bias)


@pytest.mark.parametrize(
    ("arguments", "kind"), [({"mixup_alpha": 2.0}, 1), ({"mixup_alpha": 0.0, "cutmix_alpha": 0.5}, 2)]
)
@every_mode
def test_one_method_alone_has_timms_distributions(mode: str, arguments: dict[str, float], kind: int) -> None:
    arguments = arguments | {"prob": 0.6, "correct_lam": False}
    (our_lam, our_kind), (timms_lam, timms_kind) = (draw(mode, DRAWS, **arguments) for draw in (_ours, _timms))
    assert set(our_kind) == set(timms_kind) == {0, kind}
    _close(our_kind == kind, timms_kind == kind)
    _close(our_lam, timms_lam, bias=1 / 512)
    _close((our_lam - 0.5) ** 2, (timms_lam - 0.5) ** 2, bias=1 / 512)


def test_draws_of_images_and_couples_are_independent() -> None:
    for mode in ("elem", "pair"):
        lam, kind = _ours(mode, DRAWS, **BOTH)
        for values in (lam, kind == 0, kind == 2):
            # the correlation of independent numbers has a standard error of 1 / sqrt(n)
            assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / np.sqrt(DRAWS)


@every_mode
def test_who_shares_a_draw(mode: str) -> None:
    mix, state = method_from_timm(mode=mode, **BOTH), generator()
    for plan in [mix.draw(8, 32, 32, generator=state) for _ in range(20)]:
        mirrored = [torch.equal(values, values.flip(0)) for values in (plan.lam, _choice(plan), plan.boxes)]
        alike = [bool((values == values[0]).all()) for values in (plan.lam, _choice(plan), plan.boxes)]
        assert all(mirrored) == (mode != "elem")
        assert all(alike) == (mode == "batch")


@pytest.mark.parametrize("arguments", [{}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}, BOTH], ids=str)
@every_mode
def test_images_meet_as_in_timm(mode: str, arguments: dict[str, Any]) -> None:
    mix = method_from_timm(mode=mode, **(arguments | {"prob": 1.0}))
    assert mix.draw(8, 32, 32, generator=generator()).partner.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    # timm refuses an odd batch; its middle image would meet itself
    assert mix.draw(7, 32, 32, generator=generator()).partner.tolist() == [6, 5, 4, 3, 2, 1, 0]


def _replay(plan: MixPlan, mode: str, monkeypatch: pytest.MonkeyPatch) -> FastCollateMixup:
    """Make timm's collate, which finds the draws of the plan in place of its own."""
    collate_fn = FastCollateMixup(mode=mode, label_smoothing=0.1, num_classes=NUM_CLASSES)
    lam, use_cutmix, boxes = plan.lam.numpy(), (_choice(plan) == 2).numpy(), plan.boxes.tolist()
    count = {"batch": 1, "pair": len(lam) // 2, "elem": len(lam)}[mode]
    shared = slice(0, count)
    pasted = iter([(boxes[i], lam[i]) for i in range(count) if use_cutmix[i]])

    def next_box(*_: Any, **__: Any) -> Any:
        (top, left, bottom, right), corrected = next(pasted)
        return (top, bottom, left, right), corrected

    monkeypatch.setattr(timm.data.mixup, "cutmix_bbox_and_lam", next_box)
    monkeypatch.setattr(collate_fn, "_params_per_batch", lambda: (float(lam[0]), bool(use_cutmix[0])))
    monkeypatch.setattr(collate_fn, "_params_per_elem", lambda _: (lam[shared].copy(), use_cutmix[shared]))
    return collate_fn


@pytest.mark.parametrize(
    "arguments",
    [
        {"mixup_alpha": 1.0},
        {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
        {"mixup_alpha": 0.0, "cutmix_alpha": 1.0, "correct_lam": False},
        {"mixup_alpha": 0.0, "cutmix_minmax": [0.2, 0.9]},
        {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "prob": 0.8},
        {"mixup_alpha": 1.0, "cutmix_minmax": [0.2, 0.9], "switch_prob": 0.8},
    ],
    ids=str,
)
@every_mode
def test_for_the_same_draws_the_batch_is_timms(
    mode: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = random_images(8, 3, 32, 24), torch.randint(NUM_CLASSES, (8,), generator=generator(1))
    mix, state = method_from_timm(mode=mode, **arguments), generator()
    kinds = set()
    for _ in range(10):
        plan = mix.draw(8, 32, 24, generator=state)
        # timm's collate writes into the samples when it mixes pairs
        samples = [(image.clone(), int(label)) for image, label in zip(images, labels, strict=True)]
        timms_images, timms_targets = _replay(plan, mode, monkeypatch)(samples)
        torch.testing.assert_close(plan.mix_targets(labels, NUM_CLASSES, smoothing=0.1), timms_targets)
        pasted = _choice(plan) != 1
        ours = plan.apply(images)
        assert torch.equal(ours[pasted], timms_images[pasted])
        # a half is rounded up here, to the even neighbour in timm
        assert (ours.int() - timms_images.int()).abs().max() <= 1
        kinds |= set(_choice(plan).tolist())
    assert (1 in kinds) == (arguments["mixup_alpha"] > 0)
    assert (2 in kinds) == any(name.startswith("cutmix") for name in arguments)


@every_mode
def test_targets_of_several_labels_are_timms(mode: str) -> None:
    labels = torch.randint(2, (8, NUM_CLASSES), generator=generator(1)).float()
    plan = method_from_timm(mode=mode, **(BOTH | {"prob": 1.0})).draw(8, 32, 32, generator=generator())
    expected = mixup_target(labels, NUM_CLASSES, plan.lam.unsqueeze(1), multi_label=True)
    torch.testing.assert_close(plan.mix_targets(labels, NUM_CLASSES), expected)


def test_boxes_are_the_authors_and_not_timms() -> None:
    mix = method_from_timm(mixup_alpha=0.0, cutmix_alpha=1.0, mode="elem")
    lam = mix.draw(20_000, 32, 32, generator=generator()).lam
    # alpha 1 is a uniform lambda: 1,000 of them evenly spaced, with 20 places each
    with isolated_rng(0):
        timms = [cutmix_bbox_and_lam((32, 32), (i + 0.5) / 1000, count=20)[1] for i in range(1000)]
    # the pasted share has a standard deviation of 0.25, so that its mean over 20,000 has one of 0.002
    ours, theirs = mean_clipped_share(32), mean_clipped_share(32, whole_sides=True)
    assert abs(1 - float(lam.mean()) - ours) < 0.006
    assert abs(1 - np.mean(timms) - theirs) < 0.006
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert f"of 32 px they paste {ours:.3f} on average, timm's {theirs:.3f}" in readme


def test_every_argument_arrives() -> None:
    shared = {"prob": 0.4, "per": "pair", "pairing": "reverse"}
    assert method_from_timm() == Mixup(1.0, pairing="reverse")
    assert method_from_timm(0.2, prob=0.4, mode="pair") == Mixup(0.2, **shared)
    cutmix = CutMix(0.3, correct_lam=False, **shared)
    assert method_from_timm(0, 0.3, prob=0.4, mode="pair", correct_lam=False) == cutmix
    both = method_from_timm(0.2, 0.3, None, 0.4, 0.25, "pair", False)
    assert both == OneOf([Mixup(0.2, **shared), cutmix], weights=(0.75, 0.25), per="pair")
    # the smallest and largest side stand for the alpha, whatever it is
    minmax = CutMix(minmax=(0.2, 0.8), **shared)
    for alpha in (0.0, 0.3):
        assert method_from_timm(0.0, alpha, [0.2, 0.8], 0.4, mode="pair") == minmax
        assert method_from_timm(0.2, alpha, [0.2, 0.8], 0.4, mode="pair").mixes[1] == minmax  # type: ignore[attr-defined]
    for mode, per in PER.items():
        assert method_from_timm(mode=mode).per == per  # type: ignore[attr-defined]
    off = method_from_timm(prob=0.0).draw(8, 32, 32, generator=generator())
    assert isinstance(off, IdentityPlan)


@pytest.mark.parametrize("switch_prob", [0.0, 1.0])
def test_the_switch_may_stand_still(switch_prob: float) -> None:
    _, kind = _ours("elem", 200, **(BOTH | {"switch_prob": switch_prob, "prob": 1.0}))
    assert set(kind) == {2 if switch_prob else 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "half"}, "mode='half' returns half .* use mode='elem' with half the batch size"),
        ({"mode": "sample"}, "mode must be one of batch, pair, elem, got 'sample'"),
        ({"mixup_alpha": 0.0}, "nothing to mix: mixup_alpha or cutmix_alpha must be above 0, or cutmix_minmax"),
        ({"mixup_alpha": -0.1}, "mixup_alpha must be at least 0, got -0.1"),
        ({"cutmix_alpha": -1.0}, "cutmix_alpha must be at least 0, got -1.0"),
        ({"mixup_alpha": float("inf")}, "alpha must be a finite number above 0"),
        ({"cutmix_minmax": [0.2]}, r"cutmix_minmax must be two shares, the smaller first, got \[0.2\]"),
        ({"cutmix_minmax": [0.8, 0.2]}, "minmax must rise within"),
        ({"prob": 1.5}, "prob must be a number from 0 to 1, got 1.5"),
        ({"switch_prob": -0.5}, "switch_prob must be a number from 0 to 1, got -0.5"),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_from_timm(**arguments)
