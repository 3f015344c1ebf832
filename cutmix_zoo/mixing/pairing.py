"""Who meets whom in a batch, and who shares a draw with whom."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from cutmix_zoo.checks import require_choice

Per = Literal["batch", "pair", "sample"]
"""How many draws a batch gets: one, one for each pair of images, or one for each image."""

Pairing = Literal["derangement", "permutation", "reverse"]
"""How partners are found; see :func:`meet`."""


class Meeting(NamedTuple):
    """Who meets whom: what :func:`meet` returns."""

    partner: np.ndarray
    """(B,) int64, whom each image meets."""
    group: np.ndarray
    """(B,) int64 in ``[0, groups)``, which draw each image uses."""
    groups: int
    """Number of draws."""


def check_pairing(per: Per, pairing: Pairing) -> None:
    """Raise ValueError when a word is unknown or the two do not go together.

    ``per="pair"`` needs pairs that are mutual, which a permutation does not give.
    """
    require_choice("per", per, get_args(Per))
    require_choice("pairing", pairing, get_args(Pairing))
    if per == "pair" and pairing == "permutation":
        raise ValueError(
            "per='pair' needs mutual pairs, which pairing='permutation' does not give: "
            "use pairing='derangement' or pairing='reverse'"
        )


def meet(batch_size: int, per: Per, pairing: Pairing, rng: np.random.Generator) -> Meeting:
    """Draw who meets whom.

    - ``"derangement"``: nobody meets itself. The partners form one cycle through the whole batch,
      drawn uniformly from the ``(batch_size - 1)!`` there are; each image meets each other one with
      equal probability. With ``per="pair"`` the batch falls into random couples instead, and in an odd
      batch a random image stays alone.
    - ``"permutation"``: the official code's; drawn uniformly from all permutations, so an image
      meets itself with probability ``1 / batch_size``.
    - ``"reverse"``: timm's; image i meets image ``batch_size - 1 - i``, so in an odd batch the middle
      one stays alone.

    An image that stays alone meets itself: whatever is pasted into it, it stays as it is.

    Args:
        batch_size: number of images, at least 1.
        per: who shares a draw: the whole batch, the two of a pair, or nobody.
        pairing: how partners are found.
        rng: source of randomness.

    Returns:
        The partners and the groups that share a draw.
    """
    index = np.arange(batch_size)
    if pairing == "reverse":
        order, partner = index, index[::-1].copy()
    elif pairing == "permutation":
        order = partner = rng.permutation(batch_size)
    else:
        order = rng.permutation(batch_size)
        following = np.minimum(index ^ 1, batch_size - 1) if per == "pair" else np.append(index[1:], 0)
        partner = np.empty_like(order)
        partner[order] = order[following]
    if per == "batch":
        return Meeting(partner, np.zeros_like(index), 1)
    if per == "sample":
        return Meeting(partner, index, batch_size)
    group = np.minimum(index, partner) if pairing == "reverse" else np.empty_like(index)
    if pairing == "derangement":
        group[order] = index // 2
    return Meeting(partner, group, (batch_size + 1) // 2)


def numpy_generator(generator: torch.Generator) -> np.random.Generator:
    """Seed a NumPy generator with one integer from a torch generator.

    torch draws Beta numbers from its global generator alone; NumPy's take a generator and are exact
    for small alpha. The torch generator moves on by one draw, whatever is drawn from the result.

    Args:
        generator: a CPU generator.

    Raises:
        TypeError: if it is something else, such as None, which would mean the global generator.

    Example:
        >>> rng = numpy_generator(torch.Generator().manual_seed(0))
        >>> rng.beta(0.01, 0.01, size=5).shape
        (5,)
    """
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise TypeError(f"generator must be a torch.Generator on the CPU, got {generator!r}")
    return np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator)))


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """Seed a torch generator with one integer from a NumPy generator, for a method within a method."""
    return torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
