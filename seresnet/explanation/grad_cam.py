"""Grad-CAM: which places of the last feature map raise the logit of a class (arXiv 1610.02391, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from seresnet.models.resnet import SEResNet


def grad_cam(network: SEResNet, features: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Return ``(cam, logits)`` of feature maps: ``(N, C, h, w) -> (N, h, w)`` and ``(N, num_classes)``.

    - `features`: what ``network.forward_features`` returned; the network is in evaluation mode.
    - `target`: the index of the class.

    The map is the ReLU of the channels' sum, each weighted by the mean of its gradient over all places.
    """
    with torch.enable_grad():
        maps = features.detach().requires_grad_()
        logits = network.forward_head(maps)
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), maps)
    weights = gradient.mean((2, 3), keepdim=True)  # (N, C, h, w) -> (N, C, 1, 1)
    return (weights * features).sum(1).relu(), logits.detach()
