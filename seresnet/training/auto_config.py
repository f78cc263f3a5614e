"""The settings that follow from the data and the machine: batch size, gradient accumulation, batch norm, the loss.

The resolved settings are written to the run's ``config.json`` and its checkpoint, so that a resumed or repeated run
takes the same, whatever machine it is on.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from seresnet.errors import ConfigError
from seresnet.models.resnet import SEResNet
from seresnet.training.config import TrainConfig

MIN_STEPS_PER_EPOCH = 16  # where the batch size is chosen automatically
MIN_BATCH_NORM_IMAGES = 4  # below, the statistics of the batch are too noisy to train with
FROZEN_CLIP_GRAD = 1.0  # of batch norm with frozen statistics, see benchmarks/2026-11-25-few-images.md
MEMORY_FRACTION = 0.7  # for activations, gradients and the optimizer
BF16_FRACTION = 0.6  # of float32's activation memory in bfloat16: some activations stay float32
WEIGHT_COPIES = 6  # weights, gradients, up to two of the optimizer's, the moving average, and a temporary one


def resolve_auto_settings(
    config: TrainConfig,
    model: SEResNet,
    images: int,
    multi_label: bool,
    accelerator: Accelerator,
    saved: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return ``config`` with every automatic setting resolved, for ``images`` training images.

    ``saved`` are the settings of a run that is resumed, whose batch size stays. Raises ConfigError for a batch size
    that is not a multiple of ranks and micro-batches, or that is larger than the data set.
    """
    world = accelerator.num_processes
    if config.auto_batch_size and saved:
        batch: dict[str, Any] = {key: saved[key] for key in ("global_batch_size", "grad_accum_steps")}
    elif config.auto_batch_size:
        size = choose_batch_size(images, config.global_batch_size)
        size = max(2, size // world) * world if world > 1 else size
        batch = {
            "global_batch_size": size,
            "grad_accum_steps": choose_grad_accum_steps(config, model, size, accelerator),
        }
    else:
        batch = {}
    config = replace(config, auto_batch_size=False, **batch)
    if config.global_batch_size % (world * config.grad_accum_steps):
        raise ConfigError(
            f"global_batch_size {config.global_batch_size} is not a multiple of "
            f"{world} ranks times grad_accum_steps {config.grad_accum_steps}; change it"
        )
    if images < config.global_batch_size:
        raise ConfigError(f"{images} training images are fewer than one batch; lower --batch-size")
    if config.freeze_bn == "auto":
        few = config.global_batch_size // world // config.grad_accum_steps < MIN_BATCH_NORM_IMAGES
        config = replace(config, freeze_bn=config.pretrained and few)
        if config.freeze_bn and config.clip_grad is None:  # nothing normalizes the activations: without, it diverged
            config = replace(config, clip_grad=FROZEN_CLIP_GRAD)
    return replace(config, loss="bce") if multi_label else config


def choose_batch_size(images: int, largest: int) -> int:
    """Return the largest power of two, from 8 to ``largest``, with `MIN_STEPS_PER_EPOCH` in an epoch of ``images``.

    With fewer images than that, all of them.
    """
    size = 8
    while 2 * size <= min(largest, images // MIN_STEPS_PER_EPOCH):
        size *= 2
    return min(size, largest, max(2, images))


def choose_grad_accum_steps(config: TrainConfig, model: SEResNet, batch: int, accelerator: Accelerator) -> int:
    """Return the smallest number of micro-batches in which a step of ``batch`` images fits into each rank's memory."""
    size = config.train_size or model.preprocess.input_size[1]
    per_image = activation_bytes(model, size) * (BF16_FRACTION if accelerator.mixed_precision == "bf16" else 1.0)
    fixed = WEIGHT_COPIES * sum(p.numel() * 4 for p in model.parameters())
    room = MEMORY_FRACTION * memory_bytes(accelerator.device) - fixed
    if accelerator.num_processes > 1:  # the rank with the least memory decides for all
        room = accelerator.gather(torch.tensor([room], device=accelerator.device)).min().item()
    own_batch = batch // accelerator.num_processes
    steps = 1
    while own_batch % (2 * steps) == 0 and own_batch // steps > max(1.0, room / per_image):
        steps *= 2
    return steps


def activation_bytes(model: SEResNet, size: int) -> int:
    """Return an upper bound of what one image of ``size`` pixels keeps for backward, in float32, without computing."""
    twin = copy.deepcopy(model).to("meta").train()
    weights = {p.untyped_storage()._cdata for p in twin.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        twin(torch.empty(2, model.in_chans, size, size, device="meta"))  # batch norm needs two images
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // 2


def memory_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU, or half the memory of this machine, which is the same for each run."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 4 * 2**30
