"""GridMix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutmix_zoo.checks import require_count, require_positive
from cutmix_zoo.mixing.blend_plan import MaskPlan
from cutmix_zoo.mixing.method import PairDraw, PairMethod


@dataclass(frozen=True)
class GridMix(PairMethod):
    """Take each cell of a grid from one image or the other, and mix the labels by area.

    Of ``cells * cells`` cells, ``round((1 - lambda) * cells * cells)`` are the partner's, lambda from Beta(alpha,
    alpha), and which is uniform. Where the size cannot be divided by ``cells``, cells differ by a pixel; labels count
    the pixels. Of an image with fewer pixels than cells, some cells are empty.

    Args:
        cells: number of cells along the height and along the width, at least 1.
        alpha: above 0; 1 is a uniform lambda.
        prob: probability of mixing, in [0, 1].
        per: ``"batch"``: one gate, lambda and choice of cells for all; ``"pair"``: the two of a pair share them and
            exchange cells; ``"sample"``: each image has its own.
        pairing: who meets whom; see :class:`~cutmix_zoo.mixing.method.PairMethod`.

    Raises:
        ValueError: if a setting is out of range or unknown.

    **Source**: Baek, Bang and Shim, GridMix: Strong regularization through local context mapping (Pattern Recognition,
    2021): its mixing by a grid. Its other half is left out: there the network also predicts a label for each patch of
    the image, which needs a head and a loss of its own; ``plan.mask`` says whose the patches are. The defaults of
    ``cells`` and ``alpha`` are ours, and were not compared with the paper's experiments. The ``gridmix`` of openmixup
    is something else: a lattice of equal holes, whose size, not number, follows lambda.

    Example:
        >>> import torch
        >>> plan = GridMix(cells=2).draw(2, 4, 4, generator=torch.Generator().manual_seed(1))
        >>> plan.mask.int(), plan.lam
        (tensor([[1, 1, 1, 1],
                [1, 1, 1, 1],
                [1, 1, 0, 0],
                [1, 1, 0, 0]], dtype=torch.int32), tensor([0.7500, 0.7500]))
    """

    cells: int = 4
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("cells", self.cells)
        require_positive("alpha", self.alpha)

    def _draw(self, pairs: PairDraw) -> MaskPlan:
        total = self.cells**2
        pasted = np.rint((1.0 - pairs.beta(self.alpha)) * total)
        # the place of each cell in a random order of all
        place = pairs.rng.random((pairs.meeting.groups, total)).argsort(axis=1)
        keep = (place >= pasted[:, None]).reshape(-1, self.cells, self.cells)
        row, column = (np.arange(size) * self.cells // size for size in (pairs.height, pairs.width))
        mask = keep[:, row[:, None], column]
        return MaskPlan(*pairs.shape, donor=pairs.partner, mask=pairs.shared(mask))
