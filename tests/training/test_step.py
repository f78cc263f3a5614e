"""A training step makes every tensor on the device of its run.

No GPU is at hand: the device is meta, and `OneDevice` fails where a tensor was left on the CPU.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seresnet.data.augment import TrainCrop
from seresnet.data.loader import Batch, Loader
from seresnet.data.preprocess import Preprocess
from seresnet.models.variants import build
from seresnet.recipes import recipe
from seresnet.training.losses import ImageLoss
from seresnet.training.signals import StopSignal
from seresnet.training.step import TrainStep
from seresnet.training.validation import ValidationMetrics
from tests.models.one_device import META, OneDevice


class MetaAccelerator:
    """What accelerate does in one process, for a device that it does not know."""

    device, num_processes, process_index = META, 1, 0

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    def no_sync(self, model: nn.Module) -> Any:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, most: float) -> None:
        nn.utils.clip_grad_norm_(parameters, most)

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        assert tensor.device == META and how == "sum"
        return torch.ones(tensor.shape, dtype=tensor.dtype)  # a meta tensor has no values to read


SETTINGS: dict[str, dict[str, Any]] = {
    "everything random": {
        **{"mixup": 0.2, "cutmix": 1.0, "random_erasing_prob": 0.5, "rotation": 15, "pad": 2, "hflip": 0.5},
        **{"drop_rate": 0.2, "drop_path_rate": 0.1, "label_smoothing": 0.1, "ema_decay": 0.9, "clip_grad": 1.0},
    },
    "binary cross-entropy": {"loss": "bce", "bce_threshold": 0.2, "optimizer": "lamb", "ema_decay": 0.99},
    "several labels": {"loss": "bce", "grad_accum_steps": 2},
    "checkpointing": {"grad_checkpointing": True, "layer_decay": 0.75},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_tensor_is_left_on_another_device(settings: dict[str, Any]) -> None:
    arch = "seresnext26t_32x4d" if "mixup" in settings else "legacy_seresnet18"
    several = settings is SETTINGS["several labels"]
    config = recipe("debug").updated({"size": 32, "global_batch_size": 4, "precision": "float32", **settings})
    rates = {"drop_rate": config.drop_rate or 0.0, "drop_path_rate": config.drop_path_rate}
    model = build(arch, num_classes=5, layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), **rates)
    model.set_grad_checkpointing(config.grad_checkpointing)
    micro = 4 // config.grad_accum_steps
    loader = Loader([], TrainCrop("center", Preprocess((3, 32, 32))), micro, 0)
    loss = ImageLoss(config, several, torch.ones(5)).to(META)
    step = TrainStep(config, model, loader, MetaAccelerator(), loss)  # type: ignore[arg-type]
    step.steps_per_epoch = 2
    pixels = np.zeros((micro, 32, 32, 3), np.uint8)
    targets = np.eye(5, dtype=np.float32)[:micro] if several else np.arange(micro)
    batch = Batch(pixels, targets, [Path("x")] * micro, np.arange(micro))
    before = {name: (p.device, p.dtype) for name, p in model.named_parameters()}
    with OneDevice() as mode:
        for number in range(2):
            totals, own = step.run([batch] * config.grad_accum_steps, number, StopSignal(second_exits=True))
            assert totals.is_finite and own.device == META
    assert mode.seen > 300 and {name: (p.device, p.dtype) for name, p in model.named_parameters()} == before
    states = [t for state in step.optimizer.state.values() for t in state.values() if isinstance(t, Tensor) and t.dim()]
    assert states and {t.device for t in states} == {META}
    assert {t.device for t in step.ema_model().state_dict().values()} == {META}

    metrics = ValidationMetrics(ImageLoss(config, False), META)
    with OneDevice(), torch.no_grad():
        logits = step.ema_model().eval()(step.augment(torch.from_numpy(pixels).to(META)))
        metrics.update(logits.float(), step.targets(batch))
        assert set(metrics.compute(MetaAccelerator())) == {"val_loss", "val_top1", "val_top5"}  # type: ignore[arg-type]


def test_the_mode_notices_a_tensor_on_another_device() -> None:
    """Torch itself lets a convolution on the meta device have weights on the CPU."""
    for make in (
        lambda x: nn.Conv2d(3, 4, 1)(x),
        lambda x: x.flatten(1) @ torch.ones(12, 2),
        lambda x: x + torch.ones(2),
    ):
        with OneDevice(), pytest.raises((AssertionError, RuntimeError), match=r"meta"):
            make(torch.ones(1, 3, 2, 2, device=META))
