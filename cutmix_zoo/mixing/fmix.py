"""FMix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cutmix_zoo.checks import require_positive
from cutmix_zoo.mixing.blend_plan import MaskPlan
from cutmix_zoo.mixing.method import PairDraw, PairMethod


@dataclass(frozen=True)
class FMix(PairMethod):
    """Take each pixel from one image or the other, by a random mask of few and large regions.

    Gaussian noise is divided, frequency by frequency, by ``max(f, 1 / max(height, width)) ** decay_power``, f being the
    frequency in cycles a pixel. The highest ``round(lambda * height * width)`` values of what comes out keep their
    pixels, lambda from Beta(alpha, alpha); the others are the partner's.

    Args:
        alpha: above 0; 1 is a uniform lambda.
        decay_power: how fast the spectrum falls, above 0; the larger, the fewer and smoother the regions.
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate, lambda and mask for all, as in the paper's code; ``"pair"``: the two of a pair share
            them; ``"sample"``: each image has its own.
        pairing: who meets whom; see :class:`~cutmix_zoo.mixing.method.PairMethod`.

    Raises:
        ValueError: if a setting is out of range or unknown.

    **Source**: Harris et al., FMix: Enhancing Mixed Sample Data Augmentation (2020), section 4. The authors' code
    rounds the number of pixels up or down at random; and of the frequencies along the width it keeps 0 and 1 alone,
    since it takes two rows of its spectrum for the two parts of a complex number. Here all count, as in the paper.

    Example:
        >>> import torch
        >>> plan = FMix(per="sample").draw(4, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> plan.mask.shape, torch.equal(plan.lam * 1024, plan.mask.sum((1, 2)).float())
        (torch.Size([4, 32, 32]), True)
    """

    alpha: float = 1.0
    decay_power: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("alpha", self.alpha)
        require_positive("decay_power", self.decay_power)

    def _draw(self, pairs: PairDraw) -> MaskPlan:
        size = (pairs.height, pairs.width)
        lam = pairs.beta(self.alpha)
        keep = np.ones((pairs.meeting.groups, *size), np.bool_)
        # one after another: the noise of a whole batch would be many times as large as its masks
        for group in np.flatnonzero(pairs.gate):
            noise = low_frequency_noise(*size, self.decay_power, pairs.rng)
            keep[group] = _highest(noise, round(lam[group] * noise.size))
        return MaskPlan(*pairs.shape, donor=pairs.partner, mask=pairs.shared(keep))


def low_frequency_noise(height: int, width: int, decay_power: float, rng: np.random.Generator) -> np.ndarray:
    """Draw Gaussian noise in which low frequencies prevail.

    Args:
        height: height in pixels.
        width: width in pixels.
        decay_power: amplitudes fall as the frequency to this power; below one period of the longer side no more.
        rng: source of randomness.

    Returns:
        (height, width) float64, of no particular scale.

    Example:
        >>> noise = low_frequency_noise(64, 64, 3.0, np.random.default_rng(0))
        >>> bool(np.abs(np.diff(noise)).mean() < 0.1 * noise.std())
        True
    """
    # the spectrum of white noise is complex Gaussian, and that of real numbers
    spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
    return np.fft.irfft2(spectrum * _amplitude(height, width, decay_power), s=(height, width))


@lru_cache(maxsize=8)
def _amplitude(height: int, width: int, decay_power: float) -> np.ndarray:
    """Return what the half spectrum is multiplied with, 1 at most, so that no power overflows."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    least = 1.0 / max(height, width)
    amplitude: np.ndarray = (least / np.maximum(frequency, least)) ** decay_power
    return amplitude


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Return a mask of the ``count`` highest values."""
    mask = np.zeros(values.size, np.bool_)
    if count > 0:
        mask[np.argpartition(values.ravel(), -count)[-count:]] = True
    return mask.reshape(values.shape)
