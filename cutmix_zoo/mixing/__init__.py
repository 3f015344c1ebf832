"""CutMix and its relatives: drawn once, applied anywhere.

A *method* holds settings and draws; a *plan* holds what was drawn and applies it::

    mix = CutMix(alpha=1.0, prob=0.5, per="sample")
    plan = mix.draw(batch_size, height, width, generator=generator)
    mixed = plan.apply(images)
    targets = plan.mix_targets(labels, num_classes)

Shapes: ``images`` (B, C, H, W), ``labels`` (B,) int64, ``targets`` (B, K) float32, ``logits`` (B, K),
``plan.sources``, ``plan.pixel_shares`` and ``plan.label_shares`` (B, M), ``plan.lam`` and ``plan.partner`` (B,),
``plan.boxes`` (B, 4), with B images, K classes and M sources of each mixed image. What the constructors of plans
call ``donor`` is whose pixels are taken: of two sources, ``plan.partner``.
"""

from cutmix_zoo.mixing.blend_plan import BlendPlan, MaskPlan
from cutmix_zoo.mixing.box_plan import BoxPlan
from cutmix_zoo.mixing.boxes import Box, clipped_boxes, inside_boxes
from cutmix_zoo.mixing.collate import MixCollate, collate_samples
from cutmix_zoo.mixing.compose import Chain, OneOf, Scheduled
from cutmix_zoo.mixing.cutmix import CutMix
from cutmix_zoo.mixing.cutout import Cutout
from cutmix_zoo.mixing.drawing import plan_for
from cutmix_zoo.mixing.erase_plan import ErasePlan
from cutmix_zoo.mixing.feature import FeatureMix, FeaturePlan, mix_features, mixes_maps_last, needs_network
from cutmix_zoo.mixing.fmix import FMix
from cutmix_zoo.mixing.gridmix import GridMix
from cutmix_zoo.mixing.joined_plans import ChoicePlan, SequencePlan, concatenate
from cutmix_zoo.mixing.maps import feature_modules, map_sizes
from cutmix_zoo.mixing.method import MixMethod
from cutmix_zoo.mixing.mixed_target import MixedTarget
from cutmix_zoo.mixing.mixup import Mixup
from cutmix_zoo.mixing.patch_plan import PatchPlan
from cutmix_zoo.mixing.plan import IdentityPlan, MixPlan
from cutmix_zoo.mixing.registry import CANONICAL, METHODS
from cutmix_zoo.mixing.resizemix import ResizeMix
from cutmix_zoo.mixing.ricap import RICAP
from cutmix_zoo.mixing.saliencymix import SaliencyMix
from cutmix_zoo.mixing.smoothmix import SmoothMix
from cutmix_zoo.mixing.targets import mixed_accuracy, two_term_loss
from cutmix_zoo.mixing.transform import MixTransform

__all__ = [
    "CANONICAL",
    "METHODS",
    "RICAP",
    "BlendPlan",
    "Box",
    "BoxPlan",
    "Chain",
    "ChoicePlan",
    "CutMix",
    "Cutout",
    "ErasePlan",
    "FMix",
    "FeatureMix",
    "FeaturePlan",
    "GridMix",
    "IdentityPlan",
    "MaskPlan",
    "MixCollate",
    "MixMethod",
    "MixPlan",
    "MixTransform",
    "MixedTarget",
    "Mixup",
    "OneOf",
    "PatchPlan",
    "ResizeMix",
    "SaliencyMix",
    "Scheduled",
    "SequencePlan",
    "SmoothMix",
    "clipped_boxes",
    "collate_samples",
    "concatenate",
    "feature_modules",
    "inside_boxes",
    "map_sizes",
    "mix_features",
    "mixed_accuracy",
    "mixes_maps_last",
    "needs_network",
    "plan_for",
    "two_term_loss",
]
