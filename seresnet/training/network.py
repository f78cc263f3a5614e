"""The network of a run: created by its settings, with the run's classes and preprocessing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from seresnet.data.augment import TrainCrop
from seresnet.data.preprocess import Preprocess
from seresnet.models.blocks import Block
from seresnet.models.resnet import SEResNet
from seresnet.training.config import TrainConfig
from seresnet.weights.create import create_model


def create_network(config: TrainConfig, classes: tuple[str, ...], multi_label: bool, offline: bool | None) -> SEResNet:
    """Return the network to train."""
    overrides: dict[str, Any] = {"drop_path_rate": config.drop_path_rate}
    if config.drop_rate is not None:
        overrides["drop_rate"] = config.drop_rate
    model = create_model(
        config.model, pretrained=config.pretrained, num_classes=len(classes), offline=offline, **overrides
    )
    model.labels, model.label_ids, model.multi_label = list(classes), [], multi_label
    model.set_grad_checkpointing(config.grad_checkpointing)
    if not config.zero_init_last and not config.pretrained:
        init_last_norms_to_one(model)
    model.preprocess = run_preprocess(config, model)
    return model


def run_preprocess(config: TrainConfig, model: SEResNet) -> Preprocess:
    """Return the evaluation transform of the run: the weight's own, changed by the settings."""
    preprocess: Preprocess = model.preprocess
    if config.size:
        preprocess = replace(preprocess, input_size=(model.in_chans, config.size, config.size))
    for key in ("mean", "std", "crop_pct"):
        if (value := getattr(config, key)) is not None:
            preprocess = replace(preprocess, **{key: value})
    return preprocess


def init_last_norms_to_one(model: SEResNet) -> None:
    """Start the last batch norm of each block at one, as the authors of SENet did; by default it starts at zero."""
    for block in model.modules():
        if isinstance(block, Block):
            nn.init.ones_(block.last_norm().weight)


def train_crop(config: TrainConfig, preprocess: Preprocess) -> TrainCrop:
    """Return what training does to an image where it is decoded."""
    if config.train_size:
        size = (preprocess.input_size[0], config.train_size, config.train_size)
        preprocess = replace(preprocess, input_size=size)
    return TrainCrop(
        config.crop,
        preprocess,
        config.crop_scale,
        rand_augment=config.rand_augment,
        pixel_noise=config.pixel_noise,
        random_interpolation=config.random_interpolation,
    )


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep the running statistics of batch norm; its weights and biases are trained like the others."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def shard_dropout(model: nn.Module, rank: int, ranks: int) -> None:
    """Let dropout and stochastic depth sample for the global batch, of which this rank has every ``ranks``-th image."""
    for module in model.modules():
        if hasattr(module, "batch_shard"):
            module.batch_shard = (rank, ranks)  # type: ignore[assignment]
