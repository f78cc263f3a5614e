"""The fused end of a block in training equals the modules that it stands for, and steps aside where it cannot."""

import copy
from dataclasses import replace

import pytest
import torch

from seresnet.models import blocks
from seresnet.models.checkpointing import checkpointed
from seresnet.models.fused_tail import can_fuse
from seresnet.models.resnet import SEResNet
from tests.networks import TINY, randomized


def network(**settings) -> SEResNet:
    """Return a small network in training, each of whose layers matters."""
    torch.manual_seed(0)
    return randomized(SEResNet(replace(TINY, **settings))).train()


def step(model: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        out = model(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).sin()
    (out.double() * weights).sum().backward()
    return out.detach()


def unfused(model: torch.nn.Module, x: torch.Tensor, monkeypatch, dtype: torch.dtype | None = None) -> torch.Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "can_fuse", lambda *modules: False)
        return step(model, x, dtype)


@pytest.mark.parametrize("settings", [{}, {"block": "bottleneck"}, {"block": "bottleneck", "squeeze_divisor": 1}])
def test_outputs_gradients_and_statistics_are_the_same(settings, monkeypatch):
    fused = network(**settings).double()
    plain, x = copy.deepcopy(fused), torch.randn(3, 3, 10, 8, dtype=torch.float64)
    torch.testing.assert_close(step(fused, x), unfused(plain, x, monkeypatch), rtol=1e-10, atol=1e-10)
    for (name, p), q in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() <= 1e-9 * q.grad.abs().max(), name
    for (name, p), q in zip(fused.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(p, q[1], rtol=1e-10, atol=1e-12, msg=name)


def test_under_autocast_it_is_as_near_to_float64_as_the_modules_are(monkeypatch):
    """On average over networks: that of one network is a matter of how its values happen to round."""
    distances = {"fused": 0.0, "plain": 0.0}
    for seed in range(8):
        fused = randomized(network(block="bottleneck"), seed)
        plain, exact = copy.deepcopy(fused), copy.deepcopy(fused).double()
        x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        step(exact, x.double())
        step(fused, x, torch.bfloat16)
        unfused(plain, x, monkeypatch, torch.bfloat16)
        assert all(p.grad.dtype == torch.float32 for p in fused.parameters())
        for name, model in (("fused", fused), ("plain", plain)):
            for p, q in zip(model.parameters(), exact.parameters(), strict=True):
                distances[name] += float((p.grad - q.grad).norm() / q.grad.norm())
    assert distances["fused"] < 1.15 * distances["plain"]


def test_gradients_of_one_block_by_differences():
    block = network().layer1[0].double()
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    assert can_fuse(block.bn2, block.se, x)
    assert torch.autograd.gradcheck(block, (x,), eps=1e-6, atol=1e-5)


def test_zero_scale_as_at_the_start_of_training_passes_a_gradient_to_it():
    block = SEResNet(TINY).layer1[0].train()
    assert (block.bn2.weight == 0).all()
    block(torch.randn(4, 8, 5, 5)).square().sum().backward()
    assert block.bn2.weight.grad.abs().min() > 0


def test_it_steps_aside_for_modules_that_are_not_plain():
    block = SEResNet(TINY).layer1[0].train()
    x = torch.randn(2, 8, 5, 5)
    assert can_fuse(block.bn2, block.se, x)
    seen = []
    handle = block.se.fc1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert not can_fuse(block.bn2, block.se, x)
    block(x)
    assert len(seen) == 1
    handle.remove()
    with torch.no_grad():
        assert not can_fuse(block.bn2, block.se, x)
    block.bn2.eval()
    assert not can_fuse(block.bn2, block.se, x)
    assert not can_fuse(block.bn2, torch.nn.Identity(), x)
    assert not can_fuse(torch.nn.SyncBatchNorm(8), block.se, x)


def test_recomputing_moves_the_statistics_once():
    block = SEResNet(TINY).layer1[0].train()
    x = torch.randn(4, 8, 8, 8, requires_grad=True)
    twin = copy.deepcopy(block)
    checkpointed(block, x).square().sum().backward()
    twin(x).square().sum().backward()
    assert int(block.bn2.num_batches_tracked) == 1
    for a, b in zip(block.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)
