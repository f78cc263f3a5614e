"""The optimizer's parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from seresnet.models.resnet import SEResNet
from seresnet.training.config import TrainConfig
from seresnet.training.lamb import Lamb


def create_optimizer(model: SEResNet, config: TrainConfig) -> torch.optim.Optimizer:
    """Return SGD with momentum, or LAMB, over the groups of `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "lamb":
        clipped = config.clip_grad is not None  # by the trainer, at a norm of the user's choice
        return Lamb(groups, lr=config.peak_lr, max_grad_norm=None if clipped else 1.0)
    return torch.optim.SGD(
        groups, lr=config.peak_lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0
    )


def parameter_groups(model: SEResNet, config: TrainConfig) -> list[dict[str, Any]]:
    """Sort the parameters by weight decay and learning rate.

    Weight decay spares norms and biases ("no bias decay", arXiv 1812.01187, section 3.1) unless ``decay_norms``.
    Each group's ``lr_scale`` is its learning rate over the schedule's: ``layer_decay`` to the power of its distance
    from the classifier, and the classifier's own ``head_lr_scale``.
    """
    depths = layer_depths(model)
    head = max(depths.values())
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = config.decay_norms or parameter.ndim > 1
        is_head = name.startswith("fc.")
        scale = config.head_lr_scale if is_head else config.layer_decay ** (head - depths[name])
        groups.setdefault((decays, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": config.weight_decay if decays else 0.0, "lr_scale": scale}
        for (decays, scale), parameters in groups.items()
    ]


def layer_depths(model: SEResNet) -> dict[str, int]:
    """Return the depth of each parameter by name: 0 for the stem, then the stages, and last the classifier."""
    patterns = model.group_matcher(coarse=True)
    stages = {}
    for name, _ in model.named_parameters():
        if re.match(patterns["stem"], name):
            stages[name] = 0
        elif found := re.match(patterns["blocks"], name):
            stages[name] = int(found[1])
    last = max(stages.values()) + 1
    return {name: stages.get(name, last) for name, _ in model.named_parameters()}


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the rate of optimizer step ``step`` (from 0): a linear warm-up, then cosine to 0, or steps down."""
    peak = config.peak_lr
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if config.schedule == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in config.step_epochs)
        return peak * config.step_gamma**passed
    progress = (step - warmup) / max(1.0, config.epochs * steps_per_epoch - warmup)
    return peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to ``rate`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
