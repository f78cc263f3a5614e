"""Automatic settings: batch sizes by the data, micro-batches by the memory, batch norm by the batch."""

import pytest
import torch
from accelerate import Accelerator

from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError
from seresnet.models.variants import build
from seresnet.training import auto_config as module
from seresnet.training.auto_config import activation_bytes, choose_batch_size, resolve_auto_settings
from seresnet.training.config import TrainConfig
from seresnet.training.device import create_accelerator

AUTO = TrainConfig(auto_batch_size=True, global_batch_size=64, freeze_bn="auto", pretrained=True, precision="float32")


def network(name: str = "seresnet20", size: int = 32):
    model = build(name)
    model.preprocess = Preprocess((3, size, size))
    return model


def resolved(config, images, saved=None, multi_label=False, model=None):
    return resolve_auto_settings(
        config, model or network(), images, multi_label, create_accelerator(config, "cpu"), saved
    )


@pytest.mark.parametrize(
    ("images", "size"), [(3, 3), (20, 8), (255, 8), (256, 16), (511, 16), (600, 32), (1024, 64), (10**6, 64)]
)
def test_an_epoch_has_sixteen_steps_where_the_data_has_them(images, size):
    assert choose_batch_size(images, 64) == size
    config = resolved(AUTO, images)
    assert config.global_batch_size == size
    assert not config.auto_batch_size
    assert config.freeze_bn == (size < 4)
    assert config.clip_grad == (1.0 if size < 4 else None)


def test_the_learning_rate_follows_the_batch():
    config = resolved(AUTO.updated({"lr": 0.02, "lr_reference_batch": 32}), 256)
    assert (config.global_batch_size, config.peak_lr) == (16, pytest.approx(0.01))


def test_batch_norm_of_a_network_from_scratch_is_never_frozen():
    assert resolved(AUTO.updated({"pretrained": False}), 20).freeze_bn is False
    assert resolved(AUTO.updated({"freeze_bn": True}), 10**6).freeze_bn is True


def test_a_batch_that_memory_does_not_hold_goes_in_parts(monkeypatch):
    model = network()
    fixed = 6 * 4 * sum(p.numel() for p in model.parameters())
    each = activation_bytes(model, 32)
    for images, steps in ((64, 1), (63, 2), (20, 4), (1, 64), (0, 64)):
        monkeypatch.setattr(module, "memory_bytes", lambda device, n=images: (fixed + each * n + 1) / 0.7)
        config = resolved(AUTO, 10**6, model=model)
        assert (config.global_batch_size, config.grad_accum_steps) == (64, steps)
    monkeypatch.setattr(module, "memory_bytes", lambda device: (fixed + each * 30 + 1) / 0.7)
    assert (
        resolved(AUTO.updated({"train_size": 64}), 10**6, model=model).grad_accum_steps == 16
    )  # four times the pixels
    assert resolved(AUTO, 10**6, model=model).freeze_bn is False  # 32 images each


def test_a_resumed_run_keeps_its_batches():
    saved = {"global_batch_size": 24, "grad_accum_steps": 3}
    config = resolved(AUTO, 10**6, saved)
    assert (config.global_batch_size, config.grad_accum_steps) == (24, 3)
    fixed = AUTO.updated({"auto_batch_size": False, "global_batch_size": 10})
    assert resolved(fixed, 10**6, saved).global_batch_size == 10


def test_several_labels_take_binary_cross_entropy():
    assert resolved(AUTO, 100, multi_label=True).loss == "bce"
    assert resolved(AUTO, 100).loss == "cross_entropy"


def test_a_data_set_smaller_than_a_batch_is_refused():
    with pytest.raises(ConfigError, match="63 training images are fewer than one batch; lower --batch-size"):
        resolved(TrainConfig(global_batch_size=64), 63)
    assert resolved(TrainConfig(global_batch_size=64), 64).global_batch_size == 64


def test_a_batch_that_does_not_divide_is_refused():
    class Three(Accelerator):
        num_processes = 3

    with pytest.raises(ConfigError, match="not a multiple of 3 ranks"):
        resolve_auto_settings(TrainConfig(global_batch_size=8), network(), 100, False, Three(cpu=True))


@pytest.mark.parametrize(("name", "size"), [("seresnet20", 32), ("legacy_seresnet50", 64)])
def test_the_memory_of_an_image_is_what_torch_keeps_for_it(name, size):
    model, kept = network(name, size).train(), {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.randn(2, 3, size, size))
    real = sum(t.untyped_storage().nbytes() for t in kept.values()) / 2
    assert real <= activation_bytes(model, size) <= 1.3 * real  # a fused block, on CPUs, keeps less than is foreseen
