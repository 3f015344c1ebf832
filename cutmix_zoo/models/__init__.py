"""Networks that timm lacks; importing this package registers them with ``timm.create_model``."""

from cutmix_zoo.models.cifar_pyramidnet import CifarPyramidNet
from cutmix_zoo.models.cifar_resnet import CifarResNet, CifarResNet18
from cutmix_zoo.models.cifar_resnext import CifarResNeXt
from cutmix_zoo.models.cifar_wideresnet import CifarWideResNet
from cutmix_zoo.models.export import export_model
from cutmix_zoo.models.pyramidnet import PyramidNet
from cutmix_zoo.models.tags import add_tags
from cutmix_zoo.zoo import zoo_table

add_tags(zoo_table().values())

__all__ = [
    "CifarPyramidNet",
    "CifarResNeXt",
    "CifarResNet",
    "CifarResNet18",
    "CifarWideResNet",
    "PyramidNet",
    "export_model",
]
