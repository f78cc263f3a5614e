"""The optimizer and the schedule, against torch's own and figures worked out by hand."""

import copy
import math
from itertools import pairwise

import pytest
import torch

from seresnet.models.variants import build
from seresnet.training.config import TrainConfig
from seresnet.training.ema import ModelEma
from seresnet.training.lamb import Lamb
from seresnet.training.optim import create_optimizer, learning_rate, parameter_groups, set_learning_rate
from tests.timm_import import timm  # noqa: F401


def test_weight_decay_spares_norms_and_biases():
    model = build("seresnet20")
    groups = parameter_groups(model, TrainConfig(weight_decay=0.01))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        is_matrix = name.endswith("weight") and parameter.ndim > 1
        assert decay[id(parameter)] == (0.01 if is_matrix else 0.0), name


def test_a_step_equals_nesterov_momentum_by_hand():
    config = TrainConfig(lr=0.1, momentum=0.9, weight_decay=0.01, head_lr_scale=2.0)
    model = build("resnet20")
    optimizer = create_optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(2):
        set_learning_rate(optimizer, 0.05)
        for name, p in model.named_parameters():
            p.grad = torch.full_like(p, 0.5)
            gradient = 0.5 + (0.01 * before[name] if p.ndim > 1 else 0.0)
            velocity[name] = 0.9 * velocity[name] + gradient
            before[name] = before[name] - 0.05 * (2 if name.startswith("fc") else 1) * (gradient + 0.9 * velocity[name])
        optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name])


def test_weight_decay_reaches_norms_where_asked():
    groups = parameter_groups(build("seresnet20"), TrainConfig(weight_decay=0.01, decay_norms=True))
    assert {group["weight_decay"] for group in groups} == {0.01}


@pytest.mark.parametrize("name", ["seresnet20", "legacy_seresnet50", "senet154"])
def test_each_stage_learns_at_its_share_of_the_next_ones_rate(name):
    model = build(name)
    groups = parameter_groups(model, TrainConfig(layer_decay=0.5, head_lr_scale=10.0))
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    stages = len(model.stages)
    assert len(scales) == len(list(model.parameters()))
    for parameter, parent in ((p, n) for n, p in model.named_parameters()):
        if parent.startswith("layer"):
            expected = 0.5 ** (stages + 1 - int(parent[5]))
        else:
            expected = 10.0 if parent in ("fc.weight", "fc.bias") else 0.5 ** (stages + 1)
        assert scales[id(parameter)] == expected, parent


def test_without_layer_decay_there_are_no_more_groups():
    assert {group["lr_scale"] for group in parameter_groups(build("seresnet20"), TrainConfig())} == {1.0}


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.3, None])
def test_lamb_takes_timms_steps(weight_decay, max_grad_norm):
    """Gradients grow from step to step, so that some norms are below the limit and some above."""
    from timm.optim import Lamb as Published

    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=generator), torch.randn(7, generator=generator), torch.zeros(5)]
    mine, theirs = ([p.clone().requires_grad_() for p in start] for _ in range(2))
    limit = {} if max_grad_norm == 1.0 else {"max_grad_norm": max_grad_norm}  # 1.0 is the default of both
    optimizers = []
    for cls, weights in ((Lamb, mine), (Published, theirs)):
        groups = [{"params": weights[:1], "weight_decay": weight_decay}, {"params": weights[1:], "weight_decay": 0.0}]
        optimizers.append(cls(groups, lr=0.01, weight_decay=weight_decay, **limit))
    norms = []
    for step in range(6):
        for weights, optimizer in zip((mine, theirs), optimizers, strict=True):
            for i, p in enumerate(weights):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i)) * 0.02 * 3**step
            optimizer.step()
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in mine)))
    assert min(norms) < 0.3 and max(norms) > 1
    for a, b, before in zip(mine, theirs, start, strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.allclose(a, before)


def test_lamb_leaves_clipping_to_the_trainer_where_a_norm_is_set():
    model = build("seresnet20")
    assert create_optimizer(model, TrainConfig(optimizer="lamb")).max_grad_norm == 1.0
    assert create_optimizer(model, TrainConfig(optimizer="lamb", clip_grad=5.0)).max_grad_norm is None


def test_lamb_goes_on_from_its_state():
    weights = torch.ones(3).requires_grad_()
    optimizer = Lamb([{"params": [weights], "weight_decay": 0.1, "lr_scale": 1.0}], lr=0.1)
    gradients = [torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 0.1, 2.0])]
    weights.grad = gradients[0]
    optimizer.step()
    twin = weights.detach().clone().requires_grad_()
    other = Lamb([{"params": [twin], "weight_decay": 0.1, "lr_scale": 1.0}], lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    weights.grad = twin.grad = gradients[1]
    optimizer.step()
    other.step()
    assert torch.equal(weights, twin)


def test_the_learning_rate_is_in_proportion_to_the_batch():
    config = TrainConfig(lr=0.6, lr_reference_batch=1024, schedule="step", warmup_epochs=0)
    for batch, rate in ((1024, 0.6), (256, 0.15), (4096, 2.4)):
        assert learning_rate(0, 10, config.updated({"global_batch_size": batch})) == pytest.approx(rate)
    assert config.updated({"global_batch_size": 256, "optimizer": "lamb"}).peak_lr == pytest.approx(0.3)  # its root
    fixed = config.updated({"lr_reference_batch": None, "global_batch_size": 256})
    assert learning_rate(0, 10, fixed) == 0.6


def test_cosine_schedule():
    config = TrainConfig(lr=1.0, epochs=10, warmup_epochs=2, schedule="cosine")
    rates = [learning_rate(step, 5, config) for step in range(50)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[9] == pytest.approx(10 / 11)
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert rates[49] == pytest.approx(0.5 * (1 + math.cos(math.pi * 39 / 40)))
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_step_schedule_is_the_papers():
    config = TrainConfig(lr=0.6, epochs=100, warmup_epochs=0, schedule="step", step_epochs=(30, 60, 90), step_gamma=0.1)
    rates = [learning_rate(epoch * 7, 7, config) for epoch in (0, 29, 30, 59, 60, 89, 90, 99)]
    assert rates == pytest.approx([0.6, 0.6, 0.06, 0.06, 0.006, 0.006, 0.0006, 0.0006])


def test_average_follows_its_recurrence():
    model = build("resnet20")
    ema = ModelEma(model, decay=0.9)
    expected = model.bn1.running_mean.clone()
    for step in range(200):
        with torch.no_grad():
            model.bn1.running_mean.fill_(step)
            model.bn1.num_batches_tracked.fill_(step)
        ema.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(ema.module.bn1.running_mean, expected)
    assert ema.module.bn1.num_batches_tracked.item() == 199
