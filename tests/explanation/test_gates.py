"""Recorded gates against what the blocks do; the reference against the mean squeeze of images."""

import pytest
import torch
from torch import nn

from seresnet.explanation.gates import gated_blocks, record, reference_gates
from seresnet.models.variants import build
from tests.networks import randomized, seresnet20, tiny


@pytest.mark.parametrize("make", [tiny, seresnet20, lambda: randomized(build("legacy_seresnet18")).eval()])
def test_a_gate_is_the_ratio_of_what_leaves_and_enters_an_excitation(make):
    network, x = make(), torch.randn(2, 3, 64, 64)
    seen, hooks = {}, []
    for name, (_, se) in gated_blocks(network).items():
        hook = lambda module, given, out, name=name: seen.update({name: (given[0].sum((2, 3)), out.sum((2, 3)))})  # noqa: E731
        hooks.append(se.register_forward_hook(hook))
    with torch.no_grad(), record(network, inputs=True) as recorded:
        network(x)
    assert (
        list(recorded.gates)
        == list(seen)
        == [n.removesuffix(".se") for n, _ in network.named_modules() if n[-3:] == ".se"]
    )
    for name, (entered, left) in seen.items():
        assert recorded.gates[name].shape == entered.shape
        torch.testing.assert_close(recorded.gates[name] * entered, left, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(recorded.inputs[name].sum((2, 3)), entered)


def test_a_gate_equals_a_hooks_of_the_layer_in_front_of_the_sigmoid():
    network, x = seresnet20(), torch.randn(3, 3, 32, 32)
    before = {}
    for name, (_, se) in gated_blocks(network).items():
        se.fc2.register_forward_hook(lambda module, given, out, name=name: before.update({name: out[:, :, 0, 0]}))
    with torch.no_grad(), record(network) as recorded:
        network(x)
    for name, logits in before.items():
        torch.testing.assert_close(recorded.gates[name], 1 / (1 + (-logits).exp()), rtol=0, atol=1e-6)


def test_nothing_stays_behind_the_recording():
    network = tiny()
    with record(network, inputs=True):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_network_without_excitation_has_no_gates():
    assert gated_blocks(build("resnet18")) == {}


def test_the_reference_is_the_gate_at_the_mean_squeeze_of_the_images_of_the_batch_norms():
    """With the statistics of these very images, a batch norm's output has exactly the mean ``bias``."""
    network, x = tiny(16), torch.rand(64, 3, 16, 16)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network.train()(x)
        with record(network.eval(), inputs=True) as recorded:
            network(x)
        reference = reference_gates(network)
        name = "layer1.0"  # later blocks see what training mode had normalized by the same statistics, too
        squeeze = recorded.inputs[name].mean((0, 2, 3))[None, :, None, None]
        expected = network.layer1[0].se.gate(squeeze).flatten()
    torch.testing.assert_close(reference[name], expected, rtol=1e-3, atol=1e-4)
    assert all(reference[name].shape == gate.shape[1:] for name, gate in recorded.gates.items())


def test_the_reference_behind_a_relu_is_that_of_a_normal_distribution():
    network = randomized(build("legacy_seresnet18")).eval()
    norm, se = network.layer1[0].bn2, network.layer1[0].se
    draws = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0)) * norm.weight + norm.bias
    expected = se.gate(draws.relu().mean(0).detach()[None, :, None, None]).flatten()
    torch.testing.assert_close(reference_gates(network)["layer1.0"], expected, rtol=0, atol=2e-3)
