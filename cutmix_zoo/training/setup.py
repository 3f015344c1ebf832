"""From a recipe to the objects of a run: data, network, optimizer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from cutmix_zoo.data.datasets import class_names
from cutmix_zoo.errors import UserError
from cutmix_zoo.keys import Stream, isolated_rng
from cutmix_zoo.training.settings import Recipe
