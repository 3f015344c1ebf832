"""Networks that timm lacks; importing this package registers them with ``timm.create_model``."""

from cutmix_zoo.models.cifar_pyramidnet import CifarPyramidNet
from cutmix_zoo.models.cifar_resnet import CifarResNet, CifarResNet18
from cutmix_zoo.models.cifar_resnext import CifarResNeXt
from cutmix_zoo.models.cifar_wideresnet import CifarWideResNet
from cutmix_zoo.models.export import export_model
from cutmix_zoo.models.pyramidnet import PyramidNet
from cutmix_zoo.models.resnet_stride16 import ResNetStride16
from cutmix_zoo.models.tags import refresh_tags

refresh_tags()

__all__ = [
    "CifarPyramidNet",
    "CifarResNeXt",
    "CifarResNet",
    "CifarResNet18",
    "CifarWideResNet",
    "PyramidNet",
    "ResNetStride16",
    "export_model",
    "refresh_tags",
]
