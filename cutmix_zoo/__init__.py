"""CutMix for timm: importing this package registers its models with timm."""

__version__ = "0.1.0"
