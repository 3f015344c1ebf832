"""Methods made of methods: one of several, one after another, and one whose probability moves over the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Unpack

import numpy as np
import torch

from cutmix_zoo.checks import require, require_choice, require_fraction
from cutmix_zoo.mixing.joined_plans import ChoicePlan, SequencePlan
from cutmix_zoo.mixing.method import Context, MixMethod, as_tuple
from cutmix_zoo.mixing.pairing import Per, numpy_generator, torch_generator
from cutmix_zoo.mixing.plan import IdentityPlan, MixPlan


@dataclass(frozen=True)
class OneOf:
    """Choose one of several methods: for each batch, or for each image.

    Args:
        mixes: the methods, at least one.
        weights: how often each is chosen, relative to the others; None for equally often. What the methods' own
            ``prob`` leaves unmixed stays so.
        per: ``"batch"``: one choice for all; ``"sample"``: each image has its own; ``"pair"``: the images i and
            ``batch_size - 1 - i`` share one, for methods with ``pairing="reverse"``.

    Raises:
        ValueError: if there is no method, the weights do not fit, or ``per="pair"`` comes with other pairs.
        TypeError: if one of ``mixes`` is no mixing method.

    **Source**: timm's ``switch_prob`` is ``OneOf([Mixup(...), CutMix(...)], [1 - p, p])``.

    Example:
        >>> from cutmix_zoo.mixing import CutMix, Mixup
        >>> mix = OneOf([Mixup(0.2), CutMix(1.0)], weights=[0.5, 0.5], per="sample")
        >>> mix.draw(8, 32, 32, generator=torch.Generator().manual_seed(0)).lam.shape
        torch.Size([8])
    """

    mixes: Sequence[MixMethod]
    weights: Sequence[float] | None = None
    per: Per = "batch"

    def __post_init__(self) -> None:
        _as_methods(self, self.mixes)
        if self.weights is not None:
            weights = as_tuple(self.weights)
            numbers = len(weights) == len(self.mixes) and all(isinstance(weight, Real) for weight in weights)
            fits = numbers and min(weights) >= 0 and 0 < sum(weights) < math.inf
            require(fits, f"weights must be {len(self.mixes)} numbers from 0, not all 0, got {weights}")
            object.__setattr__(self, "weights", weights)
        require_choice("per", self.per, ("batch", "pair", "sample"))
        if self.per == "pair":
            reverse = all(getattr(mix, "pairing", None) == "reverse" for mix in self.mixes)
            require(reverse, "per='pair' needs methods with pairing='reverse', so that all have the same pairs")

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Unpack[Context]
    ) -> MixPlan:
        """Draw how a batch is mixed; see :meth:`~cutmix_zoo.mixing.method.MixMethod.draw`."""
        rng = numpy_generator(generator)
        weights = np.ones(len(self.mixes)) if self.weights is None else np.array(self.weights)
        count = 1 if self.per == "batch" else batch_size
        choice = rng.choice(len(self.mixes), size=count, p=weights / weights.sum())
        shape = (batch_size, height, width)
        if self.per == "batch":
            return self.mixes[choice[0]].draw(*shape, generator=torch_generator(rng), **context)
        if self.per == "pair":
            index = np.arange(batch_size)
            choice = choice[np.minimum(index, batch_size - 1 - index)]
        parts = tuple(mix.draw(*shape, generator=torch_generator(rng), **context) for mix in self.mixes)
        if all(isinstance(part, IdentityPlan) for part in parts):
            return IdentityPlan(*shape)
        return ChoicePlan(*shape, parts, torch.from_numpy(choice))


@dataclass(frozen=True)
class Chain:
    """Apply methods one after another, such as Cutout, then mixup (Table 5 of the CutMix paper).

    All are drawn before the first is applied: a method that looks at images (SaliencyMix) sees the batch as it came.

    Args:
        mixes: the methods in order, at least one.

    Raises:
        ValueError: if there is no method.
        TypeError: if one of ``mixes`` is no mixing method.

    Example:
        >>> from cutmix_zoo.mixing import Cutout, Mixup
        >>> plan = Chain([Cutout(16), Mixup(1.0)]).draw(8, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> plan.apply(torch.ones(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    mixes: Sequence[MixMethod]

    def __post_init__(self) -> None:
        _as_methods(self, self.mixes)

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Unpack[Context]
    ) -> MixPlan:
        """Draw how a batch is mixed; see :meth:`~cutmix_zoo.mixing.method.MixMethod.draw`."""
        rng = numpy_generator(generator)
        shape = (batch_size, height, width)
        parts = [mix.draw(*shape, generator=torch_generator(rng), **context) for mix in self.mixes]
        mixing = tuple(part for part in parts if not isinstance(part, IdentityPlan))
        return SequencePlan(*shape, mixing) if mixing else IdentityPlan(*shape)


@dataclass(frozen=True)
class Scheduled:
    """Let the probability of a method move over the run, or switch it off before the end.

    Args:
        mix: the method; its own ``prob`` counts beside this one.
        start: probability of mixing a batch at the start of the run, in [0, 1].
        end: probability at its end; between, it moves linearly.
        off_from: share of the run after which nothing is mixed: 0.9 of 300 epochs is epoch 270, counted from 0.

    Raises:
        ValueError: if a number is outside [0, 1]; from ``draw``, also if ``progress`` is missing.
        TypeError: if ``mix`` is no mixing method.

    **Source**: Yun et al., CutMix (ICCV 2019), Table 8, Scheduled: ``Scheduled(CutMix(), start=0.0, end=1.0)``.
    ``off_from`` is timm's ``--mixup-off-epoch``.

    Example:
        >>> from cutmix_zoo.mixing import CutMix
        >>> late = Scheduled(CutMix(), off_from=0.9)
        >>> late.draw(8, 32, 32, generator=torch.Generator(), progress=0.95).lam.tolist() == [1.0] * 8
        True
    """

    mix: MixMethod
    start: float = 1.0
    end: float = 1.0
    off_from: float = 1.0

    def __post_init__(self) -> None:
        check_method("mix", self.mix)
        for name in ("start", "end", "off_from"):
            require_fraction(name, getattr(self, name))

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Unpack[Context]
    ) -> MixPlan:
        """Draw how a batch is mixed; see :meth:`~cutmix_zoo.mixing.method.MixMethod.draw`."""
        progress = context.get("progress")
        if progress is None:
            raise ValueError(
                "Scheduled needs to know how much of the run is over: draw with progress=epoch / epochs; "
                "MixCollate and MixTransform need epochs=, and set_epoch() where samples have no keys"
            )
        require_fraction("progress", progress)
        rng = numpy_generator(generator)
        prob = self.start + (self.end - self.start) * progress
        if rng.random() >= prob or (progress >= self.off_from and self.off_from < 1):
            return IdentityPlan(batch_size, height, width)
        return self.mix.draw(batch_size, height, width, generator=torch_generator(rng), **context)


def check_method(name: str, mix: object) -> None:
    """Raise TypeError unless ``mix`` is a mixing method."""
    if isinstance(mix, type) or not callable(getattr(mix, "draw", None)):
        raise TypeError(f"{name} must be a mixing method such as CutMix(), got {mix!r}")


def _as_methods(settings: OneOf | Chain, mixes: Sequence[MixMethod]) -> None:
    """Keep the methods as a tuple, so that the settings stay a value."""
    mixes = tuple(mixes)
    require(len(mixes) > 0, "mixes must name at least one method")
    for mix in mixes:
        check_method("mixes", mix)
    object.__setattr__(settings, "mixes", mixes)
