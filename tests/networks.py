"""Small real networks for tests, with statistics as a trained network has them."""

from __future__ import annotations

import torch
from torch import nn

from seresnet.data.preprocess import Preprocess
from seresnet.models.config import SEResNetConfig
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build

TINY = SEResNetConfig(
    layers=(1, 1), channels=(8, 16), block="basic", stem="conv3", stem_width=8, stem_pool="none", num_classes=3
)
ANIMALS = ["cat", "dog", "émeu"]


def randomized(model: SEResNet, seed: int = 0) -> SEResNet:
    """Draw batch norm weights, biases and statistics, so that each layer matters and images get different classes."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
        elif isinstance(module, nn.Linear):
            module.weight.data.normal_(0, 0.5, generator=generator)
    return model


def tiny(size: int = 8) -> SEResNet:
    """Return a network of three classes for images of 8 x 8."""
    torch.manual_seed(0)
    model = randomized(SEResNet(TINY)).eval()
    model.labels, model.preprocess = list(ANIMALS), Preprocess((3, size, size), crop_pct=1.0)
    return model


def seresnet20() -> SEResNet:
    """Return the bundled architecture with random weights and ten classes."""
    torch.manual_seed(0)
    model = randomized(build("seresnet20")).eval()
    model.labels, model.preprocess = [f"kind {i}" for i in range(10)], Preprocess((3, 32, 32), crop_pct=1.0)
    return model
