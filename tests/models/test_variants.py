"""The table of architectures: parameter counts against published ones, and against timm's for the others."""

import pytest

from seresnet.models.count import count_macs, count_parameters
from seresnet.models.variants import VARIANTS, build
from tests.meta import on_meta_device
from tests.models.pairs import ARCHS
from tests.timm_import import timm

# The model index that publishes the legacy weights.
PUBLISHED = {
    "legacy_seresnet18": 11_778_592,
    "legacy_seresnet34": 21_958_868,
    "legacy_seresnet50": 28_088_024,
    "legacy_seresnet101": 49_326_872,
    "legacy_seresnet152": 66_821_848,
}
# arXiv 1512.03385, table 6: millions of parameters, as printed.
CIFAR_MILLIONS = {"resnet20": 0.27, "resnet32": 0.46, "resnet56": 0.85, "resnet110": 1.7}


def on_meta(arch: str, **overrides: object):
    with on_meta_device():
        return build(arch, **overrides)


@pytest.mark.parametrize(("arch", "count"), PUBLISHED.items())
def test_parameters_as_published(arch: str, count: int) -> None:
    assert count_parameters(on_meta(arch)) == count


@pytest.mark.parametrize("arch", ARCHS)
def test_parameters_and_shapes_equal_timm(arch: str) -> None:
    ours = on_meta(arch)
    with on_meta_device():
        theirs = timm.create_model(arch)
    assert count_parameters(ours) == sum(p.numel() for p in theirs.parameters())
    if ours.cfg.lineage == "modern":
        shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
        assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    assert ours.num_features == theirs.num_features == ours.head_hidden_size
    assert ours.drop_rate == theirs.drop_rate
    fields = ("num_chs", "reduction")
    assert [[f[k] for k in fields] for f in ours.feature_info] == [[f[k] for k in fields] for f in theirs.feature_info]


@pytest.mark.parametrize(("arch", "millions"), CIFAR_MILLIONS.items())
def test_cifar_networks_have_the_size_of_the_paper(arch: str, millions: float) -> None:
    projections = 16 * 32 + 32 * 64 + 2 * (32 + 64)  # ours; the paper pads with zeros
    digits = 2 if millions < 1 else 1
    assert round((count_parameters(on_meta(arch)) - projections) / 1e6, digits) == millions


@pytest.mark.parametrize("depth", [20, 32, 56, 110])
def test_excitation_in_cifar_networks_costs_what_its_layers_hold(depth: int) -> None:
    blocks = (depth - 2) // 6
    inner = 8  # 16, 32 and 64 channels over 16, at least 8
    excitation = sum(blocks * (2 * width * inner + inner + width) for width in (16, 32, 64))
    assert count_parameters(on_meta(f"seresnet{depth}")) == count_parameters(on_meta(f"resnet{depth}")) + excitation
    depth_counted = 1 + sum(len(stage) * 2 for stage in on_meta(f"seresnet{depth}").stages) + 1
    assert depth_counted == depth


def test_every_row_is_in_timm_or_for_cifar() -> None:
    assert [arch for arch in VARIANTS if arch not in ARCHS] == [a for a, c in VARIANTS.items() if c.lineage == "cifar"]


def test_macs_as_in_the_paper() -> None:
    """arXiv 1709.01507, section 4: 3.87 GFLOPs (multiply-accumulates) for SE-ResNet-50 in Caffe's layout."""
    assert count_macs(on_meta("legacy_seresnet50"), (224, 224)) / 1e9 == pytest.approx(3.87, abs=0.01)


def test_macs_by_hand() -> None:
    """One convolution layer by another: ResNet-20 on 32x32 pixels, projections counted."""
    macs = 3 * 16 * 9 * 32**2 + 6 * 16 * 16 * 9 * 32**2
    macs += (16 + 5 * 32) * 32 * 9 * 16**2 + 16 * 32 * 16**2
    macs += (32 + 5 * 64) * 64 * 9 * 8**2 + 32 * 64 * 8**2 + 64 * 10
    assert count_macs(build("resnet20"), (32, 32)) == macs
