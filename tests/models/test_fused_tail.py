"""The fused end of a block in training equals the modules that it stands for, and steps aside where it cannot."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import prune

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
        patch.setattr(blocks, "can_fuse", lambda *_: False)
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
    assert fuses(block, x)
    assert torch.autograd.gradcheck(block, (x,), eps=1e-6, atol=1e-5)


def test_zero_scale_as_at_the_start_of_training_passes_a_gradient_to_it():
    block = SEResNet(TINY).layer1[0].train()
    assert (block.bn2.weight == 0).all()
    block(torch.randn(4, 8, 5, 5)).square().sum().backward()
    assert block.bn2.weight.grad.abs().min() > 0


def fuses(block, x) -> bool:
    """Return whether a block takes the fused function, by what autograd records."""
    return type(block(x).grad_fn).__name__ == "_FusedBnSeAddReluBackward"


class Subclass(torch.nn.Conv2d):
    """As LoRA and quantization-aware training make them: a convolution that does something else."""

    def forward(self, x):
        return super().forward(x) + 1


CHANGES = {
    "another convolution": lambda block: setattr(block.se, "fc1", Subclass(8, 8, 1)),
    "no bias": lambda block: setattr(block.se, "fc2", torch.nn.Conv2d(8, 8, 1, bias=False)),
    "another gate": lambda block: setattr(block.se, "sigmoid", torch.nn.Hardsigmoid()),
    "another activation": lambda block: setattr(block, "act2", torch.nn.LeakyReLU()),
    "norm in evaluation": lambda block: block.bn2.eval(),
    "no excitation": lambda block: setattr(block, "se", torch.nn.Identity()),
    "a module between": lambda block: setattr(block, "drop_path", torch.nn.Dropout(0.5)),
    "patched forward": lambda block: setattr(block.se, "forward", lambda x: x),
    "pruning": lambda block: prune.l1_unstructured(block.se.fc1, "weight", 0.5),
    "parametrization": lambda block: torch.nn.utils.parametrizations.weight_norm(block.se.fc1),
    "forward hook": lambda block: block.se.register_forward_hook(lambda *_: None),
    "forward hook on the last activation": lambda block: block.act2.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda block: block.se.fc1.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda block: block.se.fc2.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda block: block.se.register_full_backward_pre_hook(lambda *_: None),
    "hook on an identity": lambda block: block.drop_path.register_forward_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_steps_aside_for_modules_that_are_not_plain(change):
    block = SEResNet(TINY).layer1[0].train()
    x = torch.randn(2, 8, 5, 5)
    assert fuses(block, x)
    change(block)
    assert not fuses(block, x)


def test_it_steps_aside_for_synchronised_norms_and_without_gradients():
    block = SEResNet(TINY).layer1[0].train()
    x, others = torch.randn(2, 8, 5, 5), (block.se, block.act2, block.act_se, block.drop_path)
    assert can_fuse(x, block.bn2, *others)
    assert not can_fuse(x, torch.nn.SyncBatchNorm(8), *others)
    with torch.no_grad():
        assert not can_fuse(x, block.bn2, *others)


def test_hooks_on_all_modules_see_them():
    block, x, seen = SEResNet(TINY).layer1[0].train(), torch.randn(2, 8, 5, 5), []
    for layer in (block.act1, block.act2, block.se.act):
        layer.inplace = False  # torch allows no backward hook in front of one
    modules = torch.nn.modules.module
    for register in (
        modules.register_module_forward_hook,
        modules.register_module_forward_pre_hook,
        modules.register_module_full_backward_hook,
        modules.register_module_full_backward_pre_hook,
    ):
        handle = register(lambda module, *_: seen.append(type(module).__name__))
        try:
            block(x).sum().backward()
        finally:
            handle.remove()
        assert {"SqueezeExcite", "Sigmoid", "BatchNorm2d", "ReLU"} <= set(seen), register.__name__
        seen.clear()
    assert fuses(block, x)


def without_statistics():
    """Return a block whose batch norms keep no running statistics, which a transform could not move."""
    block = network().layer1[0].double()
    for name in ("bn1", "bn2"):
        norm = torch.nn.BatchNorm2d(8, track_running_stats=False, dtype=torch.float64)
        norm.load_state_dict(dict(getattr(block, name).named_parameters()))
        setattr(block, name, norm)
    return block


def test_transforms_and_traces_see_the_modules():
    block = without_statistics()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    assert fuses(block, x)
    values = {name: p.detach() for name, p in block.named_parameters()}
    tangents = {name: torch.randn_like(p) for name, p in values.items()}

    def loss(parameters):
        return torch.func.functional_call(block, parameters, (x,)).square().mean()

    gradient = torch.func.grad(loss)(values)
    _, directional = torch.func.jvp(loss, (values,), (tangents,))
    block(x).square().mean().backward()
    for name, p in block.named_parameters():
        torch.testing.assert_close(gradient[name], p.grad)
    torch.testing.assert_close(directional, sum((tangents[n] * gradient[n]).sum() for n in values))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.randn_like(x))
        assert torch.autograd.forward_ad.unpack_dual(block(dual)).tangent is not None
    torch.testing.assert_close(torch.func.vmap(block)(x[None].repeat(3, 1, 1, 1, 1))[0], block(x))
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(block, (x,), check_trace=False)
    torch.testing.assert_close(traced(x), block(x))


@pytest.mark.parametrize("settings", [{}, {"block": "bottleneck"}])
def test_second_derivatives_by_differences(settings):
    block = network(**settings).layer1[0].double()
    x = torch.randn(2, block.conv1.in_channels, 3, 2, dtype=torch.float64, requires_grad=True)
    assert fuses(block, x)
    assert torch.autograd.gradgradcheck(block, (x,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"block": "bottleneck", "squeeze_divisor": 1}])
def test_hessian_vector_products_are_those_of_the_modules(settings, monkeypatch):
    model = network(**settings).double()
    x, parameters = torch.randn(3, 3, 10, 8, dtype=torch.float64), list(model.parameters())
    products = []
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(blocks, "can_fuse", lambda *_: False)
            value = model(x).square().mean()
            for order in range(2):
                gradients = torch.autograd.grad(value, parameters, create_graph=True)
                generator = torch.Generator().manual_seed(order)
                directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
                value = sum((g * v).sum() for g, v in zip(gradients, directions, strict=True))
            products.append([g.detach() for g in gradients])
    for (name, _), a, b in zip(model.named_parameters(), *products, strict=True):
        assert (a - b).abs().max() <= 1e-8 * b.abs().max() + 1e-12, name


def test_recomputing_moves_the_statistics_once():
    block = SEResNet(TINY).layer1[0].train()
    x = torch.randn(4, 8, 8, 8, requires_grad=True)
    twin = copy.deepcopy(block)
    checkpointed(block, x).square().sum().backward()
    twin(x).square().sum().backward()
    assert int(block.bn2.num_batches_tracked) == 1
    for a, b in zip(block.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)
