"""The form as an OpenVINO model: every architecture, any size, torch's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seresnet.engines.openvino.graph import openvino_graph
from seresnet.engines.openvino.package import openvino_core
from seresnet.errors import ConfigError
from seresnet.models.fuse import FusedSEResNet, fuse_network
from seresnet.models.input_sizes import input_sizes
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS, build
from tests.networks import randomized, seresnet20

CORE = openvino_core()
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
BOUND = 1e-5  # of the largest logit


def narrow(arch: str, **overrides: object) -> SEResNet:
    """Return an architecture with one or two blocks a stage, at a part of its width."""
    cfg = VARIANTS[arch]
    quarter = (16, 32, 64, 128)
    channels = cfg.channels if cfg.lineage == "cifar" else tuple(c * cfg.first_width_divisor for c in quarter)
    settings = {"layers": tuple(min(n, 2) for n in cfg.layers), "channels": channels, "num_classes": 7, **overrides}
    torch.manual_seed(0)
    return randomized(build(arch, **settings)).eval()


def images(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).standard_normal((count, channels, height, width), np.float32)


@torch.no_grad()
def by_torch(model: SEResNet, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = model.forward_head(model.forward_features(torch.from_numpy(x)), pre_logits=True)
    return model.fc(features).numpy(), features.numpy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def assert_same(model: SEResNet, *batches: np.ndarray) -> None:
    """The graph of the form agrees with the network itself, which knows nothing of forms or graphs."""
    compiled = CORE.compile_model(openvino_graph(fuse_network(model)), "CPU", EXACT)
    for x in batches:
        answer = compiled(x)
        for name, expected in zip(("logits", "features"), by_torch(model, x), strict=True):
            assert difference(answer[name], expected) <= BOUND, (name, x.shape)


@pytest.mark.parametrize("arch", VARIANTS)
def test_every_architecture_gives_torchs_numbers_at_any_size(arch: str) -> None:
    anti_aliased = VARIANTS[arch].anti_alias  # its branch and its shortcut round apart unless sizes are even
    sizes = [(64, 96), (32, 32)] if anti_aliased else [(33, 47), (64, 50)]
    assert_same(narrow(arch), images(2, *sizes[0]), images(1, *sizes[1]))


@pytest.mark.parametrize("arch", ["legacy_seresnet50", "seresnet18"])
def test_full_width_and_depth(arch: str) -> None:
    assert_same(randomized(build(arch)).eval(), images(1, 64, 80))


@pytest.mark.parametrize("arch", ["seresnet18", "legacy_seresnet18", "seresnet50t", "legacy_seresnet50"])
def test_from_the_smallest_image_to_a_large_one(arch: str) -> None:
    """Where edges, corners and the whole are the same pixels, and where padding is most of what a kernel sees."""
    model = narrow(arch, layers=(1, 1, 1, 1))
    least = input_sizes(model).least
    small = [images(1, least + i, least + j) for i in range(4) for j in range(4)]
    assert_same(model, *small, images(2, 320, least), images(1, least, 65))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels(in_chans: int) -> None:
    assert_same(narrow("seresnet18", in_chans=in_chans), images(2, 32, 40, in_chans))


def test_without_a_classifier_the_logits_are_the_features() -> None:
    model = narrow("seresnet18", num_classes=0)
    answer = CORE.compile_model(openvino_graph(fuse_network(model)), "CPU", EXACT)(images(2, 32, 32))
    assert np.array_equal(answer["logits"], answer["features"])
    assert difference(answer["features"], by_torch(model, images(2, 32, 32))[1]) <= BOUND


def test_without_pooling_it_is_refused() -> None:
    model = narrow("seresnet18")
    model.reset_classifier(0, global_pool="")
    with pytest.raises(ConfigError, match="no pooling at its end"):
        openvino_graph(fuse_network(model))


def test_nodes_have_the_names_of_their_modules() -> None:
    form = fuse_network(narrow("legacy_seresnet50"))
    model = openvino_graph(form)
    nodes = {node.get_friendly_name(): node for node in model.get_ops()}
    assert len(nodes) == len(model.get_ops())  # each its own
    for name, module in form.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert nodes[name].get_type_name() in ("Convolution", "GroupConvolution"), name
            assert nodes[f"{name}.weight"].get_type_name() == "Constant"
    kinds = {
        "maxpool": "MaxPool",
        "layer1.0.hidden.1": "Relu",
        "layer1.0.gate.squeeze": "ReduceMean",
        "layer1.0.gate.sigmoid": "Sigmoid",
        "layer1.0.scale": "Multiply",
        "layer1.0.add": "Add",
        "layer1.1.shortcut": "MaxPool",  # every other pixel, where the next stage reads no other
        "fc": "MatMul",
    }
    assert {name: nodes[name].get_type_name() for name in kinds} == kinds


def test_the_plugin_runs_a_blocks_tail_in_one_pass() -> None:
    """A gate, a shortcut and a ReLU behind the last convolution: one node of the executed graph, not three."""
    model = openvino_graph(fuse_network(narrow("legacy_seresnet50")))
    model.reshape([1, 3, 64, 64])
    executed = CORE.compile_model(model, "CPU", EXACT).get_runtime_model()
    merged = [node.get_rt_info()["originalLayersNames"].astype(str).split(",") for node in executed.get_ops()]
    (tail,) = [names for names in merged if "layer2.1.scale" in names]
    assert {"layer2.1.scale", "layer2.1.add", "layer2.1.relu"} <= set(tail)
    (first,) = [names for names in merged if "layer2.1.hidden.0" in names]
    assert "layer2.1.hidden.1" in first  # a convolution's ReLU is its own


def test_the_size_of_the_preprocessing_is_noted() -> None:
    model = openvino_graph(fuse_network(seresnet20()))
    assert model.get_rt_info(["seresnet", "input_size"]).value == "3,32,32"
    assert not openvino_graph(fuse_network(narrow("seresnet18"))).has_rt_info(["seresnet", "input_size"])


def test_a_form_in_another_number_format_becomes_float32() -> None:
    form = fuse_network(narrow("seresnet18"))
    assert isinstance(form, FusedSEResNet)
    x = images(1, 32, 32)
    whole = CORE.compile_model(openvino_graph(form), "CPU", EXACT)(x)["logits"]
    half = CORE.compile_model(openvino_graph(form.half()), "CPU", EXACT)(x)["logits"]
    assert half.dtype == np.float32
    assert 0 < difference(half, whole) < 0.01
