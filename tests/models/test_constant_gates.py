"""Constant gates folded into a network: the logits of the network with these gates, wherever it is saved and loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import seresnet
from seresnet.errors import WeightsError
from seresnet.explanation.ablation import constant_gates
from seresnet.explanation.gates import gated_blocks
from seresnet.models.constant_gates import fold_gates
from seresnet.models.fuse import FusedBlock, GateFirstBlock, GateLastBlock, fuse_network
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build
from tests.networks import randomized

# Blocks of each kind: basic with and without a ReLU before the gate, the last of a stage, strided, anti-aliased
CASES = {
    "legacy_seresnet18": ("layer1.0", "layer2.1"),
    "legacy_seresnet50": ("layer1.2", "layer2.0", "layer4.2"),
    "seresnet18": ("layer2.1",),
    "seresnet20": ("layer1.1", "layer1.2", "layer3.1"),
    "seresnetaa50d": ("layer1.2", "layer2.0"),
}


def made(arch: str) -> tuple[SEResNet, dict[str, torch.Tensor], torch.Tensor]:
    network = randomized(build(arch, num_classes=7)).eval()
    generator = torch.Generator().manual_seed(1)
    gates = {
        name: torch.rand(network.get_submodule(name).out_width, generator=generator) * 0.9 + 0.05
        for name in CASES[arch]
    }
    return network, gates, torch.randn(2, 3, 64, 64, generator=generator)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("arch", CASES)
def test_a_folded_network_has_the_logits_of_the_network_with_these_gates(arch, tmp_path):
    network, gates, x = made(arch)
    with torch.no_grad():
        plain = network(x)
        with constant_gates(network, gates):
            expected = network(x)
        assert (plain - expected).abs().max() > 1e-2 and torch.equal(network(x), plain)  # it stays as it was
        folded = fold_gates(network, gates)
        close(folded(x), expected)
        fused = fuse_network(folded)
        close(fused(x), expected)
        directory = seresnet.save(folded, tmp_path / "folded")
        loaded = seresnet.create_model(directory, pretrained=True).eval()
        close(loaded(x), expected)
    assert folded.cfg.blocks_without_se == loaded.cfg.blocks_without_se == tuple(gates)
    assert set(gated_blocks(loaded)) == set(gated_blocks(network)) - set(gates)
    kinds = {name: type(module) for name, module in fused.named_modules() if isinstance(module, FusedBlock)}
    assert {kinds[name] for name in gates} == {GateLastBlock if network.cfg.relu_before_se else FusedBlock}
    assert all(kinds[name] in (GateLastBlock, GateFirstBlock) for name in gated_blocks(loaded))
    expected_pixels = fuse_network(network).rewrites.unused_pixels
    assert fused.rewrites.unused_pixels == expected_pixels


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "torch"])
def test_every_engine_runs_the_saved_directory_and_other_gates_have_another_cache_entry(engine, tmp_path):
    network, gates, x = made("seresnet20")
    for given in (gates, dict(list(gates.items())[:1])):
        directory = seresnet.save(fold_gates(network, given), tmp_path / str(len(given)))
        with torch.no_grad(), constant_gates(network, given):
            expected = network(x)
        for _ in range(2):  # the second time from the cache
            close(torch.from_numpy(seresnet.load(directory, engine, "float32").logits(x.numpy())), expected)


def test_folding_in_two_steps_is_folding_at_once_and_it_can_be_trained():
    network, gates, x = made("seresnet20")
    first, *rest = gates
    twice = fold_gates(fold_gates(network, {name: gates[name] for name in rest}), {first: gates[first]})
    once = fold_gates(network, gates)
    assert twice.cfg == once.cfg
    with torch.no_grad():
        close(twice(x), once(x))
    once.train()
    once(x).sum().backward()
    assert all(p.grad is not None for p in once.parameters())
    assert build("seresnet20").cfg.blocks_without_se == ()


@pytest.mark.parametrize("names", [["layer9.0"], "layer1.0", [3], [["layer1.0"]]])
def test_names_of_no_block_are_refused(names, tmp_path):
    network, gates, _ = made("seresnet20")
    directory = Path(seresnet.save(fold_gates(network, gates), tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    assert config["model_args"] == {"blocks_without_se": list(gates)}
    config["model_args"]["blocks_without_se"] = names
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="not a list of this network's blocks"):
        seresnet.create_model(directory, pretrained=True)


def test_a_directory_that_lists_other_blocks_than_its_tensors_is_refused(tmp_path):
    network, gates, _ = made("seresnet20")
    directory = Path(seresnet.save(fold_gates(network, gates), tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    del config["model_args"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"missing \(layer1.1.se"):
        seresnet.create_model(directory, pretrained=True)
    assert np.all([gate.min() > 0 for gate in gates.values()])
