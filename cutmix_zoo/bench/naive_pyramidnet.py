"""PyramidNet for CIFAR as one writes it down at first: what ours is measured against.

Its shortcut concatenates zeros that every step allocates anew. Nothing else is slow on purpose. Parameters are called
as in :class:`~cutmix_zoo.models.cifar_pyramidnet.CifarPyramidNet`, so that one takes the other's state dict.
"""

from __future__ import annotations

import torch
from torch import nn

from cutmix_zoo.models.cifar_pyramidnet import pyramid_widths


class NaiveBottleneck(nn.Module):
    """BN, 1x1, BN, ReLU, 3x3 (with the stride), BN, ReLU, 1x1, BN, and a shortcut filled up with zeros."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        mid_chs = out_chs // 4
        self.bn1 = nn.BatchNorm2d(in_chs)
        self.conv1 = nn.Conv2d(in_chs, mid_chs, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid_chs)
        self.conv2 = nn.Conv2d(mid_chs, mid_chs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(mid_chs)
        self.conv3 = nn.Conv2d(mid_chs, out_chs, kernel_size=1, bias=False)
        self.bn4 = nn.BatchNorm2d(out_chs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.AvgPool2d(2, stride=2, ceil_mode=True) if stride == 2 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B, out_chs, h, w) that follow maps (B, in_chs, H, W)."""
        out = self.bn1(x)
        out = self.conv1(out)
        out = self.bn2(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn3(out)
        out = self.relu(out)
        out = self.conv3(out)
        out = self.bn4(out)

        shortcut = x if self.downsample is None else self.downsample(x)
        batch_size, channels, height, width = out.shape
        missing = channels - shortcut.shape[1]
        if missing:
            zeros = torch.zeros(batch_size, missing, height, width, dtype=shortcut.dtype, device=shortcut.device)
            shortcut = torch.cat((shortcut, zeros), dim=1)
        out += shortcut
        return out


class NaivePyramidNet(nn.Module):
    """PyramidNet-110, alpha 64, for ten classes: three stages of bottlenecks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        in_chs = 16
        stages: list[nn.Sequential] = []
        for inner in pyramid_widths(16, 64, [12] * 3):
            blocks: list[nn.Module] = []
            for width in inner:
                # the first block of every stage but the first halves the resolution
                blocks.append(NaiveBottleneck(in_chs, 4 * width, stride=1 if blocks or not stages else 2))
                in_chs = 4 * width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.bn_final = nn.BatchNorm2d(in_chs)
        self.relu_final = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_chs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits (B, 10) of images (B, 3, H, W)."""
        x = self.bn1(self.conv1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.avgpool(self.relu_final(self.bn_final(x)))
        return self.fc(x.flatten(1))
