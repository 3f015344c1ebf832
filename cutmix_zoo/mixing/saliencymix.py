"""SaliencyMix, and a saliency map by spectral residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cutmix_zoo.checks import require, require_positive
from cutmix_zoo.mixing.box_plan import BoxPlan
from cutmix_zoo.mixing.boxes import clipped_boxes
from cutmix_zoo.mixing.method import Context, Images, PairDraw, PairMethod

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutmix_zoo.mixing.plan import MixPlan

_LONG_SIDE = 64
"""Pixels to which images are reduced before their saliency is computed: what is salient is not a matter of detail."""

_FLOOR = 1e-3
"""Amplitudes below this share of the largest count as that much: the logarithm of almost nothing says nothing."""

_BLUR, _REACH = 2.5, 5
"""Standard deviation and reach, in reduced pixels, of the filter that smooths the map."""

_ROUNDING = 1e-12
"""Contrast below this share of the mean is rounding: the image is constant."""


@dataclass(frozen=True)
class SaliencyMix(PairMethod):
    """Fill a box of each image with the same box of another image, around what is most salient there.

    Lambda is drawn from Beta(alpha, alpha), and a box of a share ``1 - lambda`` is put around the most salient pixel of
    the *partner*, clipped to the image, and pasted where it was. Labels count the pixels. Even with ``per="batch"``
    each image has a box of its own: lambda is shared, the place is not.

    It looks at what it mixes, so it draws with ``images=``, which the collate and the transform give by themselves: a
    batch (B, C, H, W) of any dtype on any device, or B arrays (C, H, W). Saliency is computed on the CPU, from
    each image alone, so that the same pixels give the same boxes in a loader worker and after it, as bytes and as
    floating point; a batch on another device is copied for it.

    Args:
        alpha: above 0; 1 is a uniform lambda.
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate and lambda for all; ``"pair"``: the two of a pair share them; ``"sample"``: each
            image has its own.
        pairing: who meets whom; see :class:`~cutmix_zoo.mixing.method.PairMethod`.

    Raises:
        ValueError: if a setting is out of range or unknown; from ``draw``, if there are no images, or they do not fit.

    **Source**: Uddin et al., SaliencyMix: A Saliency Guided Data Augmentation Strategy for Better Regularization (ICLR
    2021), section 3. The authors' code finds the box by OpenCV's fine-grained saliency, in one image of the batch, and
    uses it for all; here each partner has its own, by :func:`saliency`.

    Example:
        >>> images = torch.zeros(2, 3, 32, 32)
        >>> images[1, :, 20:24, 8:12] = 1.0
        >>> mix = SaliencyMix(alpha=100.0)
        >>> mix.draw(2, 32, 32, generator=torch.Generator().manual_seed(0), images=images).boxes[0]
        tensor([11,  0, 31, 19])
    """

    looks_at_images = True
    """Whether ``draw`` needs the images."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("alpha", self.alpha)

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Unpack[Context]
    ) -> MixPlan:
        """Draw how a batch is mixed; see :meth:`~cutmix_zoo.mixing.method.MixMethod.draw`."""
        require(
            context.get("images") is not None,
            "SaliencyMix looks at the images: draw with images=images, as MixCollate and MixTransform do; "
            "there are none inside a network, so FeatureMix cannot use it beyond depth 0",
        )
        return super().draw(batch_size, height, width, generator=generator, **context)

    def _draw(self, pairs: PairDraw) -> BoxPlan:
        assert pairs.images is not None
        lam = pairs.per_image(pairs.beta(self.alpha))
        centre = _most_salient(pairs.images, pairs.shape)[pairs.partner]
        return BoxPlan(*pairs.shape, donor=pairs.partner, box=clipped_boxes(lam, centre, pairs.height, pairs.width))


def saliency(images: Tensor) -> Tensor:
    """Compute how much each pixel stands out, by spectral residual.

    The grey image, reduced to at most 64 pixels a side and less its mean, has the spectrum F. What its logarithm has
    beyond the average of its neighbourhood is what other images lack: the map is ``|ifft(F / m)| ** 2``, smoothed by a
    Gaussian, with m the geometric mean of ``|F|`` over 3 x 3 frequencies.

    Args:
        images: (B, ..., H, W) of any dtype, on any device, bright or dark on any ground; all between B and H is added
            up to grey.

    Returns:
        (B, H, W) float32 on the CPU, at least 0; all 0 for a constant image. It is computed in float64 and
        then rounded, so that last digits, which depend on the processor, decide nothing.

    **Source**: Hou and Zhang, Saliency Detection: A Spectral Residual Approach (CVPR 2007), and its authors' code, with
    whose 64 pixels and standard deviation of 2.5 we agree. It keeps the mean, so that dark objects are found less well
    than bright ones; its average stops at the border of the spectrum, which is periodic; and we let no amplitude be
    below a thousandth of the largest.

    Example:
        >>> images = torch.zeros(1, 1, 32, 32)
        >>> images[0, 0, 10, 20] = 1.0
        >>> divmod(int(saliency(images).argmax()), 32)
        (10, 20)
    """
    height, width = images.shape[-2:]
    # contiguous, since the order of a sum may depend on the memory format
    planes = images.detach().cpu().contiguous().double().reshape(len(images), -1, height, width)
    ratio = min(1.0, _LONG_SIDE / max(height, width))
    size = [max(1, round(side * ratio)) for side in (height, width)]
    grey = interpolate(planes.sum(1, keepdim=True), size=size, mode="area").squeeze(1)
    mean = grey.mean((1, 2), keepdim=True)
    contrast = torch.where((grey - mean).abs() > _ROUNDING * mean.abs(), grey - mean, 0.0)
    spectrum = torch.fft.fft2(contrast)
    residual = torch.fft.ifft2(spectrum * torch.exp(-_log_average(spectrum.abs())))
    smooth = _gaussian(size[0]) @ residual.abs().square() @ _gaussian(size[1])
    return interpolate(smooth.unsqueeze(1), size=(height, width), mode="bilinear").squeeze(1).float()


def _log_average(amplitude: Tensor) -> Tensor:
    """Average the logarithm of (B, h, w) amplitudes over 3 x 3 neighbours, around the edges."""
    floor = (amplitude.amax((1, 2), keepdim=True) * _FLOOR).clamp(min=torch.finfo(amplitude.dtype).tiny)
    log = torch.maximum(amplitude, floor).log()
    near = (-1, 0, 1)
    return torch.stack([log.roll((i, j), (1, 2)) for i in near for j in near]).mean(0)


def _gaussian(size: int) -> Tensor:
    """Return the (size, size) matrix that smooths along an axis; nothing is beyond its ends."""
    place = torch.arange(size, dtype=torch.float64)
    distance = place - place.unsqueeze(1)
    return torch.exp(-0.5 * (distance / _BLUR).square()) * (distance.abs() <= _REACH)


def _most_salient(images: Images, shape: tuple[int, int, int]) -> Tensor:
    """Return (B, 2) int64, row and column of the most salient pixel of each image, the first where several are."""
    batch_size, height, width = shape
    sizes = {tuple(image.shape[-2:]) for image in images}
    require(
        len(images) == batch_size and sizes == {(height, width)},
        f"images must be {batch_size} of {height} x {width} pixels (height x width), as the batch is said to be, "
        f"got {len(images)} of {sorted(sizes)}",
    )
    # one by one: large images would be eight times as large together, and none depends on its neighbours
    peaks = [int(saliency(image).argmax()) for image in _one_by_one(images)]
    return torch.tensor([divmod(peak, width) for peak in peaks])


def _one_by_one(images: Images) -> Iterator[Tensor]:
    """Yield each image as a batch of its own."""
    if isinstance(images, Tensor):
        yield from images.detach().cpu().split(1)
        return
    for image in images:
        # a copy: torch warns of memory that cannot be written, as that of decoded images
        yield torch.from_numpy(np.array(image, np.float64, order="C")[None])
