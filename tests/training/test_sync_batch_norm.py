"""Batch norm over processes equals plain batch norm over all of their images; threads stand for the processes."""

import copy
import threading

import pytest
import torch
from torch import nn

from seresnet.models.checkpointing import FrozenStatistics
from seresnet.training import sync_batch_norm as sync_norm
from seresnet.training.sync_batch_norm import SyncedBatchNorm2d, convert_sync_batch_norm
from tests.networks import tiny


class Exchange:
    """Sum the tensors that two threads bring, as an all-reduce does."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=60)
        self.parts: list[torch.Tensor] = []

    def all_reduce(self, tensor: torch.Tensor) -> None:
        self.parts.append(tensor.clone())
        self.barrier.wait()
        total = sum(self.parts)
        self.barrier.wait()
        self.parts.clear()
        self.barrier.wait()
        tensor.copy_(total)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_two_shares_of_different_size_equal_the_whole(monkeypatch, dtype, near):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(5)
    nn.init.normal_(plain.weight)
    x = (torch.randn(7, 5, 6, 4) * 3 + 20).to(dtype)  # a mean far from zero, which sums of squares would spoil
    g = torch.randn(7, 5, 6, 4).to(dtype)
    shares = [slice(0, 2), slice(2, 7)]
    norms = [SyncedBatchNorm2d.like(copy.deepcopy(plain)) for _ in shares]
    inputs = [x[share].clone().requires_grad_() for share in shares]
    outputs: dict[int, torch.Tensor] = {}
    monkeypatch.setattr(sync_norm.dist, "all_reduce", Exchange().all_reduce)

    def work(i: int) -> None:
        outputs[i] = norms[i](inputs[i])
        outputs[i].backward(g[shares[i]])

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = x.float().requires_grad_()
    y = plain(whole)
    y.backward(g.float())
    torch.testing.assert_close(torch.cat([outputs[0], outputs[1]]).float(), y, rtol=near, atol=near * 5)
    torch.testing.assert_close(torch.cat([i.grad for i in inputs]).float(), whole.grad, rtol=near, atol=near)
    for key in ("weight", "bias"):
        total = getattr(norms[0], key).grad + getattr(norms[1], key).grad
        torch.testing.assert_close(total, getattr(plain, key).grad, rtol=near, atol=near * 10)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, plain.running_mean, rtol=near, atol=near)
        torch.testing.assert_close(norm.running_var, plain.running_var, rtol=near, atol=near)
        assert int(norm.num_batches_tracked) == 1


def test_a_network_keeps_its_keys_its_parameters_and_its_answers():
    model = tiny()
    before, parameters, x = model.state_dict(), [id(p) for p in model.parameters()], torch.randn(2, 3, 8, 8)
    expected = model(x)
    convert_sync_batch_norm(model, torch.device("cpu"))
    assert all(isinstance(m, SyncedBatchNorm2d) for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert list(model.state_dict()) == list(before)
    assert [id(p) for p in model.parameters()] == parameters
    assert torch.equal(model(x), expected)


def test_on_a_gpu_it_is_torchs_own():
    model = tiny()
    keys = list(model.state_dict())
    convert_sync_batch_norm(model, torch.device("cuda"))
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {nn.SyncBatchNorm}
    assert list(model.state_dict()) == keys


def test_recomputation_leaves_the_statistics_alone(monkeypatch):
    monkeypatch.setattr(sync_norm.dist, "all_reduce", lambda tensor: None)
    norm = SyncedBatchNorm2d.like(nn.BatchNorm2d(4))
    with FrozenStatistics(norm):
        norm(torch.randn(3, 4, 5, 5))
    assert torch.equal(norm.running_mean, torch.zeros(4))
    assert int(norm.num_batches_tracked) == 0
