"""The settings that follow from the data and the machine: batch size, micro-batches, batch norm, the loss.

What is settled is written to the run's ``config.json`` and its checkpoint, so that a resumed or repeated run takes the
same, whatever machine it is on.
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

STEPS = 16  # an epoch has at least as many, where its batch size is chosen
FEW_IMAGES = 16  # in a batch: its statistics are too rough below (arXiv 1803.08494, figure 1)
SHARE_OF_MEMORY = 0.7  # for activations, gradients and the optimizer
HALF = 0.6  # of float32's memory goes to activations in bfloat16: some of them stay float32
COPIES = 6  # of the weights: themselves, gradients, up to two of the optimizer's, the average, and one in passing


def settle(
    config: TrainConfig,
    model: SEResNet,
    images: int,
    multi_label: bool,
    accelerator: Accelerator,
    saved: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return ``config`` with every automatic setting decided, for ``images`` training images.

    ``saved`` are the settings of the run that goes on, whose batch size stays. Raises ConfigError for a batch size
    that the processes and micro-batches do not divide, or that is larger than the data set.
    """
    world = accelerator.num_processes
    if config.auto_batch_size and saved:
        batch: dict[str, Any] = {key: saved[key] for key in ("global_batch_size", "accumulate")}
    elif config.auto_batch_size:
        size = suiting_batch_size(images, config.global_batch_size)
        size = max(2, size // world) * world if world > 1 else size
        batch = {"global_batch_size": size, "accumulate": fitting_accumulation(config, model, size, accelerator)}
    else:
        batch = {}
    config = replace(config, auto_batch_size=False, **batch)
    if config.global_batch_size % (world * config.accumulate):
        raise ConfigError(
            f"global_batch_size {config.global_batch_size} is no multiple of processes times accumulate; change it"
        )
    if images < config.global_batch_size:
        raise ConfigError(f"{images} training images are fewer than one batch; lower --batch-size")
    if config.freeze_bn == "auto":
        few = config.global_batch_size // world // config.accumulate < FEW_IMAGES
        config = replace(config, freeze_bn=config.pretrained and few)
    return replace(config, loss="bce") if multi_label else config


def suiting_batch_size(images: int, largest: int) -> int:
    """Return the largest power of two, from 8 to ``largest``, that leaves ``STEPS`` steps to an epoch of ``images``.

    Of fewer images than that, all of them.
    """
    size = 8
    while 2 * size <= min(largest, images // STEPS):
        size *= 2
    return min(size, largest, max(2, images))


def fitting_accumulation(config: TrainConfig, model: SEResNet, batch: int, accelerator: Accelerator) -> int:
    """Return in how few micro-batches a step of ``batch`` images fits into the memory of each process."""
    size = config.train_size or model.preprocess.input_size[1]
    each = activation_bytes(model, size) * (HALF if accelerator.mixed_precision == "bf16" else 1.0)
    fixed = COPIES * sum(p.numel() * 4 for p in model.parameters())
    room = SHARE_OF_MEMORY * memory_bytes(accelerator.device) - fixed
    if accelerator.num_processes > 1:  # the process with the least decides for all
        room = accelerator.gather(torch.tensor([room], device=accelerator.device)).min().item()
    share = batch // accelerator.num_processes
    accumulate = 1
    while share % (2 * accumulate) == 0 and share // accumulate > max(1.0, room / each):
        accumulate *= 2
    return accumulate


def activation_bytes(model: SEResNet, size: int) -> int:
    """Return what one image of ``size`` pixels leaves for the backward pass at most, in float32, without computing."""
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
    """Return the free memory of a GPU, or half the memory of this machine: there, the same for each run."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 4 * 2**30
