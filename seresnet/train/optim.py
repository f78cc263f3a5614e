"""The optimizer's parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from seresnet.models.resnet import SEResNet
from seresnet.train.config import TrainConfig


def sgd(model: SEResNet, config: TrainConfig) -> torch.optim.SGD:
    """Return SGD with momentum whose weight decay spares norms and biases (arXiv 1807.11205, section 3.1).

    Each group has an ``lr_scale``: the classifier's is ``head_lr_scale``, the others' 1.
    """
    exempt = model.no_weight_decay()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name not in exempt
        groups.setdefault((decays, name.startswith("fc.")), []).append(parameter)
    return torch.optim.SGD(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if decays else 0.0,
                "lr_scale": config.head_lr_scale if head else 1.0,
            }
            for (decays, head), parameters in groups.items()
        ],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
    )


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the rate of optimizer step ``step`` (from 0): a linear warm-up, then cosine to 0, or steps down."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
        return config.lr * config.step_gamma**passed
    progress = (step - warmup) / max(1.0, config.epochs * steps_per_epoch - warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to ``rate`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
