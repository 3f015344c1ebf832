"""From the arguments of timm's FastCollateMixup to a method of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutmix_zoo.checks import require, require_fraction
from cutmix_zoo.mixing.compose import OneOf
from cutmix_zoo.mixing.cutmix import CutMix
from cutmix_zoo.mixing.mixup import Mixup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutmix_zoo.mixing.method import MixMethod
    from cutmix_zoo.mixing.pairing import Per

_PER: dict[str, Per] = {"batch": "batch", "pair": "pair", "elem": "sample"}


def settings_from_timm(
    *, label_smoothing: float = 0.0, num_classes: int = 1000, multi_label: bool = False, **mixing: Any
) -> tuple[MixMethod, int, float]:
    """Make the settings of the collate that stands for ``FastCollateMixup(**mixup_args)``.

    Args:
        label_smoothing: in [0, 1].
        num_classes: K.
        multi_label: labels are rows of K zeros and ones.
        mixing: timm's other arguments; see :func:`method_from_timm`.

    Returns:
        The method, the number of classes and the label smoothing.

    Raises:
        ValueError: if timm's arguments do not fit, or rows of several labels were to be smoothed.
    """
    require(
        not (multi_label and label_smoothing > 0),
        "label_smoothing of several labels an image is not defined here (timm's moves them towards 0.5): "
        "give label_smoothing=0, or smoothed labels",
    )
    return method_from_timm(**mixing), num_classes, label_smoothing


def method_from_timm(
    mixup_alpha: float = 1.0,
    cutmix_alpha: float = 0.0,
    cutmix_minmax: Sequence[float] | None = None,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: str = "batch",
    correct_lam: bool = True,
) -> MixMethod:
    """Make the method that mixes as ``timm.data.FastCollateMixup`` does with these arguments.

    Images meet as in timm, i and ``batch_size - 1 - i``, and gates, switches and lambdas have timm's distributions.
    What differs:

    - Any batch size is taken; the middle image of an odd batch stays as it is.
    - mixup's lambda is rounded to a whole 256th.
    - A box of CutMix is that of the authors' code, which loses a pixel of an odd side. timm 1.0.31 keeps it: half of
      the side, ``(side + 1) // 2``, lies beyond the centre. Of 32 x 32 pixels timm pastes 0.310 on average, we 0.299.
    - A side of the box of ``cutmix_minmax`` may be the largest that is named; timm's is smaller.

    Args:
        mixup_alpha: of mixup's Beta(alpha, alpha); 0 is without mixup.
        cutmix_alpha: of CutMix's Beta(alpha, alpha); 0 is without CutMix, unless ``cutmix_minmax`` is given.
        cutmix_minmax: smallest and largest side of CutMix's box as shares of the image's, in place of the alpha.
        prob: probability of mixing, in [0, 1].
        switch_prob: probability of CutMix where both are on, in [0, 1].
        mode: ``"batch"``, ``"pair"`` or ``"elem"``: what shares a gate, a switch and a lambda.
        correct_lam: CutMix's labels count the pixels that were pasted, not the lambda that was drawn.

    Raises:
        ValueError: if mixup and CutMix are both off, ``mode`` is another, or a number is out of range.

    Example:
        >>> method_from_timm(mixup_alpha=0.0, cutmix_alpha=1.0, mode="elem") == CutMix(per="sample", pairing="reverse")
        True
    """
    require(
        mode != "half",
        "mode='half' returns half as many images as it is given, which no method here does: "
        "use mode='elem' with half the batch size",
    )
    require(mode in _PER, f"mode must be one of {', '.join(_PER)}, got {mode!r}")
    require_fraction("switch_prob", switch_prob)
    for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        require(alpha >= 0, f"{name} must be at least 0, got {alpha!r}")
    per = _PER[mode]
    mixes: list[MixMethod] = []
    # In timm one gate is drawn, then the switch; in OneOf the switch, then the gate of the chosen method. The two are
    # independent and every gate has the same probability, so CutMix comes with prob * switch_prob and mixup with
    # prob * (1 - switch_prob) either way. That holds for each draw by itself, and draws (of images with "elem", of
    # couples with "pair") are independent of one another in both.
    if mixup_alpha > 0:
        mixes.append(Mixup(mixup_alpha, prob=prob, per=per, pairing="reverse"))
    if cutmix_minmax is not None:
        low, high = _two(cutmix_minmax)
        mixes.append(CutMix(minmax=(low, high), correct_lam=correct_lam, prob=prob, per=per, pairing="reverse"))
    elif cutmix_alpha > 0:
        mixes.append(CutMix(cutmix_alpha, correct_lam=correct_lam, prob=prob, per=per, pairing="reverse"))
    require(len(mixes) > 0, "nothing to mix: mixup_alpha or cutmix_alpha must be above 0, or cutmix_minmax be given")
    if len(mixes) == 1:
        return mixes[0]
    return OneOf(mixes, weights=(1.0 - switch_prob, switch_prob), per=per)


def _two(minmax: Sequence[float]) -> Sequence[float]:
    require(len(minmax) == 2, f"cutmix_minmax must be two shares, the smaller first, got {minmax}")
    return minmax
