"""The mixing methods: the names under which recipes know them, and a setting of each that shows what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutmix_zoo.mixing.compose import Chain, OneOf, Scheduled
from cutmix_zoo.mixing.cutmix import CutMix
from cutmix_zoo.mixing.cutout import Cutout
from cutmix_zoo.mixing.mixup import Mixup

if TYPE_CHECKING:
    from cutmix_zoo.mixing.method import MixMethod

CANONICAL: dict[str, MixMethod] = {
    "cutmix": CutMix(per="sample"),
    "mixup": Mixup(per="sample"),
    "cutout": Cutout(size=16, fill=(127.0,)),
    "one_of": OneOf([Mixup(0.2), CutMix()], per="sample"),
    "chain": Chain([Cutout(size=16, fill=(127.0,)), Mixup(per="sample")]),
    "scheduled": Scheduled(CutMix(per="sample"), start=0.0, end=1.0),
}
"""A setting of each method by its name: what the laws of the tests and the gallery run over."""

METHODS: dict[str, type[MixMethod]] = {name: type(mix) for name, mix in CANONICAL.items()}
"""The methods by the name a recipe gives: ``{name: cutmix, alpha: 1.0}``."""
