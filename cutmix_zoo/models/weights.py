"""Checks of weights that somebody else wrote, against the network that they should be of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cutmix_zoo.errors import UserError, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What weights may be stored as; they are used in float32."""


def check_weights(name: str, expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Check that weights are those of a network: every name, every shape, and only finite numbers.

    Args:
        name: what the network is called, for the error.
        expected: the network's own ``state_dict``; tensors on the meta device will do.
        weights: what was read, on the CPU.

    Raises:
        UserError: naming what does not fit.
    """
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or extra:
        raise UserError(
            f"these are not the weights of {name}: {len(missing)} are missing{_some(missing)}, and {len(extra)} do not "
            f"belong to it{_some(extra)}"
        )
    for key, weight in weights.items():
        if weight.shape != expected[key].shape:
            shapes = f"expected {tuple(expected[key].shape)}, got {tuple(weight.shape)}"
            raise UserError(f"these are not the weights of {name}: {key} has another shape: {shapes}")
        is_float = expected[key].is_floating_point()
        if (weight.dtype in _FLOATS) != is_float or weight.is_floating_point() != is_float:
            raise UserError(f"{key} of {name}: expected numbers like {expected[key].dtype}, got {weight.dtype}")
        # as they will be used: a number of float64 may be too large
        if is_float and not torch.isfinite(weight.float()).all():
            raise UserError(f"{key} of {name} holds numbers that are not finite; the file is of no use.")


def _some(names: list[str]) -> str:
    return f" ({', '.join(map(shown, names[:3]))}{', ...' if len(names) > 3 else ''})" if names else ""
