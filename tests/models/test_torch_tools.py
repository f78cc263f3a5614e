"""What torch does with whole networks in training - dtypes, transforms, copies - as with timm's networks."""

import copy
import io
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tests.models.pairs import difference, images
from tests.models.small_pairs import ARCHS, X, assert_same_step, blocks, loss, pair


@ARCHS
@pytest.mark.parametrize(("count", "size"), [(1, 32), (1, 33), (1, 64), (2, 32), (0, 64)])
def test_batches_of_one_and_of_none(arch: str, count: int, size: int) -> None:
    """One value for each channel has no variance: torch refuses it, and so do we."""
    found = []
    for model in pair(arch):
        try:
            found.append(model(images(2, size, size)[:count].double()))
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1] if isinstance(found[1], str) else found[0].shape == found[1].shape
    assert isinstance(found[1], str) or not count or difference(*(t.detach() for t in found)) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_16_bits_have_gradients_as_near_as_timms(dtype: torch.dtype) -> None:
    exact, x = pair("seresnet50")[0], images(8, 64, 64)
    loss(exact, x.double()).backward()
    distances = []
    for model in pair("seresnet50"):
        loss(model.to(dtype), x.to(dtype)).backward()
        grads = zip(model.parameters(), exact.parameters(), strict=True)
        distances.append(sum(float((p.grad.double() - q.grad).norm() / (q.grad.norm() + 1e-6)) for p, q in grads))
    assert distances[0] < 1.2 * distances[1]


@ARCHS
def test_autocast_and_mixed_parameters(arch: str) -> None:
    x = images(2, 64, 64)
    for model in pair(arch):
        model.float()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        assert out.dtype == torch.bfloat16
        model.bfloat16()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.float()
        out = model(x.bfloat16())
        out.sum().backward()
        assert out.dtype == torch.bfloat16


def test_a_shortcut_of_another_dtype_under_autocast() -> None:
    """The modules' sum is in the wider dtype; so is that of the fused end of a block."""
    block = blocks(pair("seresnet50")[0].float())[1]
    block.downsample = nn.Identity()
    block.conv2.stride = (1, 1)
    x = torch.randn(2, 32, 8, 8)
    outs = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            outs.append(copy.deepcopy(block)(x))
        outs[-1].float().sum().backward()
        block.act3.register_forward_hook(lambda *_: None)  # the modules
    assert outs[0].dtype == outs[1].dtype == torch.float32
    torch.testing.assert_close(outs[0], outs[1], rtol=0.02, atol=0.02)


def test_transforms_of_torch_func() -> None:
    found = []
    for model in pair():
        torch.func.replace_all_batch_norm_modules_(model)  # torch's advice: a transform cannot move statistics
        values = {name: p.detach() for name, p in model.named_parameters()}
        tangents = {n: torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view_as(p).cos() for n, p in values.items()}

        def value(parameters: dict[str, Tensor], x: Tensor = X, model: nn.Module = model) -> Tensor:
            return loss(lambda x: torch.func.functional_call(model, parameters, (x,)), x)

        def of_biases(bias: Tensor, model: nn.Module = model, values: dict[str, Tensor] = values) -> Tensor:
            return value({**values, "layer1.0.se.fc1.bias": bias}, X, model)

        gradient = torch.func.grad(value)
        _, directional = torch.func.jvp(value, (values,), (tangents,))
        _, product = torch.func.jvp(gradient, (values,), (tangents,))
        of_each = torch.func.vmap(gradient, (None, 0))(values, torch.stack([X, X.flip(3)]))
        hessian = torch.func.hessian(of_biases)(values["layer1.0.se.fc1.bias"])
        found.append([directional[None], hessian, *product.values(), *of_each.values(), *gradient(values).values()])
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-9)


def test_gradients_of_several_outputs_at_once_and_forward_mode() -> None:
    found = []
    for model in pair():
        out = model(X)
        directions = torch.stack([torch.ones_like(out), torch.linspace(-1, 1, out.numel()).to(out).view_as(out)])
        grads = torch.autograd.grad(out, list(model.parameters()), directions, is_grads_batched=True)
        with forward_ad.dual_level():
            dual = model(forward_ad.make_dual(X, torch.ones_like(X)))
            found.append([*grads, forward_ad.unpack_dual(dual).tangent])
    assert all(difference(a, b) <= 1e-8 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("way", ["own", "user's"])
def test_second_derivatives_with_gradient_checkpointing(way: str) -> None:
    found = []
    for recompute in (True, False):
        model = pair()[0]
        model.set_grad_checkpointing(recompute and way == "own")
        whole = recompute and way != "own"
        value = loss(lambda x: checkpoint(model, x, use_reentrant=False) if whole else model(x), X)  # noqa: B023
        grads = torch.autograd.grad(value, list(model.parameters()), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in grads), list(model.parameters()), allow_unused=True)
        found.append([t for t in second if t is not None])
        counts = {int(b) for name, b in model.named_buffers() if name.endswith("num_batches_tracked")}
        assert counts == {3 + 1} or whole  # of a pair, it is 3; torch's own recomputation moves it again
    assert all(difference(a, b) <= 1e-7 for a, b in zip(*found, strict=True))


def test_checkpointing_keeps_the_statistics_of_norms_of_every_kind() -> None:
    class Other(nn.modules.batchnorm._BatchNorm):  # as SyncBatchNorm, it is not a BatchNorm2d
        def _check_input_dim(self, x: Tensor) -> None:
            pass

    states = []
    for recompute in (True, False):
        model = pair()[0]
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = Other
        model.set_grad_checkpointing(recompute)
        loss(model, X).backward()
        states.append(dict(model.named_buffers()))
    assert all(torch.equal(a, states[1][name]) for name, a in states[0].items())


def test_scripted_and_traced_in_training() -> None:
    model = pair()[0]
    expected = copy.deepcopy(model)(X)
    assert difference(torch.jit.script(copy.deepcopy(model))(X).detach(), expected.detach()) <= 1e-10
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(copy.deepcopy(model), (X,), check_trace=False)
    x = images(2, 96, 64).double()
    assert difference(traced(x).detach(), copy.deepcopy(model)(x).detach()) <= 1e-10


def test_modes_see_every_operation() -> None:
    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen[str(function)] += 1
            return function(*args, **(kwargs or {}))

    class Wrong(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            return 1.5 * out if function is F.batch_norm else out

    counts, outs = [], []
    for model in pair():
        seen: Counter[str] = Counter()
        with Count():
            model(X)
        with FlopCounterMode(display=False) as flops:
            loss(model, X).backward()
        counts.append((seen["aten.native_batch_norm.default"], seen["aten.convolution.default"]))
        counts[-1] += (flops.get_total_flops(),)
        with Wrong():
            outs.append(model(X).detach())
    assert counts[0] == counts[1] and difference(*outs) <= 1e-9


def test_copies() -> None:
    for clone in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), reloaded, nn.DataParallel):
        ours, theirs = pair()
        assert_same_step((clone(ours), theirs))


def reloaded(model: nn.Module) -> nn.Module:
    """Return what ``torch.save(model)`` keeps."""
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_memory_layouts() -> None:
    for layout in (torch.channels_last, torch.contiguous_format):
        models = pair()
        for model in models:
            model.to(memory_format=layout)
        assert_same_step(models, X.to(memory_format=torch.channels_last))
    assert_same_step(pair(), X.transpose(2, 3))


@pytest.mark.parametrize("place", ["input", "output", "block"])
def test_values_changed_in_place(place: str) -> None:
    """Torch notices what it needs for a gradient; where it needs nothing, the gradient is right."""
    found = []
    for model in pair():
        x = X.clone().requires_grad_()
        first = 1 * x
        if place == "block":
            for block in blocks(model):
                block.register_forward_hook(lambda module, args, out: out.mul_(2))
        try:
            out = model(first)
            if place != "block":
                (first if place == "input" else out).mul_(2)
            out.sum().backward()
            found.append(x.grad)
        except RuntimeError as error:
            found.append("modified by an inplace operation" in str(error))
    assert found == [True, True] if found[1] is True else difference(*found) <= 1e-9
