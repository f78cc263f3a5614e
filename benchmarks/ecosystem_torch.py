"""The checks of `ecosystem.py` with torch's own tools: each returns what was compared, and the result."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from ecosystem_checks import EXACT, digits, network
from torch import nn
from torch.nn import functional as F

from tests.models.pairs import difference, images, make_pair


def _rank(rank: int, port: int, results: Any) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = network().train().requires_grad_()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of each rank's own images would differ from one process's
    parallel = nn.parallel.DistributedDataParallel(model)
    x, y = digits(32)
    F.cross_entropy(parallel(x[rank::2]), y[rank::2]).backward()
    results.put((rank, [p.grad.numpy() for p in model.parameters()]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def ddp() -> tuple[str, str]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_rank, args=(rank, port, results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    model = network().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    x, y = digits(32)
    F.cross_entropy(model(x), y).backward()
    pairs = zip(model.parameters(), *found.values(), strict=True)
    apart = max(difference(torch.tensor(g), p.grad) for p, *grads in pairs for g in grads)
    assert apart <= 10 * EXACT
    return "DistributedDataParallel, 2 processes (gloo): gradients with those of one process", f"differ by {apart:.0e}"


def sync_batch_norm() -> tuple[str, str]:
    ours, theirs = make_pair("seresnet18")
    ours, theirs = (nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(m)) for m in (ours, theirs))
    counts = [sum(isinstance(m, nn.SyncBatchNorm) for m in net.modules()) for net in (ours, theirs)]
    x = images(2, 64, 64)
    apart = difference(ours(x), theirs(x))
    assert counts[0] == counts[1] and apart <= EXACT
    try:
        ours.train()(x)
        trained = "trains"
    except ValueError as error:  # "SyncBatchNorm expected input tensor to be on GPU"
        trained = f"in training torch itself refuses ({str(error)[:60]})"
    return "SyncBatchNorm.convert_sync_batchnorm: number of layers and logits in evaluation with timm's", (
        f"{counts[0]} layers, differ by {apart:.0e}; {trained}"
    )


def compile() -> tuple[str, str]:
    worst = 0.0
    for arch in ("legacy_seresnet18", "seresnet18"):
        for training in (False, True):
            ours, theirs = make_pair(arch, drop_rate=0.0)
            compiled = torch.compile(ours.train(training), fullgraph=True)
            x = images(2, 64, 64)
            for model in (compiled, theirs.train(training)):
                model(x).square().mean().backward()
            assert not torch._dynamo.utils.counters["graph_break"]
            ordered = [sorted((p.grad.flatten() for p in m.parameters()), key=len)[-1] for m in (ours, theirs)]
            worst = max(worst, difference(*ordered), difference(compiled(x).detach(), theirs(x).detach()))
    assert worst <= 10 * EXACT
    return "torch.compile(fullgraph=True), inductor, in training and evaluation: logits and gradients with timm's", (
        f"no graph break; differ by {worst:.0e}"
    )
