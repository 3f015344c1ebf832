"""CutMix for timm: importing this package registers its models with timm.

>>> import timm, cutmix_zoo
>>> model = timm.create_model("cifar_resnet20", num_classes=100)
>>> collate = cutmix_zoo.MixCollate(cutmix_zoo.CutMix(alpha=1.0), num_classes=100)
"""

import cutmix_zoo.models  # noqa: F401  registers the models
from cutmix_zoo.mixing import (
    CutMix,
    MixCollate,
    MixedTarget,
    MixPlan,
    MixTransform,
    Mixup,
    mixed_accuracy,
    two_term_loss,
)

__version__ = "0.1.0"

__all__ = [
    "CutMix",
    "MixCollate",
    "MixPlan",
    "MixTransform",
    "MixedTarget",
    "Mixup",
    "mixed_accuracy",
    "two_term_loss",
]
