"""What a mixing method is, and what those that mix two images have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np
import torch

from cutmix_zoo.checks import require_fraction
from cutmix_zoo.mixing.pairing import Meeting, Pairing, Per, check_pairing, meet, numpy_generator
from cutmix_zoo.mixing.plan import IdentityPlan

if TYPE_CHECKING:
    from cutmix_zoo.mixing.plan import MixPlan

Images = torch.Tensor | Sequence[np.ndarray] | np.ndarray
"""A batch (B, C, H, W) on any device, or B arrays (C, H, W), stacked or not."""


class Context(TypedDict, total=False):
    """What a draw may depend on beside the size of the batch. Most methods need nothing of it."""

    progress: float
    """How much of the run is over, in [0, 1]; :class:`~cutmix_zoo.mixing.Scheduled` needs it."""
    images: Images
    """What will be mixed; :class:`~cutmix_zoo.mixing.SaliencyMix` looks at it."""
    map_sizes: Sequence[tuple[int, int] | None]
    """Height and width of the feature maps at depth 0, 1, ...; :class:`~cutmix_zoo.mixing.FeatureMix` needs them."""


def as_tuple(values: object) -> tuple[Any, ...]:
    """Return a setting that may be one value or several (a list, an array, a tensor) as a tuple of Python's values.

    Example:
        >>> as_tuple(2), as_tuple(np.arange(2)), as_tuple([0.5, 1])
        ((2,), (0, 1), (0.5, 1))
    """
    plain: Any = values.tolist() if isinstance(values, np.ndarray | np.generic | torch.Tensor) else values
    return tuple(plain) if isinstance(plain, Iterable) and not isinstance(plain, str) else (plain,)


class MixMethod(Protocol):
    """Holds settings and draws plans: a frozen dataclass whose fields are its settings."""

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Unpack[Context]
    ) -> MixPlan:
        """Draw how a batch of ``batch_size`` images of ``height`` x ``width`` pixels is mixed.

        Args:
            batch_size: number of images, at least 1; a single image is not mixed with itself.
            height: height of the images in pixels.
            width: width of the images in pixels.
            generator: a CPU generator; it moves on by one draw, whatever the settings.
            context: what else the method needs; the rest is ignored.

        Returns:
            The plan: an identity plan where nothing is mixed.

        Raises:
            ValueError: if the method needs something that the context lacks.
        """


class PairDraw(NamedTuple):
    """What a :class:`PairMethod` has drawn when it comes to its own settings."""

    batch_size: int
    height: int
    width: int
    meeting: Meeting
    gate: np.ndarray
    """(groups,) bool, which of the draws mix."""
    rng: np.random.Generator
    images: Images | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number, height and width of the images: how every plan begins."""
        return self.batch_size, self.height, self.width

    @property
    def partner(self) -> torch.Tensor:
        """(B,) int64, whom each image meets."""
        return torch.from_numpy(self.meeting.partner)

    def beta(self, alpha: float) -> np.ndarray:
        """Draw (groups,) lambdas from Beta(alpha, alpha); 1 where the gate is shut."""
        lam = self.rng.beta(alpha, alpha, size=self.meeting.groups)
        return np.where(self.gate, lam, 1.0)

    def per_image(self, values: np.ndarray) -> torch.Tensor:
        """Give each image the value of its group: (groups, ...) becomes (B, ...)."""
        return torch.from_numpy(values[self.meeting.group])

    def shared(self, values: np.ndarray) -> torch.Tensor:
        """Do the same, but leave the one value of a batch that shares it as it is: (1, ...) becomes (...)."""
        return torch.from_numpy(values[0]) if len(values) == 1 else self.per_image(values)


@dataclass(frozen=True, kw_only=True)
class PairMethod(ABC):
    """A method that mixes each image with one other.

    Args:
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate and one draw for all; ``"pair"``: the two of a pair share them;
            ``"sample"``: each image has its own.
        pairing: who meets whom (:func:`~cutmix_zoo.mixing.pairing.meet`): ``"derangement"``, nobody meets
            itself; ``"permutation"``, the official CutMix code's; ``"reverse"``, timm's. An image that stays
            alone (an odd batch with ``per="pair"`` or ``"reverse"``) stays as it is.

    Raises:
        ValueError: if a setting is out of range or unknown, or ``per="pair"`` comes with
            ``pairing="permutation"``, whose pairs are not mutual.
    """

    prob: float = 1.0
    per: Per = "batch"
    pairing: Pairing = "derangement"

    def __post_init__(self) -> None:
        require_fraction("prob", self.prob)
        check_pairing(self.per, self.pairing)

    def draw(
        self, batch_size: int, height: int, width: int, *, generator: torch.Generator, **context: Unpack[Context]
    ) -> MixPlan:
        """Draw how a batch is mixed; see :meth:`MixMethod.draw`."""
        rng = numpy_generator(generator)
        meeting = meet(batch_size, self.per, self.pairing, rng)
        gate = rng.random(meeting.groups) < self.prob
        if batch_size == 1 or not gate.any():
            return IdentityPlan(batch_size, height, width)
        return self._draw(PairDraw(batch_size, height, width, meeting, gate, rng, context.get("images")))

    @abstractmethod
    def _draw(self, pairs: PairDraw) -> MixPlan:
        """Draw the rest, for a batch of at least two images of which some are mixed."""
