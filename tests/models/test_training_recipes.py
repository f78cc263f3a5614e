"""Ways to train that bring their own loop - SWA, SAM, compiled - give on our networks the weights that timm's get."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, update_bn

from seresnet.models.variants import build
from tests.models.pairs import difference, images
from tests.models.small_pairs import X, assert_same_step, pair

Y = torch.tensor([0, 3, 6])


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """Take steps on one batch; return the losses."""
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = F.cross_entropy(model(X), Y)
        value.backward()
        optimizer.step()
        found.append(value.detach())
    return torch.stack(found)


def test_stochastic_weight_averaging() -> None:
    """The averaged weights, and the statistics that `update_bn` takes anew from the images (arXiv 1803.05407)."""
    averages = []
    for model in pair():
        averaged = AveragedModel(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        for _ in range(3):
            losses(model, optimizer, 1)
            averaged.update_parameters(model)
        update_bn([X, X.flip(3)], averaged)
        averages.append(averaged)
    ours, theirs = averages
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=name)
    assert difference(ours.eval()(X), theirs.eval()(X)) <= 1e-8


def test_sharpness_aware_minimization() -> None:
    """A step up to where the loss is sharp, a second gradient there, and a step from the start (arXiv 2010.01412)."""
    models, values = pair(), []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(3):
            first = F.cross_entropy(model(X), Y)
            first.backward()
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            climbs = [0.05 * p.grad / norm for p in model.parameters()]
            with torch.no_grad():
                torch._foreach_add_(list(model.parameters()), climbs)
            optimizer.zero_grad()
            for module in model.modules():  # the second pass leaves the statistics alone
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.0
            second = F.cross_entropy(model(X), Y)
            second.backward()
            with torch.no_grad():
                torch._foreach_sub_(list(model.parameters()), climbs)
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.1
            optimizer.step()
            optimizer.zero_grad()
            values.append([first.item(), second.item()])
    assert all(up > down for down, up in values) and values[2][0] < values[0][0]
    for (name, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=name)


def test_compiled_as_one_graph() -> None:
    """As the compiler captures it; what it generates is compared in `benchmarks/ecosystem.py`, for it takes minutes."""
    ours, theirs = pair("seresnetaa50d")
    for training in (True, False):
        for model in (ours, theirs):
            model.train(training)
        torch._dynamo.reset()
        assert_same_step((torch.compile(ours, backend="eager", fullgraph=True), theirs))


def test_compiled_with_dropout_and_another_pooling() -> None:
    settings = {"drop_rate": 0.2, "drop_path_rate": 0.2, "global_pool": "catavgmax", "num_classes": 7}
    model = build("seresnet18", layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), **settings).train()
    torch._dynamo.reset()
    torch.compile(model, backend="eager", fullgraph=True)(images(2, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_optimizer_with_a_closure_and_a_second_order_one() -> None:
    """LBFGS runs the network several times a step; its line search needs exact values."""
    models = pair()
    for model in models:
        optimizer = torch.optim.LBFGS(model.fc.parameters(), max_iter=5, line_search_fn="strong_wolfe")

        def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(model(X), Y)
            value.backward()
            return value

        before, after = optimizer.step(closure), closure()
        assert after < before / 2
    assert difference(models[0].fc.weight.detach(), models[1].fc.weight.detach()) <= 1e-6
