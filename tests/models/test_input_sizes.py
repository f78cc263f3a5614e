"""The heights and widths that a network takes are those at which torch computes it."""

import pytest
import torch

from seresnet.models.fuse import fuse_network
from seresnet.models.input_sizes import InputSizes, input_sizes
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS, build
from tests.models.pairs import make_pair


def shallow(arch: str, **settings: object) -> SEResNet:
    """Return an architecture with one block a stage, of few channels."""
    cfg = VARIANTS[arch]
    channels = tuple(cfg.first_width_divisor * 16 for _ in cfg.layers)
    return build(arch, layers=tuple(1 for _ in cfg.layers), channels=channels, num_classes=2, **settings).eval()


def runs(model: torch.nn.Module, extent: int) -> bool:
    """Return whether torch computes the network on images of this extent."""
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, extent, extent))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("arch", VARIANTS)
def test_the_least_size_is_where_torch_stops(arch: str) -> None:
    model = shallow(arch)
    sizes = input_sizes(model)
    assert sizes == input_sizes(fuse_network(model))
    assert runs(model, sizes.least) and not runs(model, sizes.least - 1)
    assert 0 in sizes.remainders and InputSizes.parse(str(sizes)) == sizes


@pytest.mark.parametrize("settings", [{}, {"output_stride": 16}, {"output_stride": 8}])
def test_anti_aliased_networks_take_what_torch_computes(settings: dict[str, object]) -> None:
    model = shallow("seresnetaa50d", **settings)
    sizes = input_sizes(model)
    assert [n in sizes for n in range(1, 68)] == [runs(model, n) for n in range(1, 68)]


def test_timms_network_takes_the_same_sizes() -> None:
    ours, theirs = make_pair("seresnetaa50d")
    sizes = input_sizes(ours)
    extents = (30, 31, 34, 35, 40, 48, 62, 63, 66, 67, 80)
    assert [n in sizes for n in extents] == [runs(theirs, n) for n in extents]


@pytest.mark.parametrize("text", ["", "31", "0 1 0", "31 0 0", "31 32 40", "31 32 x"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        InputSizes.parse(text)
