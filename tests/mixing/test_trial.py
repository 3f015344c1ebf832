from typing import Any

import numpy as np
import pytest
import torch

from cutmix_zoo.mixing import CANONICAL, Chain, CutMix, Cutout, FeatureMix, IdentityPlan, Mixup, OneOf, Scheduled
from cutmix_zoo.mixing.trial import try_maps, try_methods
from tests.mixing.helpers import random_images

BYTES = random_images(5, 3, 16, 12)
NO_FILL = Cutout(4, prob=0.01)


@pytest.mark.parametrize(
    "mix",
    [
        NO_FILL,
        Chain([CutMix(), NO_FILL]),
        OneOf([CutMix(), NO_FILL], weights=[0.99, 0.01]),
        OneOf([CutMix(), Scheduled(Chain([NO_FILL]))], per="sample"),
        FeatureMix(NO_FILL, depths=(0, 1)),
    ],
    ids=str,
)
def test_a_method_anywhere_inside_is_tried_however_seldom_it_is_drawn(mix: Any) -> None:
    for images in (BYTES, BYTES[:1], BYTES.numpy(), list(BYTES.numpy())):
        with pytest.raises(ValueError, match=r"^Cutout\(size=4.* cannot mix this data: the fill of integer images"):
            try_methods(mix, [images])
    try_methods(mix, [BYTES.float()])


@pytest.mark.parametrize(
    "mix",
    [
        Cutout(4, prob=0.0),
        OneOf([CutMix(), NO_FILL], weights=[1, 0]),
        FeatureMix(NO_FILL, depths=(1, 2)),
        Scheduled(NO_FILL, start=0.0, end=0.0),
        Scheduled(NO_FILL, off_from=0.0),
    ],
    ids=str,
)
def test_what_is_never_drawn_for_images_is_not_tried(mix: Any) -> None:
    try_methods(mix, [BYTES])


@pytest.mark.parametrize(
    "mix",
    [
        FeatureMix(CutMix(prob=0.01), depths=(0, 1, 2)),
        Chain([Cutout(4), FeatureMix(OneOf([Mixup(), CutMix()]), depths=(2,))]),
        OneOf([Mixup(), Scheduled(FeatureMix(CutMix(), depths=(1, 2)))], weights=[0.99, 0.01]),
    ],
    ids=str,
)
def test_maps_that_a_method_cannot_mix_are_found_at_every_depth(mix: Any) -> None:
    with pytest.raises(ValueError, match=r"depth 2 is a row of tokens, which CutMix\(.* cannot mix"):
        try_maps(mix, [(8, 6), (4, 3), None])
    try_maps(mix, [(8, 6), (4, 3), (2, 2)])
    with pytest.raises(ValueError, match="depths must be below 2 for this network"):
        try_maps(mix, [(8, 6), (4, 3)])


def test_maps_that_are_never_mixed_are_not_tried() -> None:
    try_maps(Chain([Cutout(4, prob=0.5), FeatureMix(CutMix(prob=0.0), depths=(0, 1))]), [(8, 6), None])
    try_maps(OneOf([Mixup(), FeatureMix(CutMix(), depths=(4,))], weights=[1, 0]), [(8, 6), None])
    try_maps(Scheduled(FeatureMix(CutMix(), depths=(4,)), off_from=0.0), [(8, 6), None])
    try_maps(CutMix(), [(8, 6)])


@pytest.mark.parametrize(
    ("fill", "message"),
    [((1.0, 2.0), "fill has 2 values, but the images have 3 channels"), ((300.0,), "uint8 cannot hold 300")],
)
def test_a_fill_must_fit_the_images(fill: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        try_methods(Cutout(4, fill=fill, prob=0.01), [BYTES])


def test_masks_are_tried_and_other_labels_are_not() -> None:
    masks = torch.zeros(5, 16, 12, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"^Mixup\(prob=0.01.* a pixel of the mask would have several classes"):
        try_methods(Mixup(prob=0.01), [BYTES], masks)
    erase = Cutout(4, fill=(7.0,), prob=0.01)
    with pytest.raises(ValueError, match=r"int8 cannot hold 255.*another ignore_index"):
        try_methods(erase, [BYTES], masks)
    try_methods(erase, [BYTES], masks, ignore_index=100)
    try_methods(Mixup(prob=0.01), [BYTES], torch.rand(5, 7))


@pytest.mark.parametrize("mix", CANONICAL.values(), ids=CANONICAL)
def test_every_method_passes_on_bytes_which_stay_as_they_are(mix: Any) -> None:
    before, state = BYTES.clone(), torch.get_rng_state()
    try_methods(mix, [BYTES, [image.astype(np.float32) for image in BYTES.numpy()]], torch.arange(5))
    assert torch.equal(BYTES, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_method_of_somebody_elses_is_tried_as_it_is() -> None:
    class Picky:
        def draw(self, *shape: int, **_: Any) -> IdentityPlan:
            raise ValueError("not these images")

    with pytest.raises(ValueError, match="cannot mix this data: not these images"):
        try_methods(OneOf([CutMix(), Picky()], weights=[0.99, 0.01]), [BYTES])
