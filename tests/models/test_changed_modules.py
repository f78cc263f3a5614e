"""Modules with hooks, adapters, other classes or settings train as they do in timm's networks.

The fused end of a block has to stand aside wherever a module is not plain.
"""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig, prepare_qat
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from tests.models.pairs import difference, images
from tests.models.small_pairs import ARCHS, X, assert_same_step, blocks, loss, pair


def last(block: nn.Module, kind: str) -> nn.Module:
    """Return a block's last convolution, norm or activation."""
    return block.get_submodule(f"{kind}{3 if hasattr(block, 'conv3') else 2}")


PLACES = {
    "excitation": lambda block: block.se,
    "last convolution": lambda block: last(block, "conv"),
    "last norm": lambda block: last(block, "bn"),
    "last activation": lambda block: last(block, "act"),
    "inner layer": lambda block: block.se.fc1,
    "block": lambda block: block,
}


@ARCHS
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_hooks_that_change_a_value(arch: str, place: Callable[[nn.Module], nn.Module]) -> None:
    models = pair(arch)
    for model in models:
        for block in blocks(model):
            place(block).register_forward_hook(lambda module, args, out: 1.3 * out + 0.1)
            place(block).register_forward_pre_hook(lambda module, args, kw: ((0.7 * args[0],), kw), with_kwargs=True)
    assert_same_step(models)


def test_backward_hooks_that_change_a_gradient() -> None:
    models = pair()
    for model in models:
        for block in blocks(model):  # timm adds in place behind the excitation, where torch allows no such hook
            for module in (block.conv2, block.se.fc2, block.bn1):
                module.register_full_backward_hook(lambda module, before, after: tuple(0.5 * g for g in before))
                module.register_full_backward_pre_hook(lambda module, after: tuple(1.5 * g for g in after))
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
    assert_same_step(models)


def test_hooks_on_tensors() -> None:
    models, seen = pair(), []
    for model in models:
        counts: Counter[tuple[int, ...]] = Counter()
        seen.append(counts)
        for p in model.parameters():
            p.register_hook(lambda grad: 2 * grad)
            p.register_post_accumulate_grad_hook(lambda p, counts=counts: counts.update([tuple(p.shape)]))
    with torch.autograd.graph.save_on_cpu():
        assert_same_step(models)
    assert seen[0] == seen[1] and seen[0].total() == len(list(models[0].parameters()))


@pytest.mark.parametrize("place", ["se.fc1", "se.fc2", "conv1", "conv2"])
def test_reparametrized_layers(place: str) -> None:
    for change in (
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ):
        models = pair()
        for model in models:
            for block in blocks(model):
                torch.manual_seed(1)
                change(block.get_submodule(place))
        assert_same_step(models, tolerance=1e-7)


class Adapter(nn.Module):
    """LoRA as peft has it: a layer, and a product of two narrow ones beside it."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(1)
        shapes = (base.out_channels, 2), (2, base.weight[0].numel())
        self.b, self.a = (nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64) / 9) for s in shapes)

    def forward(self, x: Tensor) -> Tensor:
        base = self.base
        return self.base(x) + F.conv2d(x, (self.b @ self.a).view_as(base.weight), None, base.stride, base.padding)


@pytest.mark.parametrize("place", ["se.fc1", "se.fc2", "conv1", "conv2", "conv3", "downsample.0", "downsample.1", ""])
def test_adapters_at_any_place(place: str) -> None:
    models = pair("seresnet50")
    for model in models:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Conv2d) and name.endswith(place):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, Adapter(module))
    assert_same_step(models)


class Scaled(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, 1.1 * weight, bias)


class Shifted(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1


@pytest.mark.parametrize(("kind", "base"), [(Scaled, nn.Conv2d), (Shifted, nn.BatchNorm2d), (nn.SiLU, nn.ReLU)])
@ARCHS
def test_subclasses_and_other_activations(arch: str, kind: type[nn.Module], base: type[nn.Module]) -> None:
    models = pair(arch)
    for model in models:
        for module in model.modules():
            if type(module) is base:
                module.__class__ = kind
    assert_same_step(models)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.Conv2d, nn.ReLU])
def test_methods_replaced_for_a_whole_class(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    models, forward = pair(), kind.forward
    with monkeypatch.context() as patch:
        patch.setattr(kind, "forward", lambda self, x: 1.2 * forward(self, x))
        assert_same_step(models)
    assert_same_step(pair())


NORMS = {
    "cumulative average": lambda norm: setattr(norm, "momentum", None),
    "another epsilon": lambda norm: setattr(norm, "eps", 0.1),
    "no tracking any more": lambda norm: setattr(norm, "track_running_stats", False),
    "no counter": lambda norm: setattr(norm, "num_batches_tracked", None),
    "evaluation": nn.BatchNorm2d.eval,
}


@pytest.mark.parametrize("change", NORMS.values(), ids=NORMS)
def test_settings_of_batch_norm(change: Callable[[nn.Module], None]) -> None:
    models = pair()
    for model in models:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                change(module)
    assert_same_step(models)


@ARCHS
@pytest.mark.parametrize("part", ["fc", "bn", "se", "conv", "layer1"])
def test_frozen_parameters(arch: str, part: str) -> None:
    for trained in (True, False):
        models = pair(arch)
        for model in models:
            for name, p in model.named_parameters():
                p.requires_grad_((part in name) == trained)
        assert_same_step(models)


def test_the_gradient_of_an_image_through_a_frozen_network() -> None:
    found = []
    for model in pair():
        x = X.clone().requires_grad_()
        loss(model.requires_grad_(False), x).backward()
        found.append(x.grad)
    assert difference(*found) <= 1e-9


def test_quantization_aware_training_sees_the_excitation() -> None:
    losses = []
    for model in pair():
        model.float().qconfig = get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
        with pytest.warns(DeprecationWarning):
            prepared = prepare_qat(model)
        value = loss(prepared, images(4, 64, 64))
        value.backward()
        losses.append(value.detach()[None])
        layer = prepared.get_submodule("layer1.0.se.fc1")
        assert type(layer).__module__.endswith("qat.modules.conv") and layer.weight.grad.abs().max() > 0
    assert difference(*losses) <= 0.1  # timm's sigmoid is no module that torch observes
