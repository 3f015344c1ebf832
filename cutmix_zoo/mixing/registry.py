"""The mixing methods: the names under which recipes know them, and a setting of each that shows what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutmix_zoo.mixing.compose import Chain, OneOf, Scheduled
from cutmix_zoo.mixing.cutmix import CutMix
from cutmix_zoo.mixing.cutout import Cutout
from cutmix_zoo.mixing.feature import FeatureMix
from cutmix_zoo.mixing.fmix import FMix
from cutmix_zoo.mixing.gridmix import GridMix
from cutmix_zoo.mixing.mixup import Mixup
from cutmix_zoo.mixing.resizemix import ResizeMix
from cutmix_zoo.mixing.ricap import RICAP
from cutmix_zoo.mixing.saliencymix import SaliencyMix
from cutmix_zoo.mixing.smoothmix import SmoothMix

if TYPE_CHECKING:
    from cutmix_zoo.mixing.method import MixMethod

CANONICAL: dict[str, MixMethod] = {
    "cutmix": CutMix(per="sample"),
    "mixup": Mixup(per="sample"),
    "cutout": Cutout(size=16, fill=(127.0,)),
    "resizemix": ResizeMix(per="sample"),
    "fmix": FMix(per="sample"),
    "gridmix": GridMix(per="sample"),
    "smoothmix": SmoothMix(per="sample"),
    "saliencymix": SaliencyMix(per="sample"),
    "ricap": RICAP(beta=1.0, per="sample"),
    "one_of": OneOf([Mixup(per="sample"), CutMix(per="sample")], per="sample"),
    "chain": Chain([Cutout(size=16, fill=(127.0,)), Mixup(per="sample")]),
    "scheduled": Scheduled(CutMix(per="sample"), start=0.0, end=1.0),
    "feature_mix": FeatureMix(CutMix(per="sample"), depths=(0,)),
}
"""A setting of each method by its name: what the laws of the tests and the gallery run over."""

METHODS: dict[str, type[MixMethod]] = {name: type(mix) for name, mix in CANONICAL.items()}
"""The methods by the name a recipe gives: ``{name: cutmix, alpha: 1.0}``."""
